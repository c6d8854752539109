"""The bytes of one round: tasks out, answers in, and what both sides hold of each other afterwards."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from fedbonsai import wire
from fedbonsai.core.errors import ClientError, WireError
from fedbonsai.core.finite import all_finite
from fedbonsai.core.held import Held, Holding
from fedbonsai.core.message import UNITS, Group, Message
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import State
from fedbonsai.core.support import Support
from fedbonsai.core.timing import span
from fedbonsai.federated.client import AFTER, FAILED, LOST, RESEND
from fedbonsai.federated.engine import Answer
from fedbonsai.federated.estimate import Robust
from fedbonsai.federated.ledger import Ledger
from fedbonsai.federated.method import Plan, ServerSide
from fedbonsai.federated.traffic import by_digest, masks, message_limits

SHORT = 4096
"""An answer that asks for the whole carries no tensors; only answers shorter than this many bytes are asked."""


PACKS = 8
"""Encoded tasks that are kept for further clients of a round: tiers are few, personal models many."""


AHEAD = 8
"""Clients a worker among which the largest come first; as many early answers may wait."""


@dataclass(frozen=True)
class _Pack:
    """An encoded task, and for whom it is one: clients that get these very groups and hold these supports."""

    groups: tuple[tuple[str, Group], ...]
    known: tuple[bytes, ...]
    packed: wire.Packed

    def serves(self, groups: tuple[tuple[str, Group], ...], known: tuple[bytes, ...]) -> bool:
        if known != self.known or len(groups) != len(self.groups):
            return False
        return all(a == b and x is y for (a, x), (b, y) in zip(groups, self.groups, strict=True))


@dataclass(frozen=True)
class Rules:
    """How rounds are held.

    Attributes:
        cohort: Clients that a ``sampled`` plan draws.
        min_clients: Fewer accepted updates than this end the run.
        window_bytes: Early answers that may wait, in encoded bytes.
        max_examples: The largest number of examples that a client may claim.
        downlink: How the values of tasks are coded.
        robust: What stands in place of the mean of the weights; None leaves it.
        sizes: Examples that each client trains on, where that is known and says how long it takes.
    """

    cohort: int
    min_clients: int = 1
    window_bytes: int = 1 << 28
    max_examples: float = 1e9
    downlink: str = "fp32"
    robust: Robust | None = None
    sizes: Sequence[int] = ()


@dataclass
class Exchange:
    """The server's side of the traffic of one round.

    Attributes:
        method: Makes the tasks.
        state: What the round began with.
        plan: What the round is.
        rules: How it is held.
        ledger: Where every byte is charged.
        sent: The masks of the task that each client under way got: its answer may refer to them.
        holds: What each client whose answer could be used holds from now on: the masks of its task and its answer.
        asked: Clients that asked for their task once more; nobody may twice.
    """

    method: ServerSide
    state: State
    plan: Plan
    rules: Rules
    ledger: Ledger
    sent: dict[int, tuple[Support, ...]] = field(default_factory=dict)
    holds: dict[int, Holding] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    _packs: list[_Pack] = field(default_factory=list)

    @cached_property
    def cohort(self) -> list[int]:
        """The clients of the round, in the order in which their updates are added up."""
        return draw_cohort(self.plan, self.state, self.rules)

    def tasks(self, workers: int = 1) -> Iterator[tuple[int, bytes]]:
        """Encode one task after the other, when the engine has room for it.

        Args:
            workers: How many tasks are under way at once. For several, those with the most to do come first among the
                next few, so that nobody begins a long one when the others are done.
        """
        for client in spread(self.cohort, self.rules.sizes, workers):
            self.ledger.asked.append(client)
            with span("encode", client):
                task = self._task(client, self.state)
            yield client, task

    def again(self, answer: Answer) -> bytes | None:
        """The task once more, when a client says that it does not hold what the task refers to or goes on from."""
        if answer.data is None or len(answer.data) > SHORT:
            return None
        try:
            asks = wire.decode(answer.data, limits=self._limits).stage
        except WireError:
            return None
        if asks not in (RESEND, LOST) or answer.client not in self.state.answered or answer.client in self.asked:
            return None
        self.asked.add(answer.client)
        self.ledger.charge("up", answer.client, answer.data)
        with span("encode", answer.client):
            return self._task(answer.client, self.state.without(answer.client, masks_only=asks == RESEND))

    def update(self, answer: Answer) -> Message:
        """Decode an answer and check all that can be checked of it.

        Raises:
            WireError: It is no message, or one for another model.
            ClientError: It is one that cannot be used.
        """
        if answer.data is None:
            raise ClientError(answer.error)
        frame = self._frame(answer.client, answer.data)
        sent = self.sent.pop(answer.client)
        held = (*self.state.held.get(answer.client, ()), *sent)
        update = wire.read_message(frame, by_digest(held), {})
        self.ledger.work[answer.client]["flops"] += int(min(max(update.numbers.get("flops", 0.0), 0.0), 1e18))
        if update.stage == FAILED:
            raise ClientError(update.note)
        expected = (self.plan.stage, self.state.turn, answer.client)
        if (update.stage, update.round, update.client) != expected:
            raise ClientError(f"an answer must be for {expected}, got {(update.stage, update.round, update.client)}")
        if not 0 < update.weight <= self.rules.max_examples:
            raise ClientError(
                f"an update must count for 1 to {self.rules.max_examples:g} examples, got {update.weight}"
            )
        _check_contents(update, self.state)
        if self.rules.robust is not None:
            update = self.rules.robust.bounded(update, lambda: self.method.distribute(self.state, answer.client))
        self.holds[answer.client] = self._held.holding((*sent, *masks(update)))
        return update

    def _frame(self, client: int, data: bytes) -> wire.Frame:
        """Take an answer apart and charge it, also where that cannot be done."""
        try:
            frame = wire.read_frame(data, self._limits)
        except WireError:
            self.ledger.charge("up", client, data)
            raise
        self.ledger.charge("up", client, data, frame)
        return frame

    def held(self) -> Held:
        """What every client holds after the round: the masks of its last task and answer that counted."""
        return self._held.after({client: self.holds[client] for client in self.ledger.accepted})

    def _task(self, client: int, state: State) -> bytes:
        facts = {"progress": state.round / state.setting.rounds}
        if client in state.answered:
            facts[AFTER] = float(state.answered[client])
        task = self.method.distribute(state, client).with_numbers(**facts)
        task = replace(task, client=client, round=state.turn, stage=self.plan.stage)
        self.sent[client] = masks(task)
        own = self.ledger.work.setdefault(client, {"parameters": 0, "flops": 0})
        own["parameters"] = _parameters(task, state)
        held = by_digest(state.held.get(client, ()))
        return self.ledger.charge("down", client, wire.seal(task, self._packed(task, held)))

    def answered(self) -> dict[int, int]:
        """Which of its answers every client goes on from after the round."""
        return {**self.state.answered, **dict.fromkeys(self.ledger.accepted, self.state.turn + 1)}

    def _packed(self, task: Message, held: dict[bytes, Support]) -> wire.Packed:
        """The groups of a task, encoded; once for clients that get the same and hold the same, one pack a tier."""
        groups, known = tuple(task.groups.items()), tuple(held)
        for one in self._packs if wire.is_exact(self.rules.downlink) else ():
            if one.serves(groups, known):
                return one.packed
        packed = wire.pack(task, values=self.rules.downlink, held=held)
        self._packs = [_Pack(groups, known, packed), *self._packs[: PACKS - 1]]
        return packed

    @cached_property
    def _held(self) -> Held:
        return Held.of(self.state.held)

    @property
    def _limits(self) -> wire.Limits:
        return message_limits(sum(slot.numel for slot in self.state.setting.layout.slots))


def spread(cohort: Sequence[int], sizes: Sequence[int], workers: int) -> list[int]:
    """Clients in the order in which several workers are to begin them: the largest first of the next few.

    Examples:
        >>> spread([0, 2, 3, 5], [5, 0, 9, 7, 0, 1], workers=2)
        [2, 3, 0, 5]
    """
    few = AHEAD * workers if workers > 1 and sizes else 1
    chunks = (cohort[first : first + few] for first in range(0, len(cohort), few))
    return [client for chunk in chunks for client in sorted(chunk, key=lambda one: -sizes[one] if sizes else 0)]


def _parameters(task: Message, state: State) -> int:
    """How many parameters of the model a task sends."""
    parts = task.groups.get("weights", {})
    return sum(parts[slot.name].support.count for slot in state.setting.layout.parameters if slot.name in parts)


def draw_cohort(plan: Plan, state: State, rules: Rules) -> list[int]:
    """Draw the clients of a turn without replacement, in increasing order; the seed and the turn decide."""
    if isinstance(plan.cohort, tuple):
        return sorted(plan.cohort)
    population = state.setting.clients
    wanted = {"sampled": rules.cohort, "all": population}.get(str(plan.cohort), plan.cohort)
    shuffled = torch.randperm(population, generator=generator(state.setting.seed, "cohort", state.turn))
    return sorted(shuffled[: min(int(wanted), population)].tolist())


def _check_contents(update: Message, state: State) -> None:
    """Refuse numbers that are not finite, tensors of another model, and what bears another client's number.

    A tensor that is named like one of the model has its shape, in whatever group: scores, gradients and masks too.
    Those that are not to be added up over clients are named ``client/...`` by the methods that send such.
    """
    infinite = [
        f"{name}: numbers must be finite, got {one}" for name, one in update.numbers.items() if not math.isfinite(one)
    ]
    if infinite:
        raise ClientError(infinite[0])
    _check_units(update, state)
    shapes = {**state.setting.layout.shapes, **{name: tuple(one.shape) for name, one in state.weights.items()}}
    for group, parts in update.groups.items():
        for name, part in parts.items():
            if part.support.shape != shapes.get(name, None if group == "weights" else part.support.shape):
                known = shapes.get(name)
                raise ClientError(f"{group}/{name}: the model here has shape {known}, got {part.support.shape}")
            if _owner(name) not in ("", str(update.client)):
                raise ClientError(f"{group}/{name}: a client speaks for itself, got client {update.client}")
            if not all_finite(part.values):
                raise ClientError(f"{group}/{name}: values must be finite, got NaN or infinity")


def _owner(name: str) -> str:
    """Whose tensor this is by its name, ``client/...``; nobody's where it is a sum's."""
    owner, slash, _ = name.partition("/")
    return owner if slash and owner.isdecimal() else ""


def _check_units(update: Message, state: State) -> None:
    """Refuse units of other channels than the server's."""
    channels = state.setting.channels
    if UNITS in update.groups and channels is not None:
        parts = update.groups[UNITS]
        fits = {name: part.support.shape for name, part in parts.items()} == {
            k: (n,) for k, n in channels.units.items()
        }
        if not fits or not all(bool(((one.values == 0) | (one.values == 1)).all()) for one in parts.values()):
            raise ClientError(
                f"units: an update must say 0 or 1 for each of {dict(channels.units)}, got something else"
            )
