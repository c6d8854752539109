"""Supports from records and pieces: the inverse of the writer's choice, checked at every step."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fedbonsai.core.support import Support
from fedbonsai.wire.errors import FieldError, SupportCodingError, require
from fedbonsai.wire.records import DERIVED, LISTS, Code, Record
from fedbonsai.wire.sets import read_set
from fedbonsai.wire.shelf import seeded_support
from fedbonsai.wire.streams import Source

SEED_COST = 64
"""Bytes of budget a seeded coordinate: a short message must not keep its reader busy."""


@dataclass
class Reading:
    """What the records of a message may refer to, filled while they are read.

    Attributes:
        tensors: The supports of the message's tensors so far.
        lists: The index lists of its grids and products so far.
        bases: The supports of this side that the group refers to and that are not used up yet.
        derived: Supports of the group that were computed from others, in order.
    """

    tensors: list[Support] = field(default_factory=list)
    lists: list[Support] = field(default_factory=list)
    bases: deque[Support] = field(default_factory=deque)
    derived: list[Support] = field(default_factory=list)


def read_support(record: Record, shape: tuple[int, ...], reading: Reading, source: Source) -> Support:
    """Undo `write_support`; ``reading.bases`` holds what the records refer to.

    Raises:
        SupportCodingError: The record contradicts itself.
        FieldError: It refers to something that is not there.
    """
    support = _read(record, shape, reading, source)
    reading.tensors.append(support)
    if record.code in DERIVED:
        reading.derived.append(support)
    return support


def _read(record: Record, shape: tuple[int, ...], reading: Reading, source: Source) -> Support:
    if record.code is Code.HELD:
        return reading.bases.popleft()
    if record.code is Code.AGAIN:
        return _again(record, shape, reading.tensors, source)
    if record.code is Code.GRID:
        lists = [_read_list(one, size, reading, source) for one, size in zip(record.parts, shape, strict=True)]
        source.budget.spend(16 * sum(one.count for one in lists), source.rest.place)
        return Support.grid(shape, [one.positions for one in lists])
    return _mask(_read_mask(record, shape, reading, source), shape)


def _read_mask(record: Record, shape: tuple[int, ...], reading: Reading, source: Source) -> Support:
    size = math.prod(shape)
    if record.code is Code.SEEDED:
        count, seed = record.fields
        place = source.rest.place
        require(
            count <= size,
            SupportCodingError,
            place,
            f"at most {size} of a seeded support, got {count}",
        )
        source.budget.spend(SEED_COST * size, place)
        return seeded_support((size,), count, seed)
    if record.code is Code.CHANGED:
        return _read_changed(record, reading.bases.popleft(), source)
    if record.code is Code.PRODUCT:
        return _read_product(record, shape, reading, source)
    return read_set(record, size, source)


def _read_product(record: Record, shape: tuple[int, ...], reading: Reading, source: Source) -> Support:
    size, (first, second) = math.prod(shape), record.parts
    source.budget.spend(size, source.rest.place)
    rows = _read_list(first, shape[0], reading, source)
    if len(shape) == 2:
        rest = _read_list(second, shape[1], reading, source)
    else:
        rest = _read_mask(second, shape[1:], reading, source)
    outer = rows.indicator().reshape(-1, 1) & rest.indicator().reshape(1, -1)
    return Support((size,), mask=outer.reshape(-1))


def _read_changed(record: Record, base: Support, source: Source) -> Support:
    source.budget.spend(3 * base.numel + 8 * base.count, source.rest.place)
    kept = read_set(record.parts[0], base.count, source)
    grown = read_set(record.parts[1], base.numel - base.count, source)
    old = base.indicator().reshape(-1).numpy()
    bits = np.empty(base.numel, np.bool_)
    bits[base.positions.numpy()] = kept.indicator().numpy()
    bits[~old] = grown.indicator().numpy()
    return Support((bits.size,), mask=torch.from_numpy(bits))


def _read_list(record: Record, size: int, reading: Reading, source: Source) -> Support:
    if record.code is Code.AGAIN:
        return _again(record, (size,), reading.lists, source)
    one = read_set(record, size, source)
    if record.code in LISTS:
        reading.lists.append(one)
    return one


def _again(record: Record, shape: tuple[int, ...], earlier: Sequence[Support], source: Source) -> Support:
    (index,) = record.fields
    fits = index < len(earlier) and earlier[index].shape == shape
    require(
        fits,
        FieldError,
        source.rest.place,
        f"support {index} of shape {shape} must stand before, it does not",
    )
    return earlier[index]


def _mask(flat: Support, shape: tuple[int, ...]) -> Support:
    """A flat set as the support of a tensor, in canonical form."""
    if flat.count == flat.numel:
        return Support.dense(shape)
    support = Support(shape, mask=flat.indicator().reshape(shape))
    vars(support).update({name: vars(flat)[name] for name in ("count", "positions") if name in vars(flat)})
    return support
