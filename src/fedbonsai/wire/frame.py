"""The outer layout of a message: header, table, and one body of five streams a group."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fedbonsai.wire.checksum import crc32
from fedbonsai.wire.errors import (
    ChecksumError,
    FieldError,
    LimitError,
    MessageError,
    NotAMessageError,
    TrailingError,
    TruncatedError,
    VersionError,
    require,
)
from fedbonsai.wire.limits import Budget, Limits
from fedbonsai.wire.streams import TEXT, Stream, expand, squeeze
from fedbonsai.wire.table import Section, Table, read_table

MAGIC = b"FBNW"
MAJOR, MINOR = 1, 0

HEADER = struct.Struct("<4sBBHQIII")
"""Header without its own checksum: magic, version, zero, length, table lengths, table checksum."""

HEADER_LENGTH = HEADER.size + 4
CHECKS_LENGTH = 8
"""Bytes of the two checksums that begin a body."""

SUPPORT_STREAMS = slice(0, 3)
VALUE_STREAMS = slice(3, 5)

_TABLE_RATIO = 64
_TABLE_SPARE = 1024


@dataclass(frozen=True)
class Frame:
    """A message taken apart, before any of its tensors is read.

    Attributes:
        table: What it says about itself.
        header: Bytes of header and table in the message.
        raw: Bytes of the table before compression.
        bodies: The five streams of each group, as they stand in the message.
        budget: Memory that is left.
    """

    table: Table
    header: int
    raw: int
    bodies: tuple[tuple[memoryview, ...], ...]
    budget: Budget


def write_frame(table: Table, bodies: Sequence[Sequence[Stream]]) -> bytes:
    """Put a message together."""
    raw = table.write()
    coded = squeeze(raw, TEXT)
    parts: list[bytes | memoryview] = [coded]
    for streams in bodies:
        for part in (SUPPORT_STREAMS, VALUE_STREAMS):
            blocks = [block for stream in streams[part] for block in stream.blocks]
            parts.append(struct.pack("<I", _checksum(blocks)))
        parts.extend(block for stream in streams for block in stream.blocks)
    length = HEADER_LENGTH + sum(len(part) for part in parts)
    header = HEADER.pack(MAGIC, MAJOR, MINOR, 0, length, len(raw), len(coded), crc32(coded))
    return b"".join([header, struct.pack("<I", crc32(header)), *parts])


def read_frame(data: bytes | memoryview, limits: Limits, *, verify: bool = True) -> Frame:
    """Take a message apart and check everything that can be checked without reading a tensor.

    Args:
        data: What came in.
        limits: What this side is willing to do for it.
        verify: Whether to compute the checksums of the bodies, most of the work; only who reads no body does without.

    Raises:
        WireError: Something is wrong; what, and where, is said.
    """
    view = memoryview(data)
    require(
        len(view) <= limits.max_bytes,
        LimitError,
        "message",
        f"at most {limits.max_bytes} bytes are allowed, got {len(view)}",
    )
    raw_length, coded_length, check = _read_header(view)
    budget, end = Budget(limits.max_bytes), HEADER_LENGTH + coded_length
    require(end <= len(view), TruncatedError, "table", f"ends at {end}, the bytes at {len(view)}")
    coded = view[HEADER_LENGTH:end]
    require(crc32(coded) == check, ChecksumError, "table", "does not match its checksum")
    most = _TABLE_RATIO * (coded_length + _TABLE_SPARE)
    require(raw_length <= most, LimitError, "table", f"is {raw_length} bytes, at most {most} allowed")
    raw = expand(coded, raw_length, "table", budget)
    table = read_table(raw, replace(limits, max_bytes=len(view)))
    return Frame(table, end, len(raw), _bodies(view, end, table.sections, verify=verify), budget)


def verify(data: bytes | memoryview, frame: Frame) -> None:
    """Compute the checksums of the bodies of a message that was taken apart without.

    Raises:
        ChecksumError: One does not match.
    """
    _bodies(memoryview(data), frame.header, frame.table.sections, verify=True)


def _read_header(view: memoryview) -> tuple[int, int, int]:
    """Lengths of the table before and after compression, and its checksum."""
    short = len(view) < HEADER_LENGTH
    fault: type[MessageError] = TruncatedError if bytes(view[:4]) == MAGIC[: len(view)] else NotAMessageError
    require(not short, fault, "header", f"has {HEADER_LENGTH} bytes, got {len(view)}")
    magic, major, _, zero, length, raw, coded, check = HEADER.unpack(view[: HEADER.size])
    require(magic == MAGIC, NotAMessageError, "header", f"begins with {MAGIC!r}, got {magic!r}")
    expected = int.from_bytes(view[HEADER.size : HEADER_LENGTH], "little")
    found = crc32(view[: HEADER.size])
    require(found == expected, ChecksumError, "header", "does not match its checksum")
    require(major == MAJOR, VersionError, "header", f"version {MAJOR} is known, got {major}")
    require(zero == 0, FieldError, "header", f"bytes 6 and 7 must be zero, got {zero}")
    require(length >= len(view), TrailingError, "message", f"ends at {length}, got {len(view)} bytes")
    require(length == len(view), TruncatedError, "message", f"has {length} bytes, got {len(view)}")
    return raw, coded, check


def _bodies(
    view: memoryview, start: int, sections: Sequence[Section], *, verify: bool
) -> tuple[tuple[memoryview, ...], ...]:
    bodies = []
    for section in sections:
        place = f"group {section.name!r}"
        end = start + CHECKS_LENGTH + section.length
        require(end <= len(view), TruncatedError, place, f"ends at {end}, the bytes at {len(view)}")
        checks = view[start : start + CHECKS_LENGTH]
        start += CHECKS_LENGTH
        streams = []
        for directory in section.streams:
            streams.append(view[start : start + directory.length])
            start += directory.length
        if verify:
            _check(streams[SUPPORT_STREAMS], checks[:4], f"{place}, supports")
            _check(streams[VALUE_STREAMS], checks[4:], f"{place}, values")
        bodies.append(tuple(streams))
    require(start == len(view), TrailingError, "message", f"must end at {start}, got {len(view)}")
    return tuple(bodies)


def _check(streams: Sequence[memoryview], expected: memoryview, place: str) -> None:
    found = _checksum(streams).to_bytes(4, "little")
    require(found == expected, ChecksumError, place, "do not match their checksum")


def _checksum(blocks: Iterable[bytes | memoryview]) -> int:
    """CRC-32 over blocks as if they were one."""
    value = 0
    for block in blocks:
        value = crc32(block, value)
    return value
