"""Flower's side of a device: hands each message to the worker and its answer back. It loads no torch.

Flower starts a fresh process for every message, so whatever takes time to load belongs into the worker. In Flower's
simulation it does not, and there the process does the work itself.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedbonsai.core.errors import ClientError
from fedbonsai.engines.record import BLOB, as_record, from_content
from fedbonsai.flower.pipe import HELLO, MAX_HELLO, TASK, Home, ask

WORKER = "worker"
"""Key of a SuperNode's node config: the directory of the worker."""

PARTITION = "partition-id"
"""Key by which a virtual SuperNode of a simulation is known."""

FAILED = 2
"""Flower's code of an app that could not do its work."""

MOST = (1 << 31) - 1
"""Bytes of an answer; the socket's frames hold no more, and the server has its own, closer limit."""


Ask = Callable[[bytes, int, float], bytes]
"""Takes a request, the longest answer that is taken, and the seconds until it must be there."""


def client_app(experiment: Path | None = None, app: Path | None = None) -> ClientApp:
    """A ClientApp for any experiment; all that it does is in the worker.

    Args:
        experiment: File of the experiment; only a simulation needs it, where nobody has started workers.
        app: Python file with ``task()`` and ``data(client)``, the same.
    """
    client = ClientApp()

    def relayed(message: Message, context: Context, request: bytes, most: int) -> Message:
        return _relayed(message, lambda: _worker(context, experiment, app), request, most)

    @client.query("fedbonsai")
    def hello(message: Message, context: Context) -> Message:
        return relayed(message, context, HELLO, MAX_HELLO)

    @client.train("fedbonsai")
    def work(message: Message, context: Context) -> Message:
        return relayed(message, context, TASK + from_content(message.content, MOST), MOST)

    return client


def _worker(context: Context, experiment: Path | None, app: Path | None) -> Ask:
    home = context.node_config.get(WORKER)
    if isinstance(home, str):
        return partial(_ask, Home(Path(home)))
    if experiment is None or PARTITION not in context.node_config:
        raise ClientError(f"the SuperNode must be started with --node-config '{WORKER}=\"DIRECTORY\"', it was not")
    from fedbonsai.flower import simulation  # it loads torch

    return partial(simulation.ask, simulation.virtual(experiment, app, context.node_config, context.run_config))


def _ask(home: Home, request: bytes, most: int, patience: float) -> bytes:
    return ask(home, request, most=most, patience=patience)


def _relayed(message: Message, worker: Callable[[], Ask], request: bytes, most: int) -> Message:
    patience = message.metadata.ttl
    try:
        answer = _within(patience, partial(worker(), request, most, patience))
        if request[:1] == TASK and answer[:1] != TASK:
            raise ClientError(answer[1:].decode(errors="replace"))
    except ClientError as error:
        return Message(Error(FAILED, str(error)[:500]), reply_to=message)
    data = answer[1:] if request[:1] == TASK else answer
    return Message(RecordDict({BLOB: as_record(data)}), reply_to=message)


def _within(patience: float, call: Callable[[], bytes]) -> bytes:
    """What a call gives, if it does in time: a worker that hangs must not hang the node.

    The thread of a call that hangs is a daemon: it does not keep this process from ending.

    Raises:
        ClientError: It fails, or gives nothing in time.
    """
    outcome = SimpleQueue[bytes | BaseException]()

    def work() -> None:
        try:
            outcome.put(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.put(error)

    Thread(target=work, daemon=True).start()
    try:
        found = outcome.get(timeout=patience)
    except Empty as error:
        raise ClientError(f"the worker gave no answer within {patience:g} s") from error
    if isinstance(found, BaseException):
        raise found
    return found
