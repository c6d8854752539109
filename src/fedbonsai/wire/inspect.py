"""A message as a text for people: its tensors, its sizes, and how far it is from its limit."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedbonsai.core.errors import UnknownSupport
from fedbonsai.core.message import Message
from fedbonsai.wire.accounts import account
from fedbonsai.wire.decoder import read_message
from fedbonsai.wire.frame import Frame, read_frame
from fedbonsai.wire.information import entropy_limit, support_limit
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.table import STREAMS, Entry, Facts
from fedbonsai.wire.values import TYPES, Coding

_DEFAULT = Limits()

_Sizes = dict[tuple[str, int], tuple[int, float]]
"""Bytes before compression and their entropy, by group and number of the stream."""


def describe(data: bytes, limits: Limits = _DEFAULT) -> str:
    """What a message holds, what it costs, and how far each of its streams is from its limit.

    The limit of a stream is the order-0 entropy of each of its pieces; that of supports is
    log2 C(n, k). Supports that a message only refers to are not known here: neither are their
    counts, nor the limits.

    Raises:
        WireError: It is not a message, or passes the limits.
    """
    frame, spent = read_frame(data, limits), account(data, limits)
    sizes: _Sizes = defaultdict(lambda: (0, 0.0))
    message = _decoded(frame, sizes)
    kinds = f"values {spent.values}, supports {spent.supports}, overhead {spent.overhead} bytes"
    tensors: list[tuple[str, ...]] = [("group", "tensor", "type", "shape", "present", "values")]
    for section in frame.table.sections:
        tensors.extend(_tensor(section.name, entry, message) for entry in section.entries)
    streams: list[tuple[str, ...]] = [("group", "stream", "raw", "bytes", "limit", "over")]
    streams.extend(_streams(frame, sizes if message else None))
    if message:
        streams.extend(_supports(message, spent.groups))
    tables = [*_columns(tensors), "", *_columns(streams)]
    return "\n".join([_facts(frame.table.facts, len(data)), kinds, "", *tables])


def _decoded(frame: Frame, sizes: _Sizes) -> Message | None:
    def watch(group: str, number: int, piece: NDArray[np.uint8]) -> None:
        raw, limit = sizes[group, number]
        sizes[group, number] = raw + piece.size, limit + entropy_limit(piece)

    try:
        return read_message(frame, {}, {}, lambda group: partial(watch, group))
    except UnknownSupport:
        return None


def _facts(facts: Facts, length: int) -> str:
    numbers = "".join(f", {name} {value:g}" for name, value in facts.numbers.items())
    note = f", note {facts.note!r}" if facts.note else ""
    head = f"{facts.stage}, round {facts.round}, client {facts.client}, weight {facts.weight:g}"
    return f"{head}{numbers}{note}: {length} bytes"


def _tensor(group: str, entry: Entry, message: Message | None) -> tuple[str, ...]:
    present = str(message.groups[group][entry.name].support.count) if message else "?"
    kind = str(TYPES[entry.type]).removeprefix("torch.")
    known = entry.coding in list(Coding)
    coding = Coding(entry.coding).name.lower() if known else str(entry.coding)
    shape, numel = "x".join(map(str, entry.shape)), math.prod(entry.shape)
    return group, entry.name, kind, shape, f"{present}/{numel}", coding


def _streams(frame: Frame, sizes: _Sizes | None) -> Iterator[tuple[str, ...]]:
    for section in frame.table.sections:
        for number, (name, directory) in enumerate(zip(STREAMS, section.streams, strict=True)):
            if not directory.length:
                continue
            if sizes is None or not number:
                yield section.name, name, "", str(directory.length), "", ""
                continue
            raw, limit = sizes[section.name, number]
            yield section.name, name, str(raw), *_distance(directory.length, limit)


def _supports(message: Message, spent: Mapping[str, tuple[int, int, int]]) -> Iterator[tuple[str, ...]]:
    for name, group in message.groups.items():
        limit = sum(support_limit(part.support) for part in group.values())
        yield name, "supports", "", *_distance(spent[name][1], limit)


def _distance(length: int, limit: float) -> tuple[str, str, str]:
    """Bytes, their limit, and by how much they are over it."""
    over = f"{100 * (length / limit - 1):+.2f} %" if limit >= 1 else ""
    return str(length), f"{limit:.0f}", over


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines with columns under each other; all but the first two are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
