"""Messages that no encoder writes: built piece by piece, or changed with checksums repaired."""

import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedbonsai.core.errors import WireError
from fedbonsai.wire.frame import CHECKS_LENGTH, HEADER, HEADER_LENGTH, write_frame
from fedbonsai.wire.limits import Budget, Limits
from fedbonsai.wire.streams import Array, Stream, expand, write_rest, write_symbols, write_text
from fedbonsai.wire.table import Entry, Facts, Section, Table, read_table


@dataclass(frozen=True)
class Forgery:
    """One group of a message, with every part as it pleases.

    Attributes:
        entries: Its tensors.
        head: The records, as bytes.
        supports: Pieces of the symbols and of the rest of the supports.
        values: Pieces of the symbols and of the rest of the values.
    """

    entries: tuple[Entry, ...] = (Entry("w", 0, (4,), 0),)
    head: bytes = b"\x02"
    supports: tuple[Sequence[Array], Sequence[Array]] = ((), ())
    values: tuple[Sequence[Array], Sequence[Array]] = ((), (np.zeros(16, np.uint8),))

    def write(self, facts: Facts | None = None, copies: Sequence[str] = ("weights",)) -> bytes:
        """The message, with one copy of the group for each name."""
        streams = (
            write_text(self.head),
            write_symbols(self.supports[0]),
            write_rest(self.supports[1]),
            write_symbols(self.values[0]),
            write_rest(self.values[1]),
        )
        directories = tuple(stream.directory for stream in streams)
        sections = tuple(Section(name, self.entries, directories) for name in copies)
        return write_frame(Table(facts or Facts(), sections), [streams] * len(copies))


def with_table(table: bytes, streams: Sequence[Stream] = ()) -> bytes:
    """A message with a table of any bytes."""
    body = b"".join(bytes(block) for stream in streams for block in stream.blocks)
    return seal(bytearray(HEADER_LENGTH) + table + body, len(table), len(table))


def seal(data: bytearray, raw: int, coded: int, major: int = 1) -> bytes:
    """Write a header over the first 32 bytes, right in everything."""
    check = zlib.crc32(data[HEADER_LENGTH : HEADER_LENGTH + coded])
    header = HEADER.pack(b"FBNW", major, 0, 0, len(data), raw, coded, check)
    data[:HEADER_LENGTH] = header + struct.pack("<I", zlib.crc32(header))
    return bytes(data)


def reseal(data: bytes) -> bytes:
    """Repair the length and every checksum that can be found: the checks behind are reached."""
    if len(data) < HEADER_LENGTH:
        return data
    _, major, _, _, _, raw, coded, _ = HEADER.unpack(data[: HEADER.size])
    sealed = bytearray(seal(bytearray(data), raw, coded, major))
    start = HEADER_LENGTH + coded
    try:
        table = expand(memoryview(data)[HEADER_LENGTH:start], raw, "table", Budget(2**24))
        sections = read_table(table, Limits(max_bytes=len(data))).sections
    except WireError:
        return bytes(sealed)
    for section in sections:
        body = start + CHECKS_LENGTH
        lengths = [stream.length for stream in section.streams]
        middle, end = body + sum(lengths[:3]), body + sum(lengths)
        if end <= len(sealed):
            checks = zlib.crc32(sealed[body:middle]), zlib.crc32(sealed[middle:end])
            sealed[start:body] = struct.pack("<2I", *checks)
        start = end
    return bytes(sealed)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a message as an accident or an enemy would; half the time checksums are repaired."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change(changed, chance)
    return reseal(bytes(changed)) if chance.random() < 0.5 else bytes(changed)


def _change(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(5)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[at : at + 4] = chance.choice((0, 1, 255, 2**31, 2**32 - 1)).to_bytes(4, "little")
    elif kind == 2:
        del data[at : at + chance.randrange(1, 9)]
    elif kind == 3:
        data[at:at] = chance.randbytes(chance.randrange(1, 9))
    else:
        data[at : at + 8] = chance.randbytes(8)
