import pytest
import torch
from torch import tensor

from fedbonsai.sparsity.worth import without_smallest, worth_their_time


def test_the_greedy_choice_as_worked_by_hand():
    # Layer a takes 1 second a weight, b 2, everything else 1. a0 is kept: 4 in 1 + 1 seconds, 2 a second. By gain a
    # second: a1 6, b0 4, b1 3.5, a2 3. 6 > 2: a1 joins, 10 in 3. 4 > 10 / 3: b0 joins, 18 in 5. 3.5 < 18 / 5: the end.
    gains = {"a": tensor([4.0, 6.0, 3.0]), "b": tensor([8.0, 7.0])}
    kept = {"a": tensor([True, False, False]), "b": tensor([False, False])}
    found = worth_their_time(gains, {"a": 1.0, "b": 2.0}, kept, start=(0.0, 1.0), most=5)
    assert found["a"].tolist() == [True, True, False]
    assert found["b"].tolist() == [True, False]
    assert not kept["a"][1]  # what was given stays as it is
    capped = worth_their_time(gains, {"a": 1.0, "b": 2.0}, kept, start=(0.0, 1.0), most=2)
    assert capped["a"].tolist() == [True, True, False]
    assert capped["b"].tolist() == [False, False]
    # Gains elsewhere make it harder to be worth the time: 16 + 4 in 2 seconds is 10 a second.
    assert torch.equal(worth_their_time(gains, {"a": 1.0, "b": 2.0}, kept, (16.0, 1.0), 5)["a"], kept["a"])


@pytest.mark.parametrize("seed", range(30))
def test_the_greedy_choice_is_that_of_one_weight_at_a_time(seed):
    draw = torch.Generator().manual_seed(seed)
    gains = {name: torch.randint(20, (size,), generator=draw).float() ** 2 for name, size in (("a", 30), ("b", 20))}
    kept = {name: torch.rand(one.shape, generator=draw) < 0.2 for name, one in gains.items()}
    costs = {"a": 1.0, "b": 2.5}
    rest = [(-float(gains[n][i]) / costs[n], n, i) for n in gains for i in range(gains[n].numel()) if not kept[n][i]]
    gain = sum(float(one[kept[name]].sum()) for name, one in gains.items())
    time = 3.0 + sum(costs[name] * int(mask.sum()) for name, mask in kept.items())
    expected = {name: mask.clone() for name, mask in kept.items()}
    for ratio, name, index in sorted(rest):
        if -ratio <= gain / time:
            break
        gain, time = gain + float(gains[name][index]), time + costs[name]
        expected[name][index] = True
    found = worth_their_time(gains, costs, kept, start=(0.0, 3.0), most=50)
    assert all(torch.equal(found[name], expected[name]) for name in gains)


def test_times_that_hardly_differ_are_told_apart():
    gains, kept = {"a": tensor([1.0]), "b": tensor([1.0])}, {"a": tensor([False]), "b": tensor([False])}
    found = worth_their_time(gains, {"a": 1.0 + 2**-30, "b": 1.0}, kept, start=(0.0, 1.0), most=1)
    assert (found["a"].item(), found["b"].item()) == (False, True)


def test_the_smallest_of_the_present_may_go():
    masks, weights = {"w": tensor([True, False, True, True])}, {"w": tensor([0.0, 0.0, -3.0, 1.0])}
    assert without_smallest(masks, weights, share=2 / 3)["w"].tolist() == [False, False, True, False]
    assert without_smallest(masks, weights, share=0.3)["w"].tolist() == masks["w"].tolist()
