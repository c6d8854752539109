"""The long-lived process on a device: it has the model, the data and the memory, and serves what its relay brings."""

import importlib.util
import json
import logging
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

from fedbonsai import wire
from fedbonsai.core.errors import CheckpointError, ClientError, ConfigError, FedbonsaiError
from fedbonsai.core.state import Memory
from fedbonsai.engines.roster import Greeting
from fedbonsai.experiment.build import check_personal, make_method, make_task, resolve
from fedbonsai.experiment.choice import make_bench
from fedbonsai.experiment.settings import make_experiment, read_toml
from fedbonsai.federated.client import AFTER, Client, Coding
from fedbonsai.federated.memories import memory_from_bytes, memory_to_bytes
from fedbonsai.federated.traffic import message_limits
from fedbonsai.flower.pipe import HELLO, TASK, Home, listening, write_private
from fedbonsai.learning.device import exactly
from fedbonsai.learning.task import Data, Task

logger = logging.getLogger(__name__)

NOTHING = torch.empty(0), torch.empty(0)
"""The data of a client that is on another device."""


@dataclass(frozen=True)
class Duty:
    """What a worker is to do.

    Attributes:
        experiment: File of the experiment, the same as the server's.
        clients: The clients whose data are on this device.
        app: Python file with ``task()`` and ``data(client)``, for an experiment with a task of its own.
        data_dir: Where data sets are.
        device: Where this worker trains, in place of where the experiment says.
    """

    experiment: Path
    clients: tuple[int, ...]
    app: Path | None = None
    data_dir: Path | None = None
    device: str | None = None


@dataclass(frozen=True)
class Shelf:
    """What the clients of a device remember of one run, on disk, under the answer that it was kept with.

    The server may never use an answer (it was late, or the server was killed), so what was kept before is needed
    until the answer after it has counted: a task says from which one to go on.

    Attributes:
        path: Directory of the run.
    """

    path: Path

    def at(self, client: int, answer: int) -> Memory:
        """What a client kept with an answer; an empty memory when that is lost or damaged, which a client tells."""
        file = self._file(client, answer)
        if not answer or not file.exists():
            return Memory()
        try:
            return memory_from_bytes(file.read_bytes())
        except (OSError, CheckpointError) as error:
            logger.warning("client %d has lost its memory: %s", client, error)
            return Memory()

    def keep(self, client: int, memory: Memory, *, before: int, answer: int) -> None:
        """Keep what a client remembers after an answer, beside what it had before."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file(client, answer), memory_to_bytes(memory))
        needed = {self._file(client, before), self._file(client, answer)}
        for one in self.path.glob(f"{client}-*.memory"):
            if one not in needed:
                one.unlink()

    def _file(self, client: int, answer: int) -> Path:
        return self.path / f"{client}-{answer}.memory"


@dataclass(frozen=True)
class Worker:
    """Answers requests; one at a time.

    Attributes:
        client: Model, data and method.
        clients: Whose data are here.
        greeting: What the server is told.
        shelf: What the clients remember.
    """

    client: Client
    clients: Collection[int]
    greeting: Greeting
    shelf: Shelf

    def answer(self, task: bytes) -> bytes:
        """Do a task. Whatever is wrong with it is in the answer.

        Raises:
            WireError: It is no task at all.
        """
        limits = message_limits(sum(slot.numel for slot in self.client.bench.layout.slots))
        head = wire.header(wire.read_frame(task, limits, verify=False))
        if head.client not in self.clients:
            raise ConfigError(f"this device has the data of {sorted(self.clients)}, it was asked for {head.client}")
        before = _answer_before(head.numbers.get(AFTER, 0.0))
        kept = self.shelf.at(head.client, before)
        self.client.memories = written = {head.client: kept}
        data = self.client.serve(task)
        if written[head.client] is not kept:
            self.shelf.keep(head.client, written[head.client], before=before, answer=head.round + 1)
        return data


def make_worker(home: Path, duty: Duty) -> Worker:
    """Load model and data of a device.

    Raises:
        ConfigError: The experiment cannot be read or does not fit, or there are no such clients.
        DataError: The data are not there.
    """
    experiment = resolve(make_experiment(read_toml(duty.experiment), {}))
    method = make_method(experiment)
    task = own_task(duty) if duty.app is not None else make_task(experiment, duty.data_dir)
    prepared = task.prepared(experiment.validation, experiment.seed, check_personal(method, experiment))
    strange = [one for one in duty.clients if one >= len(prepared.splits)]
    if strange or not duty.clients:
        raise ConfigError(f"clients must be some of 0 to {len(prepared.splits) - 1}, got {strange or 'none'}")
    bench = make_bench(replace(experiment, device=duty.device or experiment.device), prepared)
    client = Client(method, bench, experiment.batch_norm, Coding(experiment.uplink, experiment.error_feedback))
    greeting = Greeting.of(experiment.digest, bench.layout, duty.clients)
    return Worker(client, duty.clients, greeting, Shelf(home / "memories" / experiment.digest))


def own_task(duty: Duty) -> Task:
    """The task of an app, with the data of this device's clients.

    Raises:
        ConfigError: The file is not there, or has not what is needed.
    """
    module = load_app(duty.app or Path())
    task = function(module, "task")()
    data: Callable[[int], Data] = function(module, "data")
    if not isinstance(task, Task) or not isinstance(task.clients, int):
        raise ConfigError(f"task() of {duty.app} must return a Task with the number of its clients, got {task!r:.200}")
    return replace(task, clients=[data(one) if one in duty.clients else NOTHING for one in range(task.clients)])


def load_app(path: Path) -> ModuleType:
    """The Python file of an app.

    Raises:
        ConfigError: It is not there, or cannot be run.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ConfigError(f"an app must be a Python file with task() and data(client), got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def function(module: ModuleType, name: str) -> Callable[..., Any]:
    """A function of an app.

    Raises:
        ConfigError: There is none.
    """
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{module.__file__} must have a function {name}(), it has none")
    own: Callable[..., Any] = found
    return own


def serve(home: Path, duty: Duty, arguments: list[str] | None) -> None:
    """Be the worker of a device until it is ended (SIGTERM, or Ctrl-C).

    Args:
        home: Its directory, closed to others: socket, secret, memories.
        duty: What it is to do.
        arguments: With which the relay can have Python start the same worker again; None when a supervisor does that.

    Raises:
        ConfigError: Another worker is at work there, or the duty cannot be done.
    """
    house = Home(home)
    with listening(house) as listener:
        worker = make_worker(home, duty)
        command = {"arguments": arguments, "directory": str(Path.cwd())}
        write_private(house.command, json.dumps(command).encode())
        signal.signal(signal.SIGTERM, _leave)
        torch.set_num_threads(1)
        logger.info("worker of clients %s is ready in %s", ", ".join(map(str, sorted(duty.clients))), home)
        with exactly(str(worker.client.bench.device)):
            attend(listener, worker)


def attend(listener: Listener, worker: Worker) -> None:
    """Answer requests, one after the other, for ever."""
    requests: queue.Queue[tuple[bytes, Connection]] = queue.Queue()
    threading.Thread(target=_accept, args=(listener, worker, requests), daemon=True).start()
    while True:
        task, pipe = requests.get()
        with pipe:
            _reply(pipe, worker, task)


def _accept(listener: Listener, worker: Worker, requests: "queue.Queue[tuple[bytes, Connection]]") -> None:
    """Take requests; a greeting is answered at once, even while a task is being worked on."""
    most = 1 + message_limits(sum(slot.numel for slot in worker.client.bench.layout.slots)).max_bytes
    while True:
        try:
            pipe = listener.accept()
            request = pipe.recv_bytes(most)
            if request[:1] == TASK:
                requests.put((request[1:], pipe))
                continue
            if request == HELLO:
                pipe.send_bytes(worker.greeting.to_json())
            pipe.close()
        except (OSError, EOFError, AuthenticationError) as error:
            logger.debug("a connection failed: %r", error)


def respond(worker: Worker, task: bytes) -> bytes:
    """The answer to a task as it goes to the relay: `TASK` and its bytes, or ``E`` and what is wrong."""
    try:
        return TASK + worker.answer(task)
    except (FedbonsaiError, OSError) as error:  # a disk that is full, say, must not end the worker
        logger.warning("a task was refused: %s", error)
        return f"E{type(error).__name__}: {error}".encode()[:2000]


def _answer_before(number: float) -> int:
    """After which answer a task goes on, whatever the number in it is."""
    if not (0 <= number < 2**53 and number == int(number)):
        raise ClientError(f"a task goes on after an answer with a number from 0 to 2^53, got {number}")
    return int(number)


def _reply(pipe: Connection, worker: Worker, task: bytes) -> None:
    data = respond(worker, task)
    try:
        pipe.send_bytes(data)
    except OSError:
        logger.warning("nobody waited for an answer any more")


def _leave(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt
