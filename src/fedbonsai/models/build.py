"""Networks by name, fitted to the data."""

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.models import MODELS, SEQUENCE_MODELS
from fedbonsai.models.convolutional import cnn, leaf_cnn, lenet5
from fedbonsai.models.dense import mlp
from fedbonsai.models.recurrent import lstm
from fedbonsai.models.resnet import NORMS, resnet18

Builder = Callable[[tuple[int, ...], int, float], nn.Module]


def build(
    name: str, *, input_shape: tuple[int, ...], classes: int, width: float = 1.0, norm: str = "group"
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        name: One of ``MODELS``.
        input_shape: Shape of one prepared example: ``(channels, height, width)``, ``(columns,)``, or ``(time,)``.
        classes: Number of classes or tokens; 1 for regression.
        width: Factor on the number of channels and hidden neurons; positive.
        norm: ``group`` or ``batch``, in the networks that have norms.

    Returns:
        A module from ``(batch, *input_shape)`` to ``(batch, classes)``; a sequence model to
        ``(batch, time, classes)``.

    Raises:
        ConfigError: A name is not known, a number is out of range, or the network does not fit the input.

    Examples:
        >>> build("mlp", input_shape=(13,), classes=2, width=0.1)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=13, out_features=20, bias=True)
          (2): ReLU()
          (3): Linear(in_features=20, out_features=20, bias=True)
          (4): ReLU()
          (5): Linear(in_features=20, out_features=2, bias=True)
        )
    """
    builders: dict[str, Builder] = {
        "cnn": cnn,
        "mlp": mlp,
        "lenet5": lenet5,
        "leaf_cnn": leaf_cnn,
        "resnet18": partial(resnet18, norm=lookup("norm", norm, list(NORMS))),
        "lstm": lstm,
    }
    builder = builders[lookup("model", name, list(MODELS))]
    if norm != "group" and name != "resnet18":
        raise ConfigError(f"norm must be left alone for model {name!r}, which has none, got {norm!r}")
    if not (0 < width < math.inf and classes >= 1):
        raise ConfigError(f"width must be positive and classes at least 1, got {width} and {classes}")
    _check_shape(name, input_shape)
    return builder(input_shape, classes, width)


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    wanted = ("time",) if name in SEQUENCE_MODELS else ("channels", "height", "width")
    if name != "mlp" and len(shape) != len(wanted):
        raise ConfigError(f"model {name!r} takes inputs of shape {wanted}, got {shape}; choose another model")
