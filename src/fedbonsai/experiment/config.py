"""The frozen configuration of one run. Its digest names the run; everything that decides a bit is in it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import NOT_NEGATIVE, PART, POSITIVE, SHARE, Only, Range, check

AT_LEAST_ONE = Range(1, float("inf"), open_high=True)
Count = Annotated[int, AT_LEAST_ONE]
Values = Literal["fp32", "raw", "bf16", "fp16", "int8", "int4", "uniform", "sign", "ternary", "bits"]

WHERE_ONLY = ("engine", "workers", "client_timeout", "window_mb", "max_examples")
"""Settings that say where and how a run is computed, not what comes out of it."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that one run is made of. Settings that are None take what the data set suggests.

    Attributes:
        dataset: A data set by name or path; ``own`` for a task given in Python.
        method: Name of the method.
        method_settings: Settings of the method that differ from its defaults.
        model: Name of the model.
        width: Factor on the model's channels.
        norm: Normalisation layers of models that have them.
        partition: How examples spread over clients.
        concentration: Of the Dirichlet partition; small values give clients few classes.
        shards: Shards a client, of the shards partition.
        clients: Number of clients.
        cohort: Clients in one round.
        rounds: Training rounds.
        validation: Share of each client's data that decisions look at.
        holdout: Share of each client's data that evaluates personal models; only split off for them.
        min_clients: A round with fewer usable updates ends the run.
        epochs: Passes of a client over its data in one round.
        steps: Optimizer steps in one round, in place of epochs.
        batch_size: Examples in one step.
        optimizer: Optimizer of the clients.
        lr: Learning rate of the clients.
        lr_schedule: How the learning rate moves over the run.
        lr_end: Share of the learning rate that is left at the end.
        momentum: Of the clients' SGD.
        weight_decay: L2 penalty of the clients' optimizer.
        clip: Largest norm of a gradient.
        batch_norm: What happens to batch-norm statistics: averaged, kept on each client (which makes the
            evaluation personal), or measured in a stage of its own before each evaluation.
        seed: Seed of everything random.
        evaluate_every: Rounds between two evaluations on the test set.
        judges: Clients whose data judge personal models and give the training error: a sample of the population, the
            same in every round; 10,000 by default, or all if there are fewer.
        uplink: How the values of updates are coded; all but ``fp32`` and ``raw`` lose some of them.
        downlink: The same for tasks.
        error_feedback: Clients add what the coding of an update dropped to their next one.
        tiers: What devices can train, for methods of smaller models: widths, or limits that widths follow from, as in
            ``1, 3 x 0.5, parameters=1e5``; ``3 x`` gives a tier three times the clients.
        robust: What stands in place of the mean of what clients send, so that a few bad ones cannot move it far: median
            or trimmed mean of each coordinate, the update closest to the others (Krum) or the mean of the closest, or
            the mean of updates whose change is bounded.
        byzantine: How many clients of a round may be bad: a number, or a share below 0.5; 0.2 by default.
        bound: The largest norm of an update's change; take about that of an honest one; 5 by default.
        redraw_tiers: Whether a client's tier is drawn anew every round; by default it keeps the one that it has.
        kernel: How training is computed: client after client (``loop``), or many clients' steps at once, by batched
            products of matrices (``stack``, for dense layers) or vectorised (``vmap``, for any small module); or with a
            ``compiled`` module, for GPUs. Kernels differ in the last bits; by default a rule takes one by the model,
            the batch size and the cohort.
        device: Where training is computed: ``cpu`` by default, ``cuda``, or ``cuda:1``; it decides last bits too.
        engine: What carries the bytes; all engines give equal bits.
        workers: Processes of the processes engine, of a Ray cluster at most, or devices of a Flower federation on this
            machine; one a core by default.
        client_timeout: Seconds after which a client is dropped from a round.
        window_mb: Megabytes of early answers that may wait for their turn.
        max_examples: The most examples that an update may count for; by default all that the server knows of.
    """

    dataset: str = "digits"
    method: str = "fedavg"
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    width: Annotated[float, POSITIVE] = 1.0
    norm: Literal["group", "batch"] = "group"
    partition: Literal["iid", "dirichlet", "shards", "natural"] | None = None
    concentration: Annotated[float, POSITIVE, Only("partition", ("dirichlet",))] = 0.5
    shards: Annotated[int, AT_LEAST_ONE, Only("partition", ("shards",))] = 2
    clients: Count | None = None
    cohort: Count | None = None
    rounds: Count | None = None
    validation: Annotated[float, PART] = 0.1
    holdout: Annotated[float, PART] = 0.1
    min_clients: Count = 1
    epochs: Annotated[int, AT_LEAST_ONE, Only("steps", (None,))] | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    lr: Annotated[float, POSITIVE] | None = None
    lr_schedule: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    lr_end: Annotated[float, SHARE, Only("lr_schedule", ("linear", "cosine", "exponential"))] = 0.1
    momentum: Annotated[float, PART, Only("optimizer", ("sgd",))] = 0.0
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    clip: Annotated[float, POSITIVE] | None = None
    batch_norm: Literal["average", "local", "static"] = "average"
    seed: Annotated[int, Range(0, 2**63, open_high=True)] = 0
    evaluate_every: Count = 1
    judges: Count | None = None
    uplink: Values = "fp32"
    downlink: Values = "fp32"
    error_feedback: bool = False
    tiers: str | None = None
    redraw_tiers: bool | None = None
    robust: Literal["median", "trimmed", "krum", "multi-krum", "norm-bound"] | None = None
    byzantine: Annotated[float, POSITIVE, Only("robust", ("trimmed", "krum", "multi-krum"))] | None = None
    bound: Annotated[float, POSITIVE, Only("robust", ("norm-bound",))] | None = None
    kernel: Literal["auto", "loop", "stack", "vmap", "compiled"] | None = None
    device: str | None = None
    engine: Literal["auto", "local", "processes", "ray", "flower"] = "auto"
    workers: Annotated[int, AT_LEAST_ONE, Only("engine", ("auto", "processes", "ray", "flower"))] | None = None
    client_timeout: Annotated[float, POSITIVE] | None = None
    window_mb: Annotated[float, POSITIVE] = 256.0
    max_examples: Count | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.error_feedback and self.uplink in ("fp32", "raw"):
            raise ConfigError(f"error_feedback would not be used: uplink={self.uplink} drops nothing")
        alone = {"device": self.device not in (None, "cpu"), "kernel": self.kernel == "compiled"}
        for name in (one for one, needed in alone.items() if needed and self.engine in ("processes", "ray")):
            raise ConfigError(
                f"{name}={getattr(self, name)} needs engine=local, in one process, got engine={self.engine}"
            )
        for name in ("byzantine", "bound"):
            if self.robust is None and getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name):g} would not be used: it needs robust")
        if self.clients is not None and self.cohort is not None:
            if self.cohort > self.clients:
                raise ConfigError(f"cohort must be at most clients={self.clients}, got {self.cohort}")
            if self.min_clients > self.cohort:
                raise ConfigError(f"min_clients must be at most cohort={self.cohort}, got {self.min_clients}")

    def resolved(self, defaults: Mapping[str, Any]) -> "Experiment":
        """The same with every setting that is None taken from ``defaults``; a default cohort fits the clients."""
        known = {one.name for one in dataclasses.fields(self)}
        missing = {
            name: value
            for name, value in defaults.items()
            if name in known and getattr(self, name) is None and not (name == "epochs" and self.steps is not None)
        }
        clients = self.clients or missing.get("clients")
        if clients is not None and "cohort" in missing:
            missing["cohort"] = min(missing["cohort"], clients)
        return dataclasses.replace(self, **missing)

    def as_dict(self) -> dict[str, Any]:
        """All settings, as they stand in ``result.json``."""
        return dataclasses.asdict(self)

    @property
    def digest(self) -> str:
        """12 hex digits that name what comes out; where it is computed does not matter."""
        decides = {
            name: value for name, value in self.as_dict().items() if name not in WHERE_ONLY and value is not None
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Name of the run: data set, method, digest."""
        return f"{self.dataset.replace('/', '-').strip('-.')}-{self.method}-{self.digest}"
