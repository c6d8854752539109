"""What adding updates up costs beside moving their bytes, and what robust rules cost beside the mean.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/aggregation.py [--write]

Prints Markdown tables; ``--write`` puts them into docs/benchmarks.md.
"""

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tables import Table, interleaved, report

from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.estimate import Robust, estimated
from fedbonsai.federated.robust import krum, median, squared_distances, trimmed_mean

CLIENTS, BAD = 20, 4
SIZES = (1_000_000, 10_000_000)
REPEATS = 3


def measure() -> Table:
    """The mean as rounds make it, and each rule: alone, and in its round with the sum that it replaces."""
    torch.set_num_threads(1)
    rows = [["coordinates", "rule", "ms", "over the mean", "in a round, over the mean", "reach"]]
    for size in SIZES:
        draw = torch.Generator().manual_seed(0)
        vectors = [torch.randn(size, generator=draw) for _ in range(CLIENTS)]
        updates = [Message({"weights": group({"w": one})}, weight=50.0, client=i) for i, one in enumerate(vectors)]
        anchor = {"w": vectors[0]}

        def mean(robust: Robust | None = None, updates: list[Message] = updates, anchor: dict = anchor) -> object:
            total = Total(estimated=robust is not None and robust.keeps)
            for update in updates:
                total.add(update if robust is None else robust.bounded(update, lambda: Message(updates[0].groups)))
            if robust is not None:
                total = estimated(total, [update.groups["weights"] for update in updates], robust)
            return average(total, anchor)

        works = {
            "median": (lambda v=vectors: median(v), Robust("median"), "5x"),
            "trimmed, 4 at each end": (lambda v=vectors: trimmed_mean(v, BAD), Robust("trimmed", BAD), "10x"),
            "krum, 4 bad": (lambda v=vectors: krum(squared_distances(v), BAD), Robust("krum", BAD), ""),
            "norm-bound": (None, Robust("norm-bound", bound=1.0), ""),
        }
        for name, (alone, robust, reach) in works.items():
            timed = [mean, lambda robust=robust, mean=mean: mean(robust), *([alone] if alone else [])]
            plain, whole, *own = interleaved(*timed, repeats=REPEATS, clock=time.process_time)
            if not any(row[1] == "mean" and row[0] == f"{size:.0e}" for row in rows):
                rows.append([f"{size:.0e}", "mean", f"{1e3 * plain:.0f}", "1.0x", "1.0x", ""])
            first = own[0] if own else whole
            cells = [f"{1e3 * first:.0f}", f"{first / plain:.1f}x", f"{whole / plain:.1f}x", reach]
            rows.append([f"{size:.0e}", name, *cells])
    return rows


def throughput() -> Table:
    """Adding an update of 10^7 parameters: bytes that must move over the time, against a plain ``y += a x``."""
    torch.set_num_threads(1)
    size, clients = SIZES[-1], CLIENTS
    draw = torch.Generator().manual_seed(0)
    target, vector = torch.zeros(size), torch.randn(size, generator=draw)
    rows = [["supports of the updates", "ms an update", "GB/s", "of plain `y += a x`", "reach"]]
    cases = {"whole": [Support.dense((size,))] * clients}
    for density in (0.3, 0.1):
        masks = [Support.masked(torch.rand(size, generator=draw) < density) for _ in range(clients)]
        cases |= {f"equal masks, {density:g}": masks[:1] * clients, f"masks of each client, {density:g}": masks}
    for name, supports in cases.items():
        updates = [Message({"weights": {"w": Part(one.gather(vector), one)}}, weight=50.0) for one in supports]
        for one in supports:
            _ = one.positions if one.kind != "dense" else None  # a decoder has them

        def add(updates: list[Message] = updates) -> None:
            total = Total(sums_only=True)
            for update in updates:
                total.add(update)

        plain, spent = interleaved(lambda: target.add_(vector, alpha=0.5), add, repeats=7, clock=time.process_time)
        # Values, and their sums twice; where supports differ also places, and the weight of the holders twice.
        apart = 0 if name == "whole" or "equal" in name else 16
        moved = sum(one.count for one in supports) * (12 + apart)
        speed, best = moved / spent / 1e9, 12 * size / plain / 1e9
        reach = "60 %" if name == "whole" else ""
        rows.append([name, f"{1e3 * spent / clients:.1f}", f"{speed:.1f}", f"{100 * speed / best:.0f} %", reach])
    return rows


if __name__ == "__main__":
    report({"aggregation": throughput, "robust": measure}, __doc__)
