"""What the supports of a message may refer to: held ones, seeds, earlier ones of the message."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fedbonsai.core.support import Support
from fedbonsai.wire.bits import mix
from fedbonsai.wire.references import Held


@dataclass
class Register:
    """Supports in the order in which they stood in a message, found again by their digest."""

    supports: list[Support] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)

    def add(self, support: Support) -> None:
        """Put a support at the end, for a writer that will look for it."""
        self.places.setdefault(support.digest, len(self.supports))
        self.supports.append(support)


@dataclass
class Shelf:
    """What a writer of supports may refer to, filled while it writes.

    Attributes:
        held: Supports by digest that both sides hold.
        seeds: Seeds by the digest of the support that `seeded_support` makes of them.
        tensors: The supports of the message's tensors.
        lists: The index lists of its grids and products.
        used: Supports of ``held`` that a group refers to, in order.
        derived: Supports of a group that the reader will compute from others, in order.
    """

    held: Held = field(default_factory=dict)
    seeds: Mapping[bytes, int] = field(default_factory=dict)
    tensors: Register = field(default_factory=Register)
    lists: Register = field(default_factory=Register)
    used: list[Support] = field(default_factory=list)
    derived: list[Support] = field(default_factory=list)


def seeded_support(shape: Sequence[int], count: int, seed: int) -> Support:
    """A random mask of ``count`` coordinates that follows from a seed; it travels as the seed.

    Args:
        shape: Shape of the tensor.
        count: Number of present coordinates.
        seed: Unsigned, below 2^64.

    Examples:
        >>> seeded_support((8,), 3, seed=1).positions
        tensor([3, 4, 7])
    """
    if count == 0:
        return Support.at(shape, torch.empty(0, dtype=torch.int64))
    keys = mix(seed, math.prod(shape))
    last = np.partition(keys, count - 1)[count - 1]
    return Support.at(shape, torch.from_numpy(np.flatnonzero(keys <= last)))
