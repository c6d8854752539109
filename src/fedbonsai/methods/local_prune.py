"""local-prune: every device trains, scores, prunes and compresses; the server averages and keeps what most want.

The project's own algorithm. One round: the server sends the model on its support; a client trains it, scores its
connections or neurons, removes those below the pruning rate, and uploads what is left, sparse; the server averages
with masks, moves w <- w + alpha (w' - w), and keeps as many weights as the clients did on average, those that most
examples voted for (ties by magnitude).

Symbols: d = ``density`` to end with, d_t = density asked for in round t (cubic from 1 to d between ``warmup`` and
``reach``), alpha = ``server_lr``.
Adaptive pruning (``adaptive``): with v the clients' validation metric of the model they receive, smoothed, and its
drop = max(v) - v: while drop <= ``slack`` d_t shrinks by the factor that meets d at ``reach``; up to twice ``slack``
it rests; beyond, it grows by that factor, and clients regrow weights by gradient.
"""

import logging
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import DENSITY, NOT_NEGATIVE, PART, POSITIVE, Only, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Absent, Denominator, Kernel, ServerOptimizer, Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, stepped, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.masks import above
from fedbonsai.sparsity.schedules import cubic
from fedbonsai.sparsity.scores import score
from fedbonsai.sparsity.selection import Selection, Unit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalPrune:
    """Federated pruning on the devices, to a density or below a threshold.

    Attributes:
        density: Share of the prunable weights to keep in the end; 0.2 unless ``threshold`` is given.
        threshold: Prune scores up to and including this, in place of a density.
        threshold_scale: What the threshold multiplies: 1, or a layer's standard deviation or largest score.
        importance: What a score is: ``|w|``, ``|g|`` or ``|g w|``.
        unit: Prune single connections or whole neurons.
        warmup: Share of the rounds before pruning starts.
        reach: Share of the rounds after which ``density`` is reached.
        floor: Share of each layer that is kept in any case; at least one weight or neuron.
        recover: ``gradient`` swaps the least important for absent weights of the largest gradient; ``rollback``
            takes a client's pruning back when it raised its validation loss by more than ``tolerance``.
        regrow: Share of the kept weights that ``gradient`` swaps in the first round; falls linearly to none.
        tolerance: Relative rise of the validation loss that ``rollback`` accepts.
        adaptive: Let the density follow the validation metric.
        slack: Drop of the validation metric that ``adaptive`` accepts.
        denominator: Average a weight over the clients that kept it, or over the whole cohort.
        absent: What a client that pruned a weight says of it: nothing (keep), or zero.
        server_lr: alpha.
        server_optimizer: ``none``, ``momentum`` or ``adam``.
    """

    density: Annotated[float, DENSITY] | None = None
    threshold: Annotated[float, NOT_NEGATIVE] | None = None
    threshold_scale: Literal["absolute", "layer_std", "layer_max"] = "layer_std"
    importance: Literal["magnitude", "gradient", "taylor"] = "magnitude"
    unit: Unit = "connection"
    warmup: Annotated[float, PART] = 0.05
    reach: Annotated[float, DENSITY, Only("threshold", (None,))] = 0.25
    floor: Annotated[float, PART] = 0.01
    recover: Literal["none", "gradient", "rollback"] = "none"
    regrow: Annotated[float, PART, Only("recover", ("gradient",))] = 0.1
    tolerance: Annotated[float, NOT_NEGATIVE, Only("recover", ("rollback",))] = 0.1
    adaptive: bool = False
    slack: Annotated[float, NOT_NEGATIVE, Only("adaptive", (True,))] = 0.02
    denominator: Denominator = "holders"
    absent: Absent = "zero"
    server_lr: Annotated[float, POSITIVE] = 1.0
    server_optimizer: ServerOptimizer = "none"

    name: ClassVar[str] = "local-prune"
    traits: ClassVar[Traits] = Traits(common_support=False)

    def __post_init__(self) -> None:
        check(self)
        if self.density is not None and self.threshold is not None:
            raise ConfigError(f"give density or threshold, got both ({self.density} and {self.threshold})")
        if self.threshold is not None and self.adaptive:
            raise ConfigError("adaptive moves a density, got a threshold; write density=... instead")
        if self.warmup > self.reach:
            raise ConfigError(f"warmup must not be later than reach, got {self.warmup} and {self.reach}")

    @property
    def target(self) -> float:
        """The density to end with."""
        return 0.2 if self.density is None else self.density

    def init(self, setting: Setting, weights: Tensors) -> State:
        self._selection(setting).require(self.target if self.threshold is None else 0.0)
        return State(setting, weights, memory=Memory(numbers={"density": self._scheduled(setting, 0)}))

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        return model_task(state, density=float(state.memory.numbers["density"]), prune=float(self._pruning(state)))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        received, numbers = task.supports(), {}
        if self.adaptive:
            judged = learner.evaluate(task.dense())
            numbers = {
                "validation_metric": judged.metric * judged.examples,
                "validation_examples": float(judged.examples),
            }
        fit = learner.fit(task.dense(), received)
        if not task.numbers["prune"]:
            return trained(fit, received, **numbers), memory
        selection = Selection(learner.layout, self.unit, self.floor)
        supports, floored = self._prune(fit.weights, received, task, learner)
        if self.recover == "rollback" and self._hurts(fit.weights, supports, learner):
            supports = received
            numbers["rolled_back"] = 1.0
        numbers |= {f"floor/{name}": 1.0 for name in floored}
        return trained(fit, supports, kept=float(selection.kept(supports)), **numbers), memory

    def finalize(self, state: State, total: Total) -> State:
        mean = average(total, state.weights, Kernel("weights", self.denominator, self.absent))
        after = stepped(state, mean, self.server_optimizer, self.server_lr)
        if self._pruning(state):
            after = self._vote(after, total)
        return replace(after, memory=Memory(numbers=self._next(after, total)))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _prune(
        self, weights: Tensors, received: dict[str, Support], task: Message, learner: Learner
    ) -> tuple[dict[str, Support], list[str]]:
        """Choose what a client keeps of its trained weights."""
        selection = Selection(learner.layout, self.unit, self.floor)
        wanted, present = round(task.numbers["density"] * selection.total), selection.kept(received)
        swapped = round(self.regrow * (1 - task.numbers["progress"]) * wanted) if self.recover == "gradient" else 0
        grows = swapped > 0 or wanted > present
        gradients = learner.gradients(weights) if grows or self.importance != "magnitude" else {}
        prunable = {name: weights[name] for name in learner.layout.prunable}
        scores = score(self.importance, prunable, gradients)
        if self.threshold is not None:
            masks = above(scores, self.threshold, self.threshold_scale)
            return selection.within(masks, scores, received)
        growth = score("gradient", prunable, gradients) if grows else None
        return selection.choose(scores, received, wanted, growth, swapped)

    def _hurts(self, weights: Tensors, supports: dict[str, Support], learner: Learner) -> bool:
        """Whether pruning raised the client's validation loss by more than the tolerance."""
        cut = {name: supports[name].apply(one) if name in supports else one for name, one in weights.items()}
        before, after = learner.evaluate(weights).loss, learner.evaluate(cut).loss
        return after > before * (1 + self.tolerance)

    def _vote(self, state: State, total: Total) -> State:
        """Keep as many weights as the clients did on average: those that most examples kept, then the largest."""
        selection = self._selection(state.setting)
        votes = {name: total.groups["weights"][name].held().double() for name in state.setting.layout.prunable}
        largest = max(float(state.weights[name].abs().max()) for name in votes) or 1.0
        scores = {name: vote + 0.5 * state.weights[name].abs() / largest for name, vote in votes.items()}
        supports, _ = selection.choose(scores, {}, round(total.numbers["kept"] / total.clients))
        for name in state.setting.layout.prunable:
            clients = int(total.numbers.get(f"floor/{name}", 0))
            if clients:
                kept = supports[name].count if name in supports else votes[name].numel()
                logger.warning("%s would have been emptied on %d clients; %d weights are kept", name, clients, kept)
        return state.moved(state.weights, supports)

    def _next(self, state: State, total: Total) -> dict[str, float]:
        """What the server remembers: the density to ask for in the next round, and the metric it follows."""
        memory = {name: float(value) for name, value in state.memory.numbers.items()}
        finished = state.round + 1
        if not self.adaptive:
            return {"density": self._scheduled(state.setting, finished)}
        found = total.numbers["validation_metric"] / max(total.numbers["validation_examples"], 1.0)
        metric = 0.5 * (memory.get("metric", found) + found)
        best = max(memory.get("best", metric), metric)
        if finished < self._start(state.setting):
            return {"density": 1.0, "metric": metric, "best": best}
        factor = self.target ** (1 / max(1, self._end(state.setting) - self._start(state.setting)))
        drop = best - metric
        moved = memory["density"] * (factor if drop <= self.slack else 1.0 if drop <= 2 * self.slack else 1 / factor)
        return {"density": min(1.0, max(self.target, moved)), "metric": metric, "best": best}

    def _scheduled(self, setting: Setting, finished: int) -> float:
        """Density asked for in the round after ``finished`` ones."""
        start, end = self._start(setting), self._end(setting)
        if finished < start:
            return 1.0
        return cubic((finished + 1 - start) / max(1, end - start), 1.0, self.target)

    def _pruning(self, state: State) -> bool:
        return state.round >= self._start(state.setting)

    def _start(self, setting: Setting) -> int:
        return round(self.warmup * setting.rounds)

    def _end(self, setting: Setting) -> int:
        return max(self._start(setting) + 1, round(self.reach * setting.rounds))

    def _selection(self, setting: Setting) -> Selection:
        return Selection(setting.layout, self.unit, self.floor)
