"""N:M sparsity: exactly N of every M neighbours, as ranks among the patterns, many to a word."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedbonsai.core.support import Support
from fedbonsai.wire.bits import (
    flat_support,
    join_digits,
    pack,
    pack_planes,
    split_digits,
    unpack_planes,
)
from fedbonsai.wire.errors import FieldError, SupportCodingError, require
from fedbonsai.wire.records import Code, Record
from fedbonsai.wire.streams import Array, Sink, Source

BLOCK_SIZES = (2, 4, 8, 16)
"""Neighbours that form a block."""

_NO_RANK = 2**16 - 1
_MAX_PATTERNS = 256
_WORD = 64


def write_blocks(support: Support, sink: Sink) -> Record | None:
    """Append the ranks of the blocks, where a support is N:M with few enough patterns."""
    size, count = support.numel, support.count
    bits = support.indicator().numpy().reshape(-1)
    for block in BLOCK_SIZES:
        chosen, odd = divmod(count * block, size)
        if odd or size % block or not _is_small(chosen, block):
            continue
        patterns = _patterns(chosen, block)
        ranks = np.full(2**block, _NO_RANK, np.uint16)
        ranks[patterns] = np.arange(patterns.size)
        # Nearly all masks that are not N:M show it at once, without a walk through the whole.
        if (ranks[_words(bits[: 64 * block], block)] == _NO_RANK).any():
            continue
        digits = ranks[_words(bits, block)]
        if not (digits == _NO_RANK).any():
            per_word, width = _packing(patterns.size)
            words = join_digits(digits, patterns.size, per_word, "u8")
            sink.rest.extend(pack_planes(words, width))
            return Record(Code.BLOCKS, (chosen, block))
    return None


def read_blocks(record: Record, size: int, source: Source) -> Support:
    """Undo `write_blocks`, as a support of shape ``(size,)``.

    Raises:
        FieldError: The format has no such blocks.
        SupportCodingError: A rank is too large.
    """
    (chosen, block), place = record.fields, source.rest.place
    require(
        block in BLOCK_SIZES and _is_small(chosen, block) and size % block == 0,
        FieldError,
        place,
        f"{size} coordinates cannot be blocks of {chosen} in {block} in this format",
    )
    patterns, number = _patterns(chosen, block), size // block
    per_word, width = _packing(patterns.size)
    source.budget.spend(16 * size, place)
    words = np.zeros(-(-number // per_word), np.uint64)
    unpack_planes(source.rest, words, width)
    digits = split_digits(words, patterns.size, per_word)
    require(
        bool((digits[:number] < patterns.size).all()) and not digits[number:].any(),
        SupportCodingError,
        place,
        f"ranks must be below {patterns.size}, and unused ones zero",
    )
    packed = _bytes(patterns[digits[:number]], block)
    return flat_support(np.unpackbits(packed, bitorder="little", count=size))


def _is_small(chosen: int, block: int) -> bool:
    return 0 < chosen < block and math.comb(block, chosen) <= _MAX_PATTERNS


def _packing(patterns: int) -> tuple[int, int]:
    """How many ranks share a word, and its width: the fewest bits a rank, at most 64 in all.

    Examples:
        >>> _packing(6)
        (17, 44)
    """
    widths = {number: (patterns**number - 1).bit_length() for number in range(1, _WORD + 1)}
    fitting = [(Fraction(width, number), number) for number, width in widths.items() if width <= _WORD]
    number = min(fitting)[1]
    return number, widths[number]


def _patterns(chosen: int, block: int) -> NDArray[np.uint16]:
    """The patterns of a block in the order of their ranks."""
    values = (sum(1 << bit for bit in bits) for bits in combinations(range(block), chosen))
    return np.array(sorted(values), "<u2")


def _words(bits: Array, block: int) -> Array:
    """The pattern of every block."""
    packed = pack(bits)
    if block == 16:
        return packed.view("<u2")
    per_byte = 8 // block
    return split_digits(packed, 2**block % 256, per_byte)[: bits.size // block]


def _bytes(words: NDArray[np.uint16], block: int) -> NDArray[np.uint8]:
    """Undo `_words`."""
    if block == 16:
        return words.view(np.uint8)
    return join_digits(words, 2**block % 256, 8 // block, "u1")
