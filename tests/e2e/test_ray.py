"""The Ray engine on a cluster of a head and two machines: equal bits, and machines and clients that fail."""

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fedbonsai
from fedbonsai.engines.kit import Server
from fedbonsai.experiment.execute import Result
from tests.e2e.command import PATIENCE, SMALL, Machine, bits, launched, runs, timeless, wait_until
from tests.e2e.machines import Machines, machines
from tests.e2e.tasks import examples, make_task

METHODS = {
    "fedavg": (fedbonsai.methods.FedAvg(), {"uplink": "int8", "error_feedback": True}),
    "lotteryfl": (fedbonsai.methods.LotteryFL(accuracy=0.0), {}),
}
"""Both with something that clients remember."""

if "__sizeof__" in vars(Server):  # the tests' type checker notes something there, which Ray takes for a method of ours
    del Server.__sizeof__

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra cluster")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with machines() as found:
        yield found


@pytest.fixture
def joined(cluster, monkeypatch) -> Machines:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster


def run(task: fedbonsai.Task, name: str = "fedavg", **settings: Any) -> Result:
    method, beside = METHODS[name]
    return fedbonsai.run(task, method, **{"rounds": 3, "cohort": 3, **beside, **settings})


def outcome(result: Result) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """All bits of the weights, and all facts of the rounds but their seconds."""
    return {name: one.numpy().tobytes() for name, one in result.tensors.items()}, timeless(result.rounds)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_weights_bytes_and_memories_are_those_of_the_local_engine(joined, name):
    task = make_task()
    assert outcome(run(task, name, engine="ray")) == outcome(run(task, name, engine="local"))


def kill_this_machine_once(flag: Path) -> float:
    """The act of a client whose machine is lost while it trains."""
    if not flag.exists():
        flag.touch()
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return 1.0


@needs_ray
@pytest.mark.slow
def test_when_a_machine_is_lost_its_client_is_redone_and_nothing_changes(joined, tmp_path, caplog):
    task = make_task(act=partial(kill_this_machine_once, tmp_path / "killed"))
    result = run(task, "lotteryfl", engine="ray")
    assert (tmp_path / "killed").exists()
    assert "client 1 is asked again, its worker died: " in caplog.text
    assert outcome(result) == outcome(run(make_task(), "lotteryfl", engine="local"))
    joined.add()


def die() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def hang() -> float:
    time.sleep(3600)
    return 1.0


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "settings", "why"),
    [
        (die, {}, "its worker died, and so did the next one: "),
        (hang, {"client_timeout": 3.0}, "no answer within 3 s"),
    ],
)
def test_a_client_that_fails_for_good_is_dropped_and_named(joined, act, settings, why):
    result = run(make_task(act=act), engine="ray", rounds=1, **settings)
    (row,) = result.rounds
    assert (row["clients"], row["dropped"], list(row["dropped_why"])) == (2, 1, ["1"])
    assert why in row["dropped_why"]["1"]
    clients = [examples(20, 1), (torch.empty(0, 6), torch.empty(0, dtype=torch.int64)), examples(20, 3)]
    assert outcome(result)[0] == outcome(run(make_task(clients), engine="local", rounds=1))[0]


def members(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for one in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(one.read_text().rpartition(")")[2].split()[2]) == group:
                found.append(int(one.parent.name))
    return found


@needs_ray
@pytest.mark.slow
def test_without_a_cluster_one_is_started_on_this_machine_and_shut_down(command, tmp_path):
    words = ("run", *SMALL, "--method", "stc", "--out")
    with launched(tmp_path / "log", *words, str(tmp_path / "ray"), "--engine", "ray", "--set", "workers=2") as process:
        group = process.pid
        wait_until(lambda: len(members(group)) > 5 or not process.is_alive())  # Ray's are in it
        process.join(3 * PATIENCE)
    assert (process.exitcode, (tmp_path / "log").read_text().count("\n")) == (0, 2)
    wait_until(lambda: not any(map(runs, members(group))))
    assert command(*words, str(tmp_path / "local"), "--engine", "local").code == 0
    assert bits(tmp_path / "ray") == bits(tmp_path / "local")


def test_without_ray_its_engine_is_one_line_that_says_what_to_install(command, tmp_path):
    done = command("run", *SMALL, "--engine", "ray", "--out", str(tmp_path / "made"), machine=Machine(missing="ray"))
    assert done.code == 1
    assert done.err == (
        "error: engine=ray needs the package ray, which is not installed; run: pip install 'fedbonsai[cluster]'\n"
    )
    assert not (tmp_path / "made").exists()
