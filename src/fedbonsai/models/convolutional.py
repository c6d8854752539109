"""Small convolutional networks for images ``(channels, height, width)``."""

import torch
from torch import nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.models.dense import dense, scaled
from fedbonsai.models.layers import Conv2d, MaxPool2d


def cnn(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """The example CNN: convolution 3x3 of 32, max-pool 2, dense 64, dense out."""
    layers = [Conv2d(shape[0], scaled(32, width), 3), nn.ReLU(), MaxPool2d(2)]
    return _classifier(layers, shape, [scaled(64, width), classes])


def lenet5(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) in its usual form with ReLU and max-pooling.

    Images below 32x32 are padded by two pixels: the original saw 28x28 digits as 32x32.
    """
    first, second = scaled(6, width), scaled(16, width)
    layers = [
        Conv2d(shape[0], first, 5, padding=2 if min(shape[1:]) < 32 else 0),
        nn.ReLU(),
        MaxPool2d(2),
        Conv2d(first, second, 5),
        nn.ReLU(),
        MaxPool2d(2),
    ]
    return _classifier(layers, shape, [scaled(120, width), scaled(84, width), classes])


def leaf_cnn(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """The CNN that LEAF (Caldas et al., 2018) trains on FEMNIST: 6.6 million parameters there."""
    first, second = scaled(32, width), scaled(64, width)
    layers = [
        Conv2d(shape[0], first, 5, padding=2),
        nn.ReLU(),
        MaxPool2d(2),
        Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        MaxPool2d(2),
    ]
    return _classifier(layers, shape, [scaled(2048, width), classes])


def _classifier(layers: list[nn.Module], shape: tuple[int, ...], sizes: list[int]) -> nn.Module:
    features = nn.Sequential(*layers, nn.Flatten())
    try:
        with torch.no_grad():
            size = features(torch.zeros(1, *shape)).numel()
    except RuntimeError as error:
        raise ConfigError(f"images of {shape} are too small for this model; take a smaller model; {error}") from error
    return nn.Sequential(*features, *dense([size, *sizes]))
