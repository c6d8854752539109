"""FL-SNIP: clients score the untrained weights once, and the best of the sum are trained; also SSFL.

Ohib et al. SSFL: Discovering Sparse Unified Subnetworks at Initialization for Efficient Federated Learning. TMLR 2026.
https://arxiv.org/abs/2405.09037
Lee et al. SNIP. ICLR 2019. Wang et al. GraSP. ICLR 2020. Tanaka et al. SynFlow. NeurIPS 2020.

Symbols: w_0 = initial weights, g_k = gradient of client k on ``batches`` batches, s_k = |g_k * w_0| its saliency, p_k
its share of the examples. Before round 1 clients send s_k; the server keeps the largest ``density`` N of s = sum_k p_k
s_k in all layers together and sends that mask once; then FedAvg of the masked model.
Other criteria take the place of s_k: GraSP w * (H g), signed; SynFlow |dR/dw * w|, in ``cuts`` steps from all weights
to ``density``, each by the same factor; ``magnitude`` and ``random`` ask no client, the server scores alone.
Differs: SynFlow looks at no data, so the clients of one cohort all find the same mask; they send the mask, not scores
that would add nothing. Only tensors of two or more dimensions are scored, and every layer keeps at least one weight.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.core.fields import DENSITY, Only, Range, check
from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, train
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.budgets import select
from fedbonsai.sparsity.schedules import exponential
from fedbonsai.sparsity.scores import grasp, magnitude, random, synflow, taylor
from fedbonsai.sparsity.selection import Selection, supports_of


@dataclass(frozen=True, kw_only=True)
class FLSnip:
    """Pruning at initialisation, by the saliency of all clients' data.

    Attributes:
        density: Share of the prunable weights to keep; 0.05 to 0.5 in the papers.
        criterion: What a score is; ``snip`` in SSFL. ``random`` is the opponent that every criterion must beat.
        budget: Compare scores over all layers (global, as in the papers), or also within shares of the layers.
        scorers: Who scores: everybody, as in SSFL, or one cohort.
        batches: Batches that each client scores on; 1 in SSFL.
        cuts: Cuts that SynFlow makes; 100 in its paper.
    """

    density: Annotated[float, DENSITY] = 0.2
    criterion: Literal["snip", "grasp", "synflow", "random", "magnitude"] = "snip"
    budget: Literal["global", "uniform", "erk", "lamp"] = "global"
    scorers: Annotated[Literal["all", "sampled"], Only("criterion", ("snip", "grasp"))] = "all"
    batches: Annotated[int, Range(1, 10**6), Only("criterion", ("snip", "grasp"))] = 1
    cuts: Annotated[int, Range(1, 10**4), Only("criterion", ("synflow",))] = 100

    name: ClassVar[str] = "fl-snip"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)
        if self.budget == "lamp" and self.criterion in ("grasp", "synflow"):
            raise ConfigError(f"budget=lamp rescales sizes, {self.criterion} scores are none; use global")

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(self.density)
        state = State(setting, weights, memory=Memory(numbers={"scored": True}))
        names, draw = setting.layout.prunable, generator(setting.seed, "scores")
        if self.density == 1.0:
            return state
        if self.criterion == "random":
            return self._masked(state, {name: random(weights[name], draw) for name in names})
        if self.criterion == "magnitude":
            return self._masked(state, {name: magnitude(weights[name]) for name in names})
        return replace(state, memory=Memory(numbers={"scored": False}))

    def plan(self, state: State) -> Plan:
        if state.memory.numbers["scored"]:
            return Plan()
        return Plan("score", "sampled" if self.criterion == "synflow" else self.scorers)

    def distribute(self, state: State, client: int) -> Message:
        del client
        return model_task(state)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        if task.stage == "train":
            return train(task, memory, learner)
        scores = self._flow(task, learner) if self.criterion == "synflow" else group(self._scores(task, learner))
        for name, part in scores.items():
            if not bool(part.values.isfinite().all()):
                raise ClientError(f"{name}: the {self.criterion} score must be finite; use another criterion")
        return Message({"scores": scores}, weight=float(learner.num_examples)), memory

    def finalize(self, state: State, total: Total) -> State:
        if total.stage == "train":
            return state.moved(average(total, state.weights))
        after = self._masked(state, {name: one.numerator for name, one in total.groups["scores"].items()})
        return replace(after, memory=Memory(numbers={"scored": True}))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _masked(self, state: State, scores: Tensors) -> State:
        return state.moved(state.weights, supports_of(self._select(scores, self.density)))

    def _select(self, scores: Tensors, density: float) -> dict[str, Tensor]:
        count = round(density * sum(one.numel() for one in scores.values()))
        return select(scores, count, self.budget, dict.fromkeys(scores, 1))

    def _scores(self, task: Message, learner: Learner) -> dict[str, Tensor]:
        """s_k: the saliency of every prunable weight on this client's data."""
        weights, probe = task.dense(), learner.gradients if self.criterion == "snip" else learner.hessian_gradient
        gradients, function = probe(weights, batches=self.batches), taylor if self.criterion == "snip" else grasp
        return {name: function(weights[name], gradients[name]) for name in learner.layout.prunable}

    def _flow(self, task: Message, learner: Learner) -> dict[str, Part]:
        """The mask that SynFlow comes to, as ones where it keeps a weight."""
        weights = task.dense()
        masks = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in learner.layout.prunable}
        for step in range(1, self.cuts + 1):
            cut = {**weights, **{name: torch.where(mask, weights[name], 0.0) for name, mask in masks.items()}}
            flow = learner.flow_gradient(cut)
            scores = {
                name: torch.where(mask, synflow(cut[name], flow[name]), -torch.inf) for name, mask in masks.items()
            }
            masks = self._select(scores, exponential(step / self.cuts, 1.0, self.density))
        supports = {name: Support.masked(mask) for name, mask in masks.items()}
        return {name: Part(torch.ones(support.count), support) for name, support in supports.items()}
