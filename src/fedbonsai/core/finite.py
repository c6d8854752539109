"""Whether numbers are numbers."""

import math

from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether none of them is NaN or infinite.

    The largest and the smallest are NaN where one is, and take one pass to find; ``isfinite`` takes several.

    Examples:
        >>> import torch
        >>> all_finite(torch.tensor([1.0, 2.0])), all_finite(torch.tensor([1.0, torch.nan, 2.0]))
        (True, False)
    """
    if not values.numel() or not values.dtype.is_floating_point:
        return True
    least, most = values.aminmax()
    return math.isfinite(least) and math.isfinite(most)
