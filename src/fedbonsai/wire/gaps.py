"""Sparse sets as the gaps between coordinates: a byte for high bits, the low ones as they are."""

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.bits import pack_planes, unpack_planes
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
    gaps = positions.astype(np.uint32)
    gaps[1:] -= gaps[:-1] + np.uint32(1)
    sink.rest.extend(pack_planes(gaps, shift))
    gaps >>= np.uint32(shift)
    escapes = gaps[gaps >= _ESCAPE].astype("<u4") if gaps.max() >= _ESCAPE else gaps[:0]
    sink.symbols.append(np.minimum(gaps, np.uint32(_ESCAPE), out=gaps).astype(np.uint8))
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
    source.budget.spend(24 * count, place)
    symbols = source.symbols.take(count)
    # 16 bits hold every gap without escapes at such shifts, and less memory is less time.
    gaps: Array = symbols.astype(np.int64 if escapes or shift > 7 else np.uint16)
    gaps <<= gaps.dtype.type(shift)
    unpack_planes(source.rest, gaps, shift)
    escaped = np.flatnonzero(symbols == _ESCAPE)
    large = source.rest.take(4 * escapes).view("<u4")
    # Bounded before they are shifted and added up: hostile ones would overflow and look right.
    most = int(large.max()) if escapes else int(symbols.max())
    require(
        escaped.size == escapes and bool((large >= _ESCAPE).all()) and most << shift < size,
        SupportCodingError,
        place,
        f"{escaped.size} gaps of {_ESCAPE} and more must follow and be below {size}, got {escapes}",
    )
    if escapes:
        gaps[escaped] += (large.astype(np.int64) - _ESCAPE) << shift
    gaps[1:] += gaps.dtype.type(1)
    positions = np.cumsum(gaps, dtype=np.int64)
    require(positions[-1] < size, SupportCodingError, place, f"positions must be below {size}")
    return positions
