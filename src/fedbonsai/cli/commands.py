"""What run, tune, compare and resume do."""

import dataclasses
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbonsai.cli.progress import Progress, print_profile, print_table, print_text, say
from fedbonsai.core.errors import ConfigError
from fedbonsai.experiment.build import make_method, make_task, resolve
from fedbonsai.experiment.compare import Entry, compare, entries
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.directory import EXPERIMENT, REPORT, RESULT, write_text
from fedbonsai.experiment.execute import Job, execute
from fedbonsai.experiment.profile import execute_recorded
from fedbonsai.experiment.settings import make_experiment, parse_pairs, read_toml, to_toml
from fedbonsai.experiment.tune import compared, explained, tune, way_of, with_settings
from fedbonsai.federated.run import Observer
from fedbonsai.report.profile import TRACE, Profile
from fedbonsai.report.tensorboard import missing_extra

logger = logging.getLogger(__name__)


def run_one(
    name: str,
    given: Mapping[str, Any],
    pairs: Sequence[str],
    data_dir: Path | None,
    out: Path | None,
    *,
    profile: bool = False,
) -> None:
    """``fedbonsai run``."""
    experiment = resolve(make_experiment(_base(name, given), parse_pairs(pairs)))
    _run(experiment, data_dir, out or Path("runs") / experiment.name, profile=profile)


def explain(name: str, given: Mapping[str, Any], pairs: Sequence[str], data_dir: Path | None) -> None:
    """``fedbonsai run --explain``."""
    experiment = resolve(make_experiment(_base(name, given), parse_pairs(pairs)))
    for what, said in explained(Job(experiment, make_task(experiment, data_dir), make_method(experiment))).items():
        print(f"{what}: {said}")


def tune_file(
    name: str, given: Mapping[str, Any], pairs: Sequence[str], data_dir: Path | None, out: Path | None, rounds: int
) -> None:
    """``fedbonsai tune``."""
    path = out or Path(name if name.endswith(".toml") else f"{name}.toml")
    if out is None and not name.endswith(".toml") and path.exists():
        raise ConfigError(f"{path} exists already; tune it itself, or give another file with --out")
    _heed_interrupts()
    experiment = resolve(make_experiment(_base(name, given), parse_pairs(pairs)))
    job = Job(experiment, make_task(experiment, data_dir), make_method(experiment))
    found = tune(job, rounds, say)
    print_text(compared(found))
    for one in found:
        if one.seconds is None:
            print(f"{one.engine}, {one.kernel}: {one.why}")
    best = way_of(found[0].engine, found[0].kernel, experiment)
    kept = name.endswith(".toml") and not pairs and all(one is None for one in given.values())
    written = dataclasses.replace(experiment, **best)
    write_text(path, with_settings(Path(name).read_text("utf-8"), best) if kept else to_toml(written))
    print(f"written: {path}   run it: fedbonsai run {path}")


def run_several(
    name: str,
    methods: Sequence[str],
    densities: str,
    given: Mapping[str, Any],
    pairs: Sequence[str],
    data_dir: Path | None,
    out: Path | None,
) -> None:
    """``fedbonsai compare``."""
    runs = entries(_base(name, given), [one.strip() for one in methods], _numbers(densities), parse_pairs(pairs))
    _compare(runs, data_dir, out or Path("runs") / f"compare-{runs[0].experiment.name}")


def resume_directory(directory: Path, data_dir: Path | None) -> None:
    """``fedbonsai resume``."""
    if (directory / EXPERIMENT).exists():
        if (directory / RESULT).exists():
            print(f"{directory} is finished: see {directory / RESULT}")
            return
        _run(make_experiment(read_toml(directory / EXPERIMENT), {}), data_dir, directory)
        return
    runs = sorted(path.parent for path in directory.glob(f"*/{EXPERIMENT}")) if directory.is_dir() else []
    if not runs:
        raise ConfigError(f"{directory} must hold a run ({EXPERIMENT}), it does not")
    if all((one / RESULT).exists() for one in runs) and (directory / REPORT).exists():
        print(f"{directory} is finished: see {directory / REPORT}")
        return
    _compare([Entry(one.name, make_experiment(read_toml(one / EXPERIMENT), {})) for one in runs], data_dir, directory)


def work(directory: Path, experiment: Path, clients: str, given: Mapping[str, Any], *, supervised: bool) -> None:
    """``fedbonsai worker``."""
    from fedbonsai.flower.worker import Duty, serve

    try:
        numbers = tuple(sorted({int(one) for one in clients.split(",")}))
    except ValueError as error:
        raise ConfigError(f"clients must be numbers separated by commas, got {clients!r}") from error
    _heed_interrupts()
    arguments = ["-m", "fedbonsai", "worker", str(directory.resolve()), "--experiment", str(experiment.resolve())]
    arguments += ["--clients", clients]
    for name, value in given.items():
        if value is not None:
            said = value.resolve() if isinstance(value, Path) else value
            arguments += [f"--{name.replace('_', '-')}", str(said)]
    serve(directory, Duty(experiment, numbers, **given), None if supervised else arguments)


def _run(experiment: Experiment, data_dir: Path | None, out: Path, *, profile: bool = False) -> None:
    _heed_interrupts()
    rounds = experiment.rounds or 0
    with Progress(f"{experiment.dataset} {experiment.method}", rounds) as progress:
        record, found = _record(experiment, data_dir, out, progress.follow(rounds), profile=profile)
    print_table([record])
    if found is not None:
        print_profile(found, out / TRACE)
    _closing(out)


def _record(
    experiment: Experiment, data_dir: Path | None, out: Path, observer: Observer, *, profile: bool
) -> tuple[dict[str, Any], Profile | None]:
    if experiment.engine == "flower":
        from fedbonsai.flower import loopback

        if profile:
            logger.warning("--profile records nothing on the engine flower; the engine processes gives equal bits")
        return loopback.run(experiment, out, loopback.Source(data_dir), observer), None
    go = execute_recorded if profile else execute
    result = go(Job(experiment, make_task(experiment, data_dir), make_method(experiment)), out, observer)
    return result.record, result.profile


def _compare(runs: Sequence[Entry], data_dir: Path | None, out: Path) -> None:
    _heed_interrupts()
    rounds = sum(one.experiment.rounds or 0 for one in runs)
    with Progress(runs[0].experiment.dataset, rounds) as progress:
        observers = {one.label: progress.follow(one.experiment.rounds or 0, one.label) for one in runs}
        results = compare(runs, out, data_dir=data_dir, observer=lambda entry: observers[entry.label])
    print_table([result.record for result in results])
    _closing(out)


def _heed_interrupts() -> None:
    """From here on Ctrl-C and SIGTERM are exceptions: everything is imported, and other processes are to be ended."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.default_int_handler)


def _closing(out: Path) -> None:
    print(f"results: {out}   report: {out / REPORT}")
    hint = missing_extra()
    if hint:
        print(hint)


def _base(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the arguments of a command give."""
    base = read_toml(Path(name)) if name.endswith(".toml") else {"dataset": name}
    return base | {key: value for key, value in given.items() if value is not None}


def _numbers(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise ConfigError(f"densities must be numbers separated by commas, got {text!r}") from error
