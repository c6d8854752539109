"""A message as bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedbonsai.core.message import Group, Message, Part
from fedbonsai.wire.bits import key_of
from fedbonsai.wire.errors import FieldError, require
from fedbonsai.wire.fields import MAX_TEXT
from fedbonsai.wire.frame import write_frame
from fedbonsai.wire.records import write_records
from fedbonsai.wire.references import Held, check, write_references
from fedbonsai.wire.shelf import Shelf
from fedbonsai.wire.streams import Sink, Stream, write_rest, write_stored, write_symbols, write_text
from fedbonsai.wire.support_writer import write_support
from fedbonsai.wire.table import Entry, Facts, Section, Table
from fedbonsai.wire.values import (
    TYPES,
    Coding,
    base_values,
    choose,
    setting,
    write_delta,
    write_values,
)

Base = Mapping[str, Group]
"""Groups by name that both sides hold, for differences."""


def encode(
    message: Message,
    *,
    values: str = "fp32",
    held: Held | None = None,
    base: Base | None = None,
    seeds: Mapping[bytes, int] | None = None,
) -> bytes:
    """Write a message; equal messages give equal bytes.

    Args:
        message: What is to travel: tensors of a type of `values.TYPES` with at most 8 dimensions.
        values: How values are coded: ``fp32``, ``raw`` and ``delta`` keep every bit; ``bf16``,
            ``fp16``, ``int8``, ``int4``, ``uniform``, ``sign``, ``ternary`` and ``bits`` lose some,
            but only of weights (see `values.choose`).
        held: Supports by digest that the receiver holds: they travel as a few bits, and masks close
            to them as the difference.
        base: Groups that the receiver holds too, for ``values="delta"``.
        seeds: Seeds by the digest of the support that `seeded_support` makes of them.

    Raises:
        ConfigError: There is no such coding.
        WireError: The message has something that the format has not.

    Examples:
        >>> import torch
        >>> from fedbonsai.core.message import group
        >>> data = encode(Message({"weights": group({"w": torch.ones(2, 3)})}, round=4))
        >>> len(data), data[:4]
        (107, b'FBNW')
    """
    return seal(message, pack(message, values=values, held=held, base=base, seeds=seeds))


@dataclass(frozen=True)
class Packed:
    """The groups of a message, encoded; `seal` makes messages of it that differ in their facts alone."""

    sections: tuple[Section, ...]
    bodies: tuple[tuple[Stream, ...], ...]


def pack(
    message: Message,
    *,
    values: str = "fp32",
    held: Held | None = None,
    base: Base | None = None,
    seeds: Mapping[bytes, int] | None = None,
) -> Packed:
    """The first half of `encode`, and nearly all of its work: everything but the facts.

    A lossy coding draws from the message's round and client, so only what was packed bit-exact may be sealed for
    another client.
    """
    wanted = setting(values)
    shelf = Shelf(held or {}, seeds or {})
    sections, bodies = [], []
    for name, group in message.groups.items():
        writer = _Writer(message, name, wanted, (base or {}).get(name, {}))
        entries, streams = writer.write(group, replace(shelf, used=[], derived=[]))
        directories = tuple(stream.directory for stream in streams)
        sections.append(Section(name, entries, directories))
        bodies.append(streams)
    return Packed(tuple(sections), tuple(bodies))


def seal(message: Message, packed: Packed) -> bytes:
    """The second half of `encode`: the facts of ``message`` before groups that have been packed."""
    return write_frame(Table(_facts(message), packed.sections), packed.bodies)


def _facts(message: Message) -> Facts:
    numbers = {name: float(number) for name, number in message.numbers.items()}
    note = message.note.encode()[:MAX_TEXT].decode(errors="ignore")
    weight = float(message.weight)
    return Facts(message.round, message.client, weight, message.stage, note, numbers)


@dataclass(frozen=True)
class _Writer:
    """Writes one group of a message."""

    message: Message
    name: str
    wanted: Coding
    base: Group

    def write(self, group: Group, shelf: Shelf) -> tuple[tuple[Entry, ...], tuple[Stream, ...]]:
        """The group's entries in the table and its five streams."""
        supports, values = Sink(), Sink()
        records, entries = [], []
        for name, part in group.items():
            records.append(write_support(part.support, shelf, supports))
            entries.append(self._entry(name, part, values))
        head = write_records(records, [entry.shape for entry in entries])
        head += write_references(shelf.used, shelf.held)
        if shelf.derived:
            head += check([support.digest for support in shelf.derived])
        write_values_rest = write_stored if self.wanted is Coding.RAW else write_rest
        streams = (
            write_text(head),
            write_symbols(supports.symbols),
            write_rest(supports.rest),
            write_symbols(values.symbols),
            write_values_rest(values.rest),
        )
        return tuple(entries), streams

    def _entry(self, name: str, part: Part, sink: Sink) -> Entry:
        """Append the values of a tensor, and say how they are coded."""
        known = part.values.dtype in TYPES and len(part.support.shape) <= 8
        require(
            known,
            FieldError,
            f"group {self.name!r}, tensor {name!r}",
            f"must have a type of {TYPES} and at most 8 dimensions, got {part.values.dtype}, "
            f"shape {part.support.shape}",
        )
        base = base_values(self.base.get(name), part.support, part.values.dtype)
        coding = choose(part, self.wanted, differ=base is not None)
        if coding is Coding.DELTA and base is not None:
            write_delta(part.values, base, sink)
        else:
            key = key_of(self.message.round, self.message.client, self.name, name)
            write_values(part.values, coding, key, sink)
        return Entry(name, TYPES.index(part.values.dtype), part.support.shape, int(coding))
