"""What physically smaller models cost and save.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/submodels.py [extraction|training|memory] [--write]

Prints a Markdown table; ``--write`` puts it into docs/benchmarks.md. All times of a table are taken in turns in one
process with one thread; they are CPU time, which other work on the machine disturbs less than the clock.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tables import Table, interleaved, put, table_with_machine
from torch import Tensor, nn

from fedbonsai.core.message import Part
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Sum
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.footprint import footprint
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.models.build import build
from fedbonsai.models.layers import Conv2d, MaxPool2d
from fedbonsai.sparsity.channels import Groups, add_into, extract, gather, grids_by_width, trace, units_by_width

SHAPE = (3, 32, 32)


def scattered(groups: Groups, width: float) -> dict[str, Tensor]:
    """As many units as ``width`` keeps, anywhere in each group."""
    draw = torch.Generator().manual_seed(0)
    counts = {name: len(units) for name, units in units_by_width(groups, width).items()}
    return {
        name: torch.randperm(units, generator=draw)[: counts[name]].sort().values
        for name, units in groups.units.items()
    }


def add_all(whole: dict[str, Tensor], update: dict[str, Tensor], supports: dict[str, Support]) -> None:
    """Add a client's tensors where they sit."""
    for name, small in update.items():
        add_into(whole[name], small, supports[name])


def copy_all(target: dict[str, Tensor], update: dict[str, Tensor]) -> None:
    """Copy a client's tensors, to compare with."""
    for name, small in update.items():
        target[name].copy_(small)


def sum_all(sums: dict[str, Sum], parts: dict[str, Part]) -> None:
    """Add a client's tensors to the sums of a round whose clients have other channels: values and who holds them."""
    for name, part in parts.items():
        sums[name].add(part, 1.0)


def sums_of(model: nn.Module) -> dict[str, Sum]:
    """A round's sums to which all channels have already contributed."""
    return {
        name: Sum(torch.zeros(one.numel()), Support.dense(one.shape), denominator=torch.zeros(one.shape))
        for name, one in model.named_parameters()
    }


def extraction() -> Table:
    """Cutting ResNet-18 down, and adding what came back, against copying the same bytes."""
    torch.set_num_threads(1)
    rows = [
        [
            "ResNet-18",
            "kept",
            "parameters",
            "trace, ms",
            "first of a structure, ms",
            "extract, ms",
            "copy, ms",
            "scatter-add, ms",
            "against the copy",
            "server's sum, ms",
        ]
    ]
    for norm, width in (("batch", 0.5), ("batch", 0.25), ("group", 0.5), ("group", 0.25)):
        model = build("resnet18", input_shape=SHAPE, classes=10, norm=norm)
        began = time.process_time()
        groups = trace(model, torch.zeros(1, *SHAPE), group_norm="even")
        traced = time.process_time() - began
        for kept, keep in (("first units", None), ("any units", scattered(groups, width))):
            share = width if keep is None else None
            groups.cache.clear()
            began = time.process_time()
            small, supports = extract(model, groups, keep, share)
            first = time.process_time() - began
            update = {name: one.detach() for name, one in small.named_parameters()}
            target = {name: torch.empty_like(one) for name, one in update.items()}
            whole = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
            parts = {name: Part(one.reshape(-1), supports[name]) for name, one in update.items()}
            cut, copied, added, summed = interleaved(
                partial(extract, model, groups, keep, share),
                partial(copy_all, target, update),
                partial(add_all, whole, update, supports),
                partial(sum_all, sums_of(model), parts),
                repeats=21,
                clock=time.process_time,
            )
            size = sum(one.numel() for one in update.values())
            times = [f"{1e3 * one:.1f}" for one in (traced, first, cut, copied, added)]
            rows.append(
                [
                    f"{norm} norm, width {width:g}",
                    kept,
                    f"{size:.3g}",
                    *times,
                    f"{added / copied:.2f}x",
                    f"{1e3 * summed:.1f}",
                ]
            )
    return rows


def cifar_cnn() -> nn.Module:
    """Convolutions 5x5 of 32 and 64, each with max-pool 2, dense 128, dense out: 0.58 million parameters."""
    first = [Conv2d(3, 32, 5, padding=2), nn.ReLU(), MaxPool2d(2)]
    second = [Conv2d(32, 64, 5, padding=2), nn.ReLU(), MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18-GN, half its channels": partial(build, "resnet18", input_shape=SHAPE, classes=10, width=0.5),
    "CIFAR CNN": cifar_cnn,
}
WIDTHS = (1.0, 0.5, 0.25, 0.125)
BATCH = 20


def client_bench(model: Callable[[], nn.Module], examples: int = 5 * BATCH) -> Bench:
    """One client with images of noise."""
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(examples, *SHAPE, generator=draw), torch.randint(0, 10, (examples,), generator=draw)
    task = Task(model=model, loss="cross_entropy", clients=[data], test=data)
    return Bench(task.prepared(0.0, seed=0), Work(batch_size=BATCH, lr=0.01), seed=0)


def training() -> Table:
    """A client's epoch of five batches with the model of each width: load, train, read."""
    torch.set_num_threads(1)
    rows = [["model", "width", "parameters", "FLOPs of dense", "ms", "times as fast", "ideal"]]
    for name, model in MODELS.items():
        bench = client_bench(model)
        grids = [grids_by_width(bench.channels, width) for width in WIDTHS]
        weights = [gather(bench.initial, own) for own in grids]
        fits = [partial(Learner(bench, 0).smaller(own).fit, values) for own, values in zip(grids, weights, strict=True)]
        costs = [bench.smaller(own).cost for own in grids]
        times = interleaved(*fits, repeats=7, clock=time.process_time)
        for width, own, cost, spent in zip(WIDTHS, grids, costs, times, strict=True):
            share = (cost.forward + cost.backward) / (costs[0].forward + costs[0].backward)
            parameters = sum(own[slot.name].count for slot in bench.layout.parameters)
            ratios = [f"{times[0] / spent:.1f}x", f"{1 / share:.1f}x"]
            rows.append([name, f"{width:g}", f"{parameters:.3g}", f"{share:.3f}x", f"{1e3 * spent:.0f}", *ratios])
    return rows


def memory() -> Table:
    """What training takes of memory at its peak, measured in a process of its own for every width."""
    rows = [["model", "width", "peak of training, MB", "of dense", "`footprint` says, MB"]]
    for name in MODELS:
        dense = 0.0
        for width in WIDTHS:
            command = [sys.executable, __file__, "peak", name, str(width)]
            measured, said = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
            dense = dense or measured
            rows.append([name, f"{width:g}", f"{measured:.1f}", f"{measured / dense:.2f}x", f"{said:.1f}"])
    return rows


def peak(name: str, width: float) -> None:
    """Print the megabytes that training at a width adds to this process at its peak, and what is computed of it."""
    torch.set_num_threads(1)
    bench = client_bench(MODELS[name], examples=2 * BATCH)
    grids = grids_by_width(bench.channels, width)
    weights, said = gather(bench.initial, grids), footprint(bench.smaller(grids)).memory
    fresh = client_bench(MODELS[name], examples=2 * BATCH)
    vars(fresh)["channels"] = bench.channels  # traced apart, as that takes memory of its own
    del bench
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak so far
    before = resident("VmRSS")
    Learner(fresh, 0).smaller(grids).fit(weights)
    print((resident("VmHWM") - before) / 1e6, said / 1e6)


def resident(which: str) -> float:
    """Bytes of memory of this process: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(which)))


TABLES = {"extraction": extraction, "training": training, "memory": memory}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2], float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES), nargs="?", default="extraction")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    text = table_with_machine(TABLES[options.table](), (0,))
    print(text)
    if options.write:
        put(f"submodels-{options.table}", text)


if __name__ == "__main__":
    main()
