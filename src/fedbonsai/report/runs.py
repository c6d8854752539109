"""Reading the contents of ``result.json``: what runs are called, which one is dense, and their curves."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from fedbonsai.core.errors import ConfigError
from fedbonsai.report.formats import finite

Result = Mapping[str, Any]
"""The contents of one ``result.json``, schema 1."""

SCHEMA = 1

KINDS = ("values", "supports", "overhead")
"""What the bytes of a round are made of."""


@dataclass(frozen=True)
class Point:
    """One training round on a curve.

    Attributes:
        x: Training rounds finished, or bytes moved so far in both directions, other stages included.
        y: The value that is drawn; finite.
        row: The round it comes from.
    """

    x: float
    y: float
    row: Mapping[str, Any]


def checked(results: Sequence[Result]) -> Sequence[Result]:
    """Return ``results`` when there is something to report and this version can read it.

    Raises:
        ConfigError: There is no result, or one is of another schema.
    """
    if not results:
        raise ConfigError("a report needs at least one result, got none; pass the contents of a result.json")
    for result in results:
        if result.get("schema") != SCHEMA:
            raise ConfigError(
                f"a result must have schema {SCHEMA}, got {result.get('schema')!r}; use the version that wrote it"
            )
    return results


def dense_reference(results: Iterable[Result]) -> Result | None:
    """The run that others are measured against: the first one of method ``fedavg``."""
    return next((result for result in results if result["config"]["method"] == "fedavg"), None)


def metric_name(results: Iterable[Result]) -> str:
    """What the test metric is called, or just ``metric`` where the runs differ in it."""
    names = {str(result["final"]["metric"]) for result in results}
    return names.pop() if len(names) == 1 else "metric"


def labels(results: Sequence[Result]) -> list[str]:
    """Short and different names: the method, the settings that tell it from its namesakes, at last a number.

    Examples:
        >>> def run(method, **settings):
        ...     return {"name": "run", "config": {"method": method, "method_settings": settings}}
        >>> labels([run("fedavg"), run("feddst", density=0.2), run("feddst", density=0.1), run("fedavg")])
        ['fedavg #1', 'feddst density=0.2', 'feddst density=0.1', 'fedavg #2']
    """
    described = [_described(result, results) for result in results]
    total, seen, names = Counter(described), Counter[str](), []
    for name in described:
        seen[name] += 1
        names.append(f"{name} #{seen[name]}" if total[name] > 1 else name)
    return names


def curve(result: Result, key: str, against: Literal["rounds", "bytes"] = "rounds") -> list[Point]:
    """One column of the rounds as a curve.

    Stages other than training have no place among the training rounds, so they give no point; their bytes count.
    Rounds without a finite value are left out.
    """
    moved = accumulate(row["bytes_down"] + row["bytes_up"] for row in result["rounds"])
    return [
        Point(row["round"] if against == "rounds" else total, row[key], row)
        for row, total in zip(result["rounds"], moved, strict=True)
        if is_training(row) and finite(row[key])
    ]


def is_training(row: Mapping[str, Any]) -> bool:
    """Whether a row is a training round rather than a stage of its method."""
    return bool(row.get("stage", "train") == "train")


def layer_densities(result: Result) -> dict[str, float]:
    """Share of the weights of each layer that is present at the end, by name; empty when it was not recorded."""
    return {
        layer["name"]: layer["kept"] / layer["parameters"] for layer in result.get("layers", ()) if layer["parameters"]
    }


def _described(result: Result, results: Sequence[Result]) -> str:
    method, own = result["config"]["method"], result["config"].get("method_settings", {})
    namesakes = [one["config"].get("method_settings", {}) for one in results if one["config"]["method"] == method]
    telling = [key for key in own if any(other.get(key) != own[key] for other in namesakes)]
    return _clipped(" ".join([method, *(f"{key}={own[key]}" for key in telling)]))


def _clipped(name: str, most: int = 60) -> str:
    """A name stands in legends and in hundreds of notes; a long one would swamp both."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
