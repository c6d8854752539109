"""Every setting of every method is used: there is a value of it that changes the run."""

import functools
from dataclasses import replace
from itertools import chain

import pytest
from contract.cases import CASES, WORK, make
from contract.federation import finished, make_bench, norm_net, same_bits
from torch import nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import FieldInfo, describe
from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.federated.method import Method
from fedbonsai.methods import METHODS, method_class

BESIDE: dict[tuple[str, str], dict[str, object]] = {
    ("fedtiny", "noise"): {"candidates": 10},
    ("flash", "hunters"): {"hunt_epochs": 10, "prune_rate": 0.9},
    ("hermes", "importance"): {"accuracy": 0.0},
    ("local-prune", "threshold"): {"density": None},
    ("local-prune", "threshold_scale"): {"density": None, "threshold": 0.5},
    ("local-prune", "importance"): {"unit": "neuron"},
    ("local-prune", "unit"): {"density": 0.6},
    ("local-prune", "recover"): {"warmup": 0.5, "reach": 0.75},
    ("local-prune", "tolerance"): {"density": 0.2, "warmup": 0.5, "reach": 0.75},
    ("local-prune", "absent"): {"denominator": "cohort"},
}
"""What else must be set for a setting to matter in a small run, where its annotation does not say."""

TRAFFIC: dict[tuple[str, str], str] = {
    ("stc", "cache"): "what a client missed comes as updates or as weights, and is the same",
}
"""Settings that change what is sent and nothing that is learned, and why."""


def convolution() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))


BENCHES: dict[tuple[str, str], dict[str, object]] = {
    # What was pruned must grow beyond what was kept.
    ("feddip", "feedback"): {"epochs": 10},
    ("fedpm", "gain"): WORK["fedpm"],
    # Two must vote in one round, and a straggler come after them.
    ("fluid", "majority"): {"sizes": (20, 30, 12)},
    # Of few units both norms drop the same.
    ("hermes", "importance"): {"model": wide},
    # One of them is the scale of a batch norm.
    ("local-prune", "importance"): {"model": norm_net},
    # A model that has learned nothing loses nothing by being pruned.
    ("local-prune", "recover"): {"epochs": 10},
    # Channels are pruned by the scales of batch norms, when their order has changed since the first epoch.
    **{
        ("sub-fedavg", name): {"model": norm_net, "epochs": 5}
        for name in ("variant", "channel_density", "channel_prune", "channel_distance", "penalty")
    },
    # Weights of dense layers all take the same time.
    ("prunefl", "communication"): {"model": convolution},
    ("prunefl", "computation"): {"model": convolution},
}
"""Settings that need other models or other local work to matter."""

SETTINGS = [(name, field) for name in METHODS for field in describe(method_class(name))]


@pytest.mark.parametrize(("name", "field"), SETTINGS, ids=[f"{name}-{field.name}" for name, field in SETTINGS])
def test_a_setting_changes_the_run(name, field):
    key, begin = (name, field.name), base(name, field)
    bench = tuple(BENCHES.get(key, {}).items())
    changes = (differs(begin, other, bench, key in TRAFFIC) for other in others(begin, field, bench))
    assert set(changes) == {True} if field.choices else any(changes)


def test_only_settings_that_exist_need_others():
    known = {(name, field.name) for name, field in SETTINGS}
    assert {*BESIDE, *TRAFFIC, *BENCHES} <= known


def base(name: str, field: FieldInfo) -> Method:
    """A method under its first case, and what makes ``field`` matter."""
    needed = [one.partition("=") for one in field.range.split(", ") if "=" in one]
    words = {"True": True, "None": None}
    owner = {key: words.get(value.split("|")[0], value.split("|")[0]) for key, _, value in needed}
    return make(name, {**CASES[name][0], **owner, **BESIDE.get((name, field.name), {})})


def others(begin: Method, field: FieldInfo, bench):
    """The same with other values of a setting, those that it may have."""
    now = getattr(begin, field.name)
    numbers = {"int": (1, 2, 3, 5), "float": (0.25, 0.75, 0.05, 0.5, 0.95, 1e-6), "bool": (False, True)}
    values = chain(field.choices, *(numbers[kind] for kind in field.kind.split(" | ") if kind in numbers))
    for value in values:
        if value == now:
            continue
        try:
            other = replace(begin, **{field.name: value})
            outcome(other, bench)
        except ConfigError:
            continue
        yield other


def differs(one: Method, two: Method, bench, traffic: bool) -> bool:
    """Whether two methods come to other weights, or, for ``traffic`` alone, send other bytes."""
    begin, other = outcome(one, bench), outcome(two, bench)
    if traffic:
        return [row["traffic"] for row in begin.rows] != [row["traffic"] for row in other.rows]
    return not same_bits(begin.state.weights, other.state.weights)


@functools.cache
def outcome(method: Method, bench) -> Checkpoint:
    bench = make_bench(holdout=0.2 if method.traits.personal else 0.0, **dict(bench))
    return finished(method, bench=bench, cohort=2, every=4)
