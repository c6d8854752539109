"""Budgets: exact counts that add up to the whole, no layer over its size or under its floor."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from fedbonsai.core.errors import ConfigError, SupportError
from fedbonsai.core.seeds import generator
from fedbonsai.sparsity.budgets import (
    BUDGETS,
    erk,
    jittered,
    keep_counts,
    lamp,
    layer_counts,
    select,
    spread,
    uniform,
)

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def demands(draw):
    """Shares, layers and floors of up to five layers, and a count that fits between the floors and the whole."""
    shapes = {str(place): draw(sizes) for place in range(draw(st.integers(1, 5)))}
    shares = {name: draw(st.floats(0, 100)) for name in shapes}
    floors = {name: draw(st.integers(0, math.prod(shape))) for name, shape in shapes.items() if draw(st.booleans())}
    whole = sum(math.prod(shape) for shape in shapes.values())
    return shares, shapes, draw(st.integers(sum(floors.values()), whole)), floors


@given(demands())
def test_counts_add_up_and_stay_between_floor_and_size(given):
    shares, shapes, count, floors = given
    counts = spread(shares, shapes, count, floors)
    assert sum(counts.values()) == count
    assert all(floors.get(name, 0) <= counts[name] <= math.prod(shapes[name]) for name in shapes)


@given(demands())
def test_without_floors_a_layer_that_asks_for_more_gets_no_less(given):
    shares, shapes, count, _ = given
    alike = dict.fromkeys(shapes, (9, 9))
    counts = spread(shares, alike, min(count, 81 * len(alike)))
    by_share = sorted(shares, key=shares.__getitem__)
    assert all(counts[one] <= counts[two] + 1 for one, two in itertools.pairwise(by_share))


@pytest.mark.parametrize(
    ("shares", "count", "floors", "expected"),
    [
        # Thirds of 10: 3.33 each; the one left over goes to the first of equal remainders.
        ({"a": 1, "b": 1, "c": 1}, 10, {}, {"a": 4, "b": 3, "c": 3}),
        # a asks for 8 of 10 and has 5: b and c share the other 5.
        ({"a": 8, "b": 1, "c": 1}, 10, {}, {"a": 5, "b": 3, "c": 2}),
        # c asks for nothing and has a floor of 2: a and b share the other 4.
        ({"a": 1, "b": 1, "c": 0}, 6, {"c": 2}, {"a": 2, "b": 2, "c": 2}),
        # Nobody asks: alike.
        ({"a": 0, "b": 0, "c": 0}, 6, {}, {"a": 2, "b": 2, "c": 2}),
        ({"a": 1, "b": 2, "c": 3}, 15, {}, {"a": 5, "b": 5, "c": 5}),
        ({"a": 1, "b": 2, "c": 3}, 0, {}, {"a": 0, "b": 0, "c": 0}),
    ],
)
def test_what_a_full_layer_cannot_take_goes_to_the_others(shares, count, floors, expected):
    assert spread(shares, dict.fromkeys(shares, (5,)), count, floors) == expected


@pytest.mark.parametrize(("count", "floors"), [(11, {}), (-1, {}), (3, {"a": 2, "b": 2})])
def test_a_count_that_cannot_be_met_is_refused(count, floors):
    with pytest.raises(SupportError, match="count must be in"):
        spread({"a": 1, "b": 1}, {"a": (5,), "b": (5,)}, count, floors)


def test_uniform_is_one_density_and_erk_is_dimensions_over_size():
    shapes = {"conv": (8, 4, 3, 3), "fc": (10, 100)}
    assert uniform(shapes) == {"conv": 288, "fc": 1000}
    assert erk(shapes) == {"conv": 18, "fc": 110}
    # 128 of 1288: uniform 128 * 288 / 1288 = 28.6 and 99.4; erk 18 and 110.
    assert layer_counts("uniform", shapes, 128) == {"conv": 29, "fc": 99}
    assert layer_counts("erk", shapes, 128) == {"conv": 18, "fc": 110}


def test_noise_multiplies_sizes_by_what_is_evenly_around_one():
    shapes = {str(place): (5, 2) for place in range(2000)}
    noisy = tensor(list(jittered(shapes, 0.5, generator(0, "noise")).values()))
    assert 5.0 <= float(noisy.min()) < 5.1
    assert 14.9 < float(noisy.max()) < 15.0
    assert float(noisy.mean()) == pytest.approx(10.0, abs=0.3)
    assert jittered({"a": (2, 3), "b": (4,)}, 0.0, generator(0, "noise")) == {"a": 6.0, "b": 4.0}


def test_erk_keeps_a_small_layer_whole():
    # 80 asked: 5 / (5 + 29) of 80 is 11.8 of 6; the other 74 go to the large one.
    assert layer_counts("erk", {"small": (2, 3), "large": (9, 20)}, 80) == {"small": 6, "large": 74}


def test_an_unknown_budget_is_refused():
    with pytest.raises(ConfigError, match="budget"):
        layer_counts("erg", {"a": (2, 2)}, 1)
    with pytest.raises(ConfigError, match="budget"):
        select({"a": torch.ones(2)}, 1, "erg")


def test_lamp_by_hand():
    # Squares 9, 16, 1, in falling order 16 / 16, 9 / 25, 1 / 26; a layer of zeros scores nothing.
    found = lamp({"w": tensor([[3.0, -4.0], [1.0, 0.0]]), "zero": torch.zeros(2)})
    torch.testing.assert_close(found["w"], tensor([[9 / 25, 1.0], [1 / 26, 0.0]]))
    assert found["zero"].tolist() == [0.0, 0.0]


@given(st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=20))
def test_lamp_keeps_the_order_within_a_layer_and_its_best_scores_one(values):
    magnitudes = tensor(values).abs()
    found = lamp({"w": magnitudes})["w"]
    if float(magnitudes.max()) > 1e-3:
        assert float(found[int(magnitudes.argmax())]) == pytest.approx(1.0) or magnitudes.unique().numel() < len(values)
    order = torch.sort(magnitudes, stable=True).indices
    assert (found[order].diff() >= 0).all()


@st.composite
def scored(draw):
    """Scores of a few layers with many ties, floors, and a count that fits."""
    few = st.integers(0, 3).map(float)
    shapes = {str(place): draw(sizes) for place in range(draw(st.integers(1, 4)))}
    scores = {
        name: tensor(draw(st.lists(few, min_size=math.prod(s), max_size=math.prod(s)))).reshape(s)
        for name, s in shapes.items()
    }
    floors = {name: draw(st.integers(0, 1)) for name in scores}
    return scores, floors, draw(st.integers(sum(floors.values()), sum(one.numel() for one in scores.values())))


@pytest.mark.parametrize("budget", BUDGETS)
@given(scored())
def test_every_budget_keeps_exactly_the_count_and_the_floors(budget, given):
    scores, floors, count = given
    masks = select(scores, count, budget, floors)
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    assert all(int(masks[name].sum()) >= floor for name, floor in floors.items())
    assert all(masks[name].shape == one.shape for name, one in scores.items())


def test_layers_compare_their_scores_only_under_a_global_budget():
    scores = {"a": tensor([5.0, 4.0, 3.0, 3.0]), "b": tensor([2.0, 1.0, 0.5, 0.1])}
    kept = {budget: [int(mask.sum()) for mask in select(scores, 4, budget).values()] for budget in BUDGETS}
    # lamp: a 1, 16/41, 9/50, 9/59 (ties in a row); b 1, 1/5, 0.25/5.25, 0.01/5.26: two each.
    assert kept == {"global": [4, 0], "uniform": [2, 2], "erk": [2, 2], "lamp": [2, 2]}


def test_ties_go_to_the_lower_index():
    assert keep_counts({"w": torch.ones(4)}, {"w": 2})["w"].tolist() == [True, True, False, False]
    assert select({"a": torch.ones(2), "b": torch.ones(2)}, 3)["b"].tolist() == [True, False]


@pytest.mark.parametrize("share", [math.inf, math.nan, -1.0])
def test_shares_that_are_no_numbers_are_refused(share):
    with pytest.raises(SupportError, match="shares must be finite and at least 0"):
        spread({"a": share, "b": 1.0}, {"a": (2,), "b": (2,)}, 2)


def test_lamp_ranks_scores_whose_squares_are_beyond_single_precision():
    # 1 of 1 + 4 and 4 of 4, however large or small; beside an infinite score the others are nothing.
    for scale in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(lamp({"w": tensor([1.0, 2.0]) * scale})["w"], tensor([0.2, 1.0]))
    assert lamp({"w": tensor([math.inf, 1.0, math.inf])})["w"].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_score_that_is_no_number_is_refused_under_every_budget(budget):
    with pytest.raises(SupportError, match="scores must be numbers"):
        select({"a": tensor([1.0, math.nan, 2.0]), "b": tensor([3.0, 4.0])}, 2, budget)
