"""Bytes between a device's relay and its worker: a Unix socket that both sides prove a secret on.

Imports nothing heavy, because Flower starts a fresh relay for every message.
"""

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from fedbonsai.core.errors import ClientError, ConfigError

HELLO, TASK = b"H", b"T"
"""First byte of a request: who are you, or a task for one of your clients."""

MAX_HELLO = 1 << 20
SUPERVISED = 60.0
"""Seconds that a supervisor has to start a worker again."""

LONGEST_PATH = 100
"""The system allows a few bytes more for the path of a socket."""


@dataclass(frozen=True)
class Home:
    """The directory of a worker, which nobody else on the machine may read.

    Attributes:
        path: Where it is.
    """

    path: Path

    @property
    def socket(self) -> Path:
        """Where the worker listens."""
        return self.path / "socket"

    @property
    def secret(self) -> Path:
        """What both ends of the socket must know."""
        return self.path / "secret"

    @property
    def command(self) -> Path:
        """How the worker was started, so that the relay can start it again."""
        return self.path / "command.json"

    @property
    def lock(self) -> Path:
        """Held by the worker for as long as it lives; its process number is in it."""
        return self.path / "lock"

    @property
    def log(self) -> Path:
        """What a worker that the relay started says."""
        return self.path / "worker.log"

    def make(self) -> bytes:
        """Make the directory and its secret, or find them there; return the secret.

        Raises:
            ConfigError: It cannot be made, others may enter it, or its path is too long for a socket.
        """
        if len(os.fsencode(self.socket)) > LONGEST_PATH:
            raise ConfigError(f"the directory of a worker must have a path under 90 bytes, got {self.path}")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                raise ConfigError(f"{self.path} must be closed to others; chmod 700 it, or choose another directory")
            if not self.secret.exists():
                write_private(self.secret, secrets.token_bytes(32))
            return self.secret.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path} must be a directory that can be written; {error}") from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    temporary.replace(path)


@contextmanager
def listening(home: Home) -> Iterator[Listener]:
    """Listen on the socket of a directory; it is taken away at the end.

    Raises:
        ConfigError: Another worker listens there.
    """
    secret = home.make()
    with home.lock.open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it, however the worker ends
        except OSError as error:
            raise ConfigError(f"one worker a directory: another one is at work in {home.path}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        home.socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener = Listener(str(home.socket), family="AF_UNIX", backlog=16, authkey=secret)
        finally:
            os.umask(before)
        with listener:
            yield listener


def is_up(home: Home) -> bool:
    """Whether a worker listens in this directory."""
    try:
        _connect(home).close()
    except (OSError, EOFError, AuthenticationError):
        return False
    return True


def end(home: Home) -> None:
    """End the worker of a directory, whoever started it; nothing where there is none."""
    with suppress(OSError, ValueError), home.lock.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, so the number in it is that of a worker
            os.kill(int(lock.read()), signal.SIGKILL)


def ask(home: Home, request: bytes, *, most: int, patience: float, restart: bool = True) -> bytes:
    """Send a request to the worker of this device and return its answer; start the worker again if it is gone.

    Args:
        home: Its directory.
        request: `HELLO` or `TASK`, then what belongs to it.
        most: The longest answer that is taken, in bytes.
        patience: Seconds until an answer must be there.
        restart: Whether a worker that is gone is started again, once.

    Raises:
        ClientError: No worker listens and none can be started, or it gave no answer in time.
    """
    until = time.monotonic() + patience
    try:
        with _connect(home) as pipe:
            pipe.send_bytes(request)
            if not pipe.poll(max(0.0, until - time.monotonic())):
                raise ClientError(f"the worker in {home.path} gave no answer within {patience:g} s")
            return pipe.recv_bytes(most)
    except (OSError, EOFError, AuthenticationError) as error:
        if not restart:
            what = f"the worker in {home.path} must be running, it is not"
            raise ClientError(f"{what}: {error!r}; see {home.log}") from error
    start_again(home, until)
    return ask(home, request, most=most, patience=until - time.monotonic(), restart=False)


def start_again(home: Home, until: float) -> None:
    """Start the worker with the command that it was started with, and wait until it listens.

    One that has a supervisor is left to it.

    Raises:
        ClientError: It was never started here, ends at once, or does not come up in time.
    """
    try:
        command = json.loads(home.command.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ClientError(f"no worker is running in {home.path}; start `fedbonsai worker {home.path} ...`") from error
    worker = None if command["arguments"] is None else _start(home, command)
    until = until if worker is not None else min(until, time.monotonic() + SUPERVISED)
    while time.monotonic() < until:
        if is_up(home):
            return
        if worker is not None and worker.poll() is not None and not is_up(home):
            raise ClientError(f"the worker in {home.path} ended at once with code {worker.returncode}; see {home.log}")
        time.sleep(0.1)
    raise ClientError(f"the worker in {home.path} did not come up in time; see {home.log}")


def _start(home: Home, command: dict[str, Any]) -> subprocess.Popen[bytes]:
    with home.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the worker's own command, from a file that only its owner may write
            [sys.executable, *command["arguments"]],
            cwd=command["directory"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _connect(home: Home) -> Connection:
    return Client(str(home.socket), family="AF_UNIX", authkey=home.secret.read_bytes())
