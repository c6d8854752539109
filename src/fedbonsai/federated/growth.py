"""Masks that move while they stay as dense: a sparse start, growth by gradient among the absent, one swap a layer."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedbonsai.core.message import Message, Part
from fedbonsai.core.state import Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Kernel, Total, average
from fedbonsai.learning.learner import Fit, Learner
from fedbonsai.sparsity.budgets import keep_counts, layer_counts
from fedbonsai.sparsity.masks import keep_top
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import Selection, masks_of, supports_of
from fedbonsai.sparsity.updates import drop_and_grow, swappable


def sparse_start(setting: Setting, weights: Tensors, density: float) -> State:
    """The state of a run that begins sparse: the largest of the initial weights, in each layer as many as ERK gives it.

    Raises:
        ConfigError: There is nothing to prune, or the density leaves a layer empty.
    """
    layout, selection = setting.layout, Selection(setting.layout)
    selection.require(density)
    shapes = {name: layout.shapes[name] for name in layout.prunable}
    counts = layer_counts("erk", shapes, round(density * selection.total), dict.fromkeys(shapes, 1))
    return State(setting, weights).moved(weights, largest(weights, counts))


def largest(weights: Tensors, counts: Mapping[str, int]) -> dict[str, Support]:
    """Where the ``counts`` largest weights of each layer are."""
    return supports_of(keep_counts({name: weights[name].abs() for name in counts}, counts))


def swap_share(state: State, every: Every, alpha: float) -> float:
    """The share of present weights that this round swaps: alpha / 2 (1 + cos(pi t / T)), or 0 when none is due."""
    return every.share(state.round, alpha) if every.due(state.round + 1) else 0.0


def quota(masks: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """How many weights each layer swaps (see `swappable`); one that swaps none is left out."""
    return {name: count for name, count in swappable(masks, share).items() if count}


def promising(gradients: Tensors, masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Support]:
    """Where the ``counts`` largest gradients of absent weights are, by layer."""
    return {
        name: Support.masked(keep_top(torch.where(masks[name], -torch.inf, gradients[name].abs()), count))
        for name, count in counts.items()
    }


def weakest(weights: Tensors, masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Support]:
    """Where the ``counts`` smallest present weights are, by layer: those that `drop_and_grow` would drop."""
    kept = {
        name: keep_top(torch.where(masks[name], weights[name].abs(), -torch.inf), int(masks[name].sum()) - count)
        for name, count in counts.items()
    }
    return {name: Support.masked(masks[name] & ~one) for name, one in kept.items()}


def parts_on(tensors: Tensors, supports: Mapping[str, Support]) -> dict[str, Part]:
    """What a client sends of ``tensors``: their values on ``supports``, and nothing of the others."""
    return {name: Part(support.gather(tensors[name]), support) for name, support in supports.items()}


def with_gradients(update: Message, fit: Fit, learner: Learner, counts: Mapping[str, int]) -> Message:
    """The update of a fit and the ``counts`` largest gradients of absent weights, taken on one batch after it."""
    if not counts:
        return update
    gradients = learner.gradients(fit.weights, batches=1)
    grown = promising(gradients, masks_of(learner.layout, update.supports()), counts)
    return replace(update, groups={**update.groups, "gradients": parts_on(gradients, grown)})


def cohort_mean(total: Total, group: str) -> dict[str, Tensor]:
    """The mean of a group over the whole cohort, by examples; what a client did not send is zero."""
    zeros = {name: torch.zeros_like(one.numerator) for name, one in total.groups.get(group, {}).items()}
    return average(total, zeros, Kernel("weights", "cohort", "zero"), group=group)


def swapped(state: State, total: Total, counts: Mapping[str, int]) -> State:
    """Swap weights: grow the absent ones of the largest mean gradient, as zeros; drop the smallest that were present.

    Args:
        state: The state with the weights of this round.
        total: The round's sums, with the group ``gradients`` that clients sent.
        counts: How many weights each layer swaps.
    """
    masks = masks_of(state.setting.layout, state.supports)
    gradients = {name: torch.zeros(masks[name].shape) for name in counts} | cohort_mean(total, "gradients")
    moved = {
        name: drop_and_grow(masks[name], state.weights[name].abs(), gradients[name].abs(), count)
        for name, count in counts.items()
    }
    return state.moved(state.weights, supports_of(masks | moved))
