"""Tiers of devices: how clients spread over them, how they are written, and the largest model that fits a limit."""

from collections import Counter

import pytest
from contract.federation import examples, make_bench, net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.state import Setting
from fedbonsai.core.tiers import Tiers
from fedbonsai.experiment.tiers import make_tiers, parse
from fedbonsai.federated.method import Traits
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.footprint import Limits, footprint, largest_width
from fedbonsai.learning.task import Task
from fedbonsai.learning.work import Work
from fedbonsai.sparsity.channels import grids_by_width


@given(shares=st.lists(st.floats(0.1, 10), min_size=1, max_size=5), clients=st.integers(1, 40), seed=st.integers(0, 9))
def test_fixed_tiers_have_the_clients_that_their_shares_say(shares, clients, seed):
    widths = [(tier + 1) / len(shares) for tier in range(len(shares))]
    tiers = Tiers(tuple(widths), tuple(shares))
    found = Counter(tiers.width(seed, clients, client, turn=3) for client in range(clients))
    for width, share in zip(widths, shares, strict=True):
        assert abs(found[width] - clients * share / sum(shares)) <= 1
    assert all(
        tiers.width(seed, clients, client, 0) == tiers.width(seed, clients, client, 9) for client in range(clients)
    )


def test_which_clients_are_in_a_tier_depends_on_the_seed():
    tiers = Tiers.equal((1.0, 0.5))
    drawn = {tuple(tiers.width(seed, 10, client, 0) for client in range(10)) for seed in range(5)}
    assert len(drawn) == 5


def test_redrawn_tiers_change_from_turn_to_turn_and_keep_their_shares():
    tiers = Tiers((1.0, 0.5), (1.0, 3.0), redrawn=True)
    found = Counter(tiers.width(0, 10, client, turn) for client in range(10) for turn in range(100))
    assert 0.2 < found[1.0] / 1000 < 0.3
    assert len({tiers.width(0, 10, 3, turn) for turn in range(20)}) == 2
    assert tiers.width(0, 10, 3, 7) == tiers.width(0, 10, 3, 7)


@pytest.mark.parametrize(
    ("widths", "shares", "said"),
    [
        ((), (), "every tier needs a width"),
        ((1.0,), (1.0, 1.0), "every tier needs a width"),
        ((0.0,), (1.0,), r"widths must be in \(0, 1\]"),
        ((1.5,), (1.0,), r"widths must be in \(0, 1\]"),
        ((float("nan"),), (1.0,), r"widths must be in \(0, 1\]"),
        ((1.0,), (0.0,), "shares of tiers must be positive"),
        ((1.0,), (float("inf"),), "shares of tiers must be positive"),
    ],
)
def test_senseless_tiers_are_refused(widths, shares, said):
    with pytest.raises(ConfigError, match=said):
        Tiers(widths, shares)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a tier is a width or limits"),
        ("1,,0.5", "a tier is a width or limits"),
        ("fast", "a tier needs numbers"),
        ("two x 0.5", "a tier needs numbers"),
        ("0.5 0.2", "did you mean|unknown limit|needs numbers"),
        ("parameter=3", "unknown limit of a device 'parameter'"),
        ("parameters=-3", "parameters of a device must be positive"),
        ("flops=nan", "flops of a device must be positive"),
        ("seconds=2", "seconds and gflops of a device need each other"),
        ("1," * 100 + "1", "at most 100 tiers"),
    ],
)
def test_tiers_that_cannot_be_read_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse(text)


def test_a_limit_is_met_by_the_largest_model_that_fits():
    # 6 -> h -> 3 with biases: 10 h + 3 parameters; of 8 hidden units 5 fit into 55: 53.
    bench = make_bench()
    assert largest_width(bench, Limits(parameters=55)) == 5 / 8
    assert largest_width(bench, Limits(parameters=83)) == 1.0
    assert largest_width(bench, Limits(parameters=13)) == 1 / 8
    cost = footprint(bench.smaller(grids_by_width(bench.channels, 0.5)))
    assert cost.parameters == 43
    # A multiply-add is two FLOPs; forward 2 (6 h + 3 h), backward no gradient of the inputs: 2 (6 h + 2 * 3 h).
    assert cost.flops == 2 * (9 + 12) * 4
    assert largest_width(bench, Limits(flops=cost.flops)) == 0.5
    assert largest_width(bench, Limits(flops=cost.flops - 1)) == 3 / 8
    assert largest_width(bench, Limits(memory_mb=cost.memory / 1e6)) == 0.5
    # The client with the most examples has 30, a fifth of them for validation.
    assert cost.work == 24 * cost.flops
    assert largest_width(bench, Limits(seconds=2.0, gflops=cost.work / 1.99e9)) == 0.5


def test_a_limit_is_met_by_the_largest_model_of_layers_that_shrink_at_other_widths():
    # 6 -> a -> b -> 3 of 20 and 8: by width .32 they keep 6 and 3, which no multiple of 1/20 does.
    bench = make_bench(lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)))
    counts = {tuple(max(1, round(step / 5000 * units)) for units in (20, 8)) for step in range(1, 5001)}
    sizes = sorted(7 * a + (a + 1) * b + (b + 1) * 3 for a, b in counts)
    assert sizes[0] == 15
    for limit in range(15, sizes[-1] + 1, 31):
        width = largest_width(bench, Limits(parameters=limit))
        found = bench.smaller(grids_by_width(bench.channels, width)).layout.count()
        assert found == max(size for size in sizes if size <= limit)


def test_the_smallest_model_of_a_wide_layer_has_one_unit():
    bench = make_bench(lambda: nn.Sequential(nn.Linear(6, 1000), nn.ReLU(), nn.Linear(1000, 3)))
    assert largest_width(bench, Limits(parameters=13)) == 1 / 1000
    assert largest_width(bench, Limits(parameters=7779)) == pytest.approx(777 / 1000)


def test_memory_is_that_of_weights_optimizer_and_what_autograd_keeps():
    # Of 83 parameters: weights, what they began with, gradients as autograd makes them and as we keep them. Of each
    # example 6 inputs, 8 hidden (once for both that read them), 3 outputs, an int64 target; the loss keeps one number.
    assert footprint(make_bench()).memory == 4 * 4 * 83 + 8 * (4 * (6 + 8 + 3) + 8) + 4
    plain = footprint(make_bench()).memory
    assert footprint(make_bench(momentum=0.9)).memory == plain + 4 * 83
    assert footprint(make_bench(optimizer="adam")).memory == plain + 3 * 4 * 83
    assert footprint(make_bench(batch_size=16)).memory == plain + 8 * (4 * (6 + 8 + 3) + 8)


def test_a_limit_below_the_smallest_model_is_an_error_that_names_layers_and_cost():
    with pytest.raises(ConfigError, match=r"smallest model, of width 0\.125.*parameters=12 \(it takes 13\).*layers: 0"):
        largest_width(make_bench(), Limits(parameters=12))


def test_seconds_need_to_know_how_much_a_client_trains():
    data = examples(20, 0)
    task = Task(model=net, loss="cross_entropy", clients=3, test=data).prepared(0.0, 0)
    limits = Limits(seconds=1.0, gflops=1e-6)
    with pytest.raises(ConfigError, match="on the devices; set steps or flops"):
        largest_width(Bench(task, Work(), 0), limits)
    # 6 -> h -> 3 takes 42 h FLOPs an example: of 2 steps of 4 examples 336 h, at most 1000.
    assert largest_width(Bench(task, Work(steps=2, batch_size=4), 0), limits) == 2 / 8


def test_tiers_are_those_that_were_written_or_suit_the_method():
    bench, traits = make_bench(), Traits(submodels=True, widths=(1.0, 0.25))
    assert make_tiers(None, traits, bench, redrawn=True) == Tiers((1.0, 0.25), (1.0, 1.0), redrawn=True)
    assert make_tiers("1, 3 x parameters=55", traits, bench, redrawn=False) == Tiers((1.0, 0.625), (1.0, 3.0))


@pytest.mark.parametrize("text", ["1, 0.5", None])
def test_a_model_that_cannot_be_cut_is_refused_before_anybody_trains(text):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.size = nn.Linear(6, 8), nn.Linear(8, 3), 8

        def forward(self, x):
            return self.last(self.first(x).view(-1, self.size) * self.size)

    traits = Traits(submodels=True, tiers=True, widths=(1.0, 0.5))
    with pytest.raises(ConfigError, match="with 4 of 8 in 'first' layer 'last' must compute what it does"):
        make_tiers(text, traits, make_bench(Scaled), redrawn=False)


@pytest.mark.parametrize("useless", [Traits(), Traits(submodels=True, tiers=False)], ids=repr)
def test_tiers_are_refused_where_nothing_follows_from_them(useless):
    bench = make_bench()
    assert make_tiers(None, useless, bench, redrawn=False) == Tiers()
    with pytest.raises(ConfigError, match=r"tiers=0\.5 would not be used"):
        make_tiers("0.5", useless, bench, redrawn=False)
    with pytest.raises(ConfigError, match=r"redraw_tiers=true would not be used"):
        make_tiers(None, useless, bench, redrawn=True)


def test_a_method_of_smaller_models_needs_channels():
    with pytest.raises(ConfigError, match="needs the model's channels"):
        _ = Setting(1, 1, 0, make_bench().layout).groups
