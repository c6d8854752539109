"""Rounds across devices: fedbonsai's on Flower, beside a plain Flower app of the same model and clients.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/flower.py [--parts rounds,own,large,many] [--write]

Prints tables; ``--write`` puts them into docs/benchmarks.md. Everything runs on this machine, in a network of its own
where the system allows (``unshare``), so that the counters of the loopback interface count nothing else. Needs the
extra ``flower``.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from tables import Table, put, table_with_machine

from fedbonsai.data.load import load
from fedbonsai.experiment.build import make_engine, make_method, resolve
from fedbonsai.experiment.choice import engine_of, make_bench
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.execute import Job, make_run
from fedbonsai.federated.round import run_round
from fedbonsai.federated.run import Run
from fedbonsai.flower import loopback
from fedbonsai.flower.project import files
from fedbonsai.flower.worker import load_app
from fedbonsai.learning.learner import Learner

ALONE = "FEDBONSAI_NETWORK"
ROUNDS, STEPS, BATCH, LR = 20, 20, 32, 0.05
WARM = 2
"""Rounds of each run that are not counted."""

LENET = """\
def make_net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )


def data(client):
    found = np.load(DATA)
    return torch.from_numpy(found[f"x{client}"]), torch.from_numpy(found[f"y{client}"])
"""

TASK = """\
import numpy as np
import torch
from torch import nn

import fedbonsai as fb

DATA = {data!r}


{net}

def task():
    return fb.Task(make_net, fb.losses.cross_entropy, 2, test=data("test"))
"""

PLAIN_TASK = """\
import numpy as np
import torch
from torch import nn

DATA = {data!r}


{net}

def train(net, client, steps, batch, lr):
    inputs, targets = data(client)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(steps):
        chosen = torch.randint(len(targets), (batch,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    return len(targets)


def accuracy(net):
    inputs, targets = data("test")
    with torch.inference_mode():
        return (net(inputs).argmax(1) == targets).float().mean().item()
"""

PLAIN_CLIENT = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from task import make_net, train

app = ClientApp()


@app.train()
def work(message, context):
    net = make_net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    examples = train(net, context.node_config["partition-id"], {steps}, {batch}, {lr})
    reply = {{"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({{"num-examples": examples}})}}
    return Message(RecordDict(reply), reply_to=message)
"""

PLAIN_SERVER = """\
import json
import time

from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from task import accuracy, make_net

app = ServerApp()


@app.main()
def main(grid, context):
    net, told = make_net(), []

    def evaluate(round_, arrays):
        net.load_state_dict(arrays.to_torch_state_dict())
        told.append((time.time(), accuracy(net)))

    arrays = ArrayRecord(net.state_dict())
    FedAvg(fraction_train=1.0, fraction_evaluate=0.0).start(grid, arrays, num_rounds={rounds}, evaluate_fn=evaluate)
    with open(context.run_config["out"], "w") as file:
        json.dump({{"told": told, "bytes": 4 * {rounds} * arrays.count_bytes()}}, file)
"""

LARGE = """\
import torch
from torch import nn

import fedbonsai as fb


def task():
    return fb.Task(lambda: nn.Linear(10_000, 10_000, bias=False), "mse", 2, test=data(2))


def data(client):
    inputs = torch.randn(4, 10_000, generator=torch.Generator().manual_seed(client))
    return inputs, inputs.roll(1, 1)
"""


def prepare(scratch: Path) -> dict[str, str]:
    """Digits at 28 x 28 for two clients, in a file that both apps read; the names that the apps' texts need."""
    digits = load("digits")
    chunks = {"0": torch.arange(0, len(digits.train), 2), "1": torch.arange(1, len(digits.train), 2)}
    batches = {name: digits.train.batch(chunk) for name, chunk in chunks.items()}
    batches["test"] = digits.test.batch(torch.arange(len(digits.test)))
    arrays: dict[str, Any] = {}
    for name, (inputs, targets) in batches.items():
        arrays[f"x{name}"] = torch.nn.functional.interpolate(inputs, size=28, mode="bilinear").numpy()
        arrays[f"y{name}"] = targets.numpy()
    np.savez(scratch / "data.npz", **arrays)
    return {"data": str(scratch / "data.npz"), "net": LENET}


def settings(**others: Any) -> Experiment:  # noqa: ANN401 - fields of Experiment
    """The experiment of all rows."""
    own = {"dataset": "own", "clients": 2, "cohort": 2, "rounds": ROUNDS, "steps": STEPS, "batch_size": BATCH, "lr": LR}
    return Experiment(**{**own, "validation": 0.0, "engine": "flower", "workers": 2, **others})


def loopback_bytes() -> int:
    """Bytes that the loopback interface has carried so far."""
    line = next(one for one in Path("/proc/net/dev").read_text().splitlines() if one.strip().startswith("lo:"))
    return int(line.split()[1])


def plain(scratch: Path, names: dict[str, str]) -> dict[str, Any]:
    """A plain Flower app: seconds a round, bytes of its messages and of the interface, accuracy."""
    app, out = scratch / "app", scratch / "plain.json"
    app.mkdir()
    numbers = {"steps": STEPS, "batch": BATCH, "lr": LR, "rounds": ROUNDS}
    texts = files("plain", 1, own=False)
    texts |= {"task.py": PLAIN_TASK.format(**names), "client_app.py": PLAIN_CLIENT.format(**numbers)}
    texts["server_app.py"] = PLAIN_SERVER.format(**numbers)
    for name, text in texts.items():
        (app / name).write_text(text)
    nodes = [{"partition-id": client, "num-partitions": 2} for client in range(2)]
    with loopback.flower(scratch, nodes) as processes:
        before = loopback_bytes()
        command: list[str | Path] = [
            "run",
            app,
            "loopback",
            "--stream",
            "--run-config",
            loopback.pairs({"out": str(out)}),
        ]
        run = processes.start("flwr-run", [loopback.program("flwr"), *command])
        run.wait()
        carried = loopback_bytes() - before
        if not out.exists():
            raise SystemExit(processes.said("flwr-run"))
    found = json.loads(out.read_text())
    stamps = [stamp for stamp, _ in found["told"]]
    times = [later - earlier for earlier, later in pairwise(stamps)][WARM:]
    return {"seconds": times, "bytes": found["bytes"], "carried": carried, "metric": found["told"][-1][1]}


def ours(scratch: Path, names: dict[str, str], **others: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of Experiment
    """The same of a run of ours."""
    task = scratch / "task.py"
    task.write_text(TASK.format(**names))
    before = loopback_bytes()
    record = loopback.run(settings(**others), scratch / "run", loopback.Source(app=task))
    rows = [row for row in record["rounds"] if row["stage"] == "train"]
    last = rows[-1]
    return {
        "seconds": [row["seconds"] for row in rows][WARM:],
        "bytes": record["final"]["bytes_down"] + record["final"]["bytes_up"],
        "last": last["bytes_down"] + last["bytes_up"],
        "carried": loopback_bytes() - before,
        "metric": record["final"]["test_metric"],
    }


def rounds() -> Table:
    """Wall time and bytes of a round, LeNet on two devices."""
    pruned = {"method": "fl-snip", "method_settings": {"density": 0.1}}
    works: dict[str, Callable[[Path, dict[str, str]], dict[str, Any]]] = {
        "plain Flower app, FedAvg": plain,
        "fedbonsai, fedavg": ours,
        "fedbonsai, fl-snip at density 0.1": lambda scratch, names: ours(scratch, names, **pruned),
    }
    found = {}
    for label, work in works.items():
        with tempfile.TemporaryDirectory(prefix="fb-") as name:
            scratch = Path(name)
            found[label] = work(scratch, prepare(scratch))
            print(f"  {label}: {found[label]}", file=sys.stderr, flush=True)
    base = next(iter(found.values()))
    rows = [["", "s a round", "over plain", "messages", "over plain", "loopback interface", "over plain", "accuracy"]]
    for label, one in found.items():
        seconds, slow = (statistics.median(each["seconds"]) for each in (one, base))
        shown = [label, f"{seconds:.1f}", f"{seconds / slow:.2f}x"]
        for what in ("bytes", "carried"):
            shown += [f"{one[what] / 1e6:.2f} MB", f"{one[what] / base[what]:.3f}x"]
        rows.append([*shown, f"{100 * one['metric']:.1f} %"])
    return rows


def own() -> Table:
    """Time of a round inside our own code, both sides, without training: encode, decode, add up, account."""
    rows = [["method", "round without training, s", "training, s"]]
    for name, given in {"fedavg": {}, "fl-snip": {"density": 0.1}, "fedsparsify": {"density": 0.1}}.items():
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory)
            (scratch / "task.py").write_text(TASK.format(**prepare(scratch)))
            module = load_app(scratch / "task.py")
            task = module.task()
            experiment = resolve(settings(method=name, method_settings=given, engine="local", workers=None))
            whole = type(task)(task.model, task.loss, [module.data(0), module.data(1)], task.test)
            job = Job(experiment, whole, make_method(experiment))
            bench = make_bench(experiment, whole.prepared(0.0, 0))
            run = make_run(
                job, bench, make_engine(engine_of(experiment, bench).name, experiment, job.method, bench), None
            )
            times = timed_rounds(run)
        without, training = (statistics.median(one) for one in zip(*times[WARM:], strict=True))
        rows.append([name, f"{without:.3f}", f"{training:.3f}"])
    return rows


def timed_rounds(run: Run) -> list[tuple[float, float]]:
    """Seconds of each training round outside of `Learner.fit`, and inside."""
    state, spent, times = run.start().state, [0.0], []

    def timed(self: Learner, *given: Any, fit: Any = Learner.fit, **named: Any) -> Any:  # noqa: ANN401
        began = time.perf_counter()
        try:
            return fit(self, *given, **named)
        finally:
            spent[0] += time.perf_counter() - began

    with patch.object(Learner, "fit", timed):
        while state.round < ROUNDS:
            spent[0], began = 0.0, time.perf_counter()
            state, row = run_round(run.method, state, run.engine, run.rules)
            if row["stage"] == "train":
                times.append((time.perf_counter() - began - spent[0], spent[0]))
    return times


def large() -> Table:
    """The server's memory with a model of 10^8 weights, density 0.05, bf16 both ways."""
    experiment = settings(
        method="fl-snip",
        method_settings={"density": 0.05, "criterion": "random"},
        rounds=3,
        steps=1,
        batch_size=4,
        uplink="bf16",
        downlink="bf16",
    )
    samples: list[tuple[float, int, int]] = []
    with tempfile.TemporaryDirectory(prefix="fb-") as name, sampling("flwr-serverapp", samples):
        (Path(name) / "task.py").write_text(LARGE)
        record = loopback.run(experiment, Path(name) / "run", loopback.Source(app=Path(name) / "task.py"))
    final, last = record["final"], record["rounds"][-1]
    rows = [["weights", "density", "bytes of a round", "over dense fp32", "seconds of a round", "server, peak memory"]]
    dense = 4 * 2 * 2 * final["parameters"]
    moved = last["bytes_down"] + last["bytes_up"]
    memory = f"{max(peak for _, _, peak in samples) / 2**30:.2f} GiB"
    numbers = [f"{final['parameters']:,}", f"{final['density']:.3f}", f"{moved / 1e6:.1f} MB", f"{moved / dense:.4f}x"]
    return [*rows, [*numbers, f"{last['seconds']:.0f}", memory]]


def many() -> Table:
    """The server's memory over 20 rounds with 20 devices."""
    experiment = Experiment(
        dataset="digits", model="mlp", clients=20, cohort=20, rounds=20, engine="flower", workers=20, client_timeout=600
    )
    samples: list[tuple[float, int, int]] = []
    with tempfile.TemporaryDirectory(prefix="fb-") as name, sampling("flwr-serverapp", samples):
        record = loopback.run(experiment, Path(name) / "run", loopback.Source())
    rows, at = record["rounds"], []
    passed = samples[0][0]
    for row in rows:
        passed += row["seconds"]
        at.append([size for when, size, _ in samples if when <= passed][-1] / 2**20)
    flat = (max(at[4:]) - at[4]) / at[4]
    head = ["devices", "rounds", "dropped", "seconds of a round", "server after round 1", "5", "20", "growth from 5 on"]
    seconds = statistics.median(row["seconds"] for row in rows)
    numbers = [f"{at[round_ - 1]:.0f} MiB" for round_ in (1, 5, 20)]
    return [head, ["20", "20", str(record["final"]["dropped"]), f"{seconds:.0f}", *numbers, f"{100 * flat:.1f} %"]]


@contextmanager
def sampling(program: str, samples: list[tuple[float, int, int]]) -> Any:  # noqa: ANN401 - a generator
    """Sample the resident memory of a program's process while the block lasts: time, bytes, the most so far."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            for entry in Path("/proc").iterdir():
                try:
                    if entry.name.isdigit() and program.encode() in (entry / "cmdline").read_bytes():
                        lines = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                        now, most = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
                        samples.append((time.time(), now, most))
                except (OSError, KeyError):
                    continue

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


PARTS = {"rounds": rounds, "own": own, "large": large, "many": many}


def alone() -> None:
    """Begin again in a network of its own, where the system lets us."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if ALONE in os.environ or unshare is None or ip is None:
        return
    if subprocess.run([unshare, "-rn", ip, "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        print("no network of its own here: other traffic of this machine is counted too", file=sys.stderr)
        return
    script = 'ip link set lo up && exec "$@"'
    command = [unshare, "-rn", "sh", "-c", script, "sh", sys.executable, *sys.argv]
    os.execve(unshare, command, {**os.environ, ALONE: "1"})  # noqa: S606 - itself


def main() -> None:
    """Make the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    alone()
    for name in options.parts.split(","):
        text = table_with_machine(PARTS[name](), [0])
        print(f"\n{name}\n\n{text}", flush=True)
        if options.write:
            put(f"devices-{name}", text)


if __name__ == "__main__":
    main()
