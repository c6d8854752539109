import gc

import pytest
import torch
from torch import Tensor

from fedbonsai.core.held import Held
from fedbonsai.core.support import Support


def mask(seed: int, size: int = 64) -> Support:
    drawn: Tensor = torch.rand(2, size // 2, generator=torch.Generator().manual_seed(seed)) < 0.5
    return Support.masked(drawn)


def test_clients_that_hold_the_same_share_it_and_it_is_packed():
    held = Held.of({1: (mask(0), mask(1)), 2: (mask(0), mask(1)), 3: (mask(1),)})
    assert held.clients[1] is held.clients[2]
    assert held.clients[1].masks[1] is held.clients[3].masks[0]
    assert len(held.clients[3].masks[0].bits) == 64 // 8
    assert held[1] == (mask(0), mask(1))
    assert {**held} == {1: held[1], 2: held[1], 3: held[3]}
    assert held.get(9, ()) == ()
    assert Held.of(held) is held


def test_the_next_state_leaves_the_one_before_as_it_was():
    before = Held.of({1: (mask(0),), 2: (mask(1),)})
    after = before.after({1: before.holding([mask(2), mask(2)]), 2: before.holding([]), 3: before.holding([mask(1)])})
    assert dict(before) == {1: (mask(0),), 2: (mask(1),)}
    assert dict(after) == {1: (mask(2),), 3: (mask(1),)}


@pytest.mark.parametrize("ready", [0, 1 << 20])
def test_what_nobody_holds_any_more_is_forgotten(monkeypatch, ready):
    monkeypatch.setattr("fedbonsai.core.held.READY", ready)
    held = Held()
    for turn in range(20):
        held = held.after({client: held.holding([mask(turn), mask(100 + client)]) for client in range(3)})
    gc.collect()
    assert len(held._pool.masks) == 4
    assert len(held._pool.holdings) == 3
    assert dict(held) == {client: (mask(19), mask(100 + client)) for client in range(3)}
    assert len(held._pool.ready) == (1 if ready == 0 else 23)
    assert held._pool.size == sum(64 + 8 * one.count for one in held._pool.ready.values())
