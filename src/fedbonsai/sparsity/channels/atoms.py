"""Which positions of which tensors belong together: a union-find over every index of every parameter."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
"""One atom for each index along a dimension; -1 where the index is no channel (a pixel, a token, an example)."""
Dims = list[Labels]
"""The labels of every dimension of a tensor."""


def plain(size: int) -> Labels:
    """The labels of a dimension without channels."""
    return np.full(size, -1, dtype=np.int64)


class Atoms:
    """Grows while a model runs: every index of every parameter is an atom, and what must go together is united."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: list[tuple[Labels, str]] = []

    def fresh(self, size: int) -> Labels:
        """``size`` new atoms; a dimension of one index has none, as it can neither shrink nor be told from none."""
        if size == 1:
            return plain(1)
        start = len(self._parent)
        self._parent += range(start, start + size)
        return np.arange(start, start + size, dtype=np.int64)

    def unite(self, one: Labels, other: Labels, reason: str) -> None:
        """Let the atoms of equal positions be one; an atom that meets no channel is fixed for ``reason``."""
        if one is other:
            return
        self.fix(one[other < 0], reason)
        self.fix(other[one < 0], reason)
        both = (one >= 0) & (other >= 0) & (one != other)
        for left, right in zip(one[both].tolist(), other[both].tolist(), strict=True):
            self._join(left, right)

    def tie(self, rows: Labels) -> None:
        """Let all atoms of each row of a matrix be one."""
        for column in range(1, rows.shape[1]):
            self.unite(np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, column]), "")

    def fix(self, labels: Labels, reason: str) -> None:
        """Let nothing that is united with ``labels`` ever be removed; the first reason counts."""
        if (labels >= 0).any():
            self._fixed.append((labels[labels >= 0], reason))

    def roots(self, labels: Labels) -> Labels:
        """One atom for each set of united ones, the smallest of it."""
        found = labels.copy()
        place = found >= 0
        found[place] = [self._find(one) for one in found[place].tolist()]
        return found

    def reasons(self) -> dict[int, str]:
        """Why a root is fixed, of those that are."""
        found: dict[int, str] = {}
        for labels, reason in self._fixed:
            for root in self.roots(np.unique(labels)).tolist():
                found.setdefault(root, reason)
        return found

    def _find(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def _join(self, one: int, other: int) -> None:
        one, other = self._find(one), self._find(other)
        self._parent[max(one, other)] = min(one, other)


class Extent(int):
    """A size that a model read off a tensor: code that computes sizes with it follows when the tensor shrinks.

    A number that stands in the code, or in an attribute, does not follow; telling the two apart is what this is for.
    A value that is computed from it (``x / x.shape[1]``) would be another one in a smaller model: ``escape`` hears of
    that.
    """

    source: Labels | None
    escape: "Escape | None"

    def __new__(cls, value: int, source: Labels | None = None, escape: "Escape | None" = None) -> "Extent":
        found = super().__new__(cls, value)
        found.source, found.escape = source, escape
        return found

    def escaped(self) -> None:
        """Take note that this becomes a value; a part of it, the size of a head say, may well stay what it is."""
        if self.escape is not None and self.source is not None and len(self.source) == int(self):
            self.escape(self.source)

    def __floordiv__(self, other: Any) -> Any:  # noqa: ANN401  as of int, and of all below
        return self._size(super().__floordiv__(other), self.source)

    def __mul__(self, other: Any) -> Any:  # noqa: ANN401
        return self._size(super().__mul__(other), _one_source(self, other))

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:  # noqa: ANN401
        return self._size(super().__add__(other), None)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:  # noqa: ANN401
        return self._size(super().__sub__(other), None)

    def __float__(self) -> float:
        self.escaped()
        return super().__float__()

    def __truediv__(self, other: Any) -> Any:  # noqa: ANN401
        self.escaped()
        return super().__truediv__(other)

    def __rtruediv__(self, other: Any) -> Any:  # noqa: ANN401
        self.escaped()
        return super().__rtruediv__(other)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:  # noqa: ANN401
        self.escaped()
        return super().__pow__(other, modulo)

    def _size(self, value: Any, source: Labels | None) -> Any:  # noqa: ANN401
        if value is NotImplemented:  # the other is a float or a tensor, which goes on
            self.escaped()
            return value
        return Extent(value, source, self.escape)


Escape = Callable[[Labels], None]
"""Hears which channels' number has become part of a value."""


def _one_source(one: object, other: object) -> Labels | None:
    found = [source for value in (one, other) if (source := getattr(value, "source", None)) is not None]
    return found[0] if len(found) == 1 else None


def sizes_of(shape: Sequence[int], dims: Dims, escape: Escape) -> list[Extent]:
    """The sizes of a tensor as they are handed to a model's code."""
    return [Extent(size, own if (own >= 0).any() else None, escape) for size, own in zip(shape, dims, strict=True)]
