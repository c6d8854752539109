"""What a method may ask of one client besides training: gradients, its own data's verdict, statistics."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unit.learning_benches import SUPPORTS, examples, make_bench, make_learner, net, norm_net, same

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.learning.bench import Evaluation
from fedbonsai.learning.learner import Learner


def test_a_client_without_examples_cannot_train():
    bench = make_bench(sizes=(20, 0))
    empty = Learner(bench, client=1)
    assert empty.num_examples == 0
    for ask in (lambda: empty.fit(bench.initial), lambda: empty.fit(bench.initial, steps=1)):
        with pytest.raises(ClientError, match="client 1 needs training examples, got none"):
            ask()
    with pytest.raises(ClientError, match="client 1 needs training examples, got none"):
        empty.gradients(bench.initial)
    assert empty.evaluate(bench.initial) == Evaluation(0.0, 0.0, 0)


def autograd(bench, positions):
    """The mean gradient over some examples, by autograd on a second module."""
    module = bench.task.model()
    module.load_state_dict(dict(bench.initial))
    functional.cross_entropy(module(bench.task.pool.inputs[positions]), bench.task.pool.targets[positions]).backward()
    return {name: one.grad for name, one in module.named_parameters()}


@pytest.mark.parametrize("batches", [None, 1, 2])
def test_gradients_are_those_of_the_mean_loss(batches):
    learner = make_learner(sizes=(20,), validation=0.1, batch_size=7)
    found = learner.gradients(learner.bench.initial, batches=batches)
    own = learner.bench.task.splits[0].train
    expected = autograd(learner.bench, own if batches is None else own[: 7 * batches])
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert torch.allclose(one, expected[name], atol=1e-6)


def test_gradients_are_of_absent_weights_too_and_are_copies():
    learner = make_learner()
    cut = {name: SUPPORTS[name].apply(one) if name in SUPPORTS else one for name, one in learner.bench.initial.items()}
    found = learner.gradients(cut)
    before = {name: one.clone() for name, one in found.items()}
    assert found["0.weight"][~SUPPORTS["0.weight"].indicator()].any()
    learner.fit(learner.bench.initial)
    assert same(found, before)


def test_each_part_is_judged_on_its_own_examples():
    learner = make_learner(sizes=(30,), validation=0.2, holdout=0.3)
    pool, own = learner.bench.task.pool, learner.bench.task.splits[0]
    module = learner.bench.task.model()
    module.load_state_dict(dict(learner.bench.initial))
    for part, size in (("train", 15), ("validation", 6), ("holdout", 9)):
        positions = getattr(own, part)
        found = learner.evaluate(learner.bench.initial, part)
        outputs, targets = module(pool.inputs[positions]), pool.targets[positions]
        assert found.examples == size
        assert found.loss == pytest.approx(functional.cross_entropy(outputs, targets).item(), rel=1e-5)
        assert found.metric == pytest.approx((outputs.argmax(1) == targets).float().mean().item())


def test_without_validation_examples_the_training_ones_judge():
    learner = make_learner(sizes=(2,), validation=0.5, holdout=0.5)
    assert learner.evaluate(learner.bench.initial).examples == 2
    assert learner.evaluate(learner.bench.initial, "holdout") == Evaluation(0.0, 0.0, 0)
    with pytest.raises(ConfigError, match="unknown part 'hold'; did you mean 'holdout'"):
        learner.evaluate(learner.bench.initial, "hold")


@pytest.mark.parametrize(
    ("model", "size", "batch_size", "steps"),
    [(norm_net, 13, 6, 2), (norm_net, 13, 12, 1), (norm_net, 12, 6, 2), (net, 13, 6, 3)],
)
def test_a_batch_norm_is_spared_a_left_over_example(model, size, batch_size, steps):
    learner = make_learner(model, sizes=(size,), batch_size=batch_size)
    assert learner.fit(learner.bench.initial).steps == steps
    assert learner.gradients(learner.bench.initial).keys() == {slot.name for slot in learner.layout.parameters}


def norm_over_places():
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize(("sizes", "batch_size"), [((1,), 6), ((4,), 1)])
def test_batches_of_one_are_trained_on_where_there_are_no_others(sizes, batch_size):
    learner = make_learner(norm_over_places, sizes=sizes, batch_size=batch_size, steps=3)
    assert learner.fit(learner.bench.initial).steps == 3


def test_statistics_may_stay_on_the_client():
    bench = make_bench(norm_net, sizes=(20,))
    sharing, keeping = Learner(bench, 0), Learner(bench, 0, keep_buffers=True)
    shared = sharing.fit(bench.initial).weights
    assert sharing.buffers == {}
    assert not torch.equal(shared["1.running_mean"], bench.initial["1.running_mean"])
    keeping.fit(bench.initial)
    assert same(keeping.buffers, {name: shared[name] for name in ("1.running_mean", "1.running_var")})
    own = keeping.evaluate(bench.initial, "train")
    assert own == sharing.evaluate(dict(bench.initial) | keeping.buffers, "train")
    assert own != sharing.evaluate(bench.initial, "train")
    keeping.fit(bench.initial)
    assert not torch.equal(keeping.buffers["1.running_mean"], shared["1.running_mean"])  # it went on from its own


def test_inputs_come_from_the_pool_of_all_clients():
    bench = make_bench(sizes=(4, 6))
    assert torch.equal(bench.task.pool.inputs[4:], examples(6, client=1)[0])
    assert Learner(bench, 1).num_examples == 6
    assert (Learner(bench, 1).seed, Learner(bench, 1).layout) == (bench.seed, bench.layout)
