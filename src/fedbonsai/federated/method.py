"""The interface of a method: six functions over explicit state. Interfaces are here, methods are one layer up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from fedbonsai.core.message import Group, Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total
from fedbonsai.learning.learner import Learner


@dataclass(frozen=True)
class Plan:
    """What the next turn of a run is.

    Attributes:
        stage: ``train`` for a training round; any other name is a stage of the method's own (scoring, warm-up), whose
            bytes and FLOPs are charged but which does not count as a round.
        cohort: Who takes part: ``sampled`` draws the run's cohort, ``all`` asks everybody, a number draws so many; or
            the clients themselves.
    """

    stage: str = "train"
    cohort: Literal["sampled", "all"] | int | tuple[int, ...] = "sampled"


@dataclass(frozen=True)
class Traits:
    """What a method needs and allows; an experiment refuses contradictions at construction.

    Attributes:
        stateful: Its clients keep a `Memory` between rounds.
        common_support: All clients of a round get and send the same supports.
        sums_only: The server needs nothing but sums of updates.
        sends_weights: What clients send as weights are weights, not changes or votes, so that another estimate may take
            the place of their mean.
        personal: Every client ends with a model of its own, which is what is evaluated.
        submodels: Its clients train physically smaller models; the model's channels are traced for it.
        tiers: With ``submodels``: how large they are follows from the run's tiers, not from pruning alone.
        widths: Tiers that clients are in unless the run sets others; more than one only with ``submodels``.
    """

    stateful: bool = False
    common_support: bool = True
    sums_only: bool = True
    sends_weights: bool = True
    personal: bool = False
    submodels: bool = False
    tiers: bool = True
    widths: tuple[float, ...] = (1.0,)


@runtime_checkable
class ServerSide(Protocol):
    """The part of a method that a round on the server needs."""

    @property
    def traits(self) -> Traits:
        """What it needs and allows: a class attribute, unless its settings decide."""

    def plan(self, state: State) -> Plan:
        """Say what the next turn is."""

    def distribute(self, state: State, client: int) -> Message:
        """Make the task that one client gets. Deterministic: it may be asked for twice."""

    def finalize(self, state: State, total: Total) -> State:
        """Make the next state from the sum of all updates; ``total.stage`` says of which stage."""


@runtime_checkable
class Method(ServerSide, Protocol):
    """A federated method: a final frozen dataclass whose fields are its paper's hyperparameters."""

    name: ClassVar[str]

    def init(self, setting: Setting, weights: Tensors) -> State:
        """Make the state that a run begins with from freshly initialised weights."""

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        """On a client: train, score, prune, regrow; return the update and what the client keeps."""

    def model(self, state: State) -> Tensors:
        """The tensors that stand for the result: what is evaluated, saved and shipped."""


@runtime_checkable
class PersonalMethod(Method, Protocol):
    """A method whose clients make their model of what is sent, such as one of their own (``traits.personal``)."""

    def personal_model(self, task: Message, memory: Memory, learner: Learner) -> Tensors:
        """On a client: the model that it would use now, given what the server sends and what it keeps."""


@runtime_checkable
class SmallerPersonalMethod(PersonalMethod, Protocol):
    """A personal method whose clients have smaller models that do not follow from what is sent (``submodels``)."""

    def personal_places(self, task: Message, memory: Memory, learner: Learner) -> Mapping[str, Support]:
        """On a client: where the tensors of `personal_model`, whole there, sit as grids: it is judged as it is."""


@runtime_checkable
class NestedMethod(Method, Protocol):
    """A method whose result holds a smaller model for every width (``traits.submodels``)."""

    def submodel(self, state: State, width: float) -> Group:
        """The model for devices of ``width``, as it is shipped: its tensors, and where they sit in the whole one."""
