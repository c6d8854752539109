"""What waits for the backward pass is less, and really so."""

import gc
import weakref

import pytest
import torch
from torch import nn, tensor

from fedbonsai.core.seeds import generator
from fedbonsai.learning.activations import Packed, pruned_activations
from fedbonsai.models.convolutional import cnn, lenet5
from fedbonsai.models.resnet import resnet18

MODELS = {
    "grey": (lambda: cnn((1, 12, 12), 3, 0.5), (4, 1, 12, 12)),
    "colour": (lambda: lenet5((3, 32, 32), 3, 1.0), (4, 3, 32, 32)),
    "residual": (lambda: resnet18((3, 8, 8), 3, 0.1, "batch"), (4, 3, 8, 8)),
    "torch": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), (2, 3, 9, 9)),
    "channels last": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), (2, 3, 9, 9)),
    "in place": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), (3, 5)),
    "sequences": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), (3, 6, 5)),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    inputs = torch.randn(shape, generator=generator(0, "inputs"))
    if name == "channels last":
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return build(), inputs


def gradients(model: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    return list(torch.autograd.grad(model(inputs).square().sum(), [inputs, *model.parameters()]))


def waiting() -> int:
    """Bytes that are held for backward passes."""
    return sum(one.nbytes for one in gc.get_objects() if type(one) is Packed)


@pytest.mark.parametrize("name", MODELS)
def test_a_share_of_zero_keeps_every_bit_of_every_gradient(name):
    model, inputs = made(name)
    expected = gradients(model, inputs)
    with pruned_activations(model, 0.0):
        found = gradients(model, inputs)
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_only_gradients_of_weights_change(name):
    model, inputs = made(name)
    expected, outputs = gradients(model, inputs), model(inputs)
    with pruned_activations(model, 0.5):
        found = gradients(model, inputs)
        assert torch.equal(model(inputs), outputs)
    names = ["input", *(one for one, _ in model.named_parameters())]
    moved = [name for name, one, two in zip(names, expected, found, strict=True) if not torch.equal(one, two)]
    assert moved
    assert {dict(model.named_parameters())[one].dim() for one in moved} <= {2, 4}


def test_the_smallest_inputs_count_as_zero():
    layer = nn.Linear(4, 1, bias=False)
    # grad W = x, of which the half of least magnitude is dropped: 1 and -0.5.
    with pruned_activations(layer, 0.5):
        (found,) = torch.autograd.grad(layer(tensor([[1.0, -3.0, 2.0, -0.5]])).sum(), [layer.weight])
    assert found.tolist() == [[0.0, -3.0, 2.0, 0.0]]


@pytest.mark.parametrize(("share", "part"), [(0.25, 0.75), (0.5, 0.5), (0.9, 0.1)])
def test_so_many_bytes_wait_and_none_afterwards(share, part):
    model = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10))
    inputs = torch.randn(8, 1000, generator=generator(0, "inputs"))
    with pruned_activations(model, share):
        loss = model(inputs).sum()
        # Each linear layer keeps part of 8 * 1000 floats and a bit for each; the ReLU, the same 8000 again, only bits.
        assert waiting() == pytest.approx(2 * (4 * part + 1 / 8) * 8000 + 1000)
        loss.backward()
        del loss
    assert waiting() == 0


def test_max_pooling_keeps_places_of_half_the_size():
    pool = nn.MaxPool2d(2)
    with pruned_activations(pool, 0.5):
        loss = pool(torch.randn(2, 3, 8, 8, requires_grad=True)).sum()
        assert waiting() == 2 * 3 * 4 * 4 * 4  # of 8 bytes; its input of 1536 bytes is no longer there
        del loss


def test_a_dropped_activation_is_really_gone():
    model, alive = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2)), []
    model[1].register_forward_hook(lambda _, __, result: alive.append(weakref.ref(result)))
    plain = model(torch.randn(4, 50)).sum()
    assert alive.pop()() is not None
    with pruned_activations(model, 0.5):
        pruned = model(torch.randn(4, 50)).sum()
        assert alive.pop()() is None
    assert plain.requires_grad
    assert pruned.requires_grad


def test_nothing_is_left_on_the_module_whatever_happens():
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    with pytest.raises(RuntimeError), pruned_activations(model, 0.5):
        model(torch.randn(1, 3))
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    loss = model(torch.randn(1, 4)).sum()
    assert waiting() == 0
    assert loss.requires_grad
