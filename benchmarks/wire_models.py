"""The models that benchmarks/wire.py writes."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support

Floats = NDArray[np.float32]
Model = dict[str, Floats]
Masks = dict[str, NDArray[np.bool_]]


def resnet18(width: int = 62, classes: int = 10) -> dict[str, tuple[int, ...]]:
    """Shapes of a ResNet-18; at width 62 it has 1.05 * 10^7 parameters."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}
    before = width
    for layer, size in enumerate((width, 2 * width, 4 * width, 8 * width), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            for number, inputs in ((1, before), (2, size)):
                shapes[f"{name}.conv{number}.weight"] = (size, inputs, 3, 3)
                shapes |= {f"{name}.bn{number}.{kind}": (size,) for kind in ("weight", "bias")}
            if before != size:
                shapes[f"{name}.downsample.0.weight"] = (size, before, 1, 1)
            before = size
    return shapes | {"fc.weight": (classes, before), "fc.bias": (classes,)}


def random_model(shapes: dict[str, tuple[int, ...]], density: float) -> tuple[Model, Masks]:
    """Normal weights of the usual scale, zero outside random masks of the matrices."""
    random = np.random.default_rng(0)
    model: Model = {}
    masks: Masks = {}
    for name, shape in shapes.items():
        scale = math.sqrt(2 / max(1, math.prod(shape[1:])))
        model[name] = random.normal(0, scale, shape).astype(np.float32)
        if len(shape) > 1:
            masks[name] = random.random(shape) < density
            model[name] *= masks[name]
    return model, masks


def message_of(model: Model, masks: Masks) -> Message:
    """The message that carries a model, with its positions found as in a run's later rounds."""
    supports = {name: Support.masked(torch.from_numpy(mask)) for name, mask in masks.items()}
    tensors = {name: torch.from_numpy(weights) for name, weights in model.items()}
    return Message({"weights": group(tensors, supports)})


def held_by(message: Message) -> dict[bytes, Support]:
    """The supports of a message by digest."""
    return {one.digest: one for one in message.supports().values()}
