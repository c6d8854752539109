"""What a model costs a device, and the largest smaller model that a device can bear."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.seeds import seeded
from fedbonsai.learning.bench import Bench, first_examples
from fedbonsai.sparsity.channels import grids_by_width


@dataclass(frozen=True)
class Footprint:
    """What one client's round takes.

    Attributes:
        parameters: Parameters of the model.
        flops: FLOPs of training on one example, forward and backward.
        memory: Bytes while it trains: weights, what they began with, gradients, what the optimizer remembers, and what
            autograd keeps of one batch.
        work: FLOPs of the round of the client with the most examples.
    """

    parameters: int
    flops: int
    memory: int
    work: int


@dataclass(frozen=True)
class Limits:
    """What a device can bear; None where it does not matter.

    Attributes:
        parameters: Parameters.
        flops: FLOPs of training on one example.
        memory_mb: Megabytes while it trains.
        seconds: Seconds of a round's training, at ``gflops``.
        gflops: Billions of FLOPs a second that the device computes.
    """

    parameters: float | None = None
    flops: float | None = None
    memory_mb: float | None = None
    seconds: float | None = None
    gflops: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{one.name} of a device must be positive, got {value}")
        if (self.seconds is None) != (self.gflops is None):
            raise ConfigError("seconds and gflops of a device need each other: how long, and how fast it computes")

    def broken(self, cost: Footprint) -> str:
        """What a model of this cost is too much for; empty if it fits."""
        rows: list[tuple[str, float | None, float]] = [
            ("parameters", self.parameters, cost.parameters),
            ("flops", self.flops, cost.flops),
            ("memory_mb", self.memory_mb, cost.memory / 1e6),
            ("seconds", self.seconds, cost.work / (1e9 * (self.gflops or 1.0))),
        ]
        over = [f"{name}={limit:g} (it takes {value:.4g})" for name, limit, value in rows if limit and value > limit]
        return ", ".join(over)


def footprint(bench: Bench) -> Footprint:
    """What training the bench's module takes; activations are those of a real batch."""
    work, flat = bench.work, 4 * bench.flat.numel()
    remembered = {"adam": 3 * flat, "sgd": flat if work.momentum else 0}[work.optimizer]
    flops = bench.cost.forward + bench.cost.backward
    examples = work.epochs * max(bench.task.sizes, default=0) if work.steps is None else work.steps * work.batch_size
    return Footprint(bench.layout.count(), flops, 4 * flat + remembered + _activations(bench), flops * examples)


def _activations(bench: Bench) -> int:
    """Bytes that autograd keeps of one batch, weights apart."""
    seen: dict[int, int] = {}
    module = bench.structure
    own = {one.untyped_storage().data_ptr() for one in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept = {name: one.clone() for name, one in module.named_buffers()}
    inputs, targets = first_examples(bench.task.pool, bench.work.batch_size)
    with seeded(bench.seed, "footprint"), torch.autograd.graph.saved_tensors_hooks(pack, _as_it_is):
        loss = bench.task.loss.function(module(inputs), targets)  # alive until all of it was counted
    del loss
    for name, one in module.named_buffers():
        one.copy_(kept[name])
    return sum(seen.values())


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def largest_width(bench: Bench, limits: Limits) -> float:
    """The largest share of every layer's units that a device can train.

    Raises:
        ConfigError: Even one unit a layer is too much, the model cannot be traced, or a round's work is not known here.
    """
    if limits.seconds and bench.work.steps is None and bench.task.elsewhere:
        raise ConfigError("seconds need the clients' numbers of examples, which are on the devices; set steps or flops")
    groups = bench.channels
    widths = _widths(groups.units.values())

    def too_much(place: int) -> str:
        return limits.broken(footprint(bench.smaller(grids_by_width(groups, widths[place]))))

    smallest = too_much(0)
    if smallest:
        raise ConfigError(
            f"a device must bear the smallest model, of width {widths[0]:.4g}, got a limit of {smallest}; "
            f"layers: {', '.join(list(groups.units)[:5])}"
        )
    return widths[_last(lambda place: not too_much(place), len(widths) - 1)]


def _widths(units: Iterable[int]) -> list[float]:
    """One width of each model that can be cut by a width, increasing.

    Examples:
        >>> _widths([4])
        [0.25, 0.5, 0.75, 1.0]
        >>> [[max(1, round(width * size)) for size in (4, 3)] for width in _widths([4, 3])]
        [[1, 1], [2, 1], [2, 2], [3, 2], [3, 3], [4, 3]]
    """
    sizes = set(units)
    # Where a group gets one unit more; between two such places all models are the same.
    steps = sorted({(kept + 0.5) / size for size in sizes for kept in range(1, size)})
    between = [(one + two) / 2 for one, two in pairwise(steps)]
    return [1 / max(sizes), *between, 1.0] if steps else [1.0]


def _last(fits: Callable[[int], bool], steps: int) -> int:
    """The largest of 0 to ``steps`` that fits; all below it do, and 0 is known to."""
    low, high = 0, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
