"""Progress with the time left: a bar on a terminal, plain lines elsewhere, a row in each line of a JSON log."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fedbonsai.cli.logs import structured
from fedbonsai.report.events import brief
from fedbonsai.report.formats import size
from fedbonsai.report.profile import Profile, lines, table
from fedbonsai.report.table import comparison

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
WIDEST_TABLE = 240


class Progress:
    """Shows finished rounds; a context manager.

    Args:
        title: What is running.
        rounds: Training rounds in all.
    """

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds = title, rounds
        self._before = self._held = 0
        self._spent = 0.0
        console = Console(stderr=True)
        self._bar = (
            Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            if console.is_terminal and not structured()
            else None
        )

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._rounds, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def follow(self, rounds: int, label: str = "") -> Callable[[Row], None]:
        """An observer of the next run, which has so many rounds; some of them may have been held before."""
        before, self._before = self._before, self._before + rounds

        def observe(row: Row) -> None:
            self._show(row, before + row["round"], label)

        return observe

    def _show(self, row: Row, done: int, label: str) -> None:
        """Show one finished round, after which ``done`` are over in all."""
        self._held += row["stage"] == "train"
        facts = line(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{self._title} {label}".strip(), facts=facts)
            return
        self._spent += row["seconds"]
        left = self._spent / max(self._held, 1) * (self._rounds - done)
        text = f"{label or self._title}: {facts} | {left:.0f} s left"
        if structured():
            logger.info(text, extra={"row": {**brief(row), "seconds_left": left}})
        else:
            print(text, file=sys.stderr, flush=True)


def line(row: Row) -> str:
    """One round in a line.

    Examples:
        >>> line({"round": 3, "stage": "train", "test_metric": 0.9, "train_loss": 0.5, "density": 0.2, "dropped": 1,
        ...       "bytes_down": 1000, "bytes_up": 500, "seconds": 1.5})
        'round 3 | metric 0.9000 | loss 0.5000 | density 0.200 | 1.5 kB | 1.5 s | 1 dropped'
    """
    facts = [f"round {row['round']}" if row["stage"] == "train" else f"stage {row['stage']}"]
    if row["test_metric"] is not None:
        facts.append(f"metric {row['test_metric']:.4f}")
    if row["train_loss"] is not None:
        facts.append(f"loss {row['train_loss']:.4f}")
    facts += [
        f"density {row['density']:.3f}",
        size(row["bytes_down"] + row["bytes_up"]),
        f"{row['seconds']:.1f} s",
    ]
    if row["dropped"]:
        facts.append(f"{row['dropped']} dropped")
    return " | ".join(facts)


def print_table(records: Sequence[Mapping[str, Any]]) -> None:
    """Print the comparison table on standard output."""
    print_text(comparison(records))


def print_profile(profile: Profile, trace: Path) -> None:
    """Print where the time of a run's rounds went, and where to see more of it."""
    if not profile.rounds:
        print("no round was held, so there is no time to show")
        return
    print("\n".join(lines(profile)))
    print_text(table(profile))
    if trace.is_file():  # otherwise a warning has said why not
        print(f"trace: {trace}   open it at https://ui.perfetto.dev or in chrome://tracing")


def say(text: str) -> None:
    """Say what goes on, on standard error or in the log."""
    if structured():
        logger.info(text)
    else:
        print(text, file=sys.stderr, flush=True)


def print_text(text: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output, its header first."""
    header, *rows = text
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(header):
        shown.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    # A narrow terminal wraps whole lines, which reads better than words and numbers cut in two.
    Console(width=WIDEST_TABLE).print(shown, soft_wrap=True)
