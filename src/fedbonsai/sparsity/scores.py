"""How important a weight is: one score per weight, higher means keep."""

from collections.abc import Callable, Mapping

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
    """``|g * w|``: first-order change of the loss when the weight is removed (Molchanov et al., CVPR 2019)."""
    return (_needed(gradient) * weight).abs()


SCORES: Mapping[str, ScoreFunction] = {"magnitude": magnitude, "gradient": gradient_size, "taylor": taylor}


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
