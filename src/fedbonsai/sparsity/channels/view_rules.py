"""What happens to channels when a tensor gets another shape: flattened, split into heads, turned around."""

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from fedbonsai.sparsity.channels.atoms import Dims, Extent, Labels, plain
from fedbonsai.sparsity.channels.cut_rules import follow
from fedbonsai.sparsity.channels.names import same, words
from fedbonsai.sparsity.channels.plain_rules import numbers
from fedbonsai.sparsity.channels.tracer import Call, Rule, Tracer

HEADS = ("heads", "num_heads", "n_head", "n_heads", "nhead", "num_attention_heads")
"""Attributes that say into how many heads a module splits its channels; they follow when heads are removed."""


def reshape(t: Tracer, call: Call) -> list[Dims]:
    """``view`` and ``reshape``: the sizes that the code gives decide what may shrink."""
    asked = call.args[1:] or (call.kwargs.get("shape", call.kwargs.get("size")),)
    if len(asked) == 1 and isinstance(asked[0], tuple | list):
        asked = tuple(asked[0])
    if len(asked) == 1 and isinstance(asked[0], torch.dtype):
        raise t.refuse("a view as another type is not known to the channel service")
    return [regroup(t, call, list(asked))]


def reshape_as(t: Tracer, call: Call) -> list[Dims]:
    """The shape of another tensor, whose sizes follow."""
    other = call.args[1]
    asked = [size if same(own) else Extent(size, own) for size, own in zip(other.shape, t.dims(other), strict=True)]
    return [regroup(t, call, asked)]


def flatten(t: Tracer, call: Call) -> list[Dims]:
    """The code names no sizes, so all of them follow."""
    return [regroup(t, call, [-1] * call.result.dim())]


def unflatten(t: Tracer, call: Call) -> list[Dims]:
    """One dimension becomes several."""
    along = int(call.arg(1, "dim")) % call.args[0].dim()
    before, after = call.args[0].shape[:along], call.args[0].shape[along + 1 :]
    return [regroup(t, call, [*([-1] * len(before)), *call.arg(2, "sizes"), *([-1] * len(after))])]


def regroup(t: Tracer, call: Call, asked: Sequence[object]) -> Dims:
    """Carry labels from the old shape to the new one, block by block of equal product."""
    old, new, dims = call.args[0].shape, call.result.shape, t.dims(call.args[0])
    if not old.numel():
        raise t.refuse(f"{call.name} of an empty tensor; give an example with at least one of everything")
    found: Dims = [plain(size) for size in new]
    for olds, news in blocks(old, new):
        flat = _merged(t, [dims[dim] for dim in olds])
        if not same(flat):
            for place, labels in _spread(t, call, flat, [(dim, asked[dim]) for dim in news]):
                found[place] = labels
    return found


def blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair runs of dimensions of two shapes that hold the same indices.

    Examples:
        >>> list(blocks((2, 3, 4, 5), (2, 12, 5)))
        [([0], [0]), ([1, 2], [1]), ([3], [2])]
    """
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = list(range(i, min(i + 1, len(old)))), list(range(j, min(j + 1, len(new))))
        while (left := prod(old[one] for one in olds)) != (right := prod(new[one] for one in news)):
            if left < right:
                olds.append(i + len(olds))
            else:
                news.append(j + len(news))
        yield olds, news
        i, j = i + len(olds), j + len(news)


def _merged(t: Tracer, parts: Sequence[Labels]) -> Labels:
    """The labels of several dimensions seen as one; two channel dimensions cannot be."""
    shape = [len(one) for one in parts]
    channels = [dim for dim, one in enumerate(parts) if not same(one)]
    if len(channels) != 1:
        for dim in channels:
            t.fix(parts[dim], "two dimensions of channels become one")
        return plain(prod(shape))
    view = [1] * len(shape)
    view[channels[0]] = -1
    return np.ascontiguousarray(np.broadcast_to(parts[channels[0]].reshape(view), shape).reshape(-1))


def _spread(t: Tracer, call: Call, flat: Labels, targets: Sequence[tuple[int, object]]) -> Iterator[tuple[int, Labels]]:
    """Give the labels of one dimension to those that it becomes: one of them carries the channels."""
    shape = [call.result.shape[dim] for dim, _ in targets]
    for _, size in targets:
        source = getattr(size, "source", None)
        if source is not None and len(source) == len(flat):
            t.match(source, flat, call.name)
    roots = t.atoms.roots(flat).reshape(shape)
    varying = [dim for dim in range(len(shape)) if (roots != roots.take([0], axis=dim)).any()]
    # A single unit, or one per index of a single dimension: nothing has to be tied.
    wide = [dim for dim, size in enumerate(shape) if size > 1]
    free = varying[0] if len(varying) == 1 else wide[0] if len(wide) == 1 else _free(t, shape, targets)
    if free is None:
        sizes = " x ".join(map(str, shape))
        t.fix(flat, f"channels split into {sizes} by numbers that stand in the code; name the first one num_heads")
        return
    across = np.moveaxis(flat.reshape(shape), free, 0).reshape(shape[free], -1)
    t.atoms.tie(across)
    labels = np.ascontiguousarray(across[:, 0])
    if _unflattening(t):
        before = targets[0][0]
        t.attribute("unflattened_size", labels, targets[free][0] - before)
    elif not _heads(t, shape[free], labels):
        follow(t, targets[free][1], labels, call.name)
    yield targets[free][0], labels


def _free(t: Tracer, shape: Sequence[int], targets: Sequence[tuple[int, object]]) -> int | None:
    """Which of several dimensions shrinks when channels are split: heads, else a size that follows."""
    if _unflattening(t):
        return 0
    owner = _owner(t)
    if owner is not None:
        found = [dim for dim, size in enumerate(shape) if size == owner[2]]
        if found:
            # (3, heads, size): three heads do not make the first dimension theirs
            return found[1] if len(shape) > 2 and found[0] == 0 and len(found) > 1 else found[0]
    following = [dim for dim, (_, size) in enumerate(targets) if isinstance(size, Extent) or size == -1]
    if following:
        return following[-1]
    named = [dim for dim, (_, size) in enumerate(targets) if isinstance(size, int) and _attributes(t, size) == 1]
    return named[0] if len(named) == 1 else None


def _owner(t: Tracer) -> tuple[str, str, int] | None:
    """The innermost module that says how many heads it has: its path, the attribute, the number."""
    for path, module in reversed(t.stack):
        for name in HEADS:
            value = vars(module).get(name)
            if type(value) is int:
                return path, name, value
    return None


def _heads(t: Tracer, size: int, labels: Labels) -> bool:
    owner = _owner(t)
    if owner is None or owner[2] != size:
        return False
    t.attribute(owner[1], labels, path=owner[0])
    return True


def _unflattening(t: Tracer) -> bool:
    return isinstance(t.module, torch.nn.Unflatten)


def _attributes(t: Tracer, size: int) -> int:
    return sum(type(one) is int and one == size for one in vars(t.module).values())


def permuted(t: Tracer, call: Call) -> list[Dims]:
    """Dimensions in another order."""
    dims = t.dims(call.args[0])
    asked = call.args[1:] if len(call.args) > 1 else (call.kwargs["dims"],)
    order = numbers(asked[0] if isinstance(asked[0], tuple | list) else list(asked), len(dims))
    return [[dims[dim] for dim in order]]


def transposed(t: Tracer, call: Call) -> list[Dims]:
    """Two dimensions change places."""
    dims = t.dims(call.args[0])
    names = ("axis0", "axis1") if call.name == "swapaxes" else ("dim0", "dim1")
    one, other = numbers([call.arg(1, names[0]), call.arg(2, names[1])], len(dims))
    dims[one], dims[other] = dims[other], dims[one]
    return [dims]


def turned(t: Tracer, call: Call) -> list[Dims]:
    """``t``, ``T`` and ``mT``."""
    dims = t.dims(call.args[0])
    return [dims[::-1] if call.name in ("T", "t") else [*dims[:-2], dims[-1], dims[-2]]]


def moved(t: Tracer, call: Call) -> list[Dims]:
    """``movedim``."""
    count = call.args[0].dim()
    start, end = numbers(call.arg(1, "source"), count), numbers(call.arg(2, "destination"), count)
    rest = [dim for dim in range(count) if dim not in start]
    for place, dim in sorted(zip(end, start, strict=True)):
        rest.insert(place, dim)
    dims = t.dims(call.args[0])
    return [[dims[dim] for dim in rest]]


def squeezed(t: Tracer, call: Call) -> list[Dims]:
    """Dimensions of one index have no channels, so that they may go."""
    first: Tensor = call.args[0]
    asked = call.arg(1, "dim")
    chosen = range(first.dim()) if asked is None else numbers(asked, first.dim())
    return [[one for dim, one in enumerate(t.dims(first)) if dim not in chosen or first.shape[dim] != 1]]


def unsqueezed(t: Tracer, call: Call) -> list[Dims]:
    """A new dimension of one index."""
    dims = t.dims(call.args[0])
    dims.insert(int(call.arg(1, "dim")) % (len(dims) + 1), plain(1))
    return [dims]


def expanded(t: Tracer, call: Call) -> list[Dims]:
    """Dimensions of one index are repeated, others stay."""
    dims, shape = t.dims(call.args[0]), call.result.shape
    dims = [plain(1)] * (len(shape) - len(dims)) + dims
    asked = call.args[1:]
    sizes = list(asked[0] if asked and isinstance(asked[0], tuple | list) else asked)
    if call.name != "expand_as" and len(sizes) == len(dims):
        for size, labels in zip(sizes, dims, strict=True):
            follow(t, size, labels, call.name)
    return [[own if len(own) == size else plain(size) for own, size in zip(dims, shape, strict=True)]]


def repeated(t: Tracer, call: Call) -> list[Dims]:
    """``repeat`` and ``tile``: the channels once more, and once more."""
    dims, shape = t.dims(call.args[0]), call.result.shape
    dims = [plain(1)] * (len(shape) - len(dims)) + dims
    return [[np.tile(own, size // max(len(own), 1)) for own, size in zip(dims, shape, strict=True)]]


def interleaved(t: Tracer, call: Call) -> list[Dims]:
    """``repeat_interleave``: each channel several times."""
    times, along = call.arg(1, "repeats"), call.arg(2, "dim")
    dims = t.dims(call.args[0])
    if along is None or not isinstance(times, int):
        for labels in dims:
            t.fix(labels, f"{call.name} by other than one number along one dimension")
        return [[plain(size) for size in call.result.shape]]
    dims[int(along) % len(dims)] = np.repeat(dims[int(along) % len(dims)], times)
    return [dims]


def pixel_shuffled(t: Tracer, call: Call) -> list[Dims]:
    """Blocks of ``r ** 2`` channels become pixels of one."""
    dims = t.dims(call.args[0])
    channels, (height, width) = dims[-3], call.result.shape[-2:]
    blocks_of = channels.reshape(call.result.shape[-3], -1)
    t.atoms.tie(blocks_of)
    return [[*dims[:-3], np.ascontiguousarray(blocks_of[:, 0]), plain(height), plain(width)]]


def pixel_unshuffled(t: Tracer, call: Call) -> list[Dims]:
    """Pixels become channels, ``r ** 2`` for one."""
    dims = t.dims(call.args[0])
    shape = call.result.shape
    return [[*dims[:-3], np.repeat(dims[-3], shape[-3] // len(dims[-3])), plain(shape[-2]), plain(shape[-1])]]


def channels_shuffled(t: Tracer, call: Call) -> list[Dims]:
    """Channels are dealt out to groups: each group keeps the same positions."""
    dims = t.dims(call.args[0])
    groups = dims[1].reshape(int(call.arg(1, "groups")), -1)
    t.atoms.tie(np.ascontiguousarray(groups.T))
    dims[1] = np.ascontiguousarray(groups.T.reshape(-1))
    return [dims]


RULES: dict[str, Rule] = {
    **dict.fromkeys(words("view reshape"), reshape),
    **dict.fromkeys(words("view_as reshape_as"), reshape_as),
    **dict.fromkeys(words("flatten ravel"), flatten),
    **dict.fromkeys(words("transpose swapaxes swapdims"), transposed),
    **dict.fromkeys(words("t T mT"), turned),
    **dict.fromkeys(words("movedim moveaxis"), moved),
    **dict.fromkeys(words("expand expand_as broadcast_to"), expanded),
    **dict.fromkeys(words("repeat tile"), repeated),
    "unflatten": unflatten,
    "permute": permuted,
    "squeeze": squeezed,
    "unsqueeze": unsqueezed,
    "repeat_interleave": interleaved,
    "pixel_shuffle": pixel_shuffled,
    "pixel_unshuffle": pixel_unshuffled,
    "channel_shuffle": channels_shuffled,
    "native_channel_shuffle": channels_shuffled,
}
"""Rules by name of operator."""
