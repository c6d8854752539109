"""Which weights are worth the time that they take."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedbonsai.sparsity.masks import keep_top


def worth_their_time(
    gains: Mapping[str, Tensor],
    costs: Mapping[str, float],
    kept: Mapping[str, Tensor],
    start: tuple[float, float],
    most: int,
) -> dict[str, Tensor]:
    """Add weights to those that are kept, the largest gain a second first, while each raises gain over time.

    This greedy choice maximises the ratio of what all kept weights gain to the time that a round with them takes
    (PruneFL, Jiang et al., TNNLS 2022, algorithm 2). Ties go to the earlier layer, then to the lower index.

    Args:
        gains: What each weight gains, >= 0, by layer.
        costs: Seconds that one weight of a layer takes, > 0.
        kept: What is kept in any case, as masks.
        start: Gain and seconds of everything else; the seconds are > 0.
        most: Weights beyond which none is added.

    Returns:
        Masks of all that is kept.

    Examples:
        >>> gains, kept = torch.tensor([4.0, 6.0, 1.0]), torch.tensor([True, False, False])
        >>> worth_their_time({"w": gains}, {"w": 1.0}, {"w": kept}, start=(0.0, 1.0), most=3)
        {'w': tensor([ True,  True, False])}
    """
    gain = torch.cat([one.reshape(-1) for one in gains.values()]).double()
    cost = torch.cat([torch.full((one.numel(),), costs[name], dtype=torch.float64) for name, one in gains.items()])
    mask = torch.cat([kept[name].reshape(-1) for name in gains])
    absent = (~mask).nonzero().reshape(-1)
    order = absent[torch.sort(gain[absent] / cost[absent], descending=True, stable=True).indices]
    before = start[0] + gain[mask].sum() + _sums_before(gain[order])
    time = start[1] + cost[mask].sum() + _sums_before(cost[order])
    raises = gain[order] * time > before * cost[order]
    count = int(raises.long().cumprod(0).sum())
    mask[order[: max(0, min(count, most - int(mask.sum())))]] = True
    parts = torch.split(mask, [one.numel() for one in gains.values()])
    return {name: part.reshape(one.shape) for (name, one), part in zip(gains.items(), parts, strict=True)}


def without_smallest(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The masks without the smallest ``share`` of each layer's present weights, rounded down.

    Examples:
        >>> without_smallest({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([1.0, 2.0, 0.0])}, share=0.5)
        {'w': tensor([False,  True, False])}
    """
    sizes = {name: torch.where(mask, weights[name].abs(), -torch.inf) for name, mask in masks.items()}
    present = {name: int(mask.sum()) for name, mask in masks.items()}
    return {name: keep_top(one, present[name] - int(share * present[name] + 1e-9)) for name, one in sizes.items()}


def _sums_before(values: Tensor) -> Tensor:
    """For each value the sum of those before it."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])[:-1]
