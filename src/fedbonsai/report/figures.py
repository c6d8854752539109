"""The charts of a report, made from the contents of ``result.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from fedbonsai.report import axes, charts, formats
from fedbonsai.report.charts import Caption, Dot, Spot, Stack
from fedbonsai.report.markup import Markup, element, escape
from fedbonsai.report.runs import (
    KINDS,
    Point,
    Result,
    curve,
    dense_reference,
    is_training,
    labels,
    layer_densities,
    metric_name,
)
from fedbonsai.report.styles import Style, styles

_LAYERS = 24  # rows of the chart by layer; a taller one is not read


@dataclass(frozen=True)
class Run:
    """One result with its name and its look."""

    name: str
    result: Result
    style: Style


def gather(results: Sequence[Result]) -> list[Run]:
    """Give every result a name and a look; the dense reference among several looks neutral."""
    reference = dense_reference(results) if len(results) > 1 else None
    position = next((place for place, result in enumerate(results) if result is reference), None)
    looks = styles(len(results), position)
    return [Run(*parts) for parts in zip(labels(results), results, looks, strict=True)]


def courses(runs: Sequence[Run]) -> list[Markup]:
    """What changed while it trained, and what was left of each layer."""
    metric = metric_name([run.result for run in runs])
    tested = _Course("test_metric", f"test {metric}", percent=metric == "accuracy")
    drawn = [
        _lines(runs, tested),
        _lines(runs, replace(tested, against="bytes")),
        _lines(runs, _Course("density", "density", percent=True, from_zero=True)),
        _layers(runs),
        _lines(runs, _Course("train_loss", "training loss", from_zero=True)),
        _lines(runs, _Course("test_loss", "test loss", from_zero=True)),
    ]
    return [figure for figure in drawn if figure is not None]


def traffic(runs: Sequence[Run]) -> list[Markup]:
    """Bytes per round by kind, one chart a run, all on one scale."""
    most = min(60, max(12, 240 // len(runs)))
    stacks = [_stacks(run.result["rounds"], most) for run in runs]
    y = axes.spanning("bytes a round", [0, *(sum(bar.parts) for bars in stacks for bar in bars)], formats.size)
    figures = []
    for position, (run, bars) in enumerate(zip(runs, stacks, strict=True)):
        if bars:
            x = axes.from_zero("rounds so far, every stage", [bars[-1].end], "{:g}".format, whole=True)
            title = f"Bytes per round by kind: {run.name}"
            description = f"From the first round to the last: {bars[0].note}; {bars[-1].note}."
            figures.append(_figure(title, charts.bars(Caption(f"traffic{position}", title, description), x, y, bars)))
    return figures


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Leave at most ``most`` points: the ends, and the lowest and the highest of every stretch between them.

    Unlike every n-th point, that keeps the peaks. Equal input gives equal output.
    """
    if len(points) <= most:
        return list(points)
    inner, stretches = len(points) - 2, (most - 2) // 2
    kept = {0, len(points) - 1}
    for number in range(stretches):
        stretch = range(1 + inner * number // stretches, 1 + inner * (number + 1) // stretches)
        kept |= {min(stretch, key=lambda at: points[at].y), max(stretch, key=lambda at: points[at].y)}
    return [points[at] for at in sorted(kept)]


@dataclass(frozen=True)
class _Course:
    """One column of the rounds to be drawn over the rounds or over the bytes moved."""

    key: str
    title: str
    against: Literal["rounds", "bytes"] = "rounds"
    percent: bool = False
    from_zero: bool = False

    def write(self, value: float) -> str:
        return _percent(value) if self.percent else f"{value:.4g}"


def _lines(runs: Sequence[Run], course: _Course) -> Markup | None:
    most = max(40, 600 // len(runs))
    lines = [(run, thinned(curve(run.result, course.key, course.against), most)) for run in runs]
    drawn = [(run.style, _spots(run.name, points, course, len(runs))) for run, points in lines if points]
    if not drawn:
        return None
    across = [spot.x for _, spots in drawn for spot in spots]
    down = [spot.y for _, spots in drawn for spot in spots]
    if course.against == "rounds":
        x = axes.from_zero("training rounds", across, "{:g}".format, whole=True)
    else:
        x = axes.from_zero("bytes moved, both directions", across, formats.size)
    y = axes.spanning(course.title, [0.0, *down] if course.from_zero else down, course.write)
    title = f"{formats.capital(course.title)} against {course.against}"
    ends = "; ".join(str(spots[-1].note) for _, spots in drawn)
    return _figure(title, charts.curves(Caption(f"{course.key}-{course.against}", title, ends), x, y, drawn))


def _spots(name: str, points: Sequence[Point], course: _Course, runs: int) -> list[Spot]:
    """Marks stand apart, so that they can be told from each other; the last point always has one."""
    apart = -(-len(points) // max(6, 72 // runs))
    spots = []
    for position, point in enumerate(points):
        note = None
        if (len(points) - 1 - position) % apart == 0:
            bytes_ = f" and {formats.size(point.x)}" if course.against == "bytes" else ""
            note = f"{name}: {course.title} {course.write(point.y)} after round {point.row['round']}{bytes_}"
        spots.append(Spot(point.x, point.y, note))
    return spots


def _layers(runs: Sequence[Run]) -> Markup | None:
    layers = [layer for run in runs for layer in run.result.get("layers", ())]
    sizes = {layer["name"]: layer["parameters"] for layer in layers if _can_be_pruned(layer)}
    if not sizes:
        return None
    largest = set(sorted(sizes, key=lambda name: -sizes[name])[:_LAYERS])
    rows = [(name, _dots(runs, name)) for name in sizes if name in largest]
    title = "Density per layer at the end"
    if len(sizes) > _LAYERS:
        title += f" (the largest {_LAYERS} of {len(sizes)})"
    description = "; ".join(dot.note for _, row in rows for dot in row)
    x = axes.from_zero("", [1.0], _percent)
    return _figure(title, charts.dots(Caption("layers", title, description), x, rows))


def _can_be_pruned(layer: Mapping[str, Any]) -> bool:
    """Biases and norms stay whole nearly everywhere; rows that say so would hide the others."""
    return len(layer["shape"]) > 1 or bool(layer["kept"] < layer["parameters"])


def _dots(runs: Sequence[Run], layer: str) -> list[Dot]:
    known = [(run, layer_densities(run.result)) for run in runs]
    return [
        Dot(run.style, densities[layer], f"{run.name}: {formats.percent(densities[layer])} of {layer}")
        for run, densities in known
        if layer in densities
    ]


def _stacks(rows: Sequence[Mapping[str, Any]], most: int) -> list[Stack]:
    """One bar a round; longer runs have the mean of several rounds in each."""
    known = [row for row in rows if "bytes_by_kind" in row]
    count = min(len(known), most)
    cuts = [len(known) * number // count for number in range(count + 1)] if count else []
    return [_stack(known[start:end], start) for start, end in pairwise(cuts)]


def _stack(rows: Sequence[Mapping[str, Any]], start: int) -> Stack:
    parts = tuple(sum(row["bytes_by_kind"][kind] for row in rows) / len(rows) for kind in KINDS)
    stages = " and ".join(dict.fromkeys(row.get("stage", "train") for row in rows))
    first, last = rows[0]["round"], rows[-1]["round"]
    when = f"round {first}" if first == last else f"mean of rounds {first} to {last}"
    told = ", ".join(f"{formats.size(part)} {kind}" for kind, part in zip(KINDS, parts, strict=True))
    apart = not all(map(is_training, rows))
    return Stack(start, start + len(rows), parts, f"{when} ({stages}): {told}", apart)


def _figure(title: str, chart: Markup) -> Markup:
    return element("figure", element("figcaption", escape(title)), chart)


def _percent(share: float) -> str:
    """Like `formats.percent`, without the digits that say nothing on an axis."""
    return f"{100 * share:.4g} %"
