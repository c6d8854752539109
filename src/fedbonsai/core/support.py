"""Where the values of one tensor live: everywhere, on a bit mask, or on one index list a dimension."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.runs import Box, Stripes, boxes, striped

Kind = Literal["dense", "mask", "grid"]


@dataclass(frozen=True, eq=False)
class Support:
    """The coordinates of a tensor that are present. Immutable; equal when their digests are equal.

    Build one with `dense`, `masked`, `at` or `grid`, which bring it to its one canonical form: a mask or
    grid that covers everything *is* the dense support. A present value may be zero: the support,
    never ``value != 0``, says what is there.

    Attributes:
        shape: Shape of the whole tensor.
        mask: For a mask: bool, of ``shape``, True = present.
        index: For a grid: one increasing int64 index list a dimension; present is their outer product, which is
            a physically smaller tensor of shape ``tuple(map(len, index))``.

    Examples:
        >>> support = Support.masked(torch.tensor([[True, False], [False, True]]))
        >>> support.gather(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([1., 4.])
        >>> support.scatter(torch.tensor([5.0, 6.0]))
        tensor([[5., 0.],
                [0., 6.]])
    """

    shape: tuple[int, ...]
    mask: Tensor | None = None
    index: tuple[Tensor, ...] | None = None

    @staticmethod
    def dense(shape: Sequence[int]) -> "Support":
        """The support of a whole tensor of ``shape``."""
        return Support(tuple(shape))

    @staticmethod
    def masked(mask: Tensor) -> "Support":
        """The support where ``mask`` is True.

        Raises:
            SupportError: ``mask`` is not a bool tensor.
        """
        if mask.dtype != torch.bool:
            raise SupportError(f"a mask must be bool, got {mask.dtype}; write mask.bool()")
        if np.count_nonzero(mask.numpy(force=True)) == mask.numel():
            return Support(tuple(mask.shape))
        return Support(tuple(mask.shape), mask=mask.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def at(shape: Sequence[int], positions: Tensor) -> "Support":
        """The masked support of flat ``positions``, which it keeps: no search of the mask later on.

        Raises:
            SupportError: The positions are not a strictly increasing int64 vector within ``shape``.

        Examples:
            >>> Support.at((2, 2), torch.tensor([0, 3])).mask
            tensor([[ True, False],
                    [False,  True]])
        """
        shape, flat = tuple(shape), positions.numpy()
        inside = flat.dtype == np.int64 and flat.ndim == 1
        inside = inside and (flat.size == 0 or bool(flat[0] >= 0 and flat[-1] < math.prod(shape)))
        if not inside or not bool((flat[1:] > flat[:-1]).all()):
            raise SupportError(f"positions must be int64 and increase within {shape}, got {flat.ravel()[:8].tolist()}")
        if flat.size == math.prod(shape):
            return Support(shape)
        mask = np.zeros(math.prod(shape), dtype=np.bool_)
        mask[flat] = True
        support = Support(shape, mask=torch.from_numpy(mask).reshape(shape))
        vars(support).update(positions=positions, count=flat.size)
        return support

    @staticmethod
    def grid(shape: Sequence[int], index: Sequence[Tensor]) -> "Support":
        """The support of a sub-tensor: the outer product of one index list a dimension.

        Raises:
            SupportError: The lists do not fit ``shape``, or one is not strictly increasing.
        """
        shape = tuple(shape)
        if len(index) != len(shape):
            raise SupportError(f"a grid needs one index list a dimension: {len(shape)}, got {len(index)}")
        lists = tuple(one.detach().to(torch.int64).clone() for one in index)
        for dim, (size, one) in enumerate(zip(shape, lists, strict=True)):
            inside = one.dim() == 1 and (one.numel() == 0 or (int(one[0]) >= 0 and int(one[-1]) < size))
            if not inside or bool((one.diff() <= 0).any()):
                raise SupportError(
                    f"dimension {dim}: indices must increase within [0, {size}), got {one.reshape(-1)[:8].tolist()}"
                )
        if all(one.numel() == size for size, one in zip(shape, lists, strict=True)):
            return Support(shape)
        return Support(shape, index=lists)

    @property
    def kind(self) -> Kind:
        """``dense``, ``mask`` or ``grid``."""
        if self.mask is not None:
            return "mask"
        return "grid" if self.index is not None else "dense"

    @property
    def numel(self) -> int:
        """Number of coordinates of the whole tensor."""
        return math.prod(self.shape)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape that the present values have as a tensor: a mask's are a vector."""
        if self.index is not None:
            return tuple(one.numel() for one in self.index)
        return self.shape if self.mask is None else (self.count,)

    @cached_property
    def count(self) -> int:
        """Number of coordinates that are present."""
        if self.index is not None:
            return math.prod(one.numel() for one in self.index)
        return self.numel if self.mask is None else int(np.count_nonzero(self.mask.numpy()))

    @cached_property
    def positions(self) -> Tensor:
        """The present coordinates as increasing int64 positions in the flattened tensor."""
        if self.mask is not None:
            return torch.from_numpy(np.flatnonzero(self.mask.numpy()))
        if self.index is None:
            return torch.arange(self.numel)
        flat = torch.zeros((), dtype=torch.int64)
        for size, one in zip(self.shape, self.index, strict=True):
            flat = flat.unsqueeze(-1) * size + one
        return flat.reshape(-1)

    @cached_property
    def blocks(self) -> tuple[Box, ...] | None:
        """A grid as few boxes: where each lies in the whole tensor, and where in the smaller one; see `boxes`."""
        return None if self.mask is not None else boxes(self.shape, self.index)

    @cached_property
    def stripes(self) -> Stripes | None:
        """A grid as the same run of each of several equal parts of its dimensions; see `striped`."""
        return None if self.mask is not None else striped(self.shape, self.index)

    def views(self, whole: Tensor, small: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Pairs of views of equal shape that cover a grid: of the tensor of ``shape``, and of the smaller one.

        None where a grid is neither striped nor made of few boxes.
        """
        if self.blocks is not None and len(self.blocks) == 1:
            return [(whole[self.blocks[0][0]], small)]
        if self.stripes is not None:
            return [(whole.view(self.stripes.shape)[self.stripes.cut], small.view(self.stripes.few))]
        if self.blocks is not None:
            return [(whole[there], small[here]) for there, here in self.blocks]
        return None

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that name this support: SHA-256 over shape, kind and coordinates, cut short."""
        hasher = hashlib.sha256(f"{self.kind}{self.shape}".encode())
        if self.mask is not None:
            hasher.update(pack_bits(self.mask).numpy().tobytes())
        for one in self.index or ():
            hasher.update(one.numel().to_bytes(8, "little"))
            hasher.update(one.numpy().tobytes())
        return hasher.digest()[:16]

    def gather(self, dense: Tensor) -> Tensor:
        """Return the present values of ``dense`` (of ``shape``) as a vector of ``count`` values."""
        self._fits(dense.shape, self.shape)
        flat = dense.reshape(-1)
        return flat if self.kind == "dense" else flat.index_select(0, self.positions)

    def scatter(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Return a tensor of ``shape`` that holds ``values`` (a vector of ``count``) and ``fill`` elsewhere."""
        self._fits(values.shape, (self.count,))
        if self.kind == "dense":
            return values.reshape(self.shape).clone()
        if fill == 0 and self.numel:
            # NumPy asks the system for zeroed memory; torch would write every zero itself. It cannot view no bytes.
            zeros = np.zeros(self.numel * values.dtype.itemsize, dtype=np.uint8)
            flat = torch.from_numpy(zeros).view(values.dtype)
        else:
            flat = torch.full((self.numel,), fill, dtype=values.dtype)
        return flat.index_copy_(0, self.positions, values).reshape(self.shape)

    def replaced(self, dense: Tensor, values: Tensor) -> Tensor:
        """Return a copy of ``dense`` (of ``shape``) that holds ``values`` (a vector of ``count``) where present."""
        self._fits(dense.shape, self.shape)
        self._fits(values.shape, (self.count,))
        return dense.reshape(-1).index_copy(0, self.positions, values).reshape(self.shape)

    def indicator(self) -> Tensor:
        """Return a bool tensor of ``shape``: True where a value is present."""
        if self.mask is not None:
            return self.mask
        if self.index is None:
            return torch.ones(self.shape, dtype=torch.bool)
        flat = torch.zeros(self.numel, dtype=torch.bool)
        flat[self.positions] = True
        return flat.reshape(self.shape)

    def apply(self, dense: Tensor) -> Tensor:
        """Return ``dense`` with exact zeros wherever this support has nothing."""
        return dense if self.kind == "dense" else torch.where(self.indicator(), dense, 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return int.from_bytes(self.digest[:8], "little")

    def _fits(self, got: Sequence[int], expected: tuple[int, ...]) -> None:
        if tuple(got) != expected:
            raise SupportError(f"a tensor on this support must have shape {expected}, got {tuple(got)}")


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a bool tensor into uint8, eight to a byte, lowest bit first; the last byte is padded with zeros.

    Examples:
        >>> pack_bits(torch.tensor([True, False, False, True]))
        tensor([9], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))


def unpack_bits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `pack_bits` for a mask of ``shape``.

    Raises:
        SupportError: The number of bytes does not fit ``shape``, or a padding bit is set.
    """
    count = math.prod(shape)
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    if packed.numel() != -(-count // 8) or bits[count:].any():
        raise SupportError(f"{count} bits need {-(-count // 8)} bytes with zero padding, got {packed.numel()}")
    return torch.from_numpy(bits[:count].view(np.bool_)).reshape(tuple(shape))
