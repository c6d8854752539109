"""FedTiny: choose a coarsely pruned model by its loss on the devices, then move its mask block by block.

Huang et al. Distributed Pruning Towards Tiny Neural Networks in Federated Learning. ICDCS 2023.
https://arxiv.org/abs/2212.01977

Symbols: C = ``candidates``, d = ``density``; every Delta R = ``period`` rounds until R_stop = ``until`` of the run, one
of ``blocks`` blocks of layers, from back to front, swaps a = ``alpha`` / 2 (1 + cos(pi t / R_stop)) |active| weights.
Choosing: the server prunes the initial weights by magnitude, with random layer densities, into C candidates. Clients
measure the batch-norm statistics of each, then, with their means, its validation loss; least sum_k n_k loss_k wins.
Moving: clients send the a largest gradients of absent weights, of one batch; the server grows the a largest of their
means, as zeros, and drops the a smallest weights that were there.
Differs: candidates are nested, so their weights are sent once, with C counts a layer. Layer densities are d (1 + u), u
uniform in +-``noise``, scaled so that each candidate has density d exactly. A model without batch norm is chosen by
loss alone. Blocks are runs of equally many layers; the paper's are the stages of its networks. t counts from 0.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch

from fedbonsai.core.fields import DENSITY, PART, ROUNDS, SHARE, Range, check
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Message, group
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.growth import cohort_mean, largest, quota, swap_share, swapped, with_gradients
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.budgets import jittered, spread
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import Selection, Supports, masks_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FedTiny:
    """Tiny models from the start, adjusted without dense gradients.

    Attributes:
        density: Share of the prunable weights that is present all the time; 0.01 to 0.1 in the paper.
        candidates: C, how many coarsely pruned models there are to choose from; 1 leaves no choice and asks nobody.
        noise: How far the layer densities of a candidate are from each other, relatively.
        alpha: Share of a layer's present weights that an adjustment at the very beginning would swap; 0.3 in the paper.
        period: Rounds between two adjustments; 10 in the paper. A run that is shorter has one.
        until: Share of the rounds after which the mask rests; 100 of 300 in the paper.
        blocks: How many blocks the layers form; 5 in the paper. 1 adjusts all layers at once.
    """

    density: Annotated[float, DENSITY] = 0.1
    candidates: Annotated[int, Range(1, 1000)] = 10
    noise: Annotated[float, PART] = 0.5
    alpha: Annotated[float, SHARE] = 0.3
    period: Annotated[int, Range(1, 10**6), ROUNDS] = 10
    until: Annotated[float, DENSITY] = 1 / 3
    blocks: Annotated[int, Range(1, 1000)] = 5

    name: ClassVar[str] = "fedtiny"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(self.density)
        state = State(setting, weights, memory=Memory(numbers={"stage": "measure"}))
        if self.candidates == 1:
            return self._chosen(state, 0)
        if any(slot.buffer for slot in setting.layout.slots):
            return state
        logger.info("fedtiny: without batch norm the %d candidates are told apart by loss alone", self.candidates)
        return replace(state, memory=Memory(numbers={"stage": "select"}))

    def plan(self, state: State) -> Plan:
        return Plan(str(state.memory.numbers["stage"]))

    def distribute(self, state: State, client: int) -> Message:
        del client
        if self.plan(state).stage == "train":
            return model_task(state, **self._adjustment(state))
        pool = self._pool(state.setting)
        counts = {name: torch.tensor([one[name] for one in pool]) for name in state.setting.layout.prunable}
        union = largest(state.weights, {name: int(each.max()) for name, each in counts.items()})
        measured = {str(i): group(state.memory.section(str(i)).tensors) for i in range(len(pool))}
        groups = {"weights": group(state.weights, union), "counts": group(counts), **measured}
        return Message({name: parts for name, parts in groups.items() if parts})

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        if task.stage != "train":
            return self._probe(task, learner), memory
        fit = learner.fit(task.dense(), task.supports())
        counts = self._quota(learner.layout, task.supports(), task.numbers)
        return with_gradients(trained(fit, task.supports()), fit, learner, counts), memory

    def finalize(self, state: State, total: Total) -> State:
        if total.stage == "train":
            counts = self._quota(state.setting.layout, state.supports, self._adjustment(state))
            return swapped(state.moved(average(total, state.weights)), total, counts)
        if total.stage == "select":
            return self._chosen(state, min(range(self.candidates), key=lambda i: total.numbers[f"loss {i}"]))
        means = [Memory(cohort_mean(total, key)).under(key) for key in total.groups]
        return replace(state, memory=Memory(numbers={"stage": "select"}).merge(*means))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _probe(self, task: Message, learner: Learner) -> Message:
        """Measure the statistics of every candidate, or its loss with the statistics of all clients."""
        weights, groups, losses = task.dense(), {}, {}
        for i in range(self.candidates):
            supports = largest(weights, {name: int(each[i]) for name, each in task.dense("counts").items()})
            candidate = {name: supports[name].apply(one) if name in supports else one for name, one in weights.items()}
            if task.stage == "measure":
                groups[str(i)] = group(learner.statistics(candidate))
            else:
                statistics = task.dense(str(i)) if str(i) in task.groups else {}
                losses[f"loss {i}"] = learner.evaluate(candidate | statistics).loss * learner.num_examples
        return Message(groups, losses, weight=float(learner.num_examples))

    def _chosen(self, state: State, winner: int) -> State:
        """Begin to train a candidate, with its statistics where the model shares them."""
        measured = state.memory.section(str(winner)).tensors
        weights = {name: measured.get(name, one) for name, one in state.weights.items()}
        after = state.moved(weights, largest(weights, self._pool(state.setting)[winner]))
        return replace(after, memory=Memory(numbers={"stage": "train"}))

    def _pool(self, setting: Setting) -> list[dict[str, int]]:
        """How many weights each layer keeps, in each candidate."""
        shapes = {name: setting.layout.shapes[name] for name in setting.layout.prunable}
        count, draw = round(self.density * Selection(setting.layout).total), generator(setting.seed, "candidates")
        shares = (jittered(shapes, self.noise, draw) for _ in range(self.candidates))
        return [spread(one, shapes, count, dict.fromkeys(shapes, 1)) for one in shares]

    def _adjustment(self, state: State) -> dict[str, float]:
        """The share of weights that this round swaps, and which adjustment of the run it is."""
        every = Every.over(state.setting.rounds, self.period, self.until)
        return {"swap": swap_share(state, every, self.alpha), "turn": (state.round + 1) // every.period}

    def _quota(self, layout: Layout, supports: Supports, numbers: Mapping[str, float]) -> dict[str, int]:
        """How many weights each layer of the block swaps whose turn it is, the last block first."""
        masks, blocks = masks_of(layout, supports), min(self.blocks, len(layout.prunable))
        place, size = -int(numbers["turn"]) % blocks, len(masks)
        block = layout.prunable[place * size // blocks : (place + 1) * size // blocks]
        return quota({name: masks[name] for name in block}, numbers["swap"])
