"""Rounds of ours beside those of other simulators: same model, data, clients, local work and initial weights.

    .venv/bin/python benchmarks/peers.py [--jobs lenet,pruned-cnn] [--rounds 7] [--envs FOLDER] [--write]

Jobs: lenet, cnn, cifar, mlp, leaf, lstm, resnet: all engines; agree: whether they compute the same; pruned-cnn,
pruned-cifar, pruned-resnet: ours with smaller models and masks; peak: the share of a core's speed; start: until the
first round.

Every rival lives in an environment of its own, which is made where ``--envs`` says; pip's settings choose the build of
torch, and one for the CPU alone saves gigabytes. An engine is a process that holds a round when it is told to, so that
the rounds of all engines take turns; Flower comes after the others, as Ray works on while it waits. First rounds are
dropped. ``--write`` puts the tables into docs/benchmarks.md.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parent / "peers"))

import numpy as np
import torch
from environments import python_of, versions
from job import read_job
from jobs import JOBS, Job, write_job
from networks import loss_of, network
from numpy.typing import NDArray
from ours import job_of
from tables import Table, interleaved, put, table_with_machine
from turns import Engine, measure
from worker import WorkerError

from fedbonsai.experiment.execute import execute, one_thread
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.work import Work

SEED = 0


OURS = Engine("fedbonsai", "ours.py")
ENGINES = (
    OURS,
    Engine("fedbonsai, 1 process", "ours.py", options=("engine=local",)),
    Engine("fedbonsai, raw values", "ours.py", options=("uplink=raw", "downlink=raw")),
    Engine("plain PyTorch loop", "plain.py"),
    Engine("pfl-research, 1 process", "use_pfl.py", "pfl"),
    Engine("pfl-research, 2 processes", "use_pfl.py", "pfl", processes=2),
    Engine("FedLab", "use_fedlab.py", "fedlab"),
    Engine("FedJAX", "use_fedjax.py", "fedjax"),
    Engine("Flower simulation, 2 actors", "use_flower.py", "flower", ("2",), alone=True),
)
REACH = {
    ("lenet", "pfl-research, 2 processes"): 1.5,
    ("cnn", "pfl-research, 2 processes"): 1.3,
    ("mlp", "pfl-research, 2 processes"): 5.0,
    ("lenet", "Flower simulation, 2 actors"): 30.0,
    ("cnn", "Flower simulation, 2 actors"): 4.0,
}
"""How many times as fast ours is to be; faster, where nothing stands here."""


def loss_after(job: Job, weights: Sequence[NDArray[np.float32]]) -> float:
    """The mean loss of weights on the examples of some clients."""
    model = network(job.network, weights, dropout=False).eval()
    with torch.inference_mode():
        inputs, targets = (torch.cat(side) for side in zip(*job.data()[:10], strict=True))
        return float(loss_of(model, inputs, targets))


def rivals(name: str, rounds: int, envs: Path) -> Table:
    """All engines on one job."""
    found = measure(JOBS[name], ENGINES, rounds + 1, envs, SEED)
    ours = found[OURS.title]
    if ours.failure:
        raise WorkerError(ours.failure)
    rows = [["engine", "s a round", "CPU s a round", "ours is as fast", "reach", "loss after"]]
    for title, own in found.items():
        if own.failure:
            rows.append([title, "", "", "", "", f"left out: {own.failure}"])
            continue
        wanted = "" if title.startswith("fedbonsai") else f"{REACH.get((name, title), 1.0):g}x"
        known = f" ({', '.join(own.facts.values())})" if own.facts else ""
        loss = loss_after(JOBS[name], own.weights)
        times = [f"{own.seconds:.3f}", f"{statistics.mean(own.cpu):.3f}", f"{own.seconds / ours.seconds:.2f}x"]
        rows.append([title + known, *times, wanted, f"{loss:.4f}"])
    return rows


def agree(envs: Path) -> Table:
    """How far the weights of the engines are from ours after a round of two steps over all examples of each client."""
    rows = [["engine", *(JOBS[name].title for name in ("lenet", "mlp"))]]
    columns = [measure(JOBS[name].comparable, ENGINES, 1, envs, SEED) for name in ("lenet", "mlp")]
    for engine in ENGINES[1:]:
        row = [engine.title]
        for found in columns:
            own, ours = found[engine.title], found[OURS.title]
            pairs = zip(own.weights, ours.weights, strict=True)
            row.append(own.failure or f"{max(float(abs(a - b).max()) for a, b in pairs):.0e}")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Variant:
    """A way to run ours.

    Attributes:
        settings: What it is told.
        beside: The variant that it is compared with.
        reach: How many times as fast it is to be.
    """

    settings: tuple[str, ...]
    beside: str = ""
    reach: str = ""


AT_ONCE = ("warmup=0", "reach=0.01")
WIDE = ("cnn", "cifar", "resnet")
"""Jobs whose time is that of their matrix products."""

VARIANTS = {
    "FedAvg, dense": Variant(()),
    "HeteroFL, tiers=0.5": Variant(("method=heterofl", "tiers=0.5"), "FedAvg, dense", "3x"),
    "HeteroFL, tiers=0.25": Variant(("method=heterofl", "tiers=0.25"), "FedAvg, dense", "6.5x"),
    "Federated Dropout, rate=0.5": Variant(("method=federated-dropout", "rate=0.5"), "FedAvg, dense", "3x"),
    "Federated Dropout, rate=0.75": Variant(("method=federated-dropout", "rate=0.75"), "FedAvg, dense", "6.5x"),
    "FedDST, density=1": Variant(("method=feddst", "density=1")),
    "FedDST, density=0.1": Variant(("method=feddst", "density=0.1"), "FedDST, density=1", "1x"),
    "local-prune, density=1": Variant(("method=local-prune", "density=1", *AT_ONCE)),
    "local-prune, density=0.1": Variant(
        ("method=local-prune", "density=0.1", *AT_ONCE), "local-prune, density=1", "1x"
    ),
}


def pruned(name: str, rounds: int, envs: Path) -> Table:
    """Rounds whose clients have smaller models, or masks, beside dense ones."""
    rows = [["clients train", "s a round", "CPU s a round", "as fast", "by CPU", "reach"]]
    engines = [Engine(title, "ours.py", options=variant.settings) for title, variant in VARIANTS.items()]
    found = measure(JOBS[name], engines, rounds + 1, envs, SEED)
    for title, own in found.items():
        base = found[VARIANTS[title].beside or title]
        if own.failure or base.failure:
            raise WorkerError(own.failure or base.failure)
        spent = [statistics.mean(one.cpu) for one in (own, base)]
        ratios = [f"{base.seconds / own.seconds:.2f}x", f"{spent[1] / spent[0]:.2f}x"]
        known = f"{title} ({', '.join(own.facts.values())})"
        rows.append([known, f"{own.seconds:.3f}", f"{spent[0]:.3f}", *ratios, VARIANTS[title].reach])
    return rows


def peak(rounds: int) -> Table:
    """What share of a matrix product's speed training reaches: FLOPs of the model over CPU seconds."""
    rows = [["model", "2048^3 product, GFLOP/s", "local training", "whole rounds, one process", "reach"]]
    matrix = torch.randn(2048, 2048)
    for name in WIDE:
        with tempfile.TemporaryDirectory() as folder, one_thread():
            write_job(JOBS[name], Path(folder), rounds + 1, SEED)
            prepared = job_of(read_job(folder), {"engine": "local"})
            experiment, clocks = prepared.experiment, [time.process_time()]
            work = Work(epochs=experiment.epochs or 1, batch_size=experiment.batch_size or 1, lr=experiment.lr or 0.1)
            bench = Bench(prepared.task.prepared(0.0, SEED), work, SEED)
            learner = Learner(bench, 0)
            fit = partial(learner.fit, dict(bench.initial))
            product, fitted = interleaved(
                lambda: torch.mm(matrix, matrix), fit, repeats=2 * rounds, clock=time.process_time
            )
            result = execute(prepared, observer=lambda _, clocks=clocks: clocks.append(time.process_time()))
        speed = 2 * 2048**3 / product
        one = (bench.cost.forward + bench.cost.backward) * learner.num_examples * work.epochs / fitted
        spent = statistics.median(after - before for before, after in pairwise(clocks[1:]))
        whole = statistics.median(row["flops"] for row in result.rounds) / spent
        rows.append([JOBS[name].title, f"{speed / 1e9:.0f}", f"{one / speed:.0%}", f"{whole / speed:.0%}", "70%"])
    return rows


STARTED = """
import sys, time
import torch
print(time.time())
import fedbonsai.federated.run as run
from fedbonsai.__main__ import main
def begun(*_):
    print(time.time(), flush=True)
    __import__("os")._exit(0)
run.run_round = begun
sys.argv[1:] = ["run", "digits", "--out", sys.argv[1]]
main()
"""


def start(rounds: int) -> Table:
    """Seconds until the first round of ``fedbonsai run digits`` begins."""
    waits = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            command = [sys.executable, "-c", STARTED, f"{folder}/run"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            imported, first = float(said[0]), float(said[-1])
            waits.append((imported - began, first - imported, first - began))
    medians = [f"{statistics.median(column):.2f}" for column in zip(*waits[1:], strict=True)]
    return [
        ["s until torch is imported", "from there to the first round", "in all", "reach"],
        [*medians, "3 from there"],
    ]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", help="some of them: see above; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not")
    parser.add_argument("--envs", type=Path, default=Path("runs/peers-envs"), help="where the rivals' environments are")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the engines would outlive us
    rounds, envs = options.rounds, options.envs
    parts: dict[str, Callable[[], Table]] = {name: partial(rivals, name, rounds, envs) for name in JOBS}
    parts |= {f"pruned-{name}": partial(pruned, name, rounds, envs) for name in WIDE}
    parts |= {"agree": partial(agree, envs), "peak": partial(peak, rounds), "start": partial(start, rounds)}
    for name in options.jobs.split(",") if options.jobs else parts:
        text = table_with_machine(parts[name](), (SEED,))
        if name in JOBS:
            text += f" {beside(envs)}"
        print(f"\n{name}\n\n{text}", flush=True)
        if options.write:
            put(f"peers-{name}", text)


def beside(envs: Path) -> str:
    """The versions of the rivals, as a sentence."""
    found: dict[str, str] = {}
    for name in sorted({engine.environment for engine in ENGINES if engine.environment}):
        found |= versions(python_of(name, envs))
    return "Beside " + ", ".join(f"{name} {version}" for name, version in found.items()) + "."


if __name__ == "__main__":
    main()
