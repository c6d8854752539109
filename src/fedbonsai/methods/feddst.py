"""FedDST: clients move their masks while they train, the server averages by holders and prunes back to the budget.

Bibikar et al. Federated Dynamic Sparse Training: Computing Less, Communicating Less, Yet Learning Better. AAAI 2022.
https://arxiv.org/abs/2112.09824

Symbols: S = 1 - ``density``, S_l that of layer l (ERK); alpha_r = ``alpha`` / 2 (1 + cos(pi r / R_end)) in round r
from 0; Delta R = ``period``, R_end = ``until`` of the run. A client in a readjustment round trains, prunes each layer
to S_l + (1 - S_l) alpha_r by magnitude, grows it back to S_l by the gradient's magnitude among absent weights, and
trains on. The server: w_j = sum_k n_k m_kj w_kj / sum_k n_k m_kj, zero where nobody holds j, then pruned to S_l by
magnitude.
Differs: rounds are readjustment rounds when their number from 1 is a multiple of ``period``. Growth never looks at
present weights: the authors' code lets it, and zeroes what it meets there. It takes the gradient of the client's first
batch, the code that of the last one seen. Momentum begins anew after the readjustment. The code's option that wants
several votes for a weight is not offered, nor the pairing with FedProx, nor a sparsity that grows over the run.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from fedbonsai.core.fields import DENSITY, ROUNDS, SHARE, Range, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Kernel, Total, average
from fedbonsai.federated.growth import quota, sparse_start, swap_share
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import fit_around, model_task, train, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.masks import keep_top
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import masks_of, supports_of
from fedbonsai.sparsity.updates import drop_and_grow


@dataclass(frozen=True, kw_only=True)
class FedDST:
    """Dynamic sparse training on the clients.

    Attributes:
        density: Share of the prunable weights that is present all the time; 0.2 in the paper.
        alpha: Share of a layer's present weights that a readjustment swaps at first; 0.01 in the paper.
        period: Rounds between two readjustments; 10 to 20 in the paper. A run that is shorter has one.
        until: Share of the rounds after which masks rest; 0.5 in the paper.
        first: Share of a readjustment round's training that comes before it; 0.9 (of ten epochs) in the authors' code.
    """

    density: Annotated[float, DENSITY] = 0.2
    alpha: Annotated[float, SHARE] = 0.01
    period: Annotated[int, Range(1, 10**6), ROUNDS] = 10
    until: Annotated[float, DENSITY] = 0.5
    first: Annotated[float, SHARE] = 0.9

    name: ClassVar[str] = "feddst"
    traits: ClassVar[Traits] = Traits(common_support=False)

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return sparse_start(setting, weights, self.density)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        every = Every.over(state.setting.rounds, self.period, self.until)
        return model_task(state, swap=swap_share(state, every, self.alpha))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        masks = masks_of(learner.layout, task.supports())
        counts = quota(masks, task.numbers["swap"])
        if not counts:
            return train(task, memory, learner)

        def swapped(weights: Tensors) -> dict[str, Support]:
            gradients = learner.gradients(weights, batches=1)
            moved = {
                name: drop_and_grow(masks[name], weights[name].abs(), gradients[name].abs(), count)
                for name, count in counts.items()
            }
            return supports_of(masks | moved)

        return trained(*fit_around(task, learner, self.first, swapped)), memory

    def finalize(self, state: State, total: Total) -> State:
        mean = average(total, state.weights, Kernel("weights", "holders", "zero"))
        masks = {}
        for name, mask in masks_of(state.setting.layout, state.supports).items():
            held = total.groups["weights"][name].held() > 0
            masks[name] = keep_top(torch.where(held, mean[name].abs(), -torch.inf), int(mask.sum()))
        return state.moved(mean, supports_of(masks))

    def model(self, state: State) -> Tensors:
        return state.weights
