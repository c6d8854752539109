"""Channels of any model: what is cut out computes what the whole does with everything else at zero."""

import copy

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from unit.channel_families import FAMILIES, image

from fedbonsai.core.errors import SupportError
from fedbonsai.core.message import Part
from fedbonsai.core.runs import BLOCKS
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Sum
from fedbonsai.sparsity.channels import add_into, cut, extract, gather, scatter, take, trace, within

WARNS = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch says so of its own speed
KNOWN = {}


def family(name):
    """A model of a family, its example and its channels, which are found once."""
    if name not in KNOWN:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, example, options = FAMILIES[name]()
            # Batch norms over few values lose many digits: what is compared is the mathematics.
            model = model.double()
            example = example.double() if example.is_floating_point() else example
            for one in model.modules():
                if isinstance(one, nn.modules.batchnorm._BatchNorm):
                    one.eps = 0.1  # of a channel that hardly varies on few values the gradient is rounding alone
            with torch.no_grad():
                for one in model.parameters():  # no bias or norm is zero, or one, by chance
                    one.copy_(torch.rand_like(one) - 0.5)
        KNOWN[name] = (model, example, trace(model, example, **options))
    return KNOWN[name]


class LiveNorm(nn.Module):
    """The reference of a norm over channels: over those that live, in each of its groups; the others give zero."""

    def __init__(self, norm, live):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.live, self.groups = norm.eps, live, getattr(norm, "num_groups", 1)
        self.last = isinstance(norm, nn.LayerNorm)

    def forward(self, x):
        rows = x.movedim(-1, 1) if self.last else x
        channels = rows.shape[1]
        found = torch.zeros_like(rows)
        per = channels // self.groups
        for group in range(self.groups):
            live = self.live[(self.live >= group * per) & (self.live < (group + 1) * per)]
            if not len(live):
                continue
            part = rows[:, live]
            around = [1] if self.last else list(range(1, part.dim()))
            mean, variance = part.mean(around, keepdim=True), part.var(around, correction=0, keepdim=True)
            shape = (1, -1, *[1] * (part.dim() - 2))
            part = (part - mean) / (variance + self.eps).sqrt()
            found = found.index_copy(1, live, part * self.weight[live].view(shape) + self.bias[live].view(shape))
        return found.movedim(1, -1) if self.last else found


def masked(model, supports):
    """The whole model with zeros wherever ``supports`` has nothing, and norms over what lives."""
    twin = copy.deepcopy(model)
    state = dict(twin.named_parameters()) | dict(twin.named_buffers())
    with torch.no_grad():
        for name, support in supports.items():
            state[name].copy_(support.apply(state[name]))
    for path, one in list(twin.named_modules()):
        if isinstance(one, nn.LayerNorm | nn.GroupNorm):
            live = supports[f"{path}.weight"].indicator().nonzero().reshape(-1)
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, LiveNorm(one, live))
    return twin


def subsets(groups):
    return st.fixed_dictionaries(
        {
            name: st.sets(st.integers(0, units - 1), min_size=1).map(sorted).map(torch.tensor)
            for name, units in groups.units.items()
        }
    )


def run(model, example):
    """Outputs and gradients by name."""
    model.zero_grad()
    output = model(example)
    (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
    return output.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def agree(model, example, small, supports):
    for training in (True, False):
        expected, whole = run(masked(model, supports).train(training), example)
        got, found = run(copy.deepcopy(small).train(training), example)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)
        there = gather({name: whole[name] for name in found}, {name: supports[name] for name in found})
        torch.testing.assert_close(found, there, rtol=1e-6, atol=1e-8)


@WARNS
@pytest.mark.parametrize("name", FAMILIES)
def test_at_full_width_nothing_changes(name):
    model, example, groups = family(name)
    assert groups.total > len(groups.units) > 0
    small, supports = extract(model, groups)
    assert all(one.kind == "dense" for one in supports.values())
    for training in (True, False):
        assert torch.equal(small.train(training)(example), model.train(training)(example))
    assert type(small) is type(model)
    assert not {one.data_ptr() for one in small.parameters()} & {one.data_ptr() for one in model.parameters()}


@WARNS
@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=2, phases=[Phase.generate])
@given(st.data())
def test_what_is_cut_out_computes_what_the_whole_does_with_the_rest_at_zero(name, data):
    model, example, groups = family(name)
    keep = data.draw(subsets(groups))
    if name == "lstm projected":
        keep["cells"] = torch.arange(data.draw(st.integers(3, 4)))
    small, supports = extract(model, groups, keep)
    for group, units in keep.items():
        start = groups.starts[group]
        wanted = set((start + units).tolist()) | {-1}
        for tensor, axes in groups.axes.items():
            for dim, labels in enumerate(axes):
                if labels is not None:
                    inside = (labels >= start) & (labels < start + groups.units[group])
                    index = supports[tensor].index[dim] if supports[tensor].index else torch.arange(len(labels))
                    assert set(labels[index[inside[index]]].tolist()) <= wanted
    agree(model, example, small, supports)


@WARNS
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_the_small_model_touches_nothing_else(name):
    model, example, groups = family(name)
    small, supports = extract(model, groups, width=0.6)
    before = {one: value.detach().clone() for one, value in small.named_parameters()}
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    functional.mse_loss(small.train()(example), torch.ones(small(example).shape, dtype=torch.float64)).backward()
    optimizer.step()
    update = {one: value.detach() - before[one] for one, value in small.named_parameters()}
    assert any(bool(one.any()) for one in update.values())
    spread = scatter(update, supports)
    for one, value in model.named_parameters():
        moved = value.detach() + spread[one]
        away = ~supports[one].indicator()
        assert torch.equal(moved[away].view(torch.int64), value.detach()[away].view(torch.int64))
        assert torch.equal(gather({one: spread[one]}, {one: supports[one]})[one], update[one])
    # Widths are exact: the first units of each group.
    for group, units in groups.units.items():
        kept = list(range(groups.starts[group], groups.starts[group] + max(1, round(0.6 * units))))
        held = {
            unit
            for tensor, axes in groups.axes.items()
            for dim, labels in enumerate(axes)
            if labels is not None
            for unit in labels[supports[tensor].index[dim] if supports[tensor].index else slice(None)].tolist()
        }
        assert sorted(unit for unit in held if 0 <= unit - groups.starts[group] < units) == kept


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("cnn", {"0": 6, "4": 13}),
        ("lstm of 3, no bias", {"embedding": 6, "cells": 4}),
        ("lstm projected", {"embedding": 6, "cells": 4, "cells#2": 2}),
        ("transformer", {"0": 4, "1.layers.0.linear1": 12, "1.layers.1.linear1": 12}),
        ("attention", {"embedding": 8, "blocks.0.attention.queries": 3, "blocks.0.gate": 10}),
        ("sum over a concatenation", {"stem": 8, "left": 4, "right": 6}),
        ("squeeze and shuffle", {"stem": 4, "fc1": 4}),
        ("whole groups", {"0": 4, "4": 5}),
        ("channels of groups", {"0": 4, "4": 5}),
        ("grouped convolution", {"0": 3}),
        ("depthwise", {"0.body.0": 6, "0.body.6": 4, "1.body.0": 8}),
        ("decoder", {"body.0": 6, "body.3": 2}),
        ("halves", {"stem": 4, "branch.0": 4}),
        ("densely joined", {"stem": 6, "layers.0": 4, "layers.1": 4, "layers.2": 4}),
        ("causal", {"tokens": 4, "up": 12}),
    ],
)
def test_groups_and_their_units(name, units):
    assert dict(family(name)[2].units) == units


def test_where_the_gates_of_a_unit_sit():
    groups = family("lstm")[2]
    rows, columns = groups.axes["cells.weight_hh_l0"]
    assert rows.tolist() == [6, 7, 8, 9] * 4
    assert columns.tolist() == groups.axes["out.weight"][1].tolist() == [6, 7, 8, 9]
    assert groups.axes["cells.weight_ih_l0"][1].tolist() == groups.axes["embedding.weight"][1].tolist() == [*range(6)]
    assert groups.fixed["embedding.weight[0]"] == "layer 'embedding' (Embedding): rows are looked up by number"


def test_sizes_on_modules_follow():
    small, _ = extract(family("transformer")[0], family("transformer")[2], width=0.5)
    attention = small[1].layers[0].self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (4, 2, 2)
    assert small[1].layers[1].norm1.normalized_shape == (4,)
    small, _ = extract(family("depthwise")[0], family("depthwise")[2], width=0.5)
    assert (small[0].body[3].groups, small[0].body[3].in_channels, small[0].body[4].num_features) == (3, 3, 3)
    small, _ = extract(family("whole groups")[0], family("whole groups")[2], width=0.5)
    assert (small[1].num_groups, small[1].num_channels) == (2, 4)
    small, _ = extract(family("channels of groups")[0], family("channels of groups")[2], width=0.5)
    assert (small[1].num_groups, small[1].num_channels) == (2, 4)
    small, _ = extract(family("lstm of 2")[0], family("lstm of 2")[2], width=0.5)
    assert (small.cells.input_size, small.cells.hidden_size, small.embedding.embedding_dim) == (3, 2, 3)


def test_weights_by_direction_and_length_are_cut_by_rows():
    # No row of zeros has a direction: the reference of the other families would divide by zero.
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 6)), nn.Tanh(), nn.Linear(6, 2))
    small, _ = extract(model, trace(model, torch.randn(2, 3)), {"0": [1, 4]})
    example = torch.randn(2, 3)
    torch.testing.assert_close(small[0](example), model[0](example)[:, [1, 4]])
    assert small(example).shape == (2, 2)


def test_tied_weights_stay_tied():
    model, _, groups = family("attention")
    small, supports = extract(model, groups, width=0.5)
    assert small.out.weight is small.embedding.weight
    assert "out.weight" not in supports


def test_what_a_module_holds_beside_its_children_is_its_own():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            self.layers, self.start = [self.first, self.last], self.first.forward

        def forward(self, x):
            return self.layers[1](torch.relu(self.start(x)))

    model = Holding()
    small, _ = extract(model, trace(model, torch.randn(1, 4)), width=0.5)
    assert small.layers[0] is small.first
    assert small.start.__self__ is small.first is not model.first
    assert small(torch.randn(2, 4)).shape == (2, 2)


def test_modes_and_frozen_parameters_are_those_of_the_model():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    groups = trace(model, torch.randn(3, 4))
    model[0].weight.requires_grad_(False)
    model[1].eval()
    small, _ = extract(model, groups, width=0.5)
    assert [one.training for one in small.modules()] == [True, True, False, True]
    assert [one.requires_grad for one in small.parameters()] == [False, True, True, True, True, True]
    model[0].weight.requires_grad_(True)
    model.eval()
    small, _ = extract(model, groups, width=0.5)
    assert small[0].weight.requires_grad
    assert not any(one.training for one in small.modules())


def test_a_model_may_be_more_precise_than_the_one_that_was_traced():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = trace(model, torch.randn(1, 4))
    small, _ = extract(copy.deepcopy(model).double(), groups, width=0.5)
    assert small[0].weight.dtype == torch.float64
    assert extract(model, groups, width=0.5)[0][0].weight.dtype == torch.float32


@pytest.mark.parametrize("when", [True, False])
def test_what_a_model_does_in_one_mode_only_counts(when):
    class Helped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out, self.help = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            x = torch.tanh(self.first(x))
            return self.out(x) + self.help(x) if self.training is when else self.out(x)

    model = Helped()
    small, _ = extract(model, trace(model, torch.randn(2, 3)), width=0.5)
    assert small.help.in_features == 3
    assert small.train(when)(torch.randn(2, 3)).shape == (2, 2)


@WARNS
@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrower_model_runs_on_a_part_of_the_weights_of_a_wider_one(name):
    model, example, groups = family(name)
    wide, outer = extract(model, groups, width=0.8)
    narrow, inner = extract(model, groups, width=0.4)
    parts = {one: cut(value, within(inner[one], outer[one])) for one, value in wide.named_parameters()}
    expected, found = narrow.train()(example), torch.func.functional_call(narrow, parts, (example,))
    torch.testing.assert_close(found, expected)
    expected.sum().backward()
    found.sum().backward()
    for one, value in narrow.named_parameters():
        spread = scatter({one: value.grad}, {one: within(inner[one], outer[one])})
        torch.testing.assert_close(wide.get_parameter(one).grad, spread[one])


def test_a_grid_is_within_another_only_with_indices_that_this_has():
    outer = Support.grid((5, 2), [torch.tensor([0, 2, 4]), torch.arange(2)])
    assert within(outer, outer) == Support.dense((3, 2))
    assert within(outer, Support.dense((5, 2))) == outer
    with pytest.raises(SupportError, match="no index that the other has not"):
        within(Support.grid((5, 2), [torch.tensor([0, 3]), torch.arange(2)]), outer)
    for other in (Support.dense((5, 3)), Support.masked(torch.eye(5, 2).bool())):
        with pytest.raises(SupportError, match="of one tensor"):
            within(outer, other)


@settings(max_examples=30)
@example([40, 50], (2, 2), 0.5, 0)  # kernels, copied one by one
@example([40, 50], (), 0.5, 0)  # rows, then columns
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.sampled_from([(), (2, 2), (3,)]),
    st.floats(0.1, 1),
    st.integers(0, 2**20),
)
def test_values_are_cut_and_added_where_their_support_says(shape, kernel, share, seed):
    draw = torch.Generator().manual_seed(seed)
    shape = [*shape, *kernel]
    index = [(torch.rand(size, generator=draw) < share).nonzero().reshape(-1) for size in shape]
    support = Support.grid(shape, index)
    whole, small = torch.randn(shape, generator=draw), torch.randn(support.value_shape, generator=draw)
    taken = take(whole, support)
    assert torch.equal(taken, support.gather(whole).view(support.value_shape))
    assert taken.is_contiguous()
    (cut(whole.requires_grad_(), support) * small).sum().backward()
    assert torch.equal(whole.grad, support.scatter(small.reshape(-1)))
    whole.requires_grad_(False)
    expected = whole + support.scatter(small.reshape(-1))
    kept = whole.clone()
    taken.zero_()
    assert torch.equal(whole, kept)  # values of its own
    add_into(kept, small, support)
    assert torch.equal(kept, expected)
    assert torch.equal(scatter({"one": small}, {"one": support})["one"], support.scatter(small.reshape(-1)))
    assert support.blocks is None or len(support.blocks) <= BLOCKS


@pytest.mark.parametrize(
    ("parts", "each", "first", "count"), [(32, 2, 1, 1), (20, 4, 0, 3), (1, 9, 2, 5), (3, 4, 0, 4)]
)
def test_the_same_run_of_every_part_is_one_view(parts, each, first, count):
    draw = torch.Generator().manual_seed(0)
    rows = (torch.arange(parts)[:, None] * each + torch.arange(first, first + count)).reshape(-1)
    support = Support.grid((parts * each, 6, 3), [rows, torch.tensor([1, 3, 5]), torch.arange(3)])
    whole, small = torch.randn(support.shape, generator=draw), torch.randn(support.value_shape, generator=draw)
    assert len(support.views(whole, small)) == 1
    assert torch.equal(take(whole, support).reshape(-1), support.gather(whole))
    kept = whole.clone()
    add_into(kept, small, support)
    assert torch.equal(kept, whole + support.scatter(small.reshape(-1)))


@pytest.mark.parametrize("rows", [[0, 2, 5], [1, 2, 4], [0, 1, 2, 3], [0, 4, 5], [5]])
@pytest.mark.parametrize("columns", [[0, 2, 4], list(range(0, 40, 2)), [3, 4, 9, 30]])
def test_sums_of_updates_on_other_grids_are_those_of_whole_tensors(rows, columns):
    other = Part(torch.ones(240), Support.dense((6, 40)))
    support = Support.grid((6, 40), [torch.tensor(rows), torch.tensor(columns)])
    part = Part(torch.randn(support.count, generator=torch.Generator().manual_seed(0)), support)
    total = Sum(torch.zeros(240), other.support)
    for one, weight in ((other, 2.0), (part, 3.0)):
        total.add(one, weight)
    total.add(part, 5.0, valued=False)
    torch.testing.assert_close(total.numerator, 2 * other.dense() + 3 * part.dense())
    assert torch.equal(total.held(), 2 + 8 * support.indicator().float())


def test_tracing_changes_neither_the_model_nor_the_random_generator():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten())
    model.append(nn.Linear(4 * 36, 2))
    state, example = copy.deepcopy(model.state_dict()), image()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fast = torch.backends.mha.get_fastpath_enabled()
    extract(model, trace(model, example), width=0.5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    assert torch.equal(example, image())
    assert not model[0]._forward_hooks
    assert model.training


@pytest.mark.parametrize(
    ("width", "multiple", "expected"),
    [(0.5, 1, [8, 6]), (0.01, 1, [1, 1]), (0.3, 4, [4, 4]), (0.99, 8, [16, 8]), (0.1, 8, [8, 8]), (1.0, 5, [15, 10])],
)
def test_widths_round_to_multiples_only_when_asked(width, multiple, expected):
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    small, _ = extract(model, trace(model, torch.randn(1, 4)), width=width, multiple=multiple)
    assert [small[0].out_features, small[2].out_features] == expected
