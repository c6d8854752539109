"""Units that an unstructured mask has left without effect: find them, and remove them without changing the function."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import SupportError
from fedbonsai.core.support import Support
from fedbonsai.sparsity.channels.extract import extract
from fedbonsai.sparsity.channels.filled import filled, tensors_of
from fedbonsai.sparsity.channels.run import observe
from fedbonsai.sparsity.channels.tracer import Read


def shrink(model: nn.Module, groups: Groups, masks: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Support]]:
    """Remove the units of a masked model that have no effect; the smaller module computes the same.

    A unit goes when nothing that is left reads it, or when nothing that is left feeds it and what it says is therefore
    one number: zero, or one that can be added to the bias of all layers that read it (linear ones, and convolutions
    without padding). Removing one can leave others without effect, and so on. Units under a norm over channels stay,
    as they count there; so does each group's last unit, and whatever cannot be shown to have no effect.

    Args:
        model: The model that was traced; what a mask leaves out is taken as zero.
        groups: Its channels.
        masks: By tensor, True where a weight is kept; a tensor without one is kept whole.

    Returns:
        As `extract`. Biases that took over a constant hold it.

    Raises:
        SupportError: A mask has no tensor, another shape, or is not bool.

    Examples:
        >>> from fedbonsai.sparsity.channels import trace
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> mask = torch.tensor([[True, False, True]])
        >>> shrink(model, trace(model, torch.zeros(1, 2)), {"2.weight": mask})[0][0]
        Linear(in_features=2, out_features=2, bias=True)
    """
    _check(groups, masks)
    tensors = tensors_of(model)
    left = {name: masks.get(name, torch.ones(one.shape, dtype=torch.bool)).clone() for name, one in tensors.items()}
    values = {name: one.detach().masked_fill(~left[name], 0) for name, one in tensors.items()}
    alive = torch.ones(groups.total, dtype=torch.bool)
    while True:
        gone = _unread(groups, left) & alive
        if not bool(gone.any()):
            reads = _reads(groups, filled(model, values))
            gone = _constant(groups, left, reads) & alive
            gone &= ~_last(groups, alive & ~gone)
            _fold(groups, gone, values, reads)
        gone &= ~_last(groups, alive & ~gone)
        if not bool(gone.any()):
            break
        alive &= ~gone
        _clear(groups, gone, left, values)
    keep = {name: own.nonzero().reshape(-1) for name, own in groups.by_group(alive).items()}
    return extract(filled(model, values), groups, keep)


def _check(groups: Groups, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        expected = groups.shapes.get(name)
        if mask.dtype != torch.bool or tuple(mask.shape) != expected:
            got = f"{mask.dtype}, {tuple(mask.shape)}"
            raise SupportError(f"mask {name!r} must be bool and have shape {expected}, got {got}")


def _touched(groups: Groups, axes: Iterable[tuple[str, int]], left: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which units have an index in ``axes`` at all, and which have a weight left there."""
    present, weights = torch.zeros(groups.total, dtype=torch.bool), torch.zeros(groups.total, dtype=torch.bool)
    for name, dim in axes:
        labels = groups.axes[name][dim]
        if labels is not None:
            some = left[name].movedim(dim, 0).flatten(1).any(1) if left[name].dim() > 1 else left[name]
            present[labels[labels >= 0]] = True
            weights[labels[(labels >= 0) & some]] = True
    return present, weights


def _axes(groups: Groups, role: str) -> list[tuple[str, int]]:
    """Dimensions of parameters with a role; what has none may have any."""
    return [
        (name, dim)
        for name, axes in groups.axes.items()
        for dim in range(len(axes))
        if name not in groups.buffers and role in groups.roles.get((name, dim), {role})
    ]


def _unread(groups: Groups, left: Mapping[str, Tensor]) -> Tensor:
    """Units that are read, but by no weight that is left."""
    present, weights = _touched(groups, _axes(groups, "in"), left)
    found = present & ~weights
    found[groups.spanned] = False
    return found


def _constant(groups: Groups, left: Mapping[str, Tensor], reads: Sequence[Read]) -> Tensor:
    """Units that no weight is left to feed, and that say the same wherever they are read.

    Biases and the weights of norms feed nothing but a constant. One that is not zero must fit into a bias.
    """
    present, weights = _touched(groups, _axes(groups, "out"), left)
    found = present & ~weights
    found[groups.spanned] = False
    seen = {(read.weight, read.dim) for read in reads}
    everything = {name: torch.ones(shape, dtype=torch.bool) for name, shape in groups.shapes.items()}
    found &= ~_touched(groups, [axis for axis in _axes(groups, "in") if axis not in seen], everything)[0]
    said: dict[str, Tensor] = {}
    for read in reads:
        labels = groups.axes[read.weight][read.dim]
        first = said.setdefault(read.weight, read.low)
        if labels is not None:
            folds = read.bias is not None and bool(left[read.bias].all())
            steady = (read.low == read.high) & (read.low == first) & ((first == 0) | folds)
            found[labels[(labels >= 0) & ~steady]] = False
    return found


def _fold(groups: Groups, gone: Tensor, values: dict[str, Tensor], reads: Sequence[Read]) -> None:
    """Add what constant units say to the biases of the layers that read them."""
    for read in {read.weight: read for read in reads}.values():
        labels = groups.axes[read.weight][read.dim]
        if read.bias is not None and labels is not None:
            taken = (labels >= 0) & gone[labels]
            weight = values[read.weight]
            summed = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
            values[read.bias] = values[read.bias] + summed[:, taken] @ read.low[taken]


def _reads(groups: Groups, masked: nn.Module) -> list[Read]:
    """What all weights read, on the example and on noise of its shape, in training and in evaluation mode."""
    draw = torch.Generator().manual_seed(0)
    noise = tuple(
        torch.randn(one.shape, generator=draw, dtype=one.dtype) if one.is_floating_point() else one
        for one in groups.inputs
    )
    return [
        read
        for inputs in (groups.inputs, noise)
        for read in observe(masked, inputs, evenly=groups.evenly, probing=True).reads
    ]


def _last(groups: Groups, alive: Tensor) -> Tensor:
    """The first unit of each group that would have none left."""
    found = torch.zeros(groups.total, dtype=torch.bool)
    for name, own in groups.by_group(alive).items():
        found[groups.starts[name]] = not bool(own.any())
    return found


def _clear(groups: Groups, gone: Tensor, left: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Mask every weight of the units that go."""
    for name, axes in groups.axes.items():
        for dim, labels in enumerate(axes):
            if labels is not None:
                places = ((labels >= 0) & gone[labels]).nonzero().reshape(-1)
                left[name].index_fill_(dim, places, value=False)
                values[name] = values[name].index_fill(dim, places, 0)
