"""Which weights to keep: exact counts, ties by index, no layer emptied unseen."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedbonsai.core.errors import SupportError, lookup

Mask = Bool[Tensor, "*dims"]


def keep_top(scores: Float[Tensor, "*dims"], count: int) -> Bool[Tensor, "*dims"]:
    """Keep exactly ``count`` entries with the highest scores.

    Ties go to the lower flat index, so the mask is the same on every machine.

    Args:
        scores: One score per weight, any shape.
        count: How many to keep, ``0 <= count <= scores.numel()``.

    Returns:
        A mask shaped like ``scores`` with ``count`` entries True.

    Raises:
        SupportError: ``count`` is outside its range, or a score is NaN.

    Examples:
        >>> keep_top(torch.tensor([0.1, 3.0, 2.0, 3.0]), count=2)
        tensor([False,  True, False,  True])
    """
    flat = scores.reshape(-1)
    if not 0 <= count <= flat.numel():
        raise SupportError(f"count must be in [0, {flat.numel()}], got {count}")
    if bool(flat.isnan().any()):
        raise SupportError("scores must be numbers, got NaN")
    if count == 0:
        return torch.zeros(scores.shape, dtype=torch.bool)
    # Selection without sorting: on one copy of the scores, where torch.kthvalue carries an index for each besides.
    place = flat.numel() - count
    cut = float(np.partition(flat.detach().numpy(), place)[place])
    keep = flat > cut
    ties = (flat == cut).nonzero().reshape(-1)
    keep[ties[: count - int(keep.sum())]] = True
    return keep.reshape(scores.shape)


def keep_top_global(
    scores: Mapping[str, Tensor], count: int, floors: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Keep exactly ``count`` entries over all tensors, and in each at least its floor.

    Each tensor's own best ``floors[name]`` entries are kept first; the rest of ``count`` goes to the best of what is
    left, wherever it is. Ties go to the earlier tensor, then to the lower index.

    Args:
        scores: Scores by tensor name.
        count: How many to keep in all.
        floors: At least so many in each tensor.

    Raises:
        SupportError: ``count`` is smaller than the floors together, or larger than all there is.

    Examples:
        >>> masks = keep_top_global({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}, 2, {"b": 1})
        >>> masks["a"], masks["b"]
        (tensor([ True, False]), tensor([False,  True]))
    """
    floors = floors or {}
    least = sum(floors.get(name, 0) for name in scores)
    if count < least:
        raise SupportError(f"count must be at least the floors together, {least}, got {count}")
    pooled = torch.cat([value.reshape(-1) for value in scores.values()])
    if least:
        forced = torch.cat([keep_top(value, floors.get(name, 0)).reshape(-1) for name, value in scores.items()])
        kept = forced.clone()
        kept[~forced] = keep_top(pooled[~forced], count - least)
    else:
        kept = keep_top(pooled, count)
    parts = torch.split(kept, [value.numel() for value in scores.values()])
    return {name: mask.reshape(value.shape) for (name, value), mask in zip(scores.items(), parts, strict=True)}


def above(scores: Mapping[str, Tensor], threshold: float, scale: str = "absolute") -> dict[str, Tensor]:
    """Keep what is larger than a threshold; equality is pruned.

    Args:
        scores: Scores by tensor name.
        threshold: The threshold, >= 0.
        scale: What ``threshold`` multiplies: 1 (``absolute``), the standard deviation of the layer's scores around
            zero (``layer_std``), or the layer's largest score (``layer_max``).

    Examples:
        >>> above({"w": torch.tensor([0.1, 0.2, 0.3])}, threshold=0.2)["w"]
        tensor([False, False,  True])
    """
    cut = {
        name: threshold * SCALES[lookup("threshold scale", scale, list(SCALES))](value)
        for name, value in scores.items()
    }
    return {name: value > cut[name] for name, value in scores.items()}


def _one(_: Tensor) -> float:
    return 1.0


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _largest(values: Tensor) -> float:
    return float(values.max())


SCALES: Mapping[str, Callable[[Tensor], float]] = {
    "absolute": _one,
    "layer_std": _root_mean_square,
    "layer_max": _largest,
}
