"""The hostile files of this folder, and what each must be refused with.

``python tests/wire/corpus.py`` writes them again; the index says error and place of each.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from craft import Forgery, seal, with_table

from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import encode
from fedbonsai.wire.fields import double, text, varint
from fedbonsai.wire.frame import HEADER, HEADER_LENGTH, read_frame
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.references import check
from fedbonsai.wire.streams import LARGE, Array
from fedbonsai.wire.table import Entry, Facts, Section, Table

HERE = Path(__file__).parent / "hostile"
FACTS = bytes(2) + double(0.0) + text("train") + text("") + varint(0)
BYTES = np.zeros(16, np.uint8)


@dataclass(frozen=True)
class Case:
    """Hostile bytes.

    Attributes:
        data: The bytes.
        error: Name of the error that they must be refused with.
        place: What the error must say of the place.
    """

    data: bytes
    error: str
    place: str


def floats(*values: float) -> Array:
    """Scales and levels as they stand in a message."""
    return np.array(values, "<f4").view(np.uint8)


def outer() -> dict[str, Case]:
    """Faults of the header and of the layout."""
    good = Forgery().write()
    _, _, _, _, _, raw, coded, _ = HEADER.unpack(good[: HEADER.size])
    flipped = bytearray(good)
    flipped[-1] ^= 1
    broken_table = bytearray(good)
    broken_table[HEADER_LENGTH] ^= 1
    return {
        "empty": Case(b"", "TruncatedError", "header"),
        "short": Case(good[:40], "TruncatedError", "message"),
        "text": Case(b"<html>" * 9, "NotAMessageError", "header"),
        "trailing": Case(good + b"\0", "TrailingError", "message"),
        "version": Case(seal(bytearray(good), raw, coded, 2), "VersionError", "header"),
        "header-bit": Case(good[:9] + b"\1" + good[10:], "ChecksumError", "header"),
        "table-bit": Case(bytes(broken_table), "ChecksumError", "table"),
        "value-bit": Case(bytes(flipped), "ChecksumError", "group 'weights', values"),
        "table-past-end": Case(seal(bytearray(good), raw, 2**31), "TruncatedError", "table"),
        "table-bomb": Case(seal(bytearray(good), 2**32 - 1, coded), "LimitError", "table"),
        "table-not-zstd": Case(seal(bytearray(good), raw + 1, coded), "StreamError", "table"),
        "table-too-long": Case(with_table(FACTS + varint(0) + b"\0"), "TrailingError", "table"),
        "body-missing": Case(
            with_table(Table(Facts(), read_frame(good, Limits()).table.sections).write()),
            "TruncatedError",
            "group 'weights'",
        ),
    }


def tables() -> dict[str, Case]:
    """Faults of the table."""

    def entry(name: str = "w", shape: tuple[int, ...] = (4,), kind: int = 0) -> Entry:
        return Entry(name, kind, shape, 0)

    twice = Forgery((entry(), entry())).write()
    nan = bytes(2) + double(float("nan")) + text("train") + text("") + varint(0) + varint(0)
    numbers = bytes(2) + double(0.0) + text("train") + text("") + varint(2)
    numbers += 2 * (text("loss") + double(1.0)) + varint(0)
    not_text = bytes(2) + double(0.0) + b"\x02\xff\xfe" + text("") + varint(0) + varint(0)
    long_varint = b"\x80" * 10 + b"\x01" + FACTS[1:] + varint(0)
    padded_varint = b"\x80\x00" + FACTS[1:] + varint(0)
    huge = Section("weights", (entry(shape=(2**26, 2**26)),), ())
    wide = Section("weights", (entry(shape=(2**63,)),), ())
    return {
        "tensor-twice": Case(twice, "DuplicateError", "table, group 'weights'"),
        "group-twice": Case(Forgery().write(copies=("weights", "weights")), "DuplicateError", "table, groups"),
        "number-twice": Case(with_table(numbers), "DuplicateError", "table, numbers"),
        "weight-nan": Case(with_table(nan), "NumberError", "weight"),
        "text-not-utf8": Case(with_table(not_text), "FieldError", "table"),
        "varint-long": Case(with_table(long_varint), "FieldError", "table"),
        "varint-padded": Case(with_table(padded_varint), "FieldError", "table"),
        "product-overflows": Case(
            with_table(FACTS + varint(1) + huge.write()),
            "LimitError",
            "group 'weights', tensor 'w'",
        ),
        "size-overflows": Case(with_table(FACTS + varint(1) + wide.write()), "LimitError", "table"),
        "many-tensors": Case(with_table(FACTS + varint(1) + text("weights") + varint(2**40)), "LimitError", "table"),
        "many-groups": Case(with_table(FACTS + varint(2**40)), "LimitError", "table"),
        "many-dimensions": Case(Forgery((entry(shape=(1,) * 9),)).write(), "LimitError", "group 'weights', tensor 'w'"),
        "type-unknown": Case(Forgery((entry(kind=10),)).write(), "FieldError", "group 'weights', tensor 'w'"),
    }


def supports() -> dict[str, Case]:
    """Faults of supports; the tensor has 64 values unless it is said otherwise."""

    def case(
        records: bytes,
        error: str = "SupportCodingError",
        *,
        symbols: tuple[Array, ...] = (),
        rest: tuple[Array, ...] = (),
        shape: tuple[int, ...] = (64,),
        place: str = "group 'weights', tensor 'w', support",
    ) -> Case:
        entries = (Entry("w", 0, shape, 0),)
        data = Forgery(entries, b"\0" + records, (symbols, rest), ((), ())).write()
        return Case(data, error, place)

    ones, bits = np.full(8, 255, np.uint8), np.array([1, 0, 0, 0, 0, 0, 0, 0x80], np.uint8)
    head, all_run = "group 'weights', records", b"\x03\0" + varint(2**26)
    return {
        "code-unknown": case(b"\x63", "FieldError", place=head),
        "records-missing": case(b"", "TruncatedError", place=head),
        "records-trailing": case(b"\x01\x01", "TrailingError", place=head),
        "again-of-later": case(bytes([2, 0]), "FieldError"),
        "run-outside": case(bytes([3, 60, 9])),
        "run-empty": case(bytes([3, 60, 0])),
        "bitmap-short": case(bytes([4]), "TruncatedError", rest=(ones[:7],)),
        "bitmap-padding": case(bytes([4]), rest=(bits,), shape=(63,)),
        "gaps-outside": case(bytes([6, 4, 0, 0]), symbols=(np.full(4, 60, np.uint8),)),
        "gaps-more-than-all": case(bytes([6, 65, 0, 0])),
        "gaps-shift": case(bytes([6, 4, 32, 0])),
        "gaps-overflow": case(
            bytes([6, 2, 31, 2]),
            symbols=(np.full(2, 255, np.uint8),),
            rest=(*[BYTES[:1]] * 31, np.full(8, 255, np.uint8)),
        ),
        "escapes-missing": case(bytes([6, 1, 0, 0]), symbols=(np.full(1, 255, np.uint8),)),
        "escapes-small": case(bytes([6, 1, 0, 1]), symbols=(np.full(1, 255, np.uint8),), rest=(BYTES[:4],)),
        "blocks-size": case(bytes([8, 2, 5]), "FieldError"),
        "blocks-patterns": case(bytes([8, 8, 16]), "FieldError"),
        "blocks-rank": case(bytes([8, 2, 4]), rest=(np.full(44, 255, np.uint8),), shape=(4,)),
        "product-of-vector": case(bytes([9, 0, 0]), "FieldError", place=head),
        "product-in-grid": case(bytes([10, 9, 0, 0]), "FieldError", place=head),
        "seeded-more-than-all": case(bytes([13, 65, 1]) + check([])),
        "seeded-other": case(bytes([13, 3, 1]) + check([]), "ChecksumError", place="group 'weights'"),
        "seeded-bomb": case(bytes([13, 3, 1]) + check([]), "LimitError", shape=(2**26,)),
        "held-unknown": case(bytes([11, 8, 77]) + bytes(8), "UnknownReferenceError", place=head),
        "changed-unknown": case(bytes([12, 0, 1, 8, 77]) + bytes(16), "UnknownReferenceError", place=head),
        "reference-width": case(bytes([11, 129]) + bytes(30), "FieldError", place=head),
        "reference-padding": case(bytes([11, 4, 0x71]) + bytes(8), "FieldError", place=head),
        "mask-bomb": case(bytes([10, 0]) + 2 * all_run, "LimitError", shape=(0, 2**26, 2**26)),
        "piece-unread": case(b"\x01", "TrailingError", rest=(ones,)),
        "large-piece-unread": case(b"\x01", "TrailingError", rest=(np.zeros(LARGE, np.uint8),)),
    }


def values() -> dict[str, Case]:
    """Faults of values; the tensor has 64 float32 values unless it is said otherwise."""

    def case(
        coding: int,
        symbols: tuple[Array, ...] = (),
        rest: tuple[Array, ...] = (),
        *,
        error: str = "NumberError",
        kind: int = 0,
    ) -> Case:
        entries = (Entry("w", kind, (8, 8), coding),)
        data = Forgery(entries, b"\x03", ((), ()), (symbols, rest)).write()
        return Case(data, error, "group 'weights', tensor 'w', values")

    sixty_four, nan = np.full(64, 129, np.uint8), float("nan")
    bomb = Forgery((Entry("w", 0, (2**26,), 0),), values=((), (np.zeros(2**22, np.uint8),))).write()
    return {
        "coding-unknown": case(99, error="FieldError"),
        "coding-of-integers": case(1, error="FieldError", kind=9),
        "values-missing": case(0, rest=(BYTES,), error="TruncatedError"),
        "values-trailing": case(0, rest=(np.zeros(257, np.uint8),), error="TrailingError"),
        "bool-padding": case(0, rest=(BYTES[:8], BYTES[:1]), error="TrailingError", kind=4),
        "scale-nan": case(4, (sixty_four,), (floats(nan),)),
        "scale-infinite": case(4, (sixty_four,), (floats(float("inf")),)),
        "scale-negative": case(4, (sixty_four,), (floats(-1),)),
        "scale-too-large": case(4, (sixty_four + 64,), (floats(3e38),)),
        "level-lowest": case(4, (sixty_four * 0,), (floats(1),)),
        "step-zero": case(6, (sixty_four,), (floats(0),)),
        "step-nan": case(6, (sixty_four,), (floats(nan),)),
        "sign-nan": case(7, (), (floats(nan), BYTES[:8])),
        "ternary-digit": case(8, (np.full(13, 243, np.uint8),), (floats(1),), error="SupportCodingError"),
        "levels-crossed": case(9, (BYTES[:8],), (floats(2, 1),)),
        "few-beyond": case(
            11, (np.full(13, 242, np.uint8),), (BYTES[:1] + 2, floats(1, 2, 3)), error="SupportCodingError"
        ),
        "few-table-short": case(11, (sixty_four,), (BYTES[:1] + 255, floats(1, 2, 3)), error="TruncatedError"),
        "delta-without-base": case(10, (sixty_four,) * 4, (BYTES[:4],), error="UnknownBaseError"),
        "bomb": Case(bomb, "StreamError", "group 'weights', tensor 'w', values"),
    }


def seeds() -> dict[str, bytes]:
    """Small good messages that fuzzing starts from: every coding of supports and values."""
    torch.manual_seed(0)
    masks = {
        "a": torch.rand(9, 9) < 0.5,
        "b": torch.rand(20, 20) < 0.05,
        "c": torch.rand(20, 20) < 0.97,
        "d": (torch.rand(6, 1) < 0.5).expand(6, 8).contiguous(),
        "e": torch.tensor([[True, True, False, False]] * 4),
        "f": torch.rand(30, 30) < 0.3,
    }
    held = {name: Support.masked(mask) for name, mask in masks.items()}
    held["g"] = Support.grid((8, 8), [torch.tensor([1, 4]), torch.arange(2, 7)])
    tensors = {name: torch.randn(one.shape) for name, one in held.items()} | {"h": torch.randn(70, 2)}
    message = Message({"weights": group(tensors, held), "two": group(tensors, held)}, {"loss": 1.0})
    known = {one.digest: one for one in held.values()}
    codings = ("fp32", "raw", "bf16", "int8", "int4", "uniform", "sign", "ternary", "bits")
    found = {values: encode(message, values=values) for values in codings}
    few = Message({"weights": group({name: one.sign() for name, one in tensors.items()}, held)})
    return found | {"few": encode(few), "held": encode(message, held=known), "none": encode(Message())}


def cases() -> dict[str, Case]:
    """All hostile cases by name."""
    return {**outer(), **tables(), **supports(), **values()}


def main() -> None:
    """Write all hostile files and their index."""
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.bin"):
        old.unlink()
    index = {}
    for name, case in cases().items():
        (HERE / f"{name}.bin").write_bytes(case.data)
        index[name] = [case.error, case.place]
    (HERE / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
