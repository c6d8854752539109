"""Sparse sets as the gaps between coordinates: a byte for high bits, the low ones as they are."""

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.bits import pack, unpack
from fedbonsai.wire.errors import SupportCodingError, require
from fedbonsai.wire.streams import Array, Sink, Source

MAX_SIZE = 2**32
"""Coordinates that a tensor with gaps must stay below: escapes have 32 bits."""

_ESCAPE = 255


def write_gaps(size: int, positions: Array, sink: Sink) -> tuple[int, int, int]:
    """Append the pieces of a set; return the fields of its record: count, shift, escapes."""
    count = positions.size
    # Symbols of 4 to 6 bits: few enough for a short code table, enough to lose nothing below them.
    shift = max(0, (size // count).bit_length() - 3)
    gaps = positions.astype("<u4")
    gaps[1:] -= gaps[:-1] + np.uint32(1)
    high = np.right_shift(gaps, np.uint32(shift))
    escapes = high[high >= _ESCAPE]
    sink.symbols.append(np.minimum(high, np.uint32(_ESCAPE)).astype(np.uint8))
    low = gaps.view(np.uint8).reshape(count, 4)
    sink.rest.extend(pack(low[:, bit // 8] & np.uint8(1 << bit % 8)) for bit in range(shift))
    sink.rest.append(escapes)
    return count, shift, escapes.size


def read_gaps(fields: tuple[int, ...], size: int, source: Source) -> NDArray[np.int64]:
    """Undo `write_gaps`: the increasing positions.

    Raises:
        SupportCodingError: A position is not below ``size``, or escapes and symbols do not match.
    """
    (count, shift, escapes), place = fields, source.rest.place
    require(
        0 < count <= size and shift < 32 and escapes <= count,
        SupportCodingError,
        place,
        f"gaps of {size} coordinates cannot have count {count}, shift {shift}, escapes {escapes}",
    )
    source.budget.spend(16 * count, place)
    gaps = source.symbols.take(count).astype("<u4")
    planes = [unpack(source.rest, count) for _ in range(shift)]
    _fill_escapes(gaps, source.rest.take(4 * escapes).view("<u4"), place)
    # Bounded before they are shifted and added up: hostile ones would overflow and look right.
    short = int(gaps.max()) <= (size - 1) >> shift
    require(short, SupportCodingError, place, f"gaps must be below {size}")
    gaps <<= np.uint32(shift)
    low = gaps.view(np.uint8).reshape(count, 4)
    for bit, plane in enumerate(planes):
        low[:, bit // 8] |= plane << np.uint8(bit % 8)
    gaps[1:] += np.uint32(1)
    positions = np.cumsum(gaps, dtype=np.int64)
    require(positions[-1] < size, SupportCodingError, place, f"positions must be below {size}")
    return positions


def _fill_escapes(symbols: NDArray[np.uint32], escapes: Array, place: str) -> None:
    """Put the gaps that did not fit in a byte where their symbols stand."""
    at = np.flatnonzero(symbols == _ESCAPE)
    require(
        at.size == escapes.size and bool((escapes >= _ESCAPE).all()),
        SupportCodingError,
        place,
        f"{at.size} gaps escape, so as many of {_ESCAPE} or more must follow, got {escapes.size}",
    )
    symbols[at] = escapes
