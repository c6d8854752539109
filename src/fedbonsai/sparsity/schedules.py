"""How a density falls over a run."""

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

    def followed(self, density: float, drop: float, slack: float) -> float:
        """The next density when a metric decides: prune on, rest, or grow back.

        Args:
            density: The present density.
            drop: How far the metric lies below its best.
            slack: The drop that is accepted. Up to it the density shrinks by the constant factor that leads to the
                target at ``end``; up to twice as much it rests; beyond, it grows by that factor.

        Examples:
            >>> ramp = Ramp(start=0, end=2, target=0.25)
            >>> [ramp.followed(0.5, drop, slack=0.02) for drop in (0.01, 0.03, 0.05)]
            [0.25, 0.5, 1.0]
        """
        factor = self.target ** (1 / (self.end - self.start))
        step = factor if drop <= slack else 1.0 if drop <= 2 * slack else 1 / factor
        return min(1.0, max(self.target, density * step))
