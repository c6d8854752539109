"""One round of local-prune, worked by hand: two clients, one layer of three weights, one of each switch."""

import dataclasses

import pytest
import torch
from golden.scripted import Scripted, kept, next_round, one_round, scripted
from torch import tensor

from fedbonsai.methods.local_prune import LocalPrune


def clients() -> list[Scripted]:
    """Of three weights each keeps two (density 2/3): one, with 1 example, w0 and w1; two, with 3, w0 and w2."""
    return [scripted([2.0, 8.0, 0.5], examples=1), scripted([6.0, 0.25, 4.0], examples=3)]


def test_each_client_keeps_its_own_largest():
    _, (one, two) = one_round(LocalPrune(density=2 / 3), clients())
    assert kept(one) == [True, True, False]
    assert kept(two) == [True, False, True]


@pytest.mark.parametrize(
    ("denominator", "absent", "expected"),
    [
        # Votes: w0 has 4 examples, w1 has 1, w2 has 3: two weights stay, w0 and w2, and w1 goes whatever its value.
        ("holders", "zero", [(2 + 18) / 4, 0.0, 12 / 3]),
        ("holders", "keep", [(2 + 18) / 4, 0.0, 12 / 3]),
        ("cohort", "zero", [(2 + 18) / 4, 0.0, 12 / 4]),
        ("cohort", "keep", [(2 + 18) / 4, 0.0, (12 + 1 * 1) / 4]),
    ],
)
def test_masks_are_averaged_and_voted_as_worked_by_hand(denominator, absent, expected):
    method = LocalPrune(density=2 / 3, denominator=denominator, absent=absent)
    state, _ = one_round(method, clients())
    torch.testing.assert_close(state.weights["w"], tensor([expected]))
    assert state.supports["w"].indicator().tolist() == [[True, False, True]]


def test_the_server_moves_by_alpha():
    state, _ = one_round(LocalPrune(density=2 / 3, server_lr=0.1), clients())
    # w0: 1 + 0.1 (5 - 1) = 1.4; w2: 1 + 0.1 (4 - 1) = 1.3; w1 was voted out.
    torch.testing.assert_close(state.weights["w"], tensor([[1.4, 0.0, 1.3]]))


def test_a_threshold_removes_what_equals_it():
    learners = [scripted([2.0, 0.5, 0.6], examples=1), scripted([3.0, 0.5, 0.4], examples=1)]
    state, updates = one_round(LocalPrune(threshold=0.5, threshold_scale="absolute", warmup=0.0), learners)
    assert [kept(update) for update in updates] == [[True, False, True], [True, False, False]]
    # They kept 2 and 1, so 1.5 on average: round(1.5) = 2, w0 (2 votes) and w2 (1 vote, value 0.6 of its holder).
    torch.testing.assert_close(state.weights["w"], tensor([[2.5, 0.0, 0.6]]))


def test_recovery_by_gradient_grows_what_was_absent():
    method = LocalPrune(density=2 / 3, recover="gradient", regrow=0.5)
    state, _ = one_round(method, clients())  # w1 is absent now
    learner = scripted([5.0, 0.0, 4.0], examples=1, gradient=(9.0, 3.0, 9.0))
    _, (update,) = next_round(method, state, [learner])
    # Of 2 weights round(0.5 * 2) = 1 is swapped: w2, the smaller, goes; of the absent (w1 alone) w1 comes, as zero.
    assert kept(update) == [True, True, False]
    assert update.dense()["w"].tolist() == [[5.0, 0.0, 0.0]]


def test_rollback_brings_back_what_hurt():
    # The output of (1, 0.9, 1.2) is 3.1 and should be 3: loss 0.01. Without w1 it is 2.2: loss 0.64.
    method = LocalPrune(density=2 / 3, recover="rollback", tolerance=0.1)
    _, (update,) = one_round(method, [scripted([1.0, 0.9, 1.2], examples=1)])
    assert kept(update) == [True, True, True]
    assert update.numbers["rolled_back"] == 1
    _, (update,) = one_round(dataclasses.replace(method, tolerance=1e9), [scripted([1.0, 0.9, 1.2], examples=1)])
    assert kept(update) == [True, False, True]
