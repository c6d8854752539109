"""A project on Flower as its owner would have written it: it knows nothing of pruning but a mod and a strategy."""

from collections.abc import Callable

import torch
from flower_grid import Fault, InProcessGrid
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from torch import nn

INPUTS, CLASSES = 16, 4


def make_model() -> nn.Module:
    """2 prunable tensors with 5120 weights, and batch norm with its integer counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, CLASSES, bias=False))


def client_app(mods: list | None = None, around: Callable = lambda model: None, seen: list | None = None) -> ClientApp:
    """Trains four steps of Adam with weight decay on data of its own, and reports into ``seen`` what it got."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = make_model()
        state = message.content["arrays"].to_torch_state_dict()
        model.load_state_dict(state)
        around(model)
        torch.manual_seed(context.node_config["seed"])
        inputs, targets = torch.randn(32, INPUTS), torch.randint(CLASSES, (32,))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        if seen is not None:
            seen.append((state, {name: one.clone() for name, one in model.state_dict().items()}))
        metrics = MetricRecord({"num-examples": context.node_config["seed"] + 1, "loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model = make_model()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        zeros = sum(int((one == 0).sum()) for one in model.parameters() if one.dim() > 1)
        metrics = MetricRecord({"num-examples": 1, "zeros": zeros})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def grid_of(app: ClientApp, nodes: int = 2, fault: Callable[[Message], Fault] = lambda _: Fault()) -> InProcessGrid:
    """Nodes 10, 11, ..., all with the same app and a seed of their own."""
    return InProcessGrid({10 + seed: (app, {"seed": seed}) for seed in range(nodes)}, fault=fault)


def fed_avg(**settings) -> FedAvg:
    """The strategy of the project; two nodes or more."""
    return FedAvg(**{"fraction_evaluate": 0.0, **settings})


def run(strategy: Strategy, grid: InProcessGrid, rounds: int = 2, **settings) -> Result:
    """What the project's ServerApp does."""
    return strategy.start(grid, ArrayRecord(make_model().state_dict()), num_rounds=rounds, **settings)
