"""One round of FedPM, worked by hand; the gradient through a mask; and what a mask costs."""

import math
from dataclasses import replace

import pytest
import torch
from contract.federation import make_bench, make_run, same_bits
from golden.scripted import SETTING, START, scripted
from torch import nn, tensor

from fedbonsai import wire
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout, Slot
from fedbonsai.core.message import Message
from fedbonsai.core.seeds import seeded
from fedbonsai.core.state import Memory, Setting
from fedbonsai.federated.aggregate import Total
from fedbonsai.learning.learner import Learner
from fedbonsai.methods.fedpm import FedPM, drawn, sampled

SURE = 50.0
"""A score whose probability is 1 in single precision; its negative draws nothing."""


def masks_of(scores: list[float]) -> Message:
    return FedPM().work(FedPM().distribute(FedPM().init(SETTING, START), 0), Memory(), scripted(scores, 7))[0]


def test_the_server_counts_masks_as_worked_by_hand():
    # Masks (1, 1, 0) and (1, 0, 0) of two clients, alike whatever their examples: alpha = 1 + (2, 1, 0), beta = 1 + (0,
    # 1, 2), theta = (alpha - 1) / (alpha + beta - 2) = (1, 1/2, 0).
    method = FedPM(reset=2)
    state, total = method.init(SETTING, START), Total()
    for update in (masks_of([SURE, SURE, -SURE]), masks_of([SURE, -SURE, -SURE])):
        total.add(update)
    state = method.finalize(state, total)
    assert state.weights["w"].tolist() == [[1.0, 0.5, 0.0]]
    # A second round of one mask (0, 1, 0) before the reset: (2, 2, 0) of three.
    total = Total()
    total.add(masks_of([-SURE, SURE, -SURE]))
    second = method.finalize(replace(state, round=1), total)
    torch.testing.assert_close(second.weights["w"], tensor([[2 / 3, 2 / 3, 0.0]]))
    third = method.finalize(replace(second, round=2), total)  # the beliefs are reset: this mask alone
    assert third.weights["w"].tolist() == [[0.0, 1.0, 0.0]]


def test_the_weights_are_signs_times_the_deviation_of_kaiming():
    # Three inputs: sigma = sqrt(2 / 3). Where theta is 1 the model has the weight, where it is 0 none.
    state = FedPM().init(SETTING, START)
    network = FedPM().model(replace(state, weights={"w": tensor([[1.0, 0.0, 1.0]])}))["w"][0].tolist()
    assert [abs(one) for one in network] == pytest.approx([math.sqrt(2 / 3), 0.0, math.sqrt(2 / 3)])


def test_a_mask_is_zeros_and_ones_and_its_gradient_that_of_the_probability():
    scores = torch.linspace(-3, 3, 1001).requires_grad_()
    with seeded(0, "test"):
        mask = sampled(scores)
    assert set(mask.tolist()) == {0.0, 1.0}
    mask.sum().backward()
    theta = scores.detach().sigmoid()
    torch.testing.assert_close(scores.grad, theta * (1 - theta))
    assert float((mask.detach().mean() - theta.mean()).abs()) < 0.05


def test_scores_that_are_no_numbers_give_no_number():
    # A fit then says whose training diverged; of a draw with such a chance torch says nothing of use.
    assert sampled(torch.tensor([math.nan, 50.0])).isnan().tolist() == [True, False]


def test_only_scores_are_trained():
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    bench = make_bench(model, optimizer="adam", lr=0.1, weight_decay=0.1)
    run = make_run(FedPM(), bench=bench, rounds=2)
    state = run.run().state
    deployed = run.deployed(state)
    frozen = {slot.name for slot in bench.layout.parameters if not slot.prunable}
    assert frozen == {"0.bias", "1.weight", "1.bias", "3.bias"}
    assert same_bits({n: deployed[n] for n in frozen}, {n: bench.initial[n] for n in frozen})
    assert not torch.equal(state.weights["1.running_mean"], bench.initial["1.running_mean"])


def test_statistics_are_measured_under_a_mask():
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))

    bench, method = make_bench(model), FedPM()
    run = make_run(method, bench=bench, rounds=1, norm="static")
    state = run.run().state
    network = method.personal_model(method.distribute(state, 0), Memory(), Learner(bench, 0, turn=state.turn))
    sigma = math.sqrt(2 / 6)
    assert {round(abs(one), 5) for one in network["0.weight"].reshape(-1).tolist()} == {0.0, round(sigma, 5)}
    assert float(state.statistics["1.running_var"].max()) < 6 * sigma**2 * 3  # six inputs of variance 1


def test_a_mask_goes_up_for_a_bit_a_weight_at_most():
    for theta, bits in ((0.5, 1.0), (0.9, 0.469), (0.05, 0.2864)):
        mask = drawn(torch.full((500, 1000), theta), torch.Generator().manual_seed(0))
        scores = torch.where(mask, SURE, -SURE)
        state = FedPM().init(Setting(1, 1, 0, Layout((Slot("w", (500, 1000), prunable=True),))), {"w": scores})
        task = FedPM().distribute(state, 0)
        learner = scripted([0.0], 1)
        learner.trained, learner.bench.layout = scores, state.setting.layout
        update, _ = FedPM().work(task, Memory(), learner)
        assert torch.equal(update.groups["masks"]["w"].support.indicator(), mask)
        assert 8 * len(wire.encode(update)) / mask.numel() < 1.03 * bits


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ConfigError, match="two or more dimensions"):
        FedPM().init(Setting(2, 2, 0, Layout((Slot("b", (3,)),))), {"b": torch.zeros(3)})
