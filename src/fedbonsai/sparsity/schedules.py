"""How a density falls over a run."""

from collections.abc import Mapping
from dataclasses import dataclass


def cubic(progress: float, start: float, end: float) -> float:
    """Density at ``progress`` in [0, 1] on the way from ``start`` to ``end``: fast first, then gently.

    ``end + (start - end) * (1 - progress)**3`` (Zhu & Gupta, To prune, or not to prune, 2017, equation 1).

    Examples:
        >>> cubic(0.0, 1.0, 0.2), cubic(1.0, 1.0, 0.2), round(cubic(0.5, 1.0, 0.2), 3)
        (1.0, 0.2, 0.3)
    """
    return end + (start - end) * (1.0 - min(max(progress, 0.0), 1.0)) ** 3


@dataclass(frozen=True)
class Ramp:
    """The way from dense to a target density within a run.

    Attributes:
        start: Rounds that stay dense.
        end: Rounds after which the target is reached; later than ``start``.
        target: The density to end with.
    """

    start: int
    end: int
    target: float

    @staticmethod
    def over(rounds: int, warmup: float, reach: float, target: float) -> "Ramp":
        """A ramp given by shares of the run; it fits into a run of any length.

        Examples:
            >>> Ramp.over(rounds=20, warmup=0.05, reach=0.25, target=0.2)
            Ramp(start=1, end=5, target=0.2)
            >>> Ramp.over(rounds=2, warmup=0.05, reach=0.25, target=0.2)
            Ramp(start=0, end=1, target=0.2)
        """
        start = round(warmup * rounds)
        return Ramp(start, max(start + 1, round(reach * rounds)), target)

    def density(self, finished: int) -> float:
        """Density to prune to in the round that comes after ``finished`` ones."""
        return cubic((finished + 1 - self.start) / (self.end - self.start), 1.0, self.target)

    def followed(self, before: Mapping[str, float], metric: float, finished: int, slack: float) -> dict[str, float]:
        """The next density when a metric decides: prune on while it holds, rest, or grow back.

        The metric is smoothed (half of it is new) and held against its best so far. While it has dropped by ``slack``
        or less the density shrinks by the constant factor that leads from ``start`` to the target at ``end``; up to
        twice as much it rests; beyond, it grows by that factor.

        Args:
            before: What this returned after the round before; in the beginning a ``density`` alone.
            metric: The metric of the model that this round began with; higher is better.
            finished: Rounds that are over.
            slack: The drop that is accepted.

        Returns:
            The new ``density``, and ``metric`` and ``best`` for the next time.

        Examples:
            >>> ramp = Ramp(start=0, end=2, target=0.25)
            >>> [ramp.followed({"density": 0.5, "metric": m, "best": 0.9}, m, 1, slack=0.02)["density"]
            ...  for m in (0.89, 0.87, 0.85)]
            [0.25, 0.5, 1.0]
        """
        metric = 0.5 * (before.get("metric", metric) + metric)
        best = max(before.get("best", metric), metric)
        factor, drop, density = self.target ** (1 / (self.end - self.start)), best - metric, before["density"]
        if finished > self.start:
            density *= factor if drop <= slack else 1.0 if drop <= 2 * slack else 1 / factor
        return {"density": min(1.0, max(self.target, density)), "metric": metric, "best": best}
