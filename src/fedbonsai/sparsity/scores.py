"""How important a weight is: one score per weight, higher means keep."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError, lookup

ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


def magnitude(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``|w|``: what is small contributes little (Han et al., NeurIPS 2015)."""
    del gradient
    return weight.abs()


def gradient_size(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``|g|``: how fast the loss would change with the weight (RigL's growth criterion, Evci et al., ICML 2020)."""
    del weight
    return _needed(gradient).abs()


def taylor(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``|g * w|``: first-order change of the loss when the weight is removed.

    SNIP at initialisation (Lee et al., ICLR 2019), Taylor pruning later (Molchanov et al., CVPR 2019).
    """
    return (_needed(gradient) * weight).abs()


def squared_gradient(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``g^2``: what a step along the gradient would win (PruneFL, Jiang et al., TNNLS 2022); sums over clients."""
    del weight
    return _needed(gradient).square()


def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1): the opponent that every criterion must beat."""
    return torch.rand(weight.shape, generator=generator)


def grasp(weight: Tensor, hessian_gradient: Tensor) -> Tensor:
    """``w * (H g)``: how much gradient flow is lost with the weight (Wang et al., ICLR 2020, equation 8).

    Signed: the paper removes the largest ``-w * (H g)``, those whose removal lets the gradient grow.
    """
    return weight * hessian_gradient


def synflow(weight: Tensor, flow_gradient: Tensor) -> Tensor:
    """``|dR/dw * w|`` for the flow ``R`` through a network of absolute weights (Tanaka et al., NeurIPS 2020).

    The flow needs no data. The paper prunes in a hundred small steps and takes the flow anew after each, because a
    single one empties layers.
    """
    return (weight * flow_gradient).abs()


def change(weight: Tensor, before: Tensor) -> Tensor:
    """``|w - w_before|``: how far training has moved the weight."""
    return (weight - before).abs()


def filter_norms(weight: Tensor, order: float = 2.0) -> Tensor:
    """One norm per filter (row of dimension 0), L1 or L2 (Li et al., ICLR 2017), shape ``(filters,)``."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), ord=order, dim=1)
    return norms


def geometric_median(weight: Tensor) -> Tensor:
    """A filter's summed distance to all filters: the smallest are replaceable (FPGM, He et al., CVPR 2019).

    Shape ``(filters,)``.

    Examples:
        >>> geometric_median(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([6., 5., 9.])
    """
    rows = weight.flatten(1)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def batch_norm_scale(gamma: Tensor) -> Tensor:
    """``|gamma|`` of a batch norm, one per channel (network slimming, Liu et al., ICCV 2017)."""
    return gamma.abs()


SCORES: Mapping[str, ScoreFunction] = {
    "magnitude": magnitude,
    "gradient": gradient_size,
    "taylor": taylor,
    "squared-gradient": squared_gradient,
}


def score(
    importance: str, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Score every tensor in ``weights``.

    Args:
        importance: A name of `SCORES`.
        weights: Weights by name.
        gradients: Their gradients; ``magnitude`` needs none.

    Raises:
        ConfigError: The name is not known, gradients are missing, or a score is NaN.
    """
    function = SCORES[lookup("importance", importance, list(SCORES))]
    scores = {name: function(weight, (gradients or {}).get(name)) for name, weight in weights.items()}
    for name, values in scores.items():
        if bool(values.isnan().any()):
            raise ConfigError(f"{name}: the {importance} score must be a number everywhere, got NaN")
    return scores


def _needed(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ConfigError("this importance needs gradients, got none; use magnitude or pass them")
    return gradient
