"""Models by name: sizes worked by hand, exact widths, and a clear refusal of what does not fit."""

import pytest
import torch
from torch import nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.seeds import seeded
from fedbonsai.learning.losses import cross_entropy, next_token
from fedbonsai.models import MODELS, SEQUENCE_MODELS
from fedbonsai.models.build import build

GREY, COLOUR, SMALL, TEXT = (1, 28, 28), (3, 32, 32), (1, 8, 8), (40,)


def count(module):
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("cnn", GREY, 10, 10 * 32 + (13 * 13 * 32 + 1) * 64 + 65 * 10),
        ("mlp", GREY, 10, 199_210),  # as McMahan et al. count their 2NN
        ("lenet5", COLOUR, 10, 62_006),
        ("lenet5", GREY, 10, 61_706),
        ("leaf_cnn", GREY, 62, 26 * 32 + (25 * 32 + 1) * 64 + (7 * 7 * 64 + 1) * 2048 + 2049 * 62),
        ("resnet18", COLOUR, 10, 11_173_962),
        ("lstm", TEXT, 75, 75 * 8 + 4 * 128 * (8 + 128 + 2) + 129 * 75),
    ],
)
def test_parameters(name, shape, classes, parameters):
    assert count(build(name, input_shape=shape, classes=classes)) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_one_batch(name):
    with seeded(0, "test"):
        if name in SEQUENCE_MODELS:
            model, loss = build(name, input_shape=TEXT, classes=7, width=0.25), next_token
            inputs = torch.arange(40).remainder(7).expand(6, 40)
            targets = (inputs + 1).remainder(7)
        else:
            model, loss = build(name, input_shape=COLOUR, classes=7, width=0.25), cross_entropy
            inputs, targets = torch.randn(6, *COLOUR), torch.arange(6)
    losses = []
    for _ in range(15):
        value = loss.function(model(inputs), targets)
        losses.append(value.item())
        model.zero_grad()
        value.backward()
        with torch.no_grad():
            for one in model.parameters():
                one -= 0.01 * one.grad.sign()  # a step of one length for models of all scales
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights(name):
    shape = TEXT if name in SEQUENCE_MODELS else COLOUR

    def weights(seed):
        with seeded(seed, "model"):
            return list(build(name, input_shape=shape, classes=5, width=0.1).state_dict().values())

    assert all(map(torch.equal, weights(1), weights(1)))
    assert not all(map(torch.equal, weights(1), weights(2)))


@pytest.mark.parametrize(
    ("width", "channels"), [(0.5, [32, 64, 128, 256]), (0.17, [11, 22, 44, 87]), (0.001, [1, 1, 1, 1])]
)
def test_width_scales_channels_exactly(width, channels):
    model = build("resnet18", input_shape=COLOUR, classes=10, width=width)
    assert [block.body[0].out_channels for block in model[3:11:2]] == channels
    assert model(torch.zeros(2, *COLOUR)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cnn", [16, 32, 10]), ("mlp", [100, 100, 10]), ("lenet5", [3, 8, 60, 42, 10]), ("leaf_cnn", [16, 32, 1024, 10])],
)
def test_width_scales_every_hidden_layer(name, sizes):
    model = build(name, input_shape=COLOUR, classes=10, width=0.5)
    assert [one.weight.shape[0] for one in model if isinstance(one, nn.Conv2d | nn.Linear)] == sizes


def test_width_scales_the_recurrent_layer():
    lstm = build("lstm", input_shape=TEXT, classes=75, width=2.0)
    assert (lstm.embedding.embedding_dim, lstm.lstm.hidden_size, lstm.out.out_features) == (16, 256, 75)


def test_norms():
    kinds = {
        norm: {type(one) for one in build("resnet18", input_shape=SMALL, classes=2, width=0.1, norm=norm).modules()}
        for norm in ("group", "batch")
    }
    assert nn.GroupNorm in kinds["group"] - kinds["batch"]
    assert nn.BatchNorm2d in kinds["batch"] - kinds["group"]


def test_a_sequence_model_never_looks_ahead():
    model = build("lstm", input_shape=TEXT, classes=9)
    tokens = torch.randint(0, 9, (1, 40), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 20] = (tokens[0, 20] + 1) % 9
    before, after = model(tokens), model(changed)
    assert before.shape == (1, 40, 9)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 39], after[:, 39]), "it must remember what it saw"


def test_columns_and_regression():
    model = build("mlp", input_shape=(13,), classes=1)
    assert model(torch.zeros(4, 13)).shape == (4, 1)


@pytest.mark.parametrize("name", sorted(set(MODELS) - SEQUENCE_MODELS - {"mlp"}))
def test_an_image_model_refuses_characters(name):
    with pytest.raises(ConfigError, match=r"takes inputs of shape \('channels', 'height', 'width'\), got \(40,\)"):
        build(name, input_shape=TEXT, classes=75)


def test_a_sequence_model_refuses_images():
    with pytest.raises(ConfigError, match=r"'lstm' takes inputs of shape \('time',\), got \(1, 28, 28\)"):
        build("lstm", input_shape=GREY, classes=10)


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet5", SMALL), ("leaf_cnn", (1, 3, 3)), ("cnn", (1, 2, 9)), ("cnn", (1, 3, 3))]
)
def test_images_can_be_too_small(name, shape):
    with pytest.raises(ConfigError, match="too small for this model; take a smaller model"):
        build(name, input_shape=shape, classes=10)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("lenet", {}, "unknown model 'lenet'; did you mean 'lenet5'"),
        ("resnet18", {"norm": "layer"}, "unknown norm 'layer'; known: batch, group"),
        ("cnn", {"norm": "batch"}, "norm must be left alone for model 'cnn', which has none"),
        ("cnn", {"width": 0.0}, "width must be positive"),
        ("cnn", {"width": float("inf")}, "width must be positive"),
        ("cnn", {"classes": 0}, "classes at least 1"),
    ],
)
def test_refusals(name, bad, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **{"input_shape": GREY, "classes": 10, **bad})
