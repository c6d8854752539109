"""Flower's side of a device: hands each message to the worker and its answer back. It loads no torch.

Flower starts a fresh process for every message, so whatever takes time to load belongs into the worker.
"""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Overdue
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedbonsai.core.errors import ClientError
from fedbonsai.engines.record import BLOB, as_record, from_content
from fedbonsai.flower.pipe import HELLO, MAX_HELLO, TASK, Home, ask

WORKER = "worker"
"""Key of a SuperNode's node config: the directory of the worker."""

FAILED = 2
"""Flower's code of an app that could not do its work."""

MOST = (1 << 31) - 1
"""Bytes of an answer; the socket's frames hold no more, and the server has its own, closer limit."""


def client_app() -> ClientApp:
    """A ClientApp for any experiment; all that it does is in the worker."""
    app = ClientApp()

    @app.query("fedbonsai")
    def hello(message: Message, context: Context) -> Message:
        return _relayed(message, context, HELLO, MAX_HELLO)

    @app.train("fedbonsai")
    def work(message: Message, context: Context) -> Message:
        return _relayed(message, context, TASK + from_content(message.content, MOST), MOST)

    return app


def _relayed(message: Message, context: Context, request: bytes, most: int) -> Message:
    patience = message.metadata.ttl
    try:
        home = context.node_config.get(WORKER)
        if not isinstance(home, str):
            raise ClientError(f"the SuperNode must be started with --node-config '{WORKER}=\"DIRECTORY\"', it was not")
        pool = ThreadPoolExecutor(1)  # a worker that hangs must not hang the node: this process ends, thread and all
        try:
            answer = pool.submit(ask, Home(Path(home)), request, most=most, patience=patience).result(patience)
        finally:
            pool.shutdown(wait=False)
        if request[:1] == TASK and answer[:1] != TASK:
            raise ClientError(answer[1:].decode(errors="replace"))
    except Overdue:
        return Message(Error(FAILED, f"the worker gave no answer within {patience:g} s"), reply_to=message)
    except ClientError as error:
        return Message(Error(FAILED, str(error)[:500]), reply_to=message)
    data = answer[1:] if request[:1] == TASK else answer
    return Message(RecordDict({BLOB: as_record(data)}), reply_to=message)
