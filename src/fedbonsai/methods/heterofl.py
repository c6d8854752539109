"""HeteroFL: devices of several tiers train nested sub-models, the first channels of every layer.

Diao, Ding and Tarokh. HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients.
ICLR 2021. https://arxiv.org/abs/2010.01264

Symbols: r = shrinkage ratio of a client's level, 1, 1/2, ... 1/16 for levels a to e (``tiers``); a client trains
W[: r d, : r k] of every weight (section 3); the server averages each weight over the clients that hold it, all alike,
and keeps what nobody holds. Scaler: what a layer gives is divided by r while it trains. Masked cross-entropy: the
outputs of classes that a client has no example of count as zero, and their rows are averaged over those clients alone
that have one. Static batch norm is ``batch_norm=static``: statistics are measured with the whole model before it is
judged.
Differs: r of a layer is the share of its units that is left, which rounding may move. Scaled are linear layers,
convolutions and embeddings whose outputs are cut, and nothing else; the paper has no other layers. A smaller model that
is cut out of the result has the division worked into its weights, as its tier has trained it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import OUTPUT, Groups
from fedbonsai.core.fields import check
from fedbonsai.core.message import Group, Message, group
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.submodels import Grids, compact_update, first_units, fit_smaller, places, tier_task
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Objective
from fedbonsai.sparsity.channels import grids_by_width


@dataclass(frozen=True, kw_only=True)
class HeteroFL:
    """Nested sub-models of each device's width.

    Attributes:
        scaler: Whether activations are divided by the share of units while a sub-model trains.
        masked_loss: Whether a client leaves the classes alone that it has no example of.
    """

    scaler: bool = True
    masked_loss: bool = True

    name: ClassVar[str] = "heterofl"
    traits: ClassVar[Traits] = Traits(common_support=False, submodels=True, widths=(1.0, 0.5, 0.25, 0.125, 0.0625))

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        return tier_task(state, state.setting.width(client, state.turn), first_units)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        groups, cut = learner.bench.channels, places(task)
        classes = learner.classes() if self.masked_loss else None
        scales = _scales(groups, cut) if self.scaler else {}
        here = None if classes is None else learner.near({"classes": classes})["classes"]
        fit = fit_smaller(task, learner, Objective(around=lambda module: _training(module, scales, here)))
        weights, sent = (dict(fit.weights), cut) if classes is None else _rows(fit.weights, cut, groups, classes)
        return compact_update(weights, sent, 1.0, loss=fit.loss), memory

    def finalize(self, state: State, total: Total) -> State:
        return state.moved(average(total, state.weights))

    def model(self, state: State) -> Tensors:
        return state.weights

    def submodel(self, state: State, width: float) -> Group:
        """What a device of some width uses: the first units of every layer, what the scaler does worked into them."""
        groups = state.setting.groups
        grids, scaled = grids_by_width(groups, width), dict(state.weights)
        for path, share in (_scales(groups, grids) if self.scaler else {}).items():
            scaled |= {name: scaled[name] / share for name in (f"{path}.weight", f"{path}.bias") if name in scaled}
        return group(scaled, grids)


def _scales(groups: Groups, grids: Grids) -> dict[str, float]:
    """The share of units that each linear layer, convolution or embedding has left, by its path, where some are gone.

    What another layer computes with is left out: the projections of `nn.MultiheadAttention`, a weight that is read too.
    """
    found = {}
    for name, support in grids.items():
        path, _, last = name.rpartition(".")
        alone = last == "weight" and len(support.shape) > 1 and f"{path.rpartition('.')[0]}.in_proj_weight" not in grids
        for dim, index in enumerate(support.index or ()):
            if alone and groups.roles.get((name, dim)) == frozenset({"out"}) and len(index) < support.shape[dim]:
                found[path] = len(index) / support.shape[dim]
    return found


@contextmanager
def _training(module: nn.Module, scales: dict[str, float], classes: Tensor | None) -> Iterator[None]:
    """Around a fit: layers divide what they give by their share, and outputs of absent classes are zero."""
    layers = dict(module.named_modules())
    handles = [layers[path].register_forward_hook(partial(_scaled, share)) for path, share in scales.items()]
    if classes is not None:
        handles.append(module.register_forward_hook(partial(_masked, classes)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scaled(share: float, _: nn.Module, __: object, given: Tensor) -> Tensor:
    return given / share


def _masked(classes: Tensor, _: nn.Module, __: object, given: Tensor) -> Tensor:
    absent = torch.ones(given.shape[-1], dtype=torch.bool, device=given.device)
    absent[classes] = False
    return given.masked_fill(absent, 0.0)


def _rows(
    weights: Tensors, cut: Grids, groups: Groups, classes: Tensor
) -> tuple[dict[str, Tensor], dict[str, Support]]:
    """Of the tensors whose rows are outputs of the model, those of ``classes``; all of the others."""
    found, places = dict(weights), dict(cut)
    for name, support in cut.items():
        if groups.fixed.get(f"{name}[0]") == OUTPUT and name in found:
            lists = support.index or tuple(torch.arange(size) for size in support.shape)
            places[name] = Support.grid(support.shape, (classes, *lists[1:]))
            found[name] = found[name].index_select(0, classes)
    return found, places
