"""Equal seeds give equal bits, wherever a run is computed and however often it is interrupted."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.command import (
    SMALL,
    bits,
    children,
    contents,
    interrupt,
    launched,
    result,
    runs,
    wait_until,
)

ROUNDS = 7
METHODS = {
    "fedavg": ["--set", "server_optimizer=momentum"],
    "local-prune": [
        *("--method", "local-prune", "--set", "adaptive=true", "--set", "recover=gradient"),
        *("--set", "server_optimizer=adam", "--set", "warmup=0.25", "--set", "reach=0.75"),
    ],
}
"""Both with everything on that a server remembers between rounds."""

INTERRUPTED = "interrupted; `fedbonsai resume DIR` goes on from the last finished round"


def arguments(method: str, out: Path, *more: str) -> list[str]:
    return ["run", *SMALL, "--rounds", str(ROUNDS), *METHODS[method], *more, "--out", str(out)]


def finished_rounds(log: Path) -> int:
    return log.read_text().count(" s left\n") if log.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, command) -> dict[str, Path]:
    """A run of each method that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for method in METHODS:
        assert command(*arguments(method, folder / method)).code == 0
    return {method: folder / method for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("engine", [("local",), ("processes", "--set", "workers=3")], ids=lambda one: one[0])
def test_equal_seeds_give_equal_bits_in_every_engine(command, tmp_path, undisturbed, method, engine):
    assert command(*arguments(method, tmp_path / "made", "--engine", *engine)).code == 0
    assert result(tmp_path / "made")["config"]["engine"] == engine[0]
    assert bits(tmp_path / "made") == bits(undisturbed[method])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("engine", ["local", "processes"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    command, tmp_path, undisturbed, method, engine
):
    out, dice, kills = tmp_path / "made", random.Random(), 0
    for attempt, more_rounds in enumerate([0, 1, 2, 1]):
        resumed = attempt % 2 and (out / "experiment.toml").exists()
        words = ["resume", str(out)] if resumed else arguments(method, out, "--engine", engine)
        with started(tmp_path / f"log{attempt}", words, more_rounds) as process:
            time.sleep(dice.uniform(0, 0.05))  # about a round
            workers = children(process)
        wait_until(lambda workers=workers: not any(map(runs, workers)))
        kills += not (out / "result.json").exists()
    assert kills >= 2
    assert command("resume", str(out)).code == 0
    assert bits(out) == bits(undisturbed[method])


@contextmanager
def started(log: Path, words: list[str], rounds: int) -> Iterator[int]:
    """A command that has finished so many rounds; killed at the end of the block."""
    with launched(log, *words) as process:
        wait_until(lambda: finished_rounds(log) >= rounds or not process.is_alive())
        assert process.pid is not None
        yield process.pid


@pytest.mark.parametrize("engine", ["local", "processes"])
def test_a_run_is_not_taken_up_while_it_goes_on(command, tmp_path, undisturbed, engine):
    out = tmp_path / "made"
    with started(tmp_path / "log", arguments("fedavg", out, "--engine", engine), 1) as process:
        os.kill(process, signal.SIGSTOP)  # it does not end in the meantime
        second = command("resume", str(out))
        os.kill(process, signal.SIGCONT)
    assert second.code == 1
    assert f"{out} must be run by one process at a time, another one is at work there; follow it" in second.err
    assert command("resume", str(out)).code == 0
    assert bits(out) == bits(undisturbed["fedavg"])
    assert not (out / ".experiment.toml.lock").exists()


def test_a_directory_that_cannot_be_held_is_an_error(command, tmp_path, undisturbed):
    out = tmp_path / "made"
    shutil.copytree(undisturbed["fedavg"], out)
    (out / "result.json").unlink()
    (out / ".experiment.toml.lock").mkdir()  # as root may write everywhere, a file is in its way
    done = command("resume", str(out))
    assert done.code == 1
    assert done.err.startswith(f"error: {out} must be a directory that can be written; ")


@pytest.mark.parametrize("engine", ["local", "processes"])
def test_ctrl_c_leaves_a_checkpoint_one_line_and_nobody_behind(command, tmp_path, undisturbed, engine):
    out, log = tmp_path / "made", tmp_path / "log"
    with launched(log, *arguments("fedavg", out, "--engine", engine)) as process:
        wait_until(lambda: finished_rounds(log) >= 2)
        workers = children(process.pid)
        interrupt(process.pid)
        process.join()
    assert process.exitcode == 130
    assert bool(workers) == (engine == "processes")
    assert not any(map(runs, workers))
    assert [line for line in log.read_text().splitlines() if not line.endswith(" s left")] == [INTERRUPTED]
    assert set(contents(out)) == {"experiment.toml", "checkpoint/state.safetensors", "events.jsonl"}
    assert command("resume", str(out)).code == 0
    assert bits(out) == bits(undisturbed["fedavg"])


def test_ctrl_c_in_a_real_shell_command_is_heeded_while_it_loads_and_while_it_works(tmp_path):
    words = [sys.executable, "-m", "fedbonsai", *arguments("fedavg", tmp_path / "made", "--engine", "processes")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
        interrupt(process.pid)
        assert process.communicate()[1] == "interrupted before anything was done\n"
    assert process.returncode == 130
    assert not (tmp_path / "made").exists()

    words[words.index(str(ROUNDS))] = "10000"
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        first = process.stderr.readline()
        workers = children(process.pid)
        interrupt(process.pid)
        rest = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert first.startswith("digits fedavg: round 1 | ")
    assert [line for line in rest if not line.endswith(" s left")] == [INTERRUPTED]
    assert workers
    assert not any(map(runs, workers))
    assert (tmp_path / "made" / "checkpoint" / "state.safetensors").exists()


def test_a_comparison_that_is_killed_in_its_first_run_is_resumed_with_all_of_them(command, tmp_path):
    out, log = tmp_path / "made", tmp_path / "log"
    words = ("compare", *SMALL, "--densities", "0.5,0.3", "--out")
    assert command(*words, str(tmp_path / "whole")).code == 0
    with started(log, [*words, str(out)], 1):
        pass
    assert not list(out.glob("*/result.json"))
    resumed = command("resume", str(out))
    assert resumed.code == 0
    labels = {"fedavg", "local-prune-0.5", "local-prune-0.3"}
    assert {one.name for one in out.iterdir()} == {*labels, "report.html"}
    for label in labels:
        assert bits(out / label) == bits(tmp_path / "whole" / label)
        assert label in (out / "report.html").read_text()
    again = command("resume", str(out))
    assert (again.code, again.out) == (0, f"{out} is finished: see {out / 'report.html'}\n")


def test_a_run_that_was_killed_before_its_result_was_written_is_resumed_from_its_last_checkpoint(
    command, tmp_path, undisturbed
):
    out = tmp_path / "made"
    assert command(*arguments("fedavg", out)).code == 0
    (out / "result.json").unlink()
    (out / "model.safetensors").unlink()
    done = command("resume", str(out))
    assert (done.code, done.err) == (0, "")  # no round is held again
    assert bits(out) == bits(undisturbed["fedavg"])
