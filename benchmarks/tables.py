"""What the benchmarks share: interleaved timing, and tables that say what they were measured on."""

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from fedbonsai.experiment.execute import cpu_name

DOCS = Path(__file__).parent.parent / "docs"
Table = list[list[str]]


def interleaved(
    *works: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each, by a clock, taken in turns so that a noisy machine disturbs them alike."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):
        for place, work in enumerate(works):
            began = clock()
            work()
            if repeat:  # the first is the warm-up
                times[place].append(clock() - began)
    return [statistics.median(own) for own in times]


def spread(values: Sequence[float], scale: float, unit: str) -> str:
    """Mean and standard deviation."""
    return f"{scale * statistics.mean(values):.2f}{unit} ± {scale * statistics.stdev(values):.2f}"


def markdown(table: Table, align: str = "---:") -> str:
    """A table as Markdown, all columns but the first aligned as said: numbers to the right."""
    head, *rows = table
    rule = ["---"] + [align] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def table_with_machine(table: Table, seeds: Sequence[int]) -> str:
    """A table and what it was measured on."""
    machine = f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    return f"{markdown(table)}\n\nSeeds {', '.join(map(str, seeds))}. Measured on {machine}."


def report(tables: Mapping[str, Callable[[], Table]], about: str) -> None:
    """The command of a benchmark: measure, print, and with ``--write`` put each table into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    for name, measure in tables.items():
        text = table_with_machine(measure(), (0,))
        print(f"{text}\n")
        if options.write:
            put(name, text)


def put(name: str, text: str, page: str = "benchmarks.md") -> None:
    """Put a text into a page of the docs, between the two comments that bear its name."""
    block, path = f"<!-- {name} -->\n{text}\n<!-- /{name} -->", DOCS / page
    whole = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, path.read_text("utf-8"), flags=re.DOTALL)
    path.write_text(whole, "utf-8")
