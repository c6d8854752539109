"""One round of FedSparsify, worked by hand: two clients, one layer of three weights, each scope and each merge."""

import dataclasses

import pytest
import torch
from golden.scripted import SETTING, Scripted, kept, next_round, one_round, scripted
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.methods.fedsparsify import FedSparsify


def clients() -> list[Scripted]:
    """One with 1 example, trained to (2, 8, 0.5), and one with 3, trained to (6, 0.25, 4)."""
    return [scripted([2.0, 8.0, 0.5], examples=1), scripted([6.0, 0.25, 4.0], examples=3)]


def test_the_server_purges_what_it_has_merged():
    # Mean: w0 (2 + 18) / 4 = 5, w1 (8 + 0.75) / 4 = 2.1875, w2 (0.5 + 12) / 4 = 3.125. Two of three stay: w0 and w2.
    state, updates = one_round(FedSparsify(density=2 / 3), clients())
    assert [kept(update) for update in updates] == [[True] * 3] * 2
    torch.testing.assert_close(state.weights["w"], tensor([[5.0, 0.0, 3.125]]))


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        # One client keeps w0 and w1, the other w0 and w2; an absent weight is a zero in the mean over all 4 examples.
        ("average", [20 / 4, 8 / 4, 12 / 4]),
        # w1 has 1 vote of 4, less than half; w2 has 3.
        ("majority", [20 / 4, 0.0, 12 / 4]),
    ],
)
def test_clients_purge_and_the_server_merges(merge, expected):
    state, updates = one_round(FedSparsify(density=2 / 3, scope="local", merge=merge), clients())
    assert [kept(update) for update in updates] == [[True, True, False], [True, False, True]]
    torch.testing.assert_close(state.weights["w"], tensor([expected]))


def test_half_of_the_votes_are_enough():
    even = [dataclasses.replace(client, examples=2) for client in clients()]
    state, _ = one_round(FedSparsify(density=2 / 3, scope="local", merge="majority"), even)
    torch.testing.assert_close(state.weights["w"], tensor([[16 / 4, 16 / 4, 8 / 4]]))


@pytest.mark.parametrize(("nested", "second"), [(True, [True, False, False]), (False, [False, True, False])])
def test_a_purged_weight_comes_back_unless_masks_are_nested(nested, second):
    method = FedSparsify(density=1 / 3, scope="local", nested=nested)
    state, _ = one_round(method, [scripted([3.0, 2.0, 1.0], examples=1)])
    assert state.weights["w"].tolist() == [[3.0, 0.0, 0.0]]
    _, (update,) = next_round(method, state, [scripted([3.0, 9.0, 1.0], examples=1)])
    assert kept(update) == second


def test_the_density_falls_along_a_cubic_in_steps_of_the_frequency():
    # Of 27 weights, T = 6, F = 2: s_t = 2/3 (1 - (1 - t'/6)^3) with t' = 0, 2, 2, 4, 4, 6 after rounds 1 to 6.
    # 1 - s_2 = 1/3 + 2/3 (2/3)^3 = 43/81; 1 - s_4 = 1/3 + 2/3 (1/3)^3 = 29/81.
    method = FedSparsify(density=1 / 3, frequency=2)
    state = method.init(dataclasses.replace(SETTING, rounds=6), {"w": torch.ones(1, 3)})
    densities = [method._density(dataclasses.replace(state, round=done)) for done in range(6)]
    assert densities == pytest.approx([1, 43 / 81, 43 / 81, 29 / 81, 29 / 81, 1 / 3])


def test_a_frequency_that_does_not_divide_the_run_still_reaches_the_density():
    method = FedSparsify(density=1 / 3, frequency=4)
    state = method.init(dataclasses.replace(SETTING, rounds=6), {"w": torch.ones(1, 3)})
    assert method._density(dataclasses.replace(state, round=5)) == pytest.approx(1 / 3)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match="start must not be later than reach"):
        FedSparsify(start=0.9, reach=0.5)
    with pytest.raises(ConfigError, match="merge=majority would not be used"):
        FedSparsify(merge="majority")
    with pytest.raises(ConfigError, match="density must be at least"):
        FedSparsify(density=0.01).init(SETTING, {"w": torch.ones(1, 3)})
