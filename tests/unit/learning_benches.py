"""Benches, learners and nets of a few dozen weights for the tests of local training."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedbonsai.core.seeds import generator
from fedbonsai.core.support import Support
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.losses import Loss, LossFunction
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work

FEATURES, CLASSES = 5, 3

SUPPORTS = {
    "0.weight": Support.masked(torch.arange(35).reshape(7, 5) % 3 == 0),
    "0.bias": Support.masked(torch.arange(7) < 4),
}
"""Supports of `net`."""


def net() -> nn.Module:
    """Odd sizes, so that no tensor ends where a vector register does."""
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, CLASSES))


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.Dropout(0.5), nn.ReLU(), nn.Linear(7, CLASSES))


def examples(count: int, client: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs ``(count, FEATURES)`` and the class numbers that follow from them."""
    inputs = torch.randn(count, FEATURES, generator=generator(0, "examples", client=client))
    return inputs, inputs[:, :CLASSES].argmax(1)


def make_bench(
    model: Callable[[], nn.Module] = net,
    *,
    sizes: Sequence[int] = (20,),
    loss: Loss | LossFunction | str = "cross_entropy",
    validation: float = 0.0,
    holdout: float = 0.0,
    **work: object,
) -> Bench:
    """A bench for clients of these sizes; everything else is a setting of `Work`."""
    clients = [examples(size, client) for client, size in enumerate(sizes)]
    task = Task(model=model, loss=loss, clients=clients, test=examples(10, 99))
    return Bench(task.prepared(validation, seed=1, holdout=holdout), Work(**{"batch_size": 6} | work), seed=1)


def make_learner(model: Callable[[], nn.Module] = net, **settings: object) -> Learner:
    """The first client of `make_bench`."""
    return Learner(make_bench(model, **settings), client=0)


def record(bench: Bench) -> list[Tensor]:
    """The batches that a bench trains on from now on, as they come."""
    batches, step = [], bench.step

    def recording(positions: Tensor, **rest: object) -> Tensor:
        batches.append(positions)
        return step(positions, **rest)

    bench.step = recording
    return batches


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two models are equal bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
