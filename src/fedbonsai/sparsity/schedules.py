"""How a density falls over a run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal


def one_shot(progress: float, start: float, end: float) -> float:
    """``start`` until the way is over, then ``end`` at once."""
    return end if progress >= 1.0 else start


def linear(progress: float, start: float, end: float) -> float:
    """Equal steps from ``start`` to ``end``."""
    return end + (start - end) * (1.0 - _part(progress))


def cubic(progress: float, start: float, end: float) -> float:
    """Density at ``progress`` in [0, 1] on the way from ``start`` to ``end``: fast first, then gently.

    ``end + (start - end) * (1 - progress)**3`` (Zhu & Gupta, To prune, or not to prune, 2017, equation 1).

    Examples:
        >>> cubic(0.0, 1.0, 0.2), cubic(1.0, 1.0, 0.2), round(cubic(0.5, 1.0, 0.2), 3)
        (1.0, 0.2, 0.3)
    """
    return end + (start - end) * (1.0 - _part(progress)) ** 3


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` to ``end``: gently, fast, gently.

    Examples:
        >>> cosine(0.0, 0.3, 0.0), round(cosine(0.5, 0.3, 0.0), 3), round(cosine(1.0, 0.3, 0.0), 3)
        (0.3, 0.15, 0.0)
    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * _part(progress)))


def exponential(progress: float, start: float, end: float) -> float:
    """Equal factors from ``start`` to ``end``, both above 0.

    Examples:
        >>> round(exponential(0.5, 1.0, 0.04), 3)
        0.2
    """
    return start * float((end / start) ** _part(progress))


def _part(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


Shape = Literal["one-shot", "linear", "cubic", "cosine", "exponential"]

SCHEDULES: Mapping[Shape, Callable[[float, float, float], float]] = {
    "one-shot": one_shot,
    "linear": linear,
    "cubic": cubic,
    "cosine": cosine,
    "exponential": exponential,
}


@dataclass(frozen=True)
class Every:
    """Every ``period`` rounds until a round, counted from 1: when dynamic methods move their masks.

    Attributes:
        period: Rounds between two times, at least 1.
        until: The last round that may be one.
    """

    period: int
    until: int

    @staticmethod
    def over(rounds: int, period: int, until: float) -> "Every":
        """As often as ``period`` says until a share of the run is over; a short run still has one time.

        Examples:
            >>> Every.over(rounds=100, period=10, until=0.5), Every.over(rounds=2, period=10, until=0.5)
            (Every(period=10, until=50), Every(period=1, until=1))
        """
        last = max(1, round(until * rounds))
        return Every(min(period, last), last)

    @property
    def last(self) -> int:
        """The last of them."""
        return self.until - self.until % self.period

    def due(self, round_: int) -> bool:
        """Whether round ``round_`` (from 1) is one of them."""
        return round_ <= self.until and round_ % self.period == 0

    def share(self, round_: int, start: float) -> float:
        """The share to swap in a round: ``start``, falling along a cosine to none at ``until`` (RigL)."""
        return cosine(round_ / self.until, start, 0.0)


@dataclass(frozen=True)
class Ramp:
    """The way from dense to a target density within a run.

    Attributes:
        start: Rounds that stay dense.
        end: Rounds after which the target is reached; later than ``start``.
        target: The density to end with.
        shape: How it falls, a name of `SCHEDULES`.
    """

    start: int
    end: int
    target: float
    shape: Shape = "cubic"

    @staticmethod
    def over(rounds: int, warmup: float, reach: float, target: float, shape: Shape = "cubic") -> "Ramp":
        """A ramp given by shares of the run; it fits into a run of any length.

        Examples:
            >>> Ramp.over(rounds=20, warmup=0.05, reach=0.25, target=0.2)
            Ramp(start=1, end=5, target=0.2, shape='cubic')
            >>> Ramp.over(rounds=2, warmup=0.05, reach=0.25, target=0.2)
            Ramp(start=0, end=1, target=0.2, shape='cubic')
        """
        start = round(warmup * rounds)
        return Ramp(start, max(start + 1, round(reach * rounds)), target, shape)

    def density(self, finished: int) -> float:
        """Density to prune to in the round that comes after ``finished`` ones."""
        progress = (finished + 1 - self.start) / (self.end - self.start)
        return SCHEDULES[self.shape](progress, 1.0, self.target)

    def followed(
        self, before: Mapping[str, float | str], metric: float, finished: int, slack: float
    ) -> dict[str, float]:
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
        metric = 0.5 * (float(before.get("metric", metric)) + metric)
        best = max(float(before.get("best", metric)), metric)
        factor, drop, density = self.target ** (1 / (self.end - self.start)), best - metric, float(before["density"])
        if finished > self.start:
            density *= factor if drop <= slack else 1.0 if drop <= 2 * slack else 1 / factor
        return {"density": min(1.0, max(self.target, density)), "metric": metric, "best": best}
