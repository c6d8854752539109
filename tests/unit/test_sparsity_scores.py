"""Scores against numbers worked by hand."""

import pytest
import torch
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.seeds import generator
from fedbonsai.sparsity.scores import (
    SCORES,
    batch_norm_scale,
    change,
    filter_norms,
    geometric_median,
    grasp,
    random,
    score,
    synflow,
)

WEIGHT, GRADIENT = tensor([2.0, -3.0, 0.0]), tensor([-1.0, 0.5, 4.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [2.0, 3.0, 0.0]),
        ("gradient", [1.0, 0.5, 4.0]),
        ("taylor", [2.0, 1.5, 0.0]),
        ("squared-gradient", [1.0, 0.25, 16.0]),
    ],
)
def test_scores_of_weight_and_gradient(name, expected):
    assert score(name, {"w": WEIGHT}, {"w": GRADIENT})["w"].tolist() == expected
    if name != "magnitude":
        with pytest.raises(ConfigError, match="needs gradients"):
            SCORES[name](WEIGHT, None)


def test_grasp_is_signed():
    assert grasp(WEIGHT, GRADIENT).tolist() == [-2.0, -1.5, 0.0]


def test_synflow_is_a_size():
    assert synflow(WEIGHT, GRADIENT).tolist() == [2.0, 1.5, 0.0]


def test_change_is_how_far_a_weight_has_moved():
    assert change(WEIGHT, tensor([2.0, -1.0, 0.5])).tolist() == [0.0, 2.0, 0.5]


def test_the_norm_of_a_filter_is_over_all_its_weights():
    filters = tensor([[[3.0], [4.0]], [[-5.0], [12.0]]])
    assert filter_norms(filters).tolist() == [5.0, 13.0]
    assert filter_norms(filters, order=1.0).tolist() == [7.0, 17.0]


def test_the_filter_in_the_middle_is_the_replaceable_one():
    # (0, 0), (3, 4), (6, 8): distances 5 and 10, 5 and 5, 10 and 5.
    filters = tensor([[[0.0], [0.0]], [[3.0], [4.0]], [[6.0], [8.0]]])
    assert geometric_median(filters).tolist() == [15.0, 10.0, 15.0]


def test_equal_filters_are_at_no_distance():
    assert geometric_median(tensor([[1e3, 1e-3], [1e3, 1e-3]])).tolist() == [0.0, 0.0]


def test_the_scale_of_a_batch_norm_is_a_size():
    assert batch_norm_scale(tensor([-0.5, 0.25])).tolist() == [0.5, 0.25]


def test_random_scores_follow_from_the_generator_alone():
    one, two, other = (random(torch.zeros(50), generator(seed, "scores")) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert ((one >= 0) & (one < 1)).all()
