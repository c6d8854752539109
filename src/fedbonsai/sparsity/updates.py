"""How a mask changes: drop and grow, and fixed patterns."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.sparsity.budgets import spread
from fedbonsai.sparsity.masks import keep_top


def drop_and_grow(
    mask: Bool[Tensor, "*dims"],
    importance: Float[Tensor, "*dims"],
    promise: Float[Tensor, "*dims"],
    count: int,
) -> Bool[Tensor, "*dims"]:
    """Drop the ``count`` least important present weights and grow the ``count`` most promising absent ones.

    What was dropped is not grown again at once, so the new mask differs in exactly ``2 * count`` places and keeps as
    many weights (RigL, Evci et al., ICML 2020, with growth among the absent alone). Ties go to the lower index.

    Args:
        mask: What is present.
        importance: Of present weights; larger stays. Entries off the mask are not looked at.
        promise: Of absent weights; larger grows. Entries on the mask are not looked at.
        count: How many to swap; at most what is present and what is absent.

    Returns:
        The new mask.

    Raises:
        SupportError: ``count`` is out of range, or a score that is looked at is NaN.

    Examples:
        >>> drop_and_grow(torch.tensor([True, True, False, False]), torch.tensor([3.0, 1.0, 0.0, 0.0]),
        ...               torch.tensor([0.0, 0.0, 1.0, 2.0]), count=1)
        tensor([ True, False, False,  True])
    """
    present = int(mask.sum())
    if not 0 <= count <= min(present, mask.numel() - present):
        raise SupportError(f"count must be in [0, {min(present, mask.numel() - present)}], got {count}")
    lowest = torch.finfo(torch.float32).min  # minus infinity is for what is not to be had
    kept = keep_top(torch.where(mask, importance.clamp(min=lowest), -torch.inf), present - count)
    return kept | keep_top(torch.where(mask, -torch.inf, promise.clamp(min=lowest)), count)


def swappable(masks: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """How many weights of each layer `drop_and_grow` may swap: ``share`` of the present, no more than are absent.

    Examples:
        >>> swappable({"w": torch.tensor([True, True, True, True, False])}, share=0.5)
        {'w': 1}
    """
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masks.items()}
    return {name: min(int(share * present), size - present) for name, (present, size) in counts.items()}


def redistribute(
    masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Drop the smallest ``share`` of each layer's present weights, and grow as many in all at random among the absent.

    Layers grow in proportion to the mean size of their present weights, so that density moves to where they are large
    (Dettmers and Zettlemoyer, Sparse networks from scratch, 2019; FLASH, Babakniya et al., TMLR 2023).

    Args:
        masks: What is present, by layer; in each at least one.
        weights: Their weights.
        share: Of the present weights of a layer, how many to drop; no more than are absent.
        generator: Draws what is grown.

    Returns:
        Masks that keep as many weights in all.
    """
    dropped, sizes = swappable(masks, share), {name: weights[name].abs() for name in masks}
    means = {name: float(sizes[name][mask].mean()) for name, mask in masks.items()}
    absent = {name: (int((~mask).sum()),) for name, mask in masks.items()}
    grown = spread(means, absent, sum(dropped.values()))
    found = {}
    for name, mask in masks.items():
        kept = keep_top(torch.where(mask, sizes[name], -torch.inf), int(mask.sum()) - dropped[name])
        draws = torch.rand(mask.shape, generator=generator)
        found[name] = kept | keep_top(torch.where(mask, -torch.inf, draws), grown[name])
    return found


def n_of_m(scores: Float[Tensor, "*dims"], n: int, m: int) -> Bool[Tensor, "*dims"]:
    """Keep the best ``n`` of every ``m`` neighbours along the input dimensions (N:M sparsity).

    Neighbours are runs of ``m`` in the flattened trailing dimensions of each row; a row's last run may be shorter and
    then keeps at most ``n`` too (Mishra et al., Accelerating sparse deep neural networks, 2021). Ties go to the lower
    index.

    Args:
        scores: One score per weight; dimension 0 is the output.
        n: How many to keep, ``1 <= n <= m``.
        m: Out of how many.

    Raises:
        SupportError: ``n`` or ``m`` is out of range, or a score is NaN.

    Examples:
        >>> n_of_m(torch.tensor([[4.0, 1.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0]]), n=2, m=4).int()
        tensor([[1, 0, 0, 1, 1, 1, 0, 0]], dtype=torch.int32)
    """
    if not 1 <= n <= m:
        raise SupportError(f"n must be in [1, m], got n = {n}, m = {m}")
    if bool(scores.isnan().any()):
        raise SupportError("scores must be numbers, got NaN")
    rows = scores.reshape(scores.shape[0] if scores.dim() > 1 else 1, -1)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % m), value=-torch.inf)
    runs = padded.reshape(rows.shape[0], -1, m)
    best = torch.sort(runs, dim=-1, descending=True, stable=True).indices[..., :n]
    kept = torch.zeros(runs.shape, dtype=torch.bool).scatter_(-1, best, src=torch.ones_like(best, dtype=torch.bool))
    return kept.reshape(rows.shape[0], -1)[:, : rows.shape[1]].reshape(scores.shape)
