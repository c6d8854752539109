"""All that a server knows and all that a client keeps, as values. Saving them is the checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Group, group
from fedbonsai.core.support import Support
from fedbonsai.core.tiers import Tiers

Tensors = Mapping[str, Tensor]
"""Tensors by name."""

T = TypeVar("T")

MANY = 500
"""Entries of a memory above which it is not searched for each section: a server may remember something of each client.
"""

Number = bool | int | float | str
"""What a memory may hold besides tensors."""


@dataclass(frozen=True, eq=False)
class Memory:
    """Named tensors and numbers that outlive a round: of a method, of a server optimizer, of a client.

    Names may have sections, written ``section/name``, so that several owners share one memory.

    Examples:
        >>> memory = Memory(numbers={"best": 0.9}).under("method")
        >>> memory.numbers
        {'method/best': 0.9}
        >>> memory.section("method").numbers
        {'best': 0.9}
    """

    tensors: Tensors = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)

    def section(self, name: str) -> "Memory":
        """What stands under ``name/``, without the prefix."""
        prefix = f"{name}/"
        tensors, numbers = self.tensors, self.numbers
        if len(tensors) + len(numbers) > MANY:
            keys = self._index(prefix.count("/")).get(prefix, {})
            tensors = {key: tensors[key] for key in keys if key in tensors}
            numbers = {key: numbers[key] for key in keys if key in numbers}
        return Memory(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)},
            {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)},
        )

    def under(self, name: str) -> "Memory":
        """The same with ``name/`` before every key."""
        return Memory(
            {f"{name}/{key}": value for key, value in self.tensors.items()},
            {f"{name}/{key}": value for key, value in self.numbers.items()},
        )

    def merge(self, *others: "Memory") -> "Memory":
        """This memory and others in one; later ones win."""
        tensors, numbers = dict(self.tensors), dict(self.numbers)
        for other in others:
            tensors.update(other.tensors)
            numbers.update(other.numbers)
        return Memory(tensors, numbers)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.numbers)

    def _index(self, depth: int) -> dict[str, dict[str, None]]:
        """Keys by their first sections, in order; made once for all that a round asks for."""
        indices: dict[int, dict[str, dict[str, None]]] = vars(self).setdefault("_indices", {})
        if depth not in indices:
            found: dict[str, dict[str, None]] = {}
            for key in (*self.tensors, *self.numbers):
                parts = key.split("/", depth)
                if len(parts) > depth:
                    found.setdefault("/".join(parts[:depth]) + "/", {})[key] = None
            indices[depth] = found
        return indices[depth]


@dataclass(frozen=True)
class Setting:
    """What a method may know of the run that it is part of; follows from the experiment and never changes.

    Attributes:
        rounds: Training rounds of the whole run; schedules are fractions of it.
        clients: Number of clients in the population.
        seed: The seed of the run.
        layout: The model's tensors.
        tiers: How much of the model each client can train.
        channels: The model's channels, for methods whose clients train smaller models (`Traits.submodels`).
    """

    rounds: int
    clients: int
    seed: int
    layout: Layout
    tiers: Tiers = field(default_factory=Tiers)
    channels: Groups | None = None

    @property
    def groups(self) -> Groups:
        """The model's channels, where a method cannot do without.

        Raises:
            ConfigError: They were not traced.
        """
        if self.channels is None:
            raise ConfigError("a method of smaller models needs the model's channels, got none; see Traits.submodels")
        return self.channels

    def width(self, client: int, turn: int) -> float:
        """Share of every layer's units that a client can train in a turn."""
        return self.tiers.width(self.seed, self.clients, client, turn)


@dataclass(frozen=True, eq=False)
class _Without(Mapping[int, T]):
    """A mapping that lacks one key; a copy of it would take its time, where there are many."""

    known: Mapping[int, T]
    client: int

    def __getitem__(self, client: int) -> T:
        if client == self.client:
            raise KeyError(client)
        return self.known[client]

    def __iter__(self) -> Iterator[int]:
        return (one for one in self.known if one != self.client)

    def __len__(self) -> int:
        return len(self.known) - (self.client in self.known)


@dataclass(frozen=True, eq=False)
class State:
    """All that the server knows between two rounds.

    Attributes:
        setting: The run that this belongs to.
        weights: The shared tensors, whole, exact zeros off their supports.
        supports: Where each tensor lives; one that is not named is dense.
        round: Training rounds finished.
        turn: Rounds of any stage finished; names the randomness of the next one.
        memory: What the method keeps.
        optimizer: What the server optimizer keeps.
        held: Masks that a client holds since its last exchange that counted; messages to it may refer to them.
        answered: 1 + the turn of each client's last answer that counted. What it kept then is what it goes on from.
        statistics: Batch-norm statistics that were measured apart from training (see `Client.norm_policy`).
    """

    setting: Setting
    weights: Tensors
    supports: Mapping[str, Support] = field(default_factory=dict)
    round: int = 0
    turn: int = 0
    memory: Memory = field(default_factory=Memory)
    optimizer: Memory = field(default_factory=Memory)
    statistics: Tensors = field(default_factory=dict)
    held: Mapping[int, tuple[Support, ...]] = field(default_factory=dict)
    answered: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def parts(self) -> Group:
        """The weights on their supports, cut once for all clients of a round."""
        return group(self.weights, self.supports)

    @cached_property
    def tiers(self) -> dict[float, Group]:
        """What was cut out of the weights for devices of each width so far; all clients of a tier share it."""
        return {}

    @property
    def density(self) -> float:
        """Share of the prunable weights that is present."""
        return self.setting.layout.density(self.supports)

    def without(self, client: int, *, masks_only: bool = False) -> "State":
        """The state as if this client held no masks, or as if it had never answered at all."""
        answered = self.answered if masks_only else _Without(self.answered, client)
        return replace(self, held=_Without(self.held, client), answered=answered)

    def moved(
        self, weights: Tensors, supports: Mapping[str, Support] | None = None, optimizer: Memory | None = None
    ) -> "State":
        """The state with new weights, cut to ``supports`` (or to the present ones): exact zeros elsewhere.

        What the server optimizer remembers of a weight goes with it, so that momentum cannot bring it back.
        """
        supports = self.supports if supports is None else supports
        supports = {name: one for name, one in supports.items() if one.kind != "dense" and name in weights}
        optimizer = self.optimizer if optimizer is None else optimizer
        return replace(
            self,
            weights={name: _cut(value, supports.get(name)) for name, value in weights.items()},
            supports=dict(supports),
            optimizer=Memory(
                {key: _cut(one, supports.get(key.rsplit("/", 1)[0])) for key, one in optimizer.tensors.items()},
                optimizer.numbers,
            ),
        )


def _cut(value: Tensor, support: Support | None) -> Tensor:
    return value if support is None else support.apply(value)
