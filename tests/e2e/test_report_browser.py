"""The report as a browser shows it: narrow and wide, light and dark."""

import re

import pytest
from e2e import chromium
from golden.results import three_runs

from fedbonsai.report.html import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.BINARY is None, reason="needs Debian's chromium: apt-get install chromium"),
]

WIDTHS, SCHEMES = (360, 800, 1600), ("light", "dark")

# What must be read stands out 4.5 : 1 from what is behind it, what must be seen 3 : 1 (WCAG 2.2, 1.4.3 and 1.4.11).
CONTRASTS = {
    "h1": ("color", "body", 4.5),
    ".circumstances": ("color", "body", 4.5),
    ".brand": ("color", "body", 4.5),
    "thead th": ("color", ".scroll", 4.5),
    "tbody td": ("color", ".scroll", 4.5),
    "figcaption": ("color", "figure", 4.5),
    ".chart text": ("fill", "figure", 4.5),
    **{f".curve:is(.{run} *)": ("stroke", "figure", 3.0) for run in ("reference", "run0", "run1")},
    **{f"rect.kind{number}": ("fill", "figure", 3.0) for number in range(3)},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(three_runs(), path, title="Digits: pruned against dense")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(three_runs()[2:], path, title="digits-feddst")
    return path


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)``."""
    channels = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def style(page, selector, name):
    return page.evaluate(f"getComputedStyle(document.querySelector({selector!r}))[{name!r}]")


def test_every_chart_is_drawn_with_a_curve_for_every_run(page, comparison):
    page.open(comparison, width=1600)
    drawn = page.evaluate(
        """[...document.querySelectorAll('.chart')].map(chart => ({
            title: chart.querySelector('title').textContent,
            width: chart.getBoundingClientRect().width,
            curves: [...chart.querySelectorAll('.curve')].filter(curve => curve.getTotalLength() > 50).length,
            bars: [...chart.querySelectorAll('rect')].filter(bar => bar.getBoundingClientRect().height > 1).length,
        }))"""
    )
    assert [chart["curves"] for chart in drawn] == [3, 3, 3, 0, 3, 3, 0, 0, 0]
    assert all(chart["width"] > 300 for chart in drawn)
    assert [chart["bars"] >= 20 for chart in drawn] == 6 * [False] + 3 * [True]
    assert page.evaluate("document.querySelectorAll('tbody tr').length") == 3
    marks = "[...document.querySelectorAll('.chart use')]"
    assert page.evaluate(f"{marks}.every(mark => mark.getBoundingClientRect().width > 3)")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_nothing_sticks_out_and_everything_can_be_read(page, request, kind, width, scheme):
    page.open(request.getfixturevalue(kind), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """[...document.querySelectorAll('figure')].flatMap(figure => {
            const box = figure.getBoundingClientRect();
            return [...figure.querySelectorAll('text, use, rect, .curve')].filter(shape => {
                const own = shape.getBoundingClientRect();
                return own.left < box.left || own.right > box.right || own.top < box.top || own.bottom > box.bottom;
            }).map(shape => shape.outerHTML);
        })"""
    )
    assert outside == []
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll('.chart')].map(chart =>
            parseFloat(getComputedStyle(chart.querySelector('text')).fontSize)
            * chart.getBoundingClientRect().width / chart.viewBox.baseVal.width))"""
    )
    assert smallest >= 10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_stand_out(page, comparison, scheme):
    page.open(comparison, width=1600, scheme=scheme)
    for selector, (name, behind, least) in CONTRASTS.items():
        colours = style(page, selector, name), style(page, behind, "background-color")
        assert contrast(*colours) >= least, (selector, colours)


def test_dark_is_dark_and_light_is_light(page, comparison):
    seen = {}
    for scheme in SCHEMES:
        page.open(comparison, width=800, scheme=scheme)
        seen[scheme] = luminance(style(page, "body", "background-color"))
    assert seen["light"] > 0.8
    assert seen["dark"] < 0.05


def test_the_name_of_a_run_stays_in_sight_while_its_row_scrolls(page, comparison):
    page.open(comparison, width=360)
    page.evaluate("document.querySelector('.scroll').scrollLeft = 10000")
    cells = "document.querySelector('tbody tr')"
    name, last = (
        page.evaluate(f"{cells}.{one}.getBoundingClientRect().toJSON()") for one in ("firstChild", "lastChild")
    )
    assert name["left"] >= 0
    assert name["right"] < last["left"]
    assert last["right"] <= 360


def test_it_asks_for_nothing_and_says_nothing_wrong(page, comparison):
    page.send("Log.enable")
    page.open(comparison, width=800)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.requests() == [comparison.as_uri()]
    assert not [event for event in page.events if event.get("method") == "Log.entryAdded"]
    assert comparison.stat().st_size < 300_000


def test_it_needs_no_script(page, comparison):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(comparison, width=800)
        without = page.picture()
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
    page.open(comparison, width=800)
    assert without == page.picture()
    assert len(without) > 50_000  # an empty page of this size is a tenth of that
