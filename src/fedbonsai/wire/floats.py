"""Floats as planes of bytes, bit-exact: exponents compress, signs and mantissas do not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.streams import Array, Sink, Source

Words = NDArray[np.unsignedinteger[Any]]
"""Floats as unsigned integers of the same bits."""


def write_planes(words: Words, sink: Sink) -> None:
    """Append values of 16, 32 or 64 bits: exponents as symbols, the rest as it is."""
    pieces = _pieces(words)
    high = pieces[:, -1]
    sink.symbols.append((high >> 7).astype(np.uint8))
    sink.rest.append((high >> 8 & 0x80 | high & 0x7F).astype(np.uint8))
    sink.rest.extend(pieces[:, at] for at in range(pieces.shape[1] - 2, -1, -1))


def read_planes(count: int, size: int, source: Source) -> Words:
    """Undo `write_planes` for ``count`` values of ``size`` bytes."""
    source.budget.spend(count * (size + 6), source.rest.place)
    words = np.empty(count, f"<u{size}")
    pieces = _pieces(words)
    rest = source.rest.take(count)
    high = (rest & 0x80).astype(np.uint16)
    high <<= 1
    high |= source.symbols.take(count)
    high <<= 7
    high |= rest & 0x7F
    pieces[:, -1] = high
    for at in range(pieces.shape[1] - 2, -1, -1):
        pieces[:, at] = source.rest.take(2 * count).view("<u2")
    return words


def _pieces(words: Words) -> NDArray[np.uint16]:
    """The 16-bit words of each value, lowest first; a view."""
    little = words.astype(words.dtype.newbyteorder("<"), copy=False)
    return little.view("<u2").reshape(len(words), words.dtype.itemsize // 2)


def write_difference(words: Words, base: Words, sink: Sink) -> None:
    """Append how far the values are from those of a base, as byte planes, the highest first."""
    bits = words.dtype.itemsize * 8
    difference = _order(words) - _order(base)
    sign = (difference >> words.dtype.type(bits - 1)) * words.dtype.type(2**bits - 1)
    folded = (difference << words.dtype.type(1)) ^ sign
    planes = (
        folded.astype(f"<u{bits // 8}", copy=False).view(np.uint8).reshape(len(words), bits // 8)
    )
    sink.symbols.extend(planes[:, at] for at in range(bits // 8 - 1, -1, -1))


def read_difference(base: Words, source: Source) -> Words:
    """Undo `write_difference`."""
    count, size = len(base), base.dtype.itemsize
    source.budget.spend(count * size * 5, source.symbols.place)
    folded = np.empty(count, f"<u{size}")
    planes = folded.view(np.uint8).reshape(count, size)
    for at in range(size - 1, -1, -1):
        planes[:, at] = source.symbols.take(count)
    one = folded.dtype.type(1)
    difference = (folded >> one) ^ ((folded & one) * folded.dtype.type(2 ** (8 * size) - 1))
    ordered: Array = difference + _order(base)
    return _unorder(ordered)


def _order(words: Words) -> Words:
    """Unsigned integers that grow with the floats whose bits ``words`` are."""
    top = words.dtype.type(1 << (words.dtype.itemsize * 8 - 1))
    return np.where(words & top, ~words, words | top)


def _unorder(ordered: Words) -> Words:
    top = ordered.dtype.type(1 << (ordered.dtype.itemsize * 8 - 1))
    return np.where(ordered & top, ordered ^ top, ~ordered)
