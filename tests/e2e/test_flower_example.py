"""The example of the drop-in on a real SuperLink with two SuperNodes, all on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower-quickstart"
PATIENCE = 600.0  # seconds; each message starts a process that imports torch
TOTAL = 32 * 9 + 512 * 128 + 128 * 10


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Starts a program of Flower's with a home of its own, and returns its log; in the end all are ended."""
    running = []

    def begin(program: str, *arguments: str) -> Path:
        name = f"{program}-{len(running)}"
        log = tmp_path / f"{name}.log"
        with log.open("wb") as out:
            running.append(
                subprocess.Popen(
                    [Path(sys.executable).with_name(program), *arguments],
                    cwd=tmp_path,
                    env=environment(tmp_path / name),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return log

    yield begin
    for process in reversed(running):
        end(process)


def environment(home: Path) -> dict[str, str]:
    """Nothing is told to anybody, and nothing is installed."""
    home.mkdir(exist_ok=True)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **quiet, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def end(process: subprocess.Popen) -> None:
    """Ask a program to end, and then kill its whole session, of which its children are part."""
    for ask, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, ask)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def free_ports(count: int) -> list[int]:
    """Ports that are free on loopback, as long as nobody else takes them."""
    with bound(count) as sockets:
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def bound(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for one in sockets:
            one.close()


def wait_for(port: int, log: Path) -> None:
    """Wait until something listens."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on {port}:\n{log.read_text()}")


@pytest.mark.slow
def test_the_example_runs_on_a_superlink_with_two_supernodes(start, tmp_path):
    link, *nodes = free_ports(3)
    address = f"127.0.0.1:{link}"
    here = ("--insecure", "--host", "127.0.0.1", "--port")
    wait_for(link, start("flower-superlink", *here, str(link), "--disable-runtime-dependency-installation"))
    for place, port in enumerate(nodes):
        config = f"partition-id={place} num-partitions={len(nodes)}"
        start("flower-supernode", *here, str(port), "--superlink", address, "--node-config", config)
    home = tmp_path / "home"
    env = environment(home)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    flwr = Path(sys.executable).with_name("flwr")
    settings = "num-server-rounds=3 density=0.1 local-epochs=1 fraction-evaluate=1.0"
    done = subprocess.run(
        [flwr, "run", EXAMPLE, "here", "--stream", "--run-config", settings],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    rows = re.findall(r"^\s*INFO\s*:\s+(\d) +([\d.]+) +(\d/\d) +([\d,]+) +([\d,]+) +([\d.]+)$", said, re.MULTILINE)
    assert [(number, replies) for number, _, replies, *_ in rows] == [("1", "2/2"), ("2", "2/2"), ("3", "2/2")], said
    assert float(rows[-1][-1]) < 0.15
    (model,) = tmp_path.rglob("final_model.safetensors")
    state = load_file(model)
    kept = sum(int((state[name] != 0).sum()) for name in ("conv.weight", "fc1.weight", "fc2.weight"))
    assert kept == round(0.1 * TOTAL)
    assert int(state["norm.num_batches_tracked"]) > 0
