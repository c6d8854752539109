"""The first wire: a JSON table, then fp32 values and bit masks as they are. Lengths are checked before use.

Layout, little endian: ``b"FBW1"`` | u32 length of the table | table (JSON, UTF-8) | body. The table lists the message's
numbers and, a tensor, ``[group, name, shape, support]``; the support is ``"d"`` (dense), ``"m"`` (a bit mask) or a list
of index lists. The body holds, tensor by tensor in the order of the table, the packed mask (if any) and the values.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError, WireError
from fedbonsai.core.message import Message, Part
from fedbonsai.core.support import Support, pack_bits, unpack_bits

MAGIC = b"FBW1"
MAX_DIMS = 8


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts at most; checked before anything is allocated.

    Attributes:
        max_bytes: Length of a message.
        max_parameters: Coordinates of all tensors of all groups together, present or not.
        max_tensors: Tensors of all groups together.
        schema: Shape by tensor name; when given, every tensor must be in it.
    """

    max_bytes: int = 1 << 32
    max_parameters: int = 1 << 30
    max_tensors: int = 1 << 16
    schema: Mapping[str, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Account:
    """Where the bytes of a message went; the three sum to its length."""

    values: int
    supports: int
    overhead: int


def encode(message: Message) -> bytes:
    """Encode a message; its length is what it costs."""
    rows, body = [], []
    for group, parts in message.groups.items():
        for name, part in parts.items():
            support = part.support
            where: str | list[list[int]] = support.kind[0]
            if support.index is not None:
                where = [one.tolist() for one in support.index]
            rows.append([group, name, list(support.shape), where])
            if support.mask is not None:
                body.append(pack_bits(support.mask).numpy().tobytes())
            body.append(part.values.detach().to(torch.float32).numpy().tobytes())
    head = [message.stage, message.round, message.client, message.weight, message.note, dict(message.numbers)]
    table = json.dumps([head, rows], separators=(",", ":")).encode()
    return b"".join([MAGIC, struct.pack("<I", len(table)), table, *body])


def decode(data: bytes, *, limits: Limits | None = None) -> Message:
    """Decode a message.

    Args:
        data: The bytes, from anywhere.
        limits: What is accepted at most.

    Raises:
        WireError: The bytes are not a valid message, or are beyond the limits.
    """
    limits = limits or Limits()
    if len(data) > limits.max_bytes:
        raise WireError(f"a message must have at most {limits.max_bytes} bytes, got {len(data)}")
    head, rows, offset = _table(data)
    groups: dict[str, dict[str, Part]] = {}
    parameters = 0
    try:
        stage, turn, client, weight, note, numbers = head
        if len(rows) > limits.max_tensors:
            raise WireError(f"a message must have at most {limits.max_tensors} tensors, got {len(rows)}")
        for group, name, shape, where in rows:
            parameters += _checked(name, shape, limits)
            if parameters > limits.max_parameters:
                raise WireError(f"a message must have at most {limits.max_parameters} parameters, {name!r} goes beyond")
            if name in groups.setdefault(str(group), {}):
                raise WireError(f"{group}/{name}: a tensor must appear once")
            support, offset = _support(data, offset, tuple(shape), where)
            values, offset = _take(data, offset, 4 * support.count, "<f4")
            groups[group][name] = Part(values, support)
        message = Message(groups, _numbers(numbers), float(weight), int(turn), int(client), str(stage), str(note))
    except (TypeError, ValueError, KeyError, SupportError, OverflowError) as error:
        raise WireError(f"a message table must be well formed; {error}") from error
    if offset != len(data):
        raise WireError(f"a message must end with its last tensor, got {len(data) - offset} bytes more")
    return message


def account(data: bytes) -> Account:
    """Say where the bytes of an encoded message went."""
    message = decode(data)
    parts = [part for parts in message.groups.values() for part in parts.values()]
    values = sum(4 * part.support.count for part in parts)
    supports = sum(-(-part.support.numel // 8) for part in parts if part.support.mask is not None)
    return Account(values, supports, len(data) - values - supports)


def dense_length(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Length of a dense fp32 message of these tensors: what plain FedAvg moves one way."""
    empty = Message({"weights": {}})
    table = [["weights", name, list(shape), "d"] for name, shape in shapes.items()]
    values = 4 * sum(math.prod(shape) for shape in shapes.values())
    return len(encode(empty)) + len(json.dumps(table, separators=(",", ":"))) - 2 + values


def _table(data: bytes) -> tuple[list[Any], list[Any], int]:
    if len(data) < 8 or data[:4] != MAGIC:
        raise WireError(f"a message must begin with {MAGIC!r} and a length, got {bytes(data[:8])!r}")
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise WireError(f"the table must lie inside the message: {length} bytes announced, {len(data) - 8} there")
    try:
        head, rows = json.loads(data[8 : 8 + length])
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"the table must be JSON; {error}") from error
    if not isinstance(head, list) or not isinstance(rows, list):
        raise WireError("the table must be two lists")
    return head, rows, 8 + length


def _checked(name: str, shape: list[int], limits: Limits) -> int:
    """Return the number of coordinates of one tensor, in exact arithmetic."""
    fits = isinstance(name, str) and len(shape) <= MAX_DIMS and all(type(one) is int and one >= 0 for one in shape)
    if not fits:
        raise WireError(f"{name!r}: a tensor needs a name and at most {MAX_DIMS} sizes >= 0, got {shape!r:.80}")
    if limits.schema is not None and limits.schema.get(name) != tuple(shape):
        raise WireError(f"{name!r}: the model here has shape {limits.schema.get(name)}, the message {tuple(shape)}")
    return math.prod(shape)


def _support(data: bytes, offset: int, shape: tuple[int, ...], where: str | list[list[int]]) -> tuple[Support, int]:
    if where == "d":
        return Support.dense(shape), offset
    if where == "m":
        packed, offset = _take(data, offset, -(-math.prod(shape) // 8), "u1")
        return Support.masked(unpack_bits(packed, shape)), offset
    if isinstance(where, list):
        return Support.grid(shape, [torch.tensor(one, dtype=torch.int64) for one in where]), offset
    raise WireError(f"a support must be 'd', 'm' or index lists, got {where!r:.40}")


def _take(data: bytes, offset: int, length: int, dtype: str) -> tuple[Tensor, int]:
    if offset + length > len(data):
        raise WireError(f"byte {offset}: {length} bytes must follow, got {len(data) - offset}")
    array = np.frombuffer(data, dtype, length // np.dtype(dtype).itemsize, offset)
    return torch.from_numpy(array.copy()), offset + length


def _numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in numbers.items()}
