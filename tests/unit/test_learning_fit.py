"""Local training: what is pruned stays so, every draw has its seed, and a method's objective has its say."""

import math

import pytest
import torch
from torch import tensor
from unit.learning_benches import SUPPORTS, dropout_net, make_bench, make_learner, net, norm_net, record, same

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.core.support import Support
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Objective


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam", "weight_decay": 0.1},
        {"clip": 0.1},
    ],
)
def test_what_is_pruned_stays_exactly_zero_and_the_rest_trains(settings):
    learner = make_learner(steps=12, **settings)
    start = learner.bench.initial
    objective = Objective(after_step=lambda live: live.flat.add_(1e-3))
    trained = learner.fit(start, SUPPORTS, objective=objective).weights
    for name, support in SUPPORTS.items():
        present = support.indicator()
        assert (trained[name][~present] == 0.0).all()
        assert (trained[name][present] != start[name][present]).all()


def test_training_leaves_what_it_was_given_alone():
    learner = make_learner(steps=3)
    given = {name: one.clone() for name, one in learner.bench.initial.items()}
    learner.fit(given, SUPPORTS)
    assert same(given, dict(learner.bench.initial))
    first = learner.fit(given).weights
    before = {name: one.clone() for name, one in first.items()}
    learner.fit(given, SUPPORTS)
    assert same(first, before)


@pytest.mark.parametrize("model", [net, dropout_net, norm_net])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"clip": 0.1}])
def test_whether_anybody_looks_at_the_gradient_changes_no_bit(model, settings):
    learner = make_learner(model, steps=7, **settings)
    looked = []
    looks = Objective(gradient=lambda live: looked.append(float(live.flat_gradient.norm())))
    alone, seen = learner.fit(learner.bench.initial), learner.fit(learner.bench.initial, objective=looks)
    assert same(alone.weights, seen.weights)
    assert alone.loss == seen.loss
    assert len(looked) == 7
    assert all(looked)


@pytest.mark.parametrize("model", [dropout_net, norm_net])
def test_no_draw_touches_the_global_generator(model):
    learner = make_learner(model, sizes=(20,), validation=0.2, epochs=1)
    before = torch.get_rng_state()
    learner.fit(learner.bench.initial)
    learner.gradients(learner.bench.initial)
    learner.evaluate(learner.bench.initial)
    learner.statistics(learner.bench.initial)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "settings"), [(net, {"optimizer": "adam"}), (net, {"momentum": 0.9}), (dropout_net, {"batch_size": 20})]
)
def test_training_is_the_same_again_and_differs_by_client_and_turn(model, settings):
    bench = make_bench(model, sizes=(20, 20), **settings)

    def trained(client=0, turn=0):
        return Learner(bench, client, turn).fit(bench.initial, epochs=2).weights

    first = trained()
    assert not same(first, trained(turn=1))
    assert not same(first, trained(client=1))
    assert same(first, trained())
    torch.manual_seed(5)
    assert same(first, trained())


@pytest.mark.parametrize(
    ("work", "asked", "steps"),
    [
        ({"epochs": 2}, {}, 2 * 4),
        ({"epochs": 2}, {"epochs": 3}, 3 * 4),
        ({"epochs": 2}, {"steps": 7}, 7),
        ({"steps": 9}, {}, 9),
        ({"steps": 9}, {"epochs": 1}, 4),
        ({"steps": 2}, {"steps": 1}, 1),
    ],
)
def test_epochs_and_steps(work, asked, steps):
    learner = make_learner(sizes=(20,), batch_size=6, **work)
    fit = learner.fit(learner.bench.initial, **asked)
    assert (fit.steps, fit.examples) == (steps, 20)


def test_every_pass_sees_every_example_once_in_an_order_of_its_own():
    learner = make_learner(sizes=(20,), batch_size=6)
    batches = record(learner.bench)
    learner.fit(learner.bench.initial, epochs=2)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2] * 2
    first, second = torch.cat(batches[:4]).tolist(), torch.cat(batches[4:]).tolist()
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


@pytest.mark.parametrize("asked", [{"epochs": 0}, {"steps": 0}])
def test_no_work_at_all_is_refused(asked):
    learner = make_learner()
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        learner.fit(learner.bench.initial, **asked)


def test_the_loss_is_the_mean_over_all_examples_seen():
    learner = make_learner(lr=1e-30, sizes=(20,), batch_size=6)
    fit = learner.fit(learner.bench.initial, epochs=3)
    assert fit.loss == pytest.approx(learner.evaluate(learner.bench.initial, "train").loss, rel=1e-5)


def test_weights_that_are_not_named_take_their_initial_value_and_are_not_returned():
    learner = make_learner(steps=2)
    whole = learner.fit(learner.bench.initial).weights
    part = {"2.bias": learner.bench.initial["2.bias"]}
    learner.fit({name: torch.ones_like(one) for name, one in learner.bench.initial.items()})
    assert same(learner.fit(part).weights, {"2.bias": whole["2.bias"]})


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    # One plain step at a rate of 1 moves the weights by the gradient.
    def moved(**settings):
        learner = make_learner(lr=1.0, steps=1, batch_size=20, **settings)
        after = learner.fit(learner.bench.initial).weights
        return torch.cat([(after[name] - one).reshape(-1) for name, one in learner.bench.initial.items()])

    free = moved()
    assert free.norm() > 0.1
    assert torch.allclose(moved(clip=0.1), free * 0.1 / free.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(moved(clip=100.0), free)


def test_a_penalty_pulls_and_sees_where_training_began():
    learner = make_learner(lr=0.1, steps=10)
    start = learner.bench.initial

    def towards_the_start(live):
        assert all(torch.equal(live.anchor[name], start[name]) for name in start)
        return 100 + 3 * sum((live.weights[name] - live.anchor[name]).square().sum() for name in live.weights)

    def distance(objective):
        fit = learner.fit(start, objective=objective)
        return sum((fit.weights[name] - one).square().sum() for name, one in start.items()), fit

    free, _ = distance(None)
    held, fit = distance(Objective(penalty=towards_the_start))
    assert held < free / 2
    assert fit.loss < 2 * learner.evaluate(start, "train").loss  # of the data alone, without the penalty


def test_the_anchor_is_what_training_begins_with_on_the_support():
    learner = make_learner(steps=1)
    seen = []
    learner.fit(
        learner.bench.initial, SUPPORTS, objective=Objective(gradient=lambda live: seen.append(live.anchor["0.weight"]))
    )
    assert torch.equal(seen[0], SUPPORTS["0.weight"].apply(learner.bench.initial["0.weight"]))


def test_a_gradient_hook_changes_the_step_before_masking_and_clipping():
    def one_bias_alone(live):
        live.flat_gradient.zero_()
        live.gradients["2.bias"].fill_(7.0)

    learner = make_learner(lr=1.0, steps=1, clip=0.5)
    start, first = learner.bench.initial, {"2.bias": Support.masked(tensor([True, False, False]))}
    trained = learner.fit(start, first, objective=Objective(gradient=one_bias_alone)).weights
    assert trained["2.bias"][0].item() == pytest.approx(start["2.bias"][0].item() - 0.5)
    assert trained["2.bias"][1:].tolist() == [0.0, 0.0]
    assert torch.equal(trained["0.weight"], start["0.weight"])


def test_an_after_step_hook_is_called_after_every_step_and_its_change_stays():
    learner = make_learner(steps=5)
    calls = []
    objective = Objective(after_step=lambda live: calls.append(live.weights["2.bias"].data.fill_(9.0)))
    fit = learner.fit(learner.bench.initial, objective=objective)
    assert len(calls) == 5
    assert fit.weights["2.bias"].tolist() == [9.0, 9.0, 9.0]


def test_a_loss_that_is_no_number_ends_the_client():
    learner = make_learner(steps=2, loss=lambda outputs, targets: outputs.sum() * math.nan)
    with pytest.raises(ClientError, match="client 0: the training loss must stay finite, got nan"):
        learner.fit(learner.bench.initial)
    learner = make_learner(steps=2, loss=lambda outputs, targets: outputs.sum() + math.inf)
    with pytest.raises(ClientError, match="must stay finite, got inf"):
        learner.fit(learner.bench.initial)
    learner = make_learner(steps=1)
    with pytest.raises(ClientError, match="must stay finite"):
        learner.fit(learner.bench.initial, objective=Objective(after_step=lambda live: live.flat.fill_(math.inf)))
    assert learner.fit(learner.bench.initial).loss > 0  # and leaves nothing behind
