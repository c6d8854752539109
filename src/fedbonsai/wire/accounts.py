"""What the bytes of a message are spent on, and what a plain message would have cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedbonsai.wire.frame import (
    CHECKS_LENGTH,
    HEADER_LENGTH,
    SUPPORT_STREAMS,
    VALUE_STREAMS,
    Frame,
    read_frame,
)
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.records import Code, Record, write_records
from fedbonsai.wire.streams import LARGE, TEXT, Directory, squeeze, write_text
from fedbonsai.wire.table import Entry, Facts, Section, Table

_ANY = Limits(max_bytes=2**62, max_parameters=2**62)


@dataclass(frozen=True)
class Account:
    """Bytes of a message by kind; the three add up to its length.

    Attributes:
        values: Of values.
        supports: Of supports.
        overhead: Of the header, the table (names, shapes, lengths) and checksums.
        groups: The same three by group; the header and the facts belong to none of them.
    """

    values: int
    supports: int
    overhead: int
    groups: Mapping[str, tuple[int, int, int]]


def account(data: bytes | memoryview, limits: Limits = _ANY) -> Account:
    """Say what the bytes of a message are spent on.

    No tensor is read, nor its checksum computed, so that models of any size are within the default limits. The table
    is compressed as a whole; its groups share it by their length before that.

    Raises:
        WireError: It is not a message, or passes the limits.
    """
    return account_of(read_frame(data, limits, verify=False))


def account_of(frame: Frame) -> Account:
    """The same of a message that has been taken apart."""
    groups = {}
    for section in frame.table.sections:
        supports, values = (
            sum(stream.length for stream in section.streams[part]) for part in (SUPPORT_STREAMS, VALUE_STREAMS)
        )
        groups[section.name] = values, supports, CHECKS_LENGTH + _share(section, frame)
    values, supports = (sum(split[at] for split in groups.values()) for at in (0, 1))
    length = frame.header + sum(CHECKS_LENGTH + section.length for section in frame.table.sections)
    return Account(values, supports, length - values - supports, groups)


def dense_length(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of a message with one group of whole float32 tensors: what plain FedAvg moves.

    Examples:
        >>> dense_length({"w": (1000, 1000)})
        4000090
    """
    entries = tuple(Entry(name, 0, tuple(shape), 0) for name, shape in shapes.items())
    sizes = [4 * math.prod(shape) for shape in shapes.values()]
    pool = sum(size for size in sizes if size < LARGE)
    values = Directory(pool, pool, tuple(size for size in sizes if size >= LARGE))
    whole = write_records([Record(Code.WHOLE)] * len(entries), list(shapes.values()))
    records, none = write_text(whole).directory, Directory(0, 0, ())
    section = Section("weights", entries, (records, none, none, none, values))
    table = squeeze(Table(Facts(), (section,)).write(), TEXT)
    return HEADER_LENGTH + len(table) + CHECKS_LENGTH + section.length


def _share(section: Section, frame: Frame) -> int:
    coded = frame.header - HEADER_LENGTH
    return coded * section.raw // frame.raw
