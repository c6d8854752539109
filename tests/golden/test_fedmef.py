"""FedMef worked by hand: two steps of extrusion, a pruned activation, and an adjustment."""

import pytest
import torch
from golden.scripted import SETTING, START, one_round, scripted
from torch import nn, tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory
from fedbonsai.core.support import Support
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.methods.fedmef import FedMef

PRESENT = {"weight": Support.masked(tensor([[True, False, True, True, False]]))}


def trained(method: FedMef, inputs, swap: float, **work) -> list[float]:
    """What a client makes of the weights 5, -0.3 and 0.4 (two more are absent) of a layer whose output should be 0."""
    task = Task(
        model=lambda: nn.Linear(5, 1, bias=False),
        loss="mse",
        clients=[(tensor([inputs]), torch.zeros(1, 1))],
        test=(torch.zeros(1, 5), torch.zeros(1, 1)),
    )
    bench = Bench(task.prepared(0.0, seed=0), Work(**work), seed=0)
    message = Message({"weights": group({"weight": tensor([[5.0, 0.0, -0.3, 0.4, 0.0]])}, PRESENT)}, {"swap": swap})
    update, _ = method.work(message, Memory(), Learner(bench, 0))
    return update.dense()["weight"][0].tolist()


NOTHING = [0.0] * 5
METHOD = FedMef(penalty=0.5, boost=10.0, max_lr=1.0, activation=0.0)


def test_two_steps_push_the_smallest_present_weights_out():
    # No input, so the loss has no gradient. k = int(0.7 * 3) = 2: theta_low = (-0.3, 0.4), none of the absent zeros.
    # Its norm is 0.5 and its direction (-0.6, 0.8), which no step changes; the gradient is 0.5 (-0.6, 0.8).
    # Step 0 of 2: 2 sigmoid(0.7) - 1 = 0.336376, (4 - 0) / (4 - 0) = 1: lr = 10 * 0.1 * 0.336376. The norm falls by
    # half of it to 0.331812. Step 1: ||theta_low||_1 = 1.4 * 0.331812 = 0.464537, 2 sigmoid(0.464537) - 1 = 0.228182,
    # (4 - 2) / (4 - 1) = 2/3: lr = 0.152121, the norm falls to 0.255752.
    found = trained(METHOD, NOTHING, swap=0.7, lr=0.1, steps=2)
    assert found == pytest.approx([5.0, 0.0, -0.6 * 0.255752, 0.8 * 0.255752, 0.0], rel=1e-5)


def test_the_learning_rate_has_a_floor_and_a_ceiling():
    # The floor is the run's own: 0.5 > 0.1 * 0.5 * 0.336376. The norm falls by 0.5 * 0.5 to 0.25.
    low = trained(FedMef(penalty=0.5, boost=0.1, max_lr=1.0, activation=0.0), NOTHING, swap=0.7, lr=0.5)
    assert low == pytest.approx([5.0, 0.0, -0.15, 0.2, 0.0])
    # The ceiling: 0.2 < 10 * 0.1 * 0.336376. The norm falls by 0.5 * 0.2 to 0.4.
    high = trained(FedMef(penalty=0.5, boost=10.0, max_lr=0.2, activation=0.0), NOTHING, swap=0.7, lr=0.1)
    assert high == pytest.approx([5.0, 0.0, -0.24, 0.32, 0.0])


def test_nothing_is_pushed_out_in_a_round_without_adjustment():
    assert trained(METHOD, NOTHING, swap=0.0, lr=0.5) == pytest.approx([5.0, 0.0, -0.3, 0.4, 0.0])


def test_small_activations_are_forgotten_by_the_backward_pass():
    # Output 5 * 0.1 - 0.3 * 2 + 0.4 * 1 = 0.3, its square has the gradient 0.6 x. Of five inputs int(0.6 * 5) = 3 are
    # dropped, the zeros and 0.1: w = (5, -0.3 - 0.1 * 0.6 * 2, 0.4 - 0.1 * 0.6 * 1).
    inputs = [0.1, 0.0, 2.0, 1.0, 0.0]
    assert trained(FedMef(activation=0.6), inputs, swap=0.0, lr=0.1) == pytest.approx([5.0, 0.0, -0.42, 0.34, 0.0])
    assert trained(FedMef(activation=0.0), inputs, swap=0.0, lr=0.1)[0] == pytest.approx(5.0 - 0.1 * 0.6 * 0.1)


def test_the_server_swaps_what_was_pushed_out():
    both = [scripted((2.0, 8.0, 7.0), 1, (0.0, 0.0, 1.0)), scripted((6.0, 0.0, 7.0), 3, (0.0, 0.0, 1.0))]
    state, _ = one_round(FedMef(density=2 / 3, alpha=0.5), both)
    # w0 = (2 + 18) / 4 = 5, w1 = 8 / 4 = 2: w1 goes, and w2, the only absent one, comes as 0.
    torch.testing.assert_close(state.weights["w"], tensor([[5.0, 0.0, 0.0]]))
    assert state.supports["w"].indicator().tolist() == [[True, False, True]]


def test_a_density_that_empties_a_layer_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0.3333.*got 0.1"):
        FedMef(density=0.1).init(SETTING, START)
