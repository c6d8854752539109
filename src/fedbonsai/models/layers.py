"""Torch's layers where torch is slow on a CPU; the same mathematics, names and state."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL = 144
"""Pixels below which a call of ours costs more than it saves."""


class _GreyConvolution(torch.autograd.Function):
    """A convolution of one input channel, its weight's gradient as one matrix product.

    oneDNN blocks over channels; with one of them its weight gradient takes three times as long as laying the patches
    out and multiplying.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(inputs, weight)
        ctx.padding, ctx.biased = padding, bias is not None
        return functional.conv2d(inputs, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        patches = functional.unfold(inputs, weight.shape[2:], padding=ctx.padding)
        products = torch.bmm(patches, gradient.flatten(2).transpose(1, 2)).sum(0)
        back = functional.conv_transpose2d(gradient, weight, padding=ctx.padding) if ctx.needs_input_grad[0] else None
        return back, products.t().reshape(weight.shape), gradient.sum((0, 2, 3)) if ctx.biased else None, None


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` of stride 1, faster in training for images of one channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, padding=padding)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Convolve ``(batch, channels, height, width)``."""
        if self.in_channels > 1 or input.shape[-2] * input.shape[-1] < SMALL:
            return super().forward(input)
        found: Tensor = _GreyConvolution.apply(input, self.weight, self.bias, self.padding)  # type: ignore[no-untyped-call]
        return found


class _MaxPool(torch.autograd.Function):
    """Max-pooling whose forward pass goes over channels-last memory, which torch vectorises and the usual one not."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, size: int) -> Tensor:  # noqa: ANN401
        last = inputs.contiguous(memory_format=torch.channels_last)
        found, places = torch.ops.aten.max_pool2d_with_indices(last, [size, size], [size, size])
        ctx.save_for_backward(inputs, places.contiguous())
        ctx.size = size
        pooled: Tensor = found.contiguous()
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        inputs, places = ctx.saved_tensors
        square, ceiling = [ctx.size, ctx.size], False
        back = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient.contiguous(), inputs, square, square, [0, 0], [1, 1], ceiling, places
        )
        return back, None


class MaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` without padding, bit for bit, in half of the time."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Pool ``(batch, channels, height, width)``."""
        if input.shape[-2] * input.shape[-1] < SMALL:
            small: Tensor = super().forward(input)
            return small
        found: Tensor = _MaxPool.apply(input, self.size)  # type: ignore[no-untyped-call]
        return found
