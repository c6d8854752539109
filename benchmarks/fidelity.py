"""Do the methods keep their papers' promises? Accuracy against bytes of every method, on one task a table.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/fidelity.py [--tables reach,fashion] [--seeds 1,2,3] [--write]

Every run has a directory under ``--runs`` (runs/fidelity), named by its digest: a finished one is not repeated, be it
another table's, and a stopped one is resumed, so a table can be made in parts. Prints one Markdown table each;
``--write`` puts it into docs/fidelity.md. Bytes are those of both directions, with every probe and warm-up, against
dense fp32 FedAvg over the same rounds. Needs the data directory (FEDBONSAI_DATA, or ../shared/data).
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tables import DOCS, Table, put, spread, table_with_machine

from fedbonsai.core.errors import FedbonsaiError
from fedbonsai.experiment.build import make_method, make_task, resolve
from fedbonsai.experiment.execute import Job, execute
from fedbonsai.experiment.settings import make_experiment


@dataclass(frozen=True)
class Line:
    """One method in a table.

    Attributes:
        label: What it is called there.
        method: Its name.
        settings: Settings of the method.
        run: Settings of the run that differ from the table's.
        against: Label of the dense line that it is compared with, in accuracy, bytes and FLOPs; None takes the first of
            the table. A line of more rounds is compared with the rounds of that.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    against: str | None = None


FEDAVG = Line("FedAvg, dense", "fedavg")
FEDPM = Line("fedpm", "fedpm", run={"optimizer": "adam", "lr": 0.1})
INT8 = Line("FedAvg, int8", "fedavg", run={"uplink": "int8", "downlink": "int8"})


def static(density: float, criterion: str = "random") -> Line:
    """A mask that is chosen once; at random with ERK layers, the stronger form."""
    own = {"budget": "erk"} if criterion == "random" else {}
    scorers = {"scorers": "sampled"} if criterion in ("snip", "grasp") else {}
    label = "static random mask" if criterion == "random" else f"fl-snip, {criterion}"
    return Line(f"{label}, {density:g}", "fl-snip", {"density": density, "criterion": criterion, **own, **scorers})


def pruned(method: str, density: float, label: str = "", **settings: object) -> Line:
    """A method at a final density."""
    return Line(f"{label or method}, {density:g}", method, {"density": density, **settings})


def quantised(line: Line, coding: str, **settings: object) -> Line:
    """The same with lossy values both ways, and what an update loses kept for the next."""
    run = {**line.run, "uplink": coding, "downlink": coding, "error_feedback": True}
    return Line(f"{line.label}, {coding}", line.method, {**line.settings, **settings}, run)


FASHION: dict[str, Any] = {
    "dataset": "fashion_mnist",
    "clients": 50,
    "cohort": 10,
    "model": "cnn",
    "partition": "dirichlet",
    "concentration": 0.5,
    "rounds": 20,
    "evaluate_every": 10,
}
CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "clients": 100,
    "cohort": 10,
    "model": "lenet5",
    "rounds": 40,
    "evaluate_every": 10,
}
SHAKESPEARE: dict[str, Any] = {"dataset": "shakespeare", "rounds": 30, "evaluate_every": 10}

LATE = pruned("fedsparsify", 0.2, "fedsparsify, late", start=0.4, reach=0.9)
"""Dense for two fifths of the rounds."""

EVERY = ("feddst", "fedtiny", "fedmef", "fedrts", "feddip", "fedsparsify", "local-prune", "prunefl")


def every_method(density: float) -> tuple[Line, ...]:
    """The honest opponents, then every method that prunes to a density."""
    opponents = (FEDAVG, INT8, static(density), static(density, "snip"), static(density, "synflow"))
    variants = tuple(pruned("flash", density, f"flash, {variant}", variant=variant) for variant in ("spdst", "jmwst"))
    return (*opponents, *(pruned(name, density) for name in EVERY if name != "prunefl"), *variants)


TABLES: Mapping[str, tuple[Mapping[str, Any], tuple[Line, ...]]] = {
    "reach": (
        {**FASHION, "rounds": 100},
        (
            FEDAVG,
            pruned("fedsparsify", 0.1, reach=0.2),
            pruned("fedsparsify", 0.05, reach=0.12),
            quantised(pruned("fedsparsify", 0.1, reach=0.15), "int8"),
            quantised(pruned("fedsparsify", 0.1, reach=0.15), "uniform"),
        ),
    ),
    "fashion": (FASHION, (*every_method(0.1), Line("prunefl", "prunefl"), Line("stc", "stc"), FEDPM)),
    "cifar": (CIFAR, every_method(0.2)),
    "shakespeare": (
        SHAKESPEARE,
        (
            FEDAVG,
            INT8,
            static(0.2),
            static(0.2, "snip"),
            LATE,
            *(pruned(name, 0.2) for name in ("fedsparsify", "feddip", "feddst", "local-prune")),
        ),
    ),
    "lstm": (
        {**SHAKESPEARE, "rounds": 120, "evaluate_every": 40},
        (FEDAVG, pruned("fedsparsify", 0.2, reach=0.4), LATE),
    ),
    "kinds": (
        FASHION,
        tuple(
            Line(f"{model}: {line.label}", line.method, line.settings, {**line.run, **run}, f"{model}: {FEDAVG.label}")
            for model, run in {
                "mlp": {"model": "mlp"},
                "cnn": {"model": "cnn"},
                "lenet5": {"model": "lenet5"},
                "lstm": {**SHAKESPEARE, "model": None, "clients": None, "cohort": None, "partition": None},
            }.items()
            for line in (FEDAVG, pruned("fedsparsify", 0.1), static(0.1))
        ),
    ),
    "tiers": (
        {
            "dataset": "cifar10",
            "clients": 100,
            "cohort": 10,
            "model": "resnet18",
            "width": 0.25,
            "rounds": 40,
            "evaluate_every": 10,
        },
        (
            FEDAVG,
            *(Line(name, name) for name in ("heterofl", "fedrolex", "fiarse", "fjord")),
            Line("heterofl, twice the rounds", "heterofl", run={"rounds": 80}),
        ),
    ),
    "smaller": (
        FASHION,
        (
            FEDAVG,
            Line("federated-dropout, half of all units", "federated-dropout", {"rate": 0.5}),
            Line("fluid, a fifth are stragglers of half width", "fluid", run={"tiers": "4 x 1, 0.5"}),
            Line("fluid, two fifths", "fluid", {"stragglers": 0.4}, run={"tiers": "3 x 1, 2 x 0.5"}),
            *(Line(name, name) for name in ("heterofl", "fedrolex", "fiarse", "fjord")),
            Line("heterofl, no scaler", "heterofl", {"scaler": False}),
            Line("heterofl, no scaler, 33 rounds", "heterofl", {"scaler": False}, {"rounds": 33}),
            pruned("local-prune", 0.5, "local-prune, units", unit="neuron"),
        ),
    ),
    "personal": (
        {
            "dataset": "fashion_mnist",
            "clients": 50,
            "cohort": 10,
            "model": "cnn",
            "partition": "shards",
            "rounds": 30,
            "evaluate_every": 10,
        },
        (
            FEDAVG,
            pruned("lotteryfl", 0.5),
            pruned("lotteryfl", 0.1),
            pruned("sub-fedavg", 0.5),
            pruned("hermes", 0.5, label="hermes, units"),
        ),
    ),
}


def run_all(name: str, seeds: list[int], runs: Path, *, hold: bool = True) -> dict[str, list[dict[str, Any]]]:
    """The final figures of every line of a table, one a seed; a line that cannot run says why and is left out.

    Runs that are not finished are held, or left out.
    """
    base, lines = TABLES[name]
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        for seed in seeds:
            settings = {**base, **line.run, "method": line.method, "method_settings": dict(line.settings), "seed": seed}
            if base.get("partition") == "dirichlet" and settings.get("partition") != "dirichlet":
                settings.pop("concentration", None)
            try:
                experiment = resolve(make_experiment(settings, {}))
                job = Job(experiment, make_task(experiment), make_method(experiment))
                out = runs / experiment.name
                final = finished(out) or (execute(job, out).final if hold else None)
            except FedbonsaiError as error:
                print(f"  {name}: {line.label}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                break
            if final is None:
                break
            found.setdefault(line.label, []).append(final)
            moved = (final["bytes_down"] + final["bytes_up"]) / final["bytes_dense"]
            print(
                f"  {name}: {line.label}, seed {seed}: {final['test_metric']:.4f} at {moved:.4f}x",
                file=sys.stderr,
                flush=True,
            )
    return found


def finished(out: Path) -> dict[str, Any] | None:
    """The final figures of a run that is over."""
    path = out / "result.json"
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8"))["final"] if path.exists() else None
    return found


def table(name: str, seeds: list[int], found: dict[str, list[dict[str, Any]]]) -> Table:
    """Test metric, distance to dense, density, bytes down, up and both, FLOPs; of fewer seeds where a line says so."""
    _, lines = TABLES[name]
    rows = [["method", "test metric", "points below dense", "weights kept", "down", "up", "both ways", "FLOPs"]]
    tiers = any(one.get("widths") for own in found.values() for one in own)
    rows[0] += ["smallest tier"] if tiers else []
    for line in lines:
        if line.label not in found:
            continue
        own, dense = found[line.label], found[line.against or lines[0].label]
        pairs = list(zip(own, dense, strict=False))
        below = [100 * (other["test_metric"] - one["test_metric"]) for one, other in pairs]
        half = [one["bytes_dense"] / 2 for one in dense]
        down, up = (
            statistics.mean(one[way] / plain for one, plain in zip(own, half, strict=False))
            for way in ("bytes_down", "bytes_up")
        )
        rows.append(
            [
                line.label
                if len(own) == len(seeds)
                else f"{line.label} (seed {', '.join(map(str, seeds[: len(own)]))})",
                several([one["test_metric"] for one in own], 100, " %"),
                several(below, 1, ""),
                f"{100 * statistics.mean(one['density'] for one in own):.1f} %",
                f"{down:.3f}x",
                f"{up:.3f}x",
                f"{(down + up) / 2:.4f}x",
                f"{statistics.mean(one['train_flops'] / other['train_flops'] for one, other in pairs):.2f}x",
            ]
        )
        if tiers:
            smallest = [one["widths"][-1]["test_metric"] for one in own if one.get("widths")]
            rows[-1].append(several(smallest, 100, " %") if smallest else "")
    return rows


def frontier(name: str, rows: Table) -> None:
    """Draw a table's accuracy against its bytes into docs/, one point a method."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for place, (method, metric, _, _, _, _, both, *_) in enumerate(rows[1:]):
        value, _, deviation = metric.replace(" %", "").partition(" ± ")
        x, y = float(both.rstrip("x")), float(value)
        look: dict[str, Any] = {"fmt": "osD^vPX*"[place % 8], "color": f"C{place % 10}", "markersize": 6, "capsize": 2}
        axes.errorbar(x, y, yerr=float(deviation or 0), label=method, **look)
    axes.set(xscale="log", xlabel="bytes of both directions, over dense fp32 FedAvg", ylabel="test metric, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(DOCS / f"fidelity-{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def several(values: list[float], scale: float, unit: str) -> str:
    """Mean and deviation, or the one value that there is."""
    return spread(values, scale, unit) if len(values) > 1 else f"{scale * values[0]:.2f}{unit}"


def main() -> None:
    """Make the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--runs", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--finished", action="store_true", help="only runs that are there already")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/fidelity.md")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in options.tables.split(","):
        rows = table(name, seeds, run_all(name, seeds, options.runs, hold=not options.finished))
        text = table_with_machine(rows, seeds)
        print(f"\n{name}\n\n{text}", flush=True)
        if options.write:
            frontier(name, rows)
            put(name, f"{text}\n\n![{name}: accuracy against bytes](fidelity-{name}.svg)", "fidelity.md")


if __name__ == "__main__":
    main()
