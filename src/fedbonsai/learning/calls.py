"""Which layer of a model is at work, so that an error can say where it came from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def under_way(module: nn.Module) -> Iterator[list[str]]:
    """Inside the block the list holds the layers that have begun and not ended, each with the shapes it was given.

    One that raises does not end, so that after an error the last is the innermost that failed.

    Examples:
        >>> model = nn.Sequential(nn.Linear(6, 8), nn.Linear(9, 2))
        >>> with under_way(model) as layers:
        ...     try:
        ...         model(torch.zeros(5, 6))
        ...     except RuntimeError:
        ...         print(layers[-1])
        layer '1' (Linear), given (5, 8)
    """
    found: list[str] = []

    def enter(path: str, one: nn.Module, given: tuple[object, ...]) -> None:
        shapes = ", ".join(str(tuple(each.shape)) for each in given if isinstance(each, Tensor))
        name = f"layer {path!r}" if path else "the model"
        found.append(f"{name} ({type(one).__name__})" + (f", given {shapes}" if shapes else ""))

    handles = []
    for path, one in module.named_modules():
        if isinstance(one, torch.jit.ScriptModule):  # takes no hooks
            continue
        handles.append(one.register_forward_pre_hook(lambda own, given, path=path: enter(path, own, given)))
        handles.append(one.register_forward_hook(lambda *_: found.pop() and None))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
