"""Dense layers, and the network that has no others."""

from itertools import pairwise
from math import prod

from torch import nn


def scaled(size: int, width: float) -> int:
    """``size`` neurons or channels times ``width``, rounded, at least one.

    Examples:
        >>> scaled(64, 0.5), scaled(6, 0.05)
        (32, 1)
    """
    return max(1, round(size * width))


def dense(sizes: list[int]) -> list[nn.Module]:
    """Linear layers from each size to the next, with a ReLU between two.

    Examples:
        >>> [type(layer).__name__ for layer in dense([8, 4, 2])]
        ['Linear', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def mlp(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """Two hidden layers of 200, the "2NN" of McMahan et al., AISTATS 2017."""
    hidden = scaled(200, width)
    return nn.Sequential(nn.Flatten(), *dense([prod(shape), hidden, hidden, classes]))
