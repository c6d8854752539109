"""FedDIP, worked by hand: a client's steps with feedback and penalty, the stairs, and the choice of the mask."""

import pytest
import torch
from torch import nn, tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, contribution
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.methods.feddip import FedDIP, pruned_layers

LAYOUT = Layout((Slot("a", (1, 3), prunable=True), Slot("out", (1, 1), prunable=True)))
START = {"a": torch.ones(1, 3), "out": torch.ones(1, 1)}
FIRST_TWO = {"a": Support.masked(tensor([[True, True, False]]))}


def state(rounds: int = 1, done: int = 0) -> State:
    return State(Setting(rounds, clients=2, seed=0, layout=LAYOUT), START, round=done)


def total(*rows: list[float], supports: dict[str, Support] | None = None) -> Total:
    """The sum of clients with 1, 3, ... examples who trained the first layer to ``rows``."""
    found = Total()
    for place, row in enumerate(rows):
        found.add(contribution({"a": tensor([row]), "out": tensor([[0.01]])}, supports, 1 + 2 * place))
    return found


@pytest.mark.parametrize(
    ("penalty", "steps", "first", "last"),
    [
        # Output v (w0 x0 + w1 x1) at x = (1, 1), target 6, loss squared; w = (1, 0) with w1 pruned, v = 2, lr 0.1.
        # Output 2, its gradient 2 (2 - 6) = -8; of w0 and of w1 -8 v = -16, of v -8 (1) = -8.
        (0.0, 1, [2.6, 1.6], 2.8),
        # The model is w' = (2.6, 0), whatever w1 is: output 2.8 (2.6) = 7.28, gradient 2.56; of w0 and w1 2.56 (2.8) =
        # 7.168, of v 2.56 (2.6) = 6.656.
        (0.0, 2, [2.6 - 0.7168, 1.6 - 0.7168], 2.8 - 0.6656),
        # The norm of w' = (1, 0) has the gradient (1, 0); the last layer is not pruned and not penalised.
        (5.0, 1, [1 + 0.1 * (16 - 5), 1.6], 2.8),
    ],
)
def test_a_pruned_weight_collects_the_gradients_of_the_pruned_model(penalty, steps, first, last):
    task = Task(
        model=lambda: nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)),
        loss="mse",
        clients=[(torch.ones(1, 2), tensor([[6.0]]))],
        test=(torch.ones(1, 2), tensor([[6.0]])),
    )
    bench = Bench(task.prepared(0.0, seed=0), Work(lr=0.1, epochs=steps), seed=0)
    supports = {"0.weight": Support.masked(tensor([[True, False]]))}
    weights = group({"0.weight": tensor([[1.0, 0.0]]), "1.weight": tensor([[2.0]])}, supports)
    for collect in (1.0, 0.0):
        sent = Message({"weights": weights}, {"penalty": penalty, "collect": collect})
        update, _ = FedDIP(density=0.8).work(sent, Memory(), Learner(bench, 0))
        expected = tensor([[first[0], first[1] if collect else 0.0]])
        torch.testing.assert_close(update.dense()["0.weight"], expected)
        torch.testing.assert_close(update.dense()["1.weight"], tensor([[last]]))
        assert update.supports() == ({} if collect else supports)


def test_the_penalty_climbs_from_none_to_its_maximum_in_equal_stairs():
    # 40 rounds in 20 parts of 2; 19 steps to 19.
    method = FedDIP(penalty=19.0)
    weights = [method.distribute(state(40, done), 0).numbers["penalty"] for done in range(40)]
    assert weights == [done // 2 for done in range(40)]


def test_the_mask_keeps_the_largest_of_the_mean_and_the_last_layer_whole():
    # Mean: (2 + 18) / 4 = 5, (8 + 0.75) / 4 = 2.1875, (0.5 + 12) / 4 = 3.125. Of 4 weights 3 stay: out, small as it is.
    after = FedDIP(density=0.75).finalize(state(), total([2.0, 8.0, 0.5], [6.0, 0.25, 4.0]))
    torch.testing.assert_close(after.weights["a"], tensor([[5.0, 0.0, 3.125]]))
    assert after.weights["out"].item() == pytest.approx(0.01)


def test_between_two_masks_nothing_is_pruned():
    method = FedDIP(density=0.5, period=2)
    assert method.finalize(state(rounds=2, done=0), total([2.0, 8.0, 0.5])).density == 1.0
    assert method.finalize(state(rounds=2, done=1), total([2.0, 8.0, 0.5])).density == 0.5


def test_the_density_falls_along_a_cubic():
    # After 1 of 4 times: 1/2 + 1/2 (1 - 1/4)^3 = 0.711, of 4 weights 2.84, so 3.
    assert FedDIP(density=0.5, period=1).finalize(state(rounds=4), total([2.0, 8.0, 0.5])).density == 0.75


@pytest.mark.parametrize(("feedback", "expected"), [(True, [0.0, 7.0, 8.0]), (False, [5.0, 7.0, 0.0])])
def test_a_pruned_weight_comes_back_with_feedback_alone(feedback, expected):
    before = state().moved(START, FIRST_TWO)
    sums = total([5.0, 7.0, 8.0], supports={} if feedback else FIRST_TWO)
    after = FedDIP(density=0.75, feedback=feedback).finalize(before, sums)
    assert after.weights["a"].tolist() == [expected]


def test_the_first_mask_has_the_initial_density():
    begun = FedDIP(density=0.5, initial_density=0.75).init(state().setting, START)
    assert begun.density == 0.75
    assert set(begun.supports) == {"a"}


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(ConfigError, match=r"must be at least 0\.5 to keep the floor"):
        FedDIP(density=0.3).init(state().setting, START)
    with pytest.raises(ConfigError, match="needs parameters of two or more dimensions"):
        FedDIP().init(Setting(1, 1, 0, Layout((Slot("bias", (3,)),))), {})
    with pytest.raises(ConfigError, match="must not be above initial_density"):
        FedDIP(density=0.5, initial_density=0.4)


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.75, ("fc",)), (0.65, ("fc",)), (0.6, ("conv", "fc", "out"))],  # 6 + 6 whole and one of 8: at least 13 of 20
)
def test_a_first_convolution_and_the_last_layer_are_whole_where_the_density_leaves_room(density, expected):
    shapes = {"conv": (2, 1, 3), "fc": (2, 4), "out": (3, 2)}
    layout = Layout(tuple(Slot(name, shape, prunable=True) for name, shape in shapes.items()))
    assert pruned_layers(layout, density) == expected
