"""Codings of float values that lose information, each with a bound (docs/wire-format.md).

Each is a pair of functions: one appends the pieces of float32 values, one reads them back. Sums
that become part of a message are made of integers: a sum of floats depends on the machine.
"""

import numpy as np
from numpy.typing import NDArray

from fedbonsai.wire.bits import join_digits, pack, split_digits, uniform, unpack
from fedbonsai.wire.errors import NumberError, SupportCodingError, require
from fedbonsai.wire.streams import Array, Sink, Source

Floats = NDArray[np.float32]

_FINE = 2**16
_STEP = 0.5
_TERNARY_THRESHOLD = 0.7


def write_blocks_of(values: Floats, bits: int, sink: Sink) -> None:
    """Append int8 or int4 values, each block with the scale that its largest value needs."""
    block, top = _BLOCKS[bits], 2 ** (bits - 1) - 1
    padded = np.zeros((-(-values.size // block), block), np.float32)
    padded.reshape(-1)[: values.size] = values
    scales = np.abs(padded).max(axis=1, keepdims=True) / np.float32(top)
    safe = np.where(scales > 0, scales, np.float32(1))
    levels = np.clip(np.rint(padded / safe), -top, top).reshape(-1)[: values.size]
    symbols = (levels + (top + 1)).astype(np.uint8)
    if bits == 4:
        symbols = _pairs(symbols)
    sink.symbols.append(symbols)
    sink.rest.append(scales.astype("<f4"))


def read_blocks_of(count: int, bits: int, source: Source) -> Floats:
    """Undo `write_blocks_of`, up to half a scale."""
    block, top = _BLOCKS[bits], 2 ** (bits - 1) - 1
    source.budget.spend(12 * count, source.rest.place)
    number = -(-count // block)
    symbols = source.symbols.take(count if bits == 8 else -(-count // 2))
    if bits == 4:
        symbols = np.stack([symbols & 15, symbols >> 4], axis=1).reshape(-1)
        require(
            bool((symbols[count:] == top + 1).all()),
            SupportCodingError,
            source.symbols.place,
            "the unused half of the last byte must be 8",
        )
    require(
        bool(symbols[:count].all()),
        NumberError,
        source.symbols.place,
        f"levels must be within -{top} and {top}",
    )
    scales = read_floats(number, source, low=0.0)
    levels = np.zeros((number, block), np.float32)
    levels.reshape(-1)[:count] = symbols[:count]
    levels -= np.float32(top + 1)
    return _scaled(levels, scales[:, None], source).reshape(-1)[:count].copy()


_BLOCKS = {8: 256, 4: 64}


def _pairs(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two halves a byte, the first in the low half; a missing one is 8."""
    padded = np.full((-(-symbols.size // 2), 2), 8, np.uint8)
    padded.reshape(-1)[: symbols.size] = symbols
    padded[:, 1] <<= 4
    return np.bitwise_or(padded[:, 0], padded[:, 1])


def write_uniform(values: Floats, key: int, sink: Sink) -> None:
    """Append whole steps, each half the root mean square, of the values plus a known dither."""
    step = np.float32(_STEP * _root_mean_square(values))
    levels = np.rint(values.astype(np.float64) / float(step) + (uniform(key, values.size) - 0.5))
    escapes = np.abs(levels) > 127
    sink.symbols.append(np.where(escapes, 0, levels + 128).astype(np.uint8))
    sink.rest.append(np.array([step], "<f4"))
    sink.rest.append(levels[escapes].astype("<i4"))


def read_uniform(count: int, key: int, source: Source) -> Floats:
    """Undo `write_uniform`, up to half a step of noise that does not depend on the values."""
    source.budget.spend(40 * count, source.rest.place)
    symbols = source.symbols.take(count)
    step = read_floats(1, source, low=0.0).astype(np.float64)
    require(step[0] > 0, NumberError, source.rest.place, "the step must be positive, got 0")
    levels = symbols.astype(np.float64) - 128
    at = np.flatnonzero(symbols == 0)
    levels[at] = source.rest.take(4 * at.size).view("<i4")
    levels -= uniform(key, count) - 0.5
    return _scaled(levels, step, source)


def write_sign(values: Floats, sink: Sink) -> None:
    """Append one scale, the mean size, and one bit a value: 1 where it is negative."""
    sink.rest.append(np.array([_mean_size(values)], "<f4"))
    sink.rest.append(pack(np.signbit(values)))


def read_sign(count: int, source: Source) -> Floats:
    """Undo `write_sign`: the scale with each value's sign."""
    source.budget.spend(6 * count, source.rest.place)
    scale = read_floats(1, source, low=0.0)[0]
    values: Floats = np.where(unpack(source.rest, count), -scale, scale).astype(np.float32)
    return values


def write_ternary(values: Floats, sink: Sink) -> None:
    """Append one scale and minus, zero or plus for each value, five to a byte."""
    sizes = np.abs(values)
    large = sizes > np.float32(_TERNARY_THRESHOLD * _mean_size(values))
    digits = np.where(large, np.where(values < 0, 0, 2), 1).astype(np.uint8)
    sink.symbols.append(join_digits(digits, 3, 5, "u1"))
    sink.rest.append(np.array([_mean_size(sizes[large])], "<f4"))


def read_ternary(count: int, source: Source) -> Floats:
    """Undo `write_ternary`: minus the scale, zero or the scale."""
    source.budget.spend(12 * count, source.rest.place)
    digits = split_digits(source.symbols.take(-(-count // 5)), 3, 5)
    require(
        bool((digits[:count] < 3).all()) and not digits[count:].any(),
        SupportCodingError,
        source.symbols.place,
        "digits must be 0, 1 or 2, and unused ones 0",
    )
    scale = read_floats(1, source, low=0.0)
    return _scaled(digits[:count].astype(np.float32) - 1, scale, source)


def write_bits(values: Floats, key: int, sink: Sink) -> None:
    """Append the lowest and highest value, and by chance one of them for each, right on average."""
    low, high = float(values.min()), float(values.max())
    chance = (values.astype(np.float64) - low) / (high - low if high > low else 1.0)
    sink.symbols.append(pack(chance > uniform(key, values.size)))
    sink.rest.append(np.array([low, high], "<f4"))


def read_bits(count: int, source: Source) -> Floats:
    """Undo `write_bits`: the low or the high level."""
    source.budget.spend(6 * count, source.rest.place)
    low, high = read_floats(2, source)
    require(low <= high, NumberError, source.rest.place, f"low must not exceed high: {low}, {high}")
    values: Floats = np.where(unpack(source.symbols, count), high, low).astype(np.float32)
    return values


def read_floats(count: int, source: Source, low: float = -np.inf) -> Floats:
    """Read scales, steps or levels.

    Raises:
        NumberError: One is not finite, or below ``low``.
    """
    values = source.rest.take(4 * count).view("<f4").astype(np.float32)
    require(
        bool(np.isfinite(values).all()) and bool((values >= low).all()),
        NumberError,
        source.rest.place,
        "scales, steps and levels must be finite, scales and steps not negative",
    )
    return values


def _scaled(levels: Array, scale: Array, source: Source) -> Floats:
    """Levels times their scale; a finite scale can still be so large that a value is not."""
    with np.errstate(over="ignore"):
        values = (levels * scale).astype(np.float32)
    require(
        bool(np.isfinite(values).all()),
        NumberError,
        source.rest.place,
        "a level times its scale must be finite",
    )
    return values


def _sizes(values: Floats) -> tuple[float, NDArray[np.int64]]:
    """The largest size, and all sizes as whole 65536ths of it."""
    largest = float(np.abs(values).max(initial=0.0))
    parts = np.rint(np.abs(values).astype(np.float64) * (_FINE / (largest or 1.0))).astype(np.int64)
    return largest, parts


def _mean_size(values: Floats) -> float:
    largest, parts = _sizes(values)
    return largest * (int(parts.sum()) / (_FINE * max(1, values.size)))


def _root_mean_square(values: Floats) -> float:
    largest, parts = _sizes(values)
    return largest * float(np.sqrt(int((parts * parts).sum()) / values.size)) / _FINE
