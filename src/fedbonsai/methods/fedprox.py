"""FedProx: FedAvg whose clients are held near the model that they were sent.

Li et al. Federated Optimization in Heterogeneous Networks. MLSys 2020. https://arxiv.org/abs/1812.06127

Symbols: h_k(w; w_t) = F_k(w) + mu / 2 * ||w - w_t||^2 (equation 2), minimised inexactly by local SGD; w_t is the model
of the round, so the gradient of a step is grad F_k(w) + mu (w - w_t).
Differs: the paper samples clients with probability n_k / n and averages them evenly (algorithm 2); here, as for every
method, sampling is uniform and the average weighted by n_k, which has the same expectation.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedbonsai.core.fields import NOT_NEGATIVE, POSITIVE, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import ServerOptimizer, Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, stepped, train
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.objective import Live, Objective


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """FedAvg with a proximal term.

    Attributes:
        mu: Weight of the proximal term; 0 is FedAvg.
        server_lr: alpha, how far the server moves towards the average; 1 replaces the model.
        server_optimizer: ``none``, ``momentum`` or ``adam``.
    """

    mu: Annotated[float, NOT_NEGATIVE] = 0.01
    server_lr: Annotated[float, POSITIVE] = 1.0
    server_optimizer: ServerOptimizer = "none"

    name: ClassVar[str] = "fedprox"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check(self)

    def init(self, setting: Setting, weights: Tensors) -> State:
        return State(setting, weights)

    def plan(self, state: State) -> Plan:
        del state
        return Plan()

    def distribute(self, state: State, client: int) -> Message:
        del client
        return model_task(state)

    def work(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        return train(task, memory, learner, Objective(gradient=self._pull) if self.mu else None)

    def finalize(self, state: State, total: Total) -> State:
        return stepped(state, average(total, state.weights), self.server_optimizer, self.server_lr)

    def model(self, state: State) -> Tensors:
        return state.weights

    def _pull(self, live: Live) -> None:
        """Add mu (w - w_t) to the gradient."""
        live.flat_gradient.add_(live.flat - live.flat_anchor, alpha=self.mu)
