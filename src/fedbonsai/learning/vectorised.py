"""Gradients of many clients at once for any small module that ``torch.func.vmap`` takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedbonsai.learning.losses import Loss
from fedbonsai.learning.stacks import ALIGNMENT, Stacked

REFUSED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RNNBase)
"""Layers whose output depends on other examples or on chance, or which run one client after the other anyway."""


@dataclass(frozen=True)
class Vectorised:
    """A module under ``vmap``, and the loss above.

    Attributes:
        module: Run with other tensors in place of its own.
        loss: One that says what each example costs.
    """

    module: nn.Module
    loss: Loss

    @staticmethod
    def of(module: nn.Module, loss: Loss) -> "Vectorised | str":
        """The module under vmap, or why it cannot be."""
        if loss.each is None:
            return f"the loss must be one of the library's, which say what each example costs, got {loss.name}"
        for name, one in module.named_modules():
            if isinstance(one, REFUSED) and getattr(one, "p", 1.0) > 0:
                return f"{name or 'the model'}: {type(one).__name__} cannot be run for several clients at once"
        odd = [name for name, one in module.named_parameters() if one.dim() > 1 and one.numel() % ALIGNMENT]
        if odd:
            # Their gradients would lie differently in memory with every client beside them, to other last bits.
            return f"{odd[0]}: matrices must have a multiple of {ALIGNMENT} values for equal bits in any company"
        return Vectorised(module, loss)

    def gradients(self, weights: Stacked, inputs: Tensor, targets: Tensor, shares: Tensor, into: Stacked) -> Tensor:
        """Put each client's gradient of its loss into ``into`` and return the losses; see `Stack.gradients`."""
        found, losses = torch.func.vmap(torch.func.grad_and_value(self._cost))(dict(weights), inputs, targets, shares)
        for name, one in found.items():
            into[name].copy_(one)
        total: Tensor = losses
        return total

    def _cost(self, weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        outputs = torch.func.functional_call(self.module, dict(weights), (inputs,))
        each = self.loss.each
        assert each is not None  # noqa: S101  `of` has seen to it
        return (each(outputs, targets) * shares).sum()
