"""What is to be learned: a model, a loss, every client's data and a test set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedbonsai.core.errors import DataError
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

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at ``positions``, ready for the model."""
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
        positions: With a shared pool: the examples of each client.

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
            nothing = torch.empty(0, dtype=torch.int64)
            splits = [Split(nothing, nothing, nothing)] * self.clients
            return PreparedTask(self.model, as_loss(self.loss, self.metric), test, tuple(splits), test)
        if isinstance(self.clients, Pool):
            pool = self.clients
            positions = [torch.arange(len(pool))] if self.positions is None else list(self.positions)
        else:
            pool, positions = _join([as_pool(data) for data in self.clients])
        if not positions:
            raise DataError("a task needs at least one client, got none")
        splits = [split(own, validation, holdout, seed, client) for client, own in enumerate(positions)]
        return PreparedTask(self.model, as_loss(self.loss, self.metric), pool, tuple(splits), test)


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task whose data lies in one pool, split and ready to train on."""

    model: Callable[[], nn.Module]
    loss: Loss
    pool: Pool
    splits: tuple[Split, ...]
    test: Pool

    @property
    def sizes(self) -> list[int]:
        """Training examples of each client."""
        return [len(one.train) for one in self.splits]

    @property
    def elsewhere(self) -> bool:
        """Whether all clients' data are on devices of their own, and none of it here."""
        return not any(self.sizes)


def split(positions: Tensor, validation: float, holdout: float, seed: int, client: int) -> Split:
    """Cut one client's examples into training, validation and held-out parts, at random from the seed.

    A part with a positive share gets at least one example as long as two are left for the others; a client with a
    single example trains on it.
    """
    shuffled = positions[torch.randperm(len(positions), generator=generator(seed, "split", client=client))]

    def size(share: float) -> int:
        return min(max(1, round(share * len(positions))), max(0, len(positions) - 2)) if share > 0 else 0

    held, kept = size(holdout), size(validation)
    kept = min(kept, max(0, len(positions) - held - 1))
    return Split(shuffled[held + kept :], shuffled[held : held + kept], shuffled[:held])


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


def _join(pools: list[Pool]) -> tuple[Pool, list[Tensor]]:
    """Concatenate the clients' pools, and say where each came to lie."""
    filled = [pool for pool in pools if len(pool)]
    if not filled:
        raise DataError("the clients of a task need at least one example in all, got none")
    for what in ("inputs", "targets"):
        shapes = {tuple(getattr(pool, what).shape[1:]) for pool in filled}
        if len(shapes) > 1:
            raise DataError(f"the {what} of all clients must have one shape, got {sorted(shapes)}")
    bounds = torch.tensor([0] + [len(pool) for pool in pools]).cumsum(0).tolist()
    joined = Pool(
        torch.cat([pool.inputs for pool in filled]), torch.cat([pool.targets for pool in filled]), filled[0].prepare
    )
    return joined, [torch.arange(start, end) for start, end in pairwise(bounds)]


def _class_numbers(targets: Tensor) -> Tensor:
    """Class numbers may be stored small; losses want int64."""
    return targets.long() if targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) else targets
