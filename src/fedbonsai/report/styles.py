"""How a run looks in every chart: a colour, a dash and a mark, never a colour alone."""

from dataclasses import dataclass

from fedbonsai.report.markup import Markup, element

_DASHES = (None, "7 3", "2 3", "9 3 2 3", "12 4")
_MARKS = {
    "circle": "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",
    "square": "M-3-3h6v6h-6z",
    "triangle": "M0-4.2L4 3H-4z",
    "diamond": "M0-4.4L4.4 0L0 4.4L-4.4 0z",
    "wedge": "M0 4.2L4-3H-4z",
    "plus": "M-1.2-4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    "bar": "M-4.2-1.7h8.4v3.4h-8.4z",
    "ring": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0zM-2 0a2 2 0 1 1 4 0a2 2 0 1 1-4 0z",
}
_COLOURS = 6


@dataclass(frozen=True)
class Style:
    """The look of one run.

    Attributes:
        colour: Class that the style sheet gives a colour, in light and in dark.
        dash: Dash pattern of its lines; None draws them through.
        mark: Name of the shape of its points.
    """

    colour: str
    dash: str | None
    mark: str


def styles(count: int, reference: int | None) -> list[Style]:
    """One look a run; the dense reference, which others are seen against, is neutral.

    Args:
        count: Number of runs.
        reference: Position of the dense reference; None when nothing is held against one.
    """
    runs = iter(range(count))
    return [_REFERENCE if position == reference else _look(next(runs)) for position in range(count)]


def marks() -> Markup:
    """The shapes that all charts refer to; stands once in the page."""
    shapes = (element("path", id=f"mark-{name}", d=path) for name, path in _MARKS.items())
    return element("svg", element("defs", *shapes), class_="marks", width=0, height=0, aria_hidden="true")


def swatch(style: Style) -> Markup:
    """A small piece of a run's curve, for legends."""
    line = element("path", class_="curve", d="M0 7H30", stroke_dasharray=style.dash)
    mark = element("use", href=f"#mark-{style.mark}", x=15, y=7)
    return element(
        "svg", line, mark, class_=f"swatch {style.colour}", viewBox="0 0 30 14", width=30, height=14, aria_hidden="true"
    )


def _look(turn: int) -> Style:
    """Six colours, five dashes and seven marks: without a common factor, no two of them come back together early."""
    return Style(f"run{turn % _COLOURS}", _DASHES[turn % len(_DASHES)], _RUN_MARKS[turn % len(_RUN_MARKS)])


_RUN_MARKS = tuple(name for name in _MARKS if name != "ring")
_REFERENCE = Style("reference", "6 2", "ring")
