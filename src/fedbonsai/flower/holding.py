"""Keep pruned weights at zero while a project's own loop trains."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.support import Support


@dataclass(frozen=True)
class Received:
    """The model that is being worked on: the names of its tensors, and the supports of those that are pruned."""

    names: tuple[str, ...]
    supports: Mapping[str, Support]


_RECEIVED: ContextVar[Received | None] = ContextVar("received", default=None)


@contextmanager
def working_on(received: Received) -> Iterator[None]:
    """Let `hold` know what came, for as long as the project's function runs."""
    token = _RECEIVED.set(received)
    try:
        yield
    finally:
        _RECEIVED.reset(token)


def hold(model: nn.Module) -> ExitStack:
    """Keep the pruned weights of ``model`` at exactly zero, by zeroing their gradients after each backward pass.

    To be called in a train function of a ClientApp with `pruning_mod`, before the training. Momentum, weight decay and
    Adam then have nothing to move, as long as the optimizer is made afresh. Without it the loop trains all weights,
    and what it has made of the pruned ones is cut off before the answer is sent: right, but a little of the training
    is lost. Where nothing was pruned (yet), or the strategy is not `Pruned`, it does nothing.

    Args:
        model: The module whose ``state_dict()`` the project exchanges.

    Returns:
        What ends it: close it, or write ``with hold(model):``. With a model that is made afresh for each message there
        is no need to.

    Raises:
        ConfigError: The tensors that came are not those of ``model.state_dict()``, neither by name nor by number.

    Examples:
        >>> with hold(nn.Linear(2, 2)):
        ...     pass
    """
    stack, received = ExitStack(), _RECEIVED.get()
    if received is None or not received.supports:
        return stack
    names = _names_in(model, received.names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, support in received.supports.items():
        parameter = parameters.get(names[name])
        if parameter is None or not parameter.requires_grad:
            continue
        absent = ~support.indicator().to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(absent, 0.0)
        stack.callback(parameter.register_post_accumulate_grad_hook(partial(_zero, absent)).remove)  # type: ignore[no-untyped-call]
    return stack


def _zero(absent: Tensor, parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.masked_fill_(absent, 0.0)


def _names_in(model: nn.Module, names: tuple[str, ...]) -> dict[str, str]:
    """The model's own name for each tensor that came; records of plain lists number them."""
    own = list(model.state_dict())
    if set(own) == set(names):
        return dict(zip(own, own, strict=True))
    if list(names) == [str(place) for place in range(len(own))]:
        return dict(zip(names, own, strict=True))
    raise ConfigError(
        f"hold needs the module whose state_dict is exchanged: it has {len(own)} tensors ({', '.join(own[:3])}, ...), "
        f"{len(names)} came ({', '.join(names[:3])}, ...)"
    )
