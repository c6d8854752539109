"""How many weights each layer keeps: exact counts that add up to the whole."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError, lookup
from fedbonsai.sparsity.masks import keep_top, keep_top_global

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes) -> dict[str, float]:
    """The same density everywhere: a layer's share is its size.

    Examples:
        >>> spread(uniform({"a": (4, 5), "b": (10, 8)}), {"a": (4, 5), "b": (10, 8)}, count=10)
        {'a': 2, 'b': 8}
    """
    return {name: float(math.prod(shape)) for name, shape in shapes.items()}


def erk(shapes: Shapes) -> dict[str, float]:
    """Erdős-Rényi kernel: a layer's density is proportional to the sum of its dimensions over their product.

    Large layers are pruned harder than small ones (Mocanu et al., Nature Communications 2018; with kernel dimensions
    Evci et al., ICML 2020, section 3). A layer that would get more than it has is kept whole (see `spread`).

    Examples:
        >>> spread(erk({"a": (4, 5), "b": (10, 8)}), {"a": (4, 5), "b": (10, 8)}, count=27)
        {'a': 9, 'b': 18}
    """
    return {name: float(sum(shape)) for name, shape in shapes.items()}


def jittered(shapes: Shapes, noise: float, generator: torch.Generator) -> dict[str, float]:
    """The same density everywhere but for uniform noise: sizes times ``1 + u``, with ``u`` in ``[-noise, noise)``.

    Coarse pruning of FedTiny (Huang et al., ICDCS 2023) chooses among several of these.
    """
    draws = noise * (2 * torch.rand(len(shapes), generator=generator) - 1)
    return {name: size * (1 + float(u)) for (name, size), u in zip(uniform(shapes).items(), draws, strict=True)}


def spread(
    shares: Mapping[str, float], shapes: Shapes, count: int, floors: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Divide ``count`` weights among layers in proportion to ``shares``, no layer beyond its size or below its floor.

    What a full layer cannot take goes to the others, again in proportion; fractions go to the largest remainders, ties
    to the earlier layer.

    Args:
        shares: What each layer asks for, >= 0, at any scale.
        shapes: The layers.
        count: Weights to keep in all.
        floors: At least so many in each layer.

    Raises:
        SupportError: The floors together are more than ``count``, or it is more than there is; or a share is no number
            of at least 0.
    """
    if not all(0 <= share < math.inf for share in shares.values()):
        raise SupportError(f"shares must be finite and at least 0, got {dict(shares)}")
    sizes = {name: math.prod(shapes[name]) for name in shares}
    least = {name: min((floors or {}).get(name, 0), sizes[name]) for name in shares}
    if not sum(least.values()) <= count <= sum(sizes.values()):
        raise SupportError(f"count must be in [{sum(least.values())}, {sum(sizes.values())}], got {count}")
    fixed: dict[str, int] = {}
    while True:
        free = [name for name in shares if name not in fixed]
        left, weight = count - sum(fixed.values()), sum(shares[name] for name in free)
        wanted = {name: left * shares[name] / weight if weight else left / len(free) for name in free}
        full = {name: sizes[name] for name in free if wanted[name] > sizes[name]}
        low = {name: least[name] for name in free if wanted[name] < least[name]}
        if not (full or low):
            break
        # Where full layers give back more than low ones lack, what they give may lift the low ones, and the other way.
        given = sum(wanted[name] - sizes[name] for name in full)
        fixed |= full if given >= sum(least[name] - wanted[name] for name in low) else low
    whole = {name: min(math.floor(value + 1e-9), sizes[name]) for name, value in wanted.items()}
    by_remainder = sorted(whole, key=lambda name: (whole[name] - wanted[name], list(shares).index(name)))
    for name in by_remainder[: left - sum(whole.values())]:
        whole[name] += 1
    return {name: fixed.get(name, whole.get(name, 0)) for name in shares}


def lamp(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer-adaptive magnitude: each square over the sum of all squares in its layer that are not smaller.

    ``score(u) = w_u^2 / sum_{v: |w_v| >= |w_u|} w_v^2`` (Lee et al., ICLR 2021, equation 4); the largest of every
    layer scores 1, so that a global selection empties none. In double precision, where squares of small scores do not
    vanish; an infinite score is beyond all others and keeps 1.

    Examples:
        >>> lamp({"w": torch.tensor([3.0, 4.0, 0.0])})["w"]
        tensor([0.3600, 1.0000, 0.0000])
    """
    found = {}
    for name, score in scores.items():
        ascending = torch.sort(score.reshape(-1).abs(), stable=True)
        squares = ascending.values.double().square_()
        tails = squares.flip(0).cumsum(0).flip(0)
        ranked = torch.where(tails == 0, 0.0, squares / tails).masked_fill_(squares.isinf(), 1.0).float()
        found[name] = torch.empty_like(ranked).scatter_(0, ascending.indices, ranked).reshape(score.shape)
    return found


SHARES: Mapping[str, Callable[[Shapes], dict[str, float]]] = {"uniform": uniform, "erk": erk}
BUDGETS = ("global", "uniform", "erk", "lamp")


def layer_counts(budget: str, shapes: Shapes, count: int, floors: Mapping[str, int] | None = None) -> dict[str, int]:
    """Weights that each layer keeps under a budget that follows from shapes alone: ``uniform`` or ``erk``."""
    return spread(SHARES[lookup("budget", budget, list(SHARES))](shapes), shapes, count, floors)


def next_counts(present: Mapping[str, int], sizes: Mapping[str, int], prune: float, density: float) -> dict[str, int]:
    """What the next of many prunings leaves of each layer that has more than its target.

    Args:
        present: Weights that each layer has now.
        sizes: Weights that it could have.
        prune: Share of what is left that one pruning removes, in [0, 1).
        density: Share of its size that a layer ends with; the last pruning stops there, and leaves one weight.

    Examples:
        >>> next_counts({"a": 10, "b": 6, "c": 5}, {"a": 10, "b": 10, "c": 10}, prune=0.2, density=0.5)
        {'a': 8, 'b': 5}
    """
    left = {
        name: max(math.floor((1 - prune) * count + 1e-9), round(density * sizes[name]), 1)
        for name, count in present.items()
    }
    return {name: count for name, count in left.items() if count < present[name]}


def keep_counts(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The best ``counts[name]`` of every layer, ties by index."""
    return {name: keep_top(score, counts[name]) for name, score in scores.items()}


def select(
    scores: Mapping[str, Tensor], count: int, budget: str = "global", floors: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Keep exactly ``count`` weights of a model.

    Args:
        scores: One score per weight, by layer.
        count: How many to keep in all.
        budget: ``global`` compares scores across layers; ``lamp`` does after rescaling them; ``uniform`` and ``erk``
            give every layer its count first.
        floors: At least so many in each layer.

    Returns:
        Masks by layer.

    Raises:
        ConfigError: There is no such budget.
        SupportError: ``count`` cannot be met.

    Examples:
        >>> scores = {"a": torch.tensor([5.0, 4.0]), "b": torch.tensor([1.0, 2.0])}
        >>> [select(scores, 2, budget)["a"].tolist() for budget in ("global", "uniform")]
        [[True, True], [True, False]]
    """
    lookup("budget", budget, BUDGETS)
    if budget in SHARES:
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        return keep_counts(scores, layer_counts(budget, shapes, count, floors))
    return keep_top_global(lamp(scores) if budget == "lamp" else scores, count, floors)
