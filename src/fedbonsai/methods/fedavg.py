"""FedAvg: clients train the whole model, the server averages.

McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. AISTATS 2017.
https://arxiv.org/abs/1602.05629

Symbols: n_k = examples of client k, w_{t+1} = sum_k n_k / n * w^k_{t+1} (algorithm 1), over the clients of the round.
The server then moves w <- w + alpha (w_{t+1} - w); alpha = ``server_lr``, and 1 is the paper's plain average.
Differs: the server optimizers ``momentum`` (Hsu et al. 2019, https://arxiv.org/abs/1909.06335) and ``adam`` (Reddi et
al., ICLR 2021, https://arxiv.org/abs/2003.00295) are later work, and off unless asked for.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedbonsai.core.fields import POSITIVE, check
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Setting, State, Tensors
from fedbonsai.federated.aggregate import ServerOptimizer, Total, average
from fedbonsai.federated.method import Plan, Traits
from fedbonsai.federated.steps import model_task, stepped, train
from fedbonsai.learning.learner import Learner


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Average of trained models, weighted by the clients' numbers of examples.

    Attributes:
        server_lr: alpha, how far the server moves towards the average; 1 replaces the model.
        server_optimizer: ``none``, ``momentum`` or ``adam``.
    """

    server_lr: Annotated[float, POSITIVE] = 1.0
    server_optimizer: ServerOptimizer = "none"

    name: ClassVar[str] = "fedavg"
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
        return train(task, memory, learner)

    def finalize(self, state: State, total: Total) -> State:
        return stepped(state, average(total, state.weights), self.server_optimizer, self.server_lr)

    def model(self, state: State) -> Tensors:
        return state.weights
