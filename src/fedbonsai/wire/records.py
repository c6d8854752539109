"""The grammar of support records: what a support is coded as, before any of its pieces is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from fedbonsai.wire.errors import FieldError, require
from fedbonsai.wire.fields import Cursor, varint


class Code(IntEnum):
    """How a set of coordinates is coded (docs/wire-format.md, "Records")."""

    WHOLE = 0
    NONE = 1
    AGAIN = 2
    RUN = 3
    BITMAP = 4
    PACKED_BITMAP = 5
    GAPS = 6
    ABSENT_GAPS = 7
    BLOCKS = 8
    PRODUCT = 9
    GRID = 10
    HELD = 11
    CHANGED = 12
    SEEDED = 13


_FIELDS = {
    Code.AGAIN: 1,
    Code.RUN: 2,
    Code.GAPS: 3,
    Code.ABSENT_GAPS: 3,
    Code.BLOCKS: 2,
    Code.SEEDED: 2,
}

FLAT = frozenset(
    {
        Code.WHOLE,
        Code.NONE,
        Code.RUN,
        Code.BITMAP,
        Code.PACKED_BITMAP,
        Code.GAPS,
        Code.ABSENT_GAPS,
        Code.BLOCKS,
    }
)
"""Codes that describe a set by itself."""

LISTS = FLAT - {Code.WHOLE, Code.NONE}
"""Codes of lists that a later record may refer to."""

REFERRING = frozenset({Code.HELD, Code.CHANGED})
"""Codes that refer to a support that both sides hold."""

DERIVED = frozenset({Code.CHANGED, Code.SEEDED})
"""Codes whose support is computed, so that its digest is sent along."""

_AXIS = FLAT | {Code.AGAIN}
_ALL = frozenset(Code)
_MATRIX = 2

Shape = tuple[int, ...]
"""Shape of a tensor."""


@dataclass(frozen=True)
class Record:
    """How one set of coordinates is coded.

    Attributes:
        code: The coding.
        fields: Its numbers, in the order of the format.
        parts: Records inside it.
    """

    code: Code
    fields: tuple[int, ...] = ()
    parts: tuple["Record", ...] = ()

    def write(self) -> bytes:
        """The record as bytes."""
        numbers = b"".join(varint(one) for one in self.fields)
        return bytes([self.code]) + numbers + b"".join(part.write() for part in self.parts)


def write_records(records: Sequence[Record], shapes: Sequence[Shape]) -> bytes:
    """The records of a group's tensors; vectors have none where all of them are whole."""
    pairs = list(zip(records, shapes, strict=True))
    vectors = any(len(shape) < _MATRIX and one.code != Code.WHOLE for one, shape in pairs)
    least = 0 if vectors else _MATRIX
    return bytes([least]) + b"".join(one.write() for one, shape in pairs if len(shape) >= least)


def read_records(cursor: Cursor, shapes: Sequence[Shape]) -> list[Record]:
    """Undo `write_records`."""
    least, whole = cursor.u8(), Record(Code.WHOLE)
    return [_read(cursor, len(one), _ALL) if len(one) >= least else whole for one in shapes]


def _read(cursor: Cursor, dimensions: int, allowed: frozenset[Code]) -> Record:
    number = cursor.u8()
    if number not in allowed:
        known = sorted(map(int, allowed))
        raise FieldError(cursor.place, f"code {number} may not stand at {cursor.at - 1}: {known} may")
    code = Code(number)
    fields = tuple(cursor.varint() for _ in range(_FIELDS.get(code, 0)))
    return Record(code, fields, tuple(_parts(cursor, code, dimensions)))


def _parts(cursor: Cursor, code: Code, dimensions: int) -> Iterator[Record]:
    if code is Code.GRID:
        for _ in range(dimensions):
            yield _read(cursor, 1, _AXIS)
    elif code is Code.CHANGED:
        yield _read(cursor, 1, FLAT)
        yield _read(cursor, 1, FLAT)
    elif code is Code.PRODUCT:
        require(dimensions > 1, FieldError, cursor.place, "a product needs two dimensions or more")
        yield _read(cursor, 1, _AXIS)
        yield _read(cursor, dimensions - 1, _AXIS if dimensions == 2 else FLAT | {Code.PRODUCT})
