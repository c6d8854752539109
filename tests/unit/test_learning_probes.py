"""Probes of a network: the Hessian times the gradient, and the flow through absolute weights."""

import pytest
import torch
from torch import nn, tensor
from unit.learning_benches import dropout_net, make_learner, net, norm_net

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work


def explicit(learner: Learner, positions) -> dict[str, torch.Tensor]:
    """H g with the Hessian written out, column by column."""
    bench = learner.bench
    names = list(bench.live.weights)
    flat = torch.cat([bench.initial[name].reshape(-1) for name in names]).double()
    inputs, targets = bench.task.pool.batch(positions)
    sizes = [bench.initial[name].numel() for name in names]

    def loss(vector):
        parts = {
            name: one.reshape(bench.initial[name].shape) for name, one in zip(names, vector.split(sizes), strict=True)
        }
        return bench.task.loss.function(torch.func.functional_call(bench.module, parts, (inputs.double(),)), targets)

    gradient = torch.func.grad(loss)(flat)
    product = torch.autograd.functional.hessian(loss, flat) @ gradient
    return {
        name: one.reshape(bench.initial[name].shape).float()
        for name, one in zip(names, product.split(sizes), strict=True)
    }


@pytest.mark.parametrize("batches", [1, None])
def test_the_hessian_times_the_gradient_is_that_of_the_mean_loss(batches):
    learner = make_learner(net, sizes=(20,))
    positions = learner.bench.task.splits[0].train[: 6 if batches else None]
    found = learner.hessian_gradient(learner.bench.initial, batches=batches)
    for name, one in explicit(learner, positions).items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-6)


def test_a_quadratic_by_hand():
    # Output w x, target 3, loss (w x - 3)^2 at w = 1, x = 2: gradient 2 (2 - 3) 2 = -4, Hessian 2 (4) = 8.
    task = Task(
        model=lambda: nn.Linear(1, 1, bias=False),
        loss="mse",
        clients=[(tensor([[2.0]]), tensor([[3.0]]))],
        test=(tensor([[2.0]]), tensor([[3.0]])),
    )
    learner = Learner(Bench(task.prepared(0.0, seed=0), Work(), seed=0), 0)
    assert learner.hessian_gradient({"weight": tensor([[1.0]])})["weight"].item() == pytest.approx(8 * -4)


@pytest.mark.parametrize("model", [net, norm_net, dropout_net])
def test_probes_are_the_same_again_cost_flops_and_leave_the_weights(model):
    learner = make_learner(model, sizes=(18,))
    for probe in (learner.hessian_gradient, learner.flow_gradient):
        before = learner.bench.meter.flops
        one, two = probe(learner.bench.initial), probe(learner.bench.initial)
        assert learner.bench.meter.flops > before
        assert all(torch.equal(one[name], two[name]) for name in one)
        held = learner.bench.weights()
        assert all(torch.equal(held[name], learner.bench.initial[name]) for name in one)


def test_the_flow_of_a_linear_net_by_hand():
    # |W| = ((1, 2), (0, 3)), |V| = (4, 5), input (1, 1): hidden (3, 3), flow 4 * 3 + 5 * 3.
    # Of W the gradient is V at every input, of V the hidden values: signs do not matter, nor does the data.
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))

    task = Task(
        model=model,
        loss="mse",
        clients=[(tensor([[7.0, -9.0]]), tensor([[3.0]]))],
        test=(tensor([[0.0, 0.0]]), tensor([[0.0]])),
    )
    learner = Learner(Bench(task.prepared(0.0, seed=0), Work(), seed=0), 0)
    found = learner.flow_gradient({"0.weight": tensor([[1.0, -2.0], [0.0, 3.0]]), "1.weight": tensor([[-4.0, 5.0]])})
    assert found["0.weight"].tolist() == [[4.0, 4.0], [5.0, 5.0]]
    assert found["1.weight"].tolist() == [[3.0, 3.0]]


def test_a_flow_that_is_not_finite_is_refused():
    learner = make_learner(net)
    weights = {name: torch.full_like(one, torch.inf) for name, one in learner.bench.initial.items()}
    with pytest.raises(ConfigError, match="must be finite"):
        learner.flow_gradient(weights)


def test_a_model_of_tokens_has_no_flow():
    task = Task(
        model=lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)),
        loss="cross_entropy",
        clients=[(tensor([[1, 2], [3, 4]]), tensor([0, 1]))],
        test=(tensor([[1, 2]]), tensor([0])),
    )
    learner = Learner(Bench(task.prepared(0.0, seed=0), Work(), seed=0), 0)
    with pytest.raises(ConfigError, match="takes tokens"):
        learner.flow_gradient(learner.bench.initial)


def test_a_client_without_examples_has_no_curvature():
    learner = Learner(make_learner(net, sizes=(4, 0)).bench, client=1)
    with pytest.raises(ClientError, match="needs training examples"):
        learner.hessian_gradient(learner.bench.initial)
