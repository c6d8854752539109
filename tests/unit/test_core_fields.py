"""Ranges, choices and settings that need another one: checked at construction, described for people."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import (
    DENSITY,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    ROUNDS,
    SHARE,
    Only,
    Range,
    check,
    check_rounds,
    describe,
)


@dataclass(frozen=True)
class Settings:
    rate: Annotated[float, POSITIVE]
    count: Annotated[int, Range(1, 9)] = 1
    kind: Literal["plain", "fancy"] = "plain"
    ribbon: Annotated[float, PART, Only("kind", ("fancy",))] | None = 0.5
    density: Annotated[float, DENSITY] | None = None
    names: tuple = field(default_factory=tuple)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("interval", "text", "inside", "outside"),
    [
        (DENSITY, "(0, 1]", [0.001, 1], [0, -1, 1.001]),
        (SHARE, "[0, 1]", [0, 1], [-0.001, 1.001]),
        (PART, "[0, 1)", [0, 0.999], [-0.001, 1]),
        (POSITIVE, "(0, inf)", [1e-300, 1e300], [0, math.inf]),
        (NOT_NEGATIVE, "[0, inf)", [0, 1e300], [-1e-300, math.inf]),
    ],
)
def test_the_ends_of_a_range(interval, text, inside, outside):
    assert str(interval) == text
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in [*outside, math.nan])


@pytest.mark.parametrize(
    "given",
    [{}, {"count": 9}, {"density": 1.0}, {"kind": "fancy", "ribbon": 0.0}, {"kind": "fancy"}, {"ribbon": None}],
)
def test_what_lies_in_its_range_is_taken(given):
    Settings(rate=0.1, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0.0}, r"rate must be in \(0, inf\), got 0.0"),
        ({"rate": math.nan}, "rate must be in .*, got nan"),
        ({"count": 10}, r"count must be in \[1, 9\], got 10"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"ribbon": 0.25}, "ribbon=0.25 would not be used: it needs kind=fancy, got plain"),
        ({"ribbon": 1.0, "kind": "fancy"}, r"ribbon must be in \[0, 1\), got 1.0"),
    ],
)
def test_what_does_not_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Settings(**{"rate": 0.1} | given)


def test_a_word_that_is_no_choice_is_refused():
    with pytest.raises(ConfigError, match="unknown kind 'fncy'; did you mean 'fancy'"):
        Settings(rate=0.1, kind="fncy")


def test_settings_are_described_in_order():
    rows = {one.name: (one.kind, one.default, one.range, one.choices) for one in describe(Settings)}
    assert rows == {
        "rate": ("float", None, "(0, inf)", ()),
        "count": ("int", 1, "[1, 9]", ()),
        "kind": ("plain | fancy", "plain", "", ("plain", "fancy")),
        "ribbon": ("float", 0.5, "[0, 1), kind=fancy", ()),
        "density": ("float", None, "(0, 1]", ()),
        "names": ("tuple", None, "", ()),
    }
    assert list(rows) == ["rate", "count", "kind", "ribbon", "density", "names"]


@dataclass(frozen=True)
class Paced:
    period: Annotated[int, Range(1, 100), ROUNDS] = 10
    batches: Annotated[int, Range(1, 100)] = 1


def test_a_round_that_is_set_lies_within_the_run_and_a_default_fits_any():
    check_rounds(Paced(), 1)
    check_rounds(Paced(period=3, batches=50), 3)
    with pytest.raises(ConfigError, match="period must be at most the 3 rounds of the run, got 4; lower it"):
        check_rounds(Paced(period=4), 3)
