"""Neurons as units of pruning: their scores, and masks that take whole neurons."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.layout import Layout


@dataclass(frozen=True)
class Layer:
    """The tensors that a layer's neurons own rows of.

    Attributes:
        count: Number of neurons.
        tensors: ``(name, repeats)``: neuron ``j`` owns rows ``j, j + count, ...``, ``repeats`` of them, on dimension 0.
        size: Prunable weights of one neuron, over all tensors.
    """

    count: int
    tensors: tuple[tuple[str, int], ...]
    size: int


def layers_of(layout: Layout) -> dict[str, Layer]:
    """The layers of a model whose neurons can be pruned, by name; one whose weights belong to another has none."""
    members: dict[str, list[tuple[str, int]]] = {}
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for slot in layout.slots:
        if slot.units is not None:
            key = slot.units.group
            members.setdefault(key, []).append((slot.name, slot.units.repeats))
            counts[key] = slot.units.count
            sizes[key] = sizes.get(key, 0) + (slot.numel // slot.units.count if slot.prunable else 0)
    return {key: Layer(counts[key], tuple(members[key]), size) for key, size in sizes.items() if size}


def unit_scores(scores: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """The mean score of each neuron's scored weights, so that layers of different width compare.

    Args:
        scores: One score per weight, by tensor name; tensors that are not scored (biases) do not count.
        layers: The layers.

    Returns:
        By layer, one score per neuron, shape ``(count,)``.
    """
    result = {}
    for name, layer in layers.items():
        rows = [
            scores[tensor].reshape(repeats, layer.count, -1).transpose(0, 1).flatten(1)
            for tensor, repeats in layer.tensors
            if tensor in scores
        ]
        result[name] = torch.cat(rows, dim=1).mean(dim=1)
    return result


def keep_top_units(
    scores: Mapping[str, Tensor], layers: Mapping[str, Layer], budget: int, floors: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Keep the best neurons of all layers whose weights fit into ``budget``, and in each layer at least its floor.

    Args:
        scores: One score per neuron, by layer; minus infinity is never kept.
        layers: The layers.
        budget: Weights that may be kept in all; the floors are kept even beyond it.
        floors: Neurons that each layer keeps at least.

    Returns:
        By layer, a mask over its neurons.

    Raises:
        SupportError: A score is NaN.
    """
    if any(bool(one.isnan().any()) for one in scores.values()):
        raise SupportError("scores must be numbers, got NaN")
    ranked = sorted(
        ((-float(value), place, index) for place, one in enumerate(scores.values()) for index, value in enumerate(one))
    )
    names = list(scores)
    kept = {name: torch.zeros(layers[name].count, dtype=torch.bool) for name in names}
    for name in names:
        best = torch.sort(scores[name], descending=True, stable=True).indices[: (floors or {}).get(name, 0)]
        kept[name][best] = scores[name][best] > -torch.inf
        budget -= int(kept[name].sum()) * layers[name].size
    for value, place, index in ranked:
        name = names[place]
        if kept[name][index]:
            continue
        if value == torch.inf or layers[name].size > budget:
            break
        kept[name][index] = True
        budget -= layers[name].size
    return kept


def expand(masks: Mapping[str, Tensor], layers: Mapping[str, Layer], layout: Layout) -> dict[str, Tensor]:
    """Turn masks over neurons into masks over the tensors that they own rows of, biases included."""
    shapes = layout.shapes
    return {
        tensor: mask.repeat(repeats).reshape(-1, *[1] * (len(shapes[tensor]) - 1)).expand(shapes[tensor]).clone()
        for name, mask in masks.items()
        for tensor, repeats in layers[name].tensors
    }


def floors_of(sizes: Iterable[tuple[str, int]], share: float) -> dict[str, int]:
    """How much each layer keeps at least: ``share`` of it, and never nothing.

    Examples:
        >>> floors_of([("fc", 250), ("out", 10)], share=0.02)
        {'fc': 5, 'out': 1}
    """
    return {name: max(1, -int(-size * share // 1)) for name, size in sizes}
