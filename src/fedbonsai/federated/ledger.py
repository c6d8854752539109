"""What a round cost and who took part: lengths of encoded bytes, computed FLOPs, measured seconds."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from fedbonsai import wire
from fedbonsai.core.errors import RoundError, WireError
from fedbonsai.core.state import State
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.engine import Answer

logger = logging.getLogger(__name__)

Direction = Literal["down", "up"]
KINDS = ("values", "supports", "overhead")
Traffic = dict[str, dict[str, dict[str, int]]]
"""Bytes by direction, group of the message, and kind."""

NAMED = 1000
"""Clients that a row names; of a larger cohort it names so many at even distances, and counts all in its sums."""

Row = dict[str, Any]
"""One line of ``rounds`` in ``result.json``."""


@dataclass
class Ledger:
    """The account of one round while it runs.

    Attributes:
        state: What the round began with.
        stage: What it asks of its clients.
        asked: Clients that were sent a task.
        accepted: Clients whose updates counted.
        dropped: Why the others did not, by client.
        work: Parameters that each client was sent, and the FLOPs of its work.
        seconds: From handing a client its task over to having its answer.
        traffic: Bytes by direction, group and kind.
        by_client: Bytes by client and direction.
    """

    state: State
    stage: str
    started: float = field(default_factory=time.perf_counter)
    asked: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    dropped: dict[int, str] = field(default_factory=dict)
    work: dict[int, dict[str, int]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=lambda: {"down": {}, "up": {}})
    by_client: dict[int, dict[str, int]] = field(default_factory=dict)

    def charge(self, direction: Direction, client: int, data: bytes, frame: wire.Frame | None = None) -> bytes:
        """Charge the bytes of a task (down) or an answer (up), also of one that will be refused; return them.

        Args:
            direction: Which way they go.
            client: Whose.
            data: The bytes.
            frame: The same, if they have been taken apart already.
        """
        own = self.by_client.setdefault(client, {"down": 0, "up": 0})
        own[direction] += len(data)
        for group, kinds in _parts(data, frame).items():
            booked = self.traffic[direction].setdefault(group, dict.fromkeys(KINDS, 0))
            for kind, length in zip(KINDS, kinds, strict=True):
                booked[kind] += length
        return data

    def accept(self, answer: Answer) -> None:
        """Note that an answer counts."""
        self.accepted.append(answer.client)
        self.seconds[answer.client] = answer.seconds

    def drop(self, answer: Answer, reason: str) -> None:
        """Note that a client does not count in this round, and say so in the log."""
        self.dropped[answer.client] = reason
        logger.warning("round %d: client %d dropped: %s", self.state.round + 1, answer.client, reason)

    def require(self, min_clients: int) -> None:
        """Refuse to go on with too few clients.

        Raises:
            RoundError: Fewer than ``min_clients`` are left, or fewer than a small stage asked; it names the reasons.
        """
        min_clients = min(min_clients, max(len(self.asked), 1))
        if len(self.accepted) < min_clients:
            reasons = "; ".join(f"client {client}: {reason}" for client, reason in list(self.dropped.items())[:3])
            raise RoundError(
                f"round {self.state.round + 1} ({self.stage}) needs at least {min_clients} clients, "
                f"{len(self.accepted)} of {len(self.asked)} are left ({reasons or 'none was dropped'}); "
                "nothing of it was applied"
            )

    def row(self, after: State, total: Total) -> Row:
        """The line of this round in ``result.json``."""
        loss = total.numbers.get("loss")
        step = -(-len(self.asked) // NAMED) or 1
        named = sorted(self.asked)[::step]  # by number: engines ask in an order of their own
        bookings = [booked for groups in self.traffic.values() for booked in groups.values()]
        return {
            "round": after.round,
            "stage": self.stage,
            "train_loss": loss / total.weight if loss is not None and total.weight else None,
            "validation_metric": total.validation_metric,
            "test_loss": None,
            "test_metric": None,
            "density": after.density,
            "bytes_down": sum(own["down"] for own in self.by_client.values()),
            "bytes_up": sum(own["up"] for own in self.by_client.values()),
            "bytes_by_kind": {kind: sum(booked[kind] for booked in bookings) for kind in KINDS},
            "traffic": self.traffic,
            "bytes_by_client": {str(client): self.by_client[client] for client in named},
            "work_by_client": {str(client): self.work[client] for client in named},
            "seconds_by_client": {str(client): self.seconds[client] for client in named if client in self.seconds},
            "seconds": time.perf_counter() - self.started,
            "flops": sum(own["flops"] for own in self.work.values()),
            "clients": len(self.accepted),
            "dropped": len(self.dropped),
            "dropped_why": {str(client): reason for client, reason in sorted(self.dropped.items())[:NAMED]},
        }


def _parts(data: bytes, frame: wire.Frame | None) -> dict[str, tuple[int, int, int]]:
    """Bytes of each kind in each group; what belongs to none (header, facts, or no message at all) is under ``""``."""
    try:
        account = wire.account(data) if frame is None else wire.account_of(frame)
    except WireError:
        return {"": (0, 0, len(data))}
    known = sum(sum(kinds) for kinds in account.groups.values())
    return {**account.groups, "": (0, 0, len(data) - known)}
