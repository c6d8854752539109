"""The page: whole, small, closed to the outside, and safe whatever the names are."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from golden.results import make_result, three_runs

from fedbonsai.core.errors import ConfigError
from fedbonsai.report.html import render, write_report

HOSTILE = "</title></svg><script>alert(1)</script>\"'<img src=http://example.org/x onerror=y>&amp;]]>"


class Tree(HTMLParser):
    """Collects tags and checks that each is closed where it was opened."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def charts(page):
    """The drawings of a page by their titles; parsing them as XML shows that they are well formed."""
    drawn = [
        ElementTree.fromstring(text)  # noqa: S314 - our own text
        for text in re.findall(r'<svg class="chart".*?</svg>', page)
    ]
    return {chart.findtext("title"): chart for chart in drawn}


def vertices(chart):
    """The corners of every curve of a chart."""
    paths = [path.get("d") for path in chart.iter("path")]
    return [[tuple(map(float, pair.split())) for pair in path[1:].split("L")] for path in paths]


@pytest.mark.parametrize("results", [three_runs()[:1], three_runs()], ids=["run", "comparison"])
def test_the_page_is_well_formed_and_its_references_lead_somewhere(results):
    tree = Tree(render(results, "title"))
    assert tree.open == []
    ids = [value for name, value in tree.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = {one for name, value in tree.attributes if name == "aria-labelledby" for one in value.split()}
    used = {value.removeprefix("#") for name, value in tree.attributes if name == "href" and value.startswith("#")}
    assert named | used <= set(ids)


def test_a_comparison_has_all_charts_with_a_curve_a_run():
    drawn = charts(render(three_runs(), "title"))
    assert list(drawn) == [
        "Test accuracy against rounds",
        "Test accuracy against bytes",
        "Density against rounds",
        "Density per layer at the end",
        "Training loss against rounds",
        "Test loss against rounds",
        "Bytes per round by kind: fedavg",
        "Bytes per round by kind: local-prune",
        "Bytes per round by kind: feddst",
    ]
    assert [len(line) for line in vertices(drawn["Test accuracy against rounds"])] == [20, 20, 10]
    assert [len(line) for line in vertices(drawn["Density against rounds"])] == [20, 20, 20]
    assert all(chart.get("role") == "img" and chart.findtext("desc") for chart in drawn.values())


def test_points_stand_where_their_values_belong():
    result = make_result(rounds=2)
    for row, metric in zip(result["rounds"], (0.25, 1.0), strict=True):
        row["test_metric"] = metric
    (line,) = vertices(charts(render([result], ""))["Test accuracy against rounds"])
    # Rounds 0 to 2 lie between 58 and 390, 20 % to 100 % between 208 and 26.
    assert line == [(224.0, pytest.approx(208 - 182 * 0.05 / 0.8, abs=0.05)), (390.0, 26.0)]


def test_a_run_shows_facts_and_a_comparison_a_table():
    alone, several = render(three_runs()[1:2], ""), render(three_runs(), "")
    assert "<table" not in alone
    assert alone.count("<dt>") - several.count("<dt>") == 9
    assert Tree(several).tags.count("tr") == 4


def test_layers_that_nobody_prunes_are_left_out():
    result = make_result(density=0.2)
    next(layer for layer in result["layers"] if layer["name"] == "dense.bias")["kept"] = 7
    chart = charts(render([result], ""))["Density per layer at the end"]
    names = [text.findtext("title") for text in chart.iter("text") if text.find("title") is not None]
    assert names == ["conv1.weight", "conv2.weight", "dense.weight", "dense.bias", "out.weight"]


def test_hostile_text_stays_text():
    result = make_result(HOSTILE, settings={HOSTILE: HOSTILE}, stages=(HOSTILE,))
    result["name"] = result["config"]["dataset"] = result["environment"]["cpu"] = HOSTILE
    result["final"]["metric"] = result["layers"][0]["name"] = HOSTILE
    page = render([result, make_result()], HOSTILE)
    tree = Tree(page)
    assert tree.open == []
    assert not {"script", "img"} & set(tree.tags)
    assert not [name for name, _ in tree.attributes if name.startswith("on")]
    assert all(chart.findtext("desc") for chart in charts(page).values())


def test_the_page_asks_nobody_for_anything():
    tree = Tree(render(three_runs(), ""))
    assert "script" not in tree.tags
    assert "src" not in dict(tree.attributes)
    assert {value for name, value in tree.attributes if name == "href" and not value.startswith("#")} == {"data:,"}
    assert any("default-src 'none'" in value for name, value in tree.attributes if name == "content")


def test_ten_runs_of_500_rounds_and_60_layers_stay_below_300_kilobytes():
    runs = [make_result(f"method-{number}" + 50 * "x", rounds=500, density=0.1 + number / 20) for number in range(10)]
    for run in runs:
        run["layers"] = [dict(run["layers"][0], name=f"encoder.layers.{number}.weight") for number in range(60)]
    page = render(runs, "")
    assert len(page.encode()) < 300_000
    assert "the largest 24 of 60" in page


def test_equal_results_give_equal_pages():
    assert render(three_runs(), "") == render(three_runs(), "")


def test_what_was_not_recorded_is_left_out():
    result = make_result()
    for row in result["rounds"]:
        row["test_metric"] = row["test_loss"] = None
        del row["bytes_by_kind"], row["stage"]
    del result["layers"]
    page = render([result], "")
    assert list(charts(page)) == ["Density against rounds", "Training loss against rounds"]
    assert "What was sent" not in page
    assert "How it went" not in render([result | {"rounds": []}], "")


def test_nothing_to_report_is_an_error():
    with pytest.raises(ConfigError, match="at least one result"):
        render([], "")


def test_a_report_replaces_the_one_before_or_leaves_it_alone(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(three_runs()[:1], path, title="first")
    write_report(three_runs(), path, title="second")
    written = path.read_text(encoding="utf-8")
    assert "<h1>second</h1>" in written

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(three_runs(), path, title="third")
    assert path.read_text(encoding="utf-8") == written
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_needs_neither_torch_nor_any_extra():
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'tensorboard', 'matplotlib'): sys.modules[name] = None\n"
        "import fedbonsai.report.html, fedbonsai.report.table, fedbonsai.report.tensorboard"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
