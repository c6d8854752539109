"""One module on flat vectors: views share memory, FLOPs are the textbook's, nothing leaks between clients."""

import pytest
import torch
from torch import nn
from unit.learning_benches import CLASSES, dropout_net, examples, make_bench, make_learner, net, norm_net, same

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.support import Support
from fedbonsai.learning.bench import EVALUATION_BATCH
from fedbonsai.learning.flops import Cost, count
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.losses import mse
from fedbonsai.learning.task import Pool


def test_parameters_and_gradients_are_views_of_flat_vectors():
    bench = make_bench()
    assert len(bench.flat) == bench.layout.count()
    start = 0
    for name, one in bench.module.named_parameters():
        end = start + one.numel()
        for tensor, flat in ((one, bench.flat), (bench.live.gradients[name], bench.flat_gradient)):
            assert tensor.data_ptr() == flat[start:end].data_ptr()
            assert tensor.is_contiguous()
        assert bench.live.weights[name] is one
        assert bench.live.anchor[name].data_ptr() == bench.flat_anchor[start:end].data_ptr()
        start = end
    bench.flat.fill_(2.0)
    assert all((one == 2.0).all() for one in bench.module.parameters())


def test_views_survive_loading_and_training():
    learner = make_learner(norm_net)
    bench = learner.bench
    pointers = [one.data_ptr() for one in bench.module.parameters()]
    learner.fit(bench.initial, epochs=2)
    bench.load({name: torch.ones_like(one) for name, one in bench.initial.items()})
    assert [one.data_ptr() for one in bench.module.parameters()] == pointers
    assert all(one.grad is None for one in bench.module.parameters()), "a second set of gradients takes memory"
    assert (bench.flat == 1).all()
    assert (bench.module[1].running_mean == 1).all()


def frozen_net() -> nn.Module:
    module = net()
    module[0].weight.requires_grad_(False)
    return module


def test_frozen_parameters_stay_through_momentum_and_weight_decay():
    learner = make_learner(frozen_net, lr=0.1, momentum=0.9, weight_decay=0.1, clip=1.0)
    initial = learner.bench.initial
    trained = learner.fit(initial, epochs=2).weights
    assert same({"0.weight": trained["0.weight"]}, {"0.weight": initial["0.weight"]})
    assert not trained["0.bias"].equal(initial["0.bias"])
    assert not learner.gradients(initial)["0.weight"].any()


def test_batches_judged_side_by_side_give_equal_bits():
    bench = make_bench()
    pool = Pool(*examples(3 * EVALUATION_BATCH + 1, client=2))
    assert bench.evaluate(pool, threads=3) == bench.evaluate(pool)


def test_weights_are_copies_of_parameters_and_buffers():
    bench = make_bench(norm_net)
    weights = bench.weights()
    assert list(weights) == [slot.name for slot in bench.layout.slots]
    bench.flat.zero_()
    bench.module[1].running_var.zero_()
    assert weights["0.weight"].any()
    assert weights["1.running_var"].all()


def test_the_seed_decides_the_initial_weights_and_counting_flops_changes_nothing():
    one, two = make_bench(norm_net), make_bench(norm_net)
    assert same(one.initial, two.initial)
    assert not one.flat_gradient.any()
    assert not one.initial["1.running_mean"].any()
    assert one.module.training


def test_a_mask_over_all_parameters():
    bench = make_bench()
    assert bench.flat_mask({}) is None
    mask = bench.flat_mask({"2.bias": Support.masked(torch.tensor([True, False, True]))})
    assert mask.sum() == len(bench.flat) - 1
    assert bench.views(mask)["2.bias"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(("model", "kinds"), [(nn.Identity, "none"), (lambda: net().double(), r"\['0.weight', .*\]")])
def test_a_model_needs_float32_parameters(model, kinds):
    with pytest.raises(ConfigError, match=f"all of them float32, got {kinds}"):
        make_bench(model)


# Multiply-adds count two; what the loss itself costs is not counted, nor are biases.
@pytest.mark.parametrize(
    ("layer", "shape", "forward", "backward"),
    [
        (nn.Linear(5, 3), (5,), 2 * 5 * 3, 2 * 5 * 3),
        # The second layer passes a gradient on as well; the first has no one to pass it to.
        (nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), (5,), 2 * (35 + 21), 2 * (35 + 2 * 21)),
        (nn.Conv2d(3, 8, 3), (3, 6, 6), 2 * 8 * (3 * 9) * 16, 2 * 8 * (3 * 9) * 16),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (4, 6, 6), 2 * 8 * (2 * 9) * 9, 2 * 8 * (2 * 9) * 9),
        (nn.Sequential(nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 6, 1)), (4, 5), 2 * 3 * (12 + 24), 2 * 3 * (12 + 48)),
        # Seven steps of four gates. Backwards: both weight matrices, and six steps between hidden states.
        (nn.LSTM(3, 5, batch_first=True), (7, 3), 2 * 7 * 4 * 5 * (3 + 5), 2 * 4 * 5 * (7 * (3 + 5) + 6 * 5)),
        (nn.GRU(3, 5, batch_first=True), (7, 3), 2 * 7 * 3 * 5 * (3 + 5), 2 * 3 * 5 * (7 * (3 + 5) + 6 * 5)),
    ],
    ids=["linear", "two linear", "convolution", "grouped convolution", "two convolutions", "lstm", "gru"],
)
def test_flops_are_those_of_the_textbook(layer, shape, forward, backward):
    def loss():
        outputs = layer(torch.ones(2, *shape))
        return (outputs[0] if isinstance(outputs, tuple) else outputs).sum()

    assert count(loss, examples=2) == Cost(forward, backward)


def test_the_meter_counts_what_was_computed():
    learner = make_learner(sizes=(20,), batch_size=6)
    bench = learner.bench
    forward, backward = 2 * (5 * 7 + 7 * 3), 2 * (5 * 7 + 2 * 7 * 3)
    assert bench.cost == Cost(forward, backward)
    assert bench.meter.flops == 0
    learner.fit(bench.initial, {"2.bias": Support.masked(torch.zeros(CLASSES).bool())}, steps=2)
    assert bench.meter.flops == 12 * (forward + backward)  # a mask saves none
    learner.evaluate(bench.initial, "train")
    assert bench.meter.flops == 12 * (forward + backward) + 20 * forward
    learner.gradients(bench.initial, batches=1)
    assert bench.meter.flops == 18 * (forward + backward) + 20 * forward


def test_evaluation_is_one_mean_over_chunks_of_any_size():
    bench = make_bench()
    inputs, targets = examples(EVALUATION_BATCH + 3, client=5)
    found = bench.evaluate(Pool(inputs, targets))
    outputs = bench.module(inputs)
    assert found.examples == EVALUATION_BATCH + 3
    assert found.loss == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    assert found.metric == pytest.approx((outputs.argmax(1) == targets).double().mean().item())
    two = bench.evaluate(Pool(inputs, targets), torch.tensor([0, EVALUATION_BATCH + 2]))
    assert two.loss == pytest.approx(nn.functional.cross_entropy(outputs[[0, -1]], targets[[0, -1]]).item(), rel=1e-5)


def test_a_regression_is_evaluated_by_its_absolute_error():
    bench = make_bench(lambda: nn.Linear(5, 1), loss=mse)
    bench.load({"weight": torch.zeros(1, 5), "bias": torch.ones(1)})
    found = bench.evaluate(Pool(torch.ones(2, 5), torch.tensor([0.0, 4.0])))
    assert (found.loss, found.metric) == ((1 + 9) / 2, -2.0)


def test_evaluation_neither_drops_out_nor_moves_statistics():
    bench = make_bench(lambda: nn.Sequential(nn.BatchNorm1d(5), dropout_net()))
    first, second = (bench.evaluate(bench.task.test) for _ in range(2))
    assert first == second
    assert torch.equal(bench.weights()["0.running_mean"], bench.initial["0.running_mean"])
    assert bench.module.training


class Faulty(nn.Module):
    """Fails on inputs above 5; counts its calls, as some modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, momentum=0.25), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, inputs):
        if inputs.max() > 5:
            raise RuntimeError("too large")
        self.calls += 1
        return self.body(inputs) * self.calls


def test_what_one_client_leaves_behind_does_not_reach_the_next():
    bench = make_bench(Faulty, sizes=(8, 8))
    expected = Learner(bench, 0).fit(bench.initial).weights
    large = Pool(torch.full((2, 5), 9.0), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="too large"):
        bench.evaluate(large)
    bench.task.pool.inputs[8:] = 9.0
    for failing in (Learner(bench, 1).fit, Learner(bench, 1).gradients, Learner(bench, 1).statistics):
        with pytest.raises(RuntimeError, match="too large"):
            failing(bench.initial)
    again = Learner(bench, 0).fit(bench.initial).weights
    assert same(again, expected)


def test_estimated_statistics_are_the_mean_over_batches():
    size = 2 * EVALUATION_BATCH + 1  # the last example is a batch of its own, and is left out
    learner = make_learner(lambda: nn.Sequential(nn.BatchNorm1d(5, momentum=0.25), nn.Linear(5, 3)), sizes=(size,))
    bench = learner.bench
    off = {name: torch.full_like(one, 7.0) for name, one in bench.initial.items()}
    found, positions = learner.statistics(off), bench.task.splits[0].train
    own = bench.task.pool.inputs[positions]
    chunks = own[:EVALUATION_BATCH], own[EVALUATION_BATCH:-1]
    assert found.keys() == {"0.running_mean", "0.running_var"}
    assert torch.allclose(found["0.running_mean"], sum(one.mean(0) for one in chunks) / 2, atol=1e-6)
    assert torch.allclose(found["0.running_var"], sum(one.var(0) for one in chunks) / 2, atol=1e-6)
    assert bench.module[0].momentum == 0.25
    bench.estimate_statistics(positions[:9])
    assert same(bench.estimate_statistics(positions), found)  # nothing is left of earlier estimates


def test_estimated_statistics_are_the_same_again_under_dropout():
    learner = make_learner(lambda: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
    first, second = (learner.statistics(learner.bench.initial) for _ in range(2))
    assert torch.equal(first["1.running_var"], second["1.running_var"])


def test_a_cumulative_norm_begins_anew_with_every_client():
    learner = make_learner(lambda: nn.Sequential(nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3)), batch_size=20)
    first, second = (learner.fit(learner.bench.initial).weights["0.running_mean"] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.allclose(first, learner.bench.task.pool.inputs.mean(0), atol=1e-6)
