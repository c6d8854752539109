"""The encoder's choice of a coding for each support.

The choice is by rule, with integers only, so that every machine makes the same: again, held,
seeded, grid, changed, product, and a flat set otherwise.
"""

import numpy as np
import torch

from fedbonsai.core.support import Support
from fedbonsai.wire.errors import LimitError, require
from fedbonsai.wire.gaps import MAX_SIZE
from fedbonsai.wire.records import LISTS, Code, Record
from fedbonsai.wire.references import Held
from fedbonsai.wire.sets import write_set
from fedbonsai.wire.shelf import Shelf
from fedbonsai.wire.streams import Sink


def write_support(support: Support, shelf: Shelf, sink: Sink) -> Record:
    """Choose a coding, append its pieces to ``sink`` and what it refers to to ``shelf``."""
    require(
        support.kind == "dense" or support.numel < MAX_SIZE,
        LimitError,
        "support",
        f"a tensor with a mask or grid must have fewer than 2^32 values, got {support.numel}",
    )
    record = _known(support, shelf) or _described(support, shelf, sink)
    shelf.tensors.add(support)
    return record


def _known(support: Support, shelf: Shelf) -> Record | None:
    """A coding that names the support instead of describing it."""
    digest, record = support.digest, None
    if support.kind == "dense":
        record = Record(Code.WHOLE)
    elif digest in shelf.tensors.places:
        record = Record(Code.AGAIN, (shelf.tensors.places[digest],))
    elif digest in shelf.held:
        shelf.used.append(support)
        record = Record(Code.HELD)
    elif digest in shelf.seeds:
        shelf.derived.append(support)
        record = Record(Code.SEEDED, (support.count, shelf.seeds[digest]))
    return record


def _described(support: Support, shelf: Shelf, sink: Sink) -> Record:
    if support.index is not None:
        axes = zip(support.shape, support.index, strict=True)
        lists = [Support.at((size,), one) for size, one in axes]
        return Record(Code.GRID, (), tuple(_write_list(one, shelf, sink) for one in lists))
    if (base := _base(support, shelf.held)) is not None:
        shelf.used.append(base)
        shelf.derived.append(support)
        parts = tuple(write_set(one, sink) for one in _difference(base, support))
        return Record(Code.CHANGED, (), parts)
    return _write_mask(support, shelf, sink)


def _write_mask(support: Support, shelf: Shelf, sink: Sink) -> Record:
    """A mask as the product of its rows and the pattern they have in common, or as a flat set."""
    if (halves := _factors(support)) is None:
        return write_set(support, sink)
    rows, rest = halves
    write_rest = _write_list if len(support.shape) == 2 else _write_mask
    parts = _write_list(rows, shelf, sink), write_rest(rest, shelf, sink)
    return Record(Code.PRODUCT, (), parts)


def _write_list(one: Support, shelf: Shelf, sink: Sink) -> Record:
    if one.digest in shelf.lists.places:
        return Record(Code.AGAIN, (shelf.lists.places[one.digest],))
    record = write_set(one, sink)
    if record.code in LISTS:
        shelf.lists.add(one)
    return record


def _factors(support: Support) -> tuple[Support, Support] | None:
    """Rows (indices of dimension 0) and their pattern, where a mask is the product of both."""
    if len(support.shape) < 2 or support.count in (0, support.numel):
        return None
    mask = support.indicator().numpy().reshape(support.shape[0], -1)
    pattern = mask[int(mask.argmax()) // mask.shape[1]]
    # Counts rule out nearly every mask that is no product, before all of it is looked at.
    number, odd = divmod(support.count, int(np.count_nonzero(pattern)))
    if odd or number > len(mask):
        return None
    rows = mask.any(axis=1)
    if number != np.count_nonzero(rows) or not (mask[rows] == pattern).all():
        return None
    common = torch.from_numpy(pattern.reshape(support.shape[1:]))
    return Support.masked(torch.from_numpy(rows)), Support.masked(common)


def _cost(size: int, count: int) -> int:
    """About what a set costs, in half bits; integers, so that every machine compares alike."""
    fewer = min(count, size - count)
    return min(2 * size, fewer * (2 * (size // fewer).bit_length() + 3)) if fewer else 0


def _base(support: Support, held: Held) -> Support | None:
    """The held mask that ``support`` is reached from at the least cost, if that is worth it."""
    best, found = _cost(support.numel, support.count) - 512, None
    positions = support.positions.numpy()
    for _, base in sorted(held.items()):
        if base.mask is None or base.shape != support.shape:
            continue
        common = int(np.count_nonzero(base.mask.numpy().reshape(-1)[positions]))
        absent = base.numel - base.count
        cost = _cost(base.count, common) + _cost(absent, support.count - common)
        if cost < best:
            best, found = cost, base
    return found


def _difference(base: Support, support: Support) -> tuple[Support, Support]:
    """What stays, among the coordinates of ``base``, and what is new, among those it lacks."""
    old, new = base.indicator().reshape(-1).numpy(), support.indicator().reshape(-1).numpy()
    kept, grown = new[base.positions.numpy()], new[~old]
    return Support.masked(torch.from_numpy(kept)), Support.masked(torch.from_numpy(grown))
