"""What joining and cutting do to channels: parts, slices, single indices."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fedbonsai.sparsity.channels.atoms import Dims, Extent, Labels, plain
from fedbonsai.sparsity.channels.names import flat, same, words
from fedbonsai.sparsity.channels.plain_rules import align
from fedbonsai.sparsity.channels.tracer import Call, Rule, Tracer


def joined(t: Tracer, call: Call) -> list[Dims]:
    """Concatenation keeps the channels of every part; along the other dimensions the parts have the same."""
    parts = [one for one in call.arg(0, "tensors") if one.dim() > 1 or one.numel()]
    along = int(call.arg(1, "dim", call.kwargs.get("axis", 0))) % parts[0].dim()
    dims = align_others(t, parts, along, call.name)
    dims[along] = np.concatenate([t.dims(one)[along] for one in parts])
    return [dims]


def stacked(t: Tracer, call: Call) -> list[Dims]:
    """Stacking adds a dimension without channels."""
    parts = list(call.arg(0, "tensors"))
    along = int(call.arg(1, "dim", 0)) % (parts[0].dim() + 1)
    dims = align(t, parts, parts[0].shape, call.name)
    return [[*dims[:along], plain(len(parts)), *dims[along:]]]


def align_others(t: Tracer, parts: Sequence[Tensor], along: int, name: str) -> Dims:
    """Unite the labels of several tensors in all dimensions but one."""
    dims = t.dims(parts[0])
    for one in parts[1:]:
        for dim, labels in enumerate(t.dims(one)):
            if dim != along:
                t.unite(dims[dim], labels, name)
                dims[dim] = labels if same(dims[dim]) else dims[dim]
    return dims


def chunked(t: Tracer, call: Call) -> list[Dims]:
    """Equal parts keep equally many channels: their positions are united."""
    along = int(call.arg(2, "dim", 0)) % call.args[0].dim()
    pieces = list(flat(call.result))
    labels = t.dims(call.args[0])[along]
    if len({one.shape[along] for one in pieces}) > 1:
        t.fix(labels, f"{call.name} into unequal parts")
    else:
        even(t, labels, len(pieces))
    return cut(t, call, along, pieces)


def split(t: Tracer, call: Call) -> list[Dims]:
    """Parts whose sizes the code writes out need an attribute that can follow."""
    along = int(call.arg(2, "dim", 0)) % call.args[0].dim()
    sizes, labels = call.arg(1, "split_size_or_sections", call.kwargs.get("split_size")), t.dims(call.args[0])[along]
    pieces = list(flat(call.result))
    if not same(labels):
        if isinstance(sizes, int):
            if len(labels) % sizes == 0:
                even(t, labels, len(labels) // sizes)
            follow(t, sizes, labels[:sizes], call.name)
        else:
            ends = np.cumsum([int(one) for one in sizes])
            if len(set(sizes)) == 1 and all(isinstance(one, Extent) for one in sizes):
                even(t, labels, len(sizes))
            for size, end in zip(sizes, ends.tolist(), strict=True):
                follow(t, size, labels[end - int(size) : end], call.name)
    return cut(t, call, along, pieces)


def cut(t: Tracer, call: Call, along: int, pieces: Sequence[Tensor]) -> list[Dims]:
    """The labels of consecutive parts."""
    dims, start, found = t.dims(call.args[0]), 0, []
    for one in pieces:
        end = start + one.shape[along]
        found.append([*dims[:along], dims[along][start:end], *dims[along + 1 :]])
        start = end
    return found


def even(t: Tracer, labels: Labels, parts: int) -> None:
    """Let equal parts of a dimension keep the same positions."""
    if not same(labels):
        t.atoms.tie(np.ascontiguousarray(labels.reshape(parts, -1).T))


def follow(t: Tracer, size: object, labels: Labels, name: str) -> None:
    """Let a size that the code asked for follow ``labels``; they stay if it cannot."""
    if same(labels) or size is None:
        return
    if isinstance(size, Extent):
        if size.source is not None and len(size.source) == len(labels):
            t.match(size.source, labels, name)
    elif not isinstance(size, int) or (size != -1 and not t.written(size, labels)):
        t.fix(labels, f"{name} by the number {size}, which stands in the code")


def unbound(t: Tracer, call: Call) -> list[Dims]:
    """Single indices of a dimension."""
    first = call.args[0]
    along = int(call.arg(1, "dim", 0)) % first.dim()
    dims = t.dims(first)
    t.fix(dims.pop(along), f"{call.name} of single channels")
    return [dims for _ in flat(call.result)]


def indexed(t: Tracer, call: Call) -> list[Dims]:
    """Index lists: channels that are looked up by number stay."""
    dims, along = t.dims(call.args[0]), int(call.arg(1, "dim")) % call.args[0].dim()
    t.fix(dims[along], f"{call.name} of channels by number")
    dims[along] = plain(call.result.shape[along])
    return [dims]


def gathered(t: Tracer, call: Call) -> list[Dims]:
    """Values picked along one dimension; the index may have labels of its own."""
    for labels in t.dims(call.args[0]):
        t.fix(labels, f"{call.name} picks by number")
    return [[plain(size) for size in call.result.shape]]


def narrowed(t: Tracer, call: Call) -> list[Dims]:
    """A run of indices."""
    dims, along = t.dims(call.args[0]), int(call.arg(1, "dim")) % call.args[0].dim()
    start, length = call.arg(2, "start"), call.arg(3, "length")
    dims[along] = sliced(t, dims[along], slice(start or None, start + length))
    return [dims]


def getitem(t: Tracer, call: Call) -> list[Dims]:
    """Slices, single numbers, new dimensions and index tensors."""
    left = t.dims(call.args[0])
    asked = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    taken = sum(one is not None and one is not Ellipsis for one in asked)
    dims: Dims = []
    places: list[int] = []
    for one in [*asked, *([] if any(one is Ellipsis for one in asked) else [Ellipsis])]:
        if one is Ellipsis:
            skipped = len(left) - taken
            dims, left = dims + left[:skipped], left[skipped:]
        elif one is None:
            dims.append(plain(1))
        else:
            labels, left, taken = left[0], left[1:], taken - 1
            _index(t, one, labels, dims, places)
    if not places:
        return [dims]
    return [_placed(t, call, dims, places)]


def _index(t: Tracer, one: object, labels: Labels, dims: Dims, places: list[int]) -> None:
    if isinstance(one, slice):
        dims.append(sliced(t, labels, one))
        return
    t.fix(labels, "single channels by number")
    if isinstance(one, Tensor | list):
        places.append(len(dims))


def _placed(t: Tracer, call: Call, dims: Dims, places: list[int]) -> Dims:
    """Index tensors give their own dimensions where they stand, when they stand side by side."""
    if len(set(places)) > 1:
        raise t.refuse("index tensors that do not stand side by side are not known to the channel service")
    extra = call.result.dim() - len(dims)
    start = places[0]
    return [*dims[:start], *(plain(size) for size in call.result.shape[start : start + extra]), *dims[start:]]


def sliced(t: Tracer, labels: Labels, asked: slice) -> Labels:
    """The labels of a slice; its bounds must be able to follow the channels before them."""
    found = labels[asked]
    if len(found) == len(labels) and asked.step in (None, 1):
        return found
    start, stop, step = asked.indices(len(labels))
    bounds = [(asked.start, start), (asked.stop, stop)]
    if step != 1 or any(isinstance(bound, int) and bound < 0 for bound, _ in bounds):
        t.fix(labels, "channels sliced by numbers")
        return found
    for bound, place in bounds:
        if bound is None or place in (0, len(labels)):
            continue
        if isinstance(bound, Extent) and len(labels) % place == 0:
            even(t, labels, len(labels) // place)
        elif isinstance(bound, Extent):
            t.fix(labels, "channels sliced unevenly")
        else:
            follow(t, bound, labels[:place], "a slice")
    return found


def glu(t: Tracer, call: Call) -> list[Dims]:
    """A gated linear unit: both halves keep the same positions."""
    dims = t.dims(call.args[0])
    along = int(call.arg(1, "dim", -1)) % len(dims)
    even(t, dims[along], 2)
    dims[along] = dims[along][: len(dims[along]) // 2]
    return [dims]


RULES: dict[str, Rule] = {
    **dict.fromkeys(words("cat concat concatenate"), joined),
    **dict.fromkeys(words("chunk tensor_split"), chunked),
    **dict.fromkeys(words("split split_with_sizes"), split),
    **dict.fromkeys(words("unbind select iter"), unbound),
    "stack": stacked,
    "index_select": indexed,
    **dict.fromkeys(words("gather take_along_dim"), gathered),
    "narrow": narrowed,
    "getitem": getitem,
    "glu": glu,
}
"""Rules by name of operator."""
