"""Ranges of settings, written beside the field they bound: checked at construction, shown in help."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedbonsai.core.errors import ConfigError, lookup


@dataclass(frozen=True)
class Range:
    """An interval; an end that is open is not part of it.

    Examples:
        >>> str(DENSITY), 0.0 in DENSITY, 1.0 in DENSITY
        ('(0, 1]', False, True)
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


DENSITY = Range(0, 1, open_low=True)
SHARE = Range(0, 1)
PART = Range(0, 1, open_high=True)
POSITIVE = Range(0, math.inf, open_low=True, open_high=True)
NOT_NEGATIVE = Range(0, math.inf, open_high=True)


@dataclass(frozen=True)
class Only:
    """A setting that only means something while another one has one of some values.

    Attributes:
        field: The other setting.
        values: What it must be; None stands for a setting that was left out.
    """

    field: str
    values: tuple[object, ...]

    def allows(self, value: object) -> bool:
        """Whether the other setting may have ``value``; one that is left out may yet be filled in with what it must be.

        Examples:
            >>> [Only("optimizer", ("sgd",)).allows(value) for value in ("sgd", "adam", None)]
            [True, False, True]
        """
        return value is None or value in self.values

    def __str__(self) -> str:
        return f"{self.field}={'|'.join(str(value) for value in self.values)}"


@dataclass(frozen=True)
class Rounds:
    """Marks a setting that counts rounds: one that is set must lie within the run (see `check_rounds`)."""


ROUNDS = Rounds()


@dataclass(frozen=True)
class FieldInfo:
    """One setting as a person sees it.

    Attributes:
        name: Its name.
        kind: Its type, as text; choices are joined by bars.
        default: Its default.
        range: What it must lie in, and which other setting it belongs to; may be empty.
        choices: What it may be, when it is one of a few words.
    """

    name: str
    kind: str
    default: Any
    range: str
    choices: tuple[str, ...]


def check(instance: Any) -> None:  # noqa: ANN401 - any dataclass
    """Check every field of a dataclass against the range or the choices in its annotation.

    Raises:
        ConfigError: A value is outside; the message says what must hold.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(instance)}
    for name, hint in _hints(type(instance)).items():
        value = getattr(instance, name)
        if value is None:
            continue
        choices = _choices(hint)
        if choices and isinstance(value, str):
            lookup(name, value, choices)
        for one in _ranges(hint):
            if isinstance(value, int | float) and value not in one:
                raise ConfigError(f"{name} must be in {one}, got {value}")
        for only in _walk(hint):
            if isinstance(only, Only) and value != defaults[name] and not only.allows(getattr(instance, only.field)):
                raise ConfigError(
                    f"{name}={value} would not be used: it needs {only}, got {getattr(instance, only.field)}"
                )


def check_rounds(instance: Any, rounds: int) -> None:  # noqa: ANN401 - any dataclass
    """Check that what a dataclass counts in rounds comes within a run; defaults do, as a short run cuts them down.

    Args:
        instance: The dataclass; fields that count rounds are marked with `ROUNDS`.
        rounds: Rounds of the run.

    Raises:
        ConfigError: A round was set that the run does not reach.
    """
    hints = _hints(type(instance))
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if ROUNDS in _walk(hints[field.name]) and value != field.default and value > rounds:
            raise ConfigError(
                f"{field.name} must be at most the {rounds} rounds of the run, got {value}; lower it or leave it out"
            )


def describe(cls: type) -> list[FieldInfo]:
    """The settings of a dataclass, in order."""
    hints = _hints(cls)
    return [
        FieldInfo(
            field.name,
            " | ".join(_choices(hints[field.name])) or _kind(hints[field.name]),
            None if field.default is dataclasses.MISSING else field.default,
            ", ".join(str(one) for one in _walk(hints[field.name]) if isinstance(one, Range | Only)),
            _choices(hints[field.name]),
        )
        for field in dataclasses.fields(cls)
    ]


def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _walk(hint: Any) -> list[Any]:  # noqa: ANN401 - an annotation
    """A hint and everything inside it."""
    return [hint, *(inner for arg in get_args(hint) for inner in _walk(arg))]


def _ranges(hint: Any) -> list[Range]:  # noqa: ANN401 - an annotation
    return [one for one in _walk(hint) if isinstance(one, Range)]


def _choices(hint: Any) -> tuple[str, ...]:  # noqa: ANN401 - an annotation
    return tuple(word for one in _walk(hint) if get_origin(one) is Literal for word in get_args(one))


def _kind(hint: Any) -> str:  # noqa: ANN401 - an annotation
    names = [one.__name__ for one in _walk(hint) if isinstance(one, type) and one is not type(None)]
    return " | ".join(dict.fromkeys(names))
