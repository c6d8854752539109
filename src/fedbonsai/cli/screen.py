"""Watched runs in the terminal: a picture that changes, or plain lines where the output is no terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedbonsai.cli.progress import line
from fedbonsai.report.events import Node, Round
from fedbonsai.report.formats import MISSING, size
from fedbonsai.report.live import Board, View

NEWEST = 8  # rounds of the run that goes on
MOST_NODES = 16
WIDE = 120  # columns
LONGEST_NAME = 18  # columns; what a terminal of 80 has left beside the numbers


class Screen:
    """Shows boards on standard output; a context manager."""

    def __init__(self) -> None:
        console = Console()
        self._before = Board("", "waiting", ())
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, board: Board) -> None:
        """Show a board in place of the one before."""
        if self._live is not None:
            self._live.update(picture(board, self._live.console.width), refresh=True)
        else:
            for one in news(self._before, board):
                print(one, flush=True)
        self._before = board


def news(before: Board, after: Board) -> Iterator[str]:
    """What has happened between two boards, a line for each thing."""
    if not after.runs and before.source != after.source:
        yield f"waiting for a run in {after.source}"
    known = {one.label: one for one in before.runs}
    for view in after.runs:
        yield from _happened(known.get(view.label, View(view.label)), view)


def clock(seconds: float | None) -> str:
    """Seconds as a clock shows them.

    Examples:
        >>> clock(3725.4), clock(59.6), clock(None)
        ('1:02:05', '0:01:00', 'n/a')
    """
    if seconds is None:
        return MISSING
    whole = max(round(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def picture(board: Board, width: int) -> RenderableType:
    """A board as a terminal shows it: all runs, the newest rounds of the one that goes on, and its machines.

    Args:
        board: The runs.
        width: Columns of the terminal.
    """
    if not board.runs:
        return Text(f"waiting for a run in {board.source}")
    shown = next((one for one in board.runs if one.state == "running"), board.runs[-1])
    parts: list[RenderableType] = [_runs(board.runs, wide=width >= WIDE)]
    if shown.start.name:
        parts.insert(0, Text(f"{shown.start.name}: {_about(shown)}"))
    if shown.rounds:
        parts += [Text(), _rounds(shown.rounds[-NEWEST:])]
    if shown.nodes:
        parts += [Text(), _nodes(shown.nodes)]
    parts += [Text(f"{_name(one)} failed: {one.error}", "red") for one in board.runs if one.state == "failed"]
    return Group(*parts)


def _happened(before: View, after: View) -> Iterator[str]:
    name, seen = _name(after), set(before.rounds)
    if after.start != before.start:
        yield f"{name}: {_about(after)}, {after.start.round} of {after.start.rounds} rounds are done"
    for row in after.rounds:
        if row not in seen:
            yield f"{name}: {_line(row)} | {clock(row.seconds_left)} left"
    for node in after.nodes:
        if node not in before.nodes:
            yield f"{name}: node {' '.join(_cells(node))}"
    if after.state != before.state and after.state in ("ended", "failed"):
        why = f": {after.error}" if after.error else ""
        yield f"{name}: {after.state}{why} | {size(after.bytes_down)} down, {size(after.bytes_up)} up"


def _name(view: View) -> str:
    return view.label or view.start.name or "run"


def _about(view: View) -> str:
    start = view.start
    return f"{start.method} on {start.dataset}, {start.clients} clients, {start.cohort} a round, {start.engine}"


def _line(row: Round) -> str:
    return line({**asdict(row), "density": float("nan") if row.density is None else row.density})


def _runs(runs: Sequence[View], *, wide: bool) -> Table:
    table = _table(
        "run", "rounds", "metric", "density", "down", "up", "left", "", *(("dropped", "time", "") if wide else ())
    )
    for view in runs:
        start = view.start
        row: list[RenderableType] = [
            Text(view.label or start.method),
            f"{view.done}/{start.rounds}",
            _number(view.last("test_metric"), 4),
            _number(view.last("density"), 3),
            size(view.bytes_down),
            size(view.bytes_up),
            clock(view.last("seconds_left")) if view.state == "running" else "",
            Text(view.state, {"failed": "red", "ended": "green"}.get(view.state, "")),
        ]
        bar = ProgressBar(total=max(start.rounds, 1), completed=view.done, width=20)
        table.add_row(*row, *((str(view.dropped), clock(view.seconds), bar) if wide else ()))
    return table


def _rounds(rows: Sequence[Round]) -> Table:
    table = _table("round", "stage", "metric", "loss", "density", "clients", "dropped", "down", "up", "seconds")
    for row in rows:
        table.add_row(
            str(row.round),
            Text(row.stage),
            _number(row.test_metric, 4),
            _number(row.train_loss, 4),
            _number(row.density, 3),
            str(row.clients),
            str(row.dropped),
            size(row.bytes_down),
            size(row.bytes_up),
            f"{row.seconds:.1f}",
        )
    return table


def _nodes(nodes: Sequence[Node]) -> Table:
    table = _table("node", "state", "client", "seconds")
    for node in nodes[:MOST_NODES]:
        table.add_row(*map(Text, _cells(node)))
    if len(nodes) > MOST_NODES:
        table.add_row(f"{len(nodes) - MOST_NODES} more")
    return table


def _cells(node: Node) -> tuple[str, str, str, str]:
    client = "" if node.client is None else str(node.client)
    return node.node, node.state, client, "" if node.seconds is None else f"{node.seconds:.1f}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(names):
        table.add_column(
            name,
            justify="left" if place == 0 else "right",
            no_wrap=True,
            max_width=LONGEST_NAME if place == 0 else None,
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
