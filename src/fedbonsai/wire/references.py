"""Supports that both sides hold, named by the first bits of their digests and one check."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice, product

from fedbonsai.core.support import Support
from fedbonsai.wire.errors import FieldError, UnknownReferenceError, require
from fedbonsai.wire.fields import Cursor

CHECK = 8
"""Bytes of a check."""

_BITS = 128
_AIM = 128
_ATTEMPTS = 1024

Held = Mapping[bytes, Support]
"""Supports by digest that the other side holds too."""


def check(digests: Sequence[bytes]) -> bytes:
    """Eight bytes that name a sequence of digests."""
    return hashlib.sha256(b"".join(digests)).digest()[:CHECK]


def write_references(used: Sequence[Support], held: Held) -> bytes:
    """Name supports: a common width, that many bits of each digest, and a check of them all.

    The width is the smallest that tells the supports of equal shape in ``held`` apart, or as much
    more as 16 bytes for all references allow: the receiver may hold more than we know of.
    """
    if not used:
        return b""
    width = max(min(_BITS, _AIM // len(used)), *(_needed(one, held) for one in used))
    digits = "".join(f"{int.from_bytes(one.digest):0{_BITS}b}"[:width] for one in used)
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
    digits = f"{int.from_bytes(data):0{8 * len(data)}b}" if data else ""
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
    for digests in islice(product(*candidates), _ATTEMPTS):
        if check(digests) == expected:
            return [held[digest] for digest in digests]
    raise UnknownReferenceError(
        cursor.place, "this side does not hold a support that the message refers to; ask for all"
    )


def _candidates(
    prefixes: Sequence[str], shapes: Sequence[tuple[int, ...]], held: Held
) -> list[list[bytes]]:
    by_shape: dict[tuple[int, ...], list[tuple[str, bytes]]] = {}
    for digest, support in held.items():
        bits = f"{int.from_bytes(digest):0{_BITS}b}"
        by_shape.setdefault(support.shape, []).append((bits, digest))
    return [
        [digest for bits, digest in by_shape.get(shape, []) if bits.startswith(prefix)]
        for prefix, shape in zip(prefixes, shapes, strict=True)
    ]


def _needed(support: Support, held: Held) -> int:
    """Bits that tell a support apart from the others of its shape."""
    own = int.from_bytes(support.digest)
    others = [int.from_bytes(key) for key, one in held.items() if one.shape == support.shape]
    return max(
        (_BITS - (own ^ other).bit_length() + 1 for other in others if other != own), default=0
    )
