"""Bits and random numbers as arrays, by integer arithmetic that is equal on every machine."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from fedbonsai.core.support import Support
from fedbonsai.wire.errors import SupportCodingError, require
from fedbonsai.wire.streams import Array, StreamReader


def bytes_of(count: int) -> int:
    """Bytes that ``count`` bits take."""
    return -(-count // 8)


def pack(bits: Array) -> NDArray[np.uint8]:
    """Eight bits a byte, lowest first."""
    return np.packbits(bits, bitorder="little")


def unpack(reader: StreamReader, count: int) -> NDArray[np.uint8]:
    """Read ``count`` bits as bytes of 0 and 1.

    Raises:
        SupportCodingError: A padding bit is set.
    """
    bits = np.unpackbits(reader.take(bytes_of(count)), bitorder="little")
    require(
        not bits[count:].any(),
        SupportCodingError,
        reader.place,
        "unused bits must be zero, one is set",
    )
    return bits[:count]


def flat_support(bits: Array) -> Support:
    """The mask of shape ``(size,)`` that is present where ``bits`` are set; never in dense form."""
    return Support((bits.size,), mask=torch.from_numpy(bits.view(np.bool_)))


def pack_planes(words: Array, width: int) -> list[NDArray[np.uint8]]:
    """The ``width`` low bits of words: the lowest of all of them, packed, then the next."""
    planes = []
    for start in range(0, width, 8):
        low = (words >> words.dtype.type(start)).astype(np.uint8)
        planes += [pack(low & np.uint8(1 << bit)) for bit in range(min(8, width - start))]
    return planes


def unpack_planes(reader: StreamReader, words: Array, width: int) -> None:
    """Undo `pack_planes`: set the ``width`` low bits of words in which they are zero."""
    for bit in range(width):
        plane = unpack(reader, words.size)
        words |= plane.astype(words.dtype) << words.dtype.type(bit) if bit else plane


def join_digits(digits: Array, base: int, per_word: int, dtype: str) -> Array:
    """Put ``per_word`` digits of ``base`` into each word, the first lowest, missing ones zero."""
    padded = np.zeros((-(-digits.size // per_word), per_word), dtype)
    padded.reshape(-1)[: digits.size] = digits
    words = padded[:, -1].copy()
    for at in range(per_word - 2, -1, -1):
        words *= words.dtype.type(base)
        words += padded[:, at]
    return words


def split_digits(words: Array, base: int, per_word: int) -> Array:
    """Undo `join_digits`; the last digit may be too large for its base, which the caller checks."""
    digits = np.empty((words.size, per_word), words.dtype)
    left = words
    for at in range(per_word - 1):
        left, digits[:, at] = np.divmod(left, words.dtype.type(base))
    digits[:, -1] = left
    return digits.reshape(-1)


def mix(seed: int, count: int) -> NDArray[np.uint64]:
    """The first ``count`` outputs of SplitMix64.

    Examples:
        >>> [hex(int(one)) for one in mix(0, 2)]
        ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    state = np.arange(1, count + 1, dtype=np.uint64)
    state *= np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    return state


def key_of(round_: int, client: int, group: str, tensor: str) -> int:
    """The key of the random numbers of one tensor in one message; both sides know it."""
    digest = hashlib.sha256(f"{round_}|{client}|{group}|{tensor}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def uniform(key: int, count: int) -> NDArray[np.float64]:
    """Draws of a 16-bit uniform distribution, in the open interval (0, 1).

    Examples:
        >>> bool(abs(uniform(7, 100_000).mean() - 0.5) < 0.01)
        True
    """
    words = mix(key, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
    return (words.astype(np.float64) + 0.5) / 65536.0
