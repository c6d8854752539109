"""What every method promises, checked on every method."""

import functools
import pickle
from dataclasses import replace

import pytest
import torch
from contract.cases import CASES, DENSE, NO_DENSE_LIMIT, WORK, each_method, make
from contract.federation import (
    CLIENTS,
    ENGINES,
    asked,
    finished,
    make_bench,
    make_run,
    memory_of,
    net_of,
    reference,
    same_bits,
    same_memory,
    same_message,
    same_run,
    watched,
)

from fedbonsai import wire
from fedbonsai.core.state import Memory
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.round import run_round
from fedbonsai.learning.learner import Learner
from fedbonsai.methods import METHODS
from fedbonsai.methods.fedavg import FedAvg


def test_every_method_has_a_case_and_a_dense_limit_or_a_reason_why_not():
    assert set(CASES) == set(DENSE) | set(NO_DENSE_LIMIT) == set(METHODS)
    assert not set(DENSE) & set(NO_DENSE_LIMIT)


@each_method
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "local"])
def test_a_copy_on_any_engine_with_answers_in_any_order_gives_the_same_bits(method, engine):
    copy = pickle.loads(pickle.dumps(method))  # noqa: S301 - a test of users' own pickles
    assert copy == method
    assert hash(copy) == hash(method)
    assert same_run(reference(method), finished(copy, engine=engine))


@each_method
def test_a_run_learns(method):
    holdout = 0.2 if method.traits.personal else 0.0
    bench = make_bench(net_of(method), holdout=holdout, **WORK.get(method.name, {}))
    if not bench.has_batch_norm:
        bench = replace(bench, kernel="stack")  # several clients at a time, as `test_kernels` holds to be the same
    rows = finished(method, rounds=8, cohort=CLIENTS, bench=bench, every=8).rows
    assert rows[-1]["test_metric"] > 0.45 > 1 / 3  # chance


@each_method
def test_shapes_and_types_are_kept(method):
    bench, state = make_bench(net_of(method)), reference(method).state
    assert {name: one.shape for name, one in state.weights.items()} == {
        name: one.shape for name, one in bench.initial.items()
    }
    assert all(one.dtype == torch.float32 for one in state.weights.values())


@each_method
def test_what_is_dropped_is_exactly_zero(method):
    state = reference(method).state
    for name, support in state.supports.items():
        assert not state.weights[name][~support.indicator()].any()


@each_method
def test_no_round_changes_what_it_was_given(method):
    run = watched(method)
    assert len(run.states) == 1 + len(run.checkpoint.rows)
    assert all(same_bits(copy, state.weights) for copy, state in zip(run.copies, run.states, strict=True))


@each_method
def test_client_work_changes_neither_task_nor_memory(method):
    run, state = after_a_round(method)
    bench = run.bench
    task = asked(method, state, 0)
    before, memory = wire.encode(task), memory_of(run, 0)
    copy = Memory({name: one.clone() for name, one in memory.tensors.items()}, dict(memory.numbers))
    method.work(task, memory, Learner(bench, 0, turn=1, progress=0.25))
    assert wire.encode(task) == before
    assert same_memory(memory, copy)


@each_method
def test_a_run_resumed_twice_equals_one_that_never_stopped(method, tmp_path):
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            make_run(method, directory=tmp_path).run(_interrupt_after(stop))
    assert same_run(reference(method), finished(method, directory=tmp_path))


@each_method
def test_bytes_lose_nothing_of_an_update(method):
    run, state = after_a_round(method)
    update, _ = method.work(asked(method, state, 1), memory_of(run, 1), Learner(run.bench, 1))
    assert same_message(wire.decode(wire.encode(update)), update)


@each_method
def test_the_sum_of_every_stage_does_not_depend_on_the_order_of_the_cohort(method):
    bench = make_bench(net_of(method))
    run = make_run(method, bench=bench)
    state = run.start().state
    for _ in range(4):
        updates = [method.work(asked(method, state, one), Memory(), Learner(bench, one))[0] for one in range(CLIENTS)]
        one, two = Total(method.plan(state).stage), Total(method.plan(state).stage)
        for client, update in enumerate(updates):
            one.add(replace(update, client=client))
        for client, update in reversed(list(enumerate(updates))):
            two.add(replace(update, client=client))
        first, second = method.finalize(state, one), method.finalize(state, two)
        assert first.density == second.density
        for name in first.weights:
            torch.testing.assert_close(first.weights[name], second.weights[name], rtol=1e-5, atol=1e-6)
        if one.stage == "train":
            return
        state = replace(first, turn=state.turn + 1)
    pytest.fail("four stages and no training")


@each_method
def test_the_ledger_counts_encoded_bytes_of_both_directions(method):
    run = make_run(method)
    state = run.start().state
    sent, came = [], []
    submit, following = run.engine.submit, run.engine.next

    def spy_submit(client, task):
        sent.append(len(task))
        submit(client, task)

    def spy_next():
        answer = following()
        came.append(len(answer.data))
        return answer

    run.engine.submit, run.engine.next = spy_submit, spy_next
    _, row = run_round(method, state, run.engine, run.rules)
    assert (row["bytes_down"], row["bytes_up"]) == (sum(sent), sum(came))
    assert sum(row["bytes_by_kind"].values()) == sum(sent) + sum(came)
    assert row["flops"] == sum(own["flops"] for own in row["work_by_client"].values()) > 0
    for client, own in row["work_by_client"].items():
        parts = method.distribute(state, int(client)).groups.get("weights", {})
        trained = (part.support.count for name, part in parts.items() if "running" not in name)
        assert own["parameters"] == sum(trained)
        assert 0 < row["seconds_by_client"][client] <= row["seconds"]


@functools.cache
def after_a_round(method):
    """A run after its first turn, and its state, for tests that change neither."""
    run = make_run(method, bench=make_bench(net_of(method)))
    return run, run_round(method, run.start().state, run.engine, run.rules)[0]


def _interrupt_after(rounds: int):
    def observe(row):
        if row["round"] == rounds:
            raise KeyboardInterrupt

    return observe


@pytest.mark.parametrize("dense", [make(name, settings) for name, settings in DENSE.items()], ids=repr)
def test_the_dense_limit_is_fedavg_bit_for_bit(dense):
    assert same_bits(reference(FedAvg()).state.weights, finished(dense, every=4).state.weights)
