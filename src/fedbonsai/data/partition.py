"""How examples spread over clients: which positions of the training pool each client holds.

The schemes are in `fedbonsai.data.schemes`; any partitioner object of ``flwr-datasets`` is
accepted as well.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from fedbonsai.core.errors import ConfigError, DataError, lookup
from fedbonsai.core.ragged import Ragged
from fedbonsai.core.seeds import seed_of
from fedbonsai.data.dataset import Dataset
from fedbonsai.data.extras import require
from fedbonsai.data.info import SCHEMES
from fedbonsai.data.schemes import Positions, dirichlet, iid, natural, shards


@runtime_checkable
class Partitioner(Protocol):
    """A partitioner of ``flwr-datasets``.

    It also has a settable ``dataset`` and a ``num_partitions``. They are not listed, because
    both compute, and may fail, when Python 3.11 looks whether an object has them.
    """

    def load_partition(self, partition_id: int) -> Any:  # noqa: ANN401 - a datasets.Dataset
        """The rows of one client."""


@dataclass(frozen=True)
class Options:
    """What the schemes can be told.

    Attributes:
        concentration: Of the Dirichlet distribution, positive; small values give clients few
            classes, large ones approach equal shares.
        shards: Shards that each client gets.
        min_size: Fewest examples that a client may get from a Dirichlet draw; by default one to
            train on and one to validate on.

    Raises:
        ConfigError: A value is out of range.
    """

    concentration: float = 0.5
    shards: int = 2
    min_size: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.concentration < math.inf:
            raise ConfigError(f"concentration must be positive and finite, got {self.concentration}")
        if self.shards < 1 or self.min_size < 1:
            raise ConfigError(f"shards and min_size must be at least 1, got {self.shards} and {self.min_size}")


DEFAULT_OPTIONS = Options()


def partition(
    dataset: Dataset,
    scheme: str | Partitioner,
    clients: int | None,
    seed: int,
    options: Options = DEFAULT_OPTIONS,
) -> Ragged:
    """Say which training examples each client holds.

    Args:
        dataset: The data set; its labels or client ids decide, where the scheme asks for them.
        scheme: A name of ``SCHEMES``, or a partitioner object of ``flwr-datasets``, which sees
            the columns ``label`` and ``client_id`` as far as the data set has them.
        clients: Number of clients. ``natural`` takes the ids with the most examples; None takes
            all of them, or as many as a partitioner object gives.
        seed: The seed of the run. It does not matter to ``natural`` and to partitioner objects.
        options: Settings of the schemes.

    Returns:
        For each client the positions of its examples, int64, increasing, at least one.

    Raises:
        ConfigError: The scheme is not known, needs what the data set lacks, or cannot serve so
            many clients.
        DataError: A client of a partitioner object has no examples.

    Examples:
        >>> from fedbonsai.data.load import load
        >>> parts = partition(load("digits"), "iid", clients=20, seed=0)
        >>> len(parts), len(parts[0])
        (20, 72)
    """
    if clients is not None and not 1 <= clients <= len(dataset.train):
        raise ConfigError(
            f"clients must be 1 to {len(dataset.train)}, the training examples of {dataset.name!r}, got {clients}"
        )
    if isinstance(scheme, str):
        positions = _by_name(dataset, scheme, clients, seed, options)
    else:
        positions = _by_partitioner(dataset, scheme, clients)
    return Ragged.of(torch.from_numpy(np.sort(own)) for own in positions)


def _by_name(dataset: Dataset, scheme: str, clients: int | None, seed: int, options: Options) -> Positions:
    lookup("partition", scheme, list(SCHEMES))
    if scheme == "natural":
        return natural(_present(dataset.natural, "client ids", dataset.name), clients)
    if clients is None:
        raise ConfigError(f"partition {scheme!r} needs a number of clients, got none; give one")
    rng = np.random.default_rng(seed_of(seed, "partition"))
    if scheme == "iid":
        return iid(len(dataset.train), clients, rng)
    labels = _present(dataset.labels, "labels", dataset.name)
    if scheme == "shards":
        return shards(labels, clients, rng, options.shards)
    return dirichlet(labels, clients, rng, options.concentration, options.min_size)


def _present(values: np.ndarray | None, what: str, name: str) -> np.ndarray:
    if values is None:
        raise ConfigError(f"this partition needs {what}, but data set {name!r} has none; choose another partition")
    return values


def _by_partitioner(
    dataset: Dataset,
    partitioner: Any,  # noqa: ANN401 - sets an attribute that the protocol cannot list
    clients: int | None,
) -> Positions:
    columns = {"label": dataset.labels, "client_id": dataset.natural}
    rows = {name: values for name, values in columns.items() if values is not None}
    rows["position"] = np.arange(len(dataset.train))
    kind = type(partitioner).__name__
    try:
        partitioner.dataset = require("datasets").Dataset.from_dict(rows)
        parts = [partitioner.load_partition(one) for one in range(partitioner.num_partitions)]
    except (ValueError, LookupError) as error:
        raise ConfigError(
            f"a fresh {kind} must be able to spread data set {dataset.name!r} by the columns {', '.join(rows)}; {error}"
        ) from error
    positions = [np.array(part["position"][:], dtype=np.int64) for part in parts]
    empty = [client for client, own in enumerate(positions) if not len(own)]
    if empty:
        raise DataError(f"each client of a {kind} must get examples, got none for {empty}")
    if clients not in (None, len(positions)):
        raise ConfigError(f"clients must be {len(positions)}, as the {kind} says, got {clients}")
    return positions
