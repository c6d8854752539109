"""Two rounds of STC, worked by hand; and clients that skip rounds or whose answers are lost."""

import dataclasses
import math

import pytest
import torch
from contract.federation import CLIENTS, ShuffledEngine, make_bench, make_run, same_bits
from golden.scripted import SETTING, START, scripted
from torch import tensor

from fedbonsai import wire
from fedbonsai.core.errors import ClientError
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.client import Client
from fedbonsai.federated.round import run_round
from fedbonsai.learning.learner import Learner
from fedbonsai.methods.stc import STC, ternary

METHOD = STC(p_up=2 / 3, p_down=2 / 3)


def test_two_rounds_as_worked_by_hand():
    state, memories = METHOD.init(SETTING, START), {0: Memory(), 1: Memory()}

    def held_round(state, learners):
        total = Total()
        for client, learner in learners.items():
            task = METHOD.distribute(state, client)
            update, memories[client] = METHOD.work(task, memories[client], learner)
            total.add(dataclasses.replace(update, client=client))
        return dataclasses.replace(METHOD.finalize(state, total), round=state.round + 1), total

    # From (1, 1, 1), two of three weights each. Client 0 moves by (1, 2, 0.5): mu = (1 + 2) / 2, it sends (1.5, 1.5, -)
    # and keeps (-0.5, 0.5, 0.5). Client 1 moves by (0, 2, 3): it sends (-, 2.5, 2.5) and keeps (0, -0.5, 0.5).
    # The mean over both, however many examples they have and whoever sent what: (1.5, 4, 2.5) / 2 = (0.75, 2, 1.25).
    # The server sends its two largest, mu = (2 + 1.25) / 2: (-, 1.625, 1.625); the rest is (0.75, 0.375, -0.375).
    state, total = held_round(state, {0: scripted([2.0, 3.0, 1.5], 1), 1: scripted([1.0, 3.0, 4.0], 3)})
    assert total.groups["weights"]["w"].numerator.tolist() == [[1.5, 4.0, 2.5]]
    assert memories[0].tensors["residual/w"].tolist() == [[-0.5, 0.5, 0.5]]
    assert memories[1].tensors["residual/w"].tolist() == [[0.0, -0.5, 0.5]]
    assert state.weights["w"].tolist() == [[1.0, 2.625, 2.625]]
    assert state.memory.tensors["residual/w"].tolist() == [[0.75, 0.375, -0.375]]
    # Client 0 alone, which learns nothing new: it sends of what it kept two of three equals, the first: (-0.5, 0.5, -).
    # With what the server kept that is (0.25, 0.875, -0.375): (-, 0.625, -0.625) is sent, (0.25, 0.25, 0.25) kept.
    state, _ = held_round(state, {0: scripted([1.0, 2.625, 2.625], 1)})
    assert memories[0].tensors["residual/w"].tolist() == [[0.0, 0.0, 0.5]]
    assert state.weights["w"].tolist() == [[1.0, 3.25, 2.0]]
    assert state.memory.tensors["residual/w"].tolist() == [[0.25, 0.25, 0.25]]


@pytest.mark.parametrize("cache", [1, 2, 15])
def test_whoever_skips_rounds_or_loses_an_answer_ends_with_the_servers_bits(cache):
    class Lossy(ShuffledEngine):
        """Every third answer is lost on the way, whatever the client did."""

        answers = 0

        def next(self):
            self.answers += 1
            answer = super().next()
            return dataclasses.replace(answer, data=None, error="lost") if self.answers % 3 == 0 else answer

    method, bench = STC(p_up=0.1, p_down=0.1, cache=cache), make_bench()
    engine = Lossy(Client(method, bench))
    run = make_run(method, engine=engine, bench=bench, cohort=2, rounds=9)
    state, lags, dropped = run.start().state, set(), 0
    for _ in range(9):
        state, row = run_round(method, state, engine, run.rules)
        dropped += row["dropped"]
        for client in range(CLIENTS):
            task, memory = method.distribute(state, client), engine.memories().get(client, Memory()).section("method")
            assert same_bits(state.weights, method.personal_model(task, memory, Learner(bench, client)))
            lags.add(state.round - memory.numbers.get("holds", 0))
    assert dropped >= 5
    assert lags >= {1, 2, 3, 4}


def test_a_client_that_lost_its_copy_says_so():
    with pytest.raises(ClientError, match="no use here"):
        METHOD.work(Message({"missed": {}}, {"since": 2.0, "until": 3.0}), Memory(), scripted([1.0, 1.0, 1.0], 1))


def test_an_update_costs_its_entropy():
    values, share = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)), 1 / 400
    data = wire.encode(Message({"weights": {"w": ternary(values, share)}}))
    limit = -share * math.log2(share) - (1 - share) * math.log2(1 - share) + share
    assert 8 * len(data) / values.numel() < 1.05 * limit


def test_shares_round_up_and_zeros_send_nothing():
    assert ternary(tensor([3.0, -1.0, 2.0]), 0.34).values.tolist() == [2.5, 2.5]
    assert ternary(tensor([3.0, -1.0, 2.0]), 1e-6).values.tolist() == [3.0]
    assert ternary(torch.ones(10), 0.1 * 3).support.count == 3
    assert ternary(torch.zeros(4), 0.5).values.tolist() == [0.0, 0.0]
