"""Test methods that use what the published ones so far do not: stages, groups, memories, personal models."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total, average, contribution
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, trained
from fedbonsai.learning.learner import Learner
from fedbonsai.sparsity.masks import keep_top_global


@dataclass(frozen=True)
class ScoreFirst:
    """A stage in which everybody scores the weights, two groups in its update; then training on the mask."""

    density: float = 0.5
    name: ClassVar[str] = "score-first"
    traits: ClassVar[Traits] = Traits()

    def init(self, setting: Setting, weights: Tensors) -> State:
        return State(setting, weights, memory=Memory(numbers={"scored": False}))

    def plan(self, state: State) -> Plan:
        return Plan() if state.memory.numbers["scored"] else Plan("score", cohort="all")

    def distribute(self, state: State, client: int) -> Message:
        return model_task(state)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        if task.stage == "train":
            return trained(learner.fit(task.dense(), task.supports()), task.supports()), memory
        gradients = learner.gradients(task.dense())
        scores = {name: (gradients[name] * task.dense()[name]).abs() for name in learner.layout.prunable}
        sizes = {f"size of {name}": torch.ones(1) for name in scores}
        return Message({"scores": group(scores), "sizes": group(sizes)}, weight=1.0), memory

    def finalize(self, state: State, total: Total) -> State:
        if total.stage == "train":
            return state.moved(average(total, state.weights))
        assert total.groups["sizes"]["size of 0.weight"].numerator.item() == total.clients
        scores = {name: one.numerator for name, one in total.groups["scores"].items()}
        count = round(self.density * sum(one.numel() for one in scores.values()))
        supports = {name: Support.masked(mask) for name, mask in keep_top_global(scores, count).items()}
        return replace(state.moved(state.weights, supports), memory=Memory(numbers={"scored": True}))

    def model(self, state: State) -> Tensors:
        return state.weights


@dataclass(frozen=True)
class OwnBias:
    """A personal method: weights are shared, each client keeps its output bias, and counts its rounds."""

    name: ClassVar[str] = "own-bias"
    traits: ClassVar[Traits] = Traits(stateful=True, personal=True)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        return Plan(cohort=2)

    def distribute(self, state: State, client: int) -> Message:
        return model_task(state)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        fit = learner.fit(self.personal_model(task, memory, learner))
        kept = Memory({"bias": fit.weights["2.bias"]}, {"rounds": int(memory.numbers.get("rounds", 0)) + 1})
        shared = {name: one for name, one in fit.weights.items() if name != "2.bias"}
        return contribution(shared, None, fit.examples, loss=fit.loss * fit.examples), kept

    def finalize(self, state: State, total: Total) -> State:
        return state.moved(average(total, state.weights))

    def model(self, state: State) -> Tensors:
        return state.weights

    def personal_model(self, task: Message, memory: Memory, learner: Learner) -> Tensors:
        return task.dense() | dict({"2.bias": memory.tensors["bias"]} if memory else {})


@dataclass(frozen=True)
class PerClientMask:
    """Every client has a mask of its own on the server, drawn from the seed."""

    name: ClassVar[str] = "per-client-mask"
    traits: ClassVar[Traits] = Traits(common_support=False)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        return Message({"weights": group(state.weights, self.supports(state, client))})

    def supports(self, state: State, client: int) -> dict[str, Support]:
        draw = torch.Generator().manual_seed(client)
        return {
            name: Support.masked(torch.rand(state.weights[name].shape, generator=draw) < 0.5)
            for name in state.setting.layout.prunable
        }

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        return trained(learner.fit(task.dense(), task.supports()), task.supports()), memory

    def finalize(self, state: State, total: Total) -> State:
        return state.moved(average(total, state.weights))

    def model(self, state: State) -> Tensors:
        return state.weights
