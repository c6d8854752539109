"""The format for use outside the library: named arrays and masks as bytes, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire.decoder import decode
from fedbonsai.wire.encoder import encode
from fedbonsai.wire.errors import FieldError, require
from fedbonsai.wire.limits import Limits

AnyArray = Tensor | NDArray[Any]

_GROUP = "tensors"
_STAGES = ("numpy", "torch")


def dumps(
    tensors: Mapping[str, AnyArray],
    masks: Mapping[str, AnyArray] | None = None,
    values: str = "fp32",
) -> bytes:
    """Write named arrays; what is outside a mask is left out.

    Args:
        tensors: NumPy arrays or torch tensors by name, of any shape.
        masks: Bool arrays by name, of their tensor's shape: True = present. Without one, all is.
        values: How values are coded, see `encode`.

    Raises:
        ConfigError: There is no such coding.
        SupportError: A mask is not bool, or does not fit its tensor.
        WireError: A type that the format has not, such as complex numbers.

    Examples:
        >>> data = dumps({"w": np.arange(4.0)}, {"w": np.array([True, False, True, False])})
        >>> tensors, masks = loads(data)
        >>> tensors["w"]
        array([0., 0., 2., 0.])
        >>> masks["w"]
        array([ True, False,  True, False])
    """
    supports = {name: Support.masked(_tensor(name, mask)) for name, mask in (masks or {}).items()}
    if strangers := supports.keys() - tensors.keys():
        raise SupportError(f"each mask needs a tensor of its name, got masks for {sorted(strangers)}")
    torches = any(isinstance(one, Tensor) for one in tensors.values())
    parts = group({name: _tensor(name, one) for name, one in tensors.items()}, supports)
    return encode(Message({_GROUP: parts}, stage=_STAGES[torches]), values=values)


def loads(
    data: bytes | memoryview, max_parameters: int = Limits.max_parameters
) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
    """Read what `dumps` wrote.

    Args:
        data: What came in, from anyone.
        max_parameters: Refuse more values than this, all arrays together.

    Returns:
        The arrays by name, zero outside their masks; and the masks of those that are not whole.
        Both are torch tensors if a torch tensor was written, else NumPy arrays.

    Raises:
        WireError: The bytes are not what `dumps` wrote, or pass the limit.
    """
    message = decode(data, limits=Limits(max_parameters=max_parameters))
    fits = message.stage in _STAGES and list(message.groups) == [_GROUP]
    require(fits, FieldError, "table", "must be what dumps wrote, not a message of a run")
    tensors: dict[str, AnyArray] = dict(message.dense(_GROUP))
    masks: dict[str, AnyArray] = {name: support.indicator() for name, support in message.supports(_GROUP).items()}
    if message.stage == "torch":
        return tensors, masks
    return _arrays(tensors), _arrays(masks)


def _arrays(tensors: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    return {name: np.asarray(one) for name, one in tensors.items()}


def _tensor(name: str, array: AnyArray) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(np.shape(array)))
    except TypeError as error:
        raise FieldError(f"array {name!r}", str(error)) from None
