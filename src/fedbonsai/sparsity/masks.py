"""Which weights to keep: exact counts, ties by index, no layer emptied unseen."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedbonsai.core.errors import SupportError, lookup

NOT_A_NUMBER = "scores must be numbers, got NaN"
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
    if not 0 <= count <= scores.numel():
        raise SupportError(f"count must be in [0, {scores.numel()}], got {count}")
    return _top({"": scores}, count)[""]


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
        SupportError: ``count`` is smaller than the floors together, or larger than all there is; or a score is NaN.

    Examples:
        >>> masks = keep_top_global({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}, 2, {"b": 1})
        >>> masks["a"], masks["b"]
        (tensor([ True, False]), tensor([False,  True]))
    """
    floors, total = floors or {}, sum(value.numel() for value in scores.values())
    least = sum(floors.get(name, 0) for name in scores)
    if not least <= count <= total:
        raise SupportError(f"count must be in [{least}, {total}], the floors together and all there is, got {count}")
    kept: dict[str, Tensor] = {}
    while True:
        # Tensors that fall short get their floor, and no more: what they take raises the bar for all.
        free = {name: value for name, value in scores.items() if name not in kept}
        chosen = _top(free, count - sum(floors[name] for name in kept))
        short = [name for name, mask in chosen.items() if int(mask.sum()) < floors.get(name, 0)]
        if not short:
            return {name: (kept | chosen)[name] for name in scores}
        kept |= {name: keep_top(scores[name], floors[name]) for name in short}


def _top(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The best ``count`` of several tensors, ties to the earlier tensor and lower index.

    One copy of the scores is partitioned in place: no sort, and none of the indices that torch's selections carry.
    """
    masks = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in scores.items()}
    if not count:
        if any(bool(value.isnan().any()) for value in scores.values()):
            raise SupportError(NOT_A_NUMBER)
        return masks
    pooled = torch.cat([value.detach().reshape(-1) for value in scores.values()]).numpy()
    there = pooled != -np.inf
    living = int(np.count_nonzero(there))
    if count <= living < pooled.size // 2:  # a sparse model's: most of it need not be looked through
        pooled = pooled[there]
    del there
    place = pooled.size - count
    pooled.partition(place)
    if np.isnan(pooled[place:]).any():  # NaN comes last
        raise SupportError(NOT_A_NUMBER)
    cut = float(pooled[place])
    del pooled
    for name, value in scores.items():
        torch.gt(value, cut, out=masks[name])
    missing = count - sum(int(mask.sum()) for mask in masks.values())
    for name, value in scores.items():
        if missing:
            ties = (value.reshape(-1) == cut).nonzero().reshape(-1)[:missing]
            masks[name].view(-1)[ties] = True
            missing -= len(ties)
    return masks


def floors_of(sizes: Iterable[tuple[str, int]], share: float) -> dict[str, int]:
    """How much each layer keeps at least: ``share`` of it, and never nothing.

    Examples:
        >>> floors_of([("fc", 250), ("out", 10)], share=0.02)
        {'fc': 5, 'out': 1}
    """
    return {name: max(1, -int(-size * share // 1)) for name, size in sizes}


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
