"""Units that a mask has left without effect go, and the function stays what it was."""

import copy

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from unit.channel_models import Attention, Block, Dense, Recurrent, Tied

from fedbonsai.models.build import build
from fedbonsai.sparsity.channels import shrink, trace


def everything(model):
    return {name: torch.ones(one.shape, dtype=torch.bool) for name, one in model.named_parameters()}


def masked(model, masks):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, one in twin.named_parameters():
            one.masked_fill_(~masks[name], 0)
    return twin


def same(model, small, masks, example):
    """The function is kept, in both modes, on an example that the trace has not seen."""
    for training in (True, False):
        expected = masked(model, masks).train(training)(example)
        torch.testing.assert_close(copy.deepcopy(small).train(training)(example), expected, rtol=1e-5, atol=1e-5)


def dense(*layers):
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    return model, everything(model)


def test_a_unit_that_nothing_reads_goes():
    model, masks = dense(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    masks["2.weight"][:, [0, 3]] = False
    small, supports = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert supports["0.weight"].index[0].tolist() == [1, 2, 4, 5]
    same(model, small, masks, torch.randn(5, 4))


def test_one_that_goes_takes_others_along():
    model, masks = dense(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    masks["4.weight"][:, [1, 2]] = False  # nothing reads 1 and 2 of the second layer,
    masks["2.weight"][[0, 3, 4], 5] = False  # and nothing but they read 5 of the first
    small, supports = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert supports["2.weight"].index[0].tolist() == [0, 3, 4]
    assert supports["0.weight"].index[0].tolist() == [0, 1, 2, 3, 4]
    same(model, small, masks, torch.randn(5, 4))


def test_a_constant_moves_into_the_next_bias():
    model, masks = dense(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2))
    masks["0.weight"][[0, 1]] = False
    masks["0.bias"][1] = False  # a sigmoid says 0.5 even so
    small, supports = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert supports["0.weight"].index[0].tolist() == [2, 3, 4, 5]
    said = torch.stack([torch.sigmoid(model[0].bias[0]), torch.tensor(0.5)])
    torch.testing.assert_close(small[2].bias, model[2].bias + model[2].weight[:, :2] @ said)
    same(model, small, masks, torch.randn(5, 4))


def test_a_constant_that_fits_nowhere_stays():
    for last, entry in ((nn.Linear(6, 2, bias=False), None), (nn.Linear(6, 2), "2.bias")):
        model, masks = dense(nn.Linear(4, 6), nn.Sigmoid(), last)
        masks["0.weight"][0] = False
        if entry:
            masks[entry][1] = False  # a bias that is pruned takes nothing over
        small, _ = shrink(model, trace(model, torch.randn(3, 4)), masks)
        assert small[0].out_features == 6
        same(model, small, masks, torch.randn(5, 4))


@pytest.mark.parametrize(("padding", "left"), [(0, 3), (1, 4)])
def test_a_constant_moves_through_a_convolution_without_padding_only(padding, left):
    model, masks = dense(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding))
    with torch.no_grad():
        model[0].bias[2] = 0.7
    masks["0.weight"][2] = False
    small, _ = shrink(model, trace(model, torch.randn(2, 3, 8, 8)), masks)
    assert small[0].out_channels == left
    same(model, small, masks, torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize(("biases", "left"), [(True, 4), (False, 3)])
def test_what_a_batch_norm_adds_counts(biases, left):
    model, masks = dense(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    with torch.no_grad():
        model[1].bias.fill_(0.3)
        model[1].running_mean.fill_(0.2)
    masks["0.weight"][1] = masks["0.bias"][1] = False
    masks["1.bias"][1] = masks["1.weight"][1] = biases
    small, _ = shrink(model, trace(model, torch.randn(2, 3, 8, 8)), masks)
    assert small[1].num_features == left
    same(model, small, masks, torch.randn(3, 3, 8, 8))


def test_a_constant_that_dropout_changes_stays():
    model, masks = dense(nn.Linear(4, 6), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(6, 2))
    masks["0.weight"][0] = False
    small, _ = shrink(model, trace(model, torch.randn(8, 4)), masks)
    assert small[0].out_features == 6


def test_units_under_a_norm_over_channels_stay():
    model, masks = dense(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    masks["2.weight"][:, 0] = masks["0.weight"][1] = masks["0.bias"][1] = False
    small, _ = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert small[0].out_features == 6
    same(model, small, masks, torch.randn(5, 4))


def test_the_last_unit_of_a_group_stays():
    model, masks = dense(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    masks["2.weight"][:] = False
    small, supports = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert supports["0.weight"].index[0].tolist() == [0]
    same(model, small, masks, torch.randn(5, 4))
    masks = everything(model)
    masks["0.weight"][:] = False  # all constants, of which one stays and is not added twice
    small, _ = shrink(model, trace(model, torch.randn(3, 4)), masks)
    assert small[0].out_features == 1
    same(model, small, masks, torch.randn(5, 4))


def test_a_unit_of_a_sum_goes_only_when_both_parts_are_dead():
    torch.manual_seed(0)
    model = Dense()
    masks = everything(model)
    masks["left.weight"][[0, 1]] = masks["left.bias"][[0, 1]] = False
    masks["join.weight"][1] = masks["join.bias"][1] = False
    masks["norm.weight"][1] = masks["norm.bias"][1] = False
    small, _ = shrink(model, trace(model, torch.randn(2, 3, 8, 8)), masks)
    assert small.left.out_channels == 3
    same(model, small, masks, torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_unit_without_inputs_goes(kind):
    torch.manual_seed(0)
    model = Recurrent(kind, 1)
    masks = everything(model)
    gates = model.cells.weight_ih_l0.shape[0] // 4
    rows = 2 + 4 * torch.arange(gates)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        masks[f"cells.{name}"][rows] = False
    masks["cells.weight_ih_l0"][:, 3] = False  # and nothing reads 3 of the embedding
    tokens = torch.randint(7, (2, 5))
    small, _ = shrink(model, trace(model, tokens), masks)
    assert (small.cells.hidden_size, small.cells.input_size) == (3, 5)
    same(model, small, masks, torch.randint(7, (4, 6)))


def test_a_head_that_nothing_reads_goes():
    torch.manual_seed(0)
    model = Tied(Block(Attention(8, 3, 2), 8))
    masks = everything(model)
    masks["blocks.0.attention.out.weight"][:, 2:4] = False
    small, _ = shrink(model, trace(model, torch.randint(7, (2, 5))), masks)
    assert small.blocks[0].attention.heads == 2
    same(model, small, masks, torch.randint(7, (3, 4)))


def test_a_tied_weight_is_read_and_made():
    torch.manual_seed(0)
    model = Tied(width=8)
    masks = everything(model)
    masks["embedding.weight"][:, 1] = False  # the places still speak there, but nobody listens
    masks["places"][..., 2] = False  # the embedding still does
    small, supports = shrink(model, trace(model, torch.randint(7, (2, 5))), masks)
    assert 2 in (supports["embedding.weight"].index or [0, torch.arange(8)])[1].tolist()
    same(model, small, masks, torch.randint(7, (3, 5)))


@settings(max_examples=5, phases=[Phase.generate])
@given(st.floats(0.5, 0.97), st.integers(0, 2**20), st.sampled_from(["lenet5", "mlp", "batch", "group"]))
def test_any_mask_keeps_the_function(sparsity, seed, name):
    torch.manual_seed(0)
    kind, norm = (name, "group") if name in ("lenet5", "mlp") else ("resnet18", name)
    width = 0.1 if kind != "lenet5" else 1.0
    model = build(kind, input_shape=(3, 8, 8) if kind != "lenet5" else (3, 16, 16), classes=3, width=width, norm=norm)
    example = torch.randn(2, 3, 8, 8) if kind != "lenet5" else torch.randn(2, 3, 16, 16)
    groups = KNOWN.setdefault(name, None) or trace(model, example)
    KNOWN[name] = groups
    draw = torch.Generator().manual_seed(seed)
    masks = {one: torch.rand(value.shape, generator=draw) > sparsity for one, value in model.named_parameters()}
    small, _ = shrink(model, groups, masks)
    twin = masked(model, masks).eval()
    fresh = torch.randn(example.shape, generator=draw)
    torch.testing.assert_close(small.eval()(fresh), twin(fresh), rtol=1e-4, atol=1e-5)


KNOWN = {}
