"""Axes of charts: which values they span, where the ticks stand and what is written there."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Format = Callable[[float], str]
"""A value to the text of its tick."""


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        title: What is measured, with its unit where the ticks do not say it.
        low: The value at its start.
        high: The value at its end; above ``low``.
        ticks: The values that are written out, increasing, within [``low``, ``high``].
        write: The text of a tick.
    """

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    write: Format

    def place(self, value: float, start: float, end: float) -> float:
        """Where ``value`` lies on a stretch of the drawing from ``start`` to ``end``."""
        return start + (end - start) * (value - self.low) / (self.high - self.low)


def spanning(title: str, values: Iterable[float], write: Format) -> Axis:
    """An axis that reaches out to round numbers on both sides of ``values``.

    Examples:
        >>> spanning("accuracy", [0.12, 0.93], "{:g}".format).ticks
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    low, high = _bounds(values)
    step = nice_step((high - low) / 5)
    first = math.floor(low / step + _NOISE)
    ticks = _multiples(step, first, max(first + 1, math.ceil(high / step - _NOISE)))
    return Axis(title, ticks[0], ticks[-1], ticks, write)


def from_zero(title: str, values: Iterable[float], write: Format, *, whole: bool = False) -> Axis:
    """An axis from zero to the greatest of ``values``; ``whole`` keeps the ticks at whole numbers.

    Examples:
        >>> from_zero("rounds", [1, 2, 3], "{:g}".format, whole=True).ticks
        (0.0, 1.0, 2.0, 3.0)
    """
    high = max(values, default=0.0)
    high = high if high > 0 else 1.0
    step = nice_step(high / 5)
    step = max(1.0, step) if whole else step
    return Axis(title, 0.0, high, _multiples(step, 0, math.floor(high / step + _NOISE)), write)


def nice_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least ``least`` (above zero).

    Examples:
        >>> nice_step(0.3), nice_step(2), nice_step(70)
        (0.5, 2.0, 100.0)
    """
    least = max(least, 1e-300)  # a fifth of the smallest float is zero, which has no logarithm
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - _NOISE))


_NOISE = 1e-9  # below any step, above the rounding of a few operations


def _multiples(step: float, first: int, last: int) -> tuple[float, ...]:
    return tuple(float(f"{step * count:.12g}") for count in range(first, last + 1))


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest value; where they are one, the stretch from zero to it: an axis needs a length."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low <= _NOISE * max(abs(low), abs(high)):
        return (min(low, 0.0), max(high, 0.0)) if low else (0.0, 1.0)
    return low, high
