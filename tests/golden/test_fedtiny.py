"""FedTiny worked by hand: how a candidate is chosen, and one adjustment of the mask."""

import dataclasses
import logging

import pytest
import torch
from contract.federation import finished, make_bench, norm_net
from golden.scripted import SETTING, START, next_round, one_round, scripted
from torch import tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.state import Setting
from fedbonsai.learning.bench import Evaluation
from fedbonsai.learning.learner import Learner
from fedbonsai.methods.fedtiny import FedTiny
from fedbonsai.sparsity.selection import masks_of


@dataclasses.dataclass
class Probe(Learner):
    """A client whose statistics and losses are what a test says, and that keeps what it was asked to judge."""

    examples: int = 1
    mean: float = 0.0
    losses: tuple[float, ...] = ()
    judged: list = dataclasses.field(default_factory=list)

    @property
    def num_examples(self) -> int:
        return self.examples

    def statistics(self, weights):
        self.mean *= 10  # another value for every candidate
        return {"1.running_mean": torch.full((8,), self.mean), "1.running_var": torch.ones(8)}

    def evaluate(self, weights, part="validation"):
        assert part == "validation"
        self.judged.append(weights)
        return Evaluation(self.losses[len(self.judged) - 1], 0.0, 7)


def test_the_candidate_of_least_loss_under_everybodys_statistics_is_trained():
    bench = make_bench(norm_net)
    method = FedTiny(density=0.5, candidates=2)
    setting = Setting(rounds=2, clients=2, seed=3, layout=bench.layout)
    clients = [
        Probe(bench, 0, examples=1, mean=0.2, losses=(0.1, 0.9)),
        Probe(bench, 1, examples=3, mean=0.6, losses=(0.5, 0.2)),
    ]
    state = method.init(setting, bench.initial)
    pool = method._pool(setting)
    assert pool[0] != pool[1]
    assert [sum(one.values()) for one in pool] == [36, 36]  # half of 8 * 6 + 3 * 8
    stages = []
    for _ in range(2):
        stages.append(method.plan(state).stage)
        state, _ = next_round(method, state, clients)
    assert stages == ["measure", "select"]
    for client in clients:
        for place, judged in enumerate(client.judged):
            # Of candidate 0 they measured means of 2 and 6, of candidate 1 of 20 and 60.
            # (1 * 2 + 3 * 6) / 4 = 5, and 50.
            assert judged["1.running_mean"].tolist() == [[5.0] * 8, [50.0] * 8][place]
            assert {name: int((judged[name] != 0).sum()) for name in pool[place]} == pool[place]
    # Losses: candidate 0 has 1 * 0.1 + 3 * 0.5 = 1.6, candidate 1 has 1 * 0.9 + 3 * 0.2 = 1.5 and wins.
    # (With one vote a client it would be 0.6 to 1.1.)
    assert method.plan(state).stage == "train"
    assert {name: int(one.sum()) for name, one in masks_of(bench.layout, state.supports).items()} == pool[1]
    assert state.weights["1.running_mean"].tolist() == [50.0] * 8
    assert all(bool((state.weights[name].abs() <= bench.initial[name].abs()).all()) for name in pool[1])


def test_without_batch_norm_only_losses_are_asked_for_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO, "fedbonsai"):
        rows = finished(FedTiny(density=0.5, candidates=3), rounds=2).rows
    assert [row["stage"] for row in rows] == ["select", "train", "train"]
    assert "without batch norm the 3 candidates are told apart by loss alone" in caplog.text


@pytest.mark.parametrize("norm", ["average", "local", "static"])
def test_a_model_with_batch_norm_is_measured_under_every_policy(norm):
    rows = finished(
        FedTiny(density=0.5, candidates=3), rounds=2, bench=make_bench(norm_net, holdout=0.2), norm=norm
    ).rows
    assert [row["stage"] for row in rows if row["stage"] != "statistics"] == ["measure", "select", "train", "train"]


def clients():
    return [scripted((2.0, 7.0, 7.0), 1, gradient=(9.0, 6.0, -5.0)), scripted((6.0, 7.0, 7.0), 3, (9.0, 1.0, -4.0))]


def test_an_adjustment_grows_the_largest_mean_gradient_of_the_cohort():
    # One of three weights is present: w0. a = 1 / 2 (1 + cos 0) * 1 = 1 is swapped. Each client sends one gradient, of
    # an absent weight though that of w0 is larger: one (1 example) sends 6 of w1, two (3 examples) sends -4 of w2.
    method = FedTiny(density=1 / 3, candidates=1, alpha=1.0)
    state, (one, two) = one_round(method, clients())
    sent = [update.groups["gradients"]["w"] for update in (one, two)]
    assert [(part.support.positions.tolist(), part.values.tolist()) for part in sent] == [([1], [6.0]), ([2], [-4.0])]
    # Means over the cohort: w1 = 6 / 4 = 1.5, w2 = -12 / 4 = -3, which is larger. (Over those who sent them: 6 and -4.)
    assert state.supports["w"].indicator().tolist() == [[False, False, True]]
    assert state.weights["w"].tolist() == [[0.0, 0.0, 0.0]]


def test_an_adjustment_drops_the_smallest_mean_weight_that_was_there():
    method = FedTiny(density=2 / 3, candidates=1, alpha=0.5)
    both = [scripted((2.0, 8.0, 7.0), 1, (0.0, 0.0, 1.0)), scripted((6.0, 0.0, 7.0), 3, (0.0, 0.0, 1.0))]
    state, _ = one_round(method, both)
    # w0 = (2 + 18) / 4 = 5, w1 = 8 / 4 = 2: of two present ones int(0.5 * 2) = 1 is swapped, w1 for w2, which is 0 like
    # everything absent and would be the smallest if absent weights were looked at.
    torch.testing.assert_close(state.weights["w"], tensor([[5.0, 0.0, 0.0]]))
    assert state.supports["w"].indicator().tolist() == [[True, False, True]]


def test_blocks_take_turns_from_back_to_front_until_the_mask_rests():
    bench = make_bench()
    method = FedTiny(density=0.5, candidates=1, alpha=0.5, period=1, until=0.5, blocks=2)
    setting = Setting(rounds=6, clients=2, seed=3, layout=bench.layout)
    state, moved = method.init(setting, bench.initial), []
    for _ in range(6):
        after, updates = next_round(method, state, [Learner(bench, 0), Learner(bench, 1)])
        moved.append([name for name in bench.layout.prunable if after.supports[name] != state.supports[name]])
        sent = {name for update in updates for name in update.groups.get("gradients", {})}
        assert sent == set(moved[-1])
        state = after
    assert moved == [["2.weight"], ["0.weight"], ["2.weight"], [], [], []]


def test_a_density_that_empties_a_layer_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0.3333.*got 0.1"):
        FedTiny(density=0.1).init(SETTING, START)
