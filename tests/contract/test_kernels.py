"""Clients that a batched kernel trains together, whatever the method."""

from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from contract.cases import CASES, make
from contract.federation import CLIENTS, finished, make_bench, make_run, net_of, reference, same_run

from fedbonsai.core.timing import recording
from fedbonsai.engines import together
from fedbonsai.federated.round import run_round
from fedbonsai.learning.bench import Bench
from fedbonsai.methods.fedavg import FedAvg

ONE_OF_EACH = [make(name, cases[0]) for name, cases in CASES.items()]


def stacked(method=None) -> Bench:
    personal = method is not None and method.traits.personal
    bench = make_bench(net_of(method), holdout=0.2 if personal else 0.0)
    bench.kernel = "stack"
    return bench


@pytest.mark.parametrize("method", ONE_OF_EACH, ids=lambda one: one.name)
def test_clients_served_together_are_served_as_if_alone(method):
    side_by_side, apart = stacked(method), stacked(method)
    beside = finished(method, bench=side_by_side, every=4)
    alone = finished(method, engine="shuffled", bench=apart, every=4)
    assert same_run(beside, alone)
    loop = reference(method).state
    if beside.state.supports == loop.supports:
        for name, weights in loop.weights.items():
            torch.testing.assert_close(beside.state.weights[name], weights, rtol=1e-5, atol=1e-5)


def test_a_round_is_one_training():
    groups = []
    run = make_run(FedAvg(), cohort=CLIENTS, bench=stacked())
    with patch.object(together, "train", side_effect=lambda own: groups.append(len(own)) or together_train(own)):
        run_round(run.method, run.start().state, run.engine, run.rules)
    assert groups == [CLIENTS]


together_train = together.train


def test_a_client_that_cannot_be_trained_drops_only_itself():
    run = make_run(FedAvg(), cohort=CLIENTS, bench=stacked(), rounds=1)
    bad = set(run.bench.task.splits[1].train.tolist())

    def train(own):
        if any(bad & set(one.batches[0].tolist()) for one in own):
            raise RuntimeError("index out of range")
        return together_train(own)

    with patch.object(together, "train", side_effect=train):
        _, row = run_round(run.method, run.start().state, run.engine, run.rules)
    assert (row["clients"], row["dropped"]) == (CLIENTS - 1, 1)
    assert row["flops"] > 0


def test_time_together_is_counted_once():
    run = make_run(FedAvg(), cohort=CLIENTS, bench=stacked(), rounds=1)
    with recording() as found:
        run.run()
    wall = found.ended - found.began
    assert 0 < sum(found.own[1].values()) <= wall
    spans = sorted((one.began, one.ended) for one in found.spans if one.track == 1 and one.kind == "client")
    assert len(spans) == 2 * CLIENTS  # until its training, and after it
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    assert all(seconds > 0 for seconds in run.run().rows[0]["seconds_by_client"].values())
