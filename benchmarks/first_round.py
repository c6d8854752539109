"""Dense and pruned training side by side: accuracy, bytes, and the speed of one round.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/first_round.py [--parts digits,fashion,loop,engines] [--write]

Prints one Markdown table a part; ``--write`` puts them into docs/benchmarks.md, each between its two marker comments.
Needs the data directory for everything but digits (FEDBONSAI_DATA, or ../shared/data).
"""

import argparse
import copy
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tables import Table, interleaved, put, spread, table_with_machine
from torch import nn

from fedbonsai.experiment.build import make_engine, make_method, make_task, resolve
from fedbonsai.experiment.choice import engine_of, make_bench
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.execute import Job, execute, make_run
from fedbonsai.experiment.settings import make_experiment
from fedbonsai.federated.exchange import draw_cohort
from fedbonsai.federated.round import run_round
from fedbonsai.federated.run import Run
from fedbonsai.learning.work import Work
from fedbonsai.models.layers import Conv2d, MaxPool2d

SEEDS = (1, 2, 3)
FASHION = {"dataset": "fashion_mnist", "clients": 50, "cohort": 10, "model": "cnn", "partition": "dirichlet"}


def accuracy(base: dict[str, Any], rounds: int) -> Table:
    """FedAvg and local-prune with the data set's defaults, mean and spread over the seeds."""
    rows = [["method", "test accuracy", "points below dense", "bytes, both ways", "weights kept", "seconds a run"]]
    dense: list[float] = []
    for method in ("fedavg", "local-prune"):
        finals = []
        for seed in SEEDS:
            experiment = resolve(
                make_experiment({**base, "method": method, "seed": seed, "rounds": rounds, "evaluate_every": 5}, {})
            )
            finals.append(execute(Job(experiment, make_task(experiment), make_method(experiment))).final)
            print(f"  {base['dataset']} {method} seed {seed}: {finals[-1]['test_metric']:.4f}", file=sys.stderr)
        scores = [final["test_metric"] for final in finals]
        dense = dense or scores
        moved = [(final["bytes_down"] + final["bytes_up"]) / final["bytes_dense"] for final in finals]
        rows.append(
            [
                method,
                spread(scores, 100, " %"),
                spread([d - s for d, s in zip(dense, scores, strict=True)], 100, ""),
                f"{statistics.mean(moved):.3f}x",
                f"{100 * statistics.mean(final['density'] for final in finals):.1f} %",
                f"{statistics.mean(final['seconds'] for final in finals):.0f}",
            ]
        )
    return rows


def with_torchs_layers(model: nn.Sequential) -> nn.Sequential:
    """The same network of torch's own layers, as one would write it."""
    for place, one in enumerate(model):
        if isinstance(one, Conv2d):
            model[place] = nn.Conv2d(one.in_channels, one.out_channels, one.kernel_size, padding=one.padding)
        elif isinstance(one, MaxPool2d):
            model[place] = nn.MaxPool2d(one.kernel_size)
    return model


def plain_loop(model: nn.Module, clients: Sequence[tuple[torch.Tensor, torch.Tensor]], work: Work) -> None:
    """What one would write: copy the model, a data loader and an optimizer a client, average the state dicts."""
    states, sizes = [], []
    for inputs, targets in clients:
        own = copy.deepcopy(model)
        examples = torch.utils.data.TensorDataset(inputs, targets)
        data = torch.utils.data.DataLoader(examples, work.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(own.parameters(), work.lr)
        for x, y in (batch for _ in range(work.epochs) for batch in data):
            optimizer.zero_grad()
            nn.functional.cross_entropy(own(x), y).backward()
            optimizer.step()
        states.append(own.state_dict())
        sizes.append(len(targets))
    mean = {
        name: sum(size * state[name] for size, state in zip(sizes, states, strict=True)) / sum(sizes)
        for name in states[0]
    }
    model.load_state_dict(mean)


def prepared_run(experiment: Experiment) -> Run:
    """A run of an experiment, all of it loaded."""
    job = Job(experiment, make_task(experiment), make_method(experiment))
    bench = make_bench(experiment, job.task.prepared(experiment.validation, 0))
    return make_run(job, bench, make_engine(engine_of(experiment, bench).name, experiment, job.method, bench), None)


def loop() -> Table:
    """One FedAvg round, encoded and decoded both ways, against the plain loop over the same clients."""
    rows = [["task", "plain loop, s a round", "the same with our layers", "fedbonsai", "over plain", "over our layers"]]
    torch.set_num_threads(1)
    for name, base in {"digits, CNN": {"dataset": "digits"}, "fashion_mnist, CNN": FASHION}.items():
        experiment = resolve(make_experiment({**base, "engine": "local"}, {}))
        run = prepared_run(experiment)
        bench = run.bench
        state = run.start().state
        cohort = draw_cohort(run.method.plan(state), state, run.rules)
        pool, splits = bench.task.pool, bench.task.splits
        clients = [pool.batch(splits[client].train) for client in cohort]
        torchs, own = with_torchs_layers(bench.task.model()), bench.task.model()
        plain, same, ours = interleaved(
            lambda model=torchs, clients=clients, work=bench.work: plain_loop(model, clients, work),
            lambda model=own, clients=clients, work=bench.work: plain_loop(model, clients, work),
            lambda run=run, state=state: run_round(run.method, state, run.engine, run.rules),
            repeats=9,
        )
        rows.append(
            [name, *(f"{one:.3f}" for one in (plain, same, ours)), f"{ours / plain:.2f}x", f"{ours / same:.2f}x"]
        )
    return rows


def engines() -> Table:
    """The same rounds on both engines, evaluation included."""
    rows = [["task", "local, s a round", "processes (2), s a round", "speed-up"]]
    torch.set_num_threads(1)
    runs = {}
    for engine in ("local", "processes"):
        settings = {**FASHION, "engine": engine, **({"workers": 2} if engine == "processes" else {})}
        experiment = resolve(make_experiment(settings, {}))
        runs[engine] = prepared_run(experiment)
    state = runs["local"].start().state

    def one_round(engine: str) -> Callable[[], object]:
        run = runs[engine]
        return lambda: run.evaluate(run_round(run.method, state, run.engine, run.rules)[0])

    local, processes = interleaved(one_round("local"), one_round("processes"), repeats=9)
    runs["processes"].engine.close()
    rows.append(["fashion_mnist, CNN", f"{local:.2f}", f"{processes:.2f}", f"{local / processes:.2f}x"])
    return rows


PARTS: dict[str, Callable[[], Table]] = {
    "digits": lambda: accuracy(
        {"dataset": "digits", "clients": 20, "partition": "dirichlet", "concentration": 0.5}, 20
    ),
    "fashion": lambda: accuracy(FASHION, 30),
    "loop": loop,
    "engines": engines,
}


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    for name in options.parts.split(","):
        text = table_with_machine(PARTS[name](), SEEDS)
        print(f"\n{name}\n\n{text}", flush=True)
        if options.write:
            put(name, text)


if __name__ == "__main__":
    main()
