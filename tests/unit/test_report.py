"""The table, the sentence and the curves of a report: numbers that can be worked out by hand."""

import math

import pytest
from golden.results import make_result, three_runs
from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.core.errors import ConfigError
from fedbonsai.report import axes, formats
from fedbonsai.report.figures import gather, thinned, traffic
from fedbonsai.report.runs import KINDS, Point, checked, curve, dense_reference, labels
from fedbonsai.report.story import circumstances, story
from fedbonsai.report.styles import styles
from fedbonsai.report.table import comparison


def final(method="local-prune", **changes):
    """A result whose final row is small enough to work out."""
    row = {
        "train_error": 0.05,
        "test_error": 0.1,
        "generalization_gap": 0.05,
        "test_metric": 0.9,
        "metric": "accuracy",
        "parameters": 1000,
        "parameters_kept": 250,
        "density": 0.2,
        "bytes_down": 1_200_000,
        "bytes_up": 300_000,
        "bytes_dense": 6_000_000,
        "seconds": 41.23,
    }
    config = {"method": method, "method_settings": {}, "dataset": "digits"}
    return {"schema": 1, "name": "run", "config": config, "rounds": [], "final": row | changes}


def test_the_table_shows_every_column_of_a_run():
    assert comparison([final()]) == [
        [
            "run", "test accuracy", "training error", "test error", "gap", "parameters kept", "bytes down", "bytes up",
            "ratio to dense", "seconds",
        ],
        ["local-prune", "90.0 %", "5.0 %", "10.0 %", "5.0 %", "250 (25.0 %)", "1.2 MB", "300 kB", "0.25x", "41.2"],
    ]  # fmt: skip


def test_a_regression_has_plain_numbers_and_mixed_metrics_have_a_plain_heading():
    regression = final(metric="minus mean absolute error", test_metric=-0.12345, test_error=0.12345)
    header, row = comparison([regression])
    assert (header[1], row[1], row[3]) == ("test minus mean absolute error", "-0.1235", "0.1235")
    assert comparison([regression, final()])[0][1] == "test metric"


def test_what_diverged_or_cannot_be_divided_reads_not_available():
    row = comparison([final(test_metric=None, test_error=math.nan, parameters=0, bytes_dense=0)])[1]
    assert (row[1], row[3], row[5], row[8]) == ("n/a", "n/a", "250 (n/a)", "n/a")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            [final("fedavg", test_metric=0.906), final()],
            "Local-prune kept 20.0 % of the weights, moved 0.25x the bytes of dense training and ended 0.6 points",
        ),
        ([final(), final("fedavg", test_metric=0.88)], "and ended 2.0 points above it."),
        ([final("fedavg", test_metric=0.9003), final()], "ended level with it."),
        ([final()], "and ended at 90.0 % test accuracy."),
        ([final("fedavg", density=1)], "Fedavg kept 100.0 % of the weights"),
        ([final(test_metric=None)], "diverged: its test accuracy is not a number."),
        ([final("fedavg", test_metric=None), final()], "ended at 90.0 % test accuracy."),
        (
            [
                final("fedavg"),
                final("feddst", test_metric=None),
                final("flado", test_metric=0.5),
                final(test_metric=0.6),
            ],
            "Of 3 runs held against dense training, local-prune scored highest: it kept",
        ),
        ([final("feddst"), final(test_metric=0.95)], "Of 2 runs, local-prune scored highest: it kept"),
        (
            [final("fedavg", metric="mae", test_metric=-0.5), final(metric="mae", test_metric=-0.5125)],
            "and ended 0.0125 below it.",
        ),
    ],
)
def test_the_sentence_says_what_the_numbers_say(results, said):
    assert said in story(results)


def test_the_circumstances_count_training_rounds_and_lost_answers():
    run = make_result(stages=("score",), rounds=3)
    for number, row in enumerate(run["rounds"]):
        row["clients"], row["dropped"] = 10 - number, number
    assert (
        circumstances([run]) == "digits · 3 training rounds · 7 to 9 clients a round · 6 client answers lost on the way"
    )
    own = final()
    own["config"]["dataset"], own["final"]["scope"] = None, "personal"
    assert circumstances([own]).startswith("own data · 0 training rounds · personal models are tested on")


def test_names_tell_runs_apart():
    def named(method, **settings):
        return {"config": {"method": method, "method_settings": settings}}

    assert labels([named("feddst", density=0.2, score="magnitude"), named("fedavg", mu=1)]) == ["feddst", "fedavg"]
    assert labels([named("feddst", density=0.2), named("feddst")]) == ["feddst density=0.2", "feddst"]
    assert labels([named("fedavg"), named("fedavg")]) == ["fedavg #1", "fedavg #2"]
    long = labels([named("x" * 70), named("x" * 80)])
    assert all(len(name) < 65 for name in long)
    assert len(set(labels([named("x" * 70)] * 2))) == 2


def test_the_first_fedavg_is_the_dense_reference():
    runs = [final("feddst"), final("fedavg"), final("fedavg")]
    assert dense_reference(runs) is runs[1]
    assert dense_reference(runs[:1]) is None


@pytest.mark.parametrize(("results", "said"), [([], "at least one result"), ([{"schema": 2}], "schema 1, got 2")])
def test_what_cannot_be_reported_is_refused(results, said):
    with pytest.raises(ConfigError, match=said):
        checked(results)


def test_a_curve_skips_stages_and_unknown_values_but_counts_all_bytes():
    def row(number, metric, stage="train"):
        return {"round": number, "stage": stage, "test_metric": metric, "bytes_down": 10, "bytes_up": 5}

    rows = [row(0, 0.5, "score"), row(1, 0.1), row(2, None), row(3, math.nan), row(4, 0.4)]
    result = {"rounds": rows}
    assert [(point.x, point.y) for point in curve(result, "test_metric")] == [(1, 0.1), (4, 0.4)]
    assert [(point.x, point.y) for point in curve(result, "test_metric", "bytes")] == [(30, 0.1), (75, 0.4)]


def test_thinning_keeps_ends_and_peaks():
    points = [Point(number, math.sin(number / 40) + (7 if number == 340 else 0), {}) for number in range(1000)]
    kept = thinned(points, 50)
    assert len(kept) <= 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert points[340] in kept
    assert kept == sorted(kept, key=lambda point: point.x) == thinned(points, 50)
    assert thinned(points[:50], 50) == points[:50]


def test_runs_look_different_without_any_colour():
    looks = styles(12, reference=3)
    assert looks[3].colour == "reference"
    assert len({(look.dash, look.mark) for look in looks}) == 12
    assert len({(look.colour, look.mark) for look in looks}) == 12


real = st.floats(-1e12, 1e12, allow_subnormal=True)


@given(st.lists(real, max_size=20))
def test_an_axis_spans_its_values_with_a_few_increasing_ticks(values):
    axis = axes.spanning("", values, "{:g}".format)
    assert 2 <= len(axis.ticks) <= 8
    assert list(axis.ticks) == sorted(set(axis.ticks))
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= value <= axis.high + slack for value in values)
    assert axis.place(axis.low, 10.0, 90.0) == pytest.approx(10)
    assert axis.place(axis.high, 10.0, 90.0) == pytest.approx(90)


@given(st.lists(st.integers(0, 10**15), max_size=20))
def test_an_axis_from_zero_keeps_its_ticks_within_its_values(values):
    axis = axes.from_zero("", values, "{:g}".format, whole=True)
    assert axis.ticks[0] == 0
    assert axis.high == max([*values, 0]) or 1
    assert all(tick == int(tick) and tick <= axis.high * (1 + 1e-8) for tick in axis.ticks)
    assert len(axis.ticks) <= 6


@given(st.integers(0, 10**18))
def test_a_size_keeps_three_significant_digits(count):
    number, unit = formats.size(count).split()
    assert float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit) == pytest.approx(
        count, rel=5e-3
    )
    assert len(number.replace(".", "")) <= 4


def test_all_kinds_of_bytes_have_bars():
    figures = traffic(gather(three_runs()))
    assert len(figures) == 3
    assert all(figure.count('class="kind0"') == rows for figure, rows in zip(figures, (20, 20, 22), strict=True))
    assert figures[2].count('class="apart"') == 2
    assert all(kind in figures[0] for kind in KINDS)
