"""The command line under test: in a process of its own, or in a copy of this one that may be limited and killed.

A process of its own spends seconds on importing torch, a copy of this one none.
"""

import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fedbonsai.cli.app import start

QUICK = ("digits", "--clients", "4", "--cohort", "3", "--set", "model=mlp", "--set", "batch_size=64")
SMALL = (*QUICK, "--rounds", "2", "--set", "width=0.1")
PATIENCE = 60.0  # seconds; on a busy machine the imports alone take many


def fedbonsai(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m fedbonsai`` to its end."""
    command = [sys.executable, "-m", "fedbonsai", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@contextmanager
def copy_of_this_process(log: Path, *arguments: str, file_size: int | None = None) -> Iterator[BaseProcess]:
    """Start the command line in a fork of this process; it does not outlive the block.

    Args:
        log: Where its output goes, both streams.
        arguments: Of the command line.
        file_size: The most bytes that it may write to one file, as if the disk were full then.
    """
    process = multiprocessing.get_context("fork").Process(target=_obey, args=(log, arguments, file_size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking beside any other thread
        process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _obey(log: Path, arguments: tuple[str, ...], file_size: int | None) -> None:
    os.setsid()  # a process group, as a shell gives every command one
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    logging.getLogger().handlers.clear()  # pytest's; start adds its own
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.exit(start(arguments))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come about")
        time.sleep(0.005)


def children(process: int) -> list[int]:
    """Processes that a process has started and that still run."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def runs(process: int) -> bool:
    """Whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def interrupt(process: int) -> None:
    """Press Ctrl-C: a terminal sends it to the whole process group."""
    os.killpg(process, signal.SIGINT)


def result(out: Path) -> dict[str, Any]:
    """What ``result.json`` holds."""
    return json.loads((out / "result.json").read_text())


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a ledger without what a clock measured."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def bits(out: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """All of a run that must not depend on when, where and in how many goes it was computed."""
    return (out / "model.safetensors").read_bytes(), timeless(result(out)["rounds"])


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(one.relative_to(directory)): one.read_bytes() for one in directory.rglob("*") if one.is_file()}
