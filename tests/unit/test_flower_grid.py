"""The grid that the other tests stand on does what a real one does."""

import numpy as np
import pytest
from flower_grid import Fault, InProcessGrid, server_context
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg


def adder() -> ClientApp:
    """A client that adds its number to what it gets, and counts its rounds in its context."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        count = context.state.metric_records.setdefault("seen", MetricRecord({"rounds": 0}))
        count["rounds"] += 1
        arrays = [one + context.node_config["add"] for one in message.content["arrays"].to_numpy_ndarrays()]
        content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


def grid_of(*numbers: float, **settings) -> InProcessGrid:
    return InProcessGrid({10 + at: (adder(), {"add": one}) for at, one in enumerate(numbers)}, **settings)


def start(grid: InProcessGrid, rounds: int = 1) -> np.ndarray:
    """Run an unchanged ServerApp, and return its model."""
    app, found = ServerApp(), {}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        result = strategy.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=context.run_config["rounds"])
        found["model"] = result.arrays.to_numpy_ndarrays()[0]

    app(grid, server_context(rounds=rounds))
    return found["model"]


def node(number: int, fault: Fault):
    """A fault of one node."""
    return lambda message: fault if message.metadata.dst_node_id == number else Fault()


def test_unchanged_apps_train_and_nodes_keep_their_state():
    grid = grid_of(1.0, 3.0)
    assert start(grid, rounds=2).tolist() == [4.0, 4.0]
    assert grid.contexts[10].state["seen"]["rounds"] == 2
    # FedAvg draws the order of the nodes from the global generator.
    assert sorted((one.node, one.kind) for one in grid.exchanges) == [(10, "train")] * 2 + [(11, "train")] * 2
    assert all(one.down > 128 and one.up > 128 for one in grid.exchanges)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(error=Error(5, "gone")), 1.0),
        (Fault(silent=True), 1.0),
        (Fault(pulls=10), 1.0),
        (Fault(pulls=9), 2.0),
    ],
    ids=["error", "silent", "too late", "late"],
)
def test_a_node_that_fails_is_left_out(fault, expected):
    assert start(grid_of(1.0, 3.0, fault=node(11, fault))).tolist() == [expected] * 2


def test_what_a_client_raises_is_an_error_reply():
    grid = grid_of(1.0, 3.0)
    grid.nodes[11] = adder(), {}
    replies = grid.send_and_receive([Message(RecordDict({"arrays": ArrayRecord([np.zeros(1)])}), 11, "train")])
    assert [(reply.error.code, reply.error.reason) for reply in replies] == [(2, "'add'")]


def test_a_node_that_is_not_there_takes_no_message_and_a_late_reply_can_be_pulled_later():
    grid = grid_of(1.0, fault=lambda _: Fault(pulls=1))
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    first, second = grid.push_messages([Message(content, 10, "train"), Message(content, 99, "train")])
    assert second is None
    assert grid.pull_messages([first]) == []
    assert [one.metadata.reply_to_message_id for one in grid.pull_messages([first])] == [first]
    assert grid.pull_messages([first]) == []
