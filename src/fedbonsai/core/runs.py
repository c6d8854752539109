"""Grids as views: index lists that are runs, alone, few, or one in each of several equal parts of a dimension."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from torch import Tensor

BLOCKS = 16
"""Boxes up to which copying them one by one is quicker than looking indices up."""

Box = tuple[tuple[slice, ...], tuple[slice, ...]]
"""Where a part of a grid lies in the whole tensor, and where in the smaller one."""


@dataclass(frozen=True)
class Stripes:
    """A grid as one view.

    Attributes:
        shape: What the whole tensor is seen as, dimensions in their equal parts.
        cut: The slice of it that is the grid.
        few: What the smaller tensor is seen as.
    """

    shape: tuple[int, ...]
    cut: tuple[slice, ...]
    few: tuple[int, ...]


def boxes(shape: Sequence[int], index: Sequence[Tensor] | None) -> tuple[Box, ...] | None:
    """A grid as at most `most_boxes`; None where there are more, as for indices drawn at random."""
    lists = index or ()
    breaks = [_breaks(size, one) for size, one in zip(shape, lists, strict=index is not None)]
    if math.prod(len(one) + 1 for one in breaks) > most_boxes(shape):
        return None
    # What comes after the last dimension that is cut needs no slice, and costs none.
    cut = [dim for dim, one in enumerate(lists) if one.numel() != shape[dim]]
    depth = cut[-1] + 1 if cut else 0
    runs = [_runs(one, own) for one, own in zip(lists[:depth], breaks, strict=False)]
    return tuple((tuple(run[0] for run in box), tuple(run[1] for run in box)) for box in product(*runs))


def most_boxes(shape: Sequence[int]) -> int:
    """How many boxes are worth copying one by one: of a vector two, as looking its indices up is quick."""
    return BLOCKS if len(shape) > 1 else 2


def striped(shape: Sequence[int], index: Sequence[Tensor] | None) -> Stripes | None:
    """A grid as the same run of each of several equal parts, as equally many channels of each group of a norm lie.

    None where a dimension has no such parts, as for indices drawn at random.

    Examples:
        >>> import torch
        >>> striped((6,), [torch.tensor([1, 3, 5])])
        Stripes(shape=(3, 2), cut=(slice(None, None, None), slice(1, 2, None)), few=(3, 1))
    """
    if index is None:
        return Stripes(tuple(shape), (), tuple(shape))
    split: list[int] = []
    cut: list[slice] = []
    few: list[int] = []
    for size, one in zip(shape, index, strict=True):
        found = _stripe(size, one)
        if found is None:
            return None
        runs, run = found
        whole = [runs] * (runs > 1)
        split += [*whole, size // runs]
        cut += [*(slice(None) for _ in whole), run]
        few += [*whole, run.stop - run.start]
    while cut and few[len(cut) - 1] == split[len(cut) - 1]:
        cut.pop()
    return Stripes(tuple(split), tuple(cut), tuple(few))


def _breaks(size: int, index: Tensor) -> np.ndarray:
    """Before which of the present indices one is missing."""
    if index.numel() == size:
        return np.empty(0, dtype=np.int64)
    one = index.numpy()
    return np.flatnonzero(one[1:] - one[:-1] != 1) + 1


def _stripe(size: int, index: Tensor) -> tuple[int, slice] | None:
    """Into how many equal parts a dimension falls, of each of which some indices are the same run, if it does."""
    runs = len(_breaks(size, index)) + 1
    if not index.numel() or index.numel() % runs or size % runs:
        return None
    each, first = index.numel() // runs, int(index[0])
    expected = np.arange(0, size, size // runs)[:, None] + np.arange(first, first + each)
    fits = first + each <= size // runs and np.array_equal(expected.reshape(-1), index.numpy())
    return (runs, slice(first, first + each)) if fits else None


def _runs(index: Tensor, breaks: np.ndarray) -> list[tuple[slice, slice]]:
    """Runs of consecutive indices: where they lie among all, and where among those that are present."""
    ends = [*breaks.tolist(), index.numel()] if index.numel() else []
    first = index.numpy()
    return [
        (slice(int(first[a]), int(first[b - 1]) + 1), slice(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=False)
    ]
