"""N:M sparsity: exactly N of every M neighbours, as ranks among the patterns, several to a byte."""

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedbonsai.core.support import Support
from fedbonsai.wire.bits import flat_support, join_digits, pack, split_digits
from fedbonsai.wire.errors import FieldError, SupportCodingError, require
from fedbonsai.wire.records import Code, Record
from fedbonsai.wire.streams import Array, Sink, Source

BLOCK_SIZES = (4, 8, 16)
"""Neighbours that form a block."""

_NO_RANK = 2**16 - 1


def write_blocks(support: Support, sink: Sink) -> Record | None:
    """Append the ranks of the blocks, where a support is N:M and a byte can hold a rank."""
    size, count = support.numel, support.count
    bits = support.indicator().numpy().reshape(-1)
    for block in BLOCK_SIZES:
        chosen, odd = divmod(count * block, size)
        if odd or size % block or not _fits_byte(chosen, block):
            continue
        patterns = _patterns(chosen, block)
        ranks = np.full(2**block, _NO_RANK, np.uint16)
        ranks[patterns] = np.arange(patterns.size)
        # Nearly all masks that are not N:M show it at once, without a walk through the whole.
        if (ranks[_words(bits[: 64 * block], block)] == _NO_RANK).any():
            continue
        digits = ranks[_words(bits, block)]
        if not (digits == _NO_RANK).any():
            per_byte = _per_byte(patterns.size)
            sink.symbols.append(join_digits(digits.astype(np.uint8), patterns.size, per_byte))
            return Record(Code.BLOCKS, (chosen, block))
    return None


def read_blocks(record: Record, size: int, source: Source) -> Support:
    """Undo `write_blocks`, as a support of shape ``(size,)``.

    Raises:
        FieldError: The format has no such blocks.
        SupportCodingError: A rank is too large.
    """
    (chosen, block), place = record.fields, source.symbols.place
    require(
        block in BLOCK_SIZES and _fits_byte(chosen, block) and size % block == 0,
        FieldError,
        place,
        f"{size} coordinates cannot be blocks of {chosen} in {block} in this format",
    )
    patterns, number = _patterns(chosen, block), size // block
    per_byte = _per_byte(patterns.size)
    source.budget.spend(4 * size, place)
    symbols = source.symbols.take(-(-number // per_byte))
    digits = split_digits(symbols, patterns.size, per_byte)
    require(
        bool((digits[:number] < patterns.size).all()) and not digits[number:].any(),
        SupportCodingError,
        place,
        f"ranks must be below {patterns.size}, and unused ones zero",
    )
    packed = _bytes(patterns[digits[:number]], block)
    return flat_support(np.unpackbits(packed, bitorder="little", count=size))


def _fits_byte(chosen: int, block: int) -> bool:
    return 0 < chosen < block and math.comb(block, chosen) <= 256


def _per_byte(patterns: int) -> int:
    """How many ranks fit in a byte."""
    return max(digits for digits in range(1, 9) if patterns**digits <= 256)


def _patterns(chosen: int, block: int) -> NDArray[np.uint16]:
    """The patterns of a block in the order of their ranks."""
    values = (sum(1 << bit for bit in bits) for bits in combinations(range(block), chosen))
    return np.array(sorted(values), "<u2")


def _words(bits: Array, block: int) -> Array:
    """The pattern of every block."""
    packed = pack(bits)
    if block == 16:
        return packed.view("<u2")
    if block == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: bits.size // 4]


def _bytes(words: NDArray[np.uint16], block: int) -> NDArray[np.uint8]:
    """Undo `_words`."""
    if block == 16:
        return words.view(np.uint8)
    if block == 8:
        return words.astype(np.uint8)
    pairs = np.zeros((-(-words.size // 2), 2), np.uint16)
    pairs.reshape(-1)[: words.size] = words
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8)
