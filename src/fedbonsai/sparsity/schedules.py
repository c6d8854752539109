"""How a density falls over a run."""


def cubic(progress: float, start: float, end: float) -> float:
    """Density at ``progress`` in [0, 1] on the way from ``start`` to ``end``: fast first, then gently.

    ``end + (start - end) * (1 - progress)**3`` (Zhu & Gupta, To prune, or not to prune, 2017, equation 1).

    Examples:
        >>> cubic(0.0, 1.0, 0.2), cubic(1.0, 1.0, 0.2), round(cubic(0.5, 1.0, 0.2), 3)
        (1.0, 0.2, 0.3)
    """
    return end + (start - end) * (1.0 - min(max(progress, 0.0), 1.0)) ** 3
