"""How a run is computed: which kernel trains, which engine carries the bytes, and why."""

import os
from dataclasses import dataclass

from fedbonsai.core.seeds import seeded
from fedbonsai.experiment.build import make_work
from fedbonsai.experiment.config import Experiment
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.device import CPU, device_of
from fedbonsai.learning.kernels import choose_kernel
from fedbonsai.learning.machine import available_cores
from fedbonsai.learning.task import PreparedTask

WORTH_A_PROCESS = 2_000_000
"""FLOPs of one training step above which a second process pays for the bytes that it is sent."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, by the experiment or by a rule.

    Attributes:
        name: Of an engine or a kernel.
        why: What decided.
    """

    name: str
    why: str


def make_bench(experiment: Experiment, task: PreparedTask) -> Bench:
    """The model and data of an experiment, with the kernel that trains them.

    Raises:
        ConfigError: The kernel that the experiment names cannot train this model, or its device is not here.
    """
    device = device_of(experiment.device or "cpu")
    bench = Bench(task, make_work(experiment), experiment.seed, device=device)
    bench.kernel = kernel_of(experiment, bench).name
    _ = bench.batched, bench.forward  # refuse here what they cannot train, not on every client
    return bench


def kernel_of(experiment: Experiment, bench: Bench) -> Choice:
    """What ``kernel=auto`` stands for: a static rule, as a kernel decides the last bits of the weights.

    It looks at the model, the batch size and the cohort, and tries the model on an example or two, but never at a clock
    or the machine, so that equal experiments give equal bits anywhere.
    """
    if experiment.kernel not in (None, "auto"):
        return Choice(experiment.kernel, "set by the experiment")
    step, cohort = _step(bench), experiment.cohort or 1
    with seeded(bench.seed, "kernel"):
        return Choice(*choose_kernel(bench.module, bench.task, step, cohort))


def engine_of(experiment: Experiment, bench: Bench) -> Choice:
    """What ``engine=auto`` stands for; engines give equal bits, so the machine may have its say."""
    if experiment.engine != "auto":
        return Choice(experiment.engine, "set by the experiment")
    together = f"kernel {bench.kernel} trains the clients of a round together" if bench.batched else ""
    alone = together or (f"training is on {bench.device}" if bench.device != CPU else "")
    alone = alone or ("what is compiled is compiled once" if bench.kernel == "compiled" else "")
    if alone:
        return Choice("local", f"{alone}, in one process")
    cores, cohort, step = experiment.workers or available_cores(), experiment.cohort or 1, _step(bench)
    several = f"{step:.2g} FLOPs a step, {cores} cores, cohort {cohort}"
    if hasattr(os, "fork") and os.uname().sysname == "Linux" and min(cores, cohort) > 1 and step >= WORTH_A_PROCESS:
        return Choice("processes", f"{several}: from {WORTH_A_PROCESS:.2g} FLOPs on worker processes pay")
    return Choice("local", f"{several}: processes pay on Linux, from two cores and {WORTH_A_PROCESS:.2g} FLOPs on")


def _step(bench: Bench) -> int:
    """FLOPs of one training step of one client."""
    return (bench.cost.forward + bench.cost.backward) * bench.work.batch_size
