"""One entry a method: settings under which the whole contract holds. A method without an entry fails the suite."""

import pytest

from fedbonsai.federated.method import Method
from fedbonsai.methods import method_class

CASES: dict[str, list[dict[str, object]]] = {
    "fedavg": [
        {},
        {"server_lr": 0.5},
        {"server_optimizer": "momentum"},
        {"server_optimizer": "adam", "server_lr": 0.1},
    ],
    "feddip": [{"density": 0.4, "initial_density": 0.8, "period": 1, "penalty": 0.01}],
    "feddst": [{"density": 0.4, "alpha": 0.5, "period": 1, "first": 0.5}],
    "federated-dropout": [{"rate": 0.5}, {"rate": 0.3, "shared": True}],
    "fedmef": [{"density": 0.4, "alpha": 0.5, "period": 1, "until": 0.75, "boost": 2.0, "max_lr": 0.5}],
    "fedpm": [{}, {"reset": 3}],
    "fedprox": [{"mu": 0.5}],
    "fedrolex": [{}, {"stride": 2}],
    "fedrts": [{"density": 0.4, "alpha": 0.5, "period": 1, "until": 0.75}],
    "fedsparsify": [
        {"density": 0.3, "schedule": "exponential", "frequency": 2},
        {"density": 0.4, "scope": "local", "merge": "majority"},
    ],
    "fedtiny": [{"density": 0.4, "candidates": 3, "alpha": 0.5, "period": 1, "until": 0.75, "blocks": 2}],
    "fiarse": [{}, {"scope": "layer", "server_lr": 1.5}],
    "fjord": [{}, {"distill": True}, {"distill": True, "alpha": 0.5, "temperature": 2.0}],
    "fl-snip": [
        {"density": 0.4, "budget": "erk"},
        {"density": 0.4, "criterion": "synflow", "cuts": 5},
    ],
    "flash": [
        {"density": 0.4, "hunt_epochs": 2, "prune_rate": 0.6},
        {"density": 0.4, "variant": "jmwst", "hunt_epochs": 2, "denominator": "holders"},
    ],
    "fluid": [{"stragglers": 0.4}, {"stragglers": 0.4, "majority": 0.4}],
    "hermes": [{"density": 0.75, "prune": 0.25}, {"density": 0.75, "prune": 0.4, "accuracy": 0.0, "importance": "l2"}],
    "heterofl": [{}, {"scaler": False}, {"masked_loss": False}],
    "local-prune": [
        {"density": 0.3},
        {"density": 0.2, "importance": "gradient", "absent": "keep", "denominator": "cohort"},
        {"density": 0.4, "importance": "taylor", "recover": "gradient", "regrow": 0.2},
        {"density": 0.3, "recover": "rollback", "tolerance": 0.0, "warmup": 0.5, "reach": 0.75},
        {"density": 0.3, "adaptive": True},
        {"density": 0.6, "unit": "neuron", "recover": "gradient"},
        {"density": 0.5, "unit": "neuron", "importance": "taylor", "adaptive": True, "recover": "rollback"},
        {"threshold": 0.95, "unit": "neuron", "importance": "activation", "absent": "keep"},
        {"threshold": 0.5, "threshold_scale": "layer_std", "server_lr": 0.5, "server_optimizer": "momentum"},
    ],
    "lotteryfl": [{"density": 0.6, "prune": 0.4}],
    "prunefl": [{"period": 1, "initial": 2, "initial_epochs": 1}, {"initial": 0, "max_density": 0.8, "until": 0.5}],
    "sub-fedavg": [
        {"density": 0.6, "prune": 0.3, "accuracy": 0.2, "distance": 0.0},
        {"variant": "hybrid", "density": 0.6, "prune": 0.3, "accuracy": 0.2, "channel_distance": 0.0},
    ],
    "stc": [{"p_up": 0.3, "p_down": 0.3}, {"p_up": 0.5, "p_down": 0.2, "cache": 1}],
}

DENSE: dict[str, dict[str, object]] = {
    "fedavg": {},
    "feddip": {"density": 1.0, "penalty": 0.0},
    "feddst": {"density": 1.0},
    "federated-dropout": {"rate": 0.0},
    "fedmef": {"density": 1.0, "activation": 0.0},
    "fedprox": {"mu": 0.0},
    "fedrts": {"density": 1.0},
    "fedsparsify": {"density": 1.0, "scope": "local"},
    "fedtiny": {"density": 1.0, "candidates": 1},
    "fl-snip": {"density": 1.0},
    "flash": {"density": 1.0, "variant": "jmwst"},
    "fluid": {"stragglers": 0.0},
    "local-prune": {"density": 1.0},
    "prunefl": {"initial": 0, "drop": 0.0, "period": 1},
}
"""Settings under which a method is FedAvg, bit for bit."""

NO_DENSE_LIMIT: dict[str, str] = {
    "fedpm": "trains no weights",
    "fedrolex": "is it where all devices are of width 1, which is no setting of the method",
    "fiarse": "counts every client alike, whatever its examples",
    "fjord": "is it where all devices are of width 1, which is no setting of the method (golden/test_fjord.py)",
    "hermes": "goes on from the average of a client's own last round, not of the last one",
    "heterofl": "counts every client alike, whatever its examples",
    "lotteryfl": "counts every client alike, whatever its examples",
    "sub-fedavg": "counts every client alike, whatever its examples",
    "stc": "sends one magnitude a tensor, however many signs",
}
"""Methods that are FedAvg under no settings, and why."""

EXACT: dict[str, list[dict[str, object]]] = {
    "feddip": [{"density": 0.4}, {"density": 0.5, "period": 2, "feedback": False}],
    "feddst": [{"density": 0.3, "alpha": 0.5, "period": 1}],
    "fedmef": [{"density": 0.3, "alpha": 0.5, "period": 1}],
    "fedrts": [{"density": 0.3, "alpha": 0.5, "period": 1}],
    "fedsparsify": [{"density": 0.3}, {"density": 0.05, "frequency": 3, "reach": 0.8}],
    "fedtiny": [{"density": 0.3, "candidates": 2, "alpha": 0.5, "period": 1}],
    "fl-snip": [
        {"density": 0.3, "criterion": "grasp", "scorers": "sampled"},
        {"density": 0.3, "criterion": "random", "budget": "uniform"},
        {"density": 0.3, "budget": "lamp"},
    ],
    "flash": [
        {"density": 0.3, "hunt_epochs": 2},
        {"density": 0.3, "variant": "jmwst", "hunt_epochs": 2, "interval": 2, "recalibration": "aggregate"},
    ],
    "local-prune": [
        {"density": 0.3},
        {"density": 0.05},
        {"density": 0.2, "importance": "gradient", "absent": "keep", "denominator": "cohort"},
        {"density": 0.4, "importance": "taylor", "recover": "gradient", "regrow": 0.2},
        {"density": 0.5, "unit": "neuron", "recover": "gradient", "regrow": 0.2},
    ],
}
"""Settings that promise a density."""


WORK: dict[str, dict[str, object]] = {
    "fedpm": {"optimizer": "adam", "lr": 0.1, "epochs": 10},
    "hermes": {"epochs": 2},
    "lotteryfl": {"epochs": 2},
    "sub-fedavg": {"epochs": 5},
}
"""Local work of methods that do not learn with that of the others."""


def make(name: str, settings: dict[str, object]) -> Method:
    return method_class(name)(**settings)


def flat(table: dict[str, list[dict[str, object]]]) -> list[Method]:
    return [make(name, settings) for name, entries in table.items() for settings in entries]


each_method = pytest.mark.parametrize("method", flat(CASES), ids=repr)
