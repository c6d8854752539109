"""What carries bytes to clients and back, seen from a round; the engines themselves are one layer up."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fedbonsai.core.state import Memory
from fedbonsai.core.timing import span


@dataclass(frozen=True)
class Answer:
    """What came back from one client.

    Attributes:
        client: Who was asked.
        data: The encoded answer; None when none came.
        seconds: From handing the task over to having the answer.
        error: Why none came: the client died, or its time was over.
    """

    client: int
    data: bytes | None
    seconds: float
    error: str = ""


@runtime_checkable
class Engine(Protocol):
    """Carries tasks to clients. Simulating engines also keep what their clients remember."""

    @property
    def capacity(self) -> int:
        """How many tasks may be under way at once."""

    def submit(self, client: int, task: bytes) -> None:
        """Hand a task over; called at most ``capacity`` times more than `next`."""

    def next(self) -> Answer:
        """Wait for any answer that has not been returned yet."""

    def settle(self, accepted: Collection[int]) -> None:
        """End a round: clients whose updates counted keep what they remember of it, the others forget it."""

    def memories(self) -> Mapping[int, Memory]:
        """What every client remembers, for a checkpoint; empty where real devices keep it."""

    def restore(self, memories: Mapping[int, Memory]) -> None:
        """Give clients back what a checkpoint holds of them."""

    def close(self) -> None:
        """Let go of everything; tasks under way are given up."""


def never(_: Answer) -> None:
    """Ask no client a second time."""


def collect(
    engine: Engine,
    tasks: Iterable[tuple[int, bytes]],
    window_bytes: int,
    again: Callable[[Answer], bytes | None] = never,
    order: Iterable[int] | None = None,
) -> Iterator[Answer]:
    """Carry all tasks and yield the answers in the order of the tasks or another, whatever order they arrive in.

    Sums of floats depend on order, so an early answer waits, encoded, until its turn. Once more than ``window_bytes``
    are waiting, no further client is started until the one that all wait for has answered: memory stays bounded.

    Args:
        engine: Carries the bytes.
        tasks: Client and task, asked for when there is room.
        window_bytes: How much may wait.
        again: Looks at each answer as it comes; a task that it returns goes to the same client in place of the answer.
        order: The order to yield in, where it is not that of the tasks; the same clients.
    """
    under_way = _UnderWay(engine, iter(tasks), window_bytes, deque(order or ()), given=order is not None)
    while under_way.started():
        with span("wait"):
            answer = engine.next()
        task = again(answer)
        if task is None:
            yield from under_way.came(answer)
        else:
            under_way.carry(answer.client, task)


@dataclass
class _UnderWay:
    """The tasks of a round: those to come, under way, and answered before their turn.

    Attributes:
        engine: Carries the bytes.
        tasks: Those to come.
        window_bytes: How much may wait.
        turns: Whose answers are to be yielded, in their order; as far as it is known, if it was not given.
        given: Whether it was.
        flying: How many are under way.
        held: Bytes that wait.
        waiting: Early answers.
        begun: Clients whose turn has not come and that were started.
    """

    engine: Engine
    tasks: Iterator[tuple[int, bytes]]
    window_bytes: int
    turns: deque[int]
    given: bool
    flying: int = 0
    held: int = 0
    waiting: dict[int, Answer] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)

    def started(self) -> bool:
        """Start as many as there is room for; whether any is under way."""
        # The one that all wait for may come late in the tasks: it is started in any case.
        while self.flying < self.engine.capacity and (
            self.held <= self.window_bytes or self.turns[0] not in self.begun
        ):
            item = next(self.tasks, None)
            if item is None:
                break
            self.carry(*item)
            self.begun.add(item[0])
            self.turns.extend([] if self.given else [item[0]])
            self.flying += 1
        return self.flying > 0

    def carry(self, client: int, task: bytes) -> None:
        """Hand a task over."""
        with span("carry", client):
            self.engine.submit(client, task)

    def came(self, answer: Answer) -> Iterator[Answer]:
        """Take an answer, and yield those whose turn it is."""
        self.flying -= 1
        self.waiting[answer.client] = answer
        self.held += len(answer.data or b"")
        while self.turns and self.turns[0] in self.waiting:
            first = self.waiting.pop(self.turns.popleft())
            self.begun.remove(first.client)
            self.held -= len(first.data or b"")
            yield first
