"""Our layers against torch's: values, gradients, and gradients of gradients."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from fedbonsai.learning.activations import pruned_activations
from fedbonsai.models.layers import Conv2d, MaxPool2d


def pair(channels, kernel, padding):
    torch.manual_seed(0)
    ours, torchs = Conv2d(channels, 4, kernel, padding=padding), nn.Conv2d(channels, 4, kernel, padding=padding)
    torchs.load_state_dict(ours.state_dict())
    return ours.double(), torchs.double()


@pytest.mark.parametrize("size", [(7, 6), (14, 13)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 0), (5, 2), (2, 1)])
def test_a_convolution_and_its_gradients_are_torchs(size, channels, kernel, padding):
    inputs = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    gradients = []
    for layer in pair(channels, kernel, padding):
        outputs = layer(inputs)
        wanted = torch.cos(torch.arange(outputs.numel(), dtype=torch.float64)).reshape(outputs.shape)
        gradients.append(torch.autograd.grad((outputs * wanted).sum(), [inputs, layer.weight, layer.bias]))
    torch.testing.assert_close(*gradients)


def test_a_convolution_can_be_differentiated_twice():
    layer, _ = pair(1, 3, 1)
    inputs = torch.randn(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).tanh(), inputs)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 17, 9), (2, 5, 26, 12)])
def test_pooling_and_its_gradient_are_torchs_bit_for_bit(size, shape):
    inputs = torch.randn(shape).relu().requires_grad_()  # ties among the zeros
    ours, torchs = MaxPool2d(size)(inputs), nn.MaxPool2d(size)(inputs)
    assert ours.equal(torchs)
    assert ours.is_contiguous()
    weights = torch.randn(ours.shape)
    (one,), (other,) = (torch.autograd.grad((outputs * weights).sum(), inputs) for outputs in (ours, torchs))
    assert one.equal(other)


def test_pruned_activations_leave_the_gradients_of_our_layers_when_nothing_is_dropped():
    torch.manual_seed(0)
    net = nn.Sequential(Conv2d(1, 4, 3), nn.ReLU(), MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 7 * 7, 3))
    inputs, targets = torch.randn(2, 1, 16, 16), torch.tensor([0, 2])

    def gradients(share: float | None) -> tuple[torch.Tensor, ...]:
        with nullcontext() if share is None else pruned_activations(net, share):
            loss = nn.functional.cross_entropy(net(inputs), targets)
            return torch.autograd.grad(loss, list(net.parameters()))

    plain, kept, pruned = gradients(None), gradients(0.0), gradients(0.5)
    assert all(one.equal(other) for one, other in zip(plain, kept, strict=True))
    assert not plain[0].equal(pruned[0])
    assert not plain[2].equal(pruned[2])
