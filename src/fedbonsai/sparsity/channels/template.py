"""Modules with fewer channels: built and checked once a structure, then copied with the values of each client."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError
from fedbonsai.sparsity.channels.filled import Index, cut_by, filled, tensors_of
from fedbonsai.sparsity.channels.living import departs
from fedbonsai.sparsity.channels.run import as_precise, observe
from fedbonsai.sparsity.channels.tracer import Record

SIZES: tuple[tuple[type[nn.Module], dict[str, tuple[str, int]]], ...] = (
    (nn.Linear, {"in_features": ("weight", 1), "out_features": ("weight", 0)}),
    (nn.Embedding, {"embedding_dim": ("weight", 1)}),
)
"""Attributes that are sizes of a weight; those of convolutions depend on their groups."""


@dataclass(frozen=True)
class Template:
    """A module without values, and the tensors to be replaced by name."""

    module: nn.Module
    tensors: Mapping[str, Tensor]


def template(model: nn.Module, groups: Groups, index: Index, counts: tuple[int, ...]) -> Template:
    """A module of ``counts`` units a group, without values.

    Raises:
        ConfigError: It does not run on the example, or computes something else; names the layer.
    """
    known: Template | None = groups.cache.get(counts)
    if known is None:
        values = {name: cut_by(one, index.get(name, ())) for name, one in tensors_of(model).items()}
        small = filled(model, values)
        _set_attributes(small, groups, index)
        if counts != tuple(groups.units.values()):
            _check(small, groups, index, counts)
            _compare(model, small, groups, index, counts)
        empty = filled(small, {name: torch.empty_like(one, device="meta") for name, one in tensors_of(small).items()})
        known = Template(empty, tensors_of(empty))
        groups.cache[counts] = known
    return known


def _set_attributes(small: nn.Module, groups: Groups, index: Index) -> None:
    modules = dict(small.named_modules())
    kept = index_of_units(groups, index)
    for one in groups.attributes:
        module = modules[one.path]
        value = int(kept[one.labels].sum())
        if one.index is None:
            setattr(module, one.name, value)
        else:
            entries = list(getattr(module, one.name))
            entries[one.index] = value
            setattr(module, one.name, type(getattr(module, one.name))(entries))
    for path, module in modules.items():
        _set_sizes(module)
        if isinstance(module, nn.RNNBase) and module.proj_size >= module.hidden_size:
            raise ConfigError(
                f"layer {path!r}: torch needs proj_size < hidden_size, got {module.proj_size} and "
                f"{module.hidden_size}; keep more hidden units or fewer projected ones"
            )


def index_of_units(groups: Groups, index: Index) -> Tensor:
    """Which units are kept, as a mask with one entry more, which -1 finds: what always stays."""
    kept = torch.zeros(groups.total + 1, dtype=torch.bool)
    kept[-1] = True
    for name, axes in groups.axes.items():
        for labels, places in zip(axes, index[name], strict=True):
            if labels is not None:
                kept[labels if places is None else labels[places]] = True
    return kept


def _set_sizes(module: nn.Module) -> None:
    """Numbers that layers of torch keep beside their weights."""
    for kind, sizes in SIZES:
        if isinstance(module, kind):
            for name, (weight, dim) in sizes.items():
                setattr(module, name, getattr(module, weight).shape[dim])
    if isinstance(module, nn.modules.conv._ConvNd):
        across = module.transposed
        rows, columns = module.weight.shape[:2]
        module.in_channels = rows if across else columns * module.groups
        module.out_channels = columns * module.groups if across else rows
    if isinstance(module, nn.MultiheadAttention):
        module.head_dim = module.embed_dim // module.num_heads
        module._qkv_same_embed_dim = module.in_proj_weight is not None


def _check(small: nn.Module, groups: Groups, index: Index, counts: tuple[int, ...]) -> None:
    """Follow the channels of the smaller module too: it must run, and join nothing that was apart before.

    A module whose code writes out a number of channels may well run when it has fewer of them, and compute something
    else: heads of another size, say.
    """
    hint = "a number of channels or heads that its code writes out cannot follow; make it an attribute or read a shape"
    try:
        record = observe(small, as_precise(groups.inputs, small), evenly=groups.evenly)
    except ConfigError as error:
        raise ConfigError(f"with {_said(groups, counts)} the model no longer runs: {error}; {hint}") from error
    if record.shapes != list(groups.outputs):
        raise ConfigError(
            f"with {_said(groups, counts)} the model must give {list(groups.outputs)}, got {record.shapes}; {hint}"
        )
    wrong = _mixed(record, groups, index)
    if wrong is not None:
        raise ConfigError(f"with {_said(groups, counts)} layer {wrong!r} mixes channels that it kept apart; {hint}")


def _compare(model: nn.Module, small: nn.Module, groups: Groups, index: Index, counts: tuple[int, ...]) -> None:
    """A number of channels that follows may be used for more than a size, which only numbers show."""
    try:
        wrong = departs(model, small, groups, index)
    except ConfigError as error:
        raise ConfigError(f"with {_said(groups, counts)} and weights moved a little, {error}") from error
    if wrong is not None:
        place = f"layer {wrong!r}" if wrong else "the model"
        raise ConfigError(
            f"with {_said(groups, counts)} {place} must compute what it does in the whole model with all else at zero, "
            "got something else: a number of channels seems to be part of a value or a condition; keep that number in "
            "an attribute of its own, or prune this model by masks instead"
        )


def _said(groups: Groups, counts: tuple[int, ...]) -> str:
    fewer = [
        f"{count} of {units} in {name!r}"
        for (name, units), count in zip(groups.units.items(), counts, strict=True)
        if count != units
    ]
    return ", ".join(fewer[:4] + ["..."] * (len(fewer) > 4)) or "all channels"


def _mixed(record: Record, groups: Groups, index: Index) -> str | None:
    """The first layer in which two units have become one."""
    unit_of: dict[int, int] = {}
    for name, axes in groups.axes.items():
        for labels, kept, own in zip(axes, index[name], record.axes[name], strict=True):
            if labels is None:
                continue
            units = labels if kept is None else labels[kept]
            roots = record.atoms.roots(own)
            inside = roots >= 0
            for root, unit in zip(roots[inside].tolist(), units[torch.from_numpy(inside)].tolist(), strict=True):
                if unit >= 0 and unit_of.setdefault(root, unit) != unit:
                    return name.rpartition(".")[0] or name
    return None
