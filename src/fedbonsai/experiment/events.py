"""The events of a run, told as they happen in a file of its directory, for whoever watches; nothing reads them back."""

import fcntl
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbonsai.core.errors import FedbonsaiError
from fedbonsai.experiment.config import Experiment
from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.federated.ledger import Row
from fedbonsai.federated.run import Observer, Run
from fedbonsai.report.events import EVENTS, MAX_TEXT, brief
from fedbonsai.report.formats import storable

logger = logging.getLogger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]
"""Writes an event of a kind with its facts."""


@contextmanager
def telling(out: Path | None) -> Iterator[Tell]:
    """Tell the events of a run while the block lasts; once it has told ``start``, an error that ends it is told too.

    A file that cannot be written costs the run nothing but a warning.

    Args:
        out: Directory of the run; None tells nobody.
    """
    told: set[str] = set()

    def tell(kind: str, facts: Mapping[str, Any]) -> None:
        if out is None or "failure" in told:
            return
        told.add(kind)
        try:
            append(out / EVENTS, kind, facts)
        except OSError as error:
            told.add("failure")
            logger.warning("%s cannot be written (%s): watch shows no more of this run", out / EVENTS, error)

    try:
        yield tell
    except BaseException as error:
        if "start" in told:
            tell("failed", failure(error))
        raise


def append(path: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Add one event to a file in one step; several threads and processes may do so at once.

    Args:
        path: The file; made when it is missing.
        kind: ``start``, ``round``, ``node``, ``end``, ``failed``: see `fedbonsai.report.events`.
        facts: What is told; numbers that are not finite are written as null.

    Raises:
        OSError: It cannot be written.
    """
    event = {"event": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
    line = json.dumps(storable(event), allow_nan=False).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # a disk was full, or a process killed, within a line
            line = b"\n" + line
        os.write(file, line)
    finally:
        os.close(file)


def started(experiment: Experiment, run: Run, begun: Checkpoint, engine: str) -> dict[str, Any]:
    """The facts of ``start``: what runs, where, and what was done before."""
    return {
        "name": experiment.name,
        "digest": experiment.digest,
        "method": experiment.method,
        "dataset": experiment.dataset,
        "rounds": run.setting.rounds,
        "clients": run.setting.clients,
        "cohort": experiment.cohort,
        "engine": engine,
        "kernel": run.bench.kernel,
        "pid": os.getpid(),
        "host": platform.node(),
        "round": begun.state.round,
        "seconds": begun.seconds,
        **{name: sum(row[name] for row in begun.rows) for name in ("bytes_down", "bytes_up", "dropped")},
    }


def observing(tell: Tell, rounds: int, observer: Observer | None) -> Observer:
    """An observer that tells every round and how long the others will take, and then tells ``observer``.

    Args:
        tell: Where to.
        rounds: Training rounds in all.
        observer: Who else looks on.
    """
    held, spent = 0, 0.0

    def observe(row: Row) -> None:
        nonlocal held, spent
        held, spent = held + (row["stage"] == "train"), spent + row["seconds"]
        left = spent / max(held, 1) * (rounds - row["round"])
        tell("round", {**brief(row), "seconds_left": left})
        if observer is not None:
            observer(row)

    return observe


def failure(error: BaseException) -> dict[str, str]:
    """The facts of the event that an error ended a run."""
    return {"error": _said(error)[:MAX_TEXT]}


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, FedbonsaiError) else f"{type(error).__name__}: {error}"
