"""A virtual device: the process that serves its messages in Flower's simulation lives on, so it is the worker too."""

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedbonsai.core.errors import ClientError, FedbonsaiError
from fedbonsai.experiment.build import resolve
from fedbonsai.experiment.settings import make_experiment, read_toml
from fedbonsai.flower.pipe import HELLO
from fedbonsai.flower.worker import Duty, Worker, make_worker, respond

_TURN = threading.Lock()
"""A task that is late may still be worked on when the next one comes."""


@dataclass(frozen=True)
class Virtual:
    """One device of a simulation.

    Attributes:
        duty: What the process does, for all devices that it plays.
        clients: Whose data are on this device.
        home: Where the clients' memories go, so that a run that goes on finds them.
    """

    duty: Duty
    clients: tuple[int, ...]
    home: Path


def virtual(
    experiment: Path, app: Path | None, node_config: Mapping[str, Any], run_config: Mapping[str, Any]
) -> Virtual:
    """The device that a virtual SuperNode stands for: of ``n`` nodes, the ``p``-th has clients ``p``, ``p + n``, ...

    Args:
        experiment: File of the experiment.
        app: Python file with ``task()`` and ``data(client)``.
        node_config: Has ``partition-id`` and ``num-partitions``.
        run_config: Has ``out`` and perhaps ``data-dir``.

    Raises:
        ClientError: The experiment cannot be used, or does not say how many clients there are.
    """
    try:
        clients = resolve(make_experiment(read_toml(experiment), {})).clients
    except FedbonsaiError as error:
        raise ClientError(str(error)) from error
    if clients is None:
        raise ClientError(f"{experiment.name} must have the number of clients, clients = ..., for a simulation")
    first, nodes = int(node_config["partition-id"]), int(node_config["num-partitions"])
    data_dir = run_config.get("data-dir")
    duty = Duty(experiment, tuple(range(clients)), app, Path(data_dir) if data_dir else None)
    return Virtual(duty, duty.clients[first::nodes], Path(run_config["out"]))


def ask(device: Virtual, request: bytes, most: int, patience: float) -> bytes:
    """Do what a relay asks, as `fedbonsai.flower.pipe.ask` has it done by a worker.

    Raises:
        ClientError: There is no model or no data.
    """
    del most, patience  # the relay waits for no longer than it should
    with _TURN:
        torch.set_num_threads(1)
        try:
            worker = _worker(device.duty, device.home)
        except FedbonsaiError as error:
            raise ClientError(str(error)) from error
        if request == HELLO:
            return replace(worker.greeting, clients=device.clients).to_json()
        return respond(worker, request[1:])


@functools.lru_cache(1)
def _worker(duty: Duty, home: Path) -> Worker:
    return make_worker(home, duty)
