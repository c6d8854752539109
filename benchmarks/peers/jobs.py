"""The jobs that all engines are given."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from networks import CLASSES, network
from numpy.typing import NDArray
from torch import Tensor

from fedbonsai.core.layout import Layout
from fedbonsai.core.seeds import seeded
from fedbonsai.core.state import Setting, State
from fedbonsai.data.load import load
from fedbonsai.federated.exchange import Rules, draw_cohort
from fedbonsai.federated.method import Plan

Clients = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Job:
    """What is simulated: FedAvg, SGD without momentum.

    Attributes:
        title: As the tables call it.
        network: One of `networks`.
        data: Makes the inputs and targets of each client.
        cohort: Clients of a round.
        lr: Learning rate.
        batch: Examples of a step.
        epochs: Passes over a client's examples in a round.
        dropout: Whether the network's dropout is on.
    """

    title: str
    network: str
    data: Callable[[], Clients]
    cohort: int = 20
    lr: float = 0.1
    batch: int = 10
    epochs: int = 1
    dropout: bool = True

    @property
    def comparable(self) -> "Job":
        """The same without all that engines may draw differently: dropout, and which examples share a step."""
        return replace(self, dropout=False, batch=max(len(targets) for _, targets in self.data()), epochs=2)


def noise(clients: int, examples: int, shape: tuple[int, ...], classes: int) -> Clients:
    """Images of noise with labels of noise: what they cost does not depend on what they show."""
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(examples, *shape, generator=draw), torch.randint(classes, (examples,), generator=draw))
        for _ in range(clients)
    ]


def digits(clients: int) -> Clients:
    """The handwritten digits, spread evenly."""
    data = load("digits").train
    inputs, targets = data.batch(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)))
    return list(zip(inputs.flatten(1).tensor_split(clients), targets.tensor_split(clients), strict=True))


def text(clients: int, examples: int, time: int) -> Clients:
    """Tokens of noise, each the target of the one before."""
    draw = torch.Generator().manual_seed(0)
    tokens = [torch.randint(CLASSES["lstm"], (examples, time + 1), generator=draw) for _ in range(clients)]
    return [(one[:, :-1].contiguous(), one[:, 1:].contiguous()) for one in tokens]


IMAGES = (3, 32, 32)
JOBS = {
    "lenet": Job("LeNet-5, CIFAR-shaped", "lenet", partial(noise, 100, 50, IMAGES, 10)),
    "cnn": Job("simple_cnn, CIFAR-shaped", "cnn", partial(noise, 100, 50, IMAGES, 10)),
    "cifar": Job("CNN 5x5, CIFAR-shaped", "cifar", partial(noise, 100, 50, IMAGES, 10)),
    "mlp": Job("MLP 64-128-10, digits", "mlp", partial(digits, 20)),
    "leaf": Job("LEAF CNN, FEMNIST-shaped", "leaf", partial(noise, 100, 20, (1, 28, 28), 62)),
    "lstm": Job("LSTM 128, Shakespeare-shaped", "lstm", partial(text, 100, 50, 40)),
    "resnet": Job("ResNet-18-GN/2, CIFAR-shaped", "resnet", partial(noise, 100, 10, IMAGES, 10), lr=0.01),
}


def initial(job: Job, seed: int) -> list[NDArray[np.float32]]:
    """The weights that all engines begin with."""
    with seeded(seed, "model"):
        return [one.detach().numpy() for one in network(job.network).parameters()]


def cohorts(job: Job, rounds: int, clients: int, seed: int) -> list[list[int]]:
    """The clients of each round, as ours draws them."""
    setting, rules = Setting(rounds, clients, seed, Layout(())), Rules(job.cohort)
    return [draw_cohort(Plan(), State(setting, {}, turn=turn), rules) for turn in range(rounds)]


def write_job(job: Job, folder: Path, rounds: int, seed: int) -> None:
    """Write all that an engine needs to know of a job into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    clients = job.data()
    settings = {name: getattr(job, name) for name in ("network", "lr", "batch", "epochs", "dropout")}
    settings |= {
        "seed": seed,
        "cohorts": cohorts(job, rounds, len(clients), seed),
        "cuts": np.cumsum([len(targets) for _, targets in clients])[:-1].tolist(),
    }
    (folder / "job.json").write_text(json.dumps(settings), "utf-8")
    inputs, targets = (torch.cat(one).numpy() for one in zip(*clients, strict=True))
    np.savez(folder / "data.npz", inputs=inputs, targets=targets)
    np.savez(folder / "weights.npz", **{str(place): one for place, one in enumerate(initial(job, seed))})
