"""FLASH, worked by hand: what the server makes of the hunters' layers, a moved mask, and both averages of JMWST."""

import dataclasses

import pytest
import torch
from golden.scripted import SETTING, START, kept, next_round, scripted
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.message import Message, Part
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total
from fedbonsai.methods.flash import Flash

TWO = Layout((Slot("a", (1, 4), prunable=True), Slot("b", (2, 4), prunable=True)))
WEIGHTS = {"a": torch.arange(1.0, 5.0).reshape(1, 4), "b": torch.arange(5.0, 13.0).reshape(2, 4)}


def masked(*present: bool) -> dict[str, Support]:
    return {"w": Support.masked(tensor([present]))}


def trained_state(method: Flash, *present: bool) -> State:
    """The state of a run whose stage 1 is over, with this mask of ``w``."""
    state = method.init(SETTING, START).moved(START, masked(*present))
    return dataclasses.replace(state, memory=Memory(numbers={"hunted": True}))


def test_hunters_begin_with_the_same_random_mask_of_equal_densities():
    method = Flash(density=0.5, hunters=0.3)
    state = method.init(Setting(1, 10, 0, TWO), WEIGHTS)
    assert (method.plan(state).stage, method.plan(state).cohort) == ("hunt", 3)
    one, two = (method.distribute(state, client).supports() for client in (0, 1))
    assert one == two
    assert {name: support.count for name, support in one.items()} == {"a": 2, "b": 4}


def test_a_random_mask_has_the_layers_that_hunters_have_kept_on_average():
    method, total = Flash(density=0.5), Total("hunt")
    for kept_a, examples in ((3.0, 1.0), (2.0, 9.0)):
        total.add(Message({}, {"kept/a": kept_a, "kept/b": 6 - kept_a}, weight=examples))
    state = method.finalize(method.init(Setting(1, 10, 0, TWO), WEIGHTS), total)
    # 2.5 and 3.5 on average, whatever their examples; the half goes to the first of equal remainders. All weights are
    # the initial ones.
    assert {name: support.count for name, support in state.supports.items()} == {"a": 3, "b": 3}
    for name, support in state.supports.items():
        assert torch.equal(state.weights[name], support.apply(WEIGHTS[name]))
    assert method.plan(state).stage == "train"


@pytest.mark.parametrize("lie", [-1e308, 1e308])
def test_what_hunters_claim_is_bounded_by_what_there_is(lie):
    method, total = Flash(density=0.5), Total("hunt")
    for _ in range(2):
        total.add(Message({}, {"kept/a": lie, "kept/b": 4.0}, weight=1.0))
    state = method.finalize(method.init(Setting(1, 10, 0, TWO), WEIGHTS), total)
    # Of 4 weights a hunter keeps 0 at least and 4 at most: beside 4 of 8, one at its floor, or half of all.
    assert state.supports["a"].count == (1 if lie < 0 else 3)


def test_hunters_move_their_mask_and_send_no_weights():
    # After epoch 1 of 2 a rate of 1 has fallen to 1 / 2: one of two weights moves, and two are kept.
    learner = scripted([5.0, 1.0, 3.0], examples=1)
    method = Flash(density=2 / 3, hunt_epochs=2, prune_rate=1.0)
    state, (update,) = next_round(method, method.init(SETTING, START), [learner])
    assert not update.groups
    assert update.numbers == {"kept/w": 2.0}
    assert state.supports["w"].count == 2


def test_a_client_drops_its_smallest_and_grows_the_absent():
    # Half of the training is over: a rate of 1 / 2 moves one of two weights. Of w0 = 5 and w1 = 1 the smaller goes.
    method = Flash(density=2 / 3, variant="jmwst", prune_rate=1.0)
    _, (update,) = next_round(method, trained_state(method, True, True, False), [scripted([5.0, 1.0, 3.0], examples=1)])
    assert kept(update) == [True, False, True]


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        # One client, with 1 example, sends w0 = 2 and w1 = 8; the other, with 3, w0 = 6 and w2 = 4. Two weights stay.
        ("cohort", [20 / 4, 0.0, 12 / 4]),  # w1: 8 / 4 = 2
        ("holders", [20 / 4, 8.0, 0.0]),  # w1: 8, w2: 12 / 3 = 4
    ],
)
@pytest.mark.parametrize("recalibration", ["avg", "aggregate"])
def test_jmwst_averages_and_keeps_the_largest(denominator, expected, recalibration):
    method = Flash(density=2 / 3, variant="jmwst", denominator=denominator, recalibration=recalibration)
    total = Total()
    for present, values, examples in (
        ((True, True, False), [2.0, 8.0], 1.0),
        ((True, False, True), [6.0, 4.0], 3.0),
    ):
        total.add(Message({"weights": {"w": Part(tensor(values), masked(*present)["w"])}}, weight=examples))
    after = method.finalize(trained_state(method, True, False, True), total)
    torch.testing.assert_close(after.weights["w"], tensor([expected]))


def test_masks_rest_between_two_intervals_and_with_spdst():
    jmwst, spdst = Flash(density=2 / 3, variant="jmwst", interval=2), Flash(density=2 / 3)
    for method, finished, moves in ((jmwst, 0, True), (jmwst, 1, False), (jmwst, 2, True), (spdst, 0, False)):
        state = dataclasses.replace(trained_state(method, True, True, False), round=finished)
        assert ("move" in method.distribute(state, 0).numbers) == moves
        if not moves:
            after, (update,) = next_round(method, state, [scripted([5.0, 1.0, 3.0], examples=1)])
            assert kept(update) == [True, True, False]
            assert after.weights["w"].tolist() == [[5.0, 1.0, 0.0]]


def test_a_density_that_leaves_a_layer_empty_is_refused():
    with pytest.raises(ConfigError, match="density must be at least"):
        Flash(density=0.05).init(Setting(1, 10, 0, TWO), WEIGHTS)
    with pytest.raises(ConfigError, match="interval=2 would not be used"):
        Flash(interval=2)
