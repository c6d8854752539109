"""HTML and SVG as text that cannot be mixed up with text from outside."""

import html
from collections.abc import Iterable
from typing import NewType

Markup = NewType("Markup", str)
"""Text that is safe to put into a page: made by `escape` or `element` and by nothing else."""

_VOID = ("meta", "link")  # the tags of these pages that HTML forbids to close


def escape(text: object) -> Markup:
    """Return ``text`` so that a browser shows it as it is.

    Examples:
        >>> escape("<b> & 'c'")
        '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return Markup(html.escape(str(text)))


def join(parts: Iterable[Markup]) -> Markup:
    """Put markup side by side."""
    return Markup("".join(parts))


def element(name: str, /, *children: Markup, **attributes: str | float | None) -> Markup:
    """Return one element; attribute values are escaped, numbers get at most one decimal, None is left out.

    Args:
        name: Name of the tag.
        children: What stands inside.
        attributes: ``_`` stands for ``-``; a trailing one is dropped (``class_``).

    Examples:
        >>> element("rect", x=1.04, width=10.0, class_="bar", stroke_width=None)
        '<rect x="1" width="10" class="bar"></rect>'
        >>> element("p", escape("a < b"))
        '<p>a &lt; b</p>'
    """
    written = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _VOID else f"{join(children)}</{name}>"
    return Markup(f"<{name}{written}>{end}")


def coordinate(value: float) -> str:
    """A number of the drawing, to a tenth of a unit: finer is not seen, and costs bytes."""
    return f"{value:.1f}".removesuffix(".0")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else coordinate(value)
