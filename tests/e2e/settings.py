"""Every setting with a valid value that is not its default, and what it needs beside it."""

import re
from typing import Any

from fedbonsai.core.fields import FieldInfo, describe
from fedbonsai.experiment.config import Experiment
from fedbonsai.methods import METHODS, method_class

Settings = dict[str, Any]

BASE: Settings = {"model": "mlp", "width": 0.1, "clients": 3, "cohort": 2, "rounds": 1, "batch_size": 64}
"""A run of a fraction of a second."""

RESNET: Settings = {"model": "resnet18", "width": 0.04, "steps": 1}
BATCH_NORM: Settings = {**RESNET, "norm": "batch"}

TABLE: dict[str, tuple[Any, Settings]] = {
    "model": ("cnn", {"steps": 1}),
    "width": (0.2, {}),
    "norm": ("batch", RESNET),
    "clients": (4, {}),
    "cohort": (1, {}),
    "rounds": (2, {}),
    "holdout": (0.3, {"batch_norm": "local", **BATCH_NORM}),
    "min_clients": (2, {}),
    "epochs": (2, {}),
    "steps": (4, {}),
    "batch_size": (32, {}),
    "optimizer": ("adam", {}),
    "lr_schedule": ("cosine", {"rounds": 2}),
    "lr_end": (0.5, {"rounds": 2, "lr_schedule": "linear"}),
    "momentum": (0.5, {}),
    "batch_norm": ("static", BATCH_NORM),
    "evaluate_every": (2, {"rounds": 2}),
    "kernel": ("stack", {}),
    "device": ("cpu", {}),
    "engine": ("processes", {}),
    "workers": (3, {"engine": "processes"}),
    "client_timeout": (60.0, {}),
    "max_examples": (1_000_000, {}),
    "tiers": ("0.5", {"method": "heterofl"}),
    "redraw_tiers": (True, {"method": "heterofl", "rounds": 4}),
    "robust": ("median", {"cohort": 3}),
    "byzantine": (2, {"robust": "trimmed", "clients": 5, "cohort": 5}),
    "judges": (2, {"method": "lotteryfl"}),
    "bound": (0.1, {"robust": "norm-bound"}),
    "error_feedback": (True, {"uplink": "int8", "rounds": 2, "cohort": 3}),
}
"""Settings of experiments whose ranges do not say all: a value that differs from `BASE`, and what it is given with."""

WITHOUT_EFFECT = frozenset(
    ("engine", "device", "workers", "client_timeout", "window_mb", "max_examples", "min_clients")
)
"""Settings that change nothing of what comes out of a run in which nothing goes wrong."""

BESIDE: dict[tuple[str, str], Settings] = {
    ("fedpm", "reset"): {"rounds": 2},
    ("fedsparsify", "frequency"): {"rounds": 2},
    ("flash", "interval"): {"rounds": 2},
    ("local-prune", "warmup"): {"reach": 1.0},
    ("local-prune", "floor"): {"density": 0.6},
    ("local-prune", "threshold_scale"): {"threshold": 0.3},
    **{
        ("sub-fedavg", name): BATCH_NORM
        for name in ("variant", "channel_density", "channel_prune", "channel_distance", "penalty")
    },
}
"""What settings of methods need that their ranges do not say."""


def of_experiments() -> dict[str, tuple[Any, Settings]]:
    """All but the data set and the method, by name: a value, and the settings that it is given with."""
    found = {}
    for field in describe(Experiment):
        if field.name not in ("dataset", "method", "method_settings"):
            beside = dict(example(field)) if field.name not in TABLE else {}
            found[field.name] = TABLE[field.name] if field.name in TABLE else (beside.pop(field.name), beside)
    return found


def of_methods() -> list[tuple[str, str, Settings]]:
    """Method, setting, and values to give it: for every setting of every method."""
    return [
        (method, field.name, example(field) | BESIDE.get((method, field.name), {}))
        for method in METHODS
        for field in describe(method_class(method))
    ]


def example(field: FieldInfo) -> Settings:
    """A valid value that is not the default, from what a field says of itself; and the setting that it belongs to."""
    words = re.findall(r"(\w+)=([\w|]+)", field.range)
    firsts = {name: values.split("|")[0] for name, values in words if values != "None"}
    beside: Settings = {name: True if value == "True" else value for name, value in firsts.items()}
    if field.choices:
        return beside | {field.name: next(word for word in field.choices if word != field.default)}
    if field.kind.startswith("bool"):
        return beside | {field.name: not field.default}
    lower, low, high, upper = re.findall(r"([\[(])([-\w.+]+), ([-\w.+]+)([\])])", field.range)[0]
    inside = (one for one in (0.5, 0.25, 1, 2, 3) if _inside(one, float(low), float(high), lower + upper))
    kind = int if field.kind.startswith("int") else float
    return beside | {field.name: next(kind(one) for one in inside if kind(one) == one != field.default)}


def _inside(value: float, low: float, high: float, ends: str) -> bool:
    return (low <= value if ends[0] == "[" else low < value) and (value <= high if ends[1] == "]" else value < high)


def as_pairs(settings: Settings) -> list[str]:
    """Settings as the command line takes them."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
