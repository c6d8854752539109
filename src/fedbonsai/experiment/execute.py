"""Run an experiment, write its directory, resume it."""

import json
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from fedbonsai import wire
from fedbonsai.core.errors import CheckpointError, ConfigError
from fedbonsai.core.fields import check_rounds
from fedbonsai.core.finite import all_finite
from fedbonsai.core.seeds import seeded
from fedbonsai.core.state import Setting, State, Tensors
from fedbonsai.experiment.build import OWN, check_personal, make_engine, make_robust
from fedbonsai.experiment.choice import engine_of, make_bench
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.directory import CHECKPOINT, MODEL, REPORT, RESULT, claimed, replacing, write_text
from fedbonsai.experiment.events import Tell, observing, started, telling
from fedbonsai.experiment.tiers import make_tiers
from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.federated.engine import Engine
from fedbonsai.federated.exchange import Rules
from fedbonsai.federated.method import Method
from fedbonsai.federated.run import JUDGES, Observer, Run, Schedule
from fedbonsai.federated.submodels import only_grids
from fedbonsai.learning.bench import Bench, channels_of
from fedbonsai.learning.device import exactly
from fedbonsai.learning.task import PreparedTask, Task
from fedbonsai.report.formats import storable
from fedbonsai.report.html import write_report
from fedbonsai.report.profile import Profile
from fedbonsai.report.tensorboard import write_events
from fedbonsai.sparsity.channels import extract, kept_units

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

    Attributes:
        record: The contents of ``result.json``.
        tensors: The tensors of the result, pruned weights exactly zero.
        task: What was learned.
        directory: Where the run's files are; None when it wrote none.
        personal: Whether every client has a model of its own.
        profile: Where the time went; None when that was not recorded.
    """

    record: dict[str, Any]
    tensors: Tensors
    task: PreparedTask
    directory: Path | None
    personal: bool = False
    profile: Profile | None = None

    @property
    def final(self) -> dict[str, Any]:
        """The summary: errors, density, bytes, seconds."""
        found: dict[str, Any] = self.record["final"]
        return found

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """One line a round."""
        found: list[dict[str, Any]] = self.record["rounds"]
        return found

    @property
    def model(self) -> nn.Module:
        """A fresh module with the result's weights, in evaluation mode; one that lost units really is smaller.

        Raises:
            ConfigError: Every client has a model of its own, and there is none of all.
        """
        if self.personal:
            raise ConfigError(
                f"{self.record['config']['method']} has a model for each client and none of all; what they share is in "
                "tensors, how they do in final"
            )
        with seeded(int(self.record["config"]["seed"]), "model"):
            module = self.task.model()
            module.load_state_dict(dict(self.tensors), strict=False)
            if self.record.get("units"):
                # Where a norm goes over channels, zeros in their place would compute something else.
                keep = {name: torch.tensor(units) for name, units in self.record["units"].items()}
                module, _ = extract(module, channels_of(self.task, module), keep)
        return module.eval()


@dataclass(frozen=True, eq=False)
class Job:
    """A run that can be started.

    Attributes:
        experiment: Its settings, nothing in them left open.
        task: What is to be learned.
        method: How.
        engine: Makes what carries the bytes, in place of the engine that the experiment names.
    """

    experiment: Experiment
    task: Task
    method: Method
    engine: Callable[[Bench, Tell], Engine] | None = None


def execute(job: Job, out: Path | None = None, observer: Observer | None = None) -> Result:
    """Run a job to its end, from its checkpoint if it has one.

    Args:
        job: The job.
        out: Directory of the run; made when it is missing. None writes nothing.
        observer: Is told the row of every finished round.

    Raises:
        ConfigError: Settings contradict each other or the task, or ``out`` holds another run.
        RoundError: A round was left with too few clients; the run can be resumed.
        CheckpointError: A checkpoint cannot be read or written.
    """
    experiment = job.experiment
    held_out = check_personal(job.method, experiment)
    prepared = job.task.prepared(experiment.validation, experiment.seed, held_out)
    with claimed(out, experiment), telling(out) as tell, one_thread(), exactly(experiment.device):
        bench = make_bench(experiment, prepared)
        name = engine_of(experiment, bench).name
        engine = job.engine(bench, tell) if job.engine else make_engine(name, experiment, job.method, bench)
        try:
            run = make_run(job, bench, engine, out)
            begun = run.start()
            tell("start", started(experiment, run, begun, name))
            checkpoint = run.run(observing(tell, run.setting.rounds, observer), begun)
            record = make_record(experiment, run, checkpoint)
        finally:
            engine.close()
        result = Result(record, run.deployed(checkpoint.state), prepared, out, run.method.traits.personal)
        if out is not None:
            write_result(out, result)
        tell("end", {"final": record["final"]})
    return result


def make_run(job: Job, bench: Bench, engine: Engine, out: Path | None) -> Run:
    """Wire the layers together."""
    experiment, clients = job.experiment, len(bench.task.splits)
    if experiment.rounds is None or experiment.cohort is None:
        raise ConfigError("an experiment needs rounds and a cohort before it can run, got none")
    if experiment.cohort > clients:
        raise ConfigError(f"cohort must be at most the number of clients, {clients}, got {experiment.cohort}")
    if experiment.batch_norm != "average" and not bench.has_batch_norm:
        raise ConfigError(f"batch_norm={experiment.batch_norm} would not be used: the model has no batch norm")
    rules = Rules(
        experiment.cohort,
        experiment.min_clients,
        int(experiment.window_mb * 1e6),
        most_examples(experiment, bench),
        experiment.downlink,
        make_robust(experiment, job.method),
        () if bench.task.elsewhere or experiment.steps is not None else bench.task.sizes,
    )
    directory = None if out is None else out / CHECKPOINT
    judges = experiment.judges or JUDGES
    return Run(
        job.method,
        make_setting(job.method, experiment, bench),
        engine,
        bench,
        rules,
        Schedule(experiment.evaluate_every, experiment.batch_norm, directory, whose(experiment, bench), judges),
    )


def make_setting(method: Method, experiment: Experiment, bench: Bench) -> Setting:
    """What the method may know of the run.

    Raises:
        ConfigError: Tiers are of no use to the method or cannot be borne, it needs channels that cannot be traced, or a
            round that the run does not reach; or the model begins with weights that are no numbers.
    """
    check_rounds(method, experiment.rounds or 1)
    odd = [slot.name for slot in bench.layout.parameters if not all_finite(bench.initial[slot.name])]
    if odd:
        raise ConfigError(f"{odd[0]}: a model must begin with finite weights, got NaN or infinity; initialise it")
    traits, clients = method.traits, len(bench.task.splits)
    tiers = make_tiers(experiment.tiers, traits, bench, redrawn=bool(experiment.redraw_tiers))
    channels = bench.channels if traits.submodels else None
    return Setting(experiment.rounds or 1, clients, experiment.seed, bench.layout, tiers, channels)


def whose(experiment: Experiment, bench: Bench) -> str:
    """What a checkpoint belongs to: the settings, and the data where these do not name them."""
    own = experiment.dataset == OWN and not bench.task.elsewhere
    return f"{experiment.digest}-{bench.task.fingerprint}" if own else experiment.digest


def most_examples(experiment: Experiment, bench: Bench) -> float:
    """The most examples that a client may claim: what is set, or all that there are, as far as that is known here."""
    if experiment.max_examples is not None:
        return float(experiment.max_examples)
    return Rules.max_examples if bench.task.elsewhere else float(len(bench.task.pool))


def make_record(experiment: Experiment, run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """The contents of ``result.json``."""
    state, rows = checkpoint.state, list(checkpoint.rows)
    layout, loss = run.setting.layout, run.bench.task.loss
    trained = run.train_metric(state)
    last = next(row for row in reversed(rows) if row["test_metric"] is not None)
    train_error, test_error = loss.error(trained.metric), loss.error(last["test_metric"])
    shapes = {name: tuple(one.shape) for name, one in state.weights.items()}
    asked = sum(row["clients"] + row["dropped"] for row in rows if row["stage"] == "train")
    final = {
        "train_error": train_error,
        "test_error": test_error,
        "generalization_gap": test_error - train_error,
        "test_metric": last["test_metric"],
        "test_loss": last["test_loss"],
        "metric": loss.metric_name,
        "scope": "personal" if run.personal else "global",
        "parameters": layout.count(),
        "parameters_kept": layout.count(state.supports),
        "density": state.density,
        "bytes_down": sum(row["bytes_down"] for row in rows),
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_dense": 2 * asked * wire.dense_length(shapes),
        "seconds": checkpoint.seconds,
        "train_flops": sum(row["flops"] for row in rows),
        "peak_memory_bytes": peak_memory_bytes(),
        "dropped": sum(row["dropped"] for row in rows),
        "widths": run.by_width(state),
    }
    layers = [
        {
            "name": slot.name,
            "shape": list(slot.shape),
            "parameters": slot.numel,
            "kept": state.supports[slot.name].count if slot.name in state.supports else slot.numel,
        }
        for slot in layout.parameters
    ]
    return {
        "schema": SCHEMA,
        "name": experiment.name,
        "config": experiment.as_dict() | {"engine": engine_of(experiment, run.bench).name, "kernel": run.bench.kernel},
        "environment": environment(),
        "rounds": rows,
        "final": final,
        "layers": layers,
        "units": kept_of(run.setting, state),
    }


def kept_of(setting: Setting, state: State) -> dict[str, list[int]] | None:
    """The units that a physically smaller result has left, by group; None where it is whole, or pruned by masks."""
    grids = only_grids(state.supports)
    return {name: one.tolist() for name, one in kept_units(setting.groups, grids).items()} if grids else None


def write_result(out: Path, result: Result) -> None:
    """Write the model, the report, the TensorBoard events, and last ``result.json``, which says that all is there.

    Raises:
        CheckpointError: The disk is full or cannot be written; the checkpoint stands, resume writes them again.
    """
    try:
        with replacing(out / MODEL) as temporary:
            save_file({name: one.contiguous().clone() for name, one in result.tensors.items()}, temporary)
        write_report([result.record], out / REPORT, title=result.record["name"])
        write_events(result.record, out / "tensorboard")
        write_text(out / RESULT, json.dumps(storable(result.record), indent=1, allow_nan=False))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the result cannot be written to {out}: {error}; make room and resume") from error


def environment() -> dict[str, Any]:
    """Where a run was computed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fedbonsai": version("fedbonsai"),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The processor's name, as well as the platform tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, and of its largest worker, added up."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread inside the block: small models are many times slower with more, and bits stay equal."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
