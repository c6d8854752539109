"""FL-SNIP, worked by hand: the saliency of two clients, the sign of GraSP, and two cuts of SynFlow."""

import dataclasses

import pytest
import torch
from golden.scripted import LAYOUT, SETTING, START, Scripted, kept, next_round, one_round, scripted
from torch import nn, tensor

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.core.state import Setting
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.methods.fl_snip import FLSnip


class Curved(Scripted):
    """A client whose script is the Hessian times the gradient."""

    def hessian_gradient(self, weights, **_):
        return {"w": self.gradient}


def clients() -> list[Scripted]:
    """Sizes of the gradients (8, 0, 0) with 1 example, and (0, 1, 3) with 3: by examples 8, 3 and 9, all over 4."""
    return [
        scripted([2.0, 8.0, 0.5], examples=1, gradient=(-8.0, 0.0, 0.0)),
        scripted([6.0, 0.25, 4.0], examples=3, gradient=(0.0, 1.0, -3.0)),
    ]


@pytest.mark.parametrize(
    ("density", "expected"), [(1 / 3, [False, False, True]), (2 / 3, [True, False, True]), (1.0, [True] * 3)]
)
def test_the_mask_keeps_the_best_of_the_sum_by_examples(density, expected):
    state, updates = one_round(FLSnip(density=density), clients())
    assert state.round == (density == 1.0)
    if density < 1.0:
        assert updates[0].groups["scores"]["w"].values.tolist() == [8.0, 0.0, 0.0]
        # The weights that stay are the initial ones.
        assert state.weights["w"].tolist() == [[float(one) for one in expected]]


def test_then_only_the_mask_is_trained_and_sent():
    method = FLSnip(density=2 / 3)
    state, _ = one_round(method, clients())
    state, updates = next_round(method, state, clients())
    assert [kept(update) for update in updates] == [[True, False, True]] * 2
    # The mean of 2 and 3 times 6, and of 0.5 and 3 times 4.
    torch.testing.assert_close(state.weights["w"], tensor([[5.0, 0.0, 3.125]]))


def test_grasp_keeps_what_the_gradient_flow_would_lose():
    # w * H g = (-9, 1, 2): the first hinders the flow, and goes although it is the largest in size.
    learner = Curved(clients()[0].bench, 0, gradient=tensor([[-9.0, 1.0, 2.0]]))
    state, _ = one_round(FLSnip(density=2 / 3, criterion="grasp"), [learner])
    assert state.weights["w"].tolist() == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [
        # |W| = ((1, 2), (0.1, 3)), |V| = (4, 5), input (1, 1): hidden 3 and 3.1. Scores of W: (4, 8), (0.5, 15); of V
        # 12 and 15.5. The best 3 of 6 are 15.5, 15 and 12.
        (1, [[0.0, 0.0], [0.0, 3.0]], [[-4.0, 5.0]]),
        # Two cuts by the root of 1/2: round(4.24) = 4 first, with the 8 of W. Hidden 2 and 3 now; scores 8 and 15 of W,
        # 8 and 15 of V: 3 stay, and of two 8s the earlier.
        (2, [[0.0, -2.0], [0.0, 3.0]], [[0.0, 5.0]]),
    ],
)
def test_synflow_cuts_in_steps(steps, first, last):
    task = Task(
        model=lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)),
        loss="mse",
        clients=[(tensor([[7.0, -9.0]]), tensor([[3.0]]))],
        test=(tensor([[0.0, 0.0]]), tensor([[0.0]])),
    )
    bench = Bench(task.prepared(0.0, seed=0), Work(), seed=0)
    method = FLSnip(density=0.5, criterion="synflow", cuts=steps)
    weights = {"0.weight": tensor([[1.0, -2.0], [0.1, 3.0]]), "1.weight": tensor([[-4.0, 5.0]])}
    state, (update,) = next_round(method, method.init(Setting(1, 1, 0, bench.layout), weights), [Learner(bench, 0)])
    assert state.weights["0.weight"].tolist() == first
    assert state.weights["1.weight"].tolist() == last
    assert sum(part.support.count for part in update.groups["scores"].values()) == 3


def test_what_the_server_can_score_alone_asks_no_client():
    weights = {"w": tensor([[0.5, -2.0, 1.0]])}
    assert FLSnip(density=2 / 3, criterion="magnitude").init(SETTING, weights).weights["w"].tolist() == [[0, -2.0, 1.0]]
    method = FLSnip(density=1 / 3, criterion="random")
    begun = [method.init(dataclasses.replace(SETTING, seed=seed), START) for seed in range(20)]
    drawn = {tuple(state.weights["w"][0].tolist()) for state in begun}
    assert {method.plan(state).stage for state in begun} == {"train"}
    assert drawn == {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ClientError, match="w: the snip score must be finite"):
        one_round(FLSnip(density=2 / 3), [scripted([1.0] * 3, examples=1, gradient=(float("nan"), 1.0, 1.0))])


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match="budget=lamp rescales sizes"):
        FLSnip(criterion="grasp", budget="lamp")
    with pytest.raises(ConfigError, match="batches=2 would not be used"):
        FLSnip(criterion="random", batches=2)
    with pytest.raises(ConfigError, match="density must be at least"):
        FLSnip(density=0.01).init(dataclasses.replace(SETTING, layout=LAYOUT), START)
