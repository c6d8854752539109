"""A small federation for tests: a few clients, a net of 75 weights, any engine, all in memory."""

import functools
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.tiers import Tiers
from fedbonsai.engines.local import LocalEngine
from fedbonsai.engines.processes import ProcessEngine
from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.federated.client import Client
from fedbonsai.federated.engine import Answer, Engine
from fedbonsai.federated.exchange import Rules
from fedbonsai.federated.method import Method
from fedbonsai.federated.run import Run, Schedule
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work

CLIENTS = 5


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def net_of(method: Method):
    """The net that a method is checked on: it may need batch norms."""
    return norm_net if getattr(method, "variant", "") == "hybrid" else net


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(1)


def make_bench(model=net, sizes: Collection[int] = (20, 30, 12, 25, 18), holdout=0.0, **work) -> Bench:
    clients = [examples(size, seed) for seed, size in enumerate(sizes)]
    task = Task(model=model, loss="cross_entropy", clients=clients, test=examples(50, 99))
    work = {"epochs": 1, "batch_size": 8, "lr": 0.3} | work
    return Bench(task.prepared(0.2, seed=3, holdout=holdout), Work(**work), seed=3)


class ShuffledEngine(LocalEngine):
    """Answers in any order but that of the tasks."""

    capacity = CLIENTS

    def __init__(self, client: Client, seed: int = 0) -> None:
        super().__init__(client)
        self.tasks: list[tuple[int, bytes]] = []
        self.random = random.Random(seed)
        self.most_waiting = 0

    def submit(self, client: int, task: bytes) -> None:
        self.tasks.append((client, task))

    def next(self) -> Answer:
        super().submit(*self.tasks.pop(self.random.randrange(len(self.tasks))))
        return super().next()


ENGINES = {
    "local": LocalEngine,
    "shuffled": ShuffledEngine,
    "processes": lambda client: ProcessEngine(client, workers=2),
}


def setting_of(method: Method, bench: Bench, rounds: int = 4) -> Setting:
    traits = method.traits
    channels = bench.channels if traits.submodels else None
    return Setting(rounds, len(bench.task.splits), 3, bench.layout, Tiers.equal(traits.widths[:3]), channels)


def make_run(
    method: Method,
    *,
    engine: str | Engine = "local",
    rounds: int = 4,
    cohort: int = 3,
    directory: Path | None = None,
    bench: Bench | None = None,
    norm: str = "average",
    every: int = 1,
) -> Run:
    bench = bench or make_bench(net_of(method), holdout=0.2 if method.traits.personal else 0.0)
    carrier = ENGINES[engine](Client(method, bench, norm)) if isinstance(engine, str) else engine
    return Run(
        method,
        setting_of(method, bench, rounds),
        carrier,
        bench,
        Rules(cohort),
        Schedule(every, norm, directory, "test"),
    )


def finished(method: Method, **options) -> Checkpoint:
    """How a run ends; ``every`` says after how many rounds it is judged, for tests that look at its end alone."""
    run = make_run(method, **options)
    try:
        return run.run()
    finally:
        run.engine.close()


@dataclass(frozen=True)
class Watched:
    """A finished run and what passed in it: every client's update, and the state before and after every turn.

    ``copies`` are the weights of these states as they were when the states were new.
    """

    checkpoint: Checkpoint
    updates: list[Message]
    states: list[State]
    copies: list[Mapping[str, Tensor]]


@functools.cache
def watched(method: Method) -> Watched:
    """A run of a method on the local engine: what others are held against. Nobody may change it."""
    updates, states, copies, own = [], [], [], type(method)
    init, work, finalize = own.init, own.work, own.finalize

    def kept(state):
        states.append(state)
        copies.append({name: one.clone() for name, one in state.weights.items()})
        return state

    def spy_init(self, setting, weights):
        return kept(init(self, setting, weights))

    def spy_work(self, task, memory, learner):
        update, kept = work(self, task, memory, learner)
        updates.append(replace(update, stage=task.stage))
        return update, kept

    def spy_finalize(self, state, total):
        return kept(finalize(self, state, total))

    with patch.multiple(own, init=spy_init, work=spy_work, finalize=spy_finalize):
        return Watched(finished(method), updates, states, copies)


def reference(method: Method) -> Checkpoint:
    """How the run of `watched` ended."""
    return watched(method).checkpoint


def same_bits(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.contiguous().view(-1).view(torch.uint8)

    return one.keys() == two.keys() and all(torch.equal(bits(one[name]), bits(two[name])) for name in one)


def same_run(one: Checkpoint, two: Checkpoint) -> bool:
    """Equal in every bit of state and memory, and in every fact of the ledger but seconds."""
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in run.rows] for run in (one, two)
    ]
    memories = [{k: v for k, v in run.memories.items() if v} for run in (one, two)]
    return (
        same_bits(one.state.weights, two.state.weights)
        and one.state.supports == two.state.supports
        and one.state.held == two.state.held
        and same_memory(one.state.memory, two.state.memory)
        and same_memory(one.state.optimizer, two.state.optimizer)
        and same_bits(one.state.statistics, two.state.statistics)
        and memories[0].keys() == memories[1].keys()
        and all(same_memory(memories[0][client], memories[1][client]) for client in memories[0])
        and timeless[0] == timeless[1]
    )


def same_memory(one: Memory, two: Memory) -> bool:
    return dict(one.numbers) == dict(two.numbers) and same_bits(one.tensors, two.tensors)


def same_message(one: Message, two: Message) -> bool:
    def facts(message: Message) -> Mapping:
        return {
            (group, name): (part.support, part.values.view(torch.int32).tolist())
            for group, parts in message.groups.items()
            for name, part in parts.items()
        }

    return facts(one) == facts(two) and dict(one.numbers) == dict(two.numbers) and one.weight == two.weight


def asked(method: Method, state: State, client: int) -> Message:
    """A client's task as it arrives: with what the exchange writes on it."""
    task = method.distribute(state, client).with_numbers(progress=0.25)
    return replace(task, client=client, stage=method.plan(state).stage)


def memory_of(run: Run, client: int) -> Memory:
    """What the method keeps on a client."""
    return run.engine.memories().get(client, Memory()).section("method")
