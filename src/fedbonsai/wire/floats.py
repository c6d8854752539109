"""Floats bit-exact: as planes of bytes, of which only exponents compress; or as a table, where few differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.bits import join_digits, split_digits
from fedbonsai.wire.errors import SupportCodingError, require
from fedbonsai.wire.streams import Sink, Source

Words = NDArray[np.unsignedinteger[Any]]
"""Floats as unsigned integers of the same bits."""

_MOST = 256

_AT_ONCE = 1 << 15
"""Values that are taken apart or put together at once: what lies between two steps stays in the cache."""


def write_planes(words: Words, sink: Sink) -> None:
    """Append values of 16, 32 or 64 bits: eight bits of exponent as symbols, the rest as it is."""
    kind, bits = words.dtype.type, 8 * words.dtype.itemsize
    planes = [np.empty(words.size, np.uint8) for _ in range(2)]
    planes += [np.empty(words.size, "<u2") for _ in range(bits // 16 - 1)]
    shifts = [kind(at) for at in (bits - 8, bits - 16, *range(bits - 32, -1, -16))]
    for start in range(0, words.size, _AT_ONCE):
        some = words[start : start + _AT_ONCE]
        turned = some << kind(1)
        turned |= some >> kind(bits - 1)
        for plane, at in zip(planes, shifts, strict=True):
            plane[start : start + _AT_ONCE] = turned >> at  # its lowest bits
    sink.symbols.append(planes[0])
    sink.rest.extend(planes[1:])


def read_planes(count: int, size: int, source: Source) -> Words:
    """Undo `write_planes` for ``count`` values of ``size`` bytes."""
    source.budget.spend(2 * count * size, source.rest.place)
    planes: list[Words] = [source.symbols.take(count), source.rest.take(count)]
    planes += [source.rest.take(2 * count).view("<u2") for _ in range(size // 2 - 1)]
    words: Words = np.empty(count, f"u{size}")
    kind = words.dtype.type
    for start in range(0, count, _AT_ONCE):
        turned = words[start : start + _AT_ONCE]
        turned[:] = planes[0][start : start + _AT_ONCE]
        for plane in planes[1:]:
            turned <<= kind(8 * plane.itemsize)
            turned |= plane[start : start + _AT_ONCE]
        signs = turned << kind(8 * size - 1)
        turned >>= kind(1)
        turned |= signs
    return words


def are_few(words: Words) -> bool:
    """Whether a table of the values and an index for each pay: 2 to 256 values, a quarter of the count at most.

    A constant is left to its planes, which compress to nothing. The first values alone tell most others apart.
    """
    most = min(_MOST, words.size // 4)
    if most <= 1:
        return False
    first = np.sort(words[: 4 * _MOST])  # np.unique takes ten times as long on so few
    return bool(1 + np.count_nonzero(first[1:] != first[:-1]) <= most) and 2 <= np.unique(words).size <= most


def write_few(words: Words, sink: Sink) -> None:
    """Append values of which few differ: an index each, as many a byte as fit, and their table."""
    table, indices = np.unique(words, return_inverse=True)
    sink.symbols.append(join_digits(indices, table.size, _per_byte(table.size), "u1"))
    sink.rest.append(np.array([table.size - 1], np.uint8))
    sink.rest.append(table.astype(table.dtype.newbyteorder("<")))


def read_few(count: int, size: int, source: Source) -> Words:
    """Undo `write_few` for ``count`` values of ``size`` bytes.

    Raises:
        SupportCodingError: An index lies beyond the table, or one that stands for no value is not zero.
    """
    source.budget.spend((2 * size + 8) * count, source.rest.place)
    known = int(source.rest.take(1)[0]) + 1
    table = source.rest.take(known * size).view(f"<u{size}").astype(f"u{size}")
    per_byte = _per_byte(known)
    digits = split_digits(source.symbols.take(-(-count // per_byte)), known, per_byte)
    indices, unused = digits[:count], digits[count:]
    good = bool((indices < known).all()) and not unused.any()
    require(good, SupportCodingError, source.symbols.place, f"indices must be below {known}, and unused ones 0")
    found: Words = table[indices]
    return found


def _per_byte(known: int) -> int:
    """How many digits of base ``known`` fit into a byte: 8 of 2, 5 of 3, 4 of 4, 3 up to 6, 2 up to 16."""
    return max(count for count in range(1, 9) if known**count <= 256 or count == 1)


def write_difference(words: Words, base: Words, sink: Sink) -> None:
    """Append how far the values are from those of a base, as byte planes, the highest first."""
    kind, bits = words.dtype.type, 8 * words.dtype.itemsize
    difference = _order(words) - _order(base)
    folded = (difference << kind(1)) ^ (kind(0) - (difference >> kind(bits - 1)))
    sink.symbols.extend((folded >> kind(at)).astype(np.uint8) for at in range(bits - 8, -1, -8))


def read_difference(base: Words, source: Source) -> Words:
    """Undo `write_difference`."""
    kind, size = base.dtype.type, base.dtype.itemsize
    source.budget.spend(4 * base.nbytes, source.symbols.place)
    folded = np.zeros_like(base)
    for _ in range(size):
        folded <<= kind(8)
        folded |= source.symbols.take(len(base))
    difference = (folded >> kind(1)) ^ (kind(0) - (folded & kind(1)))
    return _unorder(_order(base) + difference)


def _order(words: Words) -> Words:
    """Unsigned integers that grow with the floats whose bits ``words`` are."""
    top = words.dtype.type(1 << (words.dtype.itemsize * 8 - 1))
    return np.where(words & top, ~words, words | top)


def _unorder(ordered: Words) -> Words:
    top = ordered.dtype.type(1 << (ordered.dtype.itemsize * 8 - 1))
    return np.where(ordered & top, ordered ^ top, ~ordered)
