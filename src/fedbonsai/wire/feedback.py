"""Error feedback: what a lossy coding drops from one message is added to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbonsai.core.message import Group, Part
from fedbonsai.wire.bits import key_of
from fedbonsai.wire.limits import Budget
from fedbonsai.wire.streams import Array, Sink, Source, StreamReader, write_stored
from fedbonsai.wire.values import EXACT, Coding, choose, read_values, setting, write_values

_ENOUGH = 64
"""Bytes a value that reading back takes at most."""


@dataclass(frozen=True)
class Origin:
    """Which message a group is part of; its random numbers follow from that.

    Attributes:
        round: The message's round.
        client: The message's client.
        group: The group's name.
    """

    round: int = 0
    client: int = 0
    group: str = "weights"


_FIRST = Origin()


def compensate(
    group: Group, residual: Mapping[str, Tensor], values: str, origin: Origin = _FIRST
) -> tuple[dict[str, Part], dict[str, Tensor]]:
    """Add what earlier messages dropped, and find what coding this group will drop.

    Args:
        group: What is to be sent.
        residual: What was dropped so far, by tensor: whole tensors; one that is missing is zero.
        values: The coding that the message will be encoded with.
        origin: The message that the group will be part of: a dither depends on it.

    Returns:
        The group to encode instead, and the residual for the next time. Where nothing is present
        the residual stays as it was.

    Raises:
        ConfigError: There is no such coding.

    Examples:
        >>> from fedbonsai.core.message import group
        >>> weights = group({"w": torch.linspace(-1, 1, 100).reshape(10, 10)})
        >>> sent, left = compensate(weights, {}, "sign")
        >>> bool(left["w"].abs().max() > 0.4)
        True
    """
    wanted = setting(values)
    sent, left = {}, {}
    for name, part in group.items():
        before = residual.get(name)
        own = part if before is None else _plus(part, before)
        key = key_of(origin.round, origin.client, origin.group, name)
        dropped = own.values - received(own, wanted, key)
        if before is None:
            before = torch.zeros(part.support.shape, dtype=dropped.dtype)
        absent = before - part.support.apply(before)
        sent[name], left[name] = own, absent + part.support.scatter(dropped)
    return sent, left


def received(part: Part, wanted: Coding, key: int) -> Tensor:
    """The values that a receiver of ``part`` will read."""
    coding = choose(part, wanted)
    if coding in EXACT:
        return part.values
    sink = Sink()
    write_values(part.values, coding, key, sink)
    budget = Budget(_ENOUGH * part.support.count)
    readers = [_reread(pieces, budget) for pieces in (sink.symbols, sink.rest)]
    source = Source(readers[0], readers[1], budget)
    return read_values(int(coding), part.values.dtype, part.support.count, key, source)


def _reread(pieces: list[Array], budget: Budget) -> StreamReader:
    stream = write_stored(pieces)
    data = memoryview(b"".join(stream.blocks))
    return StreamReader(data, stream.directory, "residual", budget, lambda _: None)


def _plus(part: Part, residual: Tensor) -> Part:
    return Part(part.values + part.support.gather(residual), part.support)
