"""How long the choice of a mask takes, and how much memory, on a model of 10^7 parameters.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/sparsity.py [--write]

Prints a Markdown table; ``--write`` puts it into docs/benchmarks.md.
"""

import os
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tables import Table, interleaved, report
from torch import Tensor

from fedbonsai.sparsity.masks import keep_top, keep_top_global

LAYERS = {"conv": (512, 512, 3, 3), "wide": (2048, 2048), "head": (1000, 2048), "stem": (3000, 499)}


def scores() -> dict[str, Tensor]:
    """Scores of a model's layers."""
    draw = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=draw) for name, shape in LAYERS.items()}


def peak(work: Callable[[], object]) -> float:
    """Bytes that ``work`` needs at its peak beyond what was there, in a process of its own."""

    def measure(pipe: object) -> None:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        before = status("VmRSS")
        work()
        pipe.send(status("VmHWM") - before)

    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=measure, args=(theirs,))
    process.start()
    found: float = ours.recv()
    process.join()
    return found


def status(key: str) -> float:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure() -> Table:
    """The masks of one flat tensor and of a whole model, against torch's selections alone."""
    torch.set_num_threads(1)
    layers = scores()
    flat = torch.cat([one.reshape(-1) for one in layers.values()])
    size = 4.0 * flat.numel()
    rows = [
        ["mask", "density", "torch.kthvalue, ms", "torch.topk, ms", "ours, ms", "against the quicker", "peak memory"]
    ]
    for density in (0.5, 0.1, 0.01):
        count = int(density * flat.numel())
        ours: Mapping[str, Callable[[], object]] = {
            "one tensor": lambda count=count: keep_top(flat, count),
            "whole model": lambda count=count: keep_top_global(layers, count),
            "whole model, floors": lambda count=count: keep_top_global(layers, count, dict.fromkeys(layers, 100)),
        }
        for name, work in ours.items():
            rank = flat.numel() - count + 1
            by_rank, mine = interleaved(lambda rank=rank: torch.kthvalue(flat, rank), work, repeats=7)
            by_top, _ = interleaved(lambda count=count: torch.topk(flat, count, sorted=False), work, repeats=5)
            rows.append(
                [
                    name,
                    f"{density:g}",
                    f"{1e3 * by_rank:.0f}",
                    f"{1e3 * by_top:.0f}",
                    f"{1e3 * mine:.0f}",
                    f"{mine / min(by_rank, by_top):.2f}x",
                    f"{peak(work) / size:.2f}x the scores",
                ]
            )
    return rows


if __name__ == "__main__":
    report({"masks": measure}, __doc__)
