"""Activations that wait for the backward pass, in fewer bytes: pruned where they are inputs, packed where that is free.

A layer's backward pass needs what its forward pass saved. Convolutions and linear layers save their input, of which
the largest part is kept and the rest is zero (FedMef, Huang et al., CVPR 2024). That alone saves nothing: a ReLU keeps
the same tensor as its result, and max-pooling as its input. Of a ReLU's result only the sign is looked at, of a pooled
input only the shape; both are packed without loss. Weights are no activations, and norms keep what they save.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from fedbonsai.core.support import pack_bits, unpack_bits
from fedbonsai.learning.device import CPU
from fedbonsai.sparsity.masks import keep_top

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor that waits, as what is kept of it.

    Attributes:
        like: Its shape, strides and type, without memory.
        device: Where it was.
        kept: Its values, or those of them that are kept.
        bits: Where they are, one bit an element; for a sign the sign itself.
    """

    like: Tensor
    device: torch.device
    kept: Tensor | None = None
    bits: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds."""
        return sum(one.nbytes for one in (self.kept, self.bits) if one is not None)

    def unpack(self) -> Tensor:
        """The tensor, zero where nothing was kept; one where only a sign was."""
        whole = torch.zeros_like(self.like, device=self.device)
        if self.bits is not None:
            mask = _spread_bits(self.bits, self.like.shape)
            return whole.masked_scatter_(mask, self.kept) if self.kept is not None else whole.masked_fill_(mask, 1)
        return whole if self.kept is None else whole.copy_(self.kept)


@contextmanager
def pruned_activations(module: nn.Module, share: float) -> Iterator[None]:
    """Inside the block, let ``module`` save less for its backward passes.

    Args:
        module: The network.
        share: The share of each layer's input that is dropped, those of least magnitude; 0 drops nothing, and
            gradients keep every bit.
    """
    with ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, (*WEIGHTED, nn.ReLU, nn.MaxPool2d)):
                hooks = saved_tensors_hooks(partial(_pack, layer, share), _unpack)
                before = layer.register_forward_pre_hook(partial(_enter, hooks))
                after = layer.register_forward_hook(partial(_exit, hooks), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
        yield


def _enter(hooks: saved_tensors_hooks, *_: object) -> None:
    hooks.__enter__()


def _exit(hooks: saved_tensors_hooks, *_: object) -> None:
    hooks.__exit__()


def _pack(layer: nn.Module, share: float, saved: Tensor) -> Tensor | Packed:
    like = torch.empty_like(saved, device="meta")
    if isinstance(layer, nn.ReLU):
        return Packed(like, saved.device, bits=_gathered_bits(saved > 0))
    if isinstance(layer, nn.MaxPool2d):  # the places of the largest lie within one plane: 32 bits are enough
        return Packed(like, saved.device, None if saved.is_floating_point() else saved.to(torch.int32))
    if not share or saved.data_ptr() in {one.data_ptr() for one in layer.parameters()}:
        return saved
    # Chosen on the CPU: ties go by index, which an accelerator's own selection does not promise.
    mask = keep_top(saved.detach().abs().to(CPU), saved.numel() - int(share * saved.numel())).to(saved.device)
    return Packed(like, saved.device, saved[mask], _gathered_bits(mask))


def _gathered_bits(mask: Tensor) -> Tensor:
    """`pack_bits` without leaving an accelerator."""
    if mask.device == CPU:
        return pack_bits(mask)
    filled = functional.pad(mask.reshape(-1).to(torch.uint8), (0, -mask.numel() % 8)).reshape(-1, 8)
    return (filled << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def _spread_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """`unpack_bits` without leaving an accelerator."""
    if bits.device == CPU:
        return unpack_bits(bits, tuple(shape))
    each = bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=bits.device) & 1
    return each.reshape(-1)[: shape.numel()].bool().reshape(shape)


def _unpack(saved: Tensor | Packed) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved.unpack()
