"""Which weights are kept: counts are exact, ties go to the lower index, and nothing that is no number gets in."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from fedbonsai.core.errors import ConfigError, SupportError
from fedbonsai.sparsity.masks import above, keep_top, keep_top_global
from fedbonsai.sparsity.schedules import cubic
from fedbonsai.sparsity.scores import SCORES, score

few = st.integers(-2, 2).map(float)  # few values, so that most scores are tied
scores_with_count = st.lists(few | st.sampled_from([math.inf, -math.inf]), min_size=1, max_size=12).flatmap(
    lambda scores: st.tuples(st.just(scores), st.integers(0, len(scores)))
)


def best(scores, count):
    """Positions of the best, by sorting: the higher score, then the lower position."""
    return set(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count])


@settings(deadline=None)
@given(scores_with_count)
def test_the_best_are_kept_and_ties_go_to_the_lower_index(given):
    scores, count = given
    mask = keep_top(torch.tensor(scores), count)
    assert set(mask.nonzero().reshape(-1).tolist()) == best(scores, count)


@given(st.lists(st.sampled_from([-math.inf, -math.inf, -math.inf, 0.0, 1.0, 2.0]), min_size=1, max_size=40), st.data())
def test_of_scores_most_of_which_are_nowhere_the_same_are_kept(values, data):
    count = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    expected = [place in order[:count] for place in range(len(values))]
    assert keep_top(tensor(values), count).tolist() == expected
    if count:
        with pytest.raises(SupportError, match="NaN"):
            keep_top(tensor([*values, math.nan]), count)


def test_a_mask_has_the_shape_of_its_scores():
    assert keep_top(tensor([[1.0, 1.0], [1.0, 2.0]]), 2).tolist() == [[True, False], [False, True]]
    assert keep_top(torch.empty(0, 3), 0).shape == (0, 3)


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(SupportError, match=rf"count must be in \[0, 3\], got {count}"):
        keep_top(torch.ones(3), count)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nan_is_refused_whatever_is_kept(count):
    with pytest.raises(SupportError, match="scores must be numbers, got NaN"):
        keep_top(tensor([1.0, math.nan]), count)


@st.composite
def layers(draw):
    """Scores of up to four layers, a floor for some of them, and a count that all floors fit into."""
    scores = {str(key): draw(st.lists(few, min_size=1, max_size=6)) for key in range(draw(st.integers(1, 4)))}
    floors = {name: draw(st.integers(0, len(one))) for name, one in scores.items() if draw(st.booleans())}
    return scores, floors, draw(st.integers(sum(floors.values()), sum(map(len, scores.values()))))


@settings(deadline=None)
@given(layers())
def test_over_all_layers_floors_come_first_and_the_best_of_the_rest_after(given):
    scores, floors, count = given
    places = [(name, index) for name, one in scores.items() for index in range(len(one))]
    kept = {(name, index) for name, floor in floors.items() for index in best(scores[name], floor)}
    rest = [place for place in places if place not in kept]
    kept |= {rest[index] for index in best([scores[name][index] for name, index in rest], count - len(kept))}
    masks = keep_top_global({name: torch.tensor(one) for name, one in scores.items()}, count, floors)
    assert {place for place in places if masks[place[0]][place[1]]} == kept


def test_masks_over_all_layers_keep_their_shapes():
    masks = keep_top_global({"a": torch.ones(2, 2), "b": torch.full((3,), 2.0)}, 4)
    assert masks["a"].tolist() == [[True, False], [False, False]]
    assert masks["b"].all()


@pytest.mark.parametrize(
    ("count", "floors", "said"),
    [
        (2, {"a": 1, "b": 2}, r"count must be in \[3, 5\], the floors together and all there is, got 2"),
        (6, {}, r"count must be in \[0, 5\], the floors together and all there is, got 6"),
        (5, {"a": 3}, r"count must be in \[0, 2\], got 3"),
    ],
)
def test_counts_and_floors_that_do_not_fit_are_refused(count, floors, said):
    with pytest.raises(SupportError, match=said):
        keep_top_global({"a": torch.ones(2), "b": torch.ones(3)}, count, floors)


@pytest.mark.parametrize(
    ("scale", "threshold", "kept"),
    [
        ("absolute", 3.0, [False, True]),  # what equals the threshold is pruned
        ("layer_std", 0.8, [True, True]),  # root mean square of 3 and 4 is 3.54
        ("layer_std", 1.0, [False, True]),
        ("layer_max", 0.74, [True, True]),
        ("layer_max", 0.75, [False, True]),
        ("layer_max", 1.0, [False, False]),
    ],
)
def test_a_threshold_prunes_what_does_not_exceed_it(scale, threshold, kept):
    assert above({"w": tensor([3.0, 4.0])}, threshold, scale)["w"].tolist() == kept


def test_scales_are_those_of_each_layer():
    masks = above({"small": tensor([0.1, 0.2]), "large": tensor([10.0, 20.0])}, 0.9, "layer_max")
    assert [mask.tolist() for mask in masks.values()] == [[False, True], [False, True]]


def test_an_unknown_scale_is_refused():
    with pytest.raises(ConfigError, match="unknown threshold scale 'layer_sdt'; did you mean 'layer_std'"):
        above({"w": torch.ones(1)}, 0.1, "layer_sdt")


@pytest.mark.parametrize(
    ("importance", "expected"), [("magnitude", [2.0, 3.0]), ("gradient", [5.0, 0.5]), ("taylor", [10.0, 1.5])]
)
def test_scores_by_hand(importance, expected):
    scores = score(importance, {"w": tensor([-2.0, 3.0])}, {"w": tensor([5.0, -0.5])})
    assert scores["w"].tolist() == expected


def test_magnitude_needs_no_gradients_and_the_others_do():
    assert score("magnitude", {"w": tensor([-1.0])})["w"].tolist() == [1.0]
    for importance in SCORES.keys() - {"magnitude"}:
        with pytest.raises(ConfigError, match="this importance needs gradients, got none"):
            score(importance, {"w": torch.ones(1)})


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ConfigError, match="fc: the taylor score must be a number everywhere, got NaN"):
        score("taylor", {"fc": torch.zeros(1)}, {"fc": tensor([math.inf])})
    with pytest.raises(ConfigError, match="unknown importance 'magnitud'"):
        score("magnitud", {})


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(0.01, 1))
def test_the_cubic_schedule_only_falls_and_meets_its_ends(progress, end):
    earlier, later = sorted(progress)
    assert cubic(-1.0, 1.0, end) == cubic(0.0, 1.0, end) == pytest.approx(1.0)
    assert cubic(2.0, 1.0, end) == cubic(1.0, 1.0, end) == end
    assert cubic(earlier, 1.0, end) >= cubic(later, 1.0, end)
