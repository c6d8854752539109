"""Floats as planes of bytes, bit-exact: exponents compress, signs and mantissas do not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.streams import Sink, Source

Words = NDArray[np.unsignedinteger[Any]]
"""Floats as unsigned integers of the same bits."""


def write_planes(words: Words, sink: Sink) -> None:
    """Append values of 16, 32 or 64 bits: eight bits of exponent as symbols, the rest as it is."""
    kind, bits = words.dtype.type, 8 * words.dtype.itemsize
    turned = words << kind(1)
    turned |= words >> kind(bits - 1)
    sink.symbols.append((turned >> kind(bits - 8)).astype(np.uint8))
    sink.rest.append((turned >> kind(bits - 16)).astype(np.uint8))
    sink.rest.extend((turned >> kind(at)).astype("<u2") for at in range(bits - 32, -1, -16))


def read_planes(count: int, size: int, source: Source) -> Words:
    """Undo `write_planes` for ``count`` values of ``size`` bytes."""
    source.budget.spend(2 * count * size, source.rest.place)
    turned: Words = source.symbols.take(count).astype(f"u{size}")
    kind = turned.dtype.type
    turned <<= kind(8)
    turned |= source.rest.take(count)
    for _ in range(size // 2 - 1):
        turned <<= kind(16)
        turned |= source.rest.take(2 * count).view("<u2")
    signs = turned << kind(8 * size - 1)
    turned >>= kind(1)
    turned |= signs
    return turned


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
