"""Masks that move while they stay as dense: a sparse start, growth by gradient among the absent, one swap a layer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedbonsai.core.message import Part
from fedbonsai.core.state import Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Kernel, Total, average
from fedbonsai.sparsity.budgets import select
from fedbonsai.sparsity.masks import keep_top
from fedbonsai.sparsity.selection import Selection, masks_of, supports_of
from fedbonsai.sparsity.updates import drop_and_grow, swappable


def sparse_start(setting: Setting, weights: Tensors, density: float) -> State:
    """The state of a run that begins sparse: the largest of the initial weights, in each layer as many as ERK gives it.

    Raises:
        ConfigError: There is nothing to prune, or the density leaves a layer empty.
    """
    selection = Selection(setting.layout)
    selection.require(density)
    scores = {name: weights[name].abs() for name in setting.layout.prunable}
    masks = select(scores, round(density * selection.total), "erk", dict.fromkeys(scores, 1))
    return State(setting, weights).moved(weights, supports_of(masks))


def quota(masks: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """How many weights each layer swaps (see `swappable`); one that swaps none is left out."""
    return {name: count for name, count in swappable(masks, share).items() if count}


def promising(gradients: Tensors, masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Support]:
    """Where the ``counts`` largest gradients of absent weights are, by layer."""
    return {
        name: Support.masked(keep_top(torch.where(masks[name], -torch.inf, gradients[name].abs()), count))
        for name, count in counts.items()
    }


def parts_on(tensors: Tensors, supports: Mapping[str, Support]) -> dict[str, Part]:
    """What a client sends of ``tensors``: their values on ``supports``, and nothing of the others."""
    return {name: Part(support.gather(tensors[name]), support) for name, support in supports.items()}


def cohort_mean(total: Total, like: Tensors, group: str) -> dict[str, Tensor]:
    """The mean of a group over the whole cohort, by examples; what a client did not send is zero."""
    zeros = {name: torch.zeros_like(one) for name, one in like.items()}
    return average(total, zeros, Kernel("weights", "cohort", "zero"), group=group)


def swapped(state: State, total: Total, counts: Mapping[str, int]) -> State:
    """Swap weights: grow the absent ones of the largest mean gradient, as zeros; drop the smallest that were present.

    Args:
        state: The state with the weights of this round.
        total: The round's sums, with the group ``gradients`` that clients sent.
        counts: How many weights each layer swaps.
    """
    masks = masks_of(state.setting.layout, state.supports)
    gradients = cohort_mean(total, {name: state.weights[name] for name in counts}, "gradients")
    moved = {
        name: drop_and_grow(masks[name], state.weights[name].abs(), gradients[name].abs(), count)
        for name, count in counts.items()
    }
    return state.moved(state.weights, supports_of(masks | moved))
