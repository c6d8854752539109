"""A Flower grid in this process: unchanged ServerApps and ClientApps, no sockets, no Ray, no waiting.

Every message really becomes bytes and back on its way, as between machines, so nothing is shared by accident. Time is
counted in pulls: `send_and_receive` gives up after ``patience`` of them, whatever timeout it was given.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

RUN = 7
SERVER = 1
CLIENT_APP_RAISED = 2

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one message.

    Attributes:
        error: The node answers with this instead of its work.
        silent: The node never answers, and does nothing.
        pulls: The answer is there only after so many pulls that ask for it.
        tamper: What the node makes of its honest answer.
    """

    error: Error | None = None
    silent: bool = False
    pulls: int = 0
    tamper: Callable[[Message], Message] = lambda reply: reply


@dataclass(frozen=True)
class Exchange:
    """One message that a node was sent: its type, the bytes down and up (0 without an answer)."""

    node: int
    kind: str
    down: int
    up: int


@dataclass
class _Letter:
    reply: Message | None
    pulls: int


@dataclass
class InProcessGrid(Grid):
    """Nodes that answer at once, one after the other; give it to a ServerApp or to `Strategy.start`.

    Attributes:
        nodes: ``(client_app, node_config)`` by node id. Take one out and it is offline, put one in and it has joined.
        fault: What goes wrong with a message on its way to a node; called once for each.
        run_config: What every ClientApp finds in its context.
        patience: Pulls that `send_and_receive` makes before it returns without those who have not answered.
        contexts: Each node's context, with the state that it keeps between messages.
        exchanges: All messages, in order.
    """

    nodes: dict[int, tuple[ClientApp, Config]]
    fault: Callable[[Message], Fault] = lambda _: Fault()
    run_config: Config = field(default_factory=dict)
    patience: int = 10
    contexts: dict[int, Context] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    _letters: dict[str, _Letter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pretend_to_be_a_task()

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = []
        for name in set(message_ids) & set(self._letters):
            letter = self._letters[name]
            if letter.reply is not None and letter.pulls == 0:
                ready.append(letter.reply)
                del self._letters[name]
            letter.pulls -= letter.pulls > 0
        return sorted(ready, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        waiting = {name for name in self.push_messages(messages) if name is not None}
        replies: list[Message] = []
        for _ in range(self.patience):
            got = self.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in got}
            replies += got
            if not waiting:
                break
        return replies

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError("Flower has deprecated it; write Message(...)")

    def set_run(self, run: Any) -> None:
        raise NotImplementedError("this grid has one run")

    @property
    def run(self) -> Any:
        raise NotImplementedError("this grid has one run")

    def _push(self, message: Message) -> str | None:
        """Have a message served, and keep the reply until it is asked for; None for a node that is not there."""
        node = message.metadata.dst_node_id
        if node not in self.nodes:
            return None
        name, fault = str(uuid4()), self.fault(message)
        sent, down = travel(message)
        sent.metadata.__dict__["_message_id"] = name
        reply, up = (None, 0) if fault.silent else travel(fault.tamper(self._answer(node, sent, fault)))
        self.exchanges.append(Exchange(node, message.metadata.message_type, down, up))
        self._letters[name] = _Letter(reply, fault.pulls)
        return name

    def _answer(self, node: int, message: Message, fault: Fault) -> Message:
        if fault.error is not None:
            return Message(fault.error, reply_to=message)
        app, config = self.nodes[node]
        context = self.contexts.setdefault(node, Context(RUN, node, dict(config), RecordDict(), dict(self.run_config)))
        try:
            return app(message, context)
        except Exception as error:  # noqa: BLE001 - a SuperNode answers so, whatever was raised
            return Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=message)


def server_context(**run_config: Any) -> Context:
    """The context of a ServerApp."""
    return Context(RUN, SERVER, {}, RecordDict(), run_config)


def pretend_to_be_a_task() -> None:
    """Let this process make messages: Flower's constructor asks whose task it is, and there is no public way to say."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, SERVER


def travel(message: Message) -> tuple[Message, int]:
    """A message as it arrives, and the bytes that it was on its way."""
    contents = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
    size = sum(map(len, contents.values()))
    arrived = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(arrived, Message)
    arrived.metadata.__dict__["_message_id"] = message.metadata.message_id
    return arrived, size
