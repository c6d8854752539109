"""The aggregation kernel: sums of updates, then one division, with three switches.

Every update adds ``n * scatter(v)`` to a numerator and ``n * support`` to a denominator. What the literature calls by
many names is this sum and the choice of three switches (see `average`). Server optimizers move the model from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedbonsai.core.errors import SupportError, lookup
from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.state import Memory, Tensors
from fedbonsai.core.support import Support

Domain = Literal["weights", "delta"]
Denominator = Literal["holders", "cohort"]
Absent = Literal["keep", "zero"]
ServerOptimizer = Literal["none", "momentum", "adam"]
ADAM_TAU = 1e-3


@dataclass(frozen=True)
class Kernel:
    """The three switches of `average`.

    Attributes:
        domain: Whether clients send tensors or their changes.
        denominator: Whether to divide by the weight of a coordinate's holders or of the whole cohort.
        absent: What a client that lacks a coordinate says of it: nothing (keep), or zero.
    """

    domain: Domain = "weights"
    denominator: Denominator = "holders"
    absent: Absent = "keep"


def contribution(tensors: Tensors, supports: Mapping[str, Support] | None, examples: int, **numbers: float) -> Message:
    """The update that most methods send: tensors on supports, weighted by the number of examples.

    Args:
        tensors: What to send, whole.
        supports: Where it is present; a tensor without one is sent whole.
        examples: How much it counts for.
        numbers: Facts that add up over clients as they are.
    """
    return Message({"weights": group(tensors, supports)}, numbers, weight=float(examples))


@dataclass
class Sum:
    """The running sum of one tensor over clients.

    While all clients have the same support, only its values are kept and its weight is one number; the whole tensor
    and the denominator of each coordinate are made when the first one differs.

    Attributes:
        values: Sums: one for each value of ``support``, or the whole tensor, flat, once supports differ.
        support: The support of the first client.
        weight: Sum of the clients' weights.
        denominator: Weight of each coordinate's holders, of the tensor's shape, once supports differ.
    """

    values: Tensor
    support: Support
    weight: float = 0.0
    denominator: Tensor | None = None

    @property
    def numerator(self) -> Tensor:
        """The sum of the whole tensor, zero where nobody has anything."""
        if self.denominator is None:
            return self.support.scatter(self.values)
        return self.values.view(self.support.shape)

    def add(self, part: Part, weight: float, *, valued: bool = True) -> None:
        """Add ``weight * part``; or, if it is not ``valued``, no more than who holds what."""
        if self.denominator is None and part.support != self.support:
            self.values = self.support.scatter(self.values).view(-1)
            self.denominator = self.support.indicator().to(torch.float32).mul_(self.weight)
        self.weight += weight
        if self.denominator is None:
            if valued:
                self.values.add_(part.values, alpha=weight)
            return
        self._spread(part, weight, valued=valued)

    def _spread(self, part: Part, weight: float, *, valued: bool) -> None:
        """Add to the whole tensor and to the denominator; where a part sits in views, nothing is looked up."""
        assert self.denominator is not None  # noqa: S101  what differs has one
        place = part.support
        whole, small = self.values.view(place.shape), part.values.view(place.value_shape)
        pairs, held = place.views(whole, small), place.views(self.denominator, small)
        if pairs is None or held is None:
            if valued:
                self.values.index_add_(0, place.positions, part.values, alpha=weight)
            everywhere = torch.full((place.count,), weight, dtype=torch.float32)
            self.denominator.view(-1).index_add_(0, place.positions, everywhere)
            return
        for there, here in pairs if valued else ():
            there.add_(here, alpha=weight)
        for there, _ in held:
            there.add_(weight)

    def held(self) -> Tensor:
        """Weight of the clients that hold each coordinate, of the tensor's shape."""
        if self.denominator is not None:
            return self.denominator
        return self.support.indicator().to(torch.float32) * self.weight


@dataclass
class Total:
    """The sum of a round's updates: all that a server learns of its clients.

    Attributes:
        stage: The stage that was summed.
        groups: Sums by group and tensor name.
        numbers: Sums of the updates' numbers.
        weight: Sum of the updates' weights.
        members: Whose updates were added, in their order.
        seconds: How long each member took, from its task to its answer, as the engine measured; differs between runs.
        supports: Where each member's weights are; for methods that need more than sums.
        sums_only: Whether nobody asks for those: they grow with the cohort.
        estimated: Whether a robust rule gives the values of the weights, so that nobody asks for their sums.
    """

    stage: str = "train"
    groups: dict[str, dict[str, Sum]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    members: list[int] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    supports: dict[int, dict[str, Support]] = field(default_factory=dict)
    sums_only: bool = False
    estimated: bool = False

    @property
    def clients(self) -> int:
        """How many updates were added."""
        return len(self.members)

    @property
    def validation_metric(self) -> float | None:
        """The clients' metric of what they received, over all their validation examples; None if nobody judged."""
        metric, judged = self.numbers.get("validation_metric"), self.numbers.get("validation_examples")
        return metric / judged if metric is not None and judged else None

    def add(self, update: Message) -> None:
        """Add one client's update, in place: all of it or, with an error, nothing.

        Raises:
            SupportError: A tensor has another shape than the clients before sent.
        """
        self._check(update)
        for name, parts in update.groups.items():
            sums = self.groups.setdefault(name, {})
            for tensor, part in parts.items():
                if tensor not in sums:
                    sums[tensor] = Sum(torch.zeros(part.support.count), part.support)
                sums[tensor].add(part, update.weight, valued=not (self.estimated and name == "weights"))
        for name, value in update.numbers.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + value
        self.weight += update.weight
        self.members.append(update.client)
        if not self.sums_only:
            self.supports[update.client] = update.supports() if "weights" in update.groups else {}

    def _check(self, update: Message) -> None:
        for name, parts in update.groups.items():
            for tensor, part in parts.items():
                known = self.groups.get(name, {}).get(tensor)
                if known is not None and known.support.shape != part.support.shape:
                    raise SupportError(
                        f"{name}/{tensor}: an update must have shape {known.support.shape}, got {part.support.shape}"
                    )


def average(
    total: Total, anchor: Tensors, kernel: Kernel | None = None, *, group: str = "weights"
) -> dict[str, Tensor]:
    """Divide the sums of a round: the new tensors of one group.

    For a coordinate that clients of weight ``h`` out of ``W`` hold, with sum ``s`` and old value ``a``:

    =======  =======  =====================  ============================
    domain   over     absent = keep          absent = zero
    =======  =======  =====================  ============================
    weights  holders  s / h, or a if h = 0   s / h, or 0 if h = 0
    weights  cohort   (s + (W - h) a) / W    s / W
    delta    holders  a + s / h, or a        a + s / h, or 0 if h = 0
    delta    cohort   a + s / W              a + s / W, or 0 if h = 0
    =======  =======  =====================  ============================

    Args:
        total: The sums.
        anchor: The old tensors; one that nobody sent is returned as it is.
        kernel: The switches; without one, weights over holders, keeping what nobody holds.
        group: Which group of the updates.
    """
    kernel = kernel or Kernel()
    result = dict(anchor)
    for name, one in total.groups.get(group, {}).items():
        mean = _mean(one, anchor[name], total.weight, kernel)
        if kernel.domain == "delta":
            mean = anchor[name] + mean
            if kernel.absent == "zero":
                mean = torch.where(one.held() > 0, mean, 0.0)
        result[name] = mean
    return result


def _mean(one: Sum, anchor: Tensor, everybody: float, kernel: Kernel) -> Tensor:
    zero = kernel.domain == "delta" or kernel.absent == "zero"
    if one.denominator is None and (one.support.kind == "dense" or kernel.denominator == "holders"):
        return _shared_mean(one, anchor, zero=zero)
    held = one.held()
    old = torch.zeros(()) if zero else anchor
    if kernel.denominator == "holders":
        return torch.where(held > 0, one.numerator / held.clamp(min=1e-12), old)
    return (one.numerator + (everybody - held) * old) / everybody


def _shared_mean(one: Sum, anchor: Tensor, *, zero: bool) -> Tensor:
    """The mean where all clients have the same support; beside it zero, or what was there before."""
    present = one.values / one.weight
    if one.support.kind == "dense":
        return present.view(one.support.shape)
    if zero:
        return one.support.scatter(present)
    mean = anchor.clone(memory_format=torch.contiguous_format)
    mean.view(-1).index_copy_(0, one.support.positions, present)
    return mean


def server_step(
    weights: Tensors, target: Tensors, memory: Memory, *, optimizer: str = "none", lr: float = 1.0
) -> tuple[dict[str, Tensor], Memory]:
    """Move the global model towards ``target``: ``w + lr * (target - w)``, or the same through an optimizer.

    Args:
        weights: The model before the round.
        target: The average of what clients sent.
        memory: What the optimizer kept from the last round.
        optimizer: ``none``, ``momentum`` (0.9; FedAvgM, Hsu et al. 2019) or ``adam`` (beta 0.9 and 0.99, tau 1e-3;
            FedAdam, Reddi et al., ICLR 2021, algorithm 2: the second moment starts at tau squared and takes the
            square of the first moment, and there is no bias correction).
        lr: The step alpha; 1 with ``none`` is plain averaging and gives ``target`` bit for bit.

    Returns:
        The new weights and what to keep.

    Examples:
        >>> new, _ = server_step({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, Memory(), lr=0.1)
        >>> new["w"]
        tensor([1.1000])
    """
    step = SERVER_OPTIMIZERS[lookup("server optimizer", optimizer, list(SERVER_OPTIMIZERS))]
    if optimizer == "none" and lr == 1.0:
        return dict(target), memory
    moved, kept = dict(weights), dict(memory.tensors)
    for name, old in weights.items():
        own = Memory(memory.tensors).section(name).tensors
        change, memories = step(target[name] - old, own)
        moved[name] = old + lr * change
        kept.update(Memory(memories).under(name).tensors)
    return moved, Memory(kept)


def _none(delta: Tensor, memory: Tensors) -> tuple[Tensor, Tensors]:
    return delta, memory


def _momentum(delta: Tensor, memory: Tensors) -> tuple[Tensor, Tensors]:
    velocity = 0.9 * memory["velocity"] + delta if "velocity" in memory else delta
    return velocity, {"velocity": velocity}


def _adam(delta: Tensor, memory: Tensors) -> tuple[Tensor, Tensors]:
    first = 0.9 * memory.get("first", torch.zeros_like(delta)) + 0.1 * delta
    second = 0.99 * memory.get("second", torch.full_like(delta, ADAM_TAU**2)) + 0.01 * first.square()
    return first / (second.sqrt() + ADAM_TAU), {"first": first, "second": second}


SERVER_OPTIMIZERS: Mapping[str, Callable[[Tensor, Tensors], tuple[Tensor, Tensors]]] = {
    "none": _none,
    "momentum": _momentum,
    "adam": _adam,
}
