"""Losses and metrics on values worked by hand."""

import math

import pytest
import torch
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.learning.losses import LOSSES, Loss, as_loss, cross_entropy, mse, next_token

# Softmax of (0, ln 3) is (1/4, 3/4).
ODDS = [0.0, math.log(3)]


def test_classification():
    outputs, targets = tensor([ODDS, ODDS]), tensor([1, 0])
    assert cross_entropy.function(outputs, targets).item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert cross_entropy.per_example(outputs, targets).tolist() == [1.0, 0.0]
    assert cross_entropy.error(0.75) == 0.25


def test_next_token_scores_every_place_of_a_sequence():
    outputs, targets = tensor([[ODDS, ODDS], [ODDS, ODDS]]), tensor([[1, 1], [1, 0]])
    assert next_token.function(outputs, targets).item() == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)
    assert next_token.per_example(outputs, targets).tolist() == [1.0, 0.5]
    assert next_token.error(1.0) == 0.0


@pytest.mark.parametrize("shape", [(2, 1), (2,)])
def test_regression_may_lack_the_trailing_one(shape):
    outputs, targets = tensor([[1.0], [5.0]]), tensor([2.0, 9.0]).reshape(shape)
    assert mse.function(outputs, targets).item() == (1 + 16) / 2
    assert mse.per_example(outputs, targets).tolist() == [-1.0, -4.0]
    assert mse.error(-2.0) == 2.0


def test_regression_averages_over_the_values_of_an_example():
    outputs, targets = tensor([[1.0, 2.0]]), tensor([[0.0, 5.0]])
    assert mse.function(outputs, targets).item() == (1 + 9) / 2
    assert mse.per_example(outputs, targets).tolist() == [-2.0]


def hinge(outputs, targets):
    return (1 - outputs * targets).clamp(min=0).mean()


def test_the_metric_of_an_own_callable_is_minus_its_loss():
    loss = as_loss(hinge)
    assert (loss.name, loss.metric_name) == ("hinge", "minus loss")
    outputs, targets = tensor([0.5, -1.0]), tensor([1.0, 1.0])
    assert loss.per_example(outputs, targets).tolist() == [-1.25, -1.25]
    assert loss.error(-1.25) == 1.25


def test_an_own_metric_replaces_that_of_the_loss():
    loss = as_loss("cross_entropy", lambda outputs, targets: torch.full((len(targets),), 7.0), "sevens")
    assert loss.function is cross_entropy.function
    assert (loss.name, loss.metric_name, loss.best) == ("cross_entropy", "sevens", 0.0)
    assert loss.per_example(tensor([ODDS]), tensor([1])).tolist() == [7.0]


def test_names_and_losses_are_taken_as_they_are():
    assert all(as_loss(name) is as_loss(loss) is loss for name, loss in LOSSES.items())
    assert as_loss(own := Loss("own", hinge)) is own


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="unknown loss 'mae'; did you mean 'mse'"):
        as_loss("mae")
