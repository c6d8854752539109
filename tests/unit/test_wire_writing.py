"""Equal messages are equal bytes, on every machine and in every version: what the encoder chooses is pinned.

Only before compression, which is up to zstd. Another digest here means that something is written otherwise than before:
runs can no longer be compared bit for bit with older ones, and if it was not meant, it is a fault.
"""

import hashlib
import random

import pytest
import torch

from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import SETTINGS, encode, seeded_support


@pytest.fixture(autouse=True)
def _nothing_is_compressed(monkeypatch):
    for module in ("streams", "frame"):
        monkeypatch.setattr(f"fedbonsai.wire.{module}.squeeze", lambda data, _: data)


def draw(*shape, seed=0):
    """Numbers in [-1, 1) by Python's generator, whose draws are the same in every version."""
    count, chance = torch.Size(shape).numel(), random.Random(seed)
    return torch.tensor([2 * chance.random() - 1 for _ in range(count)]).reshape(shape)


def digest(message, **options):
    return hashlib.sha256(encode(message, **options)).hexdigest()[:8]


MASKS = {
    "half": Support.masked(draw(40, 25) > 0),
    "third": Support.masked(draw(40, 25, seed=1) > 0.3),
    "few": Support.masked(draw(40, 25, seed=2) > 0.95),
    "most": Support.masked(draw(40, 25, seed=3) < 0.9),
    "far": Support.at((200, 500), torch.tensor([3, 4, 600, 99_999])),
    "clustered": Support.at((5000,), torch.tensor([*range(1, 400, 2), 1800, 4999])),
    "run": Support.at((50, 20), torch.arange(100, 300)),
    "rows": Support.masked((draw(9, 1, 1, seed=4) > 0).expand(9, 4, 6).contiguous()),
    "columns": Support.masked((draw(1, 60, seed=5) > 0).expand(30, 60).contiguous()),
    "same columns": Support.masked((draw(8, 1, seed=4) > 0) & (draw(1, 60, seed=5) > 0)),
    "nested": Support.masked((draw(8, 1, 1, seed=4) > 0) & (draw(1, 9, 1) > 0) & (torch.arange(5) < 2)),
    "2 of 4": Support.masked(torch.tensor([True, False, True, False, False, True, True, False]).repeat(40)),
    "3 of 16": Support.masked(torch.tensor([True] * 2 + [False] * 13 + [True]).repeat(40)),
    "grid": Support.grid((12, 30), [torch.arange(0, 12, 5), torch.arange(3, 20)]),
    "none": Support.masked(torch.zeros(6, 6).bool()),
}
VALUES = {
    "matrix": draw(30, 21, seed=6),
    "outlier": torch.cat([draw(30, 20, seed=7), torch.full((1, 20), 999.0)]),
    "vector": draw(8192, seed=8),
    "small": draw(7, 9, seed=9),
    "signs": draw(30, 20, seed=10).sign(),
    "double": draw(9, 9, seed=11).double(),
    "brief": draw(9, 9, seed=12).bfloat16(),
    "bools": draw(9, 9, seed=13) > 0,
    "integers": torch.arange(20),
}


def values():
    return Message({"weights": group(VALUES), "more": group(VALUES)}, {"loss": 0.5}, 7.0, 3, 2, "train", "note")


def supports(names=tuple(MASKS)):
    return Message({"weights": group({n: draw(*MASKS[n].shape) for n in names}, {n: MASKS[n] for n in names})})


PINNED = {
    "bf16": "3edb3375",
    "bits": "0b426015",
    "delta": "42627c35",
    "fp16": "1f4b878c",
    "fp32": "42627c35",
    "int4": "e7605f9c",
    "int8": "94c40cbb",
    "raw": "a8da0dc3",
    "sign": "174ce7ac",
    "ternary": "d3857722",
    "uniform": "577c6632",
    "half": "d0d6a61f",
    "third": "3da74ff2",
    "few": "c629b396",
    "most": "98b28c50",
    "far": "0cfddb2a",
    "clustered": "331826ed",
    "run": "5092fe39",
    "rows": "30dc7876",
    "columns": "075a89c8",
    "same columns": "6258585f",
    "nested": "13801d20",
    "2 of 4": "398354c9",
    "3 of 16": "fa6499eb",
    "grid": "5d70cdfd",
    "none": "ca8d6e32",
    "all": "346e93fc",
    "held": "432d39be",
    "changed": "677442a0",
    "seeded": "6119e68f",
    "difference": "3befe4b7",
}


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_values_are_coded_as_ever(setting):
    assert digest(values(), values=setting) == PINNED[setting]


@pytest.mark.parametrize("name", MASKS)
def test_supports_are_coded_as_ever(name):
    assert digest(supports([name])) == PINNED[name]


def test_supports_of_one_message_refer_to_each_other_as_ever():
    message = supports()
    assert digest(Message({"weights": message.groups["weights"], "more": message.groups["weights"]})) == PINNED["all"]


def test_what_is_held_is_referred_to_as_ever():
    held = {one.digest: one for one in MASKS.values()}
    assert digest(supports(), held=held) == PINNED["held"]
    base = Support.masked(draw(200, 100, seed=14) > 0.5)
    mask = base.indicator().clone().reshape(-1)
    mask[base.positions[::40]] = False
    mask[:9] = True
    part = {"w": Support.masked(mask.reshape(200, 100))}
    message = Message({"weights": group({"w": draw(200, 100)}, part)})
    assert digest(message, held=held | {base.digest: base}) == PINNED["changed"]


def test_seeds_and_differences_are_written_as_ever():
    support = seeded_support((30, 21), 100, seed=5)
    message = Message({"weights": group({"matrix": VALUES["matrix"]}, {"matrix": support})})
    assert digest(message, seeds={support.digest: 5}) == PINNED["seeded"]
    base = {"weights": group({name: one + 1 if one.is_floating_point() else one for name, one in VALUES.items()})}
    assert digest(values(), values="delta", base=base) == PINNED["difference"]
