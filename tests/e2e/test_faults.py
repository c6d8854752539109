"""Clients that die, raise, hang, diverge or have nothing to say: dropped and named, and the round goes on."""

import os
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor

import fedbonsai
from fedbonsai.core.errors import DataError, RoundError
from fedbonsai.experiment.execute import Result
from tests.e2e.command import SMALL, timeless
from tests.e2e.tasks import MARK, Net, examples, make_task, nothing

METHODS = {"fedavg": fedbonsai.methods.FedAvg(), "local-prune": fedbonsai.methods.LocalPrune(density=0.5)}
OTHERS: dict[str, dict[str, Any]] = {"local": {"engine": "local"}, "processes": {"engine": "processes", "workers": 2}}


def run(task: fedbonsai.Task, method: str = "fedavg", **settings: Any) -> Result:
    return fedbonsai.run(task, METHODS[method], **{"rounds": 2, "cohort": 3, **settings})


def weights(result: Result) -> dict[str, list[float]]:
    return {name: one.flatten().tolist() for name, one in result.tensors.items()}


def die() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def fail() -> float:
    raise LookupError("no such\nluck")


def hang() -> float:
    time.sleep(3600)
    return 1.0


def dawdle() -> float:
    time.sleep(1.0)
    return 1.0


def diverge() -> float:
    return float("nan")


@pytest.fixture(scope="module")
def without_client_1() -> dict[str, Result]:
    """What comes out when the second client never counts: it has nothing to train on."""
    clients = [examples(20, 1), (torch.empty(0, 6), torch.empty(0, dtype=torch.int64)), examples(20, 3)]
    return {method: run(make_task(clients), method) for method in METHODS}


FAULTS = {
    "killed": (die, "processes", {}, "its worker died (exit code -9)"),
    "raises": (fail, "local", {}, "LookupError: no such\nluck"),
    "raises in a worker": (fail, "processes", {}, "LookupError: no such\nluck"),
    "hangs": (hang, "processes", {"client_timeout": 2.0}, "no answer within 2 s"),
    "is late": (dawdle, "local", {"client_timeout": 0.9}, "no answer within 0.9 s"),
    "diverges": (diverge, "local", {}, "client 1: the training loss must stay finite, got nan"),
    "diverges in a worker": (diverge, "processes", {}, "client 1: the training loss must stay finite, got nan"),
}


@pytest.mark.parametrize(
    ("fault", "method"),
    [*((fault, "fedavg") for fault in FAULTS), ("killed", "local-prune"), ("raises", "local-prune")],
)
def test_a_client_that_fails_is_dropped_and_named_and_the_others_go_on(caplog, without_client_1, fault, method):
    act, engine, settings, why = FAULTS[fault]
    result = run(make_task(act=act), method, **OTHERS[engine], **settings)
    assert [(row["clients"], row["dropped"]) for row in result.rounds] == [(2, 1)] * 2
    assert all(why in row["dropped_why"]["1"] and list(row["dropped_why"]) == ["1"] for row in result.rounds)
    assert result.final["dropped"] == 2
    said = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(said) == 2
    assert said[0].startswith("round 1: client 1 dropped: ")
    assert why in said[0]
    assert weights(result) == weights(without_client_1[method])


def test_a_client_without_examples_is_dropped_and_one_with_few_or_one_class_counts(without_client_1):
    assert all("needs training examples" in row["dropped_why"]["1"] for row in without_client_1["fedavg"].rounds)
    inputs, _ = examples(20, 2)
    one_class, one_example = (inputs, torch.zeros(20, dtype=torch.int64)), examples(1, 4)
    for method in METHODS:
        result = run(make_task([examples(20, 1), one_class, one_example]), method)
        assert [(row["clients"], row["dropped"]) for row in result.rounds] == [(3, 0)] * 2


def test_clients_without_any_examples_are_no_task():
    nobody = (torch.empty(0, 6), torch.empty(0, dtype=torch.int64))
    with pytest.raises(DataError, match="at least one example in all, got none"):
        run(make_task([nobody, nobody, nobody]))


@pytest.mark.parametrize("method", METHODS)
def test_a_round_in_which_all_diverge_ends_the_run_which_can_be_resumed(tmp_path, method):
    state = {"factor": 1.0, "rows": 0}
    clients = [examples(20, seed, marked=True) for seed in range(3)]
    task = make_task(clients, act=lambda: state["factor"])

    def after_a_round(_: Any) -> None:
        state.update(factor=float("nan"), rows=state["rows"] + 1)

    with pytest.raises(RoundError) as caught:
        run(task, method, engine="local", rounds=3, out=tmp_path / "made", observer=after_a_round)
    assert str(caught.value).startswith("round 2 (train) needs at least 1 clients, 0 of 3 are left (client 0: ")
    assert "the training loss must stay finite, got nan" in str(caught.value)
    assert str(caught.value).endswith("nothing of it was applied")
    assert state["rows"] == 1

    state["factor"] = 1.0
    resumed = run(task, method, engine="local", rounds=3, out=tmp_path / "made")
    whole = run(task, method, engine="local", rounds=3)
    assert weights(resumed) == weights(whole)
    assert timeless(resumed.rounds) == timeless(whole.rounds)


def test_a_run_ends_when_fewer_clients_than_it_needs_are_left():
    assert run(make_task(act=fail), min_clients=2).rounds[-1]["clients"] == 2
    with pytest.raises(RoundError, match=r"needs at least 3 clients, 2 of 3 are left \(client 1: LookupError"):
        run(make_task(act=fail), min_clients=3)


def test_a_client_whose_data_no_model_can_take_costs_its_part_alone(caplog):
    inputs, _ = examples(20, 2)
    result = run(make_task([examples(20, 1), (inputs, torch.full((20,), 7)), examples(20, 3)]))
    assert all("IndexError: Target 7 is out of bounds" in row["dropped_why"]["1"] for row in result.rounds)
    assert "training error: client 1 is left out: IndexError: Target 7 is out of bounds." in caplog.messages
    without = run(make_task([examples(20, 1), (torch.empty(0, 6), torch.empty(0).long()), examples(20, 3)]))
    assert weights(result) == weights(without)
    assert result.final["train_error"] == without.final["train_error"]


class Moody(Net):
    """Raises while a client judges what it received, that is in evaluation mode, and drops out while it trains."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training and bool((inputs[:, 5] == MARK).any()):
            raise RuntimeError("not in the mood")
        return super().forward(torch.dropout(inputs, 0.5, self.training))


def test_what_a_failing_client_leaves_behind_does_not_reach_the_next_one():
    """With one process for all the module of the first client is the second one's; with a worker each it is not."""
    clients = [examples(20, 1), examples(20, 2, marked=True), examples(20, 3)]
    task = fedbonsai.Task(model=lambda: Moody(nothing), loss="cross_entropy", clients=clients, test=examples(30, 9))
    method = fedbonsai.methods.LocalPrune(density=0.5, adaptive=True)
    one, many = (
        fedbonsai.run(task, method, rounds=2, cohort=3, **engine)
        for engine in ({"engine": "local"}, {"engine": "processes", "workers": 3})
    )
    assert all("not in the mood" in row["dropped_why"]["1"] for row in one.rounds)
    assert weights(one) == weights(many)
    assert timeless(one.rounds) == timeless(many.rounds)


def test_on_the_command_line_a_round_without_answers_is_one_line_after_its_log(command, tmp_path):
    slow = ("--engine", "local", "--set", "client_timeout=1e-9")
    done = command("run", *SMALL, *slow, "--out", str(tmp_path / "made"))
    assert done.code == 1
    *log, error = done.said
    assert error.startswith("error: round 1 (train) needs at least 1 clients, 0 of 2 are left (client ")
    assert len(log) == 2
    assert all(line.endswith("dropped: no answer within 1e-09 s") for line in log)
