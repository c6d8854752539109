"""FedPM: weights stay random, clients learn which of them to use; a bit a weight goes up.

Isik et al. Sparse Random Networks for Communication-Efficient Federated Learning. ICLR 2023.
https://arxiv.org/abs/2209.15328

Symbols: w_init = frozen weights, +-sigma with sigma the deviation of Kaiming's normal start; s = the scores that are
trained, theta = sigmoid(s) = probability mask. A step runs with w_init * m, m ~ Bern(theta), the gradient straight
through m. A client sends one m_k ~ Bern(theta_k). The server's beliefs Beta(alpha, beta) begin at lambda_0 = 1, alpha
grows by sum m_k, beta by sum (1 - m_k), and theta = (alpha - 1) / (alpha + beta - 2), which is the mean of all masks
since the beliefs were reset (algorithms 1 and 2). The paper trains scores with Adam: ``optimizer="adam"``, ``lr=0.1``.
Differs: the paper's networks are weights alone; here what is no matrix or kernel (biases, norms) stays as the model was
made, frozen too, and batch-norm statistics are averaged. Clients clip theta to [0.01, 0.99],
where scores are finite.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import POSITIVE, ROUNDS, Range, check
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Live, Objective

CERTAIN = 0.01
"""How near to 0 and 1 a probability may come for its score."""


@dataclass(frozen=True, kw_only=True)
class FedPM:
    """Probability masks over random weights.

    Attributes:
        reset: Rounds after which the server forgets its beliefs; the paper's is one over the share of clients a round.
        gain: sigma is gain / sqrt(fan-in); sqrt(2) is Kaiming's for ReLU, the published code has e.
    """

    reset: Annotated[int, Range(1, math.inf, open_high=True), ROUNDS] = 1
    gain: Annotated[float, POSITIVE] = math.sqrt(2)

    name: ClassVar[str] = "fedpm"
    traits: ClassVar[Traits] = Traits(common_support=False, sends_weights=False)

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        """The weights of the state are theta; the scores begin normal."""
        if not setting.layout.prunable:
            raise ConfigError("fedpm masks parameters of two or more dimensions, this model has none; use fedavg")
        draw = generator(setting.seed, "fedpm probabilities")
        theta = {name: torch.randn(weights[name].shape, generator=draw).sigmoid() for name in setting.layout.prunable}
        return State(setting, {**weights, **theta})

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        frozen = {slot.name for slot in state.setting.layout.parameters if not slot.prunable}
        return Message({"weights": group({name: one for name, one in state.weights.items() if name not in frozen})})

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        layout, sent = learner.layout, task.dense()
        begin = {name: sent[name].clamp(CERTAIN, 1 - CERTAIN).logit() for name in layout.prunable}
        rest = {name: one for name, one in sent.items() if name not in begin}
        random = learner.near(self._random(layout, learner.seed))
        fixed = {slot.name: learner.bench.initial[slot.name] for slot in layout.parameters if not slot.prunable}

        frozen = learner.near(fixed)

        def effective(live: Live) -> Mapping[str, Tensor]:
            return frozen | {name: random[name] * sampled(live.weights[name]) for name in random}

        fit = learner.fit(begin | rest, objective=Objective(effective=effective))
        draw = generator(learner.seed, "fedpm mask", learner.turn, learner.client)
        masks = {name: Support.masked(drawn(fit.weights[name].sigmoid(), draw)) for name in begin}
        groups = {"masks": {name: Part(torch.ones(mask.count), mask) for name, mask in masks.items()}}
        if rest:
            groups["weights"] = group({name: fit.weights[name] for name in rest})
        return Message(groups, {"loss": fit.loss}, weight=1.0), memory

    def finalize(self, state: State, total: Total) -> State:
        fresh = state.round % self.reset == 0
        before = {} if fresh else state.memory.tensors
        votes = total.weight + (0.0 if fresh else float(state.memory.numbers["votes"]))
        ones = {name: before.get(name, 0.0) + one.numerator for name, one in total.groups["masks"].items()}
        theta = {name: one / votes for name, one in ones.items()}
        after = state.moved({**average(total, state.weights), **theta})
        return replace(after, memory=Memory(ones, {"votes": votes}) if self.reset > 1 else Memory())

    def model(self, state: State) -> Tensors:
        """The random network under one mask, the same whenever it is asked for."""
        return self._masked(state.weights, state.setting.layout, state.setting.seed, state.turn)

    def personal_model(self, task: Message, memory: Memory, learner: Learner) -> Tensors:
        """The same on a client."""
        del memory
        return self._masked(task.dense(), learner.layout, learner.seed, learner.turn)

    def _masked(self, weights: Tensors, layout: Layout, seed: int, turn: int) -> dict[str, Tensor]:
        draw = generator(seed, "fedpm model", turn)
        random = self._random(layout, seed)
        masks = {name: drawn(weights[name], draw) for name in random}
        return {**weights, **{name: one * masks[name] for name, one in random.items()}}

    def _random(self, layout: Layout, seed: int) -> dict[str, Tensor]:
        """The frozen weights, which both sides make of the seed."""
        draw, shapes = generator(seed, "fedpm weights"), {name: layout.shapes[name] for name in layout.prunable}
        signs = {name: torch.randint(2, shape, generator=draw) * 2.0 - 1 for name, shape in shapes.items()}
        return {name: one * (self.gain / math.sqrt(math.prod(shapes[name][1:]))) for name, one in signs.items()}


def drawn(theta: Tensor, generator: torch.Generator) -> Tensor:
    """A mask, True with probability ``theta``."""
    return torch.rand(theta.shape, generator=generator) < theta


def sampled(scores: Tensor) -> Tensor:
    """A mask of zeros and ones, drawn with probability sigmoid(scores), whose gradient is that of the probability."""
    theta = scores.sigmoid()
    # Where training has diverged the loss says so, not the draw.
    return torch.bernoulli(theta.detach().nan_to_num()) + (theta - theta.detach())
