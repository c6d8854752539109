"""How local training is computed: client after client, or many clients' steps at once. The choice decides last bits."""

from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.learning.losses import Loss
from fedbonsai.learning.stacks import Stack, Stacked
from fedbonsai.learning.vectorised import Vectorised

KernelName = Literal["loop", "stack", "vmap"]
"""``loop`` trains client after client. ``stack`` computes the steps of many clients together, one batched product of
matrices a dense layer; ``vmap`` does so with any small module."""

KERNELS: tuple[str, ...] = get_args(KernelName)

STACK_FLOPS, VMAP_FLOPS = 5_000_000, 2_000_000
"""FLOPs of a step of one client below which the call costs more than the arithmetic, so that batching clients pays."""

WORTH_A_STACK, WORTH_A_VMAP = 4, 16
"""Clients of a round from which it pays."""


@runtime_checkable
class Gradients(Protocol):
    """Computes the gradients of several clients' batches at once."""

    def gradients(self, weights: Stacked, inputs: Tensor, targets: Tensor, shares: Tensor, into: Stacked) -> Tensor:
        """Put each client's gradient of its loss into ``into`` and return the losses; see `Stack.gradients`."""


def make_gradients(kernel: str, module: nn.Module, loss: Loss) -> Gradients | None:
    """What computes gradients of many clients; None for ``loop``.

    Raises:
        ConfigError: There is no such kernel, or it cannot train this model; the message says what stands in its way.
    """
    if lookup("kernel", kernel, KERNELS) == "loop":
        return None
    problem = unfit(module)
    found = problem or (Stack if kernel == "stack" else Vectorised).of(module, loss)
    if isinstance(found, str):
        raise ConfigError(f"kernel={kernel} cannot train this model: {found}; use kernel=loop")
    return found


def unfit(module: nn.Module) -> str:
    """Why no module like this is trained for many clients at once; empty if it may be."""
    if any(True for _ in module.buffers()):
        return "it has buffers, which a step changes"
    if not all(one.requires_grad for one in module.parameters()):
        return "some of its parameters are frozen"
    return ""


def choose_kernel(module: nn.Module, loss: Loss, flops: int, cohort: int) -> tuple[str, str]:
    """The kernel that the static rule takes, and why; equal arguments give equal answers on any machine.

    Args:
        module: The model.
        loss: What is trained for.
        flops: Of a step of one client, forward and backward.
        cohort: Clients of a round.
    """
    problem = unfit(module)
    if problem:
        return "loop", problem
    size = f"{flops:.2g} FLOPs a step, cohort {cohort}"
    for kernel, cls, most, least in (
        ("stack", Stack, STACK_FLOPS, WORTH_A_STACK),
        ("vmap", Vectorised, VMAP_FLOPS, WORTH_A_VMAP),
    ):
        found = cls.of(module, loss)
        if not isinstance(found, str) and flops < most and cohort >= least:
            return kernel, f"{size}: below {most:.2g} FLOPs and from {least} clients on, batching them pays"
    return "loop", f"{size}: batching clients pays for stacks of dense layers below {STACK_FLOPS:.2g} FLOPs a step"
