"""A data set in memory."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.errors import DataError
from fedbonsai.data.info import Defaults
from fedbonsai.learning.task import Pool


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to spread over clients, and others to test the global model on.

    Attributes:
        name: What it was asked for by.
        loss: Name of the loss.
        classes: Number of classes or tokens; 1 for regression.
        input_shape: Shape of one prepared example: ``(channels, height, width)`` of an image,
            ``(time,)`` of a text, ``(columns,)`` of a table.
        train: The training examples of all clients.
        test: The test examples; no client has them.
        defaults: Settings of a run that nobody has set.
        labels: Class of each training example, for partitions by label; None where there is none.
        natural: Id of the client that each training example belongs to; None where there is none.
    """

    name: str
    loss: str
    classes: int
    input_shape: tuple[int, ...]
    train: Pool
    test: Pool
    defaults: Defaults
    labels: np.ndarray | None = None
    natural: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.test):
            raise DataError(
                f"data set {self.name!r} needs training and test examples, got {len(self.train)} and {len(self.test)}"
            )
        shapes = [tuple(pool.inputs.shape[1:]) for pool in (self.train, self.test)]
        if shapes != [self.input_shape] * 2:
            raise DataError(f"examples of {self.name!r} must have one shape, {self.input_shape}, got {shapes}")


@dataclass(frozen=True)
class Standardise:
    """Raw values to float32 with mean 0 and deviation 1.

    Attributes:
        mean: Mean of the raw values, one a channel (or column).
        std: Their standard deviation, one a channel (or column); positive.

    Examples:
        >>> import torch
        >>> Standardise(mean=(10.0,), std=(5.0,))(torch.tensor([[[[10, 20]]]], dtype=torch.uint8))
        tensor([[[[0., 2.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, raw: Tensor) -> Tensor:
        """Standardise a batch of shape ``(batch, channels, ...)``."""
        values = raw.float()
        mean, std = _by_channel(self.mean, raw.dim()), _by_channel(self.std, raw.dim())
        if values is raw:
            return (values - mean) / std
        return values.sub_(mean).div_(std)


@lru_cache(maxsize=64)
def _by_channel(values: tuple[float, ...], dimensions: int) -> Tensor:
    """One value a channel, shaped to meet a batch; made once, not in every step."""
    return torch.tensor(values).reshape((-1,) + (1,) * (dimensions - 2))


def token_numbers(raw: Tensor) -> Tensor:
    """Tokens that are stored small, as the int64 that an embedding wants."""
    return raw.long()
