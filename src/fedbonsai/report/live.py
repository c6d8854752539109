"""A run while it goes on: what its events amount to, for the terminal and the page alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedbonsai.core.errors import DataError
from fedbonsai.report.events import Count, End, Event, Failed, Node, Round, Start, Text, clean, parse

MAX_ROUNDS = 240  # more would not be told apart in a chart
UNTHINNED = 24  # of the newest
MAX_NODES = 256
MAX_RUNS = 64

State = Literal["waiting", "running", "ended", "failed"]


@dataclass(frozen=True)
class View:
    """What is known of one run.

    Attributes:
        label: What it is called among the runs of a comparison.
        state: Whether it goes on.
        start: How it began, the last time that it did.
        rounds: Finished rounds and stages, the later one where one was repeated; thinned when there are many.
        nodes: Machines by name.
        bytes_down: Bytes encoded for clients so far.
        bytes_up: Bytes encoded by clients so far.
        seconds: Time spent in rounds so far.
        dropped: Clients that did not count so far.
        error: Why it failed.
    """

    label: Text = ""
    state: State = "waiting"
    start: Start = field(default_factory=Start)
    rounds: tuple[Round, ...] = ()
    nodes: tuple[Node, ...] = ()
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    dropped: int = 0
    error: Text = ""

    @property
    def done(self) -> int:
        """Finished training rounds."""
        return max((one.round for one in self.rounds), default=self.start.round)

    @property
    def trained(self) -> tuple[Round, ...]:
        """The rounds without other stages."""
        return tuple(one for one in self.rounds if one.stage == "train")

    def last(self, name: str) -> float | None:
        """The newest value of a column."""
        values = (getattr(one, name) for one in reversed(self.rounds))
        return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Board:
    """The runs that are watched.

    Attributes:
        source: Where they are looked for.
        state: Of all of them: failed when one has, because a comparison ends with its first run that fails.
        runs: The runs.
    """

    source: Text
    state: State
    runs: Annotated[tuple[View, ...], Field(max_length=MAX_RUNS)]


_BOARD = TypeAdapter(Board)
_TOTAL = TypeAdapter(Count)


def watched(view: View, lines: Iterable[bytes]) -> View:
    """What is known of a run after further lines of its events.

    Args:
        view: What was known before.
        lines: Whole lines without their ends; those that are no events of a known kind are skipped.
    """
    events = (event for event in map(parse, lines) if event is not None)
    return reduce(_after, events, view)


def make_board(source: str, runs: Sequence[View]) -> Board:
    """The runs together.

    Examples:
        >>> make_board("runs/a", [View(state="ended"), View(state="waiting")]).state
        'running'
    """
    states = {one.state for one in runs}
    state: State = "running"
    if "failed" in states:
        state = "failed"
    elif len(states) == 1:
        state = states.pop()
    return Board(clean(source), state if runs else "waiting", tuple(runs[:MAX_RUNS]))


def to_json(board: Board) -> bytes:
    """A board as one line of JSON."""
    return _BOARD.dump_json(board)


def from_json(data: bytes) -> Board:
    """Read what `to_json` wrote.

    Raises:
        DataError: It is something else.
    """
    try:
        return _BOARD.validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise DataError(f"what is watched must be a run as fedbonsai watch --web shows it, got: {problem}") from error


def _after(view: View, event: Event) -> View:
    match event:
        case Start():
            after = _started(view, event)
        case Round():
            after = _with_round(view, event)
        case Node():
            nodes = {one.node: one for one in view.nodes} | {event.node: event}
            after = replace(view, nodes=tuple(nodes.values())[:MAX_NODES])
        case End():
            after = replace(view, state="ended", error="", **_totals(event.final))
        case Failed():
            after = replace(view, state="failed", error=event.error)
    return after


def _started(view: View, event: Start) -> View:
    """Rounds that were not finished for good will be held again; machines of another process are gone."""
    same = event.digest == view.start.digest
    return View(
        label=view.label,
        state="running",
        start=event,
        rounds=tuple(one for one in view.rounds if same and one.round <= event.round),
        nodes=view.nodes if view.state == "waiting" else (),
        bytes_down=event.bytes_down,
        bytes_up=event.bytes_up,
        seconds=event.seconds,
        dropped=event.dropped,
    )


def _with_round(view: View, event: Round) -> View:
    repeated = [one for one in view.rounds if _undone(one, event)]
    kept = tuple(one for one in view.rounds if one not in repeated) if repeated else view.rounds

    def total(name: str) -> Any:  # noqa: ANN401 - a count or seconds
        return getattr(view, name) + getattr(event, name) - sum(getattr(one, name) for one in repeated)

    return replace(
        view,
        state="running",
        rounds=(*_thinned(kept), event),
        error="",
        **{name: total(name) for name in ("bytes_down", "bytes_up", "seconds", "dropped")},
    )


def _thinned(rounds: tuple[Round, ...]) -> tuple[Round, ...]:
    """Room for one more: where there are too many, the one between the nearest others goes; the totals keep it."""
    if len(rounds) < MAX_ROUNDS:
        return rounds
    crowded = min(range(1, MAX_ROUNDS - UNTHINNED), key=lambda at: rounds[at + 1].round - rounds[at - 1].round)
    return rounds[:crowded] + rounds[crowded + 1 :]


def _undone(earlier: Round, later: Round) -> bool:
    """Whether a round is held anew by a later one: stages of a round may be several, its training is one."""
    again = earlier.stage == later.stage == "train" and earlier.round == later.round
    return again or earlier.round > later.round


def _totals(final: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("bytes_down", "bytes_up", "dropped"):
        try:
            found[name] = _TOTAL.validate_python(final.get(name))
        except ValidationError:
            continue  # what was added up stands
    return found
