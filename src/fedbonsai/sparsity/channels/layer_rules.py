"""What layers with weights do to channels: they read them along one dimension and make them along another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fedbonsai.sparsity.channels.atoms import Dims, Labels, plain
from fedbonsai.sparsity.channels.cut_rules import follow
from fedbonsai.sparsity.channels.names import flat, same, words
from fedbonsai.sparsity.channels.tracer import Call, Read, Rule, Tracer


def linear(t: Tracer, call: Call) -> list[Dims]:
    """Columns read, rows make."""
    first, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    dims, (rows, columns) = t.dims(first), t.dims(weight)
    read(t, Reader(weight, 1, bias), first, -1)
    t.unite(dims[-1], columns, call.name)
    return [[*dims[:-1], make(t, weight, 0, rows, bias)]]


def make(t: Tracer, weight: Tensor, dim: int, labels: Labels, bias: Tensor | None) -> Labels:
    """The channels that a weight makes are those of its bias too."""
    t.mark(weight, dim, "out")
    if bias is not None:
        t.mark(bias, 0, "bias")
        t.unite(labels, t.dims(bias)[0], "a bias")
    return labels


@dataclass(frozen=True)
class Reader:
    """A dimension of a weight that reads channels, and the bias that can take a constant over, if one can."""

    weight: Tensor
    dim: int
    bias: Tensor | None = None


def read(t: Tracer, reader: Reader, first: Tensor, along: int) -> None:
    """Record that a weight reads channels, and, for `shrink`, between which values they were."""
    t.mark(reader.weight, reader.dim, "in")
    if t.probing and id(reader.weight) in t.names:
        rows = first.detach().movedim(along, 0).flatten(1)
        bias = None if reader.bias is None else t.names.get(id(reader.bias))
        t.record.reads.append(Read(t.names[id(reader.weight)], reader.dim, bias, rows.amin(1), rows.amax(1)))


def convolution(t: Tracer, call: Call) -> list[Dims]:
    """Channels stand before the positions; groups of channels go together."""
    first, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    across = call.name.startswith("conv_transpose")
    groups = int(call.arg(6, "groups", 1))
    along = 1 - weight.dim()
    dims, kernel = t.dims(first), t.dims(weight)
    for labels in kernel[2:]:
        t.fix(labels, "positions of a kernel")
    for labels in dims[len(dims) + along + 1 :]:
        t.fix(labels, f"{call.name} over channels")
    if groups > 1:
        made = _grouped(t, call, dims[along], groups)
    else:
        padding = call.arg(4, "padding", 0)
        still = padding == "valid" or (not isinstance(padding, str) and not any(_listed(padding)))
        folds = bias if still and not across else None
        read(t, Reader(weight, 0 if across else 1, folds), first, along)
        t.unite(dims[along], kernel[0 if across else 1], call.name)
        made = make(t, weight, 1 if across else 0, kernel[1 if across else 0], bias)
    return [[*dims[:along], made, *(plain(size) for size in call.result.shape[along + 1 :])]]


def _listed(value: Any) -> Sequence[int]:  # noqa: ANN401
    return value if isinstance(value, tuple | list) else (value,)


def _grouped(t: Tracer, call: Call, reads: Labels, groups: int) -> Labels:
    """A convolution in groups: what a group reads and makes stays or goes as a whole."""
    weight, bias = call.arg(1, "weight"), call.arg(2, "bias")
    kernel = t.dims(weight)
    t.fix(kernel[1], "channels within a group of a convolution")
    rows = np.concatenate([reads.reshape(groups, -1), kernel[0].reshape(groups, -1)], axis=1)
    t.atoms.tie(rows)
    t.mark(weight, 0, "own")
    labels = np.ascontiguousarray(rows[:, 0])
    if getattr(t.module, "groups", None) == groups:
        t.attribute("groups", labels)
    else:
        follow(t, groups, labels, "groups of a convolution")
    made = np.repeat(labels, call.result.shape[1 - weight.dim()] // groups)
    if bias is not None:
        t.mark(bias, 0, "bias")
        t.unite(made, t.dims(bias)[0], "a bias")
    return made


def embedding(t: Tracer, call: Call) -> list[Dims]:
    """Rows are looked up by number and stay, columns make channels."""
    tokens, weight = call.arg(0, "input"), call.arg(1, "weight")
    rows, columns = t.dims(weight)
    t.fix(rows, "rows are looked up by number")
    t.mark(weight, 1, "out")
    return [[*t.dims(tokens), columns]]


def channel_norm(t: Tracer, call: Call) -> list[Dims]:
    """Batch and instance norm: each channel on its own."""
    dims = t.dims(call.arg(0, "input"))
    for one in [*call.args[1:5], *call.kwargs.values()]:
        if isinstance(one, Tensor):
            t.mark(one, 0, "norm")
            t.unite(dims[1], t.dims(one)[0], call.name)
    if hasattr(t.module, "num_features"):
        t.attribute("num_features", dims[1])
    return [dims]


def layer_norm(t: Tracer, call: Call) -> list[Dims]:
    """Layer and RMS norm: over the channels that live."""
    dims, shape = t.dims(call.arg(0, "input")), list(call.arg(1, "normalized_shape"))
    own = dims[len(dims) - len(shape) :]
    for one in (call.arg(2, "weight"), call.arg(3, "bias") if call.name == "layer_norm" else None):
        if one is not None:
            for place, labels in enumerate(t.dims(one)):
                t.mark(one, place, "norm")
                t.unite(own[place], labels, call.name)
    for place, labels in enumerate(own):
        if same(labels):
            continue
        t.record.spanned.append(labels)
        if hasattr(t.module, "normalized_shape"):
            t.attribute("normalized_shape", labels, place)
        else:
            follow(t, shape[place], labels, call.name)
    return [dims]


def group_norm(t: Tracer, call: Call) -> list[Dims]:
    """Group norm: whole groups go, or equally many channels of each."""
    dims, groups = t.dims(call.arg(0, "input")), int(call.arg(1, "num_groups"))
    for one in (call.arg(2, "weight"), call.arg(3, "bias")):
        if one is not None:
            t.mark(one, 0, "norm")
            t.unite(dims[1], t.dims(one)[0], call.name)
    if same(dims[1]):
        return [dims]
    rows = dims[1].reshape(groups, -1)
    if hasattr(t.module, "num_channels"):
        t.attribute("num_channels", dims[1])
    if t.evenly:
        t.atoms.tie(np.ascontiguousarray(rows.T))
        t.record.spanned.append(dims[1])
        return [dims]
    t.atoms.tie(rows)
    labels = np.ascontiguousarray(rows[:, 0])
    if hasattr(t.module, "num_groups"):
        t.attribute("num_groups", labels)
    else:
        follow(t, call.arg(1, "num_groups"), labels, call.name)
    return [dims]


def prelu(t: Tracer, call: Call) -> list[Dims]:
    """A slope for each channel."""
    dims, weight = t.dims(call.args[0]), call.arg(1, "weight")
    if weight.numel() > 1:
        t.mark(weight, 0, "norm")
        t.unite(dims[1], t.dims(weight)[0], call.name)
        if hasattr(t.module, "num_parameters"):
            t.attribute("num_parameters", dims[1])
    return [dims]


def matmul(t: Tracer, call: Call) -> list[Dims]:
    """A product of matrices, batched or not; with ``addmm`` and the like something is added."""
    added, (one, other) = ([call.args[0]], call.args[1:3]) if call.name in ("addmm", "baddbmm") else ([], call.args[:2])
    left, right = t.dims(one), t.dims(other)
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else []
    contract(t, [one, other], [left[-1], right[-2] if len(right) > 1 else right[-1]], call.name)
    dims = [plain(size) for size in call.result.shape]
    tail = [*rows, *columns]
    lead = len(dims) - len(tail)
    batches: list[Dims] = [left[:-2], right[:-2]]
    for back in range(1, lead + 1):
        met = [own[-back] for own in batches if len(own) >= back and len(own[-back]) == len(dims[lead - back])]
        for labels in met:
            t.unite(met[0], labels, call.name)
        dims[lead - back] = next((labels for labels in met if not same(labels)), dims[lead - back])
    dims[lead:] = tail
    for extra in added:
        mine = t.dims(extra)
        for back in range(1, len(mine) + 1):
            if len(mine[-back]) == len(dims[-back]):
                t.unite(mine[-back], dims[-back], call.name)
    return [dims]


def contract(t: Tracer, tensors: Sequence[Tensor], labels: Sequence[Labels], name: str) -> None:
    """A sum of products: over weights as a layer does it; over activations the scale may depend on the number."""
    for own in labels[1:]:
        t.unite(labels[0], own, name)
    if not any(t.is_weight(one) for one in tensors):
        for own in labels:
            t.fix(own, f"{name} of two activations over channels, whose scale may depend on their number")
        return
    for one, own in zip(tensors, labels, strict=True):
        for dim, mine in enumerate(t.dims(one)):
            if mine is own:
                t.mark(one, dim, "in")


def einsum(t: Tracer, call: Call) -> list[Dims]:
    """The same letter is the same dimension."""
    tensors = list(flat(call.args[1:]))
    equation = call.args[0].replace(" ", "") if isinstance(call.args[0], str) else "..."
    inputs, _, output = equation.partition("->")
    if "." in equation or "->" not in equation:
        raise t.refuse(f"einsum {equation!r} is not known to the channel service; name all dimensions and the result's")
    letters: dict[str, Labels] = {}
    for term, one in zip(inputs.split(","), tensors, strict=True):
        for letter, labels in zip(term, t.dims(one), strict=True):
            known = letters.setdefault(letter, labels)
            t.unite(known, labels, call.name)
            letters[letter] = labels if same(known) else known
    for letter in set(letters) - set(output):
        owners = [(one, term) for term, one in zip(inputs.split(","), tensors, strict=True) if letter in term]
        contract(t, [one for one, _ in owners], [t.dims(one)[term.index(letter)] for one, term in owners], call.name)
    return [[letters[letter] for letter in output]]


def weight_norm(t: Tracer, call: Call) -> list[Dims]:
    """A weight by its direction and length: columns that are gone were zero, and added nothing to the length."""
    dims = t.dims(call.args[0])
    for own, length in zip(dims, t.dims(call.args[1]), strict=True):
        if len(own) == len(length):
            t.unite(own, length, call.name)
    return [dims]


def one_hot(_: Tracer, call: Call) -> list[Dims]:
    """Numbers become positions."""
    return [[plain(size) for size in one.shape] for one in flat(call.result)]


RULES: dict[str, Rule] = {
    **{f"conv{size}d": convolution for size in (1, 2, 3)},
    **{f"conv_transpose{size}d": convolution for size in (1, 2, 3)},
    **dict.fromkeys(words("batch_norm instance_norm"), channel_norm),
    **dict.fromkeys(words("layer_norm rms_norm"), layer_norm),
    **dict.fromkeys(words("matmul mm bmm mv addmm baddbmm"), matmul),
    "linear": linear,
    "embedding": embedding,
    "group_norm": group_norm,
    "prelu": prelu,
    "einsum": einsum,
    "one_hot": one_hot,
    "_weight_norm": weight_norm,
}
"""Rules by name of operator."""
