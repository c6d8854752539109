"""The partition schemes, in NumPy: each returns the positions that every client holds.

They mean what they mean in ``flwr-datasets`` and draw in the same order, so that an equal
generator gives equal positions.
"""

import numpy as np

from fedbonsai.core.errors import ConfigError

Positions = list[np.ndarray]
"""One list of positions a client."""

_DRAWS = 11
"""Draws from the Dirichlet distribution before giving up, as many as flwr-datasets makes."""


def iid(count: int, clients: int, rng: np.random.Generator) -> Positions:
    """Shuffle ``count`` examples and deal them out; sizes differ by at most one.

    Examples:
        >>> [len(own) for own in iid(10, 3, np.random.default_rng(0))]
        [4, 3, 3]
    """
    return np.array_split(rng.permutation(count), clients)


def dirichlet(
    labels: np.ndarray,
    clients: int,
    rng: np.random.Generator,
    concentration: float,
    min_size: int,
) -> Positions:
    """Spread each class over the clients in shares drawn from a symmetric Dirichlet distribution.

    The draw is repeated while a client has fewer than ``min_size`` examples.

    Raises:
        ConfigError: No draw gives every client enough.
    """
    classes = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    for _ in range(_DRAWS):
        cut = [_cut(own, rng.dirichlet(np.full(clients, concentration))) for own in classes]
        positions = [np.concatenate(own) for own in zip(*cut, strict=True)]
        if min(map(len, positions)) >= min_size:
            return positions
    raise ConfigError(
        f"each of {clients} clients must get at least {min_size} of {len(labels)} examples, but "
        f"{_DRAWS} draws from Dirichlet({concentration}) left one with fewer; take fewer clients, "
        "a larger concentration or a smaller min_size"
    )


def _cut(positions: np.ndarray, shares: np.ndarray) -> Positions:
    bounds = (np.cumsum(shares) * len(positions)).astype(int)[:-1]
    return np.split(positions, bounds)


def shards(labels: np.ndarray, clients: int, rng: np.random.Generator, per_client: int) -> Positions:
    """Sort by class, cut into equal shards, give every client ``per_client`` of them at random.

    The examples that are left over, fewer than there are shards, belong to nobody.

    Raises:
        ConfigError: There are fewer examples than shards.
    """
    dealt = clients * per_client
    size = len(labels) // dealt
    if not size:
        raise ConfigError(
            f"{clients} clients with {per_client} shards need at least {dealt} examples, "
            f"got {len(labels)}; take fewer clients or shards"
        )
    in_order = np.argsort(labels, kind="stable")
    chosen = rng.permutation(len(labels) // size)[:dealt].reshape(clients, per_client)
    return [np.concatenate([in_order[one * size : (one + 1) * size] for one in own]) for own in chosen]


def natural(ids: np.ndarray, clients: int | None = None) -> Positions:
    """Give each id to a client of its own, in the order of the ids.

    Args:
        ids: Id of the client that each example belongs to.
        clients: Keep only so many ids, those with the most examples (of equals, the first).

    Raises:
        ConfigError: There are fewer ids than ``clients``.

    Examples:
        >>> natural(np.array(["b", "a", "b", "c"]), clients=2)
        [array([1]), array([0, 2])]
    """
    names, owner, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    if clients is not None and clients > len(names):
        raise ConfigError(f"clients must be at most {len(names)}, the ids of the data set, got {clients}")
    kept = np.sort(np.argsort(-sizes, kind="stable")[:clients])
    # All ids in one sort, rather than a search through the owners for each.
    by_owner = np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    return [by_owner[one] for one in kept]
