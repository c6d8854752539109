"""PruneFL: the mask follows what each weight gains for the time that it takes, so that the model finds its size.

Jiang et al. Model Pruning Enables Efficient Federated Learning on Edge Devices. IEEE TNNLS 34(12), 2023 (online 2022).
https://arxiv.org/abs/1909.12326

Symbols: Z_j = squared gradients of weight j, T(M) = c + sum_{j in M} t_j = time of a round with the weights M. Of every
layer the smallest ``drop`` share may go; from these and the absent ones weights join the rest by Z_j / t_j, while that
raises sum_M Z_j / T(M) (algorithm 2). At first one client prunes the initial model, until five times in a row its size
changes by 10 % at most; then clients train, and sum_k n_k Z_k of all reconfigures the mask every ``period`` rounds.
A weight of layer l takes t_l = ``communication`` + ``computation`` * u_l seconds; u_l, multiply-adds of an example over
weights of the layer, is counted by the client: 1 in a dense layer, the positions of a convolution's output.
Differs: the paper measures times on its devices; c is a share of what the whole model takes. The initial client is any
and trains ``initial_epochs`` on all its data before each of at most ``initial`` reconfigurations (the published code:
50 passes over 200 examples, once it is better than chance). None comes after ``until``, so that training follows the
last. Clients' increments are summed as the weights they lead to, the same on one mask. The code's cap may fall.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedbonsai.core.fields import DENSITY, NOT_NEGATIVE, PART, POSITIVE, ROUNDS, Range, check
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import adding_up
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import Selection, masks_of, supports_of
from fedbonsai.sparsity.worth import without_smallest, worth_their_time

STILL, CHANGE = 5, 0.1
"""The initial stage is over when the size changed so many times in a row by no more than this share."""


@dataclass(frozen=True, kw_only=True)
class PruneFL:
    """Adaptive pruning by gain a second.

    Attributes:
        drop: Share of a layer's weights that one reconfiguration may remove at first.
        halving: Rounds in which that share halves.
        period: Rounds between two reconfigurations; a short run has one.
        until: Share of the run after which the mask stays.
        max_density: Density beyond which no weight is added.
        initial: Most reconfigurations of the initial stage; 0 leaves it out.
        initial_epochs: Passes over the data before each of them.
        communication: Seconds a round to send a weight there and back.
        computation: Seconds a round to compute with a weight, for each time that one example uses it.
        fixed: Time of a round that does not depend on the mask, as a share of that of the whole model.
    """

    drop: Annotated[float, PART] = 0.3
    halving: Annotated[int, Range(1, inf)] = 10_000
    period: Annotated[int, Range(1, inf), ROUNDS] = 50
    until: Annotated[float, DENSITY] = 0.9
    max_density: Annotated[float, DENSITY] = 1.0
    initial: Annotated[int, Range(0, inf)] = 20
    initial_epochs: Annotated[int, Range(1, inf)] = 5
    communication: Annotated[float, POSITIVE] = 5.56e-6
    computation: Annotated[float, NOT_NEGATIVE] = 5e-8
    fixed: Annotated[float, POSITIVE] = 0.1

    name: ClassVar[str] = "prunefl"
    traits: ClassVar[Traits] = Traits(stateful=True)

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(1.0)
        return State(setting, weights, memory=Memory(numbers={"reconfigured": 0 if self.initial else 1}))

    def plan(self, state: State) -> Plan:
        return Plan() if state.memory.numbers["reconfigured"] else Plan("initial", cohort=1)

    def distribute(self, state: State, client: int) -> Message:
        del client
        due = Every.over(state.setting.rounds, self.period, self.until).due(state.round + 1)
        return model_task(state, due=float(due), reconfigured=float(state.memory.numbers["reconfigured"]))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        if task.stage == "initial":
            return self._initially(task, learner), memory
        summed = torch.zeros_like(learner.bench.flat)
        fit = learner.fit(task.dense(), task.supports(), objective=adding_up(summed))
        fresh = memory.numbers.get("reconfigured") != task.numbers["reconfigured"]
        importance = summed.cpu().square() + (0 if fresh else memory.tensors["importance"])
        update = trained(fit, task.supports())
        if task.numbers["due"]:
            found = learner.bench.views(importance)
            prunable = {name: found.pop(name) for name in learner.layout.prunable}
            facts = {f"uses/{name}": one for name, one in learner.uses().items()}
            facts["others"] = fit.examples * sum(float(one.sum()) for one in found.values())
            update = replace(update.with_numbers(**facts), groups={**update.groups, "importance": group(prunable)})
        return update, Memory({"importance": importance}, {"reconfigured": task.numbers["reconfigured"]})

    def finalize(self, state: State, total: Total) -> State:
        after = state.moved(average(total, state.weights))
        masks = masks_of(state.setting.layout, state.supports)
        if total.stage == "initial":
            masks = {name: total.groups["weights"][name].held() > 0 for name in masks}
        elif "importance" in total.groups:
            gains = {name: one.numerator for name, one in total.groups["importance"].items()}
            gains["others"] = torch.tensor(total.numbers["others"], dtype=torch.float64)
            uses = {name: total.numbers[f"uses/{name}"] / total.clients for name in masks}
            masks = self._reconfigured(after.weights, masks, gains, uses, state.round)
        else:
            return after
        times = int(state.memory.numbers["reconfigured"]) + 1
        return replace(after.moved(after.weights, supports_of(masks)), memory=Memory(numbers={"reconfigured": times}))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _initially(self, task: Message, learner: Learner) -> Message:
        """Prune the initial model on this client alone."""
        weights: Tensors = task.dense()
        masks, uses, still = masks_of(learner.layout, task.supports()), learner.uses(), 0
        for part in range(self.initial):
            squares, before = torch.zeros_like(learner.bench.flat), _size(masks)
            summed, epochs = adding_up(squares, power=2), self.initial_epochs
            fit = learner.fit(weights, supports_of(masks), epochs=epochs, part=part, objective=summed)
            weights = fit.weights
            masks = self._reconfigured(weights, masks, learner.bench.views(squares.cpu()), uses)
            still = still + 1 if abs(_size(masks) - before) <= CHANGE * before else 0
            if still == STILL:
                break
        return trained(fit, supports_of(masks))

    def _reconfigured(
        self, weights: Tensors, masks: Tensors, gains: Tensors, uses: Mapping[str, float], round_: int = 0
    ) -> dict[str, Tensor]:
        """The masks of the weights that are worth their time; what is not prunable is always kept."""
        kept = without_smallest(masks, weights, self.drop * 0.5 ** (round_ / self.halving))
        costs = {name: self.communication + self.computation * uses[name] for name in masks}
        fixed = self.fixed * sum(costs[name] * mask.numel() for name, mask in masks.items())
        others = sum(float(one.double().sum()) for name, one in gains.items() if name not in masks)
        most = round(self.max_density * sum(mask.numel() for mask in masks.values()))
        return worth_their_time({name: gains[name] for name in masks}, costs, kept, (others, fixed), most)


def _size(masks: Tensors) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
