"""Mask updates: a swap changes exactly twice its count, grows the absent alone, and leaves the rest as it was."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.seeds import generator
from fedbonsai.sparsity.updates import drop_and_grow, n_of_m, redistribute, swappable

few = st.integers(-2, 2).map(float)  # few values, so that most are tied
extreme = st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf])


@st.composite
def swaps(draw):
    """A mask, importance and promise, and a count that can be swapped."""
    size = draw(st.integers(1, 16))
    mask = tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    importance, promise = (tensor(draw(st.lists(extreme, min_size=size, max_size=size))) for _ in range(2))
    present = int(mask.sum())
    return mask, importance, promise, draw(st.integers(0, min(present, size - present)))


@given(swaps())
def test_a_swap_differs_in_twice_its_count_and_keeps_as_many(given):
    mask, importance, promise, count = given
    before = mask.clone()
    after = drop_and_grow(mask, importance, promise, count)
    assert int((after != mask).sum()) == 2 * count
    assert int(after.sum()) == int(mask.sum())
    assert torch.equal(mask, before)


@given(swaps())
def test_the_least_important_go_and_the_most_promising_come(given):
    mask, importance, promise, count = given
    after = drop_and_grow(mask, importance, promise, count)
    dropped, stayed, grown, left = mask & ~after, mask & after, after & ~mask, ~mask & ~after
    if count and stayed.any():
        assert importance[dropped].max() <= importance[stayed].min()
    if count and left.any():
        assert promise[grown].min() >= promise[left].max()


@given(swaps())
def test_what_is_not_looked_at_does_not_matter(given):
    mask, importance, promise, count = given
    after = drop_and_grow(mask, importance, promise, count)
    noisy = drop_and_grow(mask, torch.where(mask, importance, torch.nan), torch.where(mask, torch.nan, promise), count)
    assert torch.equal(after, noisy)


def test_ties_go_to_the_lower_index():
    mask = tensor([True, True, True, False, False, False])
    assert drop_and_grow(mask, torch.ones(6), torch.ones(6), 1).tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("count", [-1, 2])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(SupportError, match=r"count must be in \[0, 1\]"):
        drop_and_grow(tensor([True, True, False]), torch.ones(3), torch.ones(3), count)


def test_nan_that_is_looked_at_is_refused():
    with pytest.raises(SupportError, match="NaN"):
        drop_and_grow(tensor([True, False]), tensor([torch.nan, 0.0]), torch.ones(2), 0)
    with pytest.raises(SupportError, match="NaN"):
        drop_and_grow(tensor([True, False]), torch.ones(2), tensor([0.0, torch.nan]), 1)


def test_what_can_be_swapped():
    masks = {"full": torch.ones(4).bool(), "half": tensor([True, True, False, False]), "empty": torch.zeros(3).bool()}
    assert swappable(masks, 1.0) == {"full": 0, "half": 2, "empty": 0}
    assert swappable(masks, 0.5) == {"full": 0, "half": 1, "empty": 0}
    assert swappable(masks, 0.4) == {"full": 0, "half": 0, "empty": 0}


def test_density_moves_to_where_weights_are_large_by_hand():
    # Half of each layer's 4 present weights go, the smaller ones: 4 in all. Means 6 and 2: 3 are grown in a, 1 in b.
    masks = {name: torch.arange(12) < 4 for name in "ab"}
    weights = {"a": torch.zeros(12), "b": torch.zeros(12)}
    weights["a"][:4], weights["b"][:4] = tensor([3.0, -9.0, 8.0, 4.0]), tensor([-3.0, 3.0, 1.0, 1.0])
    after = redistribute(masks, weights, 0.5, generator(0, "regrow"))
    assert after["a"][:4].tolist() == [False, True, True, False]
    assert after["b"][:4].tolist() == [True, True, False, False]
    assert [int(after[name][4:].sum()) for name in "ab"] == [3, 1]


def test_what_is_grown_at_random_follows_from_the_generator():
    masks, weights = {"w": torch.arange(40) < 20}, {"w": torch.arange(40.0)}
    one, two, other = (redistribute(masks, weights, 0.5, generator(seed, "regrow"))["w"] for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=4), st.floats(0, 1), st.data())
def test_what_is_redistributed_is_as_much_and_grows_among_the_absent(rows, share, data):
    masks = {str(place): tensor([True, *row]) for place, row in enumerate(rows)}
    weights = {
        name: tensor(data.draw(st.lists(few, min_size=len(mask), max_size=len(mask)))) for name, mask in masks.items()
    }
    after = redistribute(masks, weights, share, generator(0, "regrow"))
    dropped = swappable(masks, share)
    assert sum(int(one.sum()) for one in after.values()) == sum(int(one.sum()) for one in masks.values())
    assert {name: int((masks[name] & ~after[name]).sum()) for name in masks} == dropped
    assert sum(int((after[name] & ~masks[name]).sum()) for name in masks) == sum(dropped.values())


@given(st.integers(1, 4), st.integers(1, 10), st.integers(1, 6), st.data())
def test_n_of_m_keeps_the_best_n_of_every_run(rows, columns, m, data):
    n = data.draw(st.integers(1, m))
    scores = tensor(data.draw(st.lists(few, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)
    mask = n_of_m(scores, n, m)
    for run, kept in zip(scores.split(m, dim=1), mask.split(m, dim=1), strict=True):
        for scored, chosen in zip(run.tolist(), kept.tolist(), strict=True):
            best = sorted(range(len(scored)), key=lambda place: (-scored[place], place))[:n]
            assert [place for place, one in enumerate(chosen) if one] == sorted(best)


def test_n_of_m_runs_over_all_input_dimensions_of_a_row():
    # A filter of 2 channels of 1 x 3: runs of 4 and 2 in its 6 weights.
    scores = tensor([[[[1.0, 2.0, 3.0]], [[4.0, 6.0, 5.0]]]])
    assert n_of_m(scores, 1, 4).tolist() == [[[[False, False, False]], [[True, True, False]]]]


def test_n_of_m_takes_a_vector_as_one_row():
    assert n_of_m(tensor([1.0, 2.0, 4.0, 3.0, 6.0, 5.0]), 1, 4).tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4)])
def test_n_of_m_needs_n_in_range(n, m):
    with pytest.raises(SupportError, match=r"n must be in \[1, m\]"):
        n_of_m(torch.ones(1, 4), n, m)


def test_n_of_m_refuses_nan():
    with pytest.raises(SupportError, match="NaN"):
        n_of_m(tensor([[torch.nan, 1.0]]), 1, 2)
