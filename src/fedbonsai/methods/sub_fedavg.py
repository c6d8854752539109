"""Sub-FedAvg: personal subnetworks that shrink where masks still move; the server averages what they share.

Vahidian, Morafah and Lin. Personalized Federated Learning by Structured and Unstructured Pruning under Data
Heterogeneity. ICDCS Workshops 2021. https://arxiv.org/abs/2105.00562

Symbols: m_k = mask of client k. After the first and after the last local epoch it would prune the ``prune`` smallest of
every layer: masks m^fe and m^le. It takes m^le when their Hamming distance is above epsilon = ``distance``, its density
above the target = ``density``, and its accuracy above Acc_th = ``accuracy``. Hybrid: channels by |gamma| of batch norm,
``channel_prune`` of all at once, which an L1 penalty makes small, and weights of matrices as above; what a client
trains really has fewer channels. The server averages over holders, all alike, and keeps what nobody holds.
Differs: the accuracy is that of the pruned model on validation data, where the published code looks at test data. The
first masks come after one epoch's steps, but before the last step, after which momentum begins anew; that code compares
epochs 1 and 5. One step moves no mask. The last pruning stops at the target. The server keeps the masks.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError, SupportError
from fedbonsai.core.fields import DENSITY, NOT_NEGATIVE, PART, SHARE, Only, check
from fedbonsai.core.layout import Layout
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import Kernel, Total, average, contribution
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import both
from fedbonsai.federated.submodels import fit_living, judged
from fedbonsai.learning.learner import Fit, Learner
from fedbonsai.learning.objective import Live, Objective
from fedbonsai.sparsity.channels.criteria import gamma_names, gammas, normed
from fedbonsai.sparsity.channels.subnet import Step, Subnet, hamming
from fedbonsai.sparsity.selection import Selection, Supports


@dataclass(frozen=True, kw_only=True)
class SubFedAvg:
    """Personal masks that shrink while they move and the client is accurate, an unweighted average over holders.

    Attributes:
        variant: ``unstructured``, or ``hybrid``: channels of layers with batch norm, and weights of matrices.
        density: Share of every layer's weights that a client ends with; the published hybrid ends with 0.1.
        prune: Share of what is left of a layer that one pruning removes; 0.1 in the published code.
        distance: What the Hamming distance of both masks, a share, must exceed; 1e-4 in the published code.
        accuracy: Acc_th, the validation metric that the pruned model must exceed; 0.5 in the published code.
        channel_density: Share of the channels that a client ends with.
        channel_prune: Share of the channels left that one pruning removes; 0.45 in the published code.
        channel_distance: The same as ``distance`` for channels; 0.01 in the published code.
        penalty: Weight of the L1 norm of all gamma in the loss; 1e-4 in the published code.
    """

    variant: Literal["unstructured", "hybrid"] = "unstructured"
    density: Annotated[float, DENSITY] = 0.3
    prune: Annotated[float, PART] = 0.1
    distance: Annotated[float, PART] = 1e-4
    accuracy: Annotated[float, SHARE] = 0.5
    channel_density: Annotated[float, DENSITY, Only("variant", ("hybrid",))] = 0.5
    channel_prune: Annotated[float, PART, Only("variant", ("hybrid",))] = 0.45
    channel_distance: Annotated[float, PART, Only("variant", ("hybrid",))] = 0.01
    penalty: Annotated[float, NOT_NEGATIVE, Only("variant", ("hybrid",))] = 1e-4

    name: ClassVar[str] = "sub-fedavg"

    @property
    def traits(self) -> Traits:
        small = self.variant == "hybrid"
        return Traits(common_support=False, sums_only=False, personal=True, submodels=small, tiers=False)

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        Selection(setting.layout).require(self.density)
        if self.variant == "hybrid" and not normed(setting.groups):
            raise ConfigError(
                "variant=hybrid needs batch norms, by whose scales it prunes channels, this model has none"
            )
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        kept = state.memory.section(f"client/{client}").tensors
        own = Subnet.unpacked(kept, state.setting.layout.shapes)
        return Message({"weights": group(state.weights, own.supports(state.setting.channels if own.units else None))})

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        groups = learner.bench.channels if self.variant == "hybrid" else None
        first, fit = self._fit(task, learner, groups)
        now = self._subnet(task.supports(), learner.layout, groups)
        early, late = (self._pruned(now, one.weights, groups) for one in (first, fit))
        moved = Subnet(
            late.units if hamming(early.units, late.units) > self.channel_distance else now.units,
            late.masks if hamming(early.masks, late.masks) > self.distance else now.masks,
        )
        before, after = now.supports(groups), moved.supports(groups)
        if after != before and judged(learner, fit.weights, after).metric <= self.accuracy:
            after = before
        return contribution(fit.weights, after, 1, loss=fit.loss), memory

    def finalize(self, state: State, total: Total) -> State:
        moved: dict[str, Memory] = {}
        for client, supports in total.supports.items():
            with suppress(SupportError):  # no subnetwork of this model: the client goes on from the one that it had
                own = self._subnet(supports, state.setting.layout, state.setting.channels)
                moved[str(client)] = Memory(own.packed()).under(f"client/{client}")
        others = {key: one for key, one in state.memory.tensors.items() if key.split("/")[1] not in moved}
        memory = Memory(others).merge(*moved.values())
        return replace(state.moved(average(total, state.weights, Kernel())), memory=memory)

    def model(self, state: State) -> Tensors:
        return state.weights

    def personal_model(self, task: Message, memory: Memory, learner: Learner) -> Tensors:
        """The client's subnetwork with the shared weights."""
        del memory, learner
        return task.dense()

    def _fit(self, task: Message, learner: Learner, groups: Groups | None) -> tuple[Fit, Fit]:
        """Train what came: after the first epoch, and in the end."""
        names = [] if groups is None else gamma_names(groups)

        def penalty(live: Live) -> Tensor:
            return self.penalty * torch.stack([live.weights[name].abs().sum() for name in names]).sum()

        objective, supports = Objective(penalty=penalty if names and self.penalty else None), task.supports()
        before = min(learner.epoch, max(1, learner.steps - 1))
        one = fit_living(learner, task.dense(), supports, objective=objective, steps=before)
        left = learner.steps - before
        if not left:
            return one, one
        return one, both(one, fit_living(learner, one.weights, supports, objective=objective, steps=left, part=1))

    def _subnet(self, supports: Supports, layout: Layout, groups: Groups | None) -> Subnet:
        """What lives on supports: of the hybrid, weights of matrices and units that pass a batch norm may go."""
        shapes = {name: layout.shapes[name] for name in layout.prunable}
        layers = shapes if groups is None else {name: one for name, one in shapes.items() if len(one) == 2}
        return Subnet.of(supports, layers, groups, () if groups is None else normed(groups))

    def _pruned(self, now: Subnet, weights: Tensors, groups: Groups | None) -> Subnet:
        """What the next pruning would leave."""
        step = Step(self.channel_prune, self.channel_density)
        units = {} if groups is None else now.without_units(gammas(groups, weights), step)
        return Subnet(units, now.without_weights(weights, Step(self.prune, self.density), groups))
