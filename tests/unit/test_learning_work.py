"""Local work: both optimizers bit for bit as torch's, the learning rate over a run, and values that are refused."""

import math

import pytest
import torch
from unit.learning_benches import make_learner, net, record, same

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.seeds import seeded
from fedbonsai.learning.work import Work

LR = 0.05


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, lambda given: torch.optim.SGD(given, LR)),
        ({"momentum": 0.9}, lambda given: torch.optim.SGD(given, LR, momentum=0.9)),
        ({"weight_decay": 0.01}, lambda given: torch.optim.SGD(given, LR, weight_decay=0.01)),
        (
            {"momentum": 0.5, "weight_decay": 0.1},
            lambda given: torch.optim.SGD(given, LR, momentum=0.5, weight_decay=0.1),
        ),
        ({"optimizer": "adam"}, lambda given: torch.optim.Adam(given, LR)),
        ({"optimizer": "adam", "weight_decay": 0.01}, lambda given: torch.optim.Adam(given, LR, weight_decay=0.01)),
    ],
)
def test_twenty_steps_are_bit_equal_to_torch(settings, reference):
    learner = make_learner(lr=LR, steps=20, **settings)
    batches = record(learner.bench)
    trained = learner.fit(learner.bench.initial).weights

    with seeded(learner.seed, "model"):
        module = net()
    optimizer, pool = reference(module.parameters()), learner.bench.task.pool
    for batch in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(pool.inputs[batch]), pool.targets[batch]).backward()
        optimizer.step()
    assert len(batches) == 20
    assert same(trained, module.state_dict())


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("constant", 2.0), ("linear", 2 * 0.505), ("cosine", 2 * 0.505), ("exponential", 2 * 0.1)],
)
def test_the_learning_rate_moves_between_its_two_ends(schedule, middle):
    work = Work(lr=2.0, lr_schedule=schedule, lr_end=0.01)
    assert work.learning_rate(0.0) == 2.0
    assert work.learning_rate(0.5) == pytest.approx(middle)
    assert work.learning_rate(1.0) == pytest.approx(2.0 if schedule == "constant" else 0.02)


def test_the_cosine_falls_slowly_at_first_and_the_exponential_fast():
    rates = {name: Work(lr_schedule=name).learning_rate(0.25) for name in ("linear", "cosine", "exponential")}
    assert rates["exponential"] < rates["linear"] < rates["cosine"]


def test_a_learner_trains_at_the_rate_of_its_progress():
    early, late = (make_learner(lr=0.4, lr_schedule="linear", lr_end=0.5, steps=1) for _ in range(2))
    late.progress = 1.0
    moved = [one.fit(one.bench.initial).weights["0.bias"] - one.bench.initial["0.bias"] for one in (early, late)]
    assert torch.allclose(moved[0], 2 * moved[1], atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"lr": math.inf}, "lr must be positive, got inf"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"lr_end": 0.0}, r"lr_end must be in \(0, 1\], got 0"),
        ({"lr_end": 1.5}, r"lr_end must be in \(0, 1\], got 1.5"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay >= 0, got 0.0 and -0.1"),
        ({"weight_decay": math.nan}, "weight_decay >= 0, got 0.0 and nan"),
        ({"clip": 0.0}, "clip must be positive, got 0"),
        ({"clip": math.nan}, "clip must be positive, got nan"),
    ],
)
def test_values_that_cannot_be_used_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Work(**settings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("optimizer", "adm", "unknown optimizer 'adm'; did you mean 'adam'"),
        ("lr_schedule", "cos", "unknown learning-rate schedule 'cos'.* known: constant, cosine, exponential, linear"),
    ],
)
def test_unknown_names_are_refused(name, value, said):
    work = Work()
    object.__setattr__(work, name, value)  # in tests, but only there, the type checker refuses the name before Work can
    with pytest.raises(ConfigError, match=said):
        work.__post_init__()
