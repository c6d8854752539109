"""Two rounds of the drop-in around FedAvg, worked by hand: two clients with 1 and 3 examples, six weights, one bias."""

import numpy as np
import pytest
from flower_grid import Fault, InProcessGrid
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedbonsai import wire
from fedbonsai.core.errors import UnknownSupport
from fedbonsai.flower import Pruned, pruning_mod
from fedbonsai.flower.arrays import blob_of

W = [[1.0, -1.0], [0.5, 0.0]]  # 2x2
V = [[2.0, 2.0]]  # 1x2
INITIAL = {"w": W, "b": [0.25, 0.0], "v": V, "seen": 0}


def record(w, b, v, seen) -> ArrayRecord:
    floats = {"w": w, "b": b, "v": v}
    arrays = {name: Array(np.array(one, np.float32)) for name, one in floats.items()}
    return ArrayRecord({**arrays, "seen": Array(np.array(seen, np.int64))})


def scripted(*answers: tuple) -> ClientApp:
    """Answers one round after the other, whatever it gets."""
    app, left = ClientApp(mods=[pruning_mod]), list(answers)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": context.node_config["examples"]})
        return Message(RecordDict({"arrays": record(*left.pop(0)), "metrics": metrics}), reply_to=message)

    return app


def values(arrays: ArrayRecord) -> dict[str, list]:
    return {name: one.numpy().tolist() for name, one in arrays.items()}


def test_two_rounds(monkeypatch):
    monkeypatch.setattr("random.sample", lambda nodes, count: sorted(nodes)[:count])
    sent, came = [], []

    def look(message: Message) -> Fault:
        sent.append(wire.decode(blob_of(message.content["arrays"])).groups["weights"])
        return Fault(tamper=lambda reply: came.append(blob_of(reply.content["arrays"])) or reply)

    # Round 1. Means with weights 1/4 and 3/4, of examples 1 and 3:
    # w [[8, 4], [-4, 0]] and [[0, -4], [4, 4]] -> [[2, -2], [2, 3]]; b [1, 1] and [1, 5] -> [1, 4];
    # v [[4, 8]] and [[0, 8]] -> [[1, 8]]; seen 4 and 5 -> 4.75, which is 5.
    # Of 6 weights a linear ramp from 1 to 1/3 over two rounds keeps 2/3, 4: |w| is 2 2 2 3, |v| 1 8. The four largest
    # are 8, 3, and of the three 2s those that come first.
    # Round 2. A third, 2: the clients revive w10 and v0, which is cut off. Means on the mask:
    # w00 (1 + 3*1)/4 = 1, w01 (4 + 3*4)/4 = 4, w11 5, v1 (-2 + 3*-2)/4 = -2. The largest two, 5 and 4, are both in w,
    # but no layer loses its last weight: v keeps -2, and w its 5.
    one = scripted(([[8, 4], [-4, 0]], [1, 1], [[4, 8]], 4), ([[1, 4], [99, 5]], [0, 0], [[99, -2]], 6))
    two = scripted(([[0, -4], [4, 4]], [1, 5], [[0, 8]], 5), ([[1, 4], [99, 5]], [4, 4], [[99, -2]], 6))
    grid = InProcessGrid({10: (one, {"examples": 1}), 11: (two, {"examples": 3})}, fault=look)
    strategy = Pruned(FedAvg(fraction_evaluate=0.0), density=1 / 3, reach=1.0, schedule="linear")
    judged = []
    result = strategy.start(
        grid, record(**INITIAL), num_rounds=2, evaluate_fn=lambda _, arrays: judged.append(values(arrays))
    )

    after_one = {"w": [[2.0, -2.0], [0.0, 3.0]], "b": [1.0, 4.0], "v": [[0.0, 8.0]], "seen": 5}
    after_two = {"w": [[0.0, 0.0], [0.0, 5.0]], "b": [3.0, 3.0], "v": [[0.0, -2.0]], "seen": 6}
    assert judged == [INITIAL, after_one, after_two]
    assert values(result.arrays) == after_two
    assert [one.density for one in strategy.rounds] == [4 / 6, 2 / 6]

    # What travelled: all of the first model, of the second four values on its masks, and its bias and counter whole.
    assert [part.values.tolist() for part in sent[0].values()] == [[1.0, -1.0, 0.5, 0.0], [0.25, 0.0], [2.0, 2.0], [0]]
    assert [part.values.tolist() for part in sent[2].values()] == [[2.0, -2.0, 3.0], [1.0, 4.0], [8.0], [5]]
    assert sent[2]["w"].support.indicator().tolist() == [[True, True], [False, True]]
    assert sent[2]["v"].support.indicator().tolist() == [[False, True]]
    # What came back refers to these masks instead of sending them.
    with pytest.raises(UnknownSupport):
        wire.decode(came[2])
    parts = wire.decode(came[2], held={part.support.digest: part.support for part in sent[2].values()}).groups[
        "weights"
    ]
    assert [part.values.tolist() for part in parts.values()] == [[1.0, 4.0, 5.0], [0.0, 0.0], [-2.0], [6]]
