"""The engine with one worker process a core. Workers are forked, so model and data are shared, not copied or sent."""

import os
import signal
import struct
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess

import torch

from fedbonsai import wire
from fedbonsai.core import timing
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.state import Memory
from fedbonsai.engines.link import Link
from fedbonsai.engines.local import SHARED, late
from fedbonsai.engines.memories import Memories, serve
from fedbonsai.federated.client import Client
from fedbonsai.federated.engine import Answer
from fedbonsai.learning.machine import available_cores

_NUMBER = struct.Struct("<q")


@dataclass
class _Worker:
    """A worker process and what it is doing."""

    process: BaseProcess
    link: Link
    track: int
    client: int | None = None
    began: float = 0.0


class ProcessEngine:
    """Spreads clients over worker processes; bit-equal to the local engine.

    A worker that dies, or whose client takes longer than ``timeout_s``, is replaced, and its client dropped.

    Args:
        client: What serves, in every worker.
        workers: Number of processes; None takes one a core.
        timeout_s: Time that one client may take.

    Raises:
        ConfigError: This platform cannot fork.
    """

    def __init__(self, client: Client, workers: int | None = None, timeout_s: float | None = None) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError("the processes engine needs a platform that forks (Linux); use engine=local")
        self.capacity = workers or available_cores()
        self._client = client
        self._client.reader = wire.Reader(SHARED)
        self._timeout_s = timeout_s
        self._memories = Memories()
        self._workers: list[_Worker] = []
        for place in range(self.capacity):
            self._workers.append(self._start(timing.FIRST_WORKER + place))

    def submit(self, client: int, task: bytes) -> None:
        worker = next(one for one in self._workers if one.client is None)
        worker.client, worker.began = client, time.perf_counter()
        try:
            for part in (_NUMBER.pack(client), task, self._memories.encoded(client)):
                worker.link.send(part)
        except OSError:
            return  # the worker is dead; `next` finds its link at its end and says so

    def next(self) -> Answer:
        busy = [worker for worker in self._workers if worker.client is not None]
        ready = connection.wait([worker.link.fileno() for worker in busy], self._patience(busy))
        for worker in busy:
            if worker.link.fileno() in ready:
                return self._receive(worker)
        oldest = min(busy, key=lambda worker: worker.began)
        return self._replace(oldest, late(self._timeout_s or 0.0))

    def settle(self, accepted: Collection[int]) -> None:
        self._memories.settle(accepted)

    def memories(self) -> Mapping[int, Memory]:
        return self._memories.store

    def restore(self, memories: Mapping[int, Memory]) -> None:
        self._memories.restore(memories)

    def close(self) -> None:
        for worker in self._workers:
            _stop(worker)
        self._workers.clear()

    def _patience(self, busy: list[_Worker]) -> float | None:
        if self._timeout_s is None:
            return None
        return max(0.0, min(worker.began for worker in busy) + self._timeout_s - time.perf_counter())

    def _receive(self, worker: _Worker) -> Answer:
        client, began = _required(worker.client), worker.began
        with timing.span("carry", client):
            try:
                spans, data, memory = (worker.link.receive() for _ in range(3))
            except (EOFError, OSError):
                return self._replace(worker, "")
            timing.merged(spans)
            worker.client = None
            self._memories.put(client, memory)
        return Answer(client, data, time.perf_counter() - began)

    def _replace(self, worker: _Worker, error: str) -> Answer:
        client, began = _required(worker.client), worker.began
        _stop(worker)
        timing.noted(worker.track, "lost", began, client)
        self._workers[self._workers.index(worker)] = self._start(worker.track)
        return Answer(
            client, None, time.perf_counter() - began, error or f"its worker died (exit code {worker.process.exitcode})"
        )

    def _start(self, track: int) -> _Worker:
        ours, theirs = Link.pair()
        inherited = [worker.link for worker in self._workers] + [ours]
        process = get_context("fork").Process(
            target=_serve, args=(self._client, theirs, inherited, track), daemon=True, name="fedbonsai-worker"
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside any other thread; a worker runs none of what those may have locked.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours, track)


def _serve(client: Client, link: Link, inherited: list[Link], track: int) -> None:
    """A worker's life: serve tasks until the link ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()  # or a killed parent would never be noticed
    torch.set_num_threads(1)
    timing.forked(track)
    while True:
        try:
            (number,) = _NUMBER.unpack(link.receive())
            task, before = link.receive(), link.receive()
            with timing.span(timing.CLIENT, number):
                data, memory = serve(client, number, task, before)
            for part in (timing.taken(), data, memory):
                link.send(part)
        except (EOFError, OSError):
            return


def _stop(worker: _Worker) -> None:
    worker.link.close()
    worker.process.kill()
    worker.process.join()


def _required(client: int | None) -> int:
    if client is None:
        raise RuntimeError("an answer came from a worker that was asked for none")
    return client
