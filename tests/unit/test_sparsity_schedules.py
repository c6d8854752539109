"""Schedules: they begin and end where they say, go one way, and fit into a run of any length."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.sparsity.schedules import SCHEDULES, Every, Ramp

densities = st.floats(0.01, 1.0)
each = pytest.mark.parametrize("shape", SCHEDULES)


@each
@given(densities, densities, st.floats(0, 5))
def test_a_schedule_begins_and_ends_where_it_says_and_stays_there(shape, start, end, beyond):
    schedule = SCHEDULES[shape]
    assert schedule(0.0, start, end) == pytest.approx(start)
    assert schedule(-beyond, start, end) == pytest.approx(start)
    assert schedule(1.0, start, end) == pytest.approx(end)
    assert schedule(1.0 + beyond, start, end) == pytest.approx(end)


@each
@given(densities, densities, st.floats(0, 1), st.floats(0, 1))
def test_a_schedule_goes_one_way(shape, start, end, one, two):
    first, second = (SCHEDULES[shape](progress, start, end) for progress in sorted((one, two)))
    assert (second - first) * (end - start) >= -1e-9


def test_half_way_by_hand():
    # From 1 to 0.25: the mean 0.625; 0.25 + 0.75 / 8; the mean again; the root of 0.25.
    halves = {"one-shot": 1.0, "linear": 0.625, "cubic": 0.34375, "cosine": 0.625, "exponential": 0.5}
    assert {shape: pytest.approx(one(0.5, 1.0, 0.25)) for shape, one in SCHEDULES.items()} == halves


@given(st.integers(1, 200), st.integers(1, 300), st.floats(0.01, 1))
def test_there_is_a_time_in_every_run_and_none_after_its_end(rounds, period, until):
    every = Every.over(rounds, period, until)
    due = [one for one in range(1, rounds + 1) if every.due(one)]
    assert due
    assert due[-1] == every.last <= max(1, round(until * rounds))
    assert all(two - one == every.period for one, two in itertools.pairwise(due))
    assert not any(every.due(one) for one in range(every.until + 1, 2 * rounds + 2))


def test_what_is_swapped_falls_to_nothing():
    every = Every(period=1, until=4)
    # 0.4 times half of 1 + cos(pi t / 4).
    assert [every.share(t, 0.4) for t in (0, 2, 4)] == pytest.approx([0.4, 0.2, 0.0])


@each
@given(st.integers(1, 60), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.05, 1))
def test_a_ramp_reaches_its_target_in_a_run_of_any_length(shape, rounds, warmup, further, target):
    ramp = Ramp.over(rounds, warmup, min(1.0, warmup + further + 0.01), target, shape)
    found = [ramp.density(finished) for finished in range(rounds + 1)]
    assert found[-1] == pytest.approx(target)
    assert all(two <= one + 1e-9 for one, two in itertools.pairwise(found))
    assert all(density == 1.0 for density in found[: max(ramp.start - 1, 0)])


@pytest.mark.parametrize(
    ("density", "metric", "expected"),
    [
        # Half of a metric is new: the drops from 1 are 1/8, 1/4 and 3/8, where 1/8 is accepted. The factor is 1/4.
        (0.25, 0.75, 0.0625),
        (0.25, 0.5, 0.25),
        (0.25, 0.25, 1.0),
        (0.125, 0.75, 0.0625),  # never below the target
        (0.125, 0.25, 0.5),
        (0.5, 0.25, 1.0),  # nor above everything
    ],
)
def test_a_density_falls_while_the_metric_holds_rests_and_grows_back(density, metric, expected):
    ramp = Ramp(start=1, end=3, target=0.0625)
    before = {"density": density, "metric": 1.0, "best": 1.0}
    smoothed = {"metric": (1.0 + metric) / 2, "best": 1.0}
    assert ramp.followed(before, metric, finished=2, slack=0.125) == {"density": expected, **smoothed}
    assert ramp.followed(before, metric, finished=1, slack=0.125) == {"density": density, **smoothed}


def test_the_first_metric_is_taken_as_it_is_and_a_better_one_becomes_the_best():
    ramp = Ramp(start=0, end=2, target=0.25)
    first = ramp.followed({"density": 1.0}, 0.75, finished=0, slack=0.0)
    assert first == {"density": 1.0, "metric": 0.75, "best": 0.75}
    assert ramp.followed(first, 1.25, finished=1, slack=0.0) == {"density": 0.5, "metric": 1.0, "best": 1.0}
