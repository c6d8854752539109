"""An unchanged Flower project with `Pruned` around its strategy and `pruning_mod` before its client."""

import importlib
import logging
import subprocess
import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from flower_grid import Fault
from flower_project import client_app, fed_avg, grid_of, make_model, run
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
)
from torch import nn

import fedbonsai.flower
from fedbonsai import wire
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.message import Message as WireMessage
from fedbonsai.core.message import group
from fedbonsai.core.support import Support
from fedbonsai.flower import Pruned, hold, pruning_mod
from fedbonsai.flower.arrays import STYPE, blob_of
from fedbonsai.flower.rounds import Round

PRUNABLE = ("0.weight", "3.weight")
TOTAL = 16 * 256 + 256 * 4
MODS = [pruning_mod]


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """FedAvg draws the order of the nodes from the global generator; sums of floats depend on it."""
    monkeypatch.setattr("random.sample", lambda nodes, count: sorted(nodes)[:count])


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    return caplog


def state_of(result) -> dict[str, torch.Tensor]:
    return result.arrays.to_torch_state_dict()


def zeros_in(state) -> int:
    return sum(int((state[name] == 0).sum()) for name in PRUNABLE)


def test_at_density_one_and_fp32_all_weights_are_those_of_the_plain_strategy_bit_for_bit():
    plain = state_of(run(fed_avg(), grid_of(client_app())))
    pruned = state_of(run(Pruned(fed_avg(), density=1.0), grid_of(client_app(MODS))))
    assert list(plain) == list(pruned)
    for name, one in plain.items():
        assert torch.equal(one.to(pruned[name].dtype), pruned[name]), name


def test_the_model_keeps_the_order_and_the_types_of_its_tensors():
    result = run(Pruned(fed_avg(), density=0.5), grid_of(client_app(MODS)), rounds=3)
    own = make_model().state_dict()
    assert [(name, one.dtype, one.shape) for name, one in state_of(result).items()] == [
        (name, one.dtype, one.shape) for name, one in own.items()
    ]
    assert int(state_of(result)["1.num_batches_tracked"]) == 12


def test_a_tenth_of_the_weights_takes_less_than_a_seventh_of_the_bytes_and_all_others_are_zero_on_both_sides():
    seen = []
    strategy = Pruned(fed_avg(), density=0.1, reach=0.5)
    result = run(strategy, grid_of(client_app(MODS, seen=seen)), rounds=4)
    kept = round(0.1 * TOTAL)
    assert TOTAL - zeros_in(state_of(result)) == kept
    for received, trained in seen[-2:]:
        assert TOTAL - zeros_in(received) == kept
        assert zeros_in(trained) < TOTAL - kept, "without hold, the loop trains pruned weights too"
    assert [one.density for one in strategy.rounds] == pytest.approx([0.1 + 0.9 / 8, 0.1, 0.1, 0.1], abs=1e-3)
    assert [one.counted for one in strategy.rounds] == [2] * 4
    # The project's own 3332 bytes of biases and batch norm stay whole, and are counted too.
    assert strategy.rounds[-1].share < 0.3
    weights = sum(4 * one.numel() for name, one in make_model().state_dict().items() if name not in PRUNABLE)
    assert strategy.rounds[-1].down / 2 - weights < 0.15 * 4 * TOTAL


def test_the_bytes_of_the_rounds_are_those_that_travelled():
    grid, strategy = grid_of(client_app(MODS)), Pruned(fed_avg(fraction_evaluate=1.0), density=0.1)
    run(strategy, grid, rounds=2)
    down, up = sum(one.down for one in grid.exchanges), sum(one.up for one in grid.exchanges if one.kind == "train")
    assert 0 < down - sum(one.down for one in strategy.rounds) < 1500 * len(grid.exchanges)
    assert 0 < up - sum(one.up for one in strategy.rounds) < 1500 * len(grid.exchanges)
    plain = grid_of(client_app())
    run(fed_avg(fraction_evaluate=1.0), plain, rounds=2)
    dense = sum(one.down for one in plain.exchanges)
    assert 0 < dense - sum(one.dense_down for one in strategy.rounds) < 8000 * len(plain.exchanges)


def test_metrics_tell_what_each_round_cost():
    strategy = Pruned(fed_avg(), density=0.1)
    result = run(strategy, grid_of(client_app(MODS)), rounds=2)
    for one in strategy.rounds:
        metrics = result.train_metrics_clientapp[one.number]
        assert metrics["loss"] == 0.5
        assert metrics["pruned-density"] == one.density
        assert (metrics["pruned-bytes-down"], metrics["pruned-bytes-up"]) == (one.down, one.up)
        assert metrics["pruned-bytes-dense"] == one.dense_down + one.dense_up


def test_evaluation_is_of_the_pruned_model_on_clients_and_server():
    judged = []

    def judge(server_round, arrays):
        judged.append(zeros_in(arrays.to_torch_state_dict(keep_input=False)))
        return MetricRecord({"zeros": judged[-1]})

    strategy = Pruned(fed_avg(fraction_evaluate=1.0), density=0.25, reach=0.5)
    result = run(strategy, grid_of(client_app(MODS)), rounds=2, evaluate_fn=lambda r, a: judge(r, a.copy()))
    assert judged == [0, TOTAL * 3 // 4, TOTAL * 3 // 4]
    assert result.evaluate_metrics_clientapp[2]["zeros"] == TOTAL * 3 // 4


def test_hold_keeps_pruned_weights_at_zero_while_the_loop_trains():
    seen = []
    result = run(Pruned(fed_avg(), density=0.2, reach=0.4), grid_of(client_app(MODS, hold, seen)), rounds=3)
    for received, trained in seen[2:]:
        for name in PRUNABLE:
            assert (trained[name][received[name] == 0] == 0).all()
            assert (trained[name] != received[name]).any()
    assert zeros_in(state_of(result)) == TOTAL - round(0.2 * TOTAL)
    other = make_model()
    hold(other)
    assert zeros_in(other.state_dict()) == 0, "what came is forgotten with its message"


def test_hold_ends_when_it_is_closed_and_needs_the_model_that_came():
    ends = []

    def train(model):
        with hold(model):
            held = [len(one._post_accumulate_grad_hooks or ()) for one in model.parameters() if one.dim() > 1]
        after = [len(one._post_accumulate_grad_hooks or ()) for one in model.parameters() if one.dim() > 1]
        ends.append((held, after))
        if len(ends) > 2:
            hold(nn.Linear(2, 2))

    strategy = Pruned(fed_avg(min_available_nodes=1, min_train_nodes=1), density=0.2, reach=0.3)
    run(strategy, grid_of(client_app(MODS, train), nodes=1), rounds=3)
    assert ends == [([0, 0], [0, 0]), ([1, 1], [0, 0]), ([1, 1], [0, 0])]
    assert [one.counted for one in strategy.rounds] == [1, 1, 0]


def last_round(downlink: str, uplink: str) -> Round:
    strategy = Pruned(fed_avg(), density=0.5, reach=0.4, downlink=downlink, uplink=uplink)
    run(strategy, grid_of(client_app(MODS)), rounds=3)
    assert strategy.rounds[-1].counted == 2
    return strategy.rounds[-1]


def test_lossy_codings_take_fewer_bytes_in_their_own_direction():
    exact, both, down = last_round("fp32", "fp32"), last_round("int4", "int4"), last_round("int8", "bf16")
    assert both.down < down.down < 0.6 * exact.down
    assert 1.2 * both.up < down.up < 0.8 * exact.up


@pytest.mark.parametrize(
    ("make", "mods"),
    [
        (lambda: FedAdam(fraction_evaluate=0.0), []),
        (lambda: FedMedian(fraction_evaluate=0.0), []),
        (lambda: DifferentialPrivacyServerSideFixedClipping(fed_avg(), 0.1, 10.0, 2), []),
        (lambda: DifferentialPrivacyClientSideFixedClipping(fed_avg(), 0.1, 10.0, 2), [fixedclipping_mod]),
    ],
    ids=["FedAdam", "FedMedian", "DP on the server", "DP on the clients"],
)
def test_other_strategies_of_flower_can_be_wrapped(make, mods):
    """Momentum of the server and noise move all weights; those that were pruned stay pruned."""
    seen = []
    strategy = Pruned(make(), density=0.1)
    result = run(strategy, grid_of(client_app([*MODS, *mods], seen=seen), nodes=2), rounds=4)
    assert TOTAL - zeros_in(state_of(result)) == round(0.1 * TOTAL)
    assert [one.counted for one in strategy.rounds] == [2] * 4
    models = [received for received, _ in seen[::2]] + [state_of(result)]
    for before, after in pairwise(models):
        assert all((after[name][before[name] == 0] == 0).all() for name in PRUNABLE)


def test_a_client_without_the_strategy_is_not_changed_by_the_mod():
    plain, modded = run(fed_avg(), grid_of(client_app())), run(fed_avg(), grid_of(client_app(MODS)))
    assert plain.arrays == modded.arrays


def test_equal_models_are_packed_once_and_shared():
    contents = []

    def look(message: Message) -> Fault:
        contents.append(message.content)
        return Fault()

    run(Pruned(fed_avg(fraction_evaluate=1.0), density=0.5), grid_of(client_app(MODS), fault=look), rounds=2)
    blobs = [blob_of(one["arrays"]) for one in contents]
    assert contents[0] is contents[1]
    assert blobs[2] is blobs[3] is blobs[4] is blobs[5]  # the evaluation of round 1 and the training of round 2
    assert blobs[0] is not blobs[2]


def blob(data: bytes, stype: str = STYPE) -> ArrayRecord:
    return ArrayRecord({"blob": Array("uint8", (len(data),), stype, data)})


def forged(**changes) -> ArrayRecord:
    """A packed model of the project's with other tensors in it."""
    tensors = {**make_model().state_dict(), **changes}
    return blob(wire.encode(WireMessage({"weights": group({k: v for k, v in tensors.items() if v is not None})})))


def masked() -> ArrayRecord:
    tensors = make_model().state_dict()
    support = {"0.weight": Support.masked(tensors["0.weight"] > 0)}
    return blob(wire.encode(WireMessage({"weights": group(tensors, support)})))


HOSTILE = {
    "garbage": (lambda: blob(b"garbage" * 99), "begins with"),
    "empty": (lambda: blob(b""), "header"),
    "no model": (lambda: ArrayRecord([np.zeros(3)]), "no packed model"),
    "plain": (lambda: ArrayRecord(make_model().state_dict()), "no packed model"),
    "another group": (lambda: blob(wire.dumps(make_model().state_dict())), "group weights alone"),
    "another shape": (lambda: forged(**{"0.bias": torch.zeros(1)}), "another model"),
    "a huge tensor": (lambda: forged(huge=torch.zeros(1 << 20)), "at most 8 tensors"),
    "a tensor less": (lambda: forged(**{"0.bias": None}), "must have the tensors"),
    "another type": (lambda: forged(**{"0.bias": torch.zeros(256).double()}), "has type float32"),
    "NaN": (lambda: forged(**{"0.bias": torch.full((256,), torch.nan)}), "must be finite"),
    "another mask": (masked, "mask that was sent"),
}


def tampered(records: dict) -> Fault:
    def tamper(reply: Message) -> Message:
        reply.content = RecordDict({**reply.content, **records})
        return reply

    return Fault(tamper=tamper)


def of_node_11(fault: Fault):
    return lambda message: fault if message.metadata.dst_node_id == 11 else Fault()


@cache
def without_node_11(rounds: int) -> ArrayRecord:
    others = grid_of(client_app(MODS), nodes=3)
    del others.nodes[11]
    return run(Pruned(fed_avg(), density=0.1), others, rounds).arrays


def expect_only_the_others(fault: Fault, rounds: int = 1) -> Pruned:
    """Whatever node 11 does, the result is that of the nodes 10 and 12."""
    strategy = Pruned(fed_avg(), density=0.1)
    result = run(strategy, grid_of(client_app(MODS), nodes=3, fault=of_node_11(fault)), rounds)
    assert result.arrays == without_node_11(rounds)
    assert [(one.asked, one.counted) for one in strategy.rounds] == [(3, 2)] * rounds
    return strategy


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_dropped_with_a_reason_and_the_rest_goes_on(name, lines):
    make, reason = HOSTILE[name]
    strategy = expect_only_the_others(tampered({"arrays": make()}))
    told = [one.getMessage() for one in lines.records if "Dropped the reply of node 11" in one.getMessage()]
    assert len(told) == 1
    assert reason in told[0]
    assert strategy.rounds[0].up > 0


def test_weights_that_were_pruned_cannot_be_sent(lines):
    def dense_in_round_2(message: Message) -> Fault:
        second = message.metadata.dst_node_id == 11 and message.content["config"]["server-round"] == 2
        return tampered({"arrays": forged()}) if second else Fault()

    strategy = Pruned(fed_avg(), density=0.1)
    run(strategy, grid_of(client_app(MODS), fault=dense_in_round_2))
    assert [one.counted for one in strategy.rounds] == [2, 1]
    assert "an answer must have the mask that was sent" in lines.text


@pytest.mark.parametrize(
    "records",
    [
        {"metrics": MetricRecord({"num-examples": 0, "loss": 1.0})},
        {"metrics": MetricRecord({"num-examples": -5, "loss": 1.0})},
        {"metrics": MetricRecord({"num-examples": float("nan"), "loss": 1.0})},
        {"metrics": MetricRecord({"num-examples": float("inf"), "loss": 1.0})},
        {"metrics": MetricRecord({"num-examples": [1, 2], "loss": 1.0})},
        {"metrics": MetricRecord({"loss": 1.0})},
        {"metrics": MetricRecord({"num-examples": 1})},
        {"metrics": MetricRecord({"num-examples": 1, "loss": [1.0, 2.0]})},
        {"more": MetricRecord({"num-examples": 1})},
        {"more": ArrayRecord([np.zeros(2)])},
    ],
)
def test_records_that_would_end_a_run_of_flower_are_dropped(records):
    expect_only_the_others(tampered(records))


@pytest.mark.parametrize(
    "fault", [Fault(error=Error(5, "gone")), Fault(silent=True), Fault(pulls=99)], ids=["error", "silent", "late"]
)
def test_clients_that_do_not_answer_are_left_out(fault):
    expect_only_the_others(fault, rounds=2)


def test_a_hostile_evaluation_is_dropped():
    grid = grid_of(client_app(MODS), fault=of_node_11(tampered({"metrics": MetricRecord({"num-examples": 0})})))
    result = run(Pruned(fed_avg(fraction_evaluate=1.0, fraction_train=0.0), density=0.5), grid, rounds=1)
    assert result.evaluate_metrics_clientapp[1]["zeros"] == 0


@pytest.mark.parametrize(("name", "place"), [("0.weight", "0.weight"), ("1.num_batches_tracked", "integers")])
def test_an_aggregate_that_is_not_finite_is_not_applied(name, place, lines):
    class Broken(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            arrays[name] = Array(np.full_like(arrays[name].numpy(), np.nan))
            return arrays, metrics

    strategy = Pruned(Broken(fraction_evaluate=0.0), density=0.5)
    result = run(strategy, grid_of(client_app(MODS)))
    assert not result.arrays
    assert strategy.rounds[-1].density == 1
    assert f"Round 2 is not applied: {place}: values must be finite" in lines.text


def test_a_buffer_may_be_infinite_from_the_start():
    """The mask of an attention is, and means of it are."""

    def around(model):
        model.register_buffer("mask", torch.full((2, 2), -torch.inf))

    def without(message, context, call_next):
        message.content["arrays"].pop("mask")
        return call_next(message, context)

    arrays = make_model()
    around(arrays)
    strategy = Pruned(fed_avg(), density=0.1)
    result = strategy.start(
        grid_of(client_app([pruning_mod, without], around)), ArrayRecord(arrays.state_dict()), num_rounds=2
    )
    assert [one.counted for one in strategy.rounds] == [2, 2]
    assert (state_of(result)["mask"] == -torch.inf).all()


def test_a_client_that_sends_another_model_back_is_told_so():
    def strip(model):
        model.add_module("4", nn.Linear(4, 4))

    grid = grid_of(client_app(MODS, strip))
    strategy = Pruned(fed_avg(), density=0.5)
    messages = strategy_messages(strategy, grid)
    replies = grid.send_and_receive(messages)
    assert all("must have an ArrayRecord with the tensors that came" in one.error.reason for one in replies)


def strategy_messages(strategy: Pruned, grid):
    strategy.num_rounds = 2
    return strategy.configure_train(1, ArrayRecord(make_model().state_dict()), ConfigRecord(), grid)


def test_plain_lists_of_arrays_work_too():
    """Records that number their tensors, as other frameworks have; hold finds them by their place."""
    held = []

    def number(message, context, call_next):
        """What turns the project's names into numbers: between the mod and the train function."""
        names = list(make_model().state_dict())
        arrays = message.content["arrays"]
        message.content["arrays"] = ArrayRecord(dict(zip(names, arrays.values(), strict=True)))
        reply = call_next(message, context)
        reply.content["arrays"] = ArrayRecord(reply.content["arrays"].to_numpy_ndarrays())
        return reply

    def around(model):
        hold(model)
        held.append([len(one._post_accumulate_grad_hooks or ()) for one in model.parameters() if one.dim() > 1])

    strategy = Pruned(fed_avg(), density=0.1, reach=0.5)
    grid = grid_of(client_app([pruning_mod, number], around))
    arrays = ArrayRecord([one.numpy() for one in make_model().state_dict().values()])
    result = strategy.start(grid, arrays, num_rounds=2)
    assert [one.counted for one in strategy.rounds] == [2, 2]
    assert held == [[0, 0]] * 2 + [[1, 1]] * 2
    assert sum(int((result.arrays[name].numpy() != 0).sum()) for name in ("0", "7")) == round(0.1 * TOTAL)


def test_settings_that_cannot_be_used_are_refused():
    with pytest.raises(ConfigError, match=r"density must be in \(0, 1\], got 0"):
        Pruned(fed_avg(), density=0.0)
    with pytest.raises(ConfigError, match="warmup must not be later than reach"):
        Pruned(fed_avg(), warmup=0.9, reach=0.5)
    for name, value, problem in [
        ("uplink", "int7", "unknown uplink 'int7'"),
        ("strategy", "fedavg", r"wraps a strategy of flwr\.serverapp\.strategy, got builtins\.str"),
    ]:
        strategy = Pruned(fed_avg())
        setattr(strategy, name, value)  # the tests' own check of types would refuse it in the constructor
        with pytest.raises(ConfigError, match=problem):
            strategy.__post_init__()
    with pytest.raises(ConfigError, match="density must be at least"):
        run(Pruned(fed_avg(), density=1e-6), grid_of(client_app(MODS)))
    with pytest.raises(ConfigError, match="call start, or give num_rounds"):
        Pruned(fed_avg()).configure_train(1, ArrayRecord(), ConfigRecord(), grid_of(client_app(MODS)))


def test_a_strategy_that_does_not_send_the_model_is_refused():
    class Silent(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return super().configure_train(server_round, ArrayRecord([np.zeros(2)]), config, grid)

    with pytest.raises(ConfigError, match="must send the model"):
        run(Pruned(Silent(), density=0.5), grid_of(client_app(MODS)))


def test_a_second_start_begins_anew():
    strategy, grid = Pruned(fed_avg(), density=0.1), grid_of(client_app(MODS))
    first = run(strategy, grid)
    rounds = strategy.rounds
    assert run(strategy, grid).arrays == first.arrays
    assert strategy.rounds == rounds


def test_the_package_is_imported_without_flower_and_torch_and_says_what_is_missing():
    code = (
        "import sys; sys.modules['flwr'] = None; import fedbonsai.flower\n"
        "assert 'torch' not in sys.modules\n"
        "try: fedbonsai.flower.Pruned\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout == "ConfigError Pruned needs Flower, which is not installed; run: pip install 'fedbonsai[flower]'\n"
    )
    with pytest.raises(AttributeError, match="it has Pruned, hold, pruning_mod"):
        importlib.import_module("fedbonsai.flower").prune  # noqa: B018
    assert set(fedbonsai.flower.__all__) <= set(dir(fedbonsai.flower))
