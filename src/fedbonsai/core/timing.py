"""Where time goes: spans of a run, recorded on one track a process while somebody asks for it, and free otherwise.

`span` looks whether the present context records. If not, it hands out one object that does nothing. So spans may stand
wherever time is spent, and nobody passes a recorder on.

The clock is `time.perf_counter_ns`: on Linux ``CLOCK_MONOTONIC``, which all processes of a machine share. What a forked
worker records lies on its parent's time axis as it is.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

MOST_SPANS = 200_000
"""Spans that a recording keeps, some 40 MB; later ones are counted in its sums alone."""

SERVER, FIRST_WORKER = 0, 1
"""Numbers of tracks: the server's, and the first of its workers'."""

ROUND, CLIENT = "round", "client"
"""Kinds that hold others: one round of the server, one task in a worker."""


class Span(NamedTuple):
    """A piece of time.

    Attributes:
        track: Whose: the server's or a worker's.
        kind: What was done.
        began: Nanoseconds of `time.perf_counter_ns`.
        ended: The same, at its end.
        number: Of the round or the client that it was done for; -1 for none.
    """

    track: int
    kind: str
    began: int
    ended: int
    number: int = -1


@dataclass
class Recording:
    """What was recorded.

    Attributes:
        most: Spans that are kept.
        began: Nanoseconds of `time.perf_counter_ns`.
        ended: The same, at its end; 0 while it goes on.
        spans: The spans, in the order in which they ended.
        own: Nanoseconds by track and kind, without those of the spans inside. Complete, whatever ``most`` is.
        rounds: How many rounds have ended.
        left_out: Spans that are in ``own`` alone.
    """

    most: int = MOST_SPANS
    began: int = field(default_factory=time.perf_counter_ns)
    ended: int = 0
    spans: list[Span] = field(default_factory=list)
    own: dict[int, Counter[str]] = field(default_factory=dict)
    rounds: int = 0
    left_out: int = 0

    def add(self, one: Span, inside: int = 0) -> None:
        """Add a span that has ended, of which the spans inside took so many nanoseconds."""
        self.own.setdefault(one.track, Counter())[one.kind] += one.ended - one.began - inside
        self.rounds += one.kind == ROUND
        self._keep(one)

    def merge(self, data: bytes) -> None:
        """Add what `taken` gave in another process."""
        found = json.loads(data)
        for track, sums in found["own"].items():
            self.own.setdefault(int(track), Counter()).update(sums)
        for one in found["spans"]:
            self._keep(Span(*one))
        self.left_out += found["left_out"]

    def _keep(self, one: Span) -> None:
        if len(self.spans) < self.most:
            self.spans.append(one)
        else:
            self.left_out += 1


@dataclass(frozen=True)
class _Place:
    """Where the present context records, and the spans that are open in it."""

    recording: Recording
    track: int
    open: "list[_Open]" = field(default_factory=list)


class _Off:
    """The span of who records nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Open:
    """A span that is recorded once it has ended, also by an exception."""

    __slots__ = ("_began", "_inside", "_kind", "_number", "_place")

    def __init__(self, place: _Place, kind: str, number: int) -> None:
        self._place, self._kind, self._number = place, kind, number

    def __enter__(self) -> None:
        self._place.open.append(self)
        self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.open.pop()
        self.end(self._place.open[-1] if self._place.open else None)

    def begin(self) -> None:
        """Time counts from here on."""
        self._inside = 0
        self._began = time.perf_counter_ns()

    def end(self, above: "_Open | None") -> None:
        """Record what has passed since, and tell the span around this one."""
        one = Span(self._place.track, self._kind, self._began, time.perf_counter_ns(), self._number)
        self._place.recording.add(one, self._inside)
        if above is not None:
            above._inside += one.ended - one.began


_OFF = _Off()
_PLACE: ContextVar[_Place | None] = ContextVar("fedbonsai-timing", default=None)


def span(kind: str, number: int = -1) -> AbstractContextManager[None]:
    """Time a block, if anybody records.

    Args:
        kind: What is done in it.
        number: The round or client that it is done for.

    Examples:
        >>> with recording() as found:
        ...     with span("round", 1), span("train"):
        ...         pass
        >>> [(one.kind, one.number) for one in found.spans]
        [('train', -1), ('round', 1)]
    """
    place = _PLACE.get()
    return _OFF if place is None else _Open(place, kind, number)


@contextmanager
def recording(most: int = MOST_SPANS) -> Iterator[Recording]:
    """Record the spans of this thread inside the block, and what workers that are forked in it hand back."""
    found = Recording(most)
    before = _PLACE.set(_Place(found, SERVER))
    try:
        yield found
    finally:
        found.ended = time.perf_counter_ns()
        _PLACE.reset(before)


def on_track(number: int) -> AbstractContextManager[None]:
    """Record the spans inside the block on another track: what a worker would do, in this process."""
    place = _PLACE.get()
    return _OFF if place is None else _moved(_Place(place.recording, number))


@contextmanager
def suspended() -> Iterator[None]:
    """Count the time inside the block to none of the spans that are open: somebody else uses it."""
    place = _PLACE.get()
    spans = [] if place is None else list(place.open)
    for depth in reversed(range(len(spans))):
        spans[depth].end(spans[depth - 1] if depth else None)
    try:
        yield
    finally:
        for one in spans:
            one.begin()


def forked(number: int) -> None:
    """In a process that was just forked: record on a track of its own from here on, if its parent records."""
    if _PLACE.get() is not None:
        _PLACE.set(_Place(Recording(), number))


def taken() -> bytes:
    """What was recorded since the last call, for `Recording.merge` in the parent; empty when nobody records."""
    place = _PLACE.get()
    if place is None:
        return b""
    found = place.recording
    data = json.dumps({"spans": found.spans, "own": found.own, "left_out": found.left_out}).encode()
    found.spans.clear()
    found.own.clear()
    found.left_out = 0
    return data


def merged(data: bytes) -> None:
    """Add what a worker has `taken` to the present recording, if there is one."""
    place = _PLACE.get()
    if place is not None and data:
        place.recording.merge(data)


def noted(track: int, kind: str, began: float, number: int) -> None:
    """Record a span from ``began``, in seconds of `time.perf_counter`, until now: for a worker that no longer can."""
    place = _PLACE.get()
    if place is not None:
        place.recording.add(Span(track, kind, int(began * 1e9), time.perf_counter_ns(), number))


@contextmanager
def _moved(place: _Place) -> Iterator[None]:
    before = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(before)
