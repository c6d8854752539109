"""The directory of a run: whose it is, and files that are there whole or not at all."""

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedbonsai.core.errors import ConfigError
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.settings import coerce, read_toml, to_toml
from fedbonsai.report.events import EVENTS

EXPERIMENT, RESULT, MODEL, CHECKPOINT = "experiment.toml", "result.json", "model.safetensors", "checkpoint"
REPORT = "report.html"


@contextmanager
def claimed(out: Path | None, experiment: Experiment) -> Iterator[None]:
    """Hold a directory for a run; a run that is refused inside the block leaves nothing of itself there.

    Otherwise a slip in one setting would keep the directory from the run with the slip mended. No other process can run
    there in the meantime: two would write each other's checkpoints.

    Args:
        out: The directory; None holds nothing.
        experiment: The settings of the run.

    Raises:
        ConfigError: It holds another run or other files, cannot be written, or a process runs there.
    """
    if out is None:
        yield
        return
    fresh = _claim(out, experiment)
    try:
        with _alone(out):
            yield
    except ConfigError:
        if fresh and not (out / CHECKPOINT).exists():
            (out / EVENTS).unlink(missing_ok=True)
            (out / EXPERIMENT).unlink()
            with suppress(OSError):  # whatever else is there stays
                out.rmdir()
        raise


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes out of a directory; the system lets go of it however this one ends."""
    path = out / f".{EXPERIMENT}.lock"
    try:
        lock = path.open("ab")
    except OSError as error:
        raise ConfigError(f"{out} must be a directory that can be written; {error}") from error
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock no worker takes it over
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                f"{out} must be run by one process at a time, another one is at work there; follow it with "
                f"`fedbonsai watch {out}`, or choose another --out"
            ) from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_comparison(out: Path, labels: Collection[str]) -> None:
    """Make sure that a directory is free for a comparison, or holds one.

    Raises:
        ConfigError: It holds anything besides runs and their report.
    """
    there = list(out.iterdir()) if out.is_dir() else []
    known = {*labels, REPORT} if any((one / EXPERIMENT).exists() for one in there) else set(labels)
    foreign = [one.name for one in there if one.name not in known and not (one / EXPERIMENT).exists()]
    if foreign:
        raise ConfigError(
            f"{out} must be empty or hold a comparison, it holds {min(foreign)}; choose another --out, or make room"
        )


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to inside the block; what was written takes the place of ``path``, unless something failed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _claim(out: Path, experiment: Experiment) -> bool:
    """Take a directory for a run, or make sure that it is this run's already; return whether it was free."""
    written = out / EXPERIMENT
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not written.exists():
            if any(not one.name.startswith(f".{EXPERIMENT}.") for one in out.iterdir()):  # of a claim that was killed
                raise ConfigError(f"{out} must be empty or hold this run, it holds other files; choose another --out")
            write_text(written, to_toml(experiment))
            return True
    except OSError as error:
        raise ConfigError(f"{out} must be a directory that can be written; {error}") from error
    try:
        before = Experiment(**coerce(Experiment, read_toml(written), "setting"))
    except ConfigError as error:
        raise ConfigError(f"{written} must be the experiment of a run; {error}") from error
    if before.digest != experiment.digest:
        raise ConfigError(
            f"{out} holds another run ({before.name}), not {experiment.name}; choose another --out, or resume that one"
        )
    return False
