"""FedRTS: the mask is a sample of what is believed of every weight, and all that happens updates the belief.

Huang et al. FedRTS: Federated Robust Pruning via Combinatorial Thompson Sampling. NeurIPS 2025.
https://arxiv.org/abs/2501.19122

Symbols: every weight i has a posterior Beta(alpha_i, beta_i), (1, 1) at first. Each layer has K present weights; k =
floor(a_t K), a_t = ``alpha`` / 2 (1 + cos(pi t / T_end)); kappa = K - k; gamma = ``gamma``, lambda = ``step``, p_k =
n_k / n. Each round a present weight has the outcome X_i = (1 - gamma) 1[i in top-kappa of |w|] + gamma sum_k p_k
1[i in top-kappa of |w_k|]. Every Delta T = ``period`` rounds until T_end = ``until`` of the run, clients name the k
absent weights of the largest gradients, idx_k, and an absent one has X_i = (1 - gamma) / 2 + gamma sum_k p_k
1[i in idx_k]. Then alpha_i += lambda X_i, beta_i += lambda (1 - X_i), and the new mask is the top-K of a sample.
Differs: a server that sees sums alone has no |w_k|, so clients send their votes. They name their k smallest weights,
which says the same in fewer bytes; a vote is a one on a mask, and costs little more than its place. After T_end nothing
is drawn any more, so nothing is voted on. t counts from 0; gradients are of one batch.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta

from fedbonsai.core.fields import DENSITY, POSITIVE, ROUNDS, SHARE, Range, check
from fedbonsai.core.message import Message
from fedbonsai.core.seeds import seeded
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.growth import cohort_mean, parts_on, promising, quota, sparse_start, weakest
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.masks import keep_top
from fedbonsai.sparsity.schedules import Every
from fedbonsai.sparsity.selection import masks_of, supports_of


@dataclass(frozen=True, kw_only=True)
class FedRTS:
    """Masks by Thompson sampling.

    Attributes:
        density: Share of the prunable weights that is present all the time; 0.1 in the authors' code.
        alpha: Share of a layer's present weights that are called weak at the very beginning; 0.2 in the code.
        period: Rounds between two new masks; 10 in the code. A run that is shorter has one.
        until: Share of the rounds after which the mask rests; 0.5 by default.
        gamma: How much the clients' votes count beside the averaged model; 0.5 in the code.
        step: lambda, how much a round's outcome adds to the posterior; 10 in the code, 1 in its documentation.
    """

    density: Annotated[float, DENSITY] = 0.1
    alpha: Annotated[float, SHARE] = 0.2
    period: Annotated[int, Range(1, 10**6), ROUNDS] = 10
    until: Annotated[float, DENSITY] = 0.5
    gamma: Annotated[float, SHARE] = 0.5
    step: Annotated[float, POSITIVE] = 10.0

    name: ClassVar[str] = "fedrts"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        ones = Memory({name: torch.ones(setting.layout.shapes[name]) for name in setting.layout.prunable})
        state = sparse_start(setting, weights, self.density)
        return replace(state, memory=ones.under("alpha").merge(ones.under("beta")))

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        share, due = self._moment(state)
        return model_task(state, share=share, due=due)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        fit = learner.fit(task.dense(), task.supports())
        update = trained(fit, task.supports())
        masks = masks_of(learner.layout, task.supports())
        counts = quota(masks, task.numbers["share"])
        votes = {"weak": weakest(fit.weights, masks, counts)}
        if task.numbers["due"] and counts:
            votes["grow"] = promising(learner.gradients(fit.weights, batches=1), masks, counts)
        ones = {name: torch.ones(masks[name].shape) for name in counts}
        sent = {key: parts_on(ones, one) for key, one in votes.items() if one}
        return replace(update, groups={**update.groups, **sent}), memory

    def finalize(self, state: State, total: Total) -> State:
        after = state.moved(average(total, state.weights))
        share, due = self._moment(state)
        if not share:
            return after
        masks = masks_of(state.setting.layout, state.supports)
        outcomes = self._outcomes(after.weights, masks, share, total)
        alpha, beta = dict(state.memory.section("alpha").tensors), dict(state.memory.section("beta").tensors)
        for name, outcome in outcomes.items():
            played = self.step * (masks[name] | due)
            alpha[name], beta[name] = alpha[name] + played * outcome, beta[name] + played * (1 - outcome)
        after = replace(after, memory=Memory(alpha).under("alpha").merge(Memory(beta).under("beta")))
        if not due:
            return after
        with seeded(state.setting.seed, "posterior", state.turn):
            drawn = {name: Beta(alpha[name].double(), beta[name].double()).sample() for name in masks}
        return after.moved(after.weights, supports_of({n: keep_top(drawn[n], int(masks[n].sum())) for n in masks}))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _outcomes(self, weights: Tensors, masks: Tensors, share: float, total: Total) -> dict[str, Tensor]:
        """X_i of every weight; that of an absent one counts only when clients were asked for gradients."""
        weak = weakest(weights, masks, quota(masks, share))
        votes, grow = cohort_mean(total, "weak"), cohort_mean(total, "grow")
        found = {}
        for name, mask in masks.items():
            none = torch.zeros(mask.shape)
            own = weak[name].indicator().float() if name in weak else none
            present = (1 - self.gamma) * (1 - own) + self.gamma * (1 - votes.get(name, none))
            absent = (1 - self.gamma) / 2 + self.gamma * grow.get(name, none)
            found[name] = torch.where(mask, present, absent)
        return found

    def _moment(self, state: State) -> tuple[float, bool]:
        """a_t, 0 once the mask rests; and whether this round ends with a new mask."""
        every = Every.over(state.setting.rounds, self.period, self.until)
        share = every.share(state.round, self.alpha) if state.round < every.until else 0.0
        return share, every.due(state.round + 1)
