"""Gradients of many clients at once for stacks of dense layers: one batched matrix product a layer and direction.

A small product of one client costs the call, not the arithmetic; a batched product is one call for all of them. Each
client's numbers come out the same whoever is beside it, as long as there are at least two: every operation is one of
rows, or a product of items that all lie alike in memory. They must: a product's last bits depend on how its numbers are
aligned, and a product of a single item takes another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedbonsai.learning import losses
from fedbonsai.learning.losses import Loss

ALIGNMENT = 16
"""Floats of a cache line."""

Stacked = Mapping[str, Tensor]
"""A tensor of each client by name, the first dimension = clients."""


@dataclass(frozen=True)
class _Dense:
    """A linear layer: names of its tensors, and whether a ReLU follows."""

    weight: str
    bias: str | None
    rectified: bool


@dataclass(frozen=True)
class Stack:
    """A network of linear layers with ReLUs between some of them, and the loss above.

    Attributes:
        layers: From the input on.
        loss: ``cross_entropy`` or ``mse``.
    """

    layers: tuple[_Dense, ...]
    loss: Loss

    @staticmethod
    def of(module: nn.Module, loss: Loss) -> "Stack | str":
        """The stack that a module is, or why it is none."""
        if loss.function not in _OUTPUTS:
            return f"the loss must be cross_entropy or mse, got {loss.name}"
        found: list[_Dense] = []
        for name, one in _leaves(module):
            if type(one) is nn.Linear:
                bias = None if one.bias is None else f"{name}.bias".lstrip(".")
                found.append(_Dense(f"{name}.weight".lstrip("."), bias, rectified=False))
            elif type(one) is nn.ReLU and found:
                found[-1] = _Dense(found[-1].weight, found[-1].bias, rectified=True)
            elif not (type(one) is nn.Identity or (type(one) is nn.Flatten and not found)):
                return f"{name or 'the model'}: a stack is made of Flatten, Linear and ReLU, got {type(one).__name__}"
        return Stack(tuple(found), loss) if found else "a stack needs a Linear layer, got none"

    def gradients(self, weights: Stacked, inputs: Tensor, targets: Tensor, shares: Tensor, into: Stacked) -> Tensor:
        """Put each client's gradient of its loss into ``into`` and return the losses.

        Args:
            weights: Every client's parameters.
            inputs: Every client's batch, shape ``(clients, batch, ...)``.
            targets: The same of the targets.
            shares: How much each example counts for, shape ``(clients, batch)``; 0 for one that only fills up.
            into: Where gradients go, shaped like ``weights``.
        """
        clients, batch = shares.shape
        room = partial(_aligned, inputs.device, clients, batch)
        seen = [room(inputs[0, 0].numel()).copy_(inputs.flatten(2))]
        for layer in self.layers:
            weight = weights[layer.weight]
            outputs = room(weight.shape[1])
            if layer.bias is None:
                torch.bmm(seen[-1], weight.transpose(1, 2), out=outputs)
            else:
                torch.baddbmm(weights[layer.bias].unsqueeze(1), seen[-1], weight.transpose(1, 2), out=outputs)
            seen.append(outputs.relu_() if layer.rectified else outputs)
        each, pull = _OUTPUTS[self.loss.function](seen[-1], targets, shares)
        back = room(pull.shape[2]).copy_(pull)
        ones = torch.ones(1, 1, aligned(batch), device=back.device).expand(clients, 1, -1)[:, :, :batch]
        for place in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[place]
            if layer.rectified:
                back.masked_fill_(seen[place + 1] == 0, 0)
            torch.bmm(back.transpose(1, 2), seen[place], out=into[layer.weight])
            if layer.bias is not None:
                # A product, not a sum: how torch splits a sum depends on how many clients there are.
                torch.bmm(ones, back, out=into[layer.bias].unsqueeze(1))
            if place:
                back = torch.bmm(back, weights[layer.weight], out=room(seen[place].shape[2]))
        return (each * shares).sum(1)


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _leaves(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of nested sequences in order; any other module stands for itself."""
    if type(module) is not nn.Sequential:
        return [(name, module)]
    # Not `named_children`, which leaves out a layer that stands there twice.
    return [leaf for key, one in module._modules.items() if one for leaf in _leaves(one, f"{name}.{key}".lstrip("."))]


def _softmax(outputs: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies of examples, and the gradient of their weighted sum at the outputs."""
    logs = outputs.log_softmax(-1)
    places = targets.unsqueeze(-1)
    each = logs.gather(-1, places).squeeze(-1).neg_()
    pull = torch.zeros_like(logs).scatter_(-1, places, -shares.unsqueeze(-1))
    return each, torch.ops.aten._log_softmax_backward_data(pull, logs, -1, logs.dtype)


def _squares(outputs: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared errors of examples, and the gradient of their weighted sum at the outputs."""
    off = outputs - targets.reshape(outputs.shape)
    return (off * off).mean(-1), off * ((2 / off.shape[-1]) * shares.unsqueeze(-1))


def _aligned(device: torch.device, items: int, rows: int, columns: int) -> Tensor:
    """Room for matrices that each begin at a multiple of `ALIGNMENT`, rows too."""
    return torch.empty(items, rows, aligned(columns), device=device)[:, :, :columns]


_OUTPUTS = {losses.cross_entropy.function: _softmax, losses.mse.function: _squares}
