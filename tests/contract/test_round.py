"""A round and a run: stages, seams, order, drops, and what happens when too few are left."""

import contextlib
import dataclasses
import logging
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from contract.federation import (
    CLIENTS,
    ENGINES,
    ShuffledEngine,
    finished,
    make_bench,
    make_run,
    norm_net,
    same_bits,
    same_memory,
    same_run,
)
from contract.seams import OwnBias, PerClientMask, ScoreFirst
from torch import nn

from fedbonsai import wire
from fedbonsai.core.errors import RoundError
from fedbonsai.core.message import Message, Part
from fedbonsai.core.state import Memory
from fedbonsai.core.support import Support
from fedbonsai.engines.local import LocalEngine
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.client import Client, Coding
from fedbonsai.federated.engine import Answer, collect
from fedbonsai.federated.exchange import Exchange, Rules, draw_cohort, spread
from fedbonsai.federated.ledger import Ledger
from fedbonsai.federated.memories import memory_from_bytes, memory_to_bytes
from fedbonsai.federated.method import Plan
from fedbonsai.federated.round import run_round
from fedbonsai.methods.fedavg import FedAvg
from fedbonsai.methods.fedpm import FedPM
from fedbonsai.methods.fl_snip import FLSnip
from fedbonsai.methods.heterofl import HeteroFL
from fedbonsai.methods.local_prune import LocalPrune
from fedbonsai.methods.prunefl import PruneFL

SEAMS = [ScoreFirst(), OwnBias(), PerClientMask()]


@pytest.mark.parametrize("method", SEAMS, ids=lambda one: one.name)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "local"])
def test_every_seam_is_bit_equal_on_every_engine(method, engine):
    assert same_run(finished(method), finished(method, engine=engine))


@pytest.mark.parametrize("method", SEAMS, ids=lambda one: one.name)
def test_every_seam_survives_an_interruption(method, tmp_path):
    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_run(method, directory=tmp_path).run(stop)
    assert same_run(finished(method), finished(method, directory=tmp_path))


def test_a_stage_is_charged_but_is_no_round():
    checkpoint = finished(ScoreFirst(), rounds=3)
    assert [(row["stage"], row["round"], row["clients"]) for row in checkpoint.rows] == [
        ("score", 0, CLIENTS),
        ("train", 1, 3),
        ("train", 2, 3),
        ("train", 3, 3),
    ]
    assert all(row["bytes_up"] > 0 and row["flops"] > 0 for row in checkpoint.rows)
    assert checkpoint.rows[0]["test_metric"] is None
    assert checkpoint.state.density == 0.5


def test_a_client_remembers_exactly_the_rounds_it_took_part_in():
    checkpoint = finished(OwnBias(), rounds=6)
    rounds = {client: memory.numbers["method/rounds"] for client, memory in checkpoint.memories.items()}
    assert sum(rounds.values()) == 2 * 6
    assert all(count >= 1 for count in rounds.values())


def test_personal_models_are_judged_on_each_clients_own_held_out_data():
    run = make_run(OwnBias(), rounds=3)
    checkpoint = run.run()
    found = run.evaluate(checkpoint.state)
    assert found.examples == sum(len(split.holdout) for split in run.bench.task.splits)
    hits = 0.0
    for client, split in enumerate(run.bench.task.splits):
        memory = checkpoint.memories.get(client)
        own = {"2.bias": memory.tensors["method/bias"]} if memory else {}
        run.bench.load({**checkpoint.state.weights, **own})
        hits += run.bench.evaluate(run.bench.task.pool, split.holdout).metric * len(split.holdout)
    assert found.metric == pytest.approx(hits / found.examples)


def test_a_dropped_clients_memory_is_as_if_the_round_had_not_been():
    run = make_run(OwnBias(), rounds=1)
    serve = run.engine._client.serve
    victims = []

    def spoil(data):
        answer = wire.decode(serve(data))
        if answer.stage == "train" and not victims:
            victims.append(answer.client)
            return wire.encode(dataclasses.replace(answer, weight=0.0))
        return wire.encode(answer)

    run.engine._client.serve = spoil
    checkpoint = run.run()
    assert checkpoint.rows[0]["dropped"] == 1
    assert victims[0] not in checkpoint.memories


def spoilt(change):
    """A run of FedAvg whose client 1 answers what ``change`` makes of its answer."""
    run = make_run(FedAvg(), cohort=CLIENTS)
    serve = run.engine._client.serve

    def spoil(data):
        answer = serve(data)
        return change(answer) if wire.decode(data).client == 1 else answer

    run.engine._client.serve = spoil
    return run


def altered(**changes):
    return lambda data: wire.encode(dataclasses.replace(wire.decode(data), **changes))


def infinite(data):
    message = wire.decode(data)
    part = message.groups["weights"]["0.bias"]
    broken = dataclasses.replace(part, values=torch.full_like(part.values, torch.inf))
    return wire.encode(
        dataclasses.replace(message, groups={"weights": {**message.groups["weights"], "0.bias": broken}})
    )


def other_model(data):
    message = wire.decode(data)
    part = message.groups["weights"]["2.bias"]
    return wire.encode(dataclasses.replace(message, groups={"weights": {"0.bias": part}}))


def unknown_tensor(data):
    message = wire.decode(data)
    weights = message.groups["weights"]
    return wire.encode(dataclasses.replace(message, groups={"weights": {**weights, "new": weights["2.bias"]}}))


def in_the_name_of_another(data):
    message = wire.decode(data)
    votes = {"2/0": message.groups["weights"]["2.bias"]}
    return wire.encode(dataclasses.replace(message, groups={**message.groups, "changes": votes}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (altered(round=7), "an answer must be for"),
        (altered(client=2), "an answer must be for"),
        (altered(stage="score"), "an answer must be for"),
        (altered(weight=0.0), "an update must count for"),
        (altered(weight=1e12), "an update must count for"),
        (infinite, "must be finite"),
        (altered(numbers={"loss": float("inf")}), "loss: numbers must be finite"),
        (other_model, "the model here has shape"),
        (unknown_tensor, "the model here has shape None"),
        (in_the_name_of_another, "changes/2/0: a client speaks for itself, got client 1"),
        (lambda data: data[:-3], ""),
        (lambda _: b"", ""),
        (lambda _: b"\x80\x04." * 10, ""),
    ],
)
def test_an_answer_that_cannot_be_used_drops_its_client_and_nobody_else(change, reason, caplog):
    run = spoilt(change)
    with caplog.at_level(logging.WARNING):
        state, row = run_round(run.method, run.start().state, run.engine, run.rules)
    assert (row["clients"], row["dropped"]) == (CLIENTS - 1, 1)
    assert reason in row["dropped_why"]["1"]
    assert "client 1 dropped" in caplog.text
    assert all(one.isfinite().all() for one in state.weights.values())


def shorter(data):
    """The same answer of another model: the first dimension of every tensor is one larger."""
    message = wire.decode(data)

    def wrong(part):
        shape = (part.support.shape[0] + 1, *part.support.shape[1:])
        return Part(torch.ones(math.prod(shape)), Support.dense(shape))

    groups = {name: {one: wrong(part) for one, part in parts.items()} for name, parts in message.groups.items()}
    return wire.encode(dataclasses.replace(message, groups=groups))


ASKING = [FLSnip(density=0.4), FedPM(), PruneFL(period=1, initial=0)]
"""Methods whose clients send more than weights: scores, masks, importance."""


@pytest.mark.parametrize("method", ASKING, ids=lambda one: one.name)
def test_a_client_of_another_model_that_answers_first_drops_nobody_else(method):
    run = make_run(method, cohort=CLIENTS)
    serve, state = run.engine._client.serve, run.start().state
    run.engine._client.serve = lambda data: (shorter if wire.decode(data).client == 0 else bytes)(serve(data))
    _, row = run_round(method, state, run.engine, run.rules)
    assert list(row["dropped_why"]) == ["0"]
    assert "the model here has shape" in row["dropped_why"]["0"]


@pytest.mark.parametrize("method", ASKING[:2], ids=lambda one: one.name)
def test_a_round_in_which_nobody_sends_what_is_needed_ends_the_run_with_one_error(method):
    run = make_run(method, cohort=CLIENTS)
    serve, state = run.engine._client.serve, run.start().state

    def bare(data):
        message = wire.decode(serve(data))
        return wire.encode(dataclasses.replace(message, groups={}, numbers={}))

    run.engine._client.serve = bare
    with pytest.raises(RoundError, match=r"the method needs .* got it of none of 5; nothing of it was applied"):
        run_round(method, state, run.engine, run.rules)


def test_a_dropped_client_changes_no_bit_of_what_the_others_give():
    run = spoilt(infinite)
    state, _ = run_round(run.method, run.start().state, run.engine, run.rules)
    others = make_run(FedAvg(), cohort=CLIENTS)
    total = Total()
    for answer in collect(others.engine, _tasks(others, [0, 2, 3, 4]), 1 << 20):
        total.add(wire.decode(answer.data))
    assert same_bits(state.weights, average(total, others.start().state.weights))


def _tasks(run, clients):
    state = run.start().state
    for client in clients:
        task = run.method.distribute(state, client).with_numbers(progress=0.0)
        yield client, wire.encode(dataclasses.replace(task, client=client))


def test_too_few_clients_end_the_run_and_nothing_of_the_round_is_applied(tmp_path):
    whole = finished(FedAvg(), rounds=2, directory=tmp_path / "whole")
    run = make_run(FedAvg(), rounds=4, directory=tmp_path / "broken")
    run.rules = Rules(3, min_clients=3)
    serve, count = run.engine._client.serve, []

    def fail_in_round_three(data):
        count.append(data)
        return b"" if wire.decode(data).round == 2 else serve(data)

    run.engine._client.serve = fail_in_round_three
    with pytest.raises(RoundError, match=r"round 3 .* needs at least 3 clients, 0 of 3 are left .*nothing of it was"):
        run.run()
    again = make_run(FedAvg(), rounds=4, directory=tmp_path / "broken").start()
    assert again.state.round == 2
    assert same_bits(again.state.weights, whole.state.weights)


def test_clients_are_drawn_without_replacement_from_the_seed():
    state = make_run(FedAvg()).start().state
    draws = [draw_cohort(Plan(), dataclasses.replace(state, turn=turn), Rules(3)) for turn in range(40)]
    assert all(len(set(draw)) == 3 and draw == sorted(draw) for draw in draws)
    assert draws == [draw_cohort(Plan(), dataclasses.replace(state, turn=turn), Rules(3)) for turn in range(40)]
    assert {one for draw in draws for one in draw} == set(range(CLIENTS))
    assert draw_cohort(Plan(cohort="all"), state, Rules(3)) == list(range(CLIENTS))
    assert len(draw_cohort(Plan(cohort=2), state, Rules(3))) == 2


class Scripted(LocalEngine):
    """An engine that answers in a given order, 100 bytes each, and records which clients it was given."""

    def __init__(self, order, capacity):
        self.order, self.capacity = list(order), capacity
        self.flying, self.started = [], []

    def submit(self, client, task):
        self.flying.append(client)
        self.started.append(client)

    def next(self):
        client = next(one for one in self.order if one in self.flying)
        self.flying.remove(client)
        return Answer(client, bytes(100), 0.0)


def test_answers_come_in_the_order_of_the_tasks():
    engine = Scripted(order=[4, 2, 0, 3, 1], capacity=5)
    answers = collect(engine, [(client, b"") for client in range(5)], window_bytes=1 << 20)
    assert [one.client for one in answers] == [0, 1, 2, 3, 4]


def test_a_full_window_holds_further_clients_back():
    engine = Scripted(order=[*range(1, 20), 0], capacity=3)
    got = []
    for answer in collect(engine, [(client, b"") for client in range(20)], window_bytes=250):
        if not got:
            # Client 0 answers last of those under way. Client 4 was started when two early answers waited, 200
            # bytes; with three, 300 bytes, the window is full.
            assert engine.started == [0, 1, 2, 3, 4]
        got.append(answer.client)
    assert got == list(range(20))


@pytest.mark.parametrize("window", [0, 1 << 20])
def test_large_clients_begin_first_and_are_added_up_in_their_turn(window):
    sizes = [3, 9, 1, 9, 7, 2, 8, 4, 6, 5]
    clients = spread(range(10), sizes, workers=2)
    assert clients == [1, 3, 6, 4, 8, 9, 7, 0, 5, 2]
    engine = Scripted(order=clients, capacity=2)
    answers = collect(engine, [(client, b"") for client in clients], window, order=range(10))
    assert [one.client for one in answers] == list(range(10))
    assert engine.started == clients


@pytest.mark.parametrize("engine", ["shuffled", "processes"])
def test_who_begins_first_changes_no_bit(engine):
    run = make_run(FedAvg(), engine=engine, cohort=CLIENTS)
    run.rules = dataclasses.replace(run.rules, sizes=run.bench.task.sizes)
    with contextlib.closing(run.engine):
        assert same_run(run.run(), finished(FedAvg(), cohort=CLIENTS))


def test_a_window_of_nothing_is_one_client_at_a_time_beyond_the_head():
    assert same_run(finished(FedAvg()), _with_window(0))


def _with_window(size):
    run = make_run(FedAvg(), engine=ShuffledEngine(Client(FedAvg(), make_bench())))
    run.rules = Rules(3, window_bytes=size)
    return run.run()


@pytest.mark.parametrize("policy", ["average", "local", "static"])
def test_batch_norm_policies(policy):
    bench = make_bench(norm_net, holdout=0.2 if policy == "local" else 0.0)
    run = make_run(FedAvg(), bench=bench, norm=policy)
    checkpoint = run.run()
    statistics = {"1.running_mean", "1.running_var"}
    assert (statistics <= checkpoint.state.weights.keys()) == (policy == "average")
    stages = [row["stage"] for row in checkpoint.rows]
    if policy == "average":
        assert stages == ["train"] * 4
        assert checkpoint.state.weights["1.running_mean"].abs().sum() > 0
    if policy == "local":
        assert run.personal
        seen = {client for client, memory in checkpoint.memories.items() if memory}
        assert len(seen) >= 3
        means = [memory.tensors["buffers/1.running_mean"] for memory in checkpoint.memories.values()]
        assert not torch.equal(means[0], means[1])
    if policy == "static":
        assert stages == ["statistics", "train"] * 4
        assert statistics <= run.deployed(checkpoint.state).keys()
    assert checkpoint.rows[-1]["test_metric"] > 0.34


@pytest.mark.parametrize("policy", ["average", "local", "static"])
def test_batch_norm_policies_are_bit_equal_across_engines(policy):
    def run(engine):
        bench = make_bench(norm_net, holdout=0.2 if policy == "local" else 0.0)
        return finished(FedAvg(), bench=bench, norm=policy, engine=engine)

    assert same_run(run("local"), run("processes"))


@pytest.mark.parametrize("method", [FedAvg(), HeteroFL()], ids=repr)
def test_static_statistics_are_those_of_the_global_model_on_the_cohorts_data(method):
    bench = make_bench(norm_net)
    run = make_run(method, bench=bench, norm="static", rounds=1, cohort=CLIENTS)
    state = run.run().state
    bench.load(state.weights)
    inputs = torch.cat([bench.task.pool.inputs[split.train] for split in bench.task.splits])
    means = bench.module[0](inputs).mean(0)
    torch.testing.assert_close(state.statistics["1.running_mean"], means, rtol=1e-4, atol=1e-5)


def test_a_client_never_raises_but_says_what_went_wrong():
    class Broken(FedAvg):
        def work(self, task, memory, learner):
            raise ZeroDivisionError("a bug of the user's")

    client = Client(Broken(), make_bench())
    run = make_run(FedAvg())
    answer = wire.decode(client.serve(wire.encode(run.method.distribute(run.start().state, 0))))
    assert (answer.stage, answer.note) == ("failed", "ZeroDivisionError: a bug of the user's")
    assert wire.decode(client.serve(b"garbage")).stage == "failed"


def test_memories_are_copied_through_bytes_unchanged():
    memory = Memory({"a": torch.tensor([1.0, -0.0]), "m": torch.tensor([True, False])}, {"n": 3, "s": "x", "f": 0.1})
    copy = memory_from_bytes(memory_to_bytes(memory))
    assert same_memory(
        Memory({"a": memory.tensors["a"]}, memory.numbers), Memory({"a": copy.tensors["a"]}, copy.numbers)
    )
    assert copy.tensors["m"].tolist() == [True, False]


def test_a_message_for_nobody_in_particular_is_empty():
    assert wire.decode(wire.encode(Message())).groups == {}


def test_a_client_that_lost_its_memory_is_sent_the_whole_in_the_same_round():
    method = LocalPrune(density=0.3)
    run = make_run(method, cohort=CLIENTS, rounds=6)
    state = run.start().state
    for _ in range(3):
        state, _ = run_round(method, state, run.engine, run.rules)
    again = make_run(method, cohort=CLIENTS, rounds=6)  # devices that have forgotten everything
    kept, row = run_round(method, state, run.engine, run.rules)
    lost, dearer = run_round(method, state, again.engine, again.rules)
    assert same_bits(kept.weights, lost.weights)
    assert (dearer["clients"], dearer["dropped"]) == (CLIENTS, 0)
    assert dearer["bytes_down"] > row["bytes_down"]
    assert sum(dearer["bytes_by_kind"].values()) == dearer["bytes_down"] + dearer["bytes_up"]


def test_a_mask_that_both_sides_hold_costs_next_to_nothing():
    rows = finished(ScoreFirst(), rounds=3, cohort=CLIENTS).rows
    first, later = (row["bytes_by_kind"]["supports"] / CLIENTS for row in (rows[1], rows[3]))
    assert later <= 2 * 32 < first + 64


def test_a_client_that_asks_again_and_again_is_dropped():
    method = LocalPrune(density=0.3)
    run = make_run(method, cohort=CLIENTS)
    run.engine._client.serve = lambda data: wire.encode(
        dataclasses.replace(wire.decode(data), groups={}, stage="resend")
    )
    with pytest.raises(RoundError, match="0 of 5 are left"):
        run_round(method, run.start().state, run.engine, run.rules)


@pytest.mark.parametrize("values", ["bf16", "int8", "int4"])
def test_lossy_updates_cost_less_and_learn_as_well(values):
    bench = make_bench(wide_net, lr=0.3)
    exact = finished(FedAvg(), bench=bench, rounds=8, cohort=CLIENTS)
    coarse = finished(
        FedAvg(),
        engine=LocalEngine(Client(FedAvg(), bench, coding=Coding(values))),
        bench=bench,
        rounds=8,
        cohort=CLIENTS,
    )
    assert coarse.rows[-1]["bytes_up"] < 0.7 * exact.rows[-1]["bytes_up"]
    assert coarse.rows[-1]["bytes_down"] > 0.9 * exact.rows[-1]["bytes_down"]
    assert coarse.rows[-1]["test_metric"] > exact.rows[-1]["test_metric"] - 0.15


def test_error_feedback_lives_in_the_clients_memory_and_survives_an_interruption(tmp_path):
    def run(directory=None):
        bench = make_bench(wide_net)
        client = Client(FedAvg(), bench, coding=Coding("int4", feedback=True))
        return make_run(FedAvg(), engine=LocalEngine(client), bench=bench, directory=directory)

    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    whole = run().run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path).run(stop)
    assert same_run(whole, run(tmp_path).run())
    assert all(memory.tensors["residual/0.weight"].abs().sum() > 0 for memory in whole.memories.values())


def wide_net():
    return torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))


@pytest.mark.parametrize("values", ["fp32", "uniform"])
def test_tasks_that_are_encoded_once_for_all_are_those_of_each_client(values):
    run = make_run(FedAvg(), bench=make_bench(lambda: nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3))))
    state = run.start().state
    rules = Rules(5, downlink=values)
    tasks = dict(Exchange(run.method, state, Plan(), rules, Ledger(state, "train")).tasks())
    for client, data in tasks.items():
        alone = Exchange(run.method, state, Plan(), rules, Ledger(state, "train"))
        assert data == alone._task(client, state)


def test_tasks_of_a_tier_are_encoded_once_and_are_those_of_each_client():
    run = make_run(HeteroFL(), bench=make_bench(lambda: nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3))))
    state = run.start().state
    with patch("fedbonsai.federated.exchange.wire.pack", side_effect=wire.pack) as pack:
        tasks = dict(Exchange(run.method, state, Plan(), Rules(5), Ledger(state, "train")).tasks())
    widths = {state.setting.width(client, 0) for client in tasks}
    assert pack.call_count == len(widths) < len(tasks) == 5
    fresh = replace(state)
    for client, data in tasks.items():
        assert data == Exchange(run.method, fresh, Plan(), Rules(5), Ledger(fresh, "train"))._task(client, fresh)


def test_a_stage_that_asks_fewer_than_min_clients_needs_all_of_them():
    run = make_run(OwnBias())  # asks two
    run.rules = Rules(3, min_clients=3)
    _, row = run_round(run.method, run.start().state, run.engine, run.rules)
    assert row["clients"] == 2
    serve, served = run.engine._client.serve, []
    run.engine._client.serve = lambda data: served.append(data) or (serve(data) if len(served) == 1 else b"")
    with pytest.raises(RoundError, match="needs at least 2 clients, 1 of 2 are left"):
        run_round(run.method, run.start().state, run.engine, run.rules)


def test_a_method_is_told_how_long_its_clients_took(monkeypatch):
    totals, finalize = [], FedAvg.finalize

    def spy(self, state, total):
        totals.append(total)
        return finalize(self, state, total)

    monkeypatch.setattr(FedAvg, "finalize", spy)
    finished(FedAvg(), rounds=2)
    assert len(totals) == 2
    for total in totals:
        assert list(total.seconds) == total.members
        assert all(seconds > 0 for seconds in total.seconds.values())
