"""The benchmark's end of a process that holds rounds when it is told to."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from uuid import uuid4

TAG = "FEDBONSAI_PEER"
MARK = "@@ "
PATIENCE = 600.0
"""Seconds after which an engine that has not answered is stopped."""

QUIET: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
}


class WorkerError(Exception):
    """An engine ended, or answered with something else than was asked for."""


class Worker:
    """A process of an engine, with all processes that it starts.

    Args:
        command: What starts it.
        log: Where its errors go.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log, self._tag = log, uuid4().hex
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w", encoding="utf-8"),
            text=True,
            env=os.environ | QUIET | {TAG: self._tag},
            start_new_session=True,
        )

    def wait_for(self, word: str) -> str:
        """Read until it says a word; what it says after it.

        Raises:
            WorkerError: It said another, ended, or took too long.
        """
        timer = threading.Timer(PATIENCE, self.kill)
        timer.start()
        try:
            for line in _pipe(self._process.stdout):
                if line.startswith(MARK + word):
                    return line.removeprefix(MARK + word).strip()
                if line.startswith(MARK):
                    raise WorkerError(f"{word!r} was to come, got {line.strip()!r}")
        finally:
            timer.cancel()
        raise WorkerError(self.last_words())

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def tell(self, text: str) -> None:
        """Send it one line.

        Raises:
            WorkerError: It has ended.
        """
        pipe = _pipe(self._process.stdin)
        try:
            pipe.write(text + "\n")
            pipe.flush()
        except OSError:
            raise WorkerError(f"it has ended: {self.last_words()}") from None

    def round(self) -> tuple[float, float]:
        """Let it hold a round; wall seconds, and processor seconds of all its processes."""
        before, began = self.cpu_seconds(), time.perf_counter()
        self.tell("round")
        self.wait_for("done")
        wall = time.perf_counter() - began
        return wall, self.cpu_seconds() - before

    def write_weights(self, path: Path) -> dict[str, str]:
        """Let it write the weights that it now has; what it says besides."""
        self.tell(f"weights {path}")
        facts: dict[str, str] = json.loads(self.wait_for("written"))
        return facts

    def cpu_seconds(self) -> float:
        """Processor seconds that it and its living processes have used, and those that they have waited for."""
        tick = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in self._processes():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            except OSError:
                continue
            total += sum(map(int, fields[11:15]))
        return total / tick

    def close(self) -> None:
        """End it with all that it has started; it has nothing to save."""
        for _ in range(50):
            self.kill()
            if not self._processes():
                break
            time.sleep(0.1)
        self._process.wait()

    def kill(self) -> None:
        """End all of its processes; it knows them by a mark in their environment, as some leave their session."""
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _processes(self) -> list[int]:
        mark, found = f"{TAG}={self._tag}".encode(), []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise WorkerError("a worker needs its pipes")
    return pipe
