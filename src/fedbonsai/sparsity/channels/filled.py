"""Copies of a module with other values, quicker than a deep copy."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Index = Mapping[str, tuple[Tensor | None, ...]]
"""By tensor, the indices that are kept in every dimension; None for all of them."""


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def cut_by(one: Tensor, index: tuple[Tensor | None, ...]) -> Tensor:
    """A copy of what ``index`` keeps of a tensor."""
    found = one.detach()
    for dim, kept in enumerate(index):
        found = found if kept is None else found.index_select(dim, kept)
    return found.clone()


def filled(model: nn.Module, values: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of ``model`` whose parameters and buffers are ``values``, not copied; ties stay ties.

    Args:
        model: What is copied.
        values: By name, as parameters where they are to be trained as these are.
        own: The tensors of ``model`` by name, where they are at hand.
    """
    memo: dict[int, Any] = {}
    for name, one in (tensors_of(model) if own is None else own).items():
        value = values[name]
        if isinstance(one, nn.Parameter) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, one.requires_grad)
        memo[id(one)] = value
    return _copied(model, memo)


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy`` of a module, several times quicker as most of what a module holds needs no copy."""
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    if hasattr(type(module), "__deepcopy__") or isinstance(module, nn.RNNBase | torch.jit.ScriptModule):
        return copy.deepcopy(module, memo)
    found: nn.Module = object.__new__(type(module))
    memo[id(module)] = found
    own = vars(found)
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _VALUES:
            own[name] = value
        elif (kind is OrderedDict or kind is dict) and not value:  # most of what a module holds: hooks
            own[name] = kind()
        elif name in _TABLES:
            own[name] = {key: _entry(one, memo) for key, one in value.items()}
        else:
            own[name] = _part(value, memo)
    return found


def _entry(one: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401
    return _copied(one, memo) if isinstance(one, nn.Module) else memo.get(id(one))


def _part(value: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401
    kind = type(value)
    if kind in (tuple, set, list) and all(type(one) in _VALUES for one in value):
        return kind(value)
    return copy.deepcopy(value, memo)


_VALUES = frozenset((type(None), int, float, bool, str, torch.Size))
_TABLES = frozenset(("_modules", "_parameters", "_buffers"))
