"""Three rounds of LotteryFL, worked by hand: two clients, one layer of three weights."""

import dataclasses
from dataclasses import dataclass

import pytest
from golden.scripted import SETTING, START, Scripted, row_bench
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.state import Memory, Setting
from fedbonsai.federated.aggregate import Total
from fedbonsai.learning.bench import Evaluation
from fedbonsai.methods.lotteryfl import LotteryFL

METHOD = LotteryFL(density=1 / 3, prune=1 / 3, accuracy=0.5)


@dataclass
class Judged(Scripted):
    """A client whose accuracy the test says, and which remembers what it began to train with."""

    accuracy: float = 0.0
    began: tuple[float, ...] = ()

    def evaluate(self, weights, part="validation"):
        assert part == "validation"
        return Evaluation(0.0, self.accuracy, 1)

    def fit(self, weights, supports=None, **options):
        self.began = (supports["w"].apply(weights["w"]) if supports else weights["w"])[0].tolist()
        return super().fit(weights, supports, **options)


def judged(trained: list[float], accuracy: float, examples: int = 1) -> Judged:
    return Judged(row_bench(), 0, trained=tensor([trained]), examples=examples, accuracy=accuracy)


def held_round(state, learners):
    total = Total()
    for client, learner in learners.items():
        update, _ = METHOD.work(METHOD.distribute(state, client), Memory(), learner)
        total.add(dataclasses.replace(update, client=client))
    return dataclasses.replace(METHOD.finalize(state, total), round=state.round + 1)


def sent(state, client):
    part = METHOD.distribute(state, client).groups["weights"]["w"]
    return part.support.indicator()[0].tolist(), part.values.tolist()


def test_tickets_as_worked_by_hand():
    state = METHOD.init(SETTING, {"w": tensor([[3.0, 1.0, 2.0]])})  # theta_0 is (1, 1, 1)
    # Client 0 is accurate: it drops a third, the smallest, w1, and goes back to theta_0 * m = (1, -, 1). Client 1 is
    # not above 0.5: it goes on from what it got. The server counts both alike, and w1 over client 1 alone.
    one, two = judged([5.0, 9.0, 7.0], 0.9), judged([4.0, 6.0, 8.0], 0.5, examples=3)
    state = held_round(state, {0: one, 1: two})
    assert (one.began, two.began) == ([1.0, 0.0, 1.0], [3.0, 1.0, 2.0])
    assert state.weights["w"].tolist() == [[4.5, 6.0, 7.5]]
    assert sent(state, 0) == ([True, False, True], [4.5, 7.5])
    assert sent(state, 1) == ([True, True, True], [4.5, 6.0, 7.5])
    # Client 0 again: of two weights 4/3 may stay, which is one, w2, and a third of the layer. Nobody holds w0 and w1.
    again = judged([9.0, 9.0, 9.0], 0.9)
    state = held_round(state, {0: again})
    assert again.began == [0.0, 0.0, 1.0]
    assert state.weights["w"].tolist() == [[4.5, 6.0, 9.0]]
    # At its target it prunes no more, and so goes on from what it got, however accurate it is.
    last = judged([8.0, 8.0, 8.0], 1.0)
    state = held_round(state, {0: last})
    assert last.began == [0.0, 0.0, 9.0]
    assert sent(state, 0) == ([False, False, True], [8.0])


def test_a_dropped_client_keeps_its_ticket():
    state = METHOD.init(SETTING, START)
    METHOD.work(METHOD.distribute(state, 0), Memory(), judged([5.0, 9.0, 7.0], 0.9))
    state = held_round(state, {1: judged([1.0, 1.0, 1.0], 0.0)})
    assert sent(state, 0)[0] == [True, True, True]


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ConfigError, match="two or more dimensions"):
        METHOD.init(Setting(2, 2, 0, Layout((Slot("b", (3,)),))), {})
