"""Losses with the metric that belongs to them. Higher metrics are better; errors are lower-is-better."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from fedbonsai.core.errors import lookup

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch to the mean loss, a scalar that can be differentiated."""

MetricFunction = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch to one value an example, shape ``(batch,)``; higher is better."""


@dataclass(frozen=True)
class Loss:
    """A loss, its metric, and how an error follows from the metric.

    Attributes:
        name: Name of the loss.
        function: The mean loss of a batch.
        metric: One value an example; None takes minus the loss of the batch.
        metric_name: What the metric is called in tables.
        best: The metric of a perfect model; the error is ``best - metric`` (1 - accuracy, mean absolute error).
        each: The loss of each example, of which ``function`` is the mean; None where that cannot be told apart.
    """

    name: str
    function: LossFunction
    metric: MetricFunction | None = None
    metric_name: str = "minus loss"
    best: float = 0.0
    each: MetricFunction | None = None

    def error(self, metric: float) -> float:
        """The error that belongs to a metric: 1 - accuracy, or the mean absolute error."""
        return self.best - metric

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of each example, shape ``(batch,)``."""
        if self.metric is None:
            return -self.function(outputs, targets).expand(len(targets))
        return self.metric(outputs, targets)


def _next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def _cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def _next_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return _cross_entropies(outputs.flatten(0, 1), targets.flatten()).reshape(targets.shape).mean(1)


def _squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(targets.shape) - targets).square().reshape(len(targets), -1).mean(1)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().reshape(len(targets), -1).mean(1)


def _minus_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs.reshape(targets.shape) - targets).abs().reshape(len(targets), -1).mean(1)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.reshape(targets.shape), targets)


cross_entropy = Loss("cross_entropy", functional.cross_entropy, _hits, "accuracy", 1.0, _cross_entropies)
"""Classification: outputs ``(batch, classes)``, targets ``(batch,)`` of class numbers."""

next_token = Loss("next_token", _next_token, _hits, "accuracy", 1.0, _next_tokens)
"""Sequences: outputs ``(batch, time, tokens)``, targets ``(batch, time)`` of token numbers."""

mse = Loss("mse", _squared_error, _minus_absolute_error, "minus mean absolute error", 0.0, _squared_errors)
"""Regression: outputs and targets of one shape (a trailing 1 may be missing)."""

LOSSES = {loss.name: loss for loss in (cross_entropy, next_token, mse)}


def as_loss(loss: Loss | LossFunction | str, metric: MetricFunction | None = None, metric_name: str = "metric") -> Loss:
    """Bring a name, a built-in loss or any callable into the form of a `Loss`.

    Args:
        loss: A name of `LOSSES`, a `Loss`, or a callable to the mean loss of a batch.
        metric: One value an example, higher is better; without it a plain callable's metric is minus the loss.
        metric_name: What to call ``metric`` in tables.

    Raises:
        ConfigError: The name is not known.
    """
    if isinstance(loss, str):
        loss = LOSSES[lookup("loss", loss, list(LOSSES))]
    if not isinstance(loss, Loss):
        loss = Loss(getattr(loss, "__name__", "own loss"), loss)
    return loss if metric is None else Loss(loss.name, loss.function, metric, metric_name, 0.0, loss.each)
