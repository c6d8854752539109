"""Federated rounds on a Ray cluster against two processes that know nothing of each other.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/cluster.py [--repeats 5] [--write]

A head without a core and two machines with one each, all of them processes here. Both sides serve the same tasks of
ResNet-18-GN/2: through Ray as whole rounds (encoded, carried, checked, added up, averaged), and half of them in each of
two processes that answer nobody. ``--write`` puts the table into docs/benchmarks.md. Needs the extra ``cluster``.
"""

import argparse
import os
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tables import Table, interleaved, put, table_with_machine

from fedbonsai.core.state import Setting
from fedbonsai.engines.ray import RayEngine
from fedbonsai.federated.client import Client
from fedbonsai.federated.exchange import Exchange, Rules
from fedbonsai.federated.ledger import Ledger
from fedbonsai.federated.round import run_round
from fedbonsai.federated.run import Run
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.task import Pool, Task
from fedbonsai.learning.work import Work
from fedbonsai.methods.fedavg import FedAvg
from fedbonsai.models.build import build

CLIENTS, EXAMPLES = 4, 128
"""Clients of a round, and the images of each: few, so that what a round costs besides training is seen."""


def make_client() -> Client:
    """A client object with images of the shape of CIFAR-10."""
    images = torch.randint(256, (CLIENTS * EXAMPLES, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pool = Pool(images.to(torch.uint8), torch.arange(len(images)) % 10, lambda batch: batch.float() / 255)
    positions = torch.arange(len(images)).split(EXAMPLES)
    model = partial(build, "resnet18", input_shape=(3, 32, 32), classes=10, width=0.5)
    task = Task(model, "cross_entropy", pool, pool, positions=positions)
    return Client(FedAvg(), Bench(task.prepared(0.0, seed=0), Work(batch_size=32), seed=0))


def alone(client: Client, pipe: Connection) -> None:
    """A process that serves the tasks it is given, and says when it is done."""
    while tasks := pipe.recv():
        for task in tasks:
            client.serve(task)
        pipe.send(len(tasks))


def measure(run: Run, pipes: list[Connection], repeats: int) -> Table:
    """Whole rounds through the engine of a run, and their tasks in two processes, in turns."""
    state = run.start().state
    plan = run.method.plan(state)
    exchange = Exchange(run.method, state, plan, run.rules, Ledger(state, plan.stage))
    tasks = [task for _, task in exchange.tasks()]

    def independent() -> None:
        for place, pipe in enumerate(pipes):
            pipe.send(tasks[place :: len(pipes)])
        for pipe in pipes:
            pipe.recv()

    two, cluster = interleaved(
        independent, lambda: run_round(run.method, state, run.engine, run.rules), repeats=repeats
    )
    return [
        ["model", "clients x images", "two processes, s", "Ray, s a round", "throughput of Ray"],
        ["ResNet-18-GN/2", f"{CLIENTS} x {EXAMPLES}", f"{two:.1f}", f"{cluster:.1f}", f"{two / cluster:.2f}x"],
    ]


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    client = make_client()
    pairs = [get_context("fork").Pipe() for _ in range(2)]
    for _, theirs in pairs:
        get_context("fork").Process(target=alone, args=(client, theirs), daemon=True).start()

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    engine = RayEngine(client)
    try:
        setting = Setting(1, CLIENTS, 0, client.bench.layout)
        run = Run(client.method, setting, engine, client.bench, Rules(CLIENTS))
        text = table_with_machine(measure(run, [ours for ours, _ in pairs], options.repeats), (0,))
    finally:
        engine.close()
        cluster.shutdown()
    print(text)
    if options.write:
        put("cluster", text)


if __name__ == "__main__":
    main()
