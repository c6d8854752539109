"""Supports that both sides hold, named by the first bits of their digests and one check."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import islice, product

from fedbonsai.core.support import Support
from fedbonsai.wire.errors import FieldError, UnknownReferenceError, require
from fedbonsai.wire.fields import Cursor

CHECK = 8
"""Bytes of a check."""

_BITS = 128
_AIM = 64
_SPARE = 16
_HASHED = 2**18

Held = Mapping[bytes, Support]
"""Supports by digest that the other side holds too."""


def check(digests: Sequence[bytes]) -> bytes:
    """Eight bytes that name a sequence of digests."""
    return hashlib.sha256(b"".join(digests)).digest()[:CHECK]


def write_references(used: Sequence[Support], held: Held) -> bytes:
    """Name supports: a common width, that many bits of each digest, and a check of them all.

    The width is the smallest that leaves the check at most 16 combinations of supports in ``held``
    to try, or as much more as 8 bytes for all allow: the receiver may hold more than we know.
    """
    if not used:
        return b""
    shapes = [one.shape for one in used]
    bits = [f"{int.from_bytes(one.digest):0{_BITS}b}" for one in used]
    width = min(_BITS, _AIM // len(used))
    while width < _BITS and _combinations([one[:width] for one in bits], shapes, held) > _SPARE:
        width += 1
    digits = "".join(one[:width] for one in bits)
    padded = digits + "0" * (-len(digits) % 8)
    prefixes = int(padded or "0", 2).to_bytes(len(padded) // 8)
    return bytes([width]) + prefixes + check([one.digest for one in used])


def read_references(cursor: Cursor, shapes: Sequence[tuple[int, ...]], held: Held) -> list[Support]:
    """Find the supports that are referred to, one of each shape in ``shapes``.

    Raises:
        UnknownReferenceError: One of them is not in ``held``.
    """
    if not shapes:
        return []
    width, total = cursor.u8(), len(shapes)
    require(
        width <= _BITS,
        FieldError,
        cursor.place,
        f"a reference has at most {_BITS} bits, got {width}",
    )
    data = cursor.take(-(-width * total // 8))
    digits = f"{int.from_bytes(data):0{8 * len(data)}b}"
    require(
        "1" not in digits[width * total :],
        FieldError,
        cursor.place,
        "unused bits must be zero, one is set",
    )
    expected = bytes(cursor.take(CHECK))
    prefixes = [digits[width * at : width * (at + 1)] for at in range(total)]
    candidates = _candidates(prefixes, shapes, held)
    # Where a prefix fits several supports, the check settles it, if there are few combinations.
    for digests in islice(product(*candidates), max(1, _HASHED // total)):
        if check(digests) == expected:
            return [held[digest] for digest in digests]
    raise UnknownReferenceError(
        cursor.place, "this side does not hold a support that the message refers to; ask for all"
    )


def _candidates(prefixes: Sequence[str], shapes: Sequence[tuple[int, ...]], held: Held) -> list[list[bytes]]:
    by_shape: dict[tuple[int, ...], list[tuple[str, bytes]]] = {}
    for digest, support in held.items():
        bits = f"{int.from_bytes(digest):0{_BITS}b}"
        by_shape.setdefault(support.shape, []).append((bits, digest))
    return [
        [digest for bits, digest in by_shape.get(shape, []) if bits.startswith(prefix)]
        for prefix, shape in zip(prefixes, shapes, strict=True)
    ]


def _combinations(prefixes: Sequence[str], shapes: Sequence[tuple[int, ...]], held: Held) -> int:
    return math.prod(len(one) for one in _candidates(prefixes, shapes, held))
