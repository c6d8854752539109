"""Tasks: every example of a client lands in exactly one part, and any data set becomes one pool."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor
from torch.utils.data import TensorDataset

from fedbonsai.core.errors import DataError
from fedbonsai.learning.losses import cross_entropy
from fedbonsai.learning.task import Pool, Task, as_pool, split

INPUTS, TARGETS = torch.arange(12.0).reshape(4, 3), tensor([0, 1, 2, 1])


def model():
    return nn.Linear(3, 3)


def parts(one):
    return [part.tolist() for part in (one.train, one.validation, one.holdout)]


shares = st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.999])


@settings(deadline=None)
@given(st.integers(0, 40), shares, shares, st.integers(0, 5))
def test_a_split_is_complete_disjoint_and_the_same_again(count, validation, holdout, seed):
    positions = torch.arange(100, 100 + count)
    found = split(positions, validation, holdout, seed, client=3)
    train, kept, held = parts(found)
    assert sorted(train + kept + held) == positions.tolist()
    assert parts(split(positions, validation, holdout, seed, client=3)) == [train, kept, held]
    assert train or not count
    assert bool(kept) == (validation > 0 and count >= 3)
    assert bool(held) == (holdout > 0 and count >= 3)


@pytest.mark.parametrize(
    ("count", "validation", "holdout", "sizes"),
    [
        (1, 0.5, 0.5, [1, 0, 0]),
        (2, 0.5, 0.5, [2, 0, 0]),
        (3, 0.5, 0.5, [1, 1, 1]),
        (3, 0.1, 0.0, [2, 1, 0]),
        (10, 0.2, 0.3, [5, 2, 3]),
        (10, 0.5, 0.9, [1, 1, 8]),
        (10, 0.0, 0.0, [10, 0, 0]),
    ],
)
def test_sizes_of_parts(count, validation, holdout, sizes):
    found = split(torch.arange(count), validation, holdout, seed=0, client=0)
    assert [len(part) for part in parts(found)] == sizes


def test_seed_and_client_decide_the_split():
    def train(**given):
        return split(torch.arange(40), 0.5, 0.0, **given).train.tolist()

    assert train(seed=1, client=1) == train(seed=1, client=1)
    assert len({tuple(train(seed=seed, client=client)) for seed in (1, 2) for client in (1, 2)}) == 4


class Squares:
    """As much of a data set as is needed: a length and items."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[list[float], int]:
        return [float(index), float(index) ** 2], index


def test_pairs_tensor_data_sets_and_any_other_become_pools():
    pool = Pool(INPUTS, TARGETS)
    assert as_pool(pool) is pool
    assert as_pool((INPUTS, TARGETS)).inputs is INPUTS
    assert as_pool(TensorDataset(INPUTS, TARGETS)).targets is TARGETS
    squares = as_pool(Squares())
    assert squares.inputs.tolist() == [[0, 0], [1, 1], [2, 4]]
    assert squares.targets.tolist() == [0, 1, 2]
    assert len(as_pool([])) == 0


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(INPUTS, TARGETS, TARGETS),
        [(torch.ones(2), 0), (torch.ones(3), 0)],
        [("a word", 0)],
        [torch.ones(3)],
        [7],
    ],
    ids=["triples", "two shapes", "words", "no targets", "no pairs"],
)
def test_items_that_are_no_pairs_of_tensors_are_refused(data):
    with pytest.raises(DataError, match=r"must give \(input, target\) tensors of one shape; ."):
        as_pool(data)


def test_a_pool_needs_a_target_for_every_input():
    with pytest.raises(DataError, match="inputs and targets must be equally many, got 4 and 3"):
        Pool(INPUTS, TARGETS[:3])


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_inputs_stay_small_and_class_numbers_become_int64_a_batch_at_a_time(kind):
    pool = Pool(torch.full((3, 2), 255, dtype=torch.uint8), tensor([0, 1, 2], dtype=kind), lambda one: one / 255)
    inputs, targets = pool.batch(tensor([2, 0]))
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.uint8, kind)
    assert inputs.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert (targets.dtype, targets.tolist()) == (torch.int64, [2, 0])


def test_targets_of_a_regression_stay_as_they_are():
    pool = Pool(INPUTS, torch.ones(4, 2))
    inputs, targets = pool.batch(tensor([1]))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.float32)


def test_the_data_of_all_clients_come_to_lie_in_one_pool():
    small = INPUTS.to(torch.uint8)
    empty = (torch.empty(0, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    clients = [Pool(small, TARGETS, lambda one: -one.float()), empty, (small[:2] + 50, TARGETS[:2])]
    prepared = Task(model, "cross_entropy", clients, test=(INPUTS, TARGETS)).prepared(0.0, seed=0)
    assert prepared.sizes == [4, 0, 2]
    assert prepared.pool.inputs.dtype == torch.uint8
    assert prepared.loss is cross_entropy
    assert len(prepared.test) == 4
    assert sorted(prepared.splits[0].train.tolist()) == [0, 1, 2, 3]
    inputs, targets = prepared.pool.batch(prepared.splits[2].train.sort().values)
    assert inputs.tolist() == [[-50.0, -51.0, -52.0], [-53.0, -54.0, -55.0]]
    assert targets.tolist() == [0, 1]


def test_clients_may_share_a_pool():
    pool = Pool(INPUTS, TARGETS)
    shared = Task(model, "mse", pool, pool, positions=[tensor([3, 1]), tensor([0, 1, 2])]).prepared(0.0, seed=0)
    assert shared.pool is pool
    assert [sorted(one.train.tolist()) for one in shared.splits] == [[1, 3], [0, 1, 2]]
    alone = Task(model, "mse", pool, pool).prepared(0.0, seed=0)
    assert sorted(alone.splits[0].train.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("clients", "positions", "said"),
    [
        ([], None, "need at least one example in all, got none"),
        ([(INPUTS[:0], TARGETS[:0])], None, "need at least one example in all, got none"),
        (Pool(INPUTS, TARGETS), [], "a task needs at least one client, got none"),
        (
            [(INPUTS, TARGETS), (INPUTS[:, :2], TARGETS)],
            None,
            r"the inputs of all clients must have one shape, got \[\(2,\), \(3,\)\]",
        ),
        (
            [(INPUTS, TARGETS), (INPUTS, INPUTS)],
            None,
            r"the targets of all clients must have one shape, got \[\(\), \(3,\)\]",
        ),
    ],
)
def test_data_that_do_not_fit_together_are_refused(clients, positions, said):
    with pytest.raises(DataError, match=said):
        Task(model, "mse", clients, (INPUTS, TARGETS), positions=positions).prepared(0.1, seed=0)


def test_an_own_metric_reaches_the_prepared_task():
    task = Task(model, "mse", [(INPUTS, INPUTS)], (INPUTS, INPUTS), metric=lambda outputs, targets: outputs[:, 0])
    prepared = task.prepared(0.0, seed=0)
    assert prepared.loss.per_example(INPUTS, INPUTS).tolist() == [0, 3, 6, 9]


def test_splits_are_drawn_for_those_who_take_part_and_kept_up_to_a_number(monkeypatch):
    monkeypatch.setattr("fedbonsai.learning.task.SPLITS", 2)
    pool = Pool(torch.arange(40).view(20, 2), torch.zeros(20))
    positions = [torch.arange(7), torch.arange(7, 10), torch.arange(10, 11), torch.arange(11, 20)]
    splits = Task(model, "mse", pool, pool, positions=positions).prepared(0.3, seed=5, holdout=0.2).splits
    assert splits.sizes == [4, 1, 1, 4]
    for client in (0, 3, 1, 2, 0):
        drawn, alone = splits[client], split(positions[client], 0.3, 0.2, 5, client)
        assert len(splits._drawn) <= 2
        assert splits[client] is drawn
        for part in ("train", "validation", "holdout"):
            assert getattr(drawn, part).tolist() == getattr(alone, part).tolist()
        assert len(drawn.train) == splits.sizes[client]
