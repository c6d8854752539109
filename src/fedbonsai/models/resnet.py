"""ResNet-18 for small images."""

from collections.abc import Callable
from math import gcd

from torch import Tensor, nn

from fedbonsai.models.dense import scaled

Norm = Callable[[int], nn.Module]
"""A number of channels to the layer that normalises them."""


def group_norm(channels: int) -> nn.Module:
    """Group norm with two groups, or one where the number of channels is odd.

    So few, because two divide every even width: a network keeps its norms when it is made narrower.
    """
    return nn.GroupNorm(gcd(channels, 2), channels)


NORMS: dict[str, Norm] = {"group": group_norm, "batch": nn.BatchNorm2d}
"""Norms by name. Group norm does not mix the statistics of clients that hold different classes."""


class BasicBlock(nn.Module):
    """Two convolutions 3x3 beside a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height / stride, width / stride)``."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet18(shape: tuple[int, ...], classes: int, width: float, norm: str) -> nn.Module:
    """ResNet-18 whose first convolution is 3x3 without pooling, as is usual for 32x32 images.

    Args:
        shape: ``(channels, height, width)`` of an image.
        classes: Number of classes.
        width: Factor on the 64, 128, 256 and 512 channels.
        norm: A name of `NORMS`.
    """
    make = NORMS[norm]
    channels = scaled(64, width)
    layers = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False), make(channels), nn.ReLU()]
    for size, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        outputs = scaled(size, width)
        layers += [BasicBlock(channels, outputs, stride, make), BasicBlock(outputs, outputs, 1, make)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
