"""PruneFL worked by hand: two rounds that reconfigure the mask, what clients accumulate, and the initial stage."""

from dataclasses import dataclass, replace

import pytest
import torch
from contract.federation import CLIENTS, finished, make_bench
from golden.scripted import START, Scripted, next_round, row_bench
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory, Setting
from fedbonsai.learning.learner import Learner
from fedbonsai.methods.prunefl import PruneFL

SETTING = Setting(rounds=2, clients=2, seed=0, layout=Layout((Slot("w", (1, 3), prunable=True),)))
METHOD = PruneFL(drop=1 / 3, period=1, until=1.0, initial=0, communication=1.0, computation=0.0, fixed=1 / 3)
"""A weight takes a second, and everything else a third of all three: c = 1."""


@dataclass
class Stepping(Scripted):
    """A client whose steps have the gradients that the test says."""

    steps_of: tuple[tuple[float, float, float], ...] = ()

    def fit(self, weights, supports=None, objective=None, **options):
        for gradient in self.steps_of:
            self.bench.flat_gradient.copy_(tensor(gradient))
            objective.gradient(self.bench.live)
        return super().fit(weights, supports, **options)


def stepping(trained: list[float], examples: int, *gradients: tuple[float, float, float]) -> Stepping:
    return Stepping(row_bench(), 0, trained=tensor([trained]), examples=examples, steps_of=gradients)


def test_the_mask_follows_gain_a_second_as_worked_by_hand():
    # Client 0, of 1 example: its gradients sum to (2, 1, 1), Z = (4, 1, 1). Client 1, of 3: Z = (0, 1, 0). Together
    # that is (4 + 0, 1 + 3, 1 + 0) = (4, 4, 1). The weights' mean is ((5 + 3) / 4, 2, 1): of three, w2 may go. The
    # others gain 8 in 1 + 2 seconds; w2 gains 1 in one second, which is less than 8 / 3: it goes.
    one = stepping([5.0, 2.0, 1.0], 1, (1.0, 2.0, 0.0), (1.0, -1.0, 1.0))
    two = stepping([1.0, 2.0, 1.0], 3, (0.0, 1.0, 0.0))
    state, updates = next_round(METHOD, METHOD.init(SETTING, START), [one, two])
    assert updates[0].groups["importance"]["w"].values.tolist() == [4.0, 1.0, 1.0]
    assert state.weights["w"].tolist() == [[2.0, 2.0, 0.0]]
    assert state.supports["w"].indicator().tolist() == [[True, True, False]]
    # A third of two weights is none: both stay. They gain 0 + 1 in 1 + 2 seconds, w2 gains 9 in one: it joins, as zero.
    state, _ = next_round(METHOD, state, [stepping([3.0, 2.0, 7.0], 1, (0.0, 1.0, 3.0))])
    assert state.weights["w"].tolist() == [[3.0, 2.0, 0.0]]
    assert not state.supports


def test_what_may_go_and_is_worth_its_time_keeps_its_value():
    state, _ = next_round(METHOD, METHOD.init(SETTING, START), [stepping([5.0, 2.0, 1.0], 1, (1.0, 1.0, 3.0))])
    assert state.weights["w"].tolist() == [[5.0, 2.0, 1.0]]


def test_clients_accumulate_until_the_mask_has_moved():
    method, learner = replace(METHOD, period=2), stepping([5.0, 2.0, 1.0], 1, (1.0, 2.0, 3.0))
    state = method.init(SETTING, START)
    task = replace(method.distribute(state, 0), stage="train")
    assert task.numbers["due"] == 0
    update, memory = method.work(task, Memory(), learner)
    assert "importance" not in update.groups
    task = method.distribute(replace(state, round=1), 0)
    update, memory = method.work(task, memory, learner)
    assert update.groups["importance"]["w"].values.tolist() == [2.0, 8.0, 18.0]
    later = task.with_numbers(reconfigured=task.numbers["reconfigured"] + 1)
    assert method.work(later, memory, learner)[0].groups["importance"]["w"].values.tolist() == [1.0, 4.0, 9.0]


def test_a_cap_ends_what_joins():
    state, _ = next_round(
        replace(METHOD, max_density=2 / 3),
        METHOD.init(SETTING, START),
        [stepping([5.0, 2.0, 1.0], 1, (1.0, 1.0, 3.0))],
    )
    assert state.weights["w"].tolist() == [[5.0, 2.0, 0.0]]


def test_one_client_prunes_first_and_is_charged_for_it():
    run = finished(PruneFL(initial=6, initial_epochs=2), rounds=3, cohort=CLIENTS)
    assert [(row["stage"], row["clients"]) for row in run.rows[:2]] == [("initial", 1), ("train", CLIENTS)]
    assert run.rows[0]["flops"] > 6 * 2 * 10 * 3 * 2 * 72  # passes, examples, forward and backward, 72 weights
    assert run.rows[0]["bytes_up"] < run.rows[0]["bytes_down"]
    assert 0.05 < run.rows[0]["density"] < 0.8


@pytest.mark.parametrize(("method", "fits"), [(PruneFL(drop=0.0), 5), (PruneFL(initial=3), 3)])
def test_the_initial_stage_ends_when_the_size_stays_or_by_its_bound(method, fits, monkeypatch):
    parts, fit = [], Learner.fit

    def counted(self, *args, **options):
        parts.append(options["part"])
        return fit(self, *args, **options)

    monkeypatch.setattr(Learner, "fit", counted)
    bench = make_bench()
    method.work(Message({"weights": group(bench.initial)}, stage="initial"), Memory(), Learner(bench, 0))
    assert parts == list(range(fits))


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ConfigError, match="two or more dimensions"):
        METHOD.init(Setting(2, 2, 0, Layout((Slot("b", (3,)),))), {"b": torch.zeros(3)})
