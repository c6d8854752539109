"""FedSparsify: the smallest weights are pruned round after round, by the server or by every client; also FedMap.

Stripelis et al. Federated Progressive Sparsification (Purge, Merge, Tune)+. 2022. https://arxiv.org/abs/2204.12430
Herzog et al. FedMap: Iterative Magnitude-Based Pruning for Communication-Efficient Federated Learning. 2024.
https://arxiv.org/abs/2406.19050

Symbols: s_t = S_T + (S_0 - S_T) (1 - (F floor(t / F) - t_0) / (T - t_0))^3 is the sparsity after round t, with S_T =
1 - ``density``, S_0 = 0, F = ``frequency``, t_0 = ``start`` T; purging keeps the 1 - s_t largest |w| of all layers
together. Global: the server purges the merged model and clients train with its mask. Local: clients purge what they
have trained; the server merges by w = sum_k p_k w_k, absent weights being zeros, or does so where at least half of the
examples have kept a weight (majority voting).
FedMap is ``scope=global`` with steps: ``schedule=exponential`` prunes the same part of what is left every F rounds.
Its clients all purge the model that they receive, and alike; here the server does it once and sends less.
Differs: the paper purges all trainable weights, here only tensors of two or more dimensions; votes count with the
clients' examples, in the paper one each. T is the end of ``reach``, cut down to a multiple of F, so that the density is
reached. Every layer keeps at least one weight.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.fields import DENSITY, PART, ROUNDS, Only, Range, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Kernel, Sum, Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.masks import keep_top
from fedbonsai.sparsity.schedules import Every, Ramp, Shape
from fedbonsai.sparsity.selection import Selection, supports_of


@dataclass(frozen=True, kw_only=True)
class FedSparsify:
    """Progressive magnitude pruning.

    Attributes:
        density: Share of the prunable weights to keep in the end, 1 - S_T; 0.05 to 0.2 in the papers.
        scope: Who purges: the server what it has merged (global), or each client what it has trained (local),
            which leaves what any client has kept, more than ``density``.
        merge: How purged clients are merged: by their mean, or by majority voting.
        nested: Clients train only what they receive, so that a pruned weight never returns. Without it they train
            all weights and then purge, and weights may come back. With ``scope=global`` it is always so.
        schedule: How the density falls; cubic in FedSparsify, steps of the same factor (exponential) in FedMap.
        frequency: F, rounds between two changes of the density; 1 in FedSparsify. A run that is shorter has one.
        start: Share of the rounds that stay dense, t_0 / T.
        reach: Share of the rounds after which the density is reached; 1 in FedSparsify.
    """

    density: Annotated[float, DENSITY] = 0.1
    scope: Literal["global", "local"] = "global"
    merge: Annotated[Literal["average", "majority"], Only("scope", ("local",))] = "average"
    nested: Annotated[bool, Only("scope", ("local",))] = False
    schedule: Shape = "cubic"
    frequency: Annotated[int, Range(1, 10**6), ROUNDS] = 1
    start: Annotated[float, PART] = 0.0
    reach: Annotated[float, DENSITY] = 1.0

    name: ClassVar[str] = "fedsparsify"
    traits: ClassVar[Traits] = Traits(common_support=False)

    def __post_init__(self) -> None:
        check(self)
        if self.start > self.reach:
            raise ConfigError(f"start must not be later than reach, got {self.start} and {self.reach}")

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(self.density)
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        return model_task(state) if self.scope == "global" else model_task(state, density=self._density(state))

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        masked = self.scope == "global" or self.nested
        present = task.supports() if masked else {}
        fit = learner.fit(task.dense(), present)
        if self.scope == "local":
            present = Selection(learner.layout).largest(fit.weights, present, task.numbers["density"])
        return trained(fit, present), memory

    def finalize(self, state: State, total: Total) -> State:
        merged = average(total, state.weights, Kernel("weights", "cohort", "zero"))
        if self.scope == "global":
            selection = Selection(state.setting.layout)
            return state.moved(merged, selection.largest(merged, state.supports, self._density(state)))
        return state.moved(merged, self._merged(state, total))

    def model(self, state: State) -> Tensors:
        return state.weights

    def _merged(self, state: State, total: Total) -> dict[str, Support]:
        """The weights that the clients have left: of any of them, or of the majority."""
        sums = total.groups["weights"]
        return supports_of({name: self._voted(sums[name], total.weight) for name in state.setting.layout.prunable})

    def _voted(self, one: Sum, everybody: float) -> Tensor:
        held = one.held()
        mask = held > 0 if self.merge == "average" else 2 * held >= everybody
        return mask if bool(mask.any()) else keep_top(held, 1)

    def _density(self, state: State) -> float:
        """1 - s_t for the round that is under way."""
        times = Every.over(state.setting.rounds, self.frequency, self.reach)
        start = min(round(self.start * state.setting.rounds), times.last - 1)
        ramp = Ramp(start, times.last, self.density, self.schedule)
        now = state.round + 1
        return ramp.density(now - now % times.period - 1)
