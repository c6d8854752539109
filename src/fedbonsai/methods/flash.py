"""FLASH: a few clients find how dense each layer should be, and one mask with these densities is trained by all.

Babakniya et al. Revisiting Sparsity Hunting in Federated Learning: Why Does Sparsity Consensus Matter? TMLR 2023.
https://arxiv.org/abs/2208.13092

Symbols: d = ``density``, E = ``hunt_epochs``, p = ``prune_rate``. Stage 1: a part of the clients train from one random
mask for E epochs; after epoch e they drop the p (1 - e / E) of each layer that is smallest and grow as much at random,
in layers in proportion to their mean |w|. The server draws one random mask with the mean density of each layer, and
trains the model as it was initialised. Stage 2, SPDST: FedAvg on that mask. JMWST: every r_int = ``interval`` rounds
clients also move their masks while they train; the server averages, absent weights being zeros (mode 0, ``cohort``) or
left out (mode 1, ``holders``), and keeps the largest |w| of each layer, as many as the clients have kept there on
average (avg) or in proportion to what any of them has (aggregate).
Differs: hunters send how many weights of each layer they keep, all of a mask that is used; epoch E moves none and is
left out. In stage 2 a mask moves once, by p / 2 after half of the steps, as in the authors' code with one local epoch.
Averages are weighted by examples, the code's are not; counts are exact, the code draws each weight and grows what it
has just dropped. Layers are tensors of two or more dimensions and keep a weight at least. hetero-FLASH is not offered.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch

from fedbonsai.core.fields import DENSITY, ROUNDS, Only, Range, check
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Message, group
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Denominator, Kernel, Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import fit_around, model_task, train, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.budgets import keep_counts, spread, uniform
from fedbonsai.sparsity.scores import random
from fedbonsai.sparsity.selection import Selection, Supports, masks_of, supports_of
from fedbonsai.sparsity.updates import redistribute


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Federated lottery-aware sparsity hunting.

    Attributes:
        density: d, share of the prunable weights that is present all the time; 0.05 to 0.25 in the paper.
        variant: ``spdst`` keeps the mask that stage 1 has found, ``jmwst`` lets clients move it.
        hunters: Share of the clients that take part in stage 1; 0.1 in the paper, at least one.
        hunt_epochs: E, local epochs of stage 1; 10 in the paper.
        prune_rate: p, share of each layer that a client moves at first; 0.25 in the paper.
        interval: r_int, rounds between two masks of ``jmwst``, the first being one; 1 in the paper.
        denominator: Average a weight over the whole cohort (mode 0) or over those that hold it (mode 1).
        recalibration: What the number of weights in each layer follows: the clients' average, or all that any has.
    """

    density: Annotated[float, DENSITY] = 0.05
    variant: Literal["spdst", "jmwst"] = "spdst"
    hunters: Annotated[float, DENSITY] = 0.1
    hunt_epochs: Annotated[int, Range(2, 10**4)] = 10
    prune_rate: Annotated[float, DENSITY] = 0.25
    interval: Annotated[int, Range(1, 10**6), ROUNDS, Only("variant", ("jmwst",))] = 1
    denominator: Annotated[Denominator, Only("variant", ("jmwst",))] = "cohort"
    recalibration: Annotated[Literal["avg", "aggregate"], Only("variant", ("jmwst",))] = "avg"

    name: ClassVar[str] = "flash"
    traits: ClassVar[Traits] = Traits(common_support=False)

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(self.density)
        return State(setting, weights, memory=Memory(numbers={"hunted": self.density == 1.0}))

    def plan(self, state: State) -> Plan:
        if state.memory.numbers["hunted"]:
            return Plan()
        return Plan("hunt", cohort=max(1, round(self.hunters * state.setting.clients)))

    def distribute(self, state: State, client: int) -> Message:
        del client
        if state.memory.numbers["hunted"]:
            return model_task(state, move=1.0) if self._moves(state) else model_task(state)
        alike = self._spread(state.setting.layout, uniform(_shapes(state.setting.layout)))
        return Message({"weights": group(state.weights, _drawn(state.setting, "first mask", alike))})

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        if task.stage != "train":
            return self._hunt(task, learner), memory
        if "move" not in task.numbers:
            return train(task, memory, learner)
        move = partial(_moved, learner, task.supports(), epoch=0, rate=self.prune_rate / 2)
        return trained(*fit_around(task, learner, 0.5, move)), memory

    def finalize(self, state: State, total: Total) -> State:
        layout = state.setting.layout
        if total.stage != "train":
            # Numbers from outside may be anything.
            most = {name: float(total.clients * math.prod(shape)) for name, shape in _shapes(layout).items()}
            shares = {name: min(max(total.numbers[f"kept/{name}"], 0.0), one) for name, one in most.items()}
            counts = self._spread(layout, shares)
            after = state.moved(state.weights, _drawn(state.setting, "mask", counts))
            return replace(after, memory=Memory(numbers={"hunted": True}))
        mean = average(total, state.weights, Kernel("weights", self.denominator, "zero"))
        if not self._moves(state):
            return state.moved(mean)
        held = {name: total.groups["weights"][name].held() for name in layout.prunable}
        kept = {name: (one > 0) if self.recalibration == "aggregate" else one for name, one in held.items()}
        counts = self._spread(layout, {name: float(one.double().sum()) for name, one in kept.items()})
        sizes = {name: torch.where(one > 0, mean[name].abs(), -torch.inf) for name, one in held.items()}
        return state.moved(mean, supports_of(keep_counts(sizes, counts)))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _hunt(self, task: Message, learner: Learner) -> Message:
        """Train and move the mask epoch by epoch; say how many weights of each layer are left in the end."""
        supports = task.supports()
        weights: Tensors = task.dense()
        for epoch in range(1, self.hunt_epochs):
            weights = learner.fit(weights, supports, epochs=1, part=epoch).weights
            rate = self.prune_rate * (1 - epoch / self.hunt_epochs)
            supports = _moved(learner, supports, weights, epoch=epoch, rate=rate)
        kept = {f"kept/{name}": float(mask.sum()) for name, mask in masks_of(learner.layout, supports).items()}
        return Message({}, kept, weight=float(learner.num_examples))

    def _moves(self, state: State) -> bool:
        return self.variant == "jmwst" and self.density < 1.0 and state.round % self.interval == 0

    def _spread(self, layout: Layout, kept: Mapping[str, float]) -> dict[str, int]:
        """Weights of each layer in proportion to what clients keep there."""
        return spread(kept, _shapes(layout), round(self.density * Selection(layout).total), dict.fromkeys(kept, 1))


def _shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    return {name: layout.shapes[name] for name in layout.prunable}


def _drawn(setting: Setting, purpose: str, counts: Mapping[str, int]) -> dict[str, Support]:
    """The supports of a random mask with ``counts`` weights in each layer."""
    draw, shapes = generator(setting.seed, purpose), setting.layout.shapes
    return supports_of(keep_counts({name: random(torch.empty(shapes[name]), draw) for name in counts}, counts))


def _moved(learner: Learner, supports: Supports, weights: Tensors, epoch: int, rate: float) -> dict[str, Support]:
    """The supports after the smallest weights have been dropped and as many others have been grown."""
    draw = generator(learner.seed, f"regrow {epoch}", learner.turn, learner.client)
    return supports_of(redistribute(masks_of(learner.layout, supports), weights, rate, draw))
