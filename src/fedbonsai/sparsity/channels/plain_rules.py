"""What operators without weights do to channels: arithmetic, reductions, joining and cutting."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from fedbonsai.sparsity.channels.atoms import Dims, Extent, plain
from fedbonsai.sparsity.channels.names import flat, same, words
from fedbonsai.sparsity.channels.tracer import Call, Rule, Tracer

POINTWISE = words(
    "add sub subtract mul multiply div divide true_divide truediv floordiv floor_divide mod remainder "
    "fmod pow float_power neg negative pos abs absolute sign sgn square sqrt rsqrt reciprocal exp exp2 "
    "expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh atan2 erf "
    "erfc sigmoid logit softplus softsign logsigmoid relu relu6 leaky_relu elu selu celu gelu silu mish "
    "hardtanh hardsigmoid hardswish hardshrink softshrink tanhshrink threshold rrelu dropout dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout bernoulli clamp clip "
    "clamp_min clamp_max maximum minimum fmax fmin round floor ceil trunc frac nan_to_num where "
    "masked_fill lerp addcmul addcdiv eq ne lt le gt ge isnan isinf isfinite and or xor invert "
    "logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor "
    "copysign hypot sinc xlogy copy"
)
LIKE = words(
    "contiguous clone detach to type type_as float double half bfloat16 int long bool cpu cuda "
    "requires_grad data real zeros_like ones_like empty_like full_like rand_like randn_like alias zero "
    "fill fill_ uniform normal empty_strided"
)
REDUCED = {
    **dict.fromkeys(
        words(
            "sum mean prod amax amin max min median nanmean nansum std var logsumexp argmax argmin any all cumsum "
            "cumprod softmax log_softmax softmin gumbel_softmax sort argsort normalize std_mean var_mean "
            "count_nonzero aminmax"
        ),
        1,
    ),
    "topk": 2,
    "kthvalue": 2,
    "norm": 2,
    "vector_norm": 2,
    "linalg_norm": 2,
    "linalg_vector_norm": 2,
    "cosine_similarity": 2,
}
"""Operators that mix a dimension, and where they are told which."""
DEFAULTS = {"cosine_similarity": 1}
"""What they mix where they are told nothing; the others mix all dimensions, or may. Functions of Python always tell."""
SPATIAL = {
    **{f"{kind}{size}d": size for kind in ("max_pool", "avg_pool", "lp_pool") for size in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{size}d": size for kind in ("max", "avg") for size in (1, 2, 3)},
    **{f"max_pool{size}d_with_indices": size for size in (1, 2, 3)},
}
"""Operators that work on the last dimensions, and on how many."""


def pointwise(t: Tracer, call: Call) -> list[Dims]:
    """Channels that are computed with each other position by position are the same channels."""
    tensors = list(flat((call.args, call.kwargs)))
    for one in [*call.args, *call.kwargs.values()]:
        if isinstance(one, Extent):
            one.escaped()
    return [align(t, tensors, one.shape, call.name) for one in flat(call.result)]


def align(t: Tracer, tensors: Sequence[Tensor], shape: Sequence[int], name: str) -> Dims:
    """The labels of tensors broadcast to one ``shape``, which are united."""
    dims: Dims = []
    for back, size in enumerate(reversed(shape), 1):
        met = [t.dims(one)[-back] for one in tensors if one.dim() >= back and one.shape[-back] == size]
        first = next((labels for labels in met if not same(labels)), plain(size))
        for labels in met if size > 1 else ():
            t.unite(first, labels, name)
        dims.insert(0, first if len(first) == size else plain(size))
    return dims


def like(t: Tracer, call: Call) -> list[Dims]:
    """The result is the first tensor, elsewhere or of another type."""
    first = next(flat((call.args, call.kwargs)))
    return [t.dims(first) for _ in flat(call.result)]


def reduced(t: Tracer, call: Call) -> list[Dims]:
    """What is mixed over channels depends on how many there are: they stay."""
    first = call.args[0]
    asked = call.arg(REDUCED[call.name], "dim", call.kwargs.get("axis", DEFAULTS.get(call.name)))
    if call.name in ("max", "min") and isinstance(call.kwargs.get("other", asked), Tensor):
        return pointwise(t, call)
    dims = t.dims(first)
    chosen = range(first.dim()) if asked is None or isinstance(asked, str | bool) else numbers(asked, first.dim())
    for dim in chosen:
        for one in flat(call.args):  # two of them for a similarity
            t.fix(t.dims(one)[dim], f"{call.name} over channels")
    found = []
    for one in flat(call.result):
        if one.dim() == first.dim():
            own = [plain(size) if dim in chosen else dims[dim] for dim, size in enumerate(one.shape)]
        else:
            own = [labels for dim, labels in enumerate(dims) if dim not in chosen]
        found.append(own)
    return found


def numbers(asked: int | Sequence[int], count: int) -> list[int]:
    """Dimensions as not negative numbers."""
    return [int(one) % max(count, 1) for one in ([asked] if isinstance(asked, int) else asked)]


def spatial(t: Tracer, call: Call) -> list[Dims]:
    """Pooling and the like: the last dimensions are positions."""
    return positions(t, call, SPATIAL[call.name])


def interpolated(t: Tracer, call: Call) -> list[Dims]:
    """All but the first two dimensions are positions."""
    return positions(t, call, call.arg(0, "input").dim() - 2)


def positions(t: Tracer, call: Call, count: int) -> list[Dims]:
    """The last ``count`` dimensions are positions, the others stay as they are."""
    dims = t.dims(call.arg(0, "input"))
    for labels in dims[len(dims) - count :]:
        t.fix(labels, f"{call.name} over channels")
    kept = dims[: len(dims) - count]
    return [kept + [plain(size) for size in one.shape[len(kept) :]] for one in flat(call.result)]


def padded(t: Tracer, call: Call) -> list[Dims]:
    """Padding of positions changes no channels; padded channels stay."""
    first, result = call.arg(0, "input"), call.result
    amounts = list(call.arg(1, "pad"))
    dims = t.dims(first)
    for place in range(len(amounts) // 2):
        if amounts[2 * place] or amounts[2 * place + 1]:
            t.fix(dims[-1 - place], "channels are padded")
            dims[-1 - place] = plain(result.shape[-1 - place])
    return [dims]


def made(_: Tracer, call: Call) -> list[Dims]:
    """A new tensor has the channels of the tensor that its sizes were read from."""
    sizes = [one for one in _numbers(call) if isinstance(one, int)]
    dims = []
    for one in flat(call.result):
        own = sizes[-one.dim() :] if one.dim() else []
        fits = [int(size) for size in own] == list(one.shape)
        sources = [getattr(size, "source", None) for size in own] if fits else [None] * one.dim()
        dims.append(
            [
                source if source is not None and len(source) == size else plain(size)
                for source, size in zip(sources, one.shape, strict=True)
            ]
        )
    return dims


def _numbers(call: Call) -> list[Any]:
    args = [one for one in call.args if not isinstance(one, Tensor)] or [call.kwargs.get("size", ())]
    if args and isinstance(args[0], tuple | list):
        return list(args[0])
    return args


def unfolded(t: Tracer, call: Call) -> list[Dims]:
    """``nn.functional.unfold`` repeats each channel for its patch; ``Tensor.unfold`` adds a dimension of windows."""
    dims, shape = t.dims(call.args[0]), call.result.shape
    if call.func is functional.unfold:
        return [[dims[0], np.repeat(dims[1], shape[1] // len(dims[1])), plain(shape[2])]]
    along = int(call.arg(1, "dimension")) % len(dims)
    t.fix(dims[along], "windows over channels")
    return [[*dims[:along], plain(shape[along]), *dims[along + 1 :], plain(shape[-1])]]


def lower(t: Tracer, call: Call) -> list[Dims]:
    """``tril`` and ``triu`` mask by position."""
    dims = t.dims(call.args[0])
    for labels in dims[-2:]:
        t.fix(labels, f"{call.name} over channels")
    return [dims]


def shuffled(t: Tracer, call: Call) -> list[Dims]:
    """``roll`` and ``flip``: along positions nothing happens to channels."""
    dims = t.dims(call.args[0])
    asked = call.arg(2 if call.name == "roll" else 1, "dims")
    for dim in range(len(dims)) if asked is None else numbers(asked, len(dims)):
        t.fix(dims[dim], f"{call.name} over channels")
    return [dims]


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys(LIKE, like),
    **dict.fromkeys(REDUCED, reduced),
    **dict.fromkeys(SPATIAL, spatial),
    **dict.fromkeys(words("interpolate upsample grid_sample"), interpolated),
    **dict.fromkeys(words("zeros ones empty full rand randn new_zeros new_ones new_empty new_full"), made),
    **dict.fromkeys(words("tril triu"), lower),
    **dict.fromkeys(words("roll flip"), shuffled),
    "pad": padded,
    "unfold": unfolded,
}
"""Rules by name of operator."""
