"""Whole messages: facts, accounts, and the ways into the format from outside."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbonsai.core.errors import ConfigError, SupportError, UnknownSupport, WireError
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import (
    SETTINGS,
    Limits,
    Reader,
    account,
    account_of,
    decode,
    dense_length,
    describe,
    dumps,
    encode,
    is_exact,
    loads,
    pack,
    read_frame,
    seal,
)
from fedbonsai.wire.errors import ChecksumError

SHAPES = {"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "head.weight": (60, 80), "scalar": ()}


def model() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


def masked(density: float = 0.3) -> Message:
    random = torch.Generator().manual_seed(1)
    mask = Support.masked(torch.rand(SHAPES["head.weight"], generator=random) < density)
    parts = group(model(), {"head.weight": mask})
    return Message({"weights": parts, "scores": parts}, {"loss": 0.5}, 12.0, 3, 4, "train", "fine")


@pytest.mark.parametrize("values", sorted(SETTINGS))
def test_what_was_packed_bit_exact_is_sealed_for_any_client(values):
    message = masked()
    other = replace(message, client=9, numbers={"density": 0.1})
    equal = seal(other, pack(message, values=values)) == encode(other, values=values)
    assert equal or not is_exact(values)
    assert seal(message, pack(message, values=values)) == encode(message, values=values)


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.dictionaries(st.text(max_size=20), st.floats(), max_size=5),
    weight=st.floats(0, 1e300),
    round_=st.integers(-(2**40), 2**40),
    client=st.integers(-(2**40), 2**40),
    words=st.tuples(st.text(max_size=30), st.text(max_size=30)),
)
def test_facts_come_back(
    numbers: dict[str, float], weight: float, round_: int, client: int, words: tuple[str, str]
) -> None:
    message = Message({}, numbers, weight, round_, client, *words)
    back = decode(encode(message))
    assert repr(back) == repr(message)


def test_a_long_note_is_cut_at_a_letter() -> None:
    assert decode(encode(Message(note="ü" * 5000))).note == "ü" * 2048


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_must_be_usable(weight: float) -> None:
    with pytest.raises(WireError, match="weight"):
        encode(Message(weight=weight))


def test_what_the_format_has_not_is_refused() -> None:
    for values in (torch.zeros(2, dtype=torch.complex64), torch.zeros((1,) * 9)):
        with pytest.raises(WireError, match="tensor 'w'"):
            encode(Message({"weights": group({"w": values})}))


def test_groups_keep_their_order_and_names() -> None:
    back = decode(encode(masked()))
    assert list(back.groups) == ["weights", "scores"]
    assert list(back.groups["scores"]) == list(SHAPES)
    assert back.groups["scores"]["scalar"].values.shape == (1,)


def test_the_account_adds_up() -> None:
    data = encode(masked())
    spent = account(data)
    assert spent.values + spent.supports + spent.overhead == len(data)
    assert set(spent.groups) == {"weights", "scores"}
    assert sum(one[0] for one in spent.groups.values()) == spent.values
    assert sum(one[1] for one in spent.groups.values()) == spent.supports
    assert 0 < sum(one[2] for one in spent.groups.values()) < spent.overhead
    # The second group refers to the supports of the first.
    assert spent.groups["scores"][1] < 20 < spent.groups["weights"][1]


@pytest.mark.parametrize("shapes", [SHAPES, {}, {"w": (0, 4)}, {f"w{at}": (at, 100) for at in range(60)}])
def test_the_dense_length_is_exact(shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    assert dense_length(shapes) == len(encode(Message({"weights": group(tensors)}), values="raw"))


def test_a_description_says_what_is_where() -> None:
    text = describe(encode(masked()))
    assert text.splitlines()[0].startswith("train, round 3, client 4, weight 12, loss 0.5, note 'fine'")
    (row,) = [one for one in text.splitlines() if one.startswith("weights  head.weight")]
    assert re.split(r"\s{2,}", row)[2:4] == ["float32", "60x80"]
    assert re.search(r"weights\s+supports\s+\d+\s+\d+\s+\+\d", text)


def test_a_description_does_not_need_the_supports() -> None:
    message = masked()
    known = {one.digest: one for one in message.supports().values()}
    assert "?/4800" in describe(encode(message, held=known))


WHOLE_TEXT = """\
train, round 3, client 4, weight 12, loss 0.25, note 'fine': 312 bytes
values 149, supports 16, overhead 147 bytes

group    tensor     type  shape  present  values
weights  w       float32  10x10   34/100  planes
weights  b       float32      3      3/3  planes
two      flags      bool      2      2/2     raw

group    stream           raw  bytes  limit       over
weights  records                   2
weights  support symbols   13     13      3  +331.43 %
weights  value symbols     37     37     10  +268.66 %
weights  value rest       111    111     16  +572.96 %
two      records                   1
two      value rest         1      1      0
weights  supports                 15     11   +34.97 %
two      supports                  1      0"""
HELD_TEXT = """\
values 149, supports 20, overhead 146 bytes

group    tensor     type  shape  present  values
weights  w       float32  10x10    ?/100  planes
weights  b       float32      3      ?/3  planes
two      flags      bool      2      ?/2     raw

group    stream         raw  bytes  limit  over
weights  records                19
weights  value symbols          37
weights  value rest            111
two      records                 1
two      value rest              1"""


def test_a_description_word_for_word(monkeypatch) -> None:
    for module in ("streams", "frame"):  # how short zstd makes it is up to its version
        monkeypatch.setattr(f"fedbonsai.wire.{module}.squeeze", lambda data, _: data)
    third = Support.masked(torch.arange(100).reshape(10, 10) % 3 == 0)
    ramp = torch.arange(100.0).reshape(10, 10) / 64
    weights = group({"w": ramp, "b": torch.arange(3.0)}, {"w": third})
    two = group({"flags": torch.ones(2, dtype=torch.bool)})
    message = Message({"weights": weights, "two": two}, {"loss": 0.25}, 12.0, 3, 4, "train", "fine")
    assert describe(encode(message)) == WHOLE_TEXT
    assert describe(encode(message, held={third.digest: third})).partition("\n")[2] == HELD_TEXT


def test_a_dither_is_the_same_on_every_machine() -> None:
    ramp = (torch.arange(640.0).reshape(8, 80) - 320) / 64
    back = decode(encode(Message({"weights": group({"w": ramp})}, round=1), values="uniform"))
    digest = hashlib.sha256(back.dense()["w"].numpy().tobytes()).hexdigest()
    assert digest[:16] == "15ba5d16695ab40b"


ARRAYS = {
    "numpy": {
        "w": np.arange(12.0).reshape(3, 4),
        "n": np.arange(5),
        "s": np.array(2.5, np.float32),
    },
    "torch": {"w": torch.arange(12.0).reshape(3, 4), "h": torch.ones(3, dtype=torch.bfloat16)},
}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_dumps_and_loads(kind: str) -> None:
    mask = np.arange(12).reshape(3, 4) % 2 == 0
    masks = {"w": mask if kind == "numpy" else torch.from_numpy(mask)}
    tensors, back = loads(dumps(ARRAYS[kind], masks))
    assert list(tensors) == list(ARRAYS[kind])
    assert type(tensors["w"]) is type(ARRAYS[kind]["w"])
    assert np.array_equal(tensors["w"], np.where(mask, np.arange(12.0).reshape(3, 4), 0))
    assert list(back) == ["w"]
    assert np.array_equal(back["w"], mask)
    for name, array in ARRAYS[kind].items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)


def test_loads_bounds_what_it_reads() -> None:
    with pytest.raises(WireError, match="parameters too many"):
        loads(dumps({"w": np.zeros((10, 10))}), max_parameters=99)
    with pytest.raises(WireError, match="table: must be what dumps wrote"):
        loads(encode(Message()))


def test_dumps_refuses_what_does_not_fit() -> None:
    with pytest.raises(SupportError, match="tensor of its name"):
        dumps({"w": np.zeros(3)}, {"v": np.ones(3, bool)})
    with pytest.raises(SupportError, match="bool"):
        dumps({"w": np.zeros(3)}, {"w": np.ones(3)})
    with pytest.raises(SupportError, match="shape"):
        dumps({"w": np.zeros(3)}, {"w": np.zeros(4, bool)})
    with pytest.raises(WireError, match="'w'"):
        dumps({"w": np.array(["a"])})
    with pytest.raises(ConfigError):
        dumps({"w": np.zeros(3)}, values="fp64")


EXAMPLES = re.findall(
    r"```hex ([\w-]+)\n(.*?)```",
    (Path(__file__).parents[2] / "docs/wire-format.md").read_text(),
    flags=re.DOTALL,
)


def example(name: str) -> bytes:
    lines = dict(EXAMPLES)[name].splitlines()
    return bytes.fromhex("".join(line.split("#")[0] for line in lines))


def test_the_examples_of_the_documentation_decode() -> None:
    dense = decode(example("dense"))
    assert (dense.round, dense.stage, dense.weight) == (1, "train", 8.0)
    assert dense.dense()["w"].tolist() == [1.0, -2.0]
    sparse = decode(example("sparse"))
    assert sparse.dense()["w"].nonzero().tolist() == [[0, 2], [1, 70], [2, 1]]
    support = sparse.groups["weights"]["w"].support
    held = decode(example("held"), held={support.digest: support})
    assert held.groups["weights"]["w"].support == support
    assert held.dense()["w"][support.indicator()].tolist() == [1.0, 2.0, 3.0]


def read_by(reader: Reader, data: bytes, held: dict[bytes, Support] | None = None) -> Message:
    return reader.read(reader.frame(data, Limits()), held or {})


def test_a_damaged_message_is_refused_before_and_after_a_whole_one() -> None:
    data, reader = encode(masked()), Reader()
    damaged = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    for one, whole in ((damaged, False), (data, True), (damaged, False), (data, True)):
        if whole:
            assert read_by(reader, one).dense().keys() == SHAPES.keys()
        else:
            with pytest.raises(ChecksumError):
                reader.frame(one, Limits())


def test_groups_that_come_again_are_read_once_whoever_they_are_for() -> None:
    message, reader = masked(), Reader()
    first = read_by(reader, encode(message))
    second = read_by(reader, encode(replace(message, client=9, note="other")))
    assert (second.client, second.note) == (9, "other")
    assert all(second.groups[name] is group for name, group in first.groups.items())
    changed = replace(message, groups={"weights": group({"scalar": torch.tensor(2.0)})})
    assert read_by(reader, encode(changed)).dense()["scalar"] == 2


def test_lossy_values_are_read_for_each_client_and_references_by_what_is_held() -> None:
    message, reader = masked(), Reader()
    packed = pack(message, values="uniform")
    for client in (4, 9):  # the same bytes mean other values for another client
        data = seal(replace(message, client=client), packed)
        found, told = read_by(reader, data), decode(data)
        assert torch.equal(found.dense()["head.weight"], told.dense()["head.weight"])
    mask = message.supports()["head.weight"]
    referring = encode(message, held={mask.digest: mask})
    assert read_by(reader, referring, {mask.digest: mask}).supports()["head.weight"] == mask
    with pytest.raises(UnknownSupport):
        read_by(reader, referring)


def test_what_was_read_before_is_held_to_the_bounds_of_today() -> None:
    data = encode(Message({"weights": group(model())}))
    assert decode(data).dense().keys() == SHAPES.keys()
    for bounds in (Limits(max_parameters=5000), Limits(max_tensors=3), Limits(schema={"conv.weight": (8, 4, 3, 3)})):
        with pytest.raises(WireError):
            decode(data, limits=bounds)
    assert account(data) == account_of(read_frame(data, Limits()))
