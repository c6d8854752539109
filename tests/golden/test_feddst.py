"""A readjustment round of FedDST, worked by hand: two clients, one layer of three weights."""

import dataclasses

import pytest
import torch
from golden.scripted import SETTING, START, Scripted, kept, next_round, one_round, scripted
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.methods.feddst import FedDST

METHOD = FedDST(density=2 / 3, alpha=0.5)


@dataclasses.dataclass
class InTwoParts(Scripted):
    """Trains two steps, to what the test says before and after its readjustment."""

    later: tuple[float, ...] = ()
    steps = 2

    def fit(self, weights, supports=None, *, part=0, **_):
        self.seen = weights["w"]
        fit = super().fit(weights, supports)
        return dataclasses.replace(fit, weights={"w": supports["w"].apply(tensor([self.later]))}) if part else fit


def client(first, later, examples) -> InTwoParts:
    script = scripted(first, examples, gradient=(9.0, 9.0, 3.0))
    return InTwoParts(**(vars(script) | {"later": later}))


def clients() -> list[InTwoParts]:
    # Of three weights of 1 two are present: w0 and w1, for ties go to the lower index. int(0.5 * 2) = 1 is swapped.
    # One (1 example) trains to (2, 8): w0 goes. Two (3 examples) trains to (5, 0.25): w1 goes. Only w2 is absent and
    # comes, though both gradients beside it are larger.
    return [client((2.0, 8.0, 7.0), (7.0, 6.0, 1.0), 1), client((5.0, 0.25, 7.0), (4.0, 7.0, 3.0), 3)]


def test_clients_grow_only_what_is_absent_and_train_on_from_zero():
    both = clients()
    _, (one, two) = one_round(METHOD, both)
    assert (kept(one), kept(two)) == ([False, True, True], [True, False, True])
    # What the second part begins with: the first part's result on the old mask; the grown weight has no value yet.
    assert [learner.seen.tolist() for learner in both] == [[[2.0, 8.0, 0.0]], [[5.0, 0.25, 0.0]]]
    assert [update.dense()["w"].tolist() for update in (one, two)] == [[[0.0, 6.0, 1.0]], [[4.0, 0.0, 3.0]]]


def test_the_server_averages_over_holders_and_prunes_back():
    state, _ = one_round(METHOD, clients())
    # Over holders: w0 = 3 * 4 / 3 = 4, w1 = 1 * 6 / 1 = 6, w2 = (1 * 1 + 3 * 3) / 4 = 2.5. Two stay: w0 and w1.
    # Over the cohort it would be 12 / 4 = 3, 6 / 4 = 1.5 and 2.5, and w1 would go.
    torch.testing.assert_close(state.weights["w"], tensor([[4.0, 6.0, 0.0]]))
    assert state.supports["w"].indicator().tolist() == [[True, True, False]]


def test_what_nobody_holds_becomes_zero_and_absent():
    both = [client((2.0, 8.0, 0.0), (0.0, 6.0, 1.0), 1), client((1.0, 5.0, 0.0), (0.0, 4.0, 3.0), 3)]
    state, _ = one_round(METHOD, both)
    # Both drop w0. It was 1 and is 0 now; w1 = (6 + 12) / 4 = 4.5, w2 = (1 + 9) / 4 = 2.5.
    torch.testing.assert_close(state.weights["w"], tensor([[0.0, 4.5, 2.5]]))


def test_masks_rest_between_readjustments_and_after_the_last():
    state = METHOD.init(dataclasses.replace(SETTING, rounds=4), START)
    # Of 4 rounds the first half may readjust, every 10th; so round 2 does, by 0.5 / 2 (1 + cos(pi / 2)) = 0.25.
    shares = []
    for _ in range(4):
        shares.append(METHOD.distribute(state, 0).numbers["swap"])
        state, updates = next_round(METHOD, state, clients())
        assert shares[-1] or all(kept(one) == state.supports["w"].indicator()[0].tolist() for one in updates)
    assert shares == pytest.approx([0.0, 0.25, 0.0, 0.0])


def test_a_density_that_empties_a_layer_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0.3333.*got 0.1"):
        FedDST(density=0.1).init(SETTING, START)
