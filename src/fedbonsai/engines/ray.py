"""The engine that spreads clients over the machines of a Ray cluster, one actor a core.

Model, data and method travel once to each machine, by Ray's object store, which pickles them (functions by value, where
they belong to no module): that is transport inside a cluster whose machines trust each other, not bytes from outside.
Tasks, answers and memories are the bytes of every engine.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedbonsai.core.errors import ConfigError, RoundError
from fedbonsai.core.state import Memory
from fedbonsai.engines.cluster import check, first_line, import_ray, join, put, room
from fedbonsai.engines.kit import Kit, Server, versions
from fedbonsai.engines.local import late
from fedbonsai.engines.memories import Memories
from fedbonsai.federated.client import Client
from fedbonsai.federated.engine import Answer
from fedbonsai.learning.machine import available_cores

logger = logging.getLogger(__name__)

START_S = 60.0
"""Seconds in which a worker must have found room in the cluster and got ready, when all others wait for it."""

STARTS = 3
"""Workers that may die in a row before they are ready."""

ACTOR: dict[str, Any] = {
    "num_cpus": 1,
    "max_restarts": 0,  # a new one is made here: it may have to wait for room, and the client is asked once more only
    "max_task_retries": 0,
    "scheduling_strategy": "SPREAD",
    "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}},
}
"""How Ray is to run a worker."""


@dataclass(frozen=True)
class _Job:
    """A task for a client; ``again`` when the worker that had it first has died."""

    client: int
    task: bytes
    again: bool = False


@dataclass
class _Worker:
    """An actor and what it was asked for: to get ready, a job, or nothing."""

    actor: Any
    reply: Any
    began: float
    job: _Job | None = None
    ready: bool = False


class RayEngine:
    """Spreads clients over the cluster that ``RAY_ADDRESS`` names, else over this machine; bit-equal to `LocalEngine`.

    A worker that dies is replaced where there is room, and its client is asked once more; if that fails too, or takes
    longer than ``timeout_s``, the client is dropped.

    Args:
        client: What serves; every worker makes a copy.
        workers: The most workers, of one CPU each; None takes all CPUs of the cluster.
        timeout_s: Time that one client may take.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be joined or has no room, or its machines have other
            versions than this one.
    """

    def __init__(self, client: Client, workers: int | None = None, timeout_s: float | None = None) -> None:
        self._ray = import_ray()
        self._joined = join(self._ray, workers or available_cores())
        self._timeout_s = timeout_s
        self._memories = Memories()
        self._jobs: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._deaths = 0
        try:
            self.capacity = room(self._ray, workers)
            self._kit = put(self._ray, Kit.of(client))
            self._server = self._ray.remote(**ACTOR)(Server)
            self._workers += [self._start() for _ in range(self.capacity)]
            self._gather()
        except BaseException:
            self.close()
            raise

    def submit(self, client: int, task: bytes) -> None:
        self._jobs.append(_Job(client, task))

    def next(self) -> Answer:
        while True:
            self._hand_out()
            answer = self._step(self._patience())
            if answer is not None:
                return answer

    def settle(self, accepted: Collection[int]) -> None:
        self._memories.settle(accepted)

    def memories(self) -> Mapping[int, Memory]:
        return self._memories.store

    def restore(self, memories: Mapping[int, Memory]) -> None:
        self._memories.restore(memories)

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers.clear()
        self._jobs.clear()
        self._kit = None
        if self._joined:
            self._joined = False
            self._ray.shutdown()

    def _start(self) -> _Worker:
        actor = self._server.remote()
        return _Worker(actor, actor.begin.remote(versions(), [self._kit]), time.perf_counter())

    def _gather(self) -> None:
        """Wait for all workers, but not for ever: others may be using the cluster."""
        deadline = time.perf_counter() + START_S
        while not all(worker.ready for worker in self._workers) and time.perf_counter() < deadline:
            self._step(deadline - time.perf_counter())
        ready = sum(worker.ready for worker in self._workers)
        if ready < self.capacity:
            logger.warning(
                "%d of %d workers have found room in the cluster; the others may come later", ready, self.capacity
            )

    def _hand_out(self) -> None:
        for worker in self._workers:
            if self._jobs and worker.ready and worker.job is None:
                worker.job, worker.began = self._jobs.popleft(), time.perf_counter()
                memory = self._memories.encoded(worker.job.client)
                worker.reply = worker.actor.serve.remote(worker.job.client, worker.job.task, memory)

    def _patience(self) -> float | None:
        """Seconds until somebody is late; None where nobody can be."""
        if not any(worker.ready for worker in self._workers):
            return START_S
        if self._timeout_s is None:
            return None
        began = min((worker.began for worker in self._workers if worker.job), default=time.perf_counter())
        return max(0.0, began + self._timeout_s - time.perf_counter())

    def _step(self, patience: float | None) -> Answer | None:
        """Wait for one reply, and do what follows from it; the answer, if it was one."""
        asked = {worker.reply: worker for worker in self._workers if worker.reply is not None}
        found, _ = self._ray.wait(list(asked), timeout=patience)
        if not found:
            return self._overdue()
        worker = asked[found[0]]
        worker.reply = None
        try:
            return self._take(worker, self._ray.get(found[0]))
        except self._ray.exceptions.RayTaskError as error:
            return self._failed(worker, f"{type(error.cause).__name__}: {first_line(error.cause)}")
        except self._ray.exceptions.RayError as error:
            return self._lost(worker, first_line(error))

    def _take(self, worker: _Worker, reply: Any) -> Answer | None:  # noqa: ANN401 - as it came from Ray
        """A worker's reply: it is ready, or has an answer."""
        if worker.job is not None:
            return self._answer(worker, *reply)
        check(reply)
        worker.ready, self._deaths = True, 0
        return None

    def _answer(self, worker: _Worker, data: bytes | None, memory: bytes, error: str = "") -> Answer:
        """A worker's answer; it is free again."""
        job, worker.job = worker.job, None
        if job is None:
            raise RuntimeError("an answer came from a worker that was asked for none")
        self._memories.put(job.client, memory)
        return Answer(job.client, data, time.perf_counter() - worker.began, error)

    def _failed(self, worker: _Worker, why: str) -> Answer:
        """Code that a worker ran has raised."""
        if worker.job is None:
            raise ConfigError(
                f"every machine must be able to make the model, the loss and the method, one cannot: {why}; install "
                "the modules that they come from on all machines, or define them in the script itself"
            )
        return self._answer(worker, None, b"", why)

    def _lost(self, worker: _Worker, why: str) -> Answer | None:
        """A worker has died, or its machine."""
        self._replace(worker)
        if worker.job is None:
            self._deaths += 1
            if self._deaths == STARTS:
                raise RoundError(f"workers must get ready, but {STARTS} in a row died before that: {why}")
        elif worker.job.again:
            return self._answer(worker, None, b"", f"its worker died, and so did the next one: {why}")
        else:
            logger.warning("client %d is asked again, its worker died: %s", worker.job.client, why)
            self._jobs.appendleft(replace(worker.job, again=True))
        return None

    def _overdue(self) -> Answer | None:
        """Nothing has come in time."""
        if not any(worker.ready for worker in self._workers):
            raise RoundError(
                f"a worker must find room in the Ray cluster, none did within {START_S:g} s; free a CPU, or add a "
                "machine with `ray start --address=HOST:PORT`, and resume"
            )
        busy = [worker for worker in self._workers if worker.job is not None]
        oldest = min(busy, key=lambda worker: worker.began, default=None)
        if oldest is None or self._timeout_s is None or time.perf_counter() < oldest.began + self._timeout_s:
            return None
        self._replace(oldest)
        return self._answer(oldest, None, b"", late(self._timeout_s))

    def _replace(self, worker: _Worker) -> None:
        self._ray.kill(worker.actor)
        self._workers[self._workers.index(worker)] = self._start()
