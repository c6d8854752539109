"""Bytes from outside decode, or raise an error that says what is wrong and where."""

import contextlib
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import corpus
import craft
import pytest
import torch

from fedbonsai.core.errors import UnknownSupport, WireError
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import Limits, account, decode, describe, encode, loads
from fedbonsai.wire.fields import Cursor, varint
from fedbonsai.wire.frame import HEADER, HEADER_LENGTH
from fedbonsai.wire.table import Entry

FILES = Path(__file__).parent / "hostile"
INDEX: dict[str, list[str]] = json.loads((FILES / "index.json").read_text())


def small() -> bytes:
    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    parts = group({"w": torch.ones(6, 6), "b": torch.ones(3)}, {"w": Support.masked(mask)})
    return encode(Message({"weights": parts}, {"loss": 0.5}, weight=3.0, note="hello"))


@pytest.mark.parametrize("name", sorted(INDEX))
def test_each_file_is_refused_with_its_own_error_and_place(name: str) -> None:
    error, place = INDEX[name]
    with pytest.raises(WireError) as caught:
        decode((FILES / f"{name}.bin").read_bytes())
    assert type(caught.value).__name__ == error
    assert str(caught.value).startswith(place)


def test_the_files_are_the_cases() -> None:
    assert {one.stem for one in FILES.glob("*.bin")} == set(INDEX) == set(corpus.cases())


def test_every_error_of_the_format_has_a_file() -> None:
    text = Path(corpus.HERE.parents[2] / "docs/wire-format.md").read_text()
    rows = text.split("## Errors")[1].split("## Examples")[0].splitlines()
    documented = {row.split("`")[1] for row in rows if row.startswith("| `")}
    elsewhere = {"ModelError"}
    assert documented == {error for error, _ in INDEX.values()} | elsewhere


def test_a_message_cut_short_anywhere_is_truncated() -> None:
    data = small()
    for end in range(len(data)):
        with pytest.raises(WireError) as caught:
            decode(data[:end])
        assert type(caught.value).__name__ == "TruncatedError"


def test_every_single_flipped_bit_is_noticed() -> None:
    data = small()
    for at in range(8 * len(data)):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(WireError):
            decode(bytes(changed))


def test_a_mask_has_fewer_than_2_to_the_32_values_whatever_the_limits() -> None:
    data = craft.Forgery((Entry("w", 0, (2**32,), 0),), b"\0\1", values=((), ())).write()
    with pytest.raises(WireError, match="a mask needs fewer than"):
        decode(data, limits=Limits(max_bytes=2**31, max_parameters=2**33))


@pytest.mark.parametrize("at", [6, 7])
def test_bytes_that_are_kept_free_must_be_zero(at: int) -> None:
    data = bytearray(small())
    data[at] = 1
    data[HEADER.size : HEADER_LENGTH] = zlib.crc32(data[: HEADER.size]).to_bytes(4, "little")
    with pytest.raises(WireError, match="header: bytes 6 and 7 must be zero") as caught:
        decode(bytes(data))
    assert type(caught.value).__name__ == "FieldError"


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**63 - 1, 2**63, 2**64 - 1])
def test_integers_have_64_bits_and_one_form(value: int) -> None:
    assert Cursor(varint(value), "field").varint() == value
    padded = varint(value)[:-1] + bytes([varint(value)[-1] | 0x80, 0])
    for wrong in (padded, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"):
        with pytest.raises(WireError, match="field: the varint"):
            Cursor(wrong, "field").varint()


def test_a_message_for_another_model_is_refused() -> None:
    data = small()
    assert decode(data, limits=Limits(schema={"w": (6, 6), "b": (3,), "c": (1,)}))
    for schema in ({"w": (6, 6)}, {"w": (6, 5), "b": (3,)}):
        with pytest.raises(WireError, match="another model") as caught:
            decode(data, limits=Limits(schema=schema))
        assert type(caught.value).__name__ == "ModelError"


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_bytes=len(small()) - 1),
        Limits(max_bytes=len(small()) + 50),
        Limits(max_parameters=38),
        Limits(max_tensors=1),
        Limits(max_groups=0),
    ],
)
def test_limits_hold(limits: Limits) -> None:
    with pytest.raises(WireError) as caught:
        decode(small(), limits=limits)
    assert type(caught.value).__name__ == "LimitError"


def test_limits_are_for_all_groups_together() -> None:
    parts = group({"w": torch.ones(5)})
    data = encode(Message({"one": parts, "two": parts}))
    assert decode(data, limits=Limits(max_parameters=10, max_tensors=2))
    for limits in (Limits(max_parameters=9), Limits(max_tensors=1)):
        with pytest.raises(WireError):
            decode(data, limits=limits)


@pytest.mark.parametrize(
    ("read", "rounds"),
    [
        (decode, 120),
        (describe, 20),
        (account, 40),
        (loads, 20),
        pytest.param(decode, 3000, marks=pytest.mark.slow),
        pytest.param(describe, 1000, marks=pytest.mark.slow),
    ],
)
def test_mutations_are_read_or_refused(read: Callable[[bytes], object], rounds: int) -> None:
    chance = random.Random(rounds)
    blobs = list(corpus.seeds().values())
    for _ in range(rounds):
        data = craft.mutate(chance.choice(blobs), chance)
        with contextlib.suppress(WireError):
            read(data)


def test_an_unknown_reference_is_an_unknown_support() -> None:
    with pytest.raises(UnknownSupport):
        decode((FILES / "held-unknown.bin").read_bytes())


PROBE = """
import resource, sys, time
from pathlib import Path
from fedbonsai.core.errors import WireError
from fedbonsai.wire import Limits, decode

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    before, start = peak(), time.process_time()
    try:
        decode(data, limits=Limits(max_bytes=2**27))
    except WireError:
        pass
    print(peak() - before, time.process_time() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_no_hostile_file_takes_more_memory_than_the_limit_or_a_second(tmp_path: Path) -> None:
    bombs = [*FILES.glob("*.bin"), *_bombs(tmp_path)]
    assert all(path.stat().st_size <= 2**16 for path in bombs)
    lines = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, bombs)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for path, line in zip(bombs, lines, strict=True):
        memory, seconds = map(float, line.split())
        assert memory <= 2**27 + 2**26, path
        assert seconds < 1, path


def _bombs(folder: Path) -> list[Path]:
    """Messages that are honest and short, and large when decoded."""
    blobs = {
        "zeros": encode(Message({"w": group({"w": torch.zeros(2**24)})})),
        "nothing": encode(Message({"w": group({"w": torch.zeros(2**26)}, {"w": _nothing(2**26)})})),
        "many": encode(Message({"w": group({f"{at}": torch.zeros(2) for at in range(4096)})})),
    }
    for values in ("int8", "int4", "ternary", "bits", "sign"):
        ramp = torch.zeros(2**21, 4)
        ramp[0, 0] = 1.0
        blobs[values] = encode(Message({"w": group({"w": ramp})}), values=values)
    paths = []
    for name, data in blobs.items():
        if len(data) <= 2**16:
            paths.append(folder / f"{name}.bin")
            paths[-1].write_bytes(data)
    assert len(paths) >= 5
    return paths


def _nothing(size: int) -> Support:
    return Support.at((size,), torch.empty(0, dtype=torch.int64))
