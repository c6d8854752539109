"""What the rounds of the drop-in moved, measured."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """What one round moved. Bytes are those of the model: packed, and as plain Flower would have sent it.

    Attributes:
        number: The round, from 1.
        density: Share of the prunable weights that its model has in the end.
        asked: Clients that got the model to train.
        counted: Replies that were aggregated.
        down: Bytes to the clients, to train and to evaluate.
        up: Bytes from the clients, with those of replies that were dropped.
        dense_down: Bytes that plain Flower would have sent down.
        dense_up: The same up.
    """

    number: int
    density: float = 1.0
    asked: int = 0
    counted: int = 0
    down: int = 0
    up: int = 0
    dense_down: int = 0
    dense_up: int = 0

    @property
    def share(self) -> float:
        """All bytes over those of plain Flower; 1 where nothing was sent."""
        dense = self.dense_down + self.dense_up
        return (self.down + self.up) / dense if dense else 1.0


def table(rounds: Iterable[Round]) -> list[str]:
    """Rounds as lines of text, under a line of titles.

    Examples:
        >>> for line in table([Round(1, 0.1, asked=2, counted=2, down=100, up=100, dense_down=1000, dense_up=1000)]):
        ...     print(line)
        round  density  replies   bytes down     bytes up  of dense
            1   0.1000      2/2          100          100     0.100
    """
    return ["round  density  replies   bytes down     bytes up  of dense"] + [
        f"{one.number:>5} {one.density:>8.4f} {f'{one.counted}/{one.asked}':>8} {one.down:>12,} {one.up:>12,} "
        f"{one.share:>9.3f}"
        for one in rounds
    ]
