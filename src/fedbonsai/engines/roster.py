"""Who is on which device: what a worker says of itself, and whether the server can use it."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.metadata import version

from fedbonsai.core.errors import ClientError
from fedbonsai.core.layout import Layout

MOST_CLIENTS = 100_000


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself.

    Attributes:
        fedbonsai: Version of the library.
        experiment: Digest of its experiment.
        layout: Digest of its model's tensors.
        clients: Whose data are on the device.
    """

    fedbonsai: str
    experiment: str
    layout: str
    clients: tuple[int, ...]

    @classmethod
    def of(cls, experiment: str, layout: Layout, clients: Collection[int]) -> "Greeting":
        """The greeting of this library, for the digest of an experiment and a model."""
        tensors = json.dumps([(slot.name, slot.shape) for slot in layout.slots])
        digest = hashlib.sha256(tensors.encode()).hexdigest()[:12]
        return cls(version("fedbonsai"), experiment, digest, tuple(sorted(clients)))

    def to_json(self) -> bytes:
        """As bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Greeting":
        """From bytes that may be anything.

        Raises:
            ClientError: They are no greeting.
        """
        try:
            found = json.loads(data)
            fedbonsai, experiment, layout = (found[name] for name in ("fedbonsai", "experiment", "layout"))
            clients = found["clients"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = "a greeting must be JSON with fedbonsai, experiment, layout and clients"
            raise ClientError(f"{what}; {error!r:.100}") from error
        fits = isinstance(clients, list) and len(clients) <= MOST_CLIENTS
        if not fits or not all(type(one) is int and one >= 0 for one in clients):
            raise ClientError(f"clients of a device must be at most {MOST_CLIENTS} numbers from 0 on")
        if not all(isinstance(one, str) and len(one) <= 100 for one in (fedbonsai, experiment, layout)):
            raise ClientError("fedbonsai, experiment and layout of a greeting must be short texts")
        return cls(fedbonsai, experiment, layout, tuple(sorted(set(clients))))

    def check(self, ours: "Greeting", population: int) -> None:
        """Make sure that a device does what this server does.

        Args:
            ours: What the server would say of itself.
            population: Number of clients of the run.

        Raises:
            ClientError: It has another version, experiment or model, or clients that do not exist.
        """
        for what in ("fedbonsai", "experiment", "layout"):
            if getattr(self, what) != getattr(ours, what):
                raise ClientError(f"a device must have {what} {getattr(ours, what)}, got {getattr(self, what)!r:.60}")
        if not self.clients or self.clients[-1] >= population:
            raise ClientError(f"a device must have clients below {population}, got {self.clients[-1:]}")
