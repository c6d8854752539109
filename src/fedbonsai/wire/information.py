"""The information limit: how few bytes a support or a stream of symbols could have taken."""

import math

import numpy as np
from numpy.typing import NDArray

from fedbonsai.core.support import Support


def subset_limit(size: int, count: int) -> float:
    """Bytes that name one set of ``count`` among ``size`` coordinates: log2 C(size, count) / 8.

    Examples:
        >>> round(subset_limit(10**6, 10**5))
        58623
    """
    nats = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return nats / math.log(2) / 8


def support_limit(support: Support) -> float:
    """Bytes of a support if all of its kind and counts were equally likely."""
    if support.index is None:
        return subset_limit(support.numel, support.count)
    axes = zip(support.shape, support.index, strict=True)
    return sum(subset_limit(size, one.numel()) for size, one in axes)


def entropy_limit(symbols: NDArray[np.uint8]) -> float:
    """Bytes that a code made for just these symbols, one by one, cannot go below.

    Examples:
        >>> entropy_limit(np.array([0, 0, 1, 1], np.uint8))
        0.5
    """
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float((counts * np.log2(symbols.size / counts)).sum()) / 8
