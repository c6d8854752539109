"""Floating-point operations of one example, counted operator by operator on a real batch."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry


@dataclass(frozen=True)
class Cost:
    """FLOPs of one example; a multiply-add counts two."""

    forward: int
    backward: int


def _convolution_backward(output: Tensor, inputs: Tensor, weight: Tensor, *rest: Any, **_: Any) -> int:  # noqa: ANN401
    """Each of the two gradients costs what the forward pass does; torch's own formula forgets ``groups`` in one."""
    transposed, needed = rest[4], rest[-1]
    once = conv_flop_count(list(inputs.shape), list(weight.shape), list(output.shape), transposed)
    return once * int(sum(needed[:2]))


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


class _Counter(TorchDispatchMode):
    """Adds up torch's own formulas. Unlike ``FlopCounterMode`` it does not load the compiler, which takes seconds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def count(loss: Callable[[], Tensor], examples: int) -> Cost:
    """Count the forward and backward pass of ``loss`` over ``examples`` examples."""
    forward, backward = _Counter(), _Counter()
    with without_onednn():
        with forward:
            value = loss()
        with backward:
            value.backward()  # type: ignore[no-untyped-call]
    return Cost(forward.flops // examples, backward.flops // examples)


def count_all(work: Callable[[], object]) -> int:
    """Count everything that ``work`` computes."""
    counter = _Counter()
    with without_onednn(), counter:
        work()
    return counter.flops


def count_uses(module: nn.Module, work: Callable[[], object]) -> dict[str, float]:
    """How often ``work`` uses a weight of each matrix or kernel: multiply-adds of its module over its weights.

    Once an example in a dense layer, once an example and position in a convolution, never in an embedding.
    """
    counter, spent = _Counter(), dict[nn.Module, int]()

    def enter(one: nn.Module, _: object) -> None:
        spent[one] = spent.get(one, 0) - counter.flops

    def leave(one: nn.Module, *_: object) -> None:
        spent[one] += counter.flops

    handles = [one.register_forward_pre_hook(enter) for one in module.modules()]
    handles += [one.register_forward_hook(leave) for one in module.modules()]
    try:
        with without_onednn(), counter, torch.no_grad():
            work()
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for path, one in module.named_modules():
        own = {name: weight.numel() for name, weight in one.named_parameters(path, recurse=False) if weight.dim() > 1}
        found.update({name: spent.get(one, 0) / (2 * sum(own.values())) for name in own})
    return found


@contextmanager
def without_onednn() -> Iterator[None]:
    """Inside the block a recurrent layer is a chain of matrix products, which have a formula."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")  # said wherever these flags are touched
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield
