"""Numbers as people read them. None and what is not finite read ``n/a``."""

import math
from collections.abc import Mapping
from typing import Any

MISSING = "n/a"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def finite(value: float | None) -> bool:
    """Whether there is a value that can be shown: diverged training leaves NaN and infinity behind."""
    return value is not None and math.isfinite(value)


def storable(value: Any) -> Any:  # noqa: ANN401 - anything that JSON holds
    """The same with None for numbers that are not finite, which JSON has no words for.

    Examples:
        >>> storable({"loss": float("nan"), "bytes": {"up": 3}, "rounds": [{"loss": float("inf")}]})
        {'loss': None, 'bytes': {'up': 3}, 'rounds': [{'loss': None}]}
    """
    if isinstance(value, Mapping):
        return {key: storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size(count: float | None) -> str:
    """Bytes in decimal units, three significant digits.

    Examples:
        >>> size(812), size(1_204_000), size(999_900)
        ('812 B', '1.2 MB', '1 MB')
    """
    if count is None or not finite(count):
        return MISSING
    power = 0
    while abs(count) >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {_UNITS[power]}"


def percent(share: float | None) -> str:
    """A share as a percentage: one decimal, two below one percent.

    Examples:
        >>> percent(0.2), percent(0.00123), percent(-0.0)
        ('20.0 %', '0.12 %', '0.0 %')
    """
    if share is None or not finite(share):
        return MISSING
    digits = 2 if 0 < abs(share) < 0.01 else 1
    return f"{round(100 * share, digits) + 0.0:.{digits}f} %"  # + 0.0 turns -0.0 into 0.0


def ratio(part: float, whole: float) -> str:
    """How many times ``whole`` goes into ``part``, two decimals, or two digits of what is below a tenth.

    Examples:
        >>> ratio(28, 100), ratio(34, 10000), ratio(1, 0)
        ('0.28x', '0.0034x', 'n/a')
    """
    if not whole:
        return MISSING
    share = part / whole
    return f"{share:.2f}x" if share >= 0.1 or not share else f"{share:.2g}x"


def metric(value: float | None, name: str) -> str:
    """A metric, an error or a gap: accuracies as percentages, anything else to four significant digits.

    Examples:
        >>> metric(0.9123, "accuracy"), metric(-0.12345, "minus mean absolute error")
        ('91.2 %', '-0.1235')
    """
    if name == "accuracy":
        return percent(value)
    return f"{value + 0.0:.4g}" if value is not None and finite(value) else MISSING


def capital(text: str) -> str:
    """The text with a capital at its start and the rest as it was.

    Examples:
        >>> capital("test F1")
        'Test F1'
    """
    return text[:1].upper() + text[1:]
