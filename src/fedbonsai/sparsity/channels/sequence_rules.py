"""What recurrent layers and attention do to channels: units with all their gates, whole heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedbonsai.sparsity.channels.atoms import Dims, Labels, plain
from fedbonsai.sparsity.channels.layer_rules import Reader, make, read
from fedbonsai.sparsity.channels.names import flat, words
from fedbonsai.sparsity.channels.tracer import Call, Rule, Tracer

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(t: Tracer, call: Call) -> list[Dims]:
    """A stack of recurrent layers: one hidden size for all of them, so that unit ``j`` of each is one."""
    if not isinstance(call.args[3], bool):
        raise t.refuse("packed sequences are not known to the channel service; give it padded ones")
    first, states, weights, biased, layers = call.args[:5]
    both = bool(call.args[7])
    each = (4 if biased else 2) + (1 if len(weights) > layers * (both + 1) * (4 if biased else 2) else 0)
    reads, hidden, made = t.dims(first)[-1], None, None
    for layer in range(layers):
        outputs = []
        for direction in range(both + 1):
            place = (layer * (both + 1) + direction) * each
            units, output = cell(t, call.name, first if layer == 0 else None, reads, weights[place : place + each])
            t.unite(hidden if hidden is not None else units, units, call.name)
            t.unite(made if made is not None else output, output, call.name)
            hidden, made = units if hidden is None else hidden, output if made is None else made
            outputs.append(output)
        reads = np.concatenate(outputs)
    assert hidden is not None and made is not None  # noqa: S101, PT018  a stack has at least one layer
    _sizes_of_cells(t, call, hidden, made)
    for place, one in enumerate(flat(states)):
        _begins(t, one, hidden if place else made, "the first state")
    hidden_weight = weights[(layers - 1) * (both + 1) * each + 1]
    if layers == 1 and not both:
        # What the layer says is what it reads of itself in the next step.
        read(t, Reader(hidden_weight, 1), next(flat(call.result)), -1)
    ends = [reads, *([made, hidden] if call.name == "lstm" else [made])]
    found = []
    for one, labels in zip(flat(call.result), ends, strict=True):
        found.append([*(plain(size) for size in one.shape[:-1]), labels])
    return found


def _begins(t: Tracer, state: Tensor, units: Labels, name: str) -> None:
    """What a cell begins with: as many units as it has, for each layer and each example, which stay."""
    if not t.made_here(state):
        t.unite(units, t.dims(state)[-1], name)
        for labels in t.dims(state)[:-1]:
            t.fix(labels, f"{name} of an example")


def _sizes_of_cells(t: Tracer, call: Call, hidden: Labels, made: Labels) -> None:
    if not isinstance(t.module, nn.RNNBase | nn.RNNCellBase):
        return
    t.attribute("hidden_size", hidden)
    t.attribute("input_size", t.dims(call.args[0])[-1])
    if getattr(t.module, "proj_size", 0):
        t.attribute("proj_size", made)


def cell(t: Tracer, name: str, first: Tensor | None, reads: Labels, weights: Sequence[Tensor]) -> tuple[Labels, Labels]:
    """One layer: the rows of all gates are one unit, and so are its columns of the hidden weights."""
    inputs, hidden = weights[:2]
    projection = weights[-1] if len(weights) in (3, 5) else None
    rows = t.dims(inputs)[0]
    for one in weights[1 : len(weights) - (projection is not None)]:
        t.unite(rows, t.dims(one)[0], name)
        t.mark(one, 0, "out" if one.dim() > 1 else "bias")
    gates = GATES[name.removesuffix("_cell")]
    t.atoms.tie(np.ascontiguousarray(rows.reshape(gates, -1).T))
    units = made = rows[: len(rows) // gates]
    t.mark(inputs, 0, "out")
    t.mark(inputs, 1, "in")
    t.mark(hidden, 1, "in")
    t.unite(reads, t.dims(inputs)[1], name)
    if first is not None:
        read(t, Reader(inputs, 1), first, -1)
    if projection is not None:
        t.mark(projection, 0, "out")
        t.mark(projection, 1, "in")
        made = t.dims(projection)[0]
        t.unite(units, t.dims(projection)[1], name)
    t.unite(made, t.dims(hidden)[1], name)
    return units, made


def recurrent_cell(t: Tracer, call: Call) -> list[Dims]:
    """One step of a recurrent layer."""
    first, states, *weights = call.args
    weights = [one for one in weights if isinstance(one, Tensor)]
    units, _ = cell(t, call.name, first, t.dims(first)[-1], weights)
    for one in flat(states):
        _begins(t, one, units, "the state")
    _sizes_of_cells(t, call, units, units)
    return [[*t.dims(first)[:-1], units] for _ in flat(call.result)]


def attend(t: Tracer, call: Call) -> list[Dims]:
    """Scaled dot products: heads before, keys summed over, a default scale that depends on the size of a head."""
    query, key, value = call.args[:3] if len(call.args) > 2 else [call.kwargs[one] for one in ("query", "key", "value")]
    left, right, values = t.dims(query), t.dims(key), t.dims(value)
    t.unite(left[-1], right[-1], call.name)
    t.fix(left[-1], f"{call.name} over channels, whose scale depends on their number")
    for labels in (right[-2], values[-2]):
        t.fix(labels, f"{call.name} over channels")
    for met in zip(left[:-2], right[:-2], values[:-2], strict=True):
        for labels in met[1:]:
            t.unite(met[0], labels, call.name)
    return [[*left[:-1], values[-1]]]


def multi_head_attention(t: Tracer, call: Call) -> list[Dims]:
    """``nn.MultiheadAttention``: heads are units, and as wide as the model, which torch demands of it."""
    names = words(
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v "
        "add_zero_attn dropout_p out_proj_weight out_proj_bias "
    )
    given = dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
    width, heads = t.dims(given["query"])[-1], int(given["num_heads"])
    _into_heads(t, given, width)
    for one in (given["bias_k"], given["bias_v"]):
        if one is not None:
            t.unite(width, t.dims(one)[-1], call.name)
            t.mark(one, 2, "bias")
    rows = width.reshape(heads, -1)
    t.atoms.tie(rows)
    out = given["out_proj_weight"]
    t.unite(width, t.dims(out)[1], call.name)
    t.mark(out, 1, "in")
    made = make(t, out, 0, t.dims(out)[0], given["out_proj_bias"])
    if isinstance(t.module, nn.MultiheadAttention):
        t.attribute("embed_dim", width)
        t.attribute("num_heads", np.ascontiguousarray(rows[:, 0]))
        t.attribute("kdim", t.dims(given["key"])[-1])
        t.attribute("vdim", t.dims(given["value"])[-1])
    else:
        t.fix(width, "heads by a number that stands in the code")
    for one in list(flat(call.result))[1:]:
        t.taint(one, width, "the attention weights are used, a mean over heads")
    dims = [[plain(size) for size in one.shape] for one in flat(call.result)]
    return [[*t.dims(given["query"])[:-1], made], *dims[1:]]


def _into_heads(t: Tracer, given: dict[str, Any], width: Labels) -> None:
    """The weights of query, key and value: thirds of one matrix, or three."""
    weights: list[tuple[Labels, Labels]] = []
    if given.get("use_separate_proj_weight"):
        for one in (given["q_proj_weight"], given["k_proj_weight"], given["v_proj_weight"]):
            t.mark(one, 0, "out")
            t.mark(one, 1, "in")
            weights.append((t.dims(one)[0], t.dims(one)[1]))
    else:
        whole = given["in_proj_weight"]
        t.mark(whole, 0, "out")
        t.mark(whole, 1, "in")
        weights = [(third, t.dims(whole)[1]) for third in np.split(t.dims(whole)[0], 3)]
    for one, (rows, columns) in zip((given["query"], given["key"], given["value"]), weights, strict=True):
        t.unite(t.dims(one)[-1], columns, "attention")
        t.unite(width, rows, "attention")
    if given["in_proj_bias"] is not None:
        t.mark(given["in_proj_bias"], 0, "bias")
        for third in np.split(t.dims(given["in_proj_bias"])[0], 3):
            t.unite(width, third, "attention")


RULES: dict[str, Rule] = {
    **dict.fromkeys(GATES, recurrent),
    **{f"{name}_cell": recurrent_cell for name in GATES},
    "rnn_tanh_cell": recurrent_cell,
    "scaled_dot_product_attention": attend,
    "multi_head_attention_forward": multi_head_attention,
}
"""Rules by name of operator."""
