"""Physically smaller models: some units of each group, cut out of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import SupportError
from fedbonsai.core.runs import most_boxes
from fedbonsai.core.support import Support
from fedbonsai.sparsity.channels.filled import Index, filled, tensors_of
from fedbonsai.sparsity.channels.place import take
from fedbonsai.sparsity.channels.template import template


def extract(
    model: nn.Module,
    groups: Groups,
    keep: Mapping[str, Tensor | Sequence[int]] | None = None,
    width: float | None = None,
    *,
    multiple: int = 1,
) -> tuple[nn.Module, dict[str, Support]]:
    """Cut a smaller module out of ``model``: of the same class, with fewer channels, and values of its own.

    The first module of a structure is run and compared with the whole on the example of the trace; those that follow
    are only filled.

    Args:
        model: The model that was traced, or one of the same architecture.
        groups: Its channels.
        keep: By group, the numbers of the units to keep, increasing; groups that are not named stay whole.
        width: In place of ``keep``, the share of each group that is kept, in (0, 1]: its first
            ``round(width * units)`` units, and at least one.
        multiple: Round the number of units by ``width`` to a multiple of this, where a group has as many.

    Returns:
        The smaller module, and by name where each of its tensors sits in the whole one (parameters, and buffers of
        floating point).

    Raises:
        SupportError: ``keep``, ``width`` or ``multiple`` is out of range, or a group would be left without a unit.
        ConfigError: The model is another one, or a module whose code writes out a number of channels.

    Examples:
        >>> from fedbonsai.sparsity.channels import trace
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> small, supports = extract(model, trace(model, torch.zeros(1, 4)), width=0.5)
        >>> small[0], supports["2.weight"].value_shape
        (Linear(in_features=4, out_features=3, bias=True), (2, 3))
    """
    if keep is not None and width is not None:
        raise SupportError("keep and width say the same thing; give one of them")
    cut = _by_width(groups, width, multiple) if keep is None else _cut(groups, checked(groups, keep))
    tensors = tensors_of(model)
    wrong = [name for name, shape in groups.shapes.items() if name not in tensors or tensors[name].shape != shape]
    if wrong:
        raise SupportError(f"the model must be the one that was traced; {wrong[0]!r} is missing or has another shape")
    empty, supports, values = template(model, groups, cut.index, cut.counts), cut.supports, {}
    for name, one in tensors.items():
        value = take(one, supports[name]) if name in supports else one.clone()
        values[name] = nn.Parameter(value, one.requires_grad) if isinstance(one, nn.Parameter) else value
    small = filled(empty.module, values, empty.tensors)
    _same_modes(small, model)
    return small, dict(supports)


def _same_modes(mine: nn.Module, whole: nn.Module) -> None:
    """Training or evaluation, module by module; written out, as `modules` of every client's model takes its time."""
    vars(mine)["training"] = whole.training
    for one, other in zip(vars(mine)["_modules"].values(), vars(whole)["_modules"].values(), strict=True):
        if one is not None:
            _same_modes(one, other)


@dataclass(frozen=True)
class _Cut:
    """What is kept: units by group, indices by tensor, and the same as supports."""

    counts: tuple[int, ...]
    index: Index
    supports: dict[str, Support]


def _cut(groups: Groups, keep: Mapping[str, Tensor]) -> _Cut:
    index = indices(groups, keep)
    return _Cut(tuple(map(len, keep.values())), index, supports_of(groups, index))


def _by_width(groups: Groups, width: float | None, multiple: int) -> _Cut:
    """Clients of one tier share their supports, and what has been found out about them."""
    known: _Cut | None = groups.cache.get((width, multiple))
    if known is None:
        known = groups.cache[width, multiple] = _cut(groups, units_by_width(groups, width, multiple))
    return known


def units_by_width(groups: Groups, width: float | None, multiple: int = 1) -> dict[str, Tensor]:
    """The first units of each group, ``width`` of them.

    Raises:
        SupportError: ``width`` is not in (0, 1], or ``multiple`` not at least 1.
    """
    width = 1.0 if width is None else width
    if not 0 < width <= 1:
        raise SupportError(f"width must be in (0, 1], got {width}; a group cannot be left without a unit")
    if multiple < 1:
        raise SupportError(f"multiple must be at least 1, got {multiple}")
    found = {}
    for name, units in groups.units.items():
        count = min(units, max(1, round(width * units / multiple)) * multiple)
        found[name] = torch.arange(count)
    return found


def checked(groups: Groups, keep: Mapping[str, Tensor | Sequence[int]]) -> dict[str, Tensor]:
    """The units of every group, those of groups that are not named in full.

    Raises:
        SupportError: A group is unknown, or its units are out of range, out of order, or none.
    """
    unknown = sorted(set(keep) - set(groups.units))
    if unknown:
        raise SupportError(f"keep must name groups of the model, got {unknown[0]!r}; it has {', '.join(groups.units)}")
    found = {}
    for name, units in groups.units.items():
        one = torch.as_tensor(keep.get(name, range(units)))
        whole = one.dim() == 1 and one.dtype == torch.int64 and len(one) > 0
        if not whole or int(one[0]) < 0 or int(one[-1]) >= units or bool((one.diff() <= 0).any()):
            raise SupportError(
                f"group {name!r}: at least one unit of [0, {units}) must be kept, by increasing number, "
                f"got {one.reshape(-1)[:8].tolist()}"
            )
        found[name] = one
    return found


def indices(groups: Groups, keep: Mapping[str, Tensor]) -> Index:
    """The indices that are kept in every dimension of every tensor; None for all."""
    kept = torch.zeros(groups.total + 1, dtype=torch.bool)
    kept[-1] = True  # the label -1: what always stays
    for name, units in keep.items():
        kept[groups.starts[name] + units] = True
    known: dict[int, Tensor | None] = {}
    for axes in groups.axes.values():
        for labels in axes:
            if labels is not None and id(labels) not in known:
                stays = kept[labels].nonzero().reshape(-1)
                known[id(labels)] = None if len(stays) == len(labels) else stays
    return {name: tuple(None if one is None else known[id(one)] for one in axes) for name, axes in groups.axes.items()}


def supports_of(groups: Groups, index: Index) -> dict[str, Support]:
    """Where smaller tensors sit. Built directly: the indices are in range and in order, as they come from a mask."""
    whole: dict[int, Tensor] = {}
    known: dict[int, tuple[int, bool]] = {}
    found = {}
    for name, axes in index.items():
        shape = groups.shapes[name]
        if all(one is None for one in axes):
            found[name] = Support(shape)
            continue
        for size in shape:
            if size not in whole:
                whole[size] = torch.arange(size)
        lists = tuple(whole[size] if one is None else one for size, one in zip(shape, axes, strict=True))
        found[name] = Support(shape, index=lists)
        parts = [_parts(one, known) for one in axes if one is not None]
        if prod(runs for runs, _ in parts) > most_boxes(shape) and not all(evenly for _, evenly in parts):
            vars(found[name]).update(blocks=None, stripes=None)  # what the properties would find, for each tensor anew
    return found


def _parts(index: Tensor, known: dict[int, tuple[int, bool]]) -> tuple[int, bool]:
    """How many runs a list has, and whether they begin at equal distances; found once a list."""
    if id(index) not in known:
        one = index.numpy()
        starts = np.flatnonzero(one[1:] - one[:-1] != 1) + 1
        known[id(index)] = len(starts) + 1, len(set(np.diff(one[starts]).tolist())) <= 1
    return known[id(index)]
