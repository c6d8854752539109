"""How operators and the tensors among their arguments are found."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedbonsai.sparsity.channels.atoms import Labels


def words(text: str) -> list[str]:
    """Names, as they are written in tables of many."""
    return text.split()


ASKS = frozenset(
    words(
        "__bool__ __float__ __int__ __index__ __complex__ __contains__ item tolist numpy __array__ nonzero "
        "argwhere masked_select unique unique_consecutive bincount equal allclose is_nonzero"
    )
)
"""Operators whose answer, or its shape, depends on values: a model that asks may go another way with other data."""


def spelled(func: Any) -> str:  # noqa: ANN401
    """The name of an operator: one for the function, the method, the operator sign and what works in place."""
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        return str(func.__self__.__name__)
    if name in ASKS or not name.startswith("__"):
        return name if name in ASKS else name.removesuffix("_")
    name = name.strip("_")
    return name[1:] if name[:1] in ("r", "i") and name[1:] in SIGNS else name


SILENT = frozenset(
    words("shape size dim ndim dtype device layout is_nested requires_grad is_floating_point numel grad")
)
"""What code asks of a tensor without using its values."""
SIGNS = frozenset(words("add sub mul div truediv floordiv mod pow matmul and or xor lshift rshift"))


def flat(value: object) -> Iterator[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (one for part in value.values() for one in flat(part))
    elif isinstance(value, tuple | list):
        yield from (one for part in value for one in flat(part))


def by_mask(index: object) -> bool:
    """Whether an index picks by truth values, so that how much it picks depends on them."""
    parts: Iterable[object] = index if isinstance(index, tuple) else (index,)
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in parts)


def same(labels: Labels) -> bool:
    """Whether a dimension has no channels."""
    return not bool(np.any(labels >= 0))
