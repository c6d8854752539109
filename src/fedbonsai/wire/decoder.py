"""A message from bytes, every one of which may be hostile."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from fedbonsai.core.message import Group, Message, Part
from fedbonsai.core.support import Support
from fedbonsai.wire.bits import key_of
from fedbonsai.wire.encoder import Base
from fedbonsai.wire.errors import ChecksumError, LimitError, UnknownBaseError, require
from fedbonsai.wire.fields import Cursor
from fedbonsai.wire.frame import Frame, read_frame, verify
from fedbonsai.wire.gaps import MAX_SIZE
from fedbonsai.wire.limits import Budget, Limits
from fedbonsai.wire.records import DERIVED, REFERRING, Code, Record, read_records
from fedbonsai.wire.references import CHECK, Held, check, read_references
from fedbonsai.wire.streams import Source, StreamReader, Watch, expand, watch_nothing
from fedbonsai.wire.support_reader import Reading, read_support
from fedbonsai.wire.table import SUPPORT_SYMBOLS, VALUE_SYMBOLS, Entry, Facts, Section
from fedbonsai.wire.values import EXACT, TYPES, Coding, base_values, read_delta, read_values

_DEFAULT = Limits()

TASKS = 4
"""Messages of which a reader keeps what it read: tiers are few."""

WatchGroup = Callable[[str], Watch]
"""Gives the watcher of a group by its name."""


def decode(
    data: bytes | memoryview,
    *,
    limits: Limits = _DEFAULT,
    held: Held | None = None,
    base: Base | None = None,
) -> Message:
    """Read a message and trust nothing in it.

    Args:
        data: What came in.
        limits: What this side is willing to do for it.
        held: Supports by digest that the sender may refer to.
        base: Groups that differences may have been taken from.

    Raises:
        UnknownSupport: It refers to a support or base that this side does not hold; ask for all.
        WireError: Anything else is wrong; one of `fedbonsai.wire.errors`, which says where.

    Examples:
        >>> import torch
        >>> from fedbonsai.core.message import group
        >>> from fedbonsai.wire.encoder import encode
        >>> decode(encode(Message({"weights": group({"w": torch.ones(2)})}))).dense()
        {'w': tensor([1., 1.])}
    """
    return read_message(read_frame(data, limits), held or {}, base or {})


def header(frame: Frame) -> Message:
    """All of a message but its groups: who it is for can be told before what it refers to is looked up."""
    facts = frame.table.facts
    return Message({}, facts.numbers, facts.weight, facts.round, facts.client, facts.stage, facts.note)


def read_message(frame: Frame, held: Held, base: Base, watch: WatchGroup = lambda _: watch_nothing) -> Message:
    """Read a message that has been taken apart; ``watch`` gives each group's watcher of pieces."""
    facts, reading = frame.table.facts, Reading()
    groups: dict[str, Group] = {}
    for section, body in zip(frame.table.sections, frame.bodies, strict=True):
        reader = _Reader(section, body, frame.budget, watch(section.name))
        supports = reader.supports(held, reading)
        own = base.get(section.name, {})
        groups[section.name] = dict(reader.parts(supports, facts, own))
    return Message(groups, facts.numbers, facts.weight, facts.round, facts.client, facts.stage, facts.note)


@dataclass
class Reader:
    """Reads messages one after another. Groups that come once more, byte for byte, are neither checked nor read again.

    A server sends many clients the same model, and in a simulation one process reads for all of them. What is handed
    out twice must not be changed.

    Attributes:
        longest: Bytes of the messages of which anything is kept, all together; as much again is what was read of them.
    """

    longest: int = 1 << 22
    _kept: deque["_Kept"] = field(default_factory=lambda: deque(maxlen=TASKS))

    def frame(self, data: bytes, limits: Limits) -> Frame:
        """Take a message apart; see `read_frame`.

        Raises:
            WireError: Something is wrong with it.
        """
        frame = read_frame(data, limits, verify=False)
        body = data[frame.header :] if len(data) <= self.longest else b""  # then it is read for this client alone
        known = next((one for one in self._kept if one.body == body), None) if body else None
        if known is None:
            verify(data, frame)
            known = _Kept(body)
        else:
            self._kept.remove(known)
        self._kept.append(known)  # the last one to go
        while sum(len(one.body) for one in self._kept) > self.longest:
            self._kept.popleft()
        return frame

    def read(self, frame: Frame, held: Held) -> Message:
        """Read the message whose frame was asked for last; see `read_message`."""
        sections, known, last = frame.table.sections, frozenset(held), self._kept[-1]
        # Lossy values follow from the message's round and client too.
        exact = all(entry.coding in EXACT for section in sections for entry in section.entries)
        if not last.body or not exact:
            return read_message(frame, held, {})
        if last.read is None or last.read[:2] != (sections, known):
            last.read = sections, known, dict(read_message(frame, held, {}).groups)
        return replace(header(frame), groups=dict(last.read[2]))


@dataclass(eq=False)
class _Kept:
    """The bodies of a message, and what was read of them beside which table and held supports."""

    body: bytes
    read: tuple[tuple[Section, ...], frozenset[bytes], dict[str, Group]] | None = None


@dataclass(frozen=True)
class _Reader:
    """Reads one group of a message."""

    section: Section
    body: tuple[memoryview, ...]
    budget: Budget
    watch: Watch

    @property
    def place(self) -> str:
        return f"group {self.section.name!r}"

    def supports(self, held: Held, reading: Reading) -> list[Support]:
        """The supports of the group's tensors."""
        cursor = self._records()
        records = read_records(cursor, [entry.shape for entry in self.section.entries])
        reading.bases = deque(read_references(cursor, self._referring(records), held))
        derived = any(record.code in DERIVED for record in records)
        expected = bytes(cursor.take(CHECK)) if derived else check([])
        cursor.finish()
        reading.derived.clear()
        source, supports = self._source(SUPPORT_SYMBOLS), []
        for entry, record in zip(self.section.entries, records, strict=True):
            source.locate(f"{self.place}, tensor {entry.name!r}, support {record.code.name}")
            _require_maskable(entry, record, source.rest.place)
            supports.append(read_support(record, entry.shape, reading, source))
        source.finish()
        found = check([support.digest for support in reading.derived])
        require(found == expected, ChecksumError, self.place, "supports do not have their digests")
        return supports

    def parts(self, supports: list[Support], facts: Facts, base: Group) -> Iterator[tuple[str, Part]]:
        """The group's tensors."""
        source = self._source(VALUE_SYMBOLS)
        for entry, support in zip(self.section.entries, supports, strict=True):
            source.locate(f"{self.place}, tensor {entry.name!r}, values")
            if entry.coding == Coding.DELTA:
                values = self._difference(entry, support, base, source)
            else:
                key = key_of(facts.round, facts.client, self.section.name, entry.name)
                values = read_values(entry.coding, TYPES[entry.type], support.count, key, source)
            yield entry.name, Part(values, support)
        source.finish()

    def _difference(self, entry: Entry, support: Support, base: Group, source: Source) -> Tensor:
        self.budget.spend(8 * (support.numel + support.count), source.rest.place)
        found = base_values(base.get(entry.name), support, TYPES[entry.type])
        if found is None:
            raise UnknownBaseError(source.rest.place, "this side holds no base for it; ask for the whole")
        return read_delta(found, source)

    def _records(self) -> Cursor:
        place, directory = f"{self.place}, records", self.section.streams[0]
        return Cursor(expand(self.body[0], directory.pool, place, self.budget), place)

    def _referring(self, records: list[Record]) -> list[tuple[int, ...]]:
        """The shapes of the tensors that refer to a held support."""
        pairs = zip(self.section.entries, records, strict=True)
        return [entry.shape for entry, record in pairs if record.code in REFERRING]

    def _source(self, symbols: int) -> Source:
        """A stream of symbols and the rest, which follows it."""
        return Source(self._stream(symbols), self._stream(symbols + 1), self.budget)

    def _stream(self, number: int) -> StreamReader:
        watch = partial(self.watch, number)
        directory = self.section.streams[number]
        return StreamReader(self.body[number], directory, self.place, self.budget, watch)


def _require_maskable(entry: Entry, record: Record, place: str) -> None:
    small = math.prod(entry.shape) < MAX_SIZE
    require(small or record.code is Code.WHOLE, LimitError, place, "a mask needs fewer than 2^32 values")
