"""The table of a message: its facts, and the names, types, shapes and lengths of what follows."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fedbonsai.wire.errors import FieldError, LimitError, NumberError, require
from fedbonsai.wire.fields import Cursor, double, signed, text, unique, varint
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.streams import Directory
from fedbonsai.wire.values import TYPES

MAX_NUMBERS = 4096
"""Numbers that may travel along."""

MAX_DIMENSIONS = 8
"""Dimensions of a tensor."""

STREAMS = ("records", "support symbols", "support rest", "value symbols", "value rest")
"""The streams of a group."""

SUPPORT_SYMBOLS = 1
VALUE_SYMBOLS = 3


@dataclass(frozen=True)
class Facts:
    """What a message says besides its tensors; the fields are those of `Message`."""

    round: int = 0
    client: int = 0
    weight: float = 0.0
    stage: str = "train"
    note: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One tensor of the table.

    Attributes:
        name: Its name.
        type: Position of its element type in `TYPES`.
        shape: Its shape.
        coding: Number of the coding of its values.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    coding: int

    @lru_cache(maxsize=1024)  # noqa: B019  values, no objects: the tensors of a few models
    def write(self) -> bytes:
        """The entry as it stands in the table."""
        sizes = b"".join(varint(size) for size in self.shape)
        return text(self.name) + bytes([self.type, len(self.shape)]) + sizes + bytes([self.coding])


@dataclass(frozen=True)
class Section:
    """One group of the table: its tensors and its streams.

    Attributes:
        name: Its name.
        entries: Its tensors.
        streams: Lengths of its streams.
        raw: Bytes that it takes in the table, where it was read from one.
    """

    name: str
    entries: tuple[Entry, ...]
    streams: tuple[Directory, ...]
    raw: int = field(default=0, compare=False)

    @property
    def length(self) -> int:
        """Bytes of the group's streams."""
        return sum(stream.length for stream in self.streams)

    def write(self) -> bytes:
        """The section as it stands in the table."""
        entries = b"".join(entry.write() for entry in self.entries)
        streams = b"".join(stream.write() for stream in self.streams)
        return text(self.name) + varint(len(self.entries)) + entries + streams


@dataclass(frozen=True)
class Table:
    """All that a message says before its streams."""

    facts: Facts
    sections: tuple[Section, ...]

    def write(self) -> bytes:
        """The table before compression."""
        sections = b"".join(section.write() for section in self.sections)
        return write_facts(self.facts) + varint(len(self.sections)) + sections


def write_facts(facts: Facts) -> bytes:
    """The facts as they stand in the table.

    Raises:
        NumberError: The weight is not finite, or negative.
    """
    _check_weight(facts.weight)
    numbers = b"".join(text(name) + double(value) for name, value in facts.numbers.items())
    head = signed(facts.round) + signed(facts.client) + double(facts.weight)
    return head + text(facts.stage) + text(facts.note) + varint(len(facts.numbers)) + numbers


def read_table(data: bytes | memoryview, limits: Limits) -> Table:
    """Read a table and check it against the limits; ``max_bytes`` is the length of its message.

    Raises:
        WireError: A field is wrong or a limit is passed; which one, and where, is said.
    """
    cursor = Cursor(data, "table")
    facts = _read_facts(cursor)
    sections: list[Section] = []
    left = limits
    for _ in range(cursor.count(limits.max_groups, "groups")):
        section = _read_section(cursor, left)
        sections.append(section)
        left = _less(left, section)
    cursor.finish()
    unique("table, groups", [section.name for section in sections])
    return Table(facts, tuple(sections))


def _read_facts(cursor: Cursor) -> Facts:
    round_, client, weight = cursor.signed(), cursor.signed(), cursor.double()
    _check_weight(weight)
    stage, note = cursor.text(), cursor.text()
    pairs = [(cursor.text(), cursor.double()) for _ in range(cursor.count(MAX_NUMBERS, "numbers"))]
    unique("table, numbers", [name for name, _ in pairs])
    return Facts(round_, client, weight, stage, note, dict(pairs))


def _check_weight(weight: float) -> None:
    usable = math.isfinite(weight) and weight >= 0
    require(usable, NumberError, "weight", f"must be finite and not negative, got {weight}")


def _less(limits: Limits, section: Section) -> Limits:
    """The limits that are left for the groups that follow."""
    return replace(
        limits,
        max_parameters=limits.max_parameters - sum(math.prod(one.shape) for one in section.entries),
        max_tensors=limits.max_tensors - len(section.entries),
    )


def _read_section(cursor: Cursor, limits: Limits) -> Section:
    start = cursor.at
    name, entries = _read_entries(cursor, limits)
    # A piece takes at least a byte of the message.
    streams = tuple(Directory.read(cursor, limits.max_bytes) for _ in STREAMS)
    require(not streams[0].large, FieldError, cursor.place, "the records are one piece")
    return Section(name, entries, streams, cursor.at - start)


_LONGEST, _MOST = 1 << 16, 16
_READ: dict[tuple[int, int], tuple[bytes, str, tuple[Entry, ...]]] = {}
"""What was read last within the same bounds, with its bytes: the messages of a run name the same tensors every time."""


def _read_entries(cursor: Cursor, limits: Limits) -> tuple[str, tuple[Entry, ...]]:
    """The name of a group and its tensors."""
    bounds, start = (limits.max_parameters, limits.max_tensors), cursor.at
    known = _READ.get(bounds) if limits.schema is None else None
    if known is not None and cursor.data[start : start + len(known[0])] == known[0]:
        cursor.take(len(known[0]))
        return known[1:]
    name, entries = _read_new_entries(cursor, limits)
    if limits.schema is None and cursor.at - start <= _LONGEST:
        if len(_READ) >= _MOST:
            _READ.clear()
        _READ[bounds] = bytes(cursor.data[start : cursor.at]), name, entries
    return name, entries


def _read_new_entries(cursor: Cursor, limits: Limits) -> tuple[str, tuple[Entry, ...]]:
    name = cursor.text()
    entries: list[Entry] = []
    left = limits.max_parameters
    for _ in range(cursor.count(limits.max_tensors, "tensors")):
        entry = _read_entry(cursor, f"group {name!r}", limits)
        left -= math.prod(entry.shape)
        require(
            left >= 0,
            LimitError,
            f"group {name!r}, tensor {entry.name!r}",
            f"shape {entry.shape} is more than the limits allow: {-left} parameters too many",
        )
        entries.append(entry)
    unique(f"table, group {name!r}", [entry.name for entry in entries])
    return name, tuple(entries)


def _read_entry(cursor: Cursor, group: str, limits: Limits) -> Entry:
    name = cursor.text()
    place = f"{group}, tensor {name!r}"
    type_ = cursor.u8()
    require(type_ < len(TYPES), FieldError, place, f"an element type is below {len(TYPES)}, got {type_}")
    dimensions = cursor.u8()
    require(dimensions <= MAX_DIMENSIONS, LimitError, place, f"at most 8 dimensions, got {dimensions}")
    sizes = [cursor.count(limits.max_parameters, "indices a dimension") for _ in range(dimensions)]
    shape = tuple(sizes)
    limits.admit(place, name, shape)
    return Entry(name, type_, shape, cursor.u8())
