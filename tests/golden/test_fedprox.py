"""One step of FedProx, worked by hand."""

import torch
from torch import nn, tensor

from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.methods.fedprox import FedProx


def test_two_steps_are_pulled_back_to_where_they_began():
    # One weight, output w * 1, target 3, loss (w - 3)^2, gradient 2 (w - 3). Begin at w = 1, lr 0.1, mu 1.
    # Step 1: g = 2 (1 - 3) + 1 (1 - 1) = -4, w = 1.4.  Step 2: g = 2 (1.4 - 3) + 1 (1.4 - 1) = -2.8, w = 1.68.
    task = Task(
        model=lambda: nn.Linear(1, 1, bias=False),
        loss="mse",
        clients=[(torch.ones(1, 1), tensor([[3.0]]))],
        test=(torch.ones(1, 1), tensor([[3.0]])),
    )
    bench = Bench(task.prepared(0.0, seed=0), Work(lr=0.1, epochs=2), seed=0)
    message = Message({"weights": group({"weight": tensor([[1.0]])})})
    update, _ = FedProx(mu=1.0).work(message, Memory(), Learner(bench, 0))
    torch.testing.assert_close(update.dense()["weight"], tensor([[1.68]]))
