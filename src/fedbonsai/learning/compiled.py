"""A module that torch's compiler has seen: fewer and larger operations, on a GPU replayed as one graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.learning.kernels import agree
from fedbonsai.learning.task import PreparedTask

Forward = Callable[[Tensor], Tensor]
"""Inputs of a batch to outputs."""


def compiled(module: nn.Module, task: PreparedTask, sizes: Sequence[int] = (2, 1)) -> Forward:
    """Compile a module for training and see on batches of a few sizes that its gradients are the same.

    One compilation serves batches of all sizes but 1, which has its own; all of it is done here, so that a run's steps
    have one way to be computed from the first on. It takes tens of seconds and a C++ compiler.

    Raises:
        ConfigError: The compiler cannot take all of the module, or makes another one of it.
    """
    mode = "reduce-overhead" if task.pool.targets.is_cuda else "default"  # which records a graph of CUDA
    made = torch.compile(module, fullgraph=True, mode=mode)

    def forward(inputs: Tensor) -> Tensor:
        torch._dynamo.mark_dynamic(inputs, 0)
        outputs: Tensor = made(inputs)
        return outputs

    try:
        problem = next(filter(None, (_differs(forward, module, task, size) for size in sizes)), "")
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"[:300]
    if problem:
        raise ConfigError(f"kernel=compiled cannot train this model: {problem}; use kernel=loop")
    return forward


def _differs(forward: Forward, module: nn.Module, task: PreparedTask, size: int) -> str:
    """How gradients on some examples differ from the module's own; empty where they do not."""
    own = [one for one in module.parameters() if one.requires_grad]
    inputs, targets = task.pool.batch(torch.arange(min(size, len(task.pool))))
    found = []
    for run in (module, forward):
        loss = task.loss.function(run(inputs), targets)
        found.append(torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True))
    alone, made = found
    return "" if agree(made, alone) else "its gradients are others once it is compiled, or drawn at random"
