"""FedDIP: magnitude pruning of one global mask, with error feedback, and a penalty that grows over the run.

Long et al. FedDIP: Federated Learning with Extreme Dynamic Pruning and Incremental Regularization. ICDM 2023.
https://arxiv.org/abs/2309.06805

Symbols: w = weights, m = mask, w' = w * m. Sparsity s_t = s_p + (s_0 - s_p) (1 - t / T)^3 with s_0 = 1 -
``initial_density`` and s_p = 1 - ``density``; the mask is taken anew from the mean of the clients' w every R =
``period`` rounds. Error feedback: w <- w - eta grad F(w'), so a pruned weight collects its gradients and may come back.
Clients minimise F + lambda_t sum_l ||w'_l||_2 over the pruned layers l; lambda_t = 0 in the first of Q = ``stairs``
equal parts of the run, lambda_max = ``penalty`` in the last, with equal steps between. The first convolution and the
last layer are kept whole; the first mask is random with Erdős-Rényi-kernel layers.
Differs: on a small model, where whole ends would leave no room for ``density``, they are pruned too. What a pruned
weight has collected is sent in rounds that end with a new mask and dropped in all others, where it would change nothing
but that. The authors' code begins the stairs at 5e-4, here at an equal step. It counts the density over the pruned
layers, here, as everywhere, over all prunable weights. Its optimizer also decays weights by 5e-4 and its learning rate
by 0.998 a round; both are settings of the run. T is the last multiple of R in the run.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import DENSITY, NOT_NEGATIVE, ROUNDS, Range, check
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Message
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Live, Objective
from fedbonsai.sparsity.budgets import select
from fedbonsai.sparsity.schedules import Every, cubic
from fedbonsai.sparsity.scores import random
from fedbonsai.sparsity.selection import Selection, masks_of, supports_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FedDIP:
    """Dynamic pruning with feedback and incremental regularization.

    Attributes:
        density: Share of the prunable weights to keep in the end, 1 - s_p; 0.05 to 0.2 in the paper.
        initial_density: Share to begin with, 1 - s_0; 1 begins with the whole model.
        period: R, rounds between two masks; a run that is shorter has one.
        penalty: lambda_max, weight of the penalty at the end; 0 is without.
        stairs: Q, parts of the run with a weight each; 20 in the paper.
        feedback: Whether a pruned weight collects gradients and may come back.
    """

    density: Annotated[float, DENSITY] = 0.1
    initial_density: Annotated[float, DENSITY] = 1.0
    period: Annotated[int, Range(1, 10**6), ROUNDS] = 5
    penalty: Annotated[float, NOT_NEGATIVE] = 1e-3
    stairs: Annotated[int, Range(2, 10**6)] = 20
    feedback: bool = True

    name: ClassVar[str] = "feddip"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)
        if self.density > self.initial_density:
            raise ConfigError(
                f"density must not be above initial_density, got {self.density} and {self.initial_density}"
            )

    def init(self, setting: Setting, weights: Tensors) -> State:
        layout, layers = setting.layout, pruned_layers(setting.layout, self.density)
        Selection(layout).require(self.density)
        if layers == layout.prunable:
            logger.warning("feddip: density %g leaves no room for whole end layers; they are pruned too", self.density)
        state, total = State(setting, weights), Selection(layout).total
        if self.initial_density == 1.0:
            return state
        draw = generator(setting.seed, "initial mask")
        scores = {name: random(weights[name], draw) for name in layers}
        count = round(self.initial_density * total) - _size(layout, exclude=layers)
        return state.moved(weights, supports_of(select(scores, count, "erk", dict.fromkeys(layers, 1))))

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        part = self.stairs * state.round // state.setting.rounds
        collect = self.feedback and self._times(state).due(state.round + 1)
        return model_task(state, penalty=self.penalty * part / (self.stairs - 1), collect=float(collect))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        supports, weight = task.supports(), task.numbers["penalty"]
        masks = masks_of(learner.layout, supports)
        layers = learner.near({name: masks[name].float() for name in pruned_layers(learner.layout, self.density)})
        objective = Objective(
            penalty=partial(_penalty, weight, layers) if weight else None,
            effective=partial(_fed_back, layers) if task.numbers["collect"] and supports else None,
        )
        present = {} if task.numbers["collect"] else supports
        return trained(learner.fit(task.dense(), present, objective=objective), present), memory

    def finalize(self, state: State, total: Total) -> State:
        mean, finished, times = average(total, state.weights), state.round + 1, self._times(state)
        if not times.due(finished):
            return state.moved(mean)
        layout, layers = state.setting.layout, pruned_layers(state.setting.layout, self.density)
        rest = Selection(Layout(tuple(slot for slot in layout.slots if slot.name in layers)))
        density = cubic(finished / times.last, self.initial_density, self.density)
        share = (density * Selection(layout).total - _size(layout, exclude=layers)) / rest.total
        return state.moved(mean, rest.largest(mean, {} if self.feedback else state.supports, share))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _times(self, state: State) -> Every:
        return Every.over(state.setting.rounds, self.period, 1.0)


def pruned_layers(layout: Layout, density: float) -> tuple[str, ...]:
    """The prunable layers but the first, if it is a convolution, and the last; all where those two leave no room."""
    convolution = len(layout.shapes[layout.prunable[0]]) > 2 if layout.prunable else False
    inner = layout.prunable[int(convolution) : -1]
    fits = _size(layout, exclude=inner) + len(inner) <= round(density * _size(layout))
    return inner if inner and fits else layout.prunable


def _size(layout: Layout, exclude: tuple[str, ...] = ()) -> int:
    return sum(slot.numel for slot in layout.slots if slot.prunable and slot.name not in exclude)


def _penalty(weight: float, masks: Tensors, live: Live) -> Tensor:
    """lambda_t sum_l ||w'_l||_2."""
    return weight * torch.stack([torch.linalg.vector_norm(live.weights[name] * masks[name]) for name in masks]).sum()


def _fed_back(masks: Tensors, live: Live) -> dict[str, Tensor]:
    """Put w' in place of w, and let the gradients go to all of w."""
    weights = {name: live.weights[name] for name in masks}
    return {name: one + (one * masks[name] - one).detach() for name, one in weights.items()}
