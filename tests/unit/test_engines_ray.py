"""The Ray engine on a stand-in for Ray: workers that die, are late or find no room. The real one: e2e/test_ray.py."""

import pickle
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from contract.federation import CLIENTS, finished, make_bench, net, same_run

from fedbonsai.core.errors import ConfigError, RoundError
from fedbonsai.engines import cluster, ray
from fedbonsai.engines.ray import RayEngine
from fedbonsai.federated.client import Client
from fedbonsai.methods.fedavg import FedAvg
from fedbonsai.methods.heterofl import HeteroFL
from fedbonsai.methods.lotteryfl import LotteryFL

FEDAVG = FedAvg()


class LostError(Exception):
    """A worker has died."""


class RaisedError(Exception):
    """Code has raised on a worker."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Call:
    """A call of an actor's method, run when its result is asked for."""

    actor: "Actor"
    name: str
    arguments: tuple[Any, ...]


class Actor:
    def __init__(self, cls: type) -> None:
        self.own = cls()

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: Call(self, name, arguments))


@dataclass
class Fate:
    """What befalls the workers.

    Attributes:
        cores: CPUs of the cluster.
        deaths: How often the worker of a client dies.
        silent: Clients whose workers never answer.
        room: Whether workers get ready.
        unborn: Workers that die before they are ready.
    """

    cores: int = 2
    deaths: Counter[int] = field(default_factory=Counter)
    silent: tuple[int, ...] = ()
    room: bool = True
    unborn: int = 0


class StandIn(ModuleType):
    """What the engine uses of Ray, in this process; all that would travel is pickled."""

    exceptions = SimpleNamespace(RayError=LostError, RayTaskError=RaisedError)
    cloudpickle = SimpleNamespace(pickle=pickle)

    def __init__(self, fate: Fate) -> None:
        super().__init__("ray")
        self.fate, self.killed = fate, 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.fate.cores)}

    def put(self, value: object) -> bytes:
        return pickle.dumps(value)

    def remote(self, **options: Any) -> Any:
        return lambda cls: SimpleNamespace(remote=lambda: Actor(cls))

    def kill(self, actor: Actor) -> None:
        self.killed += 1

    def wait(self, calls: list[Call], timeout: float | None) -> tuple[list[Call], list[Call]]:
        done = [
            one
            for one in calls
            if (one.arguments[0] not in self.fate.silent if one.name == "serve" else self.fate.room)
        ]
        if not done:
            time.sleep(timeout)
        return done[-1:], []

    def get(self, what: Any) -> Any:
        if isinstance(what, bytes):
            return pickle.loads(what)  # noqa: S301 - our own
        client = what.arguments[0] if what.name == "serve" else None
        if what.name == "begin" and self.fate.unborn:
            self.fate.unborn -= 1
            raise LostError("out of memory\nand much more")
        if client is not None and self.fate.deaths[client]:
            self.fate.deaths[client] -= 1
            raise LostError("out of memory\nand much more")
        try:
            return getattr(what.actor.own, what.name)(*what.arguments)
        except Exception as error:
            raise RaisedError(error) from error


@pytest.fixture
def cluster_of(monkeypatch):
    def make(**fate: Any) -> StandIn:
        found = StandIn(Fate(**fate))
        monkeypatch.setitem(sys.modules, "ray", found)
        return found

    return make


def run(method=FEDAVG, *, timeout=None, workers=None, holdout=0.0, **options):
    client = Client(method, make_bench(holdout=holdout))
    return finished(method, engine=RayEngine(client, workers, timeout), bench=client.bench, cohort=CLIENTS, **options)


@pytest.mark.parametrize("method", [FedAvg(), LotteryFL(accuracy=0.0), HeteroFL()], ids=repr)
def test_a_client_made_of_what_was_sent_gives_the_bits_of_the_original(cluster_of, method):
    cluster_of()
    holdout = 0.2 if method.traits.personal else 0.0
    local = finished(method, bench=make_bench(holdout=holdout), cohort=CLIENTS)
    assert same_run(run(method, holdout=holdout), local)


@pytest.mark.parametrize(("cores", "workers", "capacity"), [(3, None, 3), (3, 2, 2), (1, 5, 1)])
def test_there_is_a_worker_for_each_cpu_and_no_more_than_asked_for(cluster_of, cores, workers, capacity):
    cluster_of(cores=cores)
    assert RayEngine(Client(FedAvg(), make_bench()), workers).capacity == capacity


def test_a_client_whose_worker_dies_is_asked_once_more(cluster_of, caplog):
    cluster_of(deaths=Counter({1: 1}))
    assert same_run(run(LotteryFL(), holdout=0.2), finished(LotteryFL(), cohort=CLIENTS))
    assert "client 1 is asked again, its worker died: out of memory" in caplog.messages


def test_a_client_whose_next_worker_dies_too_is_dropped(cluster_of):
    ray = cluster_of(deaths=Counter({1: 2}))
    first, second = run(rounds=2).rows
    assert first["dropped_why"] == {"1": "its worker died, and so did the next one: out of memory"}
    assert (second["clients"], second["dropped"]) == (CLIENTS, 0)
    assert ray.killed == 2 + 2  # two that were replaced, and all of them at the end


def test_a_client_that_is_late_is_dropped_and_its_worker_replaced(cluster_of):
    ray = cluster_of(silent=(1,))
    (row,) = run(rounds=1, timeout=0.01).rows
    assert row["dropped_why"] == {"1": "no answer within 0.01 s"}
    assert ray.killed == 1 + 2


def test_what_a_worker_raises_drops_its_client(cluster_of, monkeypatch):
    cluster_of()
    monkeypatch.setattr("fedbonsai.engines.ray.Memories.encoded", lambda *_: b"damaged")
    with pytest.raises(RoundError, match="client 0: CheckpointError: a client's memory must be whole"):
        run(rounds=1)


def test_workers_that_find_no_room_end_the_run(cluster_of, monkeypatch):
    monkeypatch.setattr(ray, "START_S", 0.01)
    cluster_of(room=False)
    with pytest.raises(
        RoundError, match=r"a worker must find room in the Ray cluster, none did within 0\.01 s; free a"
    ):
        run()


def test_workers_that_die_before_they_are_ready_end_the_run(cluster_of):
    cluster_of(unborn=2)
    assert run(rounds=1).rows[0]["clients"] == CLIENTS
    cluster_of(unborn=3)
    with pytest.raises(RoundError, match="workers must get ready, but 3 in a row died before that: out of memory"):
        run()


def test_a_machine_with_another_version_is_refused(cluster_of, monkeypatch):
    cluster_of()
    there = {**cluster.versions(), "torch": "1.13"}
    monkeypatch.setattr("fedbonsai.engines.kit.versions", lambda: there)
    with pytest.raises(
        ConfigError, match=r"all machines must have the same versions, .+ has not: torch 1\.13 there, \d"
    ):
        run()


def test_a_machine_with_another_processor_is_told_of(cluster_of, monkeypatch, caplog):
    cluster_of(cores=1)
    monkeypatch.setattr("fedbonsai.engines.kit.instructions", lambda: "NONE")
    run(rounds=1)
    assert " computes with NONE, this machine with " in caplog.text


def test_a_cluster_without_a_cpu_and_a_model_that_cannot_travel_are_refused(cluster_of):
    cluster_of(cores=0)
    with pytest.raises(ConfigError, match="the Ray cluster must have a CPU, it has none; run `ray start --address"):
        run()
    cluster_of()
    bench = make_bench(model=lambda: net())
    with pytest.raises(ConfigError, match="model, loss, data and method must be such that they can be sent"):
        RayEngine(Client(FedAvg(), bench))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "RAY_ADDRESS must be HOST:PORT or auto, got 'ray://head:10001'; run this on a machine of"),
        (
            "127.0.0.1:1",
            "a Ray cluster must answer at RAY_ADDRESS=127.0.0.1:1: .*refused; start it with `ray start --head",
        ),
        ("nowhere", "RAY_ADDRESS must be HOST:PORT or auto, got 'nowhere'"),
        ("head:70000", "RAY_ADDRESS must be HOST:PORT or auto, got 'head:70000'"),
    ],
)
def test_an_address_where_no_cluster_is_is_refused(monkeypatch, address, said):
    found = StandIn(Fate())
    found.is_initialized = lambda: False
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=said):
        cluster.join(found, 1)
