"""How local training is computed: client after client, or many clients' steps at once. The choice decides last bits."""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.learning.stacks import Stack, Stacked
from fedbonsai.learning.task import PreparedTask
from fedbonsai.learning.vectorised import Vectorised

KernelName = Literal["loop", "stack", "vmap", "compiled"]
"""``loop`` trains client after client. ``stack`` computes the steps of many clients together, one batched product of
matrices a dense layer; ``vmap`` does so with any small module. ``compiled`` is the loop with a module that torch's
compiler has seen, whose operations a GPU replays as one graph."""

KERNELS: tuple[str, ...] = get_args(KernelName)

STACK_FLOPS, VMAP_FLOPS = 5_000_000, 2_000_000
"""FLOPs of a step of one client below which the call costs more than the arithmetic, so that batching clients pays."""

WORTH_A_STACK, WORTH_A_VMAP = 4, 16
"""Clients of a round from which it pays."""

TOLERANCE = 1e-4
"""How far gradients of a kernel may be from autograd's, over the largest of these."""


@runtime_checkable
class Gradients(Protocol):
    """Computes the gradients of several clients' batches at once."""

    def gradients(self, weights: Stacked, inputs: Tensor, targets: Tensor, shares: Tensor, into: Stacked) -> Tensor:
        """Put each client's gradient of its loss into ``into`` and return the losses; see `Stack.gradients`."""


def make_gradients(kernel: str, module: nn.Module, task: PreparedTask) -> Gradients | None:
    """What computes gradients of many clients; None for the kernels that train one after the other.

    Raises:
        ConfigError: There is no such kernel, or it cannot train this model; the message says what stands in its way.
    """
    if lookup("kernel", kernel, KERNELS) in ("loop", "compiled"):
        return None
    found = _found(kernel, module, task)
    if isinstance(found, str):
        raise ConfigError(f"kernel={kernel} cannot train this model: {found}; use kernel=loop")
    return found


def choose_kernel(module: nn.Module, task: PreparedTask, flops: int, cohort: int) -> tuple[str, str]:
    """The kernel that the static rule takes, and why; equal arguments give equal answers on any machine.

    Args:
        module: The model.
        task: What it learns.
        flops: Of a step of one client, forward and backward.
        cohort: Clients of a round.
    """
    size, problem = f"{flops:.2g} FLOPs a step, cohort {cohort}", ""
    for kernel, most, least in (("stack", STACK_FLOPS, WORTH_A_STACK), ("vmap", VMAP_FLOPS, WORTH_A_VMAP)):
        if flops >= most or cohort < least:
            continue
        found = _found(kernel, module, task)
        if not isinstance(found, str):
            return kernel, f"{size}: below {most:.2g} FLOPs and from {least} clients on, batching them pays"
        problem = problem or f"; {kernel}: {found}"
    pays = f"batching clients pays for stacks of dense layers below {STACK_FLOPS:.2g} FLOPs a step"
    return "loop", f"{size}: {pays}{problem}"


def agree(found: Sequence[Tensor], alone: Sequence[Tensor]) -> bool:
    """Whether a kernel's gradients are those that autograd gives, but for rounding.

    Examples:
        >>> agree([torch.tensor([2e-6])], [torch.tensor([1e-6])]), agree([torch.zeros(2)], [torch.zeros(2)])
        (False, True)
    """
    largest = max(float(one.abs().max()) for one in alone)
    apart = max(float((one - other).abs().max()) for one, other in zip(found, alone, strict=True))
    return apart <= TOLERANCE * largest


def _found(kernel: str, module: nn.Module, task: PreparedTask) -> Gradients | str:
    """The gradients of a batched kernel, or why it cannot train a model."""
    if any(True for _ in module.buffers()):
        return "it has buffers, which a step changes"
    if not all(one.requires_grad for one in module.parameters()):
        return "some of its parameters are frozen"
    targets = task.pool.targets
    if task.loss.name != "mse" and len(targets) and int(targets.min()) < 0:
        return "some targets are below 0, which its loss leaves out"
    found = Stack.of(module, task.loss) if kernel == "stack" else Vectorised.of(module, task.loss)
    return found if isinstance(found, str) else _differs(found, module, task) or found


def _differs(found: Gradients, module: nn.Module, task: PreparedTask) -> str:
    """How gradients of two clients side by side differ from each alone; empty where they do not.

    What a module does with its inputs only shows when it runs: it may look at other examples of the batch, draw at
    random, or use a layer twice. So both clients' batches are filled up with other examples that count for nothing.
    """
    last = min(1, len(task.pool) - 1)
    rows = torch.tensor([[0, last, 0, 0], [0, last, last, last]])
    shares = torch.tensor([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    own = [{name: scale * one.detach() for name, one in module.named_parameters()} for scale in (1.0, 0.9)]
    stacked = {name: torch.stack([one[name] for one in own]) for name in own[0]}
    into = {name: torch.zeros_like(one) for name, one in stacked.items()}
    try:
        inputs, targets = task.pool.batch(rows.flatten())
        shares = shares.to(targets.device)
        inputs, targets = (one.reshape(2, 4, *one.shape[1:]) for one in (inputs, targets))
        found.gradients(stacked, inputs, targets, shares, into)
        for client, weights in enumerate(own):
            leaves = {name: one.requires_grad_() for name, one in weights.items()}
            real = slice(0, 2 - client)
            outputs = torch.func.functional_call(module, leaves, (inputs[client, real],))
            loss = task.loss.function(outputs, targets[client, real])
            alone = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            if not agree([into[name][client] for name in leaves], alone):
                return "an example's gradient depends on others in its batch, or a layer does not what its type says"
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        return f"it fails side by side: {error}"[:300]
    return ""
