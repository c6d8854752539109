"""What a round cost and who took part: lengths of encoded bytes, computed FLOPs, measured seconds."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from fedbonsai import wire
from fedbonsai.core.errors import RoundError
from fedbonsai.core.state import State
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.engine import Answer

logger = logging.getLogger(__name__)

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
        flops: FLOPs of all clients.
    """

    state: State
    stage: str
    started: float = field(default_factory=time.perf_counter)
    asked: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    dropped: dict[int, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    flops: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("values", "supports", "overhead"), 0))

    def down(self, data: bytes) -> bytes:
        """Charge a task and return it."""
        self.bytes_down += len(data)
        self._split(data)
        return data

    def up(self, data: bytes) -> None:
        """Charge an answer; also one that will be refused."""
        self.bytes_up += len(data)

    def accept(self, answer: Answer) -> None:
        """Note that an answer counts."""
        self.accepted.append(answer.client)
        self._split(answer.data or b"")

    def drop(self, answer: Answer, reason: str) -> None:
        """Note that a client does not count in this round, and say so in the log."""
        self.dropped[answer.client] = reason
        self.kinds["overhead"] += len(answer.data or b"")
        logger.warning("round %d: client %d dropped: %s", self.state.round + 1, answer.client, reason)

    def require(self, min_clients: int) -> None:
        """Refuse to go on with too few clients.

        Raises:
            RoundError: Fewer than ``min_clients`` are left; the message names the reasons.
        """
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
        metric, judged = total.numbers.get("validation_metric"), total.numbers.get("validation_examples")
        return {
            "round": after.round,
            "stage": self.stage,
            "train_loss": loss / total.weight if loss is not None and total.weight else None,
            "validation_metric": metric / judged if metric is not None and judged else None,
            "test_loss": None,
            "test_metric": None,
            "density": after.density,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "bytes_by_kind": dict(self.kinds),
            "seconds": time.perf_counter() - self.started,
            "flops": self.flops,
            "clients": len(self.accepted),
            "dropped": len(self.dropped),
            "dropped_why": {str(client): reason for client, reason in self.dropped.items()},
        }

    def _split(self, data: bytes) -> None:
        account = wire.account(data)
        for kind in self.kinds:
            self.kinds[kind] += getattr(account, kind)
