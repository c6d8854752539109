"""What a method may add to local training, without touching the loop or an engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Live:
    """The model while it trains, as an objective sees it. The flat vectors hold all parameters end to end.

    Attributes:
        weights: The current parameters by name: views of ``flat``, and what gradients are taken of.
        gradients: Their gradients by name: views of ``flat_gradient``.
        anchor: The parameters that training began with, by name: views of ``flat_anchor``.
        flat: All parameters, shape ``(parameters,)``; change in place.
        flat_gradient: All gradients; change in place.
        flat_anchor: All parameters that training began with.
    """

    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    anchor: Mapping[str, Tensor]
    flat: Tensor
    flat_gradient: Tensor
    flat_anchor: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """The examples of one step, as an objective sees them.

    Attributes:
        inputs: What the model takes.
        targets: What it should give.
        loss: The task's loss: outputs and targets to a scalar.
    """

    inputs: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Moment:
    """Where in a fit a step is.

    Attributes:
        step: Steps made before it.
        steps: Steps of the whole fit.
        lr: The learning rate that the run has set.
    """

    step: int
    steps: int
    lr: float


def nothing(_: nn.Module) -> AbstractContextManager[None]:
    """Change nothing around training."""
    return nullcontext()


@dataclass(frozen=True)
class Objective:
    """Interventions in local training; the engine and the loop know none of them.

    Attributes:
        loss: The loss of a batch, in place of the task's loss of what the module gives; gradients flow through
            ``live.weights``. It runs what it needs by `Bench.output`, which charges for it.
        penalty: A term that is added to the loss of a batch; gradients flow through ``live.weights``.
        gradient: Changes ``live.flat_gradient`` in place, before masking and clipping.
        after_step: Changes ``live.flat`` in place, after the optimizer's step; pruned weights are zeroed after it.
        effective: A parametrisation: the tensors that the module runs with, as a differentiable function of the
            trained ones in ``live.weights``. What is trained and what travels are then scores, say, and the module
            itself stays as it is. A tensor that is not named is used as it is trained.
        around: A surgery: entered with the module around all steps of a fit (forward hooks, saved-tensor hooks), and
            left after them, whatever happens.
        learning_rate: The learning rate of a step, in place of the run's.
    """

    loss: Callable[[Live, Batch], Tensor] | None = None
    penalty: Callable[[Live], Tensor] | None = None
    gradient: Callable[[Live], None] | None = None
    after_step: Callable[[Live], None] | None = None
    effective: Callable[[Live], Mapping[str, Tensor]] | None = None
    around: Callable[[nn.Module], AbstractContextManager[None]] = nothing
    learning_rate: Callable[[Live, Moment], float] | None = None

    @property
    def acts(self) -> bool:
        """Whether it looks at the gradients or the weights of any step."""
        return self.gradient is not None or self.after_step is not None


def adding_up(total: Tensor, power: int = 1) -> Objective:
    """Change nothing, but add every step's gradient, of absent weights too, to ``total`` (flat); or its powers."""

    def gradient(live: Live) -> None:
        total.add_(live.flat_gradient**power)

    return Objective(gradient=gradient)
