"""Move the values of physically smaller tensors out of whole ones, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.support import Support


def take(whole: Tensor, support: Support) -> Tensor:
    """The values of ``whole`` on a grid as a smaller tensor of its own.

    Examples:
        >>> support = Support.grid((2, 3), [torch.tensor([1]), torch.tensor([0, 2])])
        >>> take(torch.arange(6).reshape(2, 3), support)
        tensor([[3, 5]])
    """
    _check(whole, support)
    whole = whole.detach()
    if support.blocks is not None and len(support.blocks) == 1:
        return whole[support.blocks[0][0]].clone(memory_format=torch.contiguous_format)
    if support.stripes is None and support.blocks is None:
        return _picked(whole, support)
    found = whole.new_empty(support.value_shape)
    for there, here in support.views(whole, found) or ():
        here.copy_(there)
    return found


def _picked(whole: Tensor, support: Support) -> Tensor:
    gaps = _partial(support)
    if [dim for dim, _ in gaps] == [0, 1] and whole.is_contiguous() and whole[0, 0].numel() >= KERNEL:
        return _kernels(whole, gaps[0][1], gaps[1][1])
    for dim, index in gaps:
        whole = whole.index_select(dim, index)
    return whole


def cut(whole: Tensor, support: Support) -> Tensor:
    """The values of ``whole`` on a grid, and the way back for their gradients: a view where the grid is one box.

    Examples:
        >>> whole = torch.ones(2, 3, requires_grad=True)
        >>> cut(whole, Support.grid((2, 3), [torch.tensor([1]), torch.tensor([0, 1])])).sum().backward()
        >>> whole.grad
        tensor([[0., 0., 0.],
                [1., 1., 0.]])
    """
    _check(whole, support)
    if support.blocks is not None and len(support.blocks) == 1:
        return whole[support.blocks[0][0]]
    for dim, index in _partial(support):
        whole = whole.index_select(dim, index.to(whole.device))
    return whole


def within(inner: Support, outer: Support) -> Support:
    """Where a smaller tensor sits in a larger one, from where both sit in the whole.

    Raises:
        SupportError: One is a mask, or of another tensor, or ``inner`` has what ``outer`` has not.

    Examples:
        >>> outer = Support.grid((9,), [torch.tensor([2, 4, 6])])
        >>> within(Support.grid((9,), [torch.tensor([2, 6])]), outer).positions
        tensor([0, 2])
    """
    if inner.mask is not None or outer.mask is not None or inner.shape != outer.shape:
        raise SupportError(
            f"grids must be of one tensor, got a {inner.kind} of {inner.shape} and a {outer.kind} of {outer.shape}"
        )
    if inner == outer:
        return Support.dense(outer.value_shape)
    lists = []
    for few, many in zip(_lists(inner), _lists(outer), strict=True):
        if not torch.isin(few, many).all():
            raise SupportError("a grid within another one must have no index that the other has not")
        lists.append(torch.searchsorted(many, few))
    return Support.grid(outer.value_shape, lists)


KERNEL = 4
"""Values from which a convolution's kernel is copied as one piece rather than by rows, then columns."""


def _kernels(whole: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows and columns in one pass, which reads and writes nothing that is not kept."""
    places = (rows[:, None] * whole.shape[1] + columns).reshape(-1)
    return whole.flatten(0, 1).index_select(0, places).reshape(len(rows), len(columns), *whole.shape[2:])


def add_into(whole: Tensor, small: Tensor, support: Support) -> None:
    """Add a smaller tensor to ``whole``, in place, where it sits.

    Runs of indices are views, also those out of every so many. Other columns are spread by looking up, which is several
    times quicker than adding at single places, so that what is added are whole rows.

    Examples:
        >>> whole = torch.zeros(2, 3)
        >>> add_into(whole, torch.ones(1, 2), Support.grid((2, 3), [torch.tensor([1]), torch.tensor([0, 2])]))
        >>> whole
        tensor([[0., 0., 0.],
                [1., 0., 1.]])
    """
    _check(whole, support)
    if tuple(small.shape) != support.value_shape:
        raise SupportError(f"a tensor on this support must have shape {support.value_shape}, got {tuple(small.shape)}")
    pairs = support.views(whole, small.contiguous())
    if pairs is not None:
        for there, here in pairs:
            there.add_(here)
        return
    rows = None
    for dim, index in _partial(support):
        if dim == 0:
            rows = index
        else:
            small = _spread(small, dim, index, support.shape[dim])
    if rows is None:
        whole.add_(small)
    else:
        whole.index_add_(0, rows, small)


def gather(tensors: Mapping[str, Tensor], supports: Mapping[str, Support]) -> dict[str, Tensor]:
    """The smaller tensors on ``supports``, by name; what has no support is left out.

    Raises:
        SupportError: A tensor is missing, has another shape, or its support is a mask.
    """
    missing = sorted(set(supports) - set(tensors))
    if missing:
        raise SupportError(f"every support needs its tensor, got none for {', '.join(missing[:5])}")
    return {name: take(tensors[name], support) for name, support in supports.items()}


def scatter(update: Mapping[str, Tensor], supports: Mapping[str, Support]) -> dict[str, Tensor]:
    """The whole tensors that hold ``update`` on ``supports`` and exact zeros elsewhere.

    Raises:
        SupportError: A tensor has no support, does not fit it, or its support is a mask.

    Examples:
        >>> support = Support.grid((3,), [torch.tensor([0, 2])])
        >>> scatter({"bias": torch.tensor([5.0, 6.0])}, {"bias": support})
        {'bias': tensor([5., 0., 6.])}
    """
    missing = sorted(set(update) - set(supports))
    if missing:
        raise SupportError(f"every tensor needs its support, got none for {', '.join(missing[:5])}")
    found = {}
    for name, small in update.items():
        found[name] = torch.zeros(supports[name].shape, dtype=small.dtype)
        add_into(found[name], small.detach(), supports[name])
    return found


def _lists(support: Support) -> tuple[Tensor, ...]:
    return support.index or tuple(torch.arange(size) for size in support.shape)


def _partial(support: Support) -> list[tuple[int, Tensor]]:
    """The dimensions of which some indices are left out, and those that are there."""
    sizes = zip(support.shape, support.index or (), strict=True)
    return [(dim, index) for dim, (size, index) in enumerate(sizes) if index.numel() != size]


def _spread(small: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
    """``small`` with zeros between its indices of one dimension."""
    place = torch.full((size,), index.numel())
    place[index] = torch.arange(index.numel())
    shape = list(small.shape)
    shape[dim] = 1
    return torch.cat([small, small.new_zeros(shape)], dim).index_select(dim, place)


def _check(whole: Tensor, support: Support) -> None:
    if support.mask is not None:
        raise SupportError("a smaller tensor needs a dense support or a grid, got a mask")
    if tuple(whole.shape) != support.shape:
        raise SupportError(f"a tensor on this support must have shape {support.shape}, got {tuple(whole.shape)}")
