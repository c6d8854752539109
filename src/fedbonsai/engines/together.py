"""Serve several clients at once in one process, so that a batched kernel can do their trainings together.

Each client is served by a thread of its own, but only one thread runs at any time: it goes on until its client asks for
a training or is done. When all have stopped, their trainings are done together, and each goes on with its own. So no
method and no client knows that there are others, and nothing that they share is touched by two at once.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, field

import torch

from fedbonsai.core.timing import CLIENT, FIRST_WORKER, on_track, span, suspended
from fedbonsai.federated.client import Client
from fedbonsai.learning.bench import Meter
from fedbonsai.learning.cohort import Trained, Training, train

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Member:
    """One client while it is served.

    Attributes:
        number: Whose task it is.
        task: The encoded task.
        turn: Released when the member may go on.
        asked: The training that it waits for.
        given: What that gave, or why it gave nothing.
        answer: The encoded answer; None until it is done.
        seconds: The time that was spent on it.
    """

    number: int
    task: bytes
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: Training | None = None
    given: Trained | Exception | None = None
    answer: bytes | None = None
    seconds: float = 0.0


def serve_together(client: Client, tasks: Sequence[tuple[int, bytes]]) -> list[tuple[bytes, float]]:
    """Serve tasks of several clients, their trainings at the same time.

    Args:
        client: What serves.
        tasks: Whose, and what.

    Returns:
        Each encoded answer, and the seconds that were spent on it: of what was done together a share by its steps.
    """
    return _Circle(client).serve([_Member(number, task) for number, task in tasks])


class _Circle:
    """Clients of which one is served at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._meter: Meter = client.bench.meter
        self._threads = torch.get_num_threads()
        self._stopped = threading.Semaphore(0)
        self._present: _Member | None = None

    def serve(self, members: list[_Member]) -> list[tuple[bytes, float]]:
        """Serve all members to their ends."""
        before, self._client.trainer = self._client.trainer, self._asked
        threads = [threading.Thread(target=copy_context().run, args=(self._life, one), daemon=True) for one in members]
        try:
            for thread, one in zip(threads, members, strict=True):
                thread.start()
                self._go_on(one)
            while waiting := [one for one in members if one.asked is not None]:
                self._train(waiting)
                for one in waiting:
                    self._go_on(one)
        finally:
            self._client.trainer = before
        for thread in threads:
            thread.join()
        return [(one.answer or b"", one.seconds) for one in members]

    def _go_on(self, one: _Member) -> None:
        """Let a member go on until it stops."""
        began = time.perf_counter()
        self._present = one
        one.turn.release()
        self._stopped.acquire()
        one.seconds += time.perf_counter() - began

    def _life(self, one: _Member) -> None:
        """What a member's thread does."""
        one.turn.acquire()
        torch.set_num_threads(self._threads)  # or a new thread's first products take as many as there are cores
        try:
            with on_track(FIRST_WORKER), span(CLIENT, one.number):
                one.answer = self._client.serve(one.task)
        finally:
            self._stopped.release()

    def _asked(self, training: Training) -> Trained:
        """Wait until the others have stopped too and all trainings are done; runs in the member's thread."""
        one, spent = self._present, self._meter.flops
        if one is None:
            raise RuntimeError("a training must be asked for by a client that is served, got none")
        one.asked = training
        with suspended():
            self._stopped.release()
            one.turn.acquire()
        self._meter.flops = spent  # others have used it meanwhile
        given, one.given = one.given, None
        if not isinstance(given, Trained):
            raise given or RuntimeError("a training must give something, got nothing")
        return given

    def _train(self, waiting: Sequence[_Member]) -> None:
        """Do what members wait for; what raises for one of them is tried for each alone, and raised in its own."""
        trainings = [one.asked for one in waiting if one.asked is not None]
        began = time.perf_counter()
        with on_track(FIRST_WORKER), span("train"):
            found = _tried(trainings)
        steps = [max(1, len(one.batches)) for one in trainings]
        passed = time.perf_counter() - began
        for one, own, given in zip(waiting, steps, found, strict=True):
            one.asked, one.given = None, given
            one.seconds += passed * own / sum(steps)


def _tried(trainings: list[Training]) -> Sequence[Trained | Exception]:
    try:
        return train(trainings)
    except Exception as error:  # one client's data must not cost the others their round
        logger.debug("%d clients cannot be trained together", len(trainings), exc_info=True)
        return [error] if len(trainings) == 1 else [_tried([one])[0] for one in trainings]
