"""Time the ways in which an experiment could be computed, side by side, and write the quickest into its file."""

import dataclasses
import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.state import State
from fedbonsai.experiment.build import check_personal, make_engine
from fedbonsai.experiment.choice import engine_of, kernel_of, make_bench
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.execute import Job, make_run, one_thread
from fedbonsai.federated.round import run_round
from fedbonsai.federated.run import Run
from fedbonsai.learning.device import exactly
from fedbonsai.learning.kernels import KERNELS
from fedbonsai.learning.task import PreparedTask

WARM = 1
"""Rounds of each candidate that are not counted."""

PLAIN = "local", "loop"
"""The way that computes every experiment that can be computed."""


@dataclass(frozen=True)
class Candidate:
    """A way to compute a run, and how quick it was.

    Attributes:
        engine: What carried the bytes.
        kernel: What trained.
        seconds: Median wall time of a round, without evaluation; None where it cannot compute this run.
        why: What stands in its way; empty where nothing does.
    """

    engine: str
    kernel: str
    seconds: float | None
    why: str = ""


def tune(job: Job, rounds: int = 3, tell: Callable[[str], None] = lambda _: None) -> list[Candidate]:
    """Hold a few rounds with every engine and kernel of one machine that can, in turns, and order them by speed.

    Args:
        job: What is to be computed. Nothing of it is kept.
        rounds: Rounds that are timed of each, after one that is not; at least 1.
        tell: Is told what goes on.

    Returns:
        The quickest first, those that cannot at the end.

    Raises:
        ConfigError: Nothing can compute the experiment: what even the plain loop in one process is refused for.
    """
    held_out = check_personal(job.method, job.experiment)
    prepared = job.task.prepared(job.experiment.validation, job.experiment.seed, held_out)
    found: list[Candidate] = []
    with one_thread(), exactly(job.experiment.device), ExitStack() as stack:
        runs: dict[tuple[str, str], tuple[Run, State]] = {}
        # Compiling takes a minute a process and does not pay on a CPU.
        kernels = [one for one in KERNELS if one != "compiled" or job.experiment.device not in (None, "cpu")]
        for engine, kernel in (*(("local", one) for one in kernels), ("processes", "loop")):
            try:
                run = _begun(job, prepared, engine, kernel)
            except ConfigError as error:
                if (engine, kernel) == PLAIN:
                    raise
                found.append(Candidate(engine, kernel, None, str(error)))
                continue
            stack.enter_context(closing(run.engine))
            runs[engine, kernel] = run, run.start().state
        times = _timed(runs, rounds, tell)
    found += [Candidate(*names, statistics.median(own[WARM:])) for names, own in times.items()]
    return sorted(found, key=lambda one: one.seconds if one.seconds is not None else float("inf"))


def way_of(engine: str, kernel: str, experiment: Experiment) -> dict[str, Any]:
    """The settings that make an experiment be computed so; workers go with processes alone."""
    return {"engine": engine, "kernel": kernel, "workers": None if engine == "local" else experiment.workers}


def compared(found: Sequence[Candidate]) -> list[list[str]]:
    """The candidates that can compute the run as a table, its header first."""
    able = [(one, one.seconds) for one in found if one.seconds is not None]
    rows = [[one.engine, one.kernel, f"{own:.3f} s", f"{own / (able[0][1] or 1.0):.2f}x"] for one, own in able]
    return [["engine", "kernel", "a round", "of the quickest"], *rows]


def _begun(job: Job, task: PreparedTask, engine: str, kernel: str) -> Run:
    """A run that is computed in one way."""
    experiment = dataclasses.replace(job.experiment, **way_of(engine, kernel, job.experiment))
    bench = make_bench(experiment, task)
    carrier = make_engine(engine, experiment, job.method, bench)
    return make_run(dataclasses.replace(job, experiment=experiment), bench, carrier, None)


def _timed(
    runs: Mapping[tuple[str, str], tuple[Run, State]], rounds: int, tell: Callable[[str], None]
) -> dict[tuple[str, str], list[float]]:
    """Seconds of every round of each, held in turns so that a busy machine slows all alike."""
    states = {names: state for names, (_, state) in runs.items()}
    times: dict[tuple[str, str], list[float]] = {names: [] for names in runs}
    for turn in range(WARM + rounds):
        tell(f"round {turn + 1} of {WARM + rounds}")
        for names, (run, _) in runs.items():
            began = time.perf_counter()
            states[names], _row = run_round(run.method, states[names], run.engine, run.rules)
            times[names].append(time.perf_counter() - began)
    return times


def explained(job: Job) -> dict[str, str]:
    """How a run would be computed and why, by what is said of: model, kernel, engine."""
    experiment = job.experiment
    bench = make_bench(experiment, job.task.prepared(experiment.validation, experiment.seed))
    kernel, engine = kernel_of(experiment, bench), engine_of(experiment, bench)
    cost, batch = bench.cost.forward + bench.cost.backward, bench.work.batch_size
    return {
        "model": f"{bench.layout.count():,} parameters, {cost:,} FLOPs an example, {batch} examples a step",
        "kernel": f"{kernel.name} ({kernel.why})",
        "engine": f"{engine.name} ({engine.why})",
    }


def with_settings(text: str, settings: Mapping[str, str | int | None]) -> str:
    r"""An experiment file with other values of some settings outside of its tables; all else as it was.

    A setting that is None is left out.

    Examples:
        >>> print(with_settings('rounds = 3  # few\n\n[method_settings]\n', {"engine": "local"}), end="")
        rounds = 3  # few
        engine = "local"
        <BLANKLINE>
        [method_settings]
    """
    lines = text.splitlines()
    end = next((place for place, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    head, tables = lines[:end], lines[end:]
    for name, value in settings.items():
        found = [place for place, line in enumerate(head) if re.match(rf"\s*{name}\s*=", line)]
        last = max((place for place, line in enumerate(head) if line.strip()), default=-1)
        line = [] if value is None else [f"{name} = {json.dumps(value)}"]
        place = found[0] if found else last + 1
        head[place : place + len(found)] = line
    return "\n".join([*head, *tables]) + "\n"
