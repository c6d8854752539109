"""Sizes against the information limit, and sizes, times and memory against other formats.

Run ``python benchmarks/wire.py``; it prints the tables of docs/benchmarks.md. One thread, CPU time,
the median of interleaved repeats: compare inside one table only.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from wire_models import held_by, message_of, random_model, resnet18
from wire_rivals import rivals

from fedbonsai import wire
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire.information import entropy_limit, subset_limit, support_limit


def exact_limit(message: Message, *, half: bool = False, supports: bool = True) -> float:
    """Bytes: log2 C(n, k), order-0 entropy of each tensor's exponents, raw signs and mantissas."""
    total = 0.0
    for part in message.groups["weights"].values():
        words = part.values.numpy().view(np.uint32)
        rest = 1 if half and len(part.support.shape) > 1 else 3
        total += entropy_limit((words >> 23).astype(np.uint8)) + rest * words.size
        total += support_limit(part.support) if supports else 0
    return total


def one_mask(mask: NDArray[np.bool_], held: dict[bytes, Support] | None = None) -> int:
    """Bytes that the support of one tensor takes."""
    support = Support.masked(torch.from_numpy(mask))
    message = Message({"weights": group({"w": torch.zeros(mask.shape)}, {"w": support})})
    return wire.account(wire.encode(message, held=held)).supports


def support_rows() -> Iterator[tuple[str, ...]]:
    """Random, N:M and changed masks against their limits."""
    random = np.random.default_rng(1)
    for size in (10**6, 10**7):
        for density in (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01):
            mask = random.random(size) < density
            limit = subset_limit(size, int(mask.sum()))
            yield row(f"random, density {density:g}, n = {size:.0e}", one_mask(mask), limit)
    blocks = (random.random((250_000, 4)).argsort(axis=1) < 2).reshape(-1)
    yield row("2:4, n = 1e6", one_mask(blocks), 250_000 * np.log2(6) / 8)
    mask = random.random(10**7) < 0.1
    changed = mask.copy()
    moved = int(mask.sum()) // 100
    changed[random.choice(np.flatnonzero(mask), moved, replace=False)] = False
    changed[random.choice(np.flatnonzero(~mask), moved, replace=False)] = True
    held = {one.digest: one for one in [Support.masked(torch.from_numpy(mask))]}
    count = int(mask.sum())
    limit = subset_limit(count, moved) + subset_limit(10**7 - count, moved)
    cost, full = one_mask(changed, held), one_mask(changed)
    yield row(f"1 % changed, density 0.1, n = 1e7: {100 * cost / full:.1f} % of the full", cost, limit)


def model_rows() -> Iterator[tuple[str, ...]]:
    """Supports of a whole model: known, and structured."""
    shapes = resnet18(64, 1000)
    message = message_of(*random_model(shapes, 0.1))
    known = wire.account(wire.encode(message, held=held_by(message)))
    yield "ResNet-18, all masks known", str(known.supports), "", ""
    random = np.random.default_rng(2)
    widths = {size: np.sort(random.permutation(size)[: size // 2]) for size in (64, 128, 256, 512)}
    supports = {
        name: Support.grid(
            shape,
            [torch.from_numpy(widths.get(size, np.arange(size))) for size in shape],
        )
        for name, shape in shapes.items()
    }
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    grid = Message({"weights": group(zeros, supports)})
    yield "ResNet-18, half of the channels", str(wire.account(wire.encode(grid)).supports), "", ""


def message_rows() -> Iterator[tuple[str, ...]]:
    """Whole messages against their limits."""
    shapes = resnet18()
    for density in (0.5, 0.1, 0.02):
        message = message_of(*random_model(shapes, density))
        for values, half in (("fp32", False), ("bf16", True)):
            length = len(wire.encode(message, values=values))
            yield row(f"{values}, density {density:g}", length, exact_limit(message, half=half))
            known = len(wire.encode(message, values=values, held=held_by(message)))
            limit = exact_limit(message, half=half, supports=False)
            yield row(f"{values}, density {density:g}, masks known", known, limit)
        for values in ("int8", "int4", "uniform", "ternary", "sign", "bits"):
            length = len(wire.encode(message, values=values, held=held_by(message)))
            yield f"{values}, density {density:g}, masks known", str(length), "", ""


def row(name: str, length: int, limit: float) -> tuple[str, ...]:
    """A row of a table of sizes."""
    return name, str(length), f"{limit:.0f}", f"{100 * (length / limit - 1):+.2f} %"


def rival_rows(density: float, repeats: int) -> Iterator[tuple[str, ...]]:
    """Size and times of every rival, in one interleaved run."""
    model, masks = random_model(resnet18(), density)
    dense = sum(weights.nbytes for weights in model.values())
    everyone = rivals(model, masks)
    blobs = [rival.write() for rival in everyone]
    runs = [[rival.times(blob) for rival, blob in zip(everyone, blobs, strict=True)] for _ in range(repeats)]
    for at, (rival, blob) in enumerate(zip(everyone, blobs, strict=True)):
        write, read = (float(np.median([run[at][way] for run in runs])) for way in (0, 1))
        speeds = f"{dense / write / 1e9:.2f}", f"{dense / read / 1e9:.2f}"
        milliseconds = f"{1e3 * write:.1f}", f"{1e3 * read:.1f}", f"{1e3 * (write + read):.1f}"
        yield rival.name, str(len(blob)), f"{dense / len(blob):.1f}", *milliseconds, *speeds


def peak_memory(density: float) -> tuple[int, int]:
    """Bytes of the dense model, and by how much encoding raised the process at the worst moment."""
    model, masks = random_model(resnet18(), density)
    message = message_of(model, masks)
    wire.encode(message_of({"w": np.ones((9, 9), np.float32)}, {}))
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    wire.encode(message)
    return sum(weights.nbytes for weights in model.values()), _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def memory_rows() -> Iterator[tuple[str, ...]]:
    """Peak memory of encoding, each in a fresh process."""
    for density in (1.0, 0.5, 0.1):
        command = [sys.executable, __file__, "--memory", str(density)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        dense, peak = map(int, answer.split())
        yield (
            f"density {density:g}",
            f"{dense / 1e6:.1f}",
            f"{peak / 1e6:.1f}",
            f"{peak / dense:.2f}",
        )


def show(title: str, header: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|---{'|--:' * (len(header) - 1)}|", flush=True)
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print all tables, or with ``--memory`` the two numbers of one fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, help="density; used for the fresh processes")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats of the times")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory is not None:
        print(*peak_memory(arguments.memory))
        return
    sizes = ("", "bytes", "limit", "over")
    show("Supports", sizes, support_rows())
    show("Supports of whole models", sizes, model_rows())
    show("Whole messages, 1.05e7 parameters", sizes, message_rows())
    columns = (
        "",
        "bytes",
        "times smaller",
        "write ms",
        "read ms",
        "both ms",
        "write GB/s",
        "read GB/s",
    )
    for density in (0.1, 0.02):
        title = f"Rivals, 1.05e7 parameters, density {density:g} (GB/s of the dense model)"
        show(title, columns, rival_rows(density, arguments.repeats))
    show("Memory of encoding", ("", "dense MB", "peak MB", "ratio"), memory_rows())


if __name__ == "__main__":
    main()
