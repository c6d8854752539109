"""FedMef: what is about to be pruned gives its knowledge away first, and activations are pruned to save memory.

Huang et al. FedMef: Towards Memory-efficient Federated Dynamic Pruning. CVPR 2024. https://arxiv.org/abs/2403.14737

Symbols: every ``period`` rounds until T_end = ``until`` of the run each layer swaps k = ``alpha`` / 2 (1 + cos(pi t /
T_end)) |active| weights, as FedTiny does. theta_low are the k smallest active weights of each layer when such a round
begins. Budget-aware extrusion: its loss is F + lambda ||theta_low||_2, lambda = ``penalty``, and the learning rate of
step b of B is min(xi, max(lr, psi lr_0 (2B - 2b) / (2B - b) (2 sigmoid(||theta_low||_1) - 1))), with psi = ``boost``
and xi = ``max_lr``; lr is that of the round, lr_0 that of the first one. Activation pruning: convolutions and linear
layers keep the 1 - gamma largest of their inputs for the backward pass, gamma = ``activation``.
Differs: theta_low is looked for among active weights; in the published code, among all, it is already zero. The paper
normalises convolutions (NSConv) so that small activations matter less: that is the model's, and not done here. It
starts from a random mask, its code and this from the largest initial weights, by ERK. t counts from 0.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedbonsai.core.fields import DENSITY, NOT_NEGATIVE, PART, POSITIVE, ROUNDS, SHARE, Range, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.growth import quota, sparse_start, swap_share, swapped, weakest, with_gradients
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.activations import pruned_activations
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Live, Moment, Objective, nothing
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import masks_of


@dataclass(frozen=True, kw_only=True)
class FedMef:
    """Dynamic pruning with extrusion and pruned activations.

    Attributes:
        density: Share of the prunable weights that is present all the time; 0.1 in the authors' code.
        alpha: Share of a layer's present weights that an adjustment at the very beginning would swap; 0.2 in the code.
        period: Rounds between two adjustments; 10 in the code. A run that is shorter has one.
        until: Share of the rounds after which the mask rests; 0.5 by default.
        penalty: lambda, how hard weights are pushed out; 0.01 in the code.
        boost: psi, how much the learning rate may grow while they are; 1 in the code.
        max_lr: xi, the largest learning rate of a round with an adjustment, whatever the run's; 0.1 in
            the code's documentation, 0.01 in the code.
        activation: gamma, share of a layer's saved input that is dropped; 0 keeps all; 0.5 in the code.
    """

    density: Annotated[float, DENSITY] = 0.1
    alpha: Annotated[float, SHARE] = 0.2
    period: Annotated[int, Range(1, 10**6), ROUNDS] = 10
    until: Annotated[float, DENSITY] = 0.5
    penalty: Annotated[float, NOT_NEGATIVE] = 0.01
    boost: Annotated[float, NOT_NEGATIVE] = 1.0
    max_lr: Annotated[float, POSITIVE] = 0.1
    activation: Annotated[float, PART] = 0.5

    name: ClassVar[str] = "fedmef"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return sparse_start(setting, weights, self.density)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        return model_task(state, swap=self._share(state))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        masks = masks_of(learner.layout, task.supports())
        counts = quota(masks, task.numbers["swap"])
        low = learner.near({name: one.positions for name, one in weakest(task.dense(), masks, counts).items()})
        fit = learner.fit(task.dense(), task.supports(), objective=self._objective(low, learner.bench.work.lr))
        return with_gradients(trained(fit, task.supports()), fit, learner, counts), memory

    def finalize(self, state: State, total: Total) -> State:
        counts = quota(masks_of(state.setting.layout, state.supports), self._share(state))
        return swapped(state.moved(average(total, state.weights)), total, counts)

    def model(self, state: State) -> Tensors:
        return state.weights

    def _share(self, state: State) -> float:
        return swap_share(state, Every.over(state.setting.rounds, self.period, self.until), self.alpha)

    def _objective(self, low: Tensors, first_lr: float) -> Objective:
        """Activation pruning, and extrusion where weights are about to go."""
        around = partial(pruned_activations, share=self.activation) if self.activation else nothing
        if not low:
            return Objective(around=around)

        def going(live: Live) -> Tensor:
            return torch.cat([live.weights[name].reshape(-1)[one] for name, one in low.items()])

        def push(live: Live) -> Tensor:
            norm: Tensor = torch.linalg.vector_norm(going(live))
            return self.penalty * norm

        def rate(live: Live, moment: Moment) -> float:
            left = (2 * moment.steps - 2 * moment.step) / (2 * moment.steps - moment.step)
            weight = 2 * float(going(live).detach().abs().sum().sigmoid()) - 1
            return min(self.max_lr, max(moment.lr, self.boost * first_lr * left * weight))

        return Objective(penalty=push, learning_rate=rate, around=around)
