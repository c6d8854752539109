"""What is to be learned: a model, a loss, every client's data and a test set."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, overload, runtime_checkable

import torch
from torch import Tensor, nn

from fedbonsai.core.errors import DataError
from fedbonsai.core.ragged import Ragged
from fedbonsai.core.seeds import generator
from fedbonsai.learning.losses import Loss, LossFunction, MetricFunction, as_loss


@runtime_checkable
class MapDataset(Protocol):
    """Anything with a length whose items are ``(input, target)`` pairs, such as a torch data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[object, object]: ...


@dataclass(frozen=True, eq=False)
class Pool:
    """Examples in memory, one copy for all clients; a client is a list of positions in it.

    Attributes:
        inputs: First dimension = examples; kept in the type it came in (images stay uint8).
        targets: First dimension = examples.
        prepare: Turns a batch of raw inputs into what the model takes; None takes them as they are.
    """

    inputs: Tensor
    targets: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"inputs and targets must be equally many, got {len(self.inputs)} and {len(self.targets)}")

    def __len__(self) -> int:
        return len(self.targets)

    def on(self, device: torch.device) -> "Pool":
        """The same examples in the memory of a device."""
        return Pool(self.inputs.to(device), self.targets.to(device), self.prepare)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at ``positions``, ready for the model, where the pool is."""
        positions = positions.to(self.targets.device)
        inputs, targets = self.inputs[positions], self.targets[positions]
        return (inputs if self.prepare is None else self.prepare(inputs)), _class_numbers(targets)


@dataclass(frozen=True, eq=False)
class Split:
    """Where one client's examples stand in the pool.

    Attributes:
        train: Positions that are trained on.
        validation: Positions that decisions look at (gates, roll-backs, adaptive pruning).
        holdout: Positions that only the evaluation of a personal model looks at.
    """

    train: Tensor
    validation: Tensor
    holdout: Tensor


SPLITS = 10_000
"""Splits that are kept once they were drawn; those of a larger population are drawn again."""


@dataclass(frozen=True, eq=False)
class Splits(Sequence[Split]):
    """Every client's split, drawn when it is first asked for: most of a large population never takes part.

    Attributes:
        positions: The examples of each client.
        validation: Share for decisions, in [0, 1).
        holdout: Share for evaluating personal models, in [0, 1).
        seed: The seed of the run.
    """

    positions: Ragged
    validation: float = 0.0
    holdout: float = 0.0
    seed: int = 0
    _drawn: dict[int, Split] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, client: int) -> Split: ...

    @overload
    def __getitem__(self, client: slice) -> list[Split]: ...

    def __getitem__(self, client: int | slice) -> Split | list[Split]:
        if isinstance(client, slice):
            return [self[one] for one in range(len(self))[client]]
        if client not in self._drawn:
            if len(self._drawn) >= SPLITS:
                self._drawn.clear()
            drawn = split(self.positions[client], self.validation, self.holdout, self.seed, client)
            self._drawn[client] = drawn
        return self._drawn[client]

    @property
    def sizes(self) -> list[int]:
        """Training examples of each client, for which nothing need be drawn."""
        lengths = self.positions.lengths.tolist()
        return [own - sum(_sizes(own, self.validation, self.holdout)) for own in lengths]


Data = Pool | MapDataset | tuple[Tensor, Tensor]
"""A pool, any data set with a length and ``(input, target)`` items, or a pair of tensors."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned. Own models, losses and data enter here, without subclassing anything.

    Attributes:
        model: Called without arguments, returns a fresh module.
        loss: A `Loss`, its name, or a callable ``(outputs, targets) -> mean loss``.
        clients: One data set a client. With ``positions``, a single pool that the clients share. A number, on a
            server that has none of the data: that many clients, each with its data on a device of its own.
        test: The data that the global model is tested on; never seen by any decision.
        metric: One value an example, higher is better; replaces the metric of ``loss``.
        positions: With a shared pool: the examples of each client; of very many clients best as a `Ragged`.

    Examples:
        >>> x, y = torch.randn(30, 4), torch.randint(0, 2, (30,))
        >>> task = Task(model=lambda: nn.Linear(4, 2), loss="cross_entropy", clients=[(x[:10], y[:10]), (x[10:20],
        ...     y[10:20])], test=(x[20:], y[20:]))
        >>> task.prepared(validation=0.2, seed=0).sizes
        [8, 8]
    """

    model: Callable[[], nn.Module]
    loss: Loss | LossFunction | str
    clients: Sequence[Data] | Pool | int
    test: Data
    metric: MetricFunction | None = None
    positions: Sequence[Tensor] | None = None

    def prepared(self, validation: float, seed: int, holdout: float = 0.0) -> "PreparedTask":
        """Gather all data into one pool and split every client's part from the seed.

        Args:
            validation: Share of a client's examples that is kept for decisions, in [0, 1).
            seed: The seed of the run.
            holdout: Share that is kept for evaluating personal models, in [0, 1).

        Raises:
            DataError: There are no clients, or their data do not fit together.
        """
        if self.clients == 0:
            raise DataError("a task needs at least one client, got none")
        test = as_pool(self.test)
        if isinstance(self.clients, int):
            nothing = Ragged(torch.empty(0, dtype=torch.int64), torch.zeros(self.clients + 1, dtype=torch.int64))
            return PreparedTask(self.model, as_loss(self.loss, self.metric), test, Splits(nothing), test)
        if isinstance(self.clients, Pool):
            pool = self.clients
            given = [torch.arange(len(pool))] if self.positions is None else self.positions
            positions = given if isinstance(given, Ragged) else Ragged.of(given)
        else:
            pool, positions = _join([as_pool(data) for data in self.clients])
        if not len(positions):
            raise DataError("a task needs at least one client, got none")
        splits = Splits(positions, validation, holdout, seed)
        return PreparedTask(self.model, as_loss(self.loss, self.metric), pool, splits, test)


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task whose data lies in one pool, split and ready to train on."""

    model: Callable[[], nn.Module]
    loss: Loss
    pool: Pool
    splits: Splits
    test: Pool

    @property
    def sizes(self) -> list[int]:
        """Training examples of each client."""
        return self.splits.sizes

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits, others for other data: of shapes, and a thousand rows from all over each part."""
        hasher = hashlib.sha256()
        positions = self.splits.positions
        parts = (self.pool.inputs, self.pool.targets, self.test.inputs, self.test.targets)
        for one in (*parts, positions.flat, positions.bounds):
            some = one[:: max(1, len(one) // 1000)].contiguous().cpu().reshape(-1)
            hasher.update(f"{one.dtype}{tuple(one.shape)}".encode())
            hasher.update(some.view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()[:12]

    def on(self, device: torch.device) -> "PreparedTask":
        """The same task with its data in the memory of a device; a pool that is both for training and test stays one.

        Where clients' examples stand in the pool is asked for on the CPU.
        """
        pool = self.pool.on(device)
        return replace(self, pool=pool, test=pool if self.test is self.pool else self.test.on(device))

    @property
    def elsewhere(self) -> bool:
        """Whether all clients' data are on devices of their own, and none of it here."""
        return not len(self.splits.positions.flat)


def split(positions: Tensor, validation: float, holdout: float, seed: int, client: int) -> Split:
    """Cut one client's examples into training, validation and held-out parts, at random from the seed.

    A part with a positive share gets at least one example as long as two are left for the others; a client with a
    single example trains on it.
    """
    shuffled = positions[torch.randperm(len(positions), generator=generator(seed, "split", client=client))]
    kept, held = _sizes(len(positions), validation, holdout)
    return Split(shuffled[held + kept :], shuffled[held : held + kept], shuffled[:held])


def _sizes(examples: int, validation: float, holdout: float) -> tuple[int, int]:
    """How many of a client's examples are kept for decisions, and how many for evaluation."""
    kept, held = (
        min(max(1, round(share * examples)), max(0, examples - 2)) if share > 0 else 0
        for share in (validation, holdout)
    )
    return min(kept, max(0, examples - held - 1)), held


def as_pool(data: Data) -> Pool:
    """Bring a pair of tensors or a data set into the form of a pool.

    Raises:
        DataError: Its items are not ``(input, target)`` pairs of equal shape.
    """
    if isinstance(data, Pool):
        return data
    if isinstance(data, tuple):
        return Pool(*data)
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
        return Pool(*data.tensors)
    try:
        pairs = [data[position] for position in range(len(data))]
        inputs = torch.stack([torch.as_tensor(one) for one, _ in pairs]) if pairs else torch.empty(0)
        targets = torch.stack([torch.as_tensor(one) for _, one in pairs]) if pairs else torch.empty(0)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise DataError(f"a data set must give (input, target) tensors of one shape; {error}") from error
    return Pool(inputs, targets)


def _join(pools: list[Pool]) -> tuple[Pool, Ragged]:
    """Concatenate the clients' pools, and say where each came to lie."""
    filled = [pool for pool in pools if len(pool)]
    if not filled:
        raise DataError("the clients of a task need at least one example in all, got none")
    for what in ("inputs", "targets"):
        shapes = {tuple(getattr(pool, what).shape[1:]) for pool in filled}
        if len(shapes) > 1:
            raise DataError(f"the {what} of all clients must have one shape, got {sorted(shapes)}")
    bounds = torch.tensor([0] + [len(pool) for pool in pools]).cumsum(0)
    joined = Pool(
        torch.cat([pool.inputs for pool in filled]), torch.cat([pool.targets for pool in filled]), filled[0].prepare
    )
    return joined, Ragged(torch.arange(len(joined)), bounds)


def _class_numbers(targets: Tensor) -> Tensor:
    """Class numbers may be stored small; losses want int64."""
    return targets.long() if targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) else targets
