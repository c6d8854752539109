"""A model as Flower carries it: an ArrayRecord of whole tensors, and one blob of bytes that says the same in less."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from fedbonsai import wire
from fedbonsai.core.errors import ClientError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.federated.traffic import by_digest, masks, message_limits

STYPE = "fedbonsai.blob.v1"
"""Serialisation type of an Array whose data is a message of docs/wire-format.md."""

LARGEST = 2**28
"""Values of a model that a client is willing to receive."""

_BLOB, _WEIGHTS = "blob", "weights"
_FINITE = "values must be finite, got NaN or infinity"
_CLIENT_LIMITS = wire.Limits(max_bytes=2**35, max_parameters=LARGEST, max_tensors=2**16, max_groups=1)


@dataclass(frozen=True)
class Model:
    """What a project's ArrayRecord looks like.

    Attributes:
        shapes: Shape of each tensor by name, in the order of the record.
        dtypes: Its NumPy type, by name.
        infinite: Tensors that are not finite from the start, such as the mask of an attention.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    infinite: frozenset[str] = frozenset()

    @staticmethod
    def of(record: ArrayRecord) -> "Model":
        """Read what a record looks like, without its values."""
        shapes = {name: tuple(one.shape) for name, one in record.items()}
        return Model(shapes, {name: one.dtype for name, one in record.items()})

    @property
    def layout(self) -> Layout:
        """The tensors; floats of two or more dimensions can be pruned."""
        floats = {name for name, dtype in self.dtypes.items() if np.dtype(dtype).kind == "f"}
        return Layout(
            tuple(Slot(name, shape, name in floats and len(shape) >= 2) for name, shape in self.shapes.items())
        )

    def fits(self, record: ArrayRecord) -> bool:
        """Whether a record has these tensors, in whatever order and type."""
        return {name: tuple(one.shape) for name, one in record.items()} == dict(self.shapes)

    def require_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse NaN and infinity.

        Raises:
            ClientError: A tensor that is finite from the start has one.
        """
        for name, one in tensors.items():
            if name not in self.infinite and not bool(one.isfinite().all()):
                raise ClientError(f"{name}: {_FINITE}")

    def tensors(self, record: ArrayRecord) -> dict[str, Tensor]:
        """The values of a record that fits, in this order and these types; means of integers are rounded.

        Averaging makes floats of counters such as batch norm's, and the next load into a module would cut them down.

        Raises:
            ClientError: A value that is to be an integer is not finite.
        """
        return {
            name: torch.from_numpy(_cast(record[name].numpy(), np.dtype(dtype))) for name, dtype in self.dtypes.items()
        }


def record_of(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """The record that ``ArrayRecord(state_dict)`` makes of whole tensors."""
    return ArrayRecord({name: Array(one.numpy()) for name, one in tensors.items()})


def plain_length(record: ArrayRecord) -> int:
    """Bytes that Flower sends for the arrays of a record."""
    return sum(len(one.data) for one in record.values())


def packed(
    tensors: Mapping[str, Tensor], supports: Mapping[str, Support], values: str, note: str = "", *, known: bool = False
) -> ArrayRecord:
    """A record with one blob: the values on their supports; a tensor without one travels whole.

    Args:
        tensors: The tensors.
        supports: Where they are present.
        values: How values are coded.
        note: Travels along.
        known: Whether the receiver holds the masks, so that they are referred to.
    """
    message = Message({_WEIGHTS: group(tensors, supports)}, note=note)
    data = wire.encode(message, values=values, held=by_digest(masks(message)) if known else None)
    return ArrayRecord({_BLOB: Array("uint8", (len(data),), STYPE, data)})


def blob_of(record: ArrayRecord) -> bytes | None:
    """The bytes of a record that `packed` made; None for any other."""
    if list(record) != [_BLOB] or record[_BLOB].stype != STYPE:
        return None
    return record[_BLOB].data


def read_task(data: bytes) -> Message:
    """Read what a server has packed; its group is called ``weights``.

    Raises:
        WireError: It is no message, or too large.
        ClientError: It is another message.
    """
    return _weights_alone(wire.decode(data, limits=_CLIENT_LIMITS))


def read_update(data: bytes, model: Model, supports: Mapping[str, Support]) -> dict[str, Tensor]:
    """Read what a client has packed, trusting nothing: whole tensors, zero off their masks.

    Args:
        data: What came in.
        model: The model that it must be.
        supports: The supports that it must have.

    Raises:
        WireError: It is no message, or of another model.
        ClientError: It cannot be used; the message says why.
    """
    size = sum(slot.numel for slot in model.layout.slots)
    tensors = len(model.shapes)
    limits = replace(message_limits(size), max_parameters=size, max_tensors=tensors, max_groups=1, schema=model.shapes)
    parts = _weights_alone(wire.decode(data, limits=limits, held=by_digest(supports.values()))).groups[_WEIGHTS]
    if list(parts) != list(model.shapes):
        raise ClientError(f"an answer must have the tensors {_few(model.shapes)}, got {_few(parts)}")
    for name, part in parts.items():
        if part.support != supports.get(name, Support.dense(model.shapes[name])):
            raise ClientError(f"{name}: an answer must have the mask that was sent, got another")
        if str(part.values.dtype) != f"torch.{model.dtypes[name]}":
            raise ClientError(f"{name}: the model here has type {model.dtypes[name]}, got {part.values.dtype}")
    model.require_finite({name: part.values for name, part in parts.items()})
    return {name: part.dense() for name, part in parts.items()}


def _weights_alone(message: Message) -> Message:
    if list(message.groups) != [_WEIGHTS]:
        raise ClientError(f"a message must have the group {_WEIGHTS} alone, got {_few(message.groups)}")
    return message


def _few(names: Mapping[str, object]) -> str:
    shown = ", ".join(list(names)[:5])
    return f"{shown}, ... ({len(names)})" if len(names) > 5 else shown or "none"


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if values.dtype == dtype:
        return values
    if dtype.kind == "f":
        return values.astype(dtype)
    if not np.isfinite(values).all():
        raise ClientError(f"integers: {_FINITE}")
    return np.asarray(np.rint(values)).astype(dtype)
