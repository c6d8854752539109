"""From an experiment to the objects that run it: task, method, engine."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.data.dataset import Dataset
from fedbonsai.data.info import DATASETS
from fedbonsai.data.load import load
from fedbonsai.data.partition import Options, partition
from fedbonsai.engines.local import LocalEngine
from fedbonsai.engines.processes import ProcessEngine
from fedbonsai.engines.ray import RayEngine
from fedbonsai.experiment.config import Experiment
from fedbonsai.federated.client import Client, Coding
from fedbonsai.federated.engine import Engine
from fedbonsai.federated.estimate import KRUM, Robust
from fedbonsai.federated.method import Method
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.methods import method_class
from fedbonsai.models import SEQUENCE_MODELS
from fedbonsai.models.build import build

OWN = "own"
"""What stands for the data set of a task that was given in Python."""

OWN_DEFAULTS: Mapping[str, Any] = {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "lr": 0.05}
"""What is taken for such a task where nothing else is said."""


def resolve(experiment: Experiment) -> Experiment:
    """The experiment with everything filled in that its data set suggests; one without a name is looked at first."""
    if experiment.dataset == OWN:
        return experiment.resolved(OWN_DEFAULTS)
    known = DATASETS.get(experiment.dataset)
    defaults = load(experiment.dataset).defaults if known is None else known.defaults
    return experiment.resolved(dataclasses.asdict(defaults))


def make_task(experiment: Experiment, data_dir: Path | None = None) -> Task:
    """Load the data, spread it over the clients, and name the model.

    Raises:
        DataError: The data cannot be had.
        ConfigError: A name is unknown, or settings do not fit the data; or the task was given in Python.
    """
    if experiment.dataset == OWN:
        raise ConfigError(
            "a run of a task given in Python goes on from Python: call fedbonsai.run as before, with the same out"
        )
    dataset = load(experiment.dataset, data_dir)
    name = experiment.model or dataset.defaults.model
    if (dataset.loss == "next_token") != (name in SEQUENCE_MODELS):
        raise ConfigError(
            f"model {name!r} does not fit {experiment.dataset!r}: the next token is predicted by "
            f"{', '.join(sorted(SEQUENCE_MODELS))}, everything else by other models"
        )
    options = Options(concentration=experiment.concentration, shards=experiment.shards)
    positions = partition(dataset, experiment.partition or "iid", experiment.clients, experiment.seed, options)
    return Task(
        model=_model(experiment, dataset, name),
        loss=dataset.loss,
        clients=dataset.train,
        test=dataset.test,
        positions=positions,
    )


def _model(experiment: Experiment, dataset: Dataset, name: str) -> Callable[[], nn.Module]:
    return partial(
        build,
        name,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        width=experiment.width,
        norm=experiment.norm,
    )


def make_method(experiment: Experiment) -> Method:
    """The method with its settings."""
    return method_class(experiment.method)(**experiment.method_settings)


def make_work(experiment: Experiment) -> Work:
    """The clients' local work; what is not set takes the defaults of `Work`."""
    names = [one.name for one in dataclasses.fields(Work)]
    given = {name: getattr(experiment, name) for name in names}
    return Work(**{name: value for name, value in given.items() if value is not None})


def check_personal(method: Method, experiment: Experiment) -> float:
    """The share of data to hold out for personal models.

    Raises:
        ConfigError: Personal models are to be evaluated on no data, or data held out for models that nobody has.
    """
    if not (method.traits.personal or experiment.batch_norm == "local"):
        if experiment.holdout != Experiment.holdout:
            raise ConfigError(f"holdout={experiment.holdout} would not be used: {method.name} has no personal models")
        return 0.0
    if not experiment.holdout:
        raise ConfigError("personal models are evaluated on held-out data; holdout must be above 0, got 0")
    return experiment.holdout


def make_robust(experiment: Experiment, method: Method) -> Robust | None:
    """The robust rule of a run, if it has one.

    Raises:
        ConfigError: The method, the cohort or other settings do not allow it.
    """
    rule, traits = experiment.robust, method.traits
    if rule is None:
        return None
    given = {name: getattr(experiment, name) for name in ("byzantine", "bound")}
    robust = Robust(rule, **{name: value for name, value in given.items() if value is not None})
    if not (traits.sums_only and traits.sends_weights):
        raise ConfigError(f"robust={rule} needs a method whose server takes the mean of weights, got {method.name}")
    if rule in KRUM and not traits.common_support:
        raise ConfigError(
            f"robust={rule} compares updates of equal supports, clients of {method.name} send different ones; "
            "take median or trimmed, which go over those that hold a weight"
        )
    if rule == "norm-bound" and experiment.batch_norm == "static":
        raise ConfigError("robust=norm-bound bounds changes of what was sent, batch_norm=static measures what was not")
    cohort = experiment.cohort or 1
    if cohort < robust.least(cohort):
        raise ConfigError(
            f"robust={rule} needs a cohort of at least {robust.least(cohort)} for {robust.bad(cohort)} bad clients, "
            f"got {cohort}; set a larger cohort or a smaller byzantine"
        )
    return robust


def make_engine(name: str, experiment: Experiment, method: Method, bench: Bench) -> Engine:
    """The engine of a name, with its client.

    Raises:
        ConfigError: It cannot be made here.
    """
    client = Client(method, bench, experiment.batch_norm, Coding(experiment.uplink, experiment.error_feedback))
    if name == "flower":
        raise ConfigError("engine=flower is for `fedbonsai run ... --engine flower`, which starts a federation")
    if name == "processes":
        return ProcessEngine(client, experiment.workers, experiment.client_timeout)
    if name == "ray":
        return RayEngine(client, experiment.workers, experiment.client_timeout)
    return LocalEngine(client, experiment.client_timeout)
