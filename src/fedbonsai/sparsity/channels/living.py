"""Whether a smaller module computes what the whole one does with all else at zero: by numbers, once a structure."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.support import Support
from fedbonsai.sparsity.channels.atoms import Dims, Labels
from fedbonsai.sparsity.channels.filled import Index, cut_by, filled, tensors_of
from fedbonsai.sparsity.channels.names import flat
from fedbonsai.sparsity.channels.place import add_into, take
from fedbonsai.sparsity.channels.run import compute
from fedbonsai.sparsity.channels.tracer import Call, Record, Tracer

Trail = list[tuple[str, Callable[[], Tensor]]]
"""What each layer said that lives, in the order in which they were done; the model itself, of path "", comes last."""

TRIES = ((None, 0.0, 1e-3), (torch.float64, 0.0, 1e-6), (torch.float64, 1e-9, 1e-6))
"""Precision, the share of what is cut away that is left, and how far numbers may lie apart, as a share of the largest.

First as the model is, then more precisely; at last with a little left, as zero has no direction, root or logarithm.
"""
NORMS = {
    "layer_norm": ("weight", "bias", "eps"),
    "rms_norm": ("weight", "eps"),
    "group_norm": ("weight", "bias", "eps"),
}
"""Norms over several channels, and what follows the input and the shape or number of groups."""


def departs(model: nn.Module, small: nn.Module, groups: Groups, index: Index) -> str | None:
    """The first layer of a smaller module that says something else than the whole one; None if none is known to.

    Both compute on the example, in evaluation mode, with weights that are drawn anew, as some are zero at first.

    Raises:
        ConfigError: One of them does not run with such weights.
    """
    found = None
    for kind, rest, apart in TRIES:
        values = _drawn(model, kind)
        weak = {name: _weakened(one, index.get(name, ()), rest) for name, one in values.items()}
        cut = {name: cut_by(one, index.get(name, ())) for name, one in values.items()}
        try:
            expected, got = _trail(filled(model, weak), groups, index), _trail(filled(small, cut), groups, {})
        except ConfigError:
            if kind is None:
                raise
            continue  # not every model can compute more precisely
        if not all(bool(one().isfinite().all()) for path, one in expected if not path):
            continue
        wrong = _first_apart(expected, got, apart)
        if wrong is None or _random(filled(small, cut), groups, got, apart):
            return None
        found = found or wrong
    return found


def _first_apart(expected: Trail, got: Trail, apart: float) -> str | None:
    """The first layer that differs, or was not called, if what the model says in the end differs."""
    ends = [[one() for path, one in trail if not path] for trail in (expected, got)]
    if all(_near(one, two, apart) for one, two in zip(*ends, strict=True)):
        return None
    pairs = zip(expected, got, strict=False)
    return next((path for (path, one), (other, two) in pairs if path != other or not _near(one(), two(), apart)), "")


def _random(small: nn.Module, groups: Groups, got: Trail, apart: float) -> bool:
    """Whether a model draws numbers, and so does not even agree with itself."""
    return _first_apart(got, _trail(small, groups, {}, seed=1), apart) is not None


def _near(one: Tensor, two: Tensor, apart: float) -> bool:
    """Whether tensors have equal numbers; of another shape are those of layers that have not known channels alone."""
    if one.shape != two.shape or not one.numel():
        return True
    one, two = one.double(), two.double()
    return bool((one - two).abs().amax() <= apart * one.abs().amax() + 1e-12)


def _drawn(model: nn.Module, kind: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of a model, its parameters moved at random."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for name, one in tensors_of(model).items():
        found[name] = one.detach().to(kind) if one.is_floating_point() else one.detach()
        if isinstance(one, nn.Parameter) and one.is_floating_point():
            spread = 0.5 / max(one[0].numel(), 4) ** 0.5 if one.dim() else 0.1
            found[name] = found[name] + torch.empty_like(found[name]).uniform_(-spread, spread, generator=draw)
    return found


def _weakened(one: Tensor, index: tuple[Tensor | None, ...], rest: float) -> Tensor:
    """A copy in which little or nothing is left of what ``index`` does not keep."""
    found = one.clone()
    for dim, kept in enumerate(index):
        if kept is not None:
            scale = found.new_full((one.shape[dim],), rest)
            scale[kept] = 1
            found *= scale.view(-1, *[1] * (one.dim() - dim - 1))
    return found


def _trail(model: nn.Module, groups: Groups, index: Index, seed: int = 0) -> Trail:
    """Run a model in which only ``index`` lives, and norms are taken over that."""
    found: Trail = []
    living = _Living(index)
    record = Record(groups.evenly, instead=dict.fromkeys(NORMS, living.normed))
    record.hear = lambda t, output: found.extend((t.path, living.part(t, one)) for one in flat(output))
    compute(model, groups.inputs, record, seed)
    return found


class _Living:
    """Which channels of tensors in flight live, when parameters are cut by ``index``."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._dead: Labels | None = None

    def part(self, t: Tracer, tensor: Tensor) -> Callable[[], Tensor]:
        """What lives of a tensor, as it is now: cut out when it is asked for, as most of it never is."""
        now, dims = tensor.detach().clone(), t.dims(tensor)
        return lambda: take(now, self._support(t, dims, range(len(dims))))

    def normed(self, t: Tracer, call: Call) -> Tensor:
        """A norm over channels, taken over those that live; the others give zero."""
        first, given = call.arg(0, "input"), call.arg(1, "num_groups", call.kwargs.get("normalized_shape"))
        if call.name == "group_norm":
            places = [1] if t.evenly else []
        else:
            places = list(range(first.dim() - len(given), first.dim()))
        where = self._support(t, t.dims(first), places)
        named = {name: call.arg(place, name) for place, name in enumerate(NORMS[call.name], 2)}
        for name, one in named.items():
            if isinstance(one, Tensor):
                named[name] = take(one, self._support(t, t.dims(one), range(one.dim() if places else 0)))
        sizes = [where.value_shape[place] for place in places] if call.name != "group_norm" else given
        cut = call.func(take(first, where), sizes, **{name: one for name, one in named.items() if one is not None})
        found = torch.zeros_like(first)
        add_into(found, cut, where)
        return found

    def _support(self, t: Tracer, dims: Dims, places: Sequence[int]) -> Support:
        lists = [
            self._alive(t, labels) if dim in places else torch.arange(len(labels)) for dim, labels in enumerate(dims)
        ]
        return Support.grid([len(labels) for labels in dims], lists)

    def _alive(self, t: Tracer, labels: Labels) -> Tensor:
        if self._dead is None:
            gone = [np.zeros(0, dtype=np.int64)]
            for name, index in self._index.items():
                for own, kept in zip(t.record.axes[name], index, strict=True):
                    if kept is not None:
                        gone.append(np.delete(own, kept.numpy()))
            self._dead = np.concatenate(gone)
        return torch.from_numpy(~np.isin(labels, self._dead) | (labels < 0)).nonzero().reshape(-1)
