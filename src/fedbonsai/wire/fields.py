"""The fields of tables and records: written by functions, read by a cursor that checks each."""

import struct
from collections.abc import Sequence

from fedbonsai.wire.errors import (
    DuplicateError,
    FieldError,
    LimitError,
    TrailingError,
    TruncatedError,
    require,
)

MAX_TEXT = 4096
"""Longest text in bytes."""


_SHORT = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Write an unsigned integer below 2^64, seven bits a byte, lowest first.

    Examples:
        >>> varint(300).hex()
        'ac02'
    """
    require(0 <= value < 2**64, LimitError, "varint", f"must be in [0, 2^64), got {value}")
    if value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """Write a signed integer as a varint that is small where the integer is small."""
    return varint(2 * value if value >= 0 else -2 * value - 1)


def text(value: str) -> bytes:
    """Write a text of at most 4096 bytes."""
    data = value.encode()
    require(
        len(data) <= MAX_TEXT,
        LimitError,
        f"text {value[:20]!r}",
        f"must have at most {MAX_TEXT} bytes, got {len(data)}",
    )
    return varint(len(data)) + data


def double(value: float) -> bytes:
    """Write a float64."""
    return struct.pack("<d", value)


class Cursor:
    """Reads fields one after another and refuses what does not fit.

    Attributes:
        place: What the bytes are, for messages.
        at: Position of the next byte.
    """

    def __init__(self, data: bytes | memoryview, place: str) -> None:
        self.data = memoryview(data)
        self.place = place
        self.at = 0

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes."""
        end = self.at + length
        if end > len(self.data):
            left = len(self.data) - self.at
            raise TruncatedError(self.place, f"needs {length} bytes at {self.at}, {left} are left")
        self.at, start = end, self.at
        return self.data[start:end]

    def u8(self) -> int:
        """An unsigned byte."""
        at = self.at
        if at >= len(self.data):
            self.take(1)
        self.at = at + 1
        return self.data[at]

    def u32(self) -> int:
        """An unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "little")

    def double(self) -> float:
        """A float64."""
        return float(struct.unpack("<d", self.take(8))[0])

    def varint(self) -> int:
        """An unsigned integer in its shortest form."""
        byte = value = self.u8()
        if byte < 0x80:
            return value
        shift = 0
        while byte >= 0x80:
            shift += 7
            byte = self.u8()
            value += (byte - 1) << shift
            if byte == 0 or value >= 2**64:
                raise FieldError(
                    self.place,
                    f"the varint before {self.at} must be below 2^64 and its shortest form",
                )
        return value

    def count(self, most: int, what: str) -> int:
        """A number of things, at most ``most``."""
        value = self.varint()
        if value > most:
            raise LimitError(self.place, f"at most {most} {what} are allowed, got {value}")
        return value

    def signed(self) -> int:
        """A signed integer."""
        value = self.varint()
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def text(self) -> str:
        """A text."""
        data = bytes(self.take(self.count(MAX_TEXT, "bytes of text")))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise FieldError(self.place, f"the text before {self.at} must be UTF-8: {error.reason}") from None

    def finish(self) -> None:
        """Refuse bytes that nobody has read."""
        left = len(self.data) - self.at
        require(not left, TrailingError, self.place, f"must end at {self.at}, {left} bytes follow")


def unique(place: str, names: Sequence[str]) -> None:
    """Refuse a name that stands twice."""
    seen: set[str] = set()
    for name in names:
        require(name not in seen, DuplicateError, place, f"{name!r} stands twice")
        seen.add(name)
