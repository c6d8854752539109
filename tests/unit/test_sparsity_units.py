"""Neurons: what belongs to one, what it is worth, and which of them fit into a budget."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.layout import Layout, Slot, Units
from fedbonsai.learning.layout import layout_of
from fedbonsai.sparsity.units import Layer, expand, keep_top_units, layers_of, unit_scores


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(4, 3), {"0": Layer(3, (("0.weight", 1), ("0.bias", 1)), 4)}),
        (nn.Conv2d(2, 5, 3, bias=False), {"0": Layer(5, (("0.weight", 1),), 2 * 9)}),
        (
            nn.LSTM(4, 6),
            {
                "0.0": Layer(
                    6,
                    (("0.weight_ih_l0", 4), ("0.weight_hh_l0", 4), ("0.bias_ih_l0", 4), ("0.bias_hh_l0", 4)),
                    4 * (4 + 6),
                )
            },
        ),
        (nn.GRU(4, 6, bias=False), {"0.0": Layer(6, (("0.weight_ih_l0", 3), ("0.weight_hh_l0", 3)), 3 * (4 + 6))}),
        (nn.Embedding(9, 4), {}),
    ],
)
def test_layers_of_neurons(module, expected):
    assert layers_of(layout_of(nn.Sequential(module, nn.Linear(1, 1)))) == expected


def test_a_bias_whose_weights_belong_to_another_layer_is_no_layer():
    slots = (
        Slot("a.weight", (2, 3), prunable=True, units=Units("a", 2)),
        Slot("b.bias", (2,), units=Units("b", 2)),
    )
    layers = layers_of(Layout(slots))
    assert layers == {"a": Layer(2, (("a.weight", 1),), 3)}
    assert unit_scores({"a.weight": torch.ones(2, 3)}, layers)["a"].tolist() == [1, 1]


def test_a_neuron_is_worth_the_mean_of_its_weights_in_all_tensors():
    # Two neurons with two gates: neuron 0 owns rows 0 and 2, neuron 1 owns rows 1 and 3.
    layers = {"cell": Layer(2, (("ih", 2), ("hh", 2), ("bias", 2)), 6)}
    scores = {
        "ih": tensor([[1.0], [2.0], [3.0], [4.0]]),
        "hh": tensor([[2.0, 3.0], [0.0, 0.0], [4.0, 5.0], [0.0, 6.0]]),
    }
    assert unit_scores(scores, layers)["cell"].tolist() == [18 / 6, 12 / 6]


def test_masks_of_neurons_cover_filters_gates_and_biases():
    layout = layout_of(nn.Sequential(nn.Conv2d(2, 3, 2), nn.LSTM(1, 2), nn.Linear(1, 1)))
    masks = expand({"0": tensor([True, False, True]), "1.0": tensor([False, True])}, layers_of(layout), layout)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {
        name: shape for name, shape in layout.shapes.items() if not name.startswith("2")
    }
    assert masks["0.weight"].flatten(1).float().mean(1).tolist() == [1, 0, 1]
    assert masks["0.bias"].tolist() == [True, False, True]
    assert masks["1.weight_hh_l0"].tolist() == [[False, False], [True, True]] * 4
    assert masks["1.bias_ih_l0"].tolist() == [False, True] * 4
    masks["0.weight"][0, 0, 0, 0] = False  # a mask of its own, no view that repeats one value
    assert masks["0.weight"].sum() == 2 * 8 - 1


LAYERS = {"wide": Layer(2, (("wide", 1),), 10), "slim": Layer(3, (("slim", 1),), 3)}


def kept(wide, slim, budget, floors=None):
    masks = keep_top_units({"wide": torch.tensor(wide), "slim": torch.tensor(slim)}, LAYERS, budget, floors)
    return [mask.nonzero().reshape(-1).tolist() for mask in masks.values()]


@pytest.mark.parametrize(
    ("budget", "floors", "expected"),
    [
        (29, {}, [[0, 1], [0, 1, 2]]),
        (28, {}, [[0, 1], [0, 1]]),
        (13, {}, [[0], [0]]),
        (12, {}, [[0], []]),  # the next best does not fit, and nothing worse takes its place
        (0, {}, [[], []]),
        (0, {"wide": 1, "slim": 2}, [[0], [0, 1]]),  # floors are kept beyond the budget
        (16, {"wide": 1, "slim": 1}, [[0], [0, 1]]),  # what its floor kept already costs nothing again
        (19, {"slim": 3}, [[0], [0, 1, 2]]),
    ],
)
def test_the_best_neurons_fill_the_budget(budget, floors, expected):
    assert kept([9.0, 1.5], [8.0, 2.0, 1.0], budget, floors) == expected


def test_ties_go_to_the_earlier_layer_then_to_the_lower_index():
    assert kept([1.0, 1.0], [1.0, 1.0, 1.0], 26) == [[0, 1], [0, 1]]


def test_what_is_absent_is_not_kept_even_for_a_floor():
    absent = -math.inf
    assert kept([absent, 1.0], [absent, absent, 2.0], 100, {"wide": 2, "slim": 1}) == [[1], [2]]


def test_nan_is_refused():
    with pytest.raises(SupportError, match="scores must be numbers, got NaN"):
        kept([math.nan, 1.0], [1.0, 1.0, 1.0], 3)


few = st.integers(0, 3).map(float)


@settings(deadline=None)
@given(
    wide=st.lists(few, min_size=2, max_size=2),
    slim=st.lists(few, min_size=3, max_size=3),
    budget=st.integers(0, 30),
    floors=st.fixed_dictionaries({"wide": st.integers(0, 2), "slim": st.integers(0, 3)}),
)
def test_no_dropped_neuron_is_better_than_one_kept_above_its_floor(wide, slim, budget, floors):
    scores = {"wide": wide, "slim": slim}
    masks = dict(zip(scores, kept(wide, slim, budget, floors), strict=True))
    spent = sum(len(masks[name]) * LAYERS[name].size for name in scores)
    assert spent <= max(budget, sum(floors[name] * LAYERS[name].size for name in scores))
    assert all(len(masks[name]) >= floors[name] for name in scores)
    above = [min(scores[name][index] for index in masks[name]) for name in scores if len(masks[name]) > floors[name]]
    dropped = [one for name in scores for index, one in enumerate(scores[name]) if index not in masks[name]]
    assert max(dropped, default=0) <= min(above, default=3)
