"""Charts as inline SVG, by hand: curves, stacked bars, and dots on tracks.

Everything is drawn in a box of 400 units, which shows at about 330 to 540 pixels, so text stays readable on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from fedbonsai.report.axes import Axis
from fedbonsai.report.markup import Markup, coordinate, element, escape, join
from fedbonsai.report.styles import Style

_WIDTH = 400.0
_HEIGHT = 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 390.0, 26.0, 208.0
_ROW, _TRACK = 26.0, 138.0  # height of a row of dots, and where its track starts


@dataclass(frozen=True)
class Spot:
    """One point of a curve; ``note`` shows when a pointer rests on it, and only spots with a note get a mark."""

    x: float
    y: float
    note: str | None = None


@dataclass(frozen=True)
class Dot:
    """One run in a row of dots: its look, its value and what shows when a pointer rests on it."""

    style: Style
    value: float
    note: str


@dataclass(frozen=True)
class Stack:
    """One stacked bar.

    Attributes:
        start: Where it begins along the axis.
        end: Where it ends.
        parts: Heights from below.
        note: Shows when a pointer rests on it.
        apart: Set off from the others by a mark below it.
    """

    start: int
    end: int
    parts: tuple[float, ...]
    note: str
    apart: bool = False


@dataclass(frozen=True)
class Caption:
    """What a chart is called and what it says to somebody who cannot see it; ``key`` makes its ids unique."""

    key: str
    title: str
    description: str


def curves(caption: Caption, x: Axis, y: Axis, lines: Sequence[tuple[Style, Sequence[Spot]]]) -> Markup:
    """Several lines over one pair of axes."""
    return _picture(caption, _HEIGHT, _grid(x, y), *(_curve(style, spots, x, y) for style, spots in lines))


def bars(caption: Caption, x: Axis, y: Axis, stacks: Sequence[Stack]) -> Markup:
    """Stacked bars over one pair of axes."""
    return _picture(caption, _HEIGHT, _grid(x, y), *(_bar(stack, x, y) for stack in stacks))


def dots(caption: Caption, x: Axis, rows: Sequence[tuple[str, Sequence[Dot]]]) -> Markup:
    """One row a name with one dot a run."""
    bottom = _TOP + _ROW * len(rows)
    lines = []
    for tick in x.ticks:
        across = x.place(tick, _TRACK, _RIGHT)
        lines += [_line("grid", across, across, _TOP - 4, bottom), _label(x.write(tick), across, _TOP - 10, "middle")]
    drawn = [_dot_row(name, row, x, _TOP + _ROW * (position + 0.5)) for position, (name, row) in enumerate(rows)]
    return _picture(caption, bottom + 6, *lines, *drawn)


def _picture(caption: Caption, height: float, *children: Markup) -> Markup:
    title, description = f"{caption.key}-title", f"{caption.key}-description"
    return element(
        "svg",
        element("title", escape(caption.title), id=title),
        element("desc", escape(caption.description), id=description),
        *children,
        class_="chart",
        viewBox=f"0 0 {coordinate(_WIDTH)} {coordinate(height)}",
        role="img",
        aria_labelledby=f"{title} {description}",
    )


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for tick in y.ticks:
        height = y.place(tick, _BOTTOM, _TOP)
        parts += [_line("grid", _LEFT, _RIGHT, height, height), _label(y.write(tick), _LEFT - 7, height + 4, "end")]
    for tick in x.ticks:
        parts.append(_label(x.write(tick), x.place(tick, _LEFT, _RIGHT), _BOTTOM + 17, "middle"))
    parts += [
        _line("base", _LEFT, _RIGHT, _BOTTOM, _BOTTOM),
        _label(x.title, _RIGHT, _BOTTOM + 35, "end"),
        _label(y.title, 2, 12, "start"),
    ]
    return join(parts)


def _line(kind: str, left: float, right: float, top: float, bottom: float) -> Markup:
    return element("line", class_=kind, x1=left, x2=right, y1=top, y2=bottom)


def _label(text: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", escape(text), x=x, y=y, text_anchor=anchor)


def _curve(style: Style, spots: Sequence[Spot], x: Axis, y: Axis) -> Markup:
    places = [(x.place(spot.x, _LEFT, _RIGHT), y.place(spot.y, _BOTTOM, _TOP)) for spot in spots]
    path = "L".join(f"{coordinate(across)} {coordinate(down)}" for across, down in places)
    noted = [_mark(style, place, spot.note) for place, spot in zip(places, spots, strict=True) if spot.note is not None]
    line = element("path", class_="curve", d=f"M{path}", stroke_dasharray=style.dash)
    return element("g", line, *noted, class_=style.colour)


def _mark(style: Style, place: tuple[float, float], note: str) -> Markup:
    return element("use", element("title", escape(note)), href=f"#mark-{style.mark}", x=place[0], y=place[1])


def _bar(stack: Stack, x: Axis, y: Axis) -> Markup:
    start, end = x.place(stack.start, _LEFT, _RIGHT), x.place(stack.end, _LEFT, _RIGHT)
    gap, middle = min(2.0, (end - start) / 5), (start + end) / 2
    levels = [y.place(height, _BOTTOM, _TOP) for height in accumulate(stack.parts, initial=0.0)]
    box = {"x": start + gap / 2, "width": end - start - gap}
    pieces = [
        element("rect", class_=f"kind{number}", y=top, height=bottom - top, **box)
        for number, (bottom, top) in enumerate(pairwise(levels))
    ]
    if stack.apart:
        pieces.append(element("use", class_="apart", href="#mark-triangle", x=middle, y=levels[-1] - 7))
    return element("g", element("title", escape(stack.note)), *pieces)


def _dot_row(name: str, row: Sequence[Dot], x: Axis, middle: float) -> Markup:
    spread = min(6.0, 16 / max(1, len(row) - 1))
    track = _line("track", _TRACK, _RIGHT, middle, middle)
    label = element("text", element("title", escape(name)), escape(_shortened(name)), x=2, y=middle + 4)
    placed = []
    if len(row) == 1:  # a run on its own has room for the whole stretch
        end = x.place(row[0].value, _TRACK, _RIGHT)
        placed.append(element("g", _line("stem", _TRACK, end, middle, middle), class_=row[0].style.colour))
    for position, dot in enumerate(row):
        place = x.place(dot.value, _TRACK, _RIGHT), middle + spread * (position - (len(row) - 1) / 2)
        placed.append(element("g", _mark(dot.style, place, dot.note), class_=dot.style.colour))
    return element("g", track, label, *placed)


def _shortened(name: str, most: int = 17) -> str:
    """The end of a long name tells layers apart better than its start."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
