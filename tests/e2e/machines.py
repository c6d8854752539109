"""A Ray cluster of a head and two machines, each a process group of its own here that can be killed whole."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.command import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Machines:
    """The cluster.

    Attributes:
        folder: Where Ray keeps its files.
        address: Of the head, which computes nothing.
        processes: What leads their process groups, the head's first.
    """

    folder: Path
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> None:
        """Start a machine as a user does, and wait until it is there."""
        words = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *arguments]
        log = self.folder / f"log{len(self.processes)}"
        with log.open("w") as file:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, start_new_session=True)
        self.processes.append(process)
        wait_until(lambda: "Ray runtime started." in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()

    def add(self) -> None:
        """Start a machine with one CPU."""
        self.start(f"--address={self.address}", "--num-cpus=1", "--object-store-memory=100000000")

    def kill(self) -> None:
        """Take the power from all of them."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def machines() -> Iterator[Machines]:
    """A cluster that ends with the block, whatever happens in it."""
    if "ray" not in sys.modules:  # it listens to the whole network, so it must ask who is there; see engines/cluster.py
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # sockets need short paths
        found = Machines(Path(folder), f"127.0.0.1:{port}")
        try:
            found.start("--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}", "--include-dashboard=false")
            found.add()
            found.add()
            yield found
        finally:
            found.kill()
