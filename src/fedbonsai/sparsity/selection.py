"""Choose what to keep of a model: exact counts, floors, growth, in connections or in whole neurons."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout
from fedbonsai.core.support import Support
from fedbonsai.sparsity.masks import keep_top, keep_top_global
from fedbonsai.sparsity.units import Layer, expand, floors_of, keep_top_units, layers_of, unit_scores

Unit = Literal["connection", "neuron"]
Supports = Mapping[str, Support]
Choice = tuple[dict[str, Support], list[str]]
"""The new supports, and the layers whose floor had to be kept."""


def masks_of(layout: Layout, supports: Supports) -> dict[str, Tensor]:
    """A mask of every prunable tensor, all True where it has no support."""
    return {
        name: supports[name].indicator() if name in supports else torch.ones(layout.shapes[name], dtype=torch.bool)
        for name in layout.prunable
    }


def supports_of(masks: Mapping[str, Tensor]) -> dict[str, Support]:
    """The supports of masks; one that is all True is dense, and not named."""
    found = {name: Support.masked(mask) for name, mask in masks.items()}
    return {name: support for name, support in found.items() if support.kind != "dense"}


@dataclass(frozen=True)
class Selection:
    """How a model's weights are selected.

    Attributes:
        layout: The model.
        unit: Single connections, or whole neurons (rows with their bias; the output layer stays whole).
        floor: Share of each layer that is kept in any case; at least one weight or neuron of it.
    """

    layout: Layout
    unit: Unit = "connection"
    floor: float = 0.0

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(slot.numel for slot in self.layout.slots if slot.prunable)

    def kept(self, supports: Supports) -> int:
        """Number of prunable weights that are present on ``supports``."""
        return sum(
            supports[slot.name].count if slot.name in supports else slot.numel
            for slot in self.layout.slots
            if slot.prunable
        )

    def require(self, density: float) -> None:
        """Refuse a model that cannot be pruned, or not so far.

        Raises:
            ConfigError: There is nothing to prune, or the floors (and an output layer that is kept whole) need more.
        """
        if not self.total:
            raise ConfigError("a model to prune needs parameters of two or more dimensions, this one has none")
        if self.unit == "neuron" and not layers_of(self.layout):
            raise ConfigError("this model has no layer of neurons to prune besides its output; use unit=connection")
        least = self._fixed() + sum(self._floor_weights().values())
        if round(density * self.total) < least:
            raise ConfigError(
                f"density must be at least {least / self.total:.4g} to keep the floor of every layer"
                f"{' and the output layer' if self.unit == 'neuron' else ''}, got {density}; lower the floor"
            )

    def choose(
        self,
        scores: Mapping[str, Tensor],
        present: Supports,
        count: int,
        growth: Mapping[str, Tensor] | None = None,
        swapped: int = 0,
    ) -> Choice:
        """Keep ``count`` weights: the best of the present ones, and with ``growth`` the best of the absent ones.

        Args:
            scores: Importance of every prunable weight.
            present: Where weights are now; only these can be kept.
            count: Weights to keep in all (of neurons: at most so many).
            growth: Promise of every prunable weight; absent ones of the highest are grown to make up ``count``.
            swapped: Of ``count``, how many to take from the absent even when the present would do; at most all of them.

        Returns:
            The new supports, and the layers whose floor had to be kept.
        """
        here = {name: _indicator(present, name) for name in scores}
        masked = {name: _where(here[name], one, present=True) for name, one in scores.items()}
        kept = self.kept(present)
        keep = min(count, kept)
        if growth is not None:  # no more can be swapped in than is absent
            keep = max(keep - swapped, count - (self.total - kept))
        masks, floored = self._top(masked, max(keep, 0), floors=True)
        if growth is not None:
            absent = {name: _where(here[name], one, present=False) for name, one in growth.items()}
            grown, _ = self._top(absent, count - self._counted(masks), floors=False)
            masks = {name: mask | grown[name] for name, mask in masks.items()}
        return supports_of(masks), floored

    def largest(self, weights: Mapping[str, Tensor], present: Supports, density: float) -> dict[str, Support]:
        """Keep the largest of the present weights, ``density`` of all prunable ones."""
        scores = {name: weights[name].abs() for name in self.layout.prunable}
        return self.choose(scores, present, round(density * self.total))[0]

    def within(self, masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], present: Supports) -> Choice:
        """Keep what ``masks`` allow of what is present; a layer below its floor keeps its best present ones instead.

        A neuron stays when any of its weights does.
        """
        scores = {name: _where(_indicator(present, name), one, present=True) for name, one in scores.items()}
        allowed = {name: mask & (scores[name] > -torch.inf) for name, mask in masks.items()}
        if self.unit == "neuron":
            layers = layers_of(self.layout)
            means = unit_scores({name: mask.float() for name, mask in allowed.items()}, layers)
            ranks = unit_scores(scores, layers)
            kept = {name: mean > 0 for name, mean in means.items()}
            floors = floors_of(((name, layer.count) for name, layer in layers.items()), self.floor)
            kept, floored = _raised(kept, ranks, floors)
            return supports_of(self._expanded(kept, layers)), [layers[name].tensors[0][0] for name in floored]
        floors = floors_of(((name, mask.numel()) for name, mask in masks.items()), self.floor)
        masks, floored = _raised(allowed, scores, floors)
        return supports_of(masks), floored

    def _top(self, scores: Mapping[str, Tensor], count: int, *, floors: bool) -> tuple[dict[str, Tensor], list[str]]:
        """The best ``count`` of what has a score above minus infinity, and the layers held up by their floor."""
        layers = layers_of(self.layout) if self.unit == "neuron" else {}
        ranks = unit_scores(scores, layers) if layers else scores
        finite = {name: int((one > -torch.inf).sum()) for name, one in ranks.items()}
        least = floors_of(((name, one.numel()) for name, one in ranks.items()), self.floor) if floors else {}
        least = {name: min(value, finite[name]) for name, value in least.items()}
        if layers:
            kept = keep_top_units(ranks, layers, count - (self._fixed() if floors else 0), least)
        else:
            kept = keep_top_global(ranks, min(max(count, sum(least.values())), sum(finite.values())), least)
        held = [name for name in least if 0 < int(kept[name].sum()) == least[name] < finite[name]]
        if layers:
            return self._expanded(kept, layers), [layers[name].tensors[0][0] for name in held]
        return kept, held

    def _expanded(self, kept: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> dict[str, Tensor]:
        """Masks over the layers' tensors, and over prunable ones without neurons, which stay whole."""
        masks = expand(kept, layers, self.layout)
        rest = [slot for slot in self.layout.slots if slot.prunable and slot.name not in masks]
        return masks | {slot.name: torch.ones(slot.shape, dtype=torch.bool) for slot in rest}

    def _counted(self, masks: Mapping[str, Tensor]) -> int:
        return sum(int(masks[name].sum()) for name in self.layout.prunable)

    def _fixed(self) -> int:
        """Prunable weights that are always kept: with neurons, those of the output layer."""
        if self.unit == "connection":
            return 0
        return self.total - sum(layer.size * layer.count for layer in layers_of(self.layout).values())

    def _floor_weights(self) -> dict[str, int]:
        if self.unit == "connection":
            return floors_of(((s.name, s.numel) for s in self.layout.slots if s.prunable), self.floor)
        layers = layers_of(self.layout)
        floors = floors_of(((name, layer.count) for name, layer in layers.items()), self.floor)
        return {name: floors[name] * layers[name].size for name in floors}


def _indicator(supports: Supports, name: str) -> Tensor | None:
    return supports[name].indicator() if name in supports else None


def _where(here: Tensor | None, scores: Tensor, *, present: bool) -> Tensor:
    """Scores of what is present (or of what is absent), minus infinity elsewhere."""
    if here is None:
        return scores if present else torch.full_like(scores, -torch.inf)
    return torch.where(here if present else ~here, scores, -torch.inf)


def _raised(
    masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], floors: Mapping[str, int]
) -> tuple[dict[str, Tensor], list[str]]:
    """Give each layer that kept fewer than its floor the best that it has instead, and say which."""
    short = [name for name, mask in masks.items() if int(mask.sum()) < floors[name]]
    return {
        name: keep_top(scores[name], floors[name]) & (scores[name] > -torch.inf) if name in short else mask
        for name, mask in masks.items()
    }, short
