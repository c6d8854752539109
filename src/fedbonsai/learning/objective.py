"""What a method may add to local training, without touching the loop or an engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


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


@dataclass(frozen=True)
class Objective:
    """Up to three interventions in every step of local training.

    Attributes:
        penalty: A term that is added to the loss of a batch; gradients flow through ``live.weights``.
        gradient: Changes ``live.flat_gradient`` in place, before masking and clipping.
        after_step: Changes ``live.flat`` in place, after the optimizer's step; pruned weights are zeroed after it.
    """

    penalty: Callable[[Live], Tensor] | None = None
    gradient: Callable[[Live], None] | None = None
    after_step: Callable[[Live], None] | None = None
