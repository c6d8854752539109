"""Layouts count, memories have sections, and a state that moves takes its zeros along."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.support import Support

LAYOUT = Layout(
    (
        Slot("conv.weight", (2, 3), prunable=True),
        Slot("conv.bias", (2,)),
        Slot("out.weight", (4, 1), prunable=True),
        Slot("norm.mean", (5,), buffer=True),
    )
)
ONE_OF_SIX = Support.masked(tensor([[True, False, False], [False, False, False]]))
SETTING = Setting(rounds=2, clients=3, seed=0, layout=LAYOUT)


def test_a_layout_counts_parameters_but_buffers_apart():
    assert LAYOUT.prunable == ("conv.weight", "out.weight")
    assert [slot.name for slot in LAYOUT.parameters] == ["conv.weight", "conv.bias", "out.weight"]
    assert LAYOUT.shapes["norm.mean"] == (5,)
    assert LAYOUT.count() == 6 + 2 + 4
    assert LAYOUT.count({"conv.weight": ONE_OF_SIX}) == 1 + 2 + 4


def test_density_is_the_share_of_prunable_weights():
    assert LAYOUT.density({}) == 1.0
    assert LAYOUT.density({"conv.weight": ONE_OF_SIX}) == (1 + 4) / (6 + 4)
    assert LAYOUT.density({"conv.bias": Support.masked(tensor([False, False]))}) == 1.0
    assert Layout((Slot("bias", (3,)),)).density({}) == 1.0
    assert Layout((Slot("empty", (0, 3), prunable=True),)).density({}) == 0.0


keys = st.text("ab/", min_size=1, max_size=5)


@settings(deadline=None)
@given(st.dictionaries(keys, st.integers()), st.dictionaries(keys, st.integers()))
def test_sections_keep_owners_apart(mine, yours):
    both = Memory(numbers=mine).under("mine").merge(Memory({"w": torch.ones(1)}, yours).under("my"))
    assert both.section("mine").numbers == mine
    assert not both.section("mine").tensors
    assert both.section("my").numbers == yours
    assert both.section("my").tensors.keys() == {"w"}
    assert not both.section("m")


def test_sections_of_a_large_memory_are_those_of_a_small_one(monkeypatch):
    tensors = {f"mask/{client}/{name}": tensor(client) for client in (7, 71, 2) for name in ("b/w", "a")}
    memory = Memory(tensors, {"last/7": 1, "mask/7/count": 2, "mask": 3})
    names = ("mask", "mask/7", "mask/7/b", "last", "mask/9", "las")
    small = [memory.section(name) for name in names]
    monkeypatch.setattr("fedbonsai.core.state.MANY", 0)
    assert list(small[1].tensors) == ["b/w", "a"]
    for _ in range(2):
        for name, known in zip(names, small, strict=True):
            found = memory.section(name)
            assert (list(found.tensors.items()), found.numbers) == (list(known.tensors.items()), known.numbers)


def test_of_merged_memories_the_later_wins():
    one, two = Memory({"w": tensor([1.0])}, {"x": 1, "y": "one"}), Memory({"w": tensor([2.0])}, {"y": "two"})
    merged = one.merge(two, Memory(numbers={"z": True}))
    assert merged.numbers == {"x": 1, "y": "two", "z": True}
    assert merged.tensors["w"].item() == 2.0
    assert one.numbers == {"x": 1, "y": "one"}


def test_only_an_empty_memory_is_false():
    assert not Memory()
    assert Memory(numbers={"x": 0})
    assert Memory({"w": torch.zeros(1)})


def test_a_moved_state_cuts_weights_and_what_the_optimizer_keeps_of_them():
    optimizer = Memory({"conv.weight/velocity": torch.ones(2, 3), "conv.bias/velocity": torch.ones(2)}, {"steps": 7})
    state = State(SETTING, {"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2)}, optimizer=optimizer)
    infinite = {"conv.weight": torch.full((2, 3), math.inf), "conv.bias": torch.ones(2)}
    moved = state.moved(infinite, {"conv.weight": ONE_OF_SIX, "conv.bias": Support.dense((2,))})
    assert moved.supports == {"conv.weight": ONE_OF_SIX}
    assert moved.weights["conv.weight"].tolist() == [[math.inf, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert moved.weights["conv.bias"].tolist() == [1.0, 1.0]
    assert moved.optimizer.tensors["conv.weight/velocity"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert moved.optimizer.tensors["conv.bias/velocity"].tolist() == [1.0, 1.0]
    assert moved.optimizer.numbers == {"steps": 7}
    assert (state.density, moved.density) == (1.0, 0.5)
    assert state.optimizer.tensors["conv.weight/velocity"].sum() == 6


def test_a_moved_state_keeps_its_supports_unless_given_others():
    state = State(SETTING, {"conv.weight": torch.zeros(2, 3)}, {"conv.weight": ONE_OF_SIX}, round=1, turn=2)
    again = state.moved({"conv.weight": torch.ones(2, 3)}, optimizer=Memory({"conv.weight/first": torch.ones(2, 3)}))
    assert again.weights["conv.weight"].sum() == again.optimizer.tensors["conv.weight/first"].sum() == 1
    assert (again.supports, again.round, again.turn) == (state.supports, 1, 2)
    freed = state.moved({"conv.weight": torch.ones(2, 3)}, {})
    assert freed.weights["conv.weight"].sum() == 6
    assert freed.density == pytest.approx(1.0)
