"""What clients, cohorts and parameters cost of time, memory and disk.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/scale.py [clients|cohort|keeping|parameters] [--write]

Prints a Markdown table; ``--write`` puts it into docs/benchmarks.md. Every point is a whole run, with its directory, in
a process of its own, so that its peak of memory is its own. Times are CPU time, which other work on the machine
disturbs less than the clock. The last line of a table has the exponents of a least-squares fit on logarithms.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from tables import Table, put, table_with_machine
from torch import nn

import fedbonsai
from fedbonsai.core.ragged import Ragged
from fedbonsai.experiment.execute import peak_memory_bytes
from fedbonsai.learning.task import Pool, Task
from fedbonsai.methods import method_class

FEATURES, CLASSES, EXAMPLES, EACH = 32, 10, 100_000, 4
ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        clients: Of the population; each holds `EACH` of the examples, which they share.
        cohort: Of a round.
        hidden: Units of each hidden layer.
        layers: Hidden layers.
        method: Name of the method.
    """

    clients: int = 10_000
    cohort: int = 10
    hidden: int = 32
    layers: int = 1
    method: str = "fedavg"


@dataclass(frozen=True)
class Cost:
    """What it took: CPU seconds before the first round ended and of a later one, bytes beyond an idle process's."""

    parameters: int
    first: float
    round: float
    memory: int
    disk: int


def perceptron(point: Point) -> nn.Module:
    """Dense layers with ReLU between them."""
    widths = [FEATURES] + [point.hidden] * point.layers
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], CLASSES))


def measured(point: Point) -> Cost:
    """Run a point in this process."""
    idle, draw = peak_memory_bytes(), torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=draw)
    pool = Pool(inputs, torch.randint(0, CLASSES, (EXAMPLES,), generator=draw))
    positions = Ragged(torch.arange(EACH * point.clients) % EXAMPLES, EACH * torch.arange(point.clients + 1))
    test = pool.inputs[:1000], pool.targets[:1000]
    task = Task(lambda: perceptron(point), "cross_entropy", pool, test, positions=positions)
    began, marks = time.process_time(), list[float]()
    with tempfile.TemporaryDirectory() as out:
        result = fedbonsai.run(
            task,
            method_class(point.method)(),
            rounds=ROUNDS,
            cohort=point.cohort,
            out=out,
            observer=lambda _: marks.append(time.process_time()),
            steps=1,
            batch_size=EACH,
            evaluate_every=ROUNDS,
            judges=min(point.clients, 1000),
            engine="local",
        )
        disk = sum(one.stat().st_size for one in Path(out).rglob("*") if one.is_file())
    later = (marks[-2] - marks[0]) / (ROUNDS - 2)
    return Cost(result.final["parameters"], marks[0] - began, later, peak_memory_bytes() - idle, disk)


def apart(point: Point) -> Cost:
    """Run a point in a process of its own."""
    command = [sys.executable, __file__, "point", json.dumps(vars(point))]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Cost(**json.loads(said.splitlines()[-1]))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> str:
    """The power of the size that a cost grows with."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return f"{slope:.2f}"


def table(what: str, points: Sequence[Point]) -> Table:
    """All costs of points that differ in one size."""
    costs = [apart(point) for point in points]
    sizes = [
        cost.parameters if what == "parameters" else getattr(point, what)
        for cost, point in zip(costs, points, strict=True)
    ]
    columns = [
        [cost.first for cost in costs],
        [cost.round for cost in costs],
        [cost.memory / 1e6 for cost in costs],
        [cost.disk / 1e6 for cost in costs],
    ]
    rows = [[f"{size:,}", *(f"{value:.3g}" for value in values)] for size, *values in zip(sizes, *columns, strict=True)]
    head = [what, "to the end of the first round, s", "a later round, s", "memory, MB", "on disk, MB"]
    return [head, *rows, ["exponent", *(exponent(sizes, values) for values in columns)]]


def clients() -> Table:
    """Populations, ten of which take part in a round."""
    return table("clients", [Point(clients=count) for count in (1000, 10_000, 100_000, 1_000_000)])


def cohort() -> Table:
    """Cohorts of a population of ten thousand."""
    return table("cohort", [Point(cohort=count) for count in (10, 100, 1000, 10_000)])


def keeping() -> Table:
    """The same, of a method whose clients keep a model and what they have not sent, and of one with a mask each."""
    points = [
        Point(cohort=count, hidden=128, method=name) for name in ("stc", "local-prune") for count in (10, 100, 1000)
    ]
    tables = [table("cohort", points[:3]), table("cohort", points[3:])]
    named = [[[name, *row] for row in one[1:]] for name, one in zip(("stc", "local-prune"), tables, strict=True)]
    return [["method", *tables[0][0]], *named[0], *named[1]]


def parameters() -> Table:
    """Models, which two clients train."""
    return table("parameters", [Point(clients=10, cohort=2, hidden=h, layers=2) for h in (295, 978, 3140, 9977)])


TABLES = {"clients": clients, "cohort": cohort, "keeping": keeping, "parameters": parameters}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["point"]:
        print(json.dumps(vars(measured(Point(**json.loads(sys.argv[2]))))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES), nargs="?", default="clients")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    text = table_with_machine(TABLES[options.table](), (0,))
    print(text)
    if options.write:
        put(f"scale-{options.table}", text)


if __name__ == "__main__":
    main()
