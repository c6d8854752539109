"""Local work: how much to train, with which optimizer, at which learning rate."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError, lookup

OptimizerName = Literal["sgd", "adam"]
ScheduleName = Literal["constant", "linear", "cosine", "exponential"]
NormPolicy = Literal["average", "local", "static"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a client does in one round of training.

    Attributes:
        epochs: Passes over the client's training examples; ignored when ``steps`` is given.
        steps: Optimizer steps, passing over the data as often as needed.
        batch_size: Examples a step; the last batch of a pass may be smaller.
        optimizer: ``sgd`` or ``adam`` (betas 0.9, 0.999; eps 1e-8).
        lr: Learning rate of the first round.
        lr_schedule: How it moves over the run: ``constant``, ``linear`` or ``cosine`` down to ``lr_end * lr``, or
            ``exponential`` through the same two points.
        lr_end: Share of ``lr`` that is left at the end of the run, in (0, 1].
        momentum: Of ``sgd``, in [0, 1).
        weight_decay: L2 penalty added to the gradient, >= 0.
        clip: Largest norm of the whole gradient; None does not clip.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    optimizer: OptimizerName = "sgd"
    lr: float = 0.05
    lr_schedule: ScheduleName = "constant"
    lr_end: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        lookup("optimizer", self.optimizer, get_args(OptimizerName))
        lookup("learning-rate schedule", self.lr_schedule, get_args(ScheduleName))
        for name, value, least in (("epochs", self.epochs, 1), ("batch_size", self.batch_size, 1)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}; leave it out to train in epochs")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"lr must be positive, got {self.lr}")
        if not 0 < self.lr_end <= 1:
            raise ConfigError(f"lr_end must be in (0, 1], got {self.lr_end}")
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise ConfigError(
                f"momentum must be in [0, 1) and weight_decay >= 0, got {self.momentum} and {self.weight_decay}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip must be positive, got {self.clip}; leave it out not to clip")

    @property
    def plain(self) -> bool:
        """Whether a step is no more than ``weights -= lr * gradient``."""
        return self.optimizer == "sgd" and not self.momentum and not self.weight_decay and self.clip is None

    def learning_rate(self, progress: float) -> float:
        """The learning rate when ``progress`` of the run, in [0, 1], is over."""
        return self.lr * _SCHEDULES[self.lr_schedule](progress, self.lr_end)


def _constant(_: float, __: float) -> float:
    return 1.0


def _linear(progress: float, end: float) -> float:
    return 1.0 + (end - 1.0) * progress


def _cosine(progress: float, end: float) -> float:
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _exponential(progress: float, end: float) -> float:
    return float(end**progress)


_SCHEDULES: Mapping[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}


@runtime_checkable
class Optimizer(Protocol):
    """Moves a flat vector of weights along a flat gradient, in place; or the first rows of several clients' vectors."""

    def reset(self) -> None:
        """Forget everything: a new client begins."""

    def step(self, weights: Tensor, gradient: Tensor, lr: float) -> None:
        """Make one step; ``gradient`` may be overwritten."""


class Sgd:
    """Stochastic gradient descent with momentum and L2 weight decay, bit-equal to ``torch.optim.SGD``."""

    def __init__(self, work: Work, like: Tensor) -> None:
        self.momentum, self.weight_decay = work.momentum, work.weight_decay
        self.velocity = torch.zeros_like(like if work.momentum else like[:0])

    def reset(self) -> None:
        self.velocity.zero_()

    def step(self, weights: Tensor, gradient: Tensor, lr: float) -> None:
        if self.weight_decay:
            gradient.add_(weights, alpha=self.weight_decay)
        if self.momentum:
            gradient = self.velocity[: len(weights)].mul_(self.momentum).add_(gradient)
        weights.add_(gradient, alpha=-lr)


class Adam:
    """Adam (Kingma & Ba, ICLR 2015) with L2 weight decay, bit-equal to ``torch.optim.Adam``."""

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def __init__(self, work: Work, like: Tensor) -> None:
        self.weight_decay = work.weight_decay
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.root = torch.empty_like(like)
        self.steps = 0

    def reset(self) -> None:
        self.first.zero_()
        self.second.zero_()
        self.steps = 0

    def step(self, weights: Tensor, gradient: Tensor, lr: float) -> None:
        self.steps += 1
        if self.weight_decay:
            gradient.add_(weights, alpha=self.weight_decay)
        first, second, root = (one[: len(weights)] for one in (self.first, self.second, self.root))
        first.lerp_(gradient, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        correction = math.sqrt(1 - self.beta2**self.steps)
        torch.sqrt(second, out=root).div_(correction).add_(self.eps)
        weights.addcdiv_(first, root, value=-lr / (1 - self.beta1**self.steps))


def make_optimizer(work: Work, like: Tensor) -> Optimizer:
    """The optimizer that ``work`` names, for weights like these: all of one client, or a row for each of several."""
    return Adam(work, like) if work.optimizer == "adam" else Sgd(work, like)
