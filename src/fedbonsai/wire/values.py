"""The values of one tensor as pieces: which coding a setting chooses, and how each is read back."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.errors import lookup
from fedbonsai.core.message import Part
from fedbonsai.core.support import Support
from fedbonsai.wire import lossy
from fedbonsai.wire.bits import pack, unpack
from fedbonsai.wire.checksum import crc32
from fedbonsai.wire.errors import FieldError, UnknownBaseError, require
from fedbonsai.wire.floats import (
    Words,
    are_few,
    read_difference,
    read_few,
    read_planes,
    write_difference,
    write_few,
    write_planes,
)
from fedbonsai.wire.streams import Array, Sink, Source

TYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
"""Element types in the order of their numbers in the format."""

FLOATS = TYPES[:4]

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Coding(IntEnum):
    """How values are coded (docs/wire-format.md, "Values")."""

    RAW = 0
    PLANES = 1
    BF16 = 2
    FP16 = 3
    INT8 = 4
    INT4 = 5
    UNIFORM = 6
    SIGN = 7
    TERNARY = 8
    BITS = 9
    DELTA = 10
    FEW = 11


SETTINGS = {
    "raw": Coding.RAW,
    "fp32": Coding.PLANES,
    "bf16": Coding.BF16,
    "fp16": Coding.FP16,
    "int8": Coding.INT8,
    "int4": Coding.INT4,
    "uniform": Coding.UNIFORM,
    "sign": Coding.SIGN,
    "ternary": Coding.TERNARY,
    "bits": Coding.BITS,
    "delta": Coding.DELTA,
}
"""Codings by the name of their setting; ``raw``, ``fp32`` and ``delta`` keep every bit."""

EXACT = frozenset({Coding.RAW, Coding.PLANES, Coding.DELTA, Coding.FEW})
"""Codings that keep every bit."""

_SMALLEST_MATRIX = 64
_SMALLEST_VECTOR = 8192
_SIZES = 2.0**-100, 2.0**100
_LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class _Lossy:
    """How float32 values are written and read, given the key of their random numbers."""

    write: Callable[[lossy.Floats, int, Sink], None]
    read: Callable[[int, int, Source], lossy.Floats]


def setting(name: str) -> Coding:
    """The coding that a setting names.

    Raises:
        ConfigError: There is no such setting.
    """
    return SETTINGS[lookup("value coding", name, list(SETTINGS))]


def is_exact(name: str) -> bool:
    """Whether a coding keeps every bit; others draw from the message's round and client."""
    return setting(name) in EXACT


def choose(part: Part, wanted: Coding, *, differ: bool = False) -> Coding:
    """The coding that a tensor gets where ``wanted`` is set; ``differ``: there is a base for it.

    Losing information is for floats only, finite and of usable size, and for weights only: two
    dimensions and 64 values, or a vector of 8192. Biases and running statistics must not be off.
    """
    if wanted is Coding.RAW or part.values.dtype not in FLOATS or not part.support.count:
        return Coding.RAW
    if wanted in EXACT:
        return Coding.DELTA if wanted is Coding.DELTA and differ else _exact(part.values)
    count, matrix = part.support.count, len(part.support.shape) >= 2
    if count < (_SMALLEST_MATRIX if matrix else _SMALLEST_VECTOR):
        return _exact(part.values)
    least, most = _SIZES
    if wanted is Coding.FP16:
        most = _LARGEST_FP16
    # NaN fails both comparisons.
    largest = float(part.values.detach().abs().max())
    return wanted if least <= largest <= most else _exact(part.values)


def _exact(values: Tensor) -> Coding:
    return Coding.FEW if are_few(words_of(values)) else Coding.PLANES


def write_values(values: Tensor, coding: Coding, key: int, sink: Sink) -> None:
    """Append the pieces of a vector of values.

    Args:
        values: A vector of one of `TYPES`.
        coding: What `choose` said; not a difference, which `write_delta` writes.
        key: Names the random numbers of this tensor, see `bits.key_of`.
        sink: Takes the pieces.
    """
    if coding is Coding.RAW:
        words = words_of(values)
        sink.rest.append(pack(words) if values.dtype is torch.bool else words)
    elif coding is Coding.PLANES:
        write_planes(words_of(values), sink)
    elif coding is Coding.FEW:
        write_few(words_of(values), sink)
    else:
        _LOSSY[coding].write(values.detach().to(torch.float32).numpy(), key, sink)


def read_values(number: int, dtype: torch.dtype, count: int, key: int, source: Source) -> Tensor:
    """Undo `write_values`, except a difference.

    Raises:
        FieldError: The coding is not for values of this type.
    """
    if number == Coding.RAW:
        return _read_raw(dtype, count, source)
    fits = dtype in FLOATS and number in (*_PLAIN, *_LOSSY)
    require(fits, FieldError, source.rest.place, f"{dtype} values have no coding {number}")
    if number in _PLAIN:
        return tensor_of(_PLAIN[Coding(number)](count, dtype.itemsize, source), dtype)
    values = _LOSSY[Coding(number)].read(count, key, source)
    return torch.from_numpy(values).to(dtype)


def base_values(base: Part | None, support: Support, dtype: torch.dtype) -> Tensor | None:
    """A base at the coordinates of a support, zero where it has none; None if it does not fit."""
    if base is None or base.support.shape != support.shape or base.values.dtype != dtype:
        return None
    if base.support == support:
        return base.values
    return support.gather(base.dense())


def write_delta(values: Tensor, base: Tensor, sink: Sink) -> None:
    """Append the bit-exact difference to a base of the same type, and the base's checksum."""
    words = words_of(base)
    write_difference(words_of(values), words, sink)
    sink.rest.append(np.array([_crc(words)], "<u4"))


def read_delta(base: Tensor, source: Source) -> Tensor:
    """Undo `write_delta`.

    Raises:
        UnknownBaseError: ``base`` is not what the difference was taken from.
    """
    words = words_of(base)
    expected = int(source.rest.take(4).view("<u4")[0])
    place = source.rest.place
    require(
        _crc(words) == expected,
        UnknownBaseError,
        place,
        "this side holds another base; ask for the whole",
    )
    return tensor_of(read_difference(words, source), base.dtype)


def words_of(values: Tensor) -> Words:
    """The bits of a vector as unsigned integers."""
    size = values.dtype.itemsize
    words: Array = values.detach().contiguous().view(_WORDS[size]).numpy()
    return words.view(f"u{size}")


def tensor_of(words: Words, dtype: torch.dtype) -> Tensor:
    """Undo `words_of`."""
    size = dtype.itemsize
    native = words.astype(f"u{size}", copy=False).view("u1" if size == 1 else f"i{size}")
    return torch.from_numpy(native).view(dtype)


def _crc(words: Words) -> int:
    little = words.astype(words.dtype.newbyteorder("<"), copy=False)
    return crc32(np.ascontiguousarray(little).data)


def _read_raw(dtype: torch.dtype, count: int, source: Source) -> Tensor:
    size = dtype.itemsize
    source.budget.spend(2 * count * size, source.rest.place)
    if dtype is torch.bool:
        return torch.from_numpy(unpack(source.rest, count).view(np.bool_).copy())
    return tensor_of(source.rest.take(count * size).view(f"<u{size}").copy(), dtype)


def _write_rounded(dtype: torch.dtype, values: lossy.Floats, _: int, sink: Sink) -> None:
    write_planes(words_of(torch.from_numpy(values).to(dtype)), sink)


def _read_rounded(dtype: torch.dtype, count: int, _: int, source: Source) -> lossy.Floats:
    source.budget.spend(4 * count, source.rest.place)
    rounded: lossy.Floats = tensor_of(read_planes(count, 2, source), dtype).to(torch.float32).numpy()
    return rounded


_PLAIN = {Coding.PLANES: read_planes, Coding.FEW: read_few}

_LOSSY = {
    Coding.BF16: _Lossy(partial(_write_rounded, torch.bfloat16), partial(_read_rounded, torch.bfloat16)),
    Coding.FP16: _Lossy(partial(_write_rounded, torch.float16), partial(_read_rounded, torch.float16)),
    Coding.INT8: _Lossy(
        lambda values, _, sink: lossy.write_blocks_of(values, 8, sink),
        lambda count, _, source: lossy.read_blocks_of(count, 8, source),
    ),
    Coding.INT4: _Lossy(
        lambda values, _, sink: lossy.write_blocks_of(values, 4, sink),
        lambda count, _, source: lossy.read_blocks_of(count, 4, source),
    ),
    Coding.UNIFORM: _Lossy(lossy.write_uniform, lossy.read_uniform),
    Coding.SIGN: _Lossy(
        lambda values, _, sink: lossy.write_sign(values, sink),
        lambda count, _, source: lossy.read_sign(count, source),
    ),
    Coding.TERNARY: _Lossy(
        lambda values, _, sink: lossy.write_ternary(values, sink),
        lambda count, _, source: lossy.read_ternary(count, source),
    ),
    Coding.BITS: _Lossy(lossy.write_bits, lambda count, _, source: lossy.read_bits(count, source)),
}
