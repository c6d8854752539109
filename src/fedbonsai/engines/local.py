"""The engine that does everything in this process: one client after the other, or many together."""

import time
from collections import deque
from collections.abc import Collection, Mapping

from fedbonsai import wire
from fedbonsai.core.state import Memory
from fedbonsai.core.timing import CLIENT, FIRST_WORKER, on_track, span
from fedbonsai.engines.memories import Memories
from fedbonsai.engines.together import serve_together
from fedbonsai.federated.client import Client
from fedbonsai.federated.engine import Answer
from fedbonsai.learning.bench import Bench

TOGETHER_BYTES = 1 << 28
"""Memory that the trainings of clients that are served together may take."""

SHARED = 1 << 26
"""Bytes of the longest task that is kept, as read, for the next client that gets the same."""

TOGETHER = 64
"""Clients that are served together at most: more gain nothing, and each is a thread."""


class LocalEngine:
    """Serves clients when an answer is asked for: one, or with a batched kernel as many as there are tasks.

    Args:
        client: What serves; its memories are replaced by this engine's.
        timeout_s: A client that took longer is dropped. It cannot be stopped here, only disregarded.
    """

    capacity = 1

    def __init__(self, client: Client, timeout_s: float | None = None) -> None:
        self._memories = Memories()
        self._client = client
        self._client.memories = self._memories
        self._client.reader = wire.Reader(SHARED)
        self._timeout_s = timeout_s
        self._tasks: list[tuple[int, bytes]] = []
        self._answers: deque[Answer] = deque()
        if client.bench.batched:
            self.capacity = together(client.bench)

    def submit(self, client: int, task: bytes) -> None:
        self._tasks.append((client, task))

    def next(self) -> Answer:
        if not self._answers:
            if not self._tasks:
                raise RuntimeError("an answer must be asked for after a task, got none")
            tasks, self._tasks = self._tasks, []
            served = serve_together(self._client, tasks) if self._client.bench.batched else [self._served(*tasks[0])]
            self._answers.extend(self._answer(client, *one) for (client, _), one in zip(tasks, served, strict=True))
        return self._answers.popleft()

    def _served(self, client: int, task: bytes) -> tuple[bytes, float]:
        began = time.perf_counter()
        with on_track(FIRST_WORKER), span(CLIENT, client):
            data = self._client.serve(task)
        return data, time.perf_counter() - began

    def _answer(self, client: int, data: bytes, seconds: float) -> Answer:
        if self._timeout_s is not None and seconds > self._timeout_s:
            return Answer(client, None, seconds, late(self._timeout_s))
        return Answer(client, data, seconds)

    def settle(self, accepted: Collection[int]) -> None:
        self._memories.settle(accepted)

    def memories(self) -> Mapping[int, Memory]:
        return self._memories.store

    def restore(self, memories: Mapping[int, Memory]) -> None:
        self._memories.restore(memories)

    def close(self) -> None:
        self._tasks.clear()
        self._answers.clear()


def together(bench: Bench) -> int:
    """How many clients of a model are served together: their weights, gradients, masks and moments have room."""
    return max(1, min(TOGETHER, TOGETHER_BYTES // (6 * 4 * bench.flat.numel())))


def late(timeout_s: float) -> str:
    """Why a client that took too long is dropped."""
    return f"no answer within {timeout_s:g} s"
