"""Many short index lists in one vector."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[Tensor]):
    """Lists of different lengths that cost what their entries do: as many tensors would cost half a kilobyte each.

    Attributes:
        flat: All lists, one after the other.
        bounds: Where each begins in ``flat``, and at last where the last one ends.

    Examples:
        >>> lists = Ragged.of([torch.tensor([3, 1]), torch.tensor([2])])
        >>> lists[-1], lists.lengths
        (tensor([2]), tensor([2, 1]))
    """

    flat: Tensor
    bounds: Tensor

    @staticmethod
    def of(lists: Iterable[Tensor]) -> "Ragged":
        """Put vectors of one type, int64 where there is none, behind each other."""
        lists = list(lists)
        lengths = torch.tensor([0] + [len(one) for one in lists])
        return Ragged(torch.cat(lists) if lists else torch.empty(0, dtype=torch.int64), lengths.cumsum(0))

    @property
    def lengths(self) -> Tensor:
        """How long each list is."""
        return self.bounds.diff()

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, place: int) -> Tensor: ...

    @overload
    def __getitem__(self, place: slice) -> list[Tensor]: ...

    def __getitem__(self, place: int | slice) -> Tensor | list[Tensor]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]
        return self.flat[int(self.bounds[place]) : int(self.bounds[place + 1])]
