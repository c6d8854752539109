"""What is known of each data set and partition before anything is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Defaults:
    """Settings of a run that nobody has set, chosen so that dense FedAvg learns in minutes.

    Attributes:
        model: Name of the model.
        lr: Learning rate of the clients.
        batch_size: Examples in one step of a client.
        epochs: Passes of a client over its data in one round.
        optimizer: Optimizer of the clients.
        clients: Number of clients.
        cohort: Clients in one round.
        rounds: Training rounds.
        partition: Name of the partition scheme.
    """

    model: str
    lr: float
    batch_size: int = 16
    epochs: int = 1
    optimizer: str = "sgd"
    clients: int = 20
    cohort: int = 10
    rounds: int = 20
    partition: str = "dirichlet"


@dataclass(frozen=True)
class DatasetInfo:
    """One data set, described.

    Attributes:
        name: What it is called on the command line.
        task: What is predicted: the class of an input, or the next token of a sequence.
        loss: Name of the loss.
        description: One line.
        train: Number of training examples.
        test: Number of test examples.
        classes: Number of classes, or of tokens.
        source: Where it comes from and its licence, in one line.
        defaults: Settings of a run that nobody has set.
        natural: The examples know which client they belong to.
    """

    name: str
    task: Literal["classification", "next_token"]
    loss: str
    description: str
    train: int
    test: int
    classes: int
    source: str
    defaults: Defaults
    natural: bool = False


_DIGITS = DatasetInfo(
    name="digits",
    task="classification",
    loss="cross_entropy",
    description="handwritten digits, 8x8 grey in 17 levels; comes with the package",
    train=1437,
    test=360,
    classes=10,
    source="UCI Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), CC BY 4.0",
    defaults=Defaults(model="cnn", lr=0.1, batch_size=16, epochs=5),
)

_MNIST = DatasetInfo(
    name="mnist",
    task="classification",
    loss="cross_entropy",
    description="handwritten digits, 28x28 grey",
    train=60_000,
    test=10_000,
    classes=10,
    source="LeCun, Cortes, Burges 1998, commonly CC BY-SA 3.0",
    defaults=Defaults(model="cnn", lr=0.1, batch_size=32, clients=100),
)

_FASHION_MNIST = replace(
    _MNIST,
    name="fashion_mnist",
    description="pieces of clothing, 28x28 grey",
    source="Xiao, Rasul, Vollgraf 2017, MIT",
)

_CIFAR10 = DatasetInfo(
    name="cifar10",
    task="classification",
    loss="cross_entropy",
    description="photographs of animals and vehicles, 32x32 colour, kept as JPEG",
    train=50_000,
    test=10_000,
    classes=10,
    source="Krizhevsky 2009, no licence stated, free for research with citation",
    defaults=Defaults(model="lenet5", lr=0.1, batch_size=32, clients=100, rounds=50),
)

_SHAKESPEARE = DatasetInfo(
    name="shakespeare",
    task="next_token",
    loss="next_token",
    description="36 plays in windows of 40 characters, one client a role",
    train=83_536,
    test=20_144,
    classes=75,
    source="Shakespeare's plays, public domain",
    defaults=Defaults(model="lstm", lr=8.0, clients=100, rounds=30, partition="natural"),
    natural=True,
)

DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info for info in (_DIGITS, _MNIST, _FASHION_MNIST, _CIFAR10, _SHAKESPEARE)
}
"""The data sets that have a name of their own."""

IMAGE_DEFAULTS = Defaults(model="cnn", lr=0.05, batch_size=32)
TEXT_DEFAULTS = Defaults(model="lstm", lr=8.0, partition="iid")
COLUMN_DEFAULTS = Defaults(model="mlp", lr=0.05, batch_size=32)
"""Starting points for the user's own images, text and columns, of which nothing more is known."""

SCHEMES: Mapping[str, str] = {
    "iid": "shuffled and dealt out in equal parts",
    "dirichlet": "each class spread over the clients in shares from a Dirichlet distribution",
    "shards": "sorted by class, cut into shards, a few random shards a client",
    "natural": "one client for each id that the data set comes with, the largest first",
}
"""Partition schemes by name."""
