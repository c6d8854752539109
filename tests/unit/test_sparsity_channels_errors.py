"""What the channel service refuses, and what it lets stay: named, with the layer and the reason."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from unit.channel_models import Attention, Tied

from fedbonsai.core.errors import ConfigError, SupportError
from fedbonsai.core.support import Support
from fedbonsai.sparsity.channels import add_into, extract, gather, scatter, shrink, trace


class Around(nn.Module):
    """Two linear layers around what a test does between them."""

    def __init__(self, between, width=8):
        super().__init__()
        self.first, self.between, self.last = nn.Linear(4, width), between, nn.Linear(width, 2)

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class Does(nn.Module):
    """A module of one function, with attributes."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def fixed(function, width=8, **attributes):
    """Why the channels between two layers stay."""
    groups = trace(Around(Does(function, **attributes), width), torch.randn(3, 4))
    assert not groups.units
    return groups.fixed["first.weight[0]"]


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x if x.sum() > 0 else -x,
        lambda _, x: x * x.mean().item(),
        lambda _, x: x * float(x[0, 0]),
        lambda _, x: x + len(x.nonzero()),
        lambda _, x: x + x[x > 0].sum(),
        lambda _, x: x * x.tolist()[0][0],
        lambda _, x: x + torch.unique(x).sum(),
    ],
)
def test_a_course_that_depends_on_values_is_refused(function):
    with pytest.raises(ConfigError, match=r"layer 'between' \(Does\): .* depend on values"):
        trace(Around(Does(function)), torch.randn(3, 4))


def test_what_depends_on_weights_alone_may_be_asked():
    model = Around(Does(lambda module, x: x * float(module.scale), scale=nn.Parameter(torch.tensor(2.0))))
    assert dict(trace(model, torch.randn(3, 4)).units) == {"first": 8}


def test_an_operator_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match=r"layer 'between' \(Does\): the operator cdist is not known"):
        trace(Around(Does(lambda _, x: torch.cdist(x, x) @ x)), torch.randn(3, 4))


def test_an_operator_that_is_not_known_may_work_where_there_are_no_channels():
    model = nn.Sequential(Does(lambda _, x: torch.cdist(x, x) @ x), Around(nn.ReLU()))
    assert dict(trace(model, torch.randn(3, 4)).units) == {"1.first": 8}


def test_an_example_of_another_shape_names_the_layer():
    with pytest.raises(ConfigError, match=r"layer 'first' \(Linear\) must run on the example, .*\(3, 5\), got Runtime"):
        trace(Around(nn.ReLU()), torch.randn(3, 5))


@pytest.mark.parametrize("example", [None, [], {"x": torch.ones(1)}, (torch.ones(1), 3)])
def test_an_example_must_be_tensors(example):
    with pytest.raises(ConfigError, match="an example must be a tensor or a tuple of tensors"):
        trace(Around(nn.ReLU()), example)


def test_a_model_must_return_tensors():
    with pytest.raises(ConfigError, match="the model must return tensors"):
        trace(Does(lambda _, x: 3), torch.randn(3, 4))


def test_a_kind_of_group_norm_must_exist():
    with pytest.raises(ConfigError, match="unknown group_norm 'some'"):
        trace(Around(nn.ReLU()), torch.randn(3, 4), group_norm="some")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda _, x: x.softmax(-1), "softmax over channels"),
        (lambda _, x: functional.normalize(x), "normalize over channels"),
        (lambda _, x: x - x.mean(1, keepdim=True), "mean over channels"),
        (lambda _, x: x.roll(1, 1), "roll over channels"),
        (lambda _, x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], "single channels by number"),
        (lambda _, x: x + x[:, ::2].repeat(1, 2), "channels sliced by numbers"),
        (lambda _, x: torch.cat(x.chunk(3, 1), 1), "chunk into unequal parts"),
        (lambda _, x: torch.cat(x.split([3, 5], 1), 1), "split by the number 3, which stands in the code"),
        (lambda _, x: x.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8), "channels split into 2 x 4 by numbers"),
        (lambda _, x: x.view(-1, 8), "view by the number 8, which stands in the code"),
        (lambda _, x: functional.pad(x, (1, 0))[:, 1:], "channels are padded"),
        (lambda _, x: x + torch.arange(8.0), "add with what is no channel"),
        (lambda _, x: (x.t() @ x).softmax(-1) @ torch.ones(8, 8), "softmax over channels"),
        (lambda _, x: x + (x @ x.t()).sum(), "matmul of two activations over channels"),
        (lambda _, x: functional.scaled_dot_product_attention(x, x, x), "whose scale depends on their number"),
        (lambda _, x: x.index_select(1, torch.arange(8)), "index_select of channels by number"),
        (lambda _, x: x - x.var(False), "var over channels"),
        (lambda _, x: x / x.shape[1], "a value is computed from the number of channels"),
        (lambda _, x: 1 / x.shape[1] * x, "a value is computed from the number of channels"),
        (lambda _, x: x * x.size(-1) ** -0.5, "a value is computed from the number of channels"),
        (lambda _, x: x / math.sqrt(x.shape[1]), "a value is computed from the number of channels"),
        (lambda _, x: x * (x.shape[1] * 0.5), "a value is computed from the number of channels"),
    ],
)
def test_what_cannot_be_pruned_says_why(function, reason):
    assert reason in fixed(function)
    assert "layer 'between' (Does)" in fixed(function)


@pytest.mark.parametrize(
    ("bound", "function"), [(1, lambda _, x: x + x[:, :1]), (3, lambda _, x: x[:, 3:].repeat(1, 2))]
)
def test_a_slice_by_a_number_keeps_what_comes_before_it(bound, function):
    model = Around(Does(function))
    model.last = nn.LazyLinear(2)
    model(torch.randn(3, 4))
    groups = trace(model, torch.randn(3, 4))
    assert groups.axes["first.weight"][0].tolist() == [*[-1] * bound, *range(8 - bound)]
    assert f"a slice by the number {bound}, which stands in the code" in groups.fixed["first.weight[0]"]
    extract(model, groups, width=0.4)


def test_a_shortcut_around_the_whole_model_keeps_its_channels():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.norm(x + self.first(x)))

    groups = trace(Shortcut(), torch.randn(3, 4))
    assert not groups.units
    assert groups.fixed["first.weight[0]"] == (
        "the model (Shortcut): add with what is no channel of a layer, such as an input"
    )


def test_a_weight_that_is_not_used_stays():
    model = Around(nn.ReLU())
    model.spare = nn.Linear(3, 5)
    groups = trace(model, torch.randn(3, 4))
    assert dict(groups.units) == {"first": 8}
    assert groups.fixed["spare.weight[0]"] == "the model does not use it on the example"


@pytest.mark.parametrize(
    ("function", "attributes"),
    [
        (lambda _, x: torch.cat(x.chunk(2, 1), 1), {}),
        (lambda _, x: x[:, : x.shape[1] // 2].repeat(1, 2), {}),
        (lambda m, x: x.view(-1, m.dim), {"dim": 8}),
        (lambda m, x: torch.cat(x.split(m.half, 1), 1), {"half": 4}),
        (lambda m, x: torch.cat([x[:, m.some :], x[:, : m.some]], 1), {"some": 3}),
        (lambda _, x: x + x.new_zeros(x.shape[0], x.shape[1]), {}),
        (lambda _, x: x + torch.zeros(x.shape), {}),
        (lambda _, x: torch.einsum("bc->cb", x).t(), {}),
        (lambda _, x: functional.channel_shuffle(x[..., None, None], 2).flatten(1), {}),
        (lambda _, x: x.unsqueeze(1).expand(-1, 3, -1).amax(1).squeeze(), {}),
        (lambda _, x: torch.stack([x, x]).unbind()[0].clone().relu_().add_(1).movedim(0, 1).mT, {}),
    ],
)
def test_sizes_that_are_read_or_kept_as_attributes_follow(function, attributes):
    model = Around(Does(function, **attributes))
    groups = trace(model, torch.randn(3, 4))
    small, _ = extract(model, groups, width=0.5)
    assert small.first.out_features == 4
    assert small(torch.randn(2, 4)).shape == (2, 2)


@pytest.mark.parametrize(
    ("function", "attributes"),
    [
        (lambda m, x: x.view(-1, m.dim) * m.dim, {"dim": 8}),
        (lambda _, x: x * (0.5 * x.shape[1]), {}),
        (lambda _, x: x * 2 if x.shape[1] > 4 else x, {}),
    ],
)
def test_a_number_of_channels_that_is_a_value_too_is_found_by_what_it_does(function, attributes):
    model = Around(Does(function, **attributes))
    groups = trace(model, torch.randn(3, 4))
    assert dict(groups.units) == {"first": 8}
    with pytest.raises(ConfigError, match=r"with 4 of 8 in 'first' layer 'between' must compute what it does in the"):
        extract(model, groups, width=0.5)


def test_a_layer_that_few_channels_leave_out_is_found():
    model = Around(Does(lambda m, x: m.more(x) if x.shape[1] > 4 else x, more=nn.Tanh()))
    groups = trace(model, torch.randn(3, 4))
    extract(model, groups, width=0.75)
    with pytest.raises(ConfigError, match=r"layer 'between\.more' must compute what it does"):
        extract(model, groups, width=0.5)


def test_what_is_zero_at_first_is_compared_all_the_same():
    model = Around(Does(lambda m, x: x.view(-1, m.dim) * m.dim, dim=8))
    nn.init.zeros_(model.last.weight)
    with pytest.raises(ConfigError, match="layer 'between' must compute what it does"):
        extract(model, trace(model, torch.randn(3, 4)), width=0.5)


def test_a_model_that_runs_with_its_own_weights_alone_cannot_be_compared():
    def scaled(module, x):
        if float(module.scale) != 2.0:
            raise ValueError("two alone will do")
        return x * module.scale

    model = Around(Does(scaled, scale=nn.Parameter(torch.tensor(2.0))))
    said = r"with 4 of 8 in 'first' and weights moved a little, layer 'between' \(Does\) must run .* two alone will do"
    with pytest.raises(ConfigError, match=said):
        extract(model, trace(model, torch.randn(3, 4)), width=0.5)


def test_a_model_that_draws_numbers_is_cut_all_the_same():
    model = Around(Does(lambda _, x: x + torch.randn_like(x)))
    small, _ = extract(model, trace(model, torch.randn(3, 4)), width=0.5)
    assert small.first.out_features == 4


def test_the_size_of_a_head_may_be_a_value():
    def heads(module, x):
        size = x.shape[1] // module.num_heads
        return (x.view(-1, module.num_heads, size) * size**-0.5).flatten(1)

    model = Around(Does(heads, num_heads=4))
    groups = trace(model, torch.randn(3, 4))
    assert dict(groups.units) == {"first": 4}
    small, _ = extract(model, groups, {"first": [1, 3]})
    torch.testing.assert_close(small.between(torch.ones(1, 4)), model.between(torch.ones(1, 8))[:, :4])


def test_both_sides_of_a_similarity_stay():
    model = Around(Does(lambda m, x: x * functional.cosine_similarity(x, m.other(x))[:, None], other=nn.Linear(8, 8)))
    groups = trace(model, torch.randn(3, 4))
    assert not groups.units
    assert "cosine_similarity over channels" in groups.fixed["between.other.weight[0]"]


def test_equal_parts_by_a_list_of_sizes_keep_the_same_positions():
    model = Around(Does(lambda _, x: torch.cat([k * x for k, x in enumerate(x.split([x.shape[1] // 2] * 2, 1))], 1)))
    groups = trace(model, torch.randn(3, 4))
    assert groups.axes["first.weight"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    extract(model, groups, {"first": [0, 3]})


def test_a_model_that_cannot_be_copied_is_refused():
    model = Around(nn.ReLU())
    model.between.computed = model.first.weight * 2
    with pytest.raises(ConfigError, match=r"the model \(Around\) must be one that can be copied, got RuntimeError"):
        trace(model, torch.randn(3, 4))


class Literal(Attention):
    """Attention whose code writes the number of its heads out."""

    def forward(self, x):
        batch, time, _ = x.shape
        queries, keys, values = (
            layer(x).view(batch, time, 4, -1).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        scores = torch.softmax(queries @ keys.transpose(-1, -2) / self.size**0.5, dim=-1)
        return self.out((scores @ values).transpose(1, 2).flatten(2))


def test_heads_that_the_code_writes_out_are_found_when_they_do_not_follow():
    # It runs: eight channels are four heads of two as well as two of four. But the heads are other ones.
    model = Tied(Literal(8, 4, 4))
    groups = trace(model, torch.randint(9, (2, 5)))
    assert groups.units["blocks.0.queries"] == 4
    with pytest.raises(ConfigError, match=r"with 2 of 4 in 'blocks.0.queries' .*'blocks.0.*cannot follow"):
        extract(model, groups, {"blocks.0.queries": [0, 2]})


def test_what_a_model_returns_must_keep_its_shape():
    model = Does(
        lambda module, x: (module.last(module.first(x)), torch.arange(module.first(x).shape[1])),
        first=nn.Linear(4, 8),
        last=nn.Linear(8, 2),
    )
    groups = trace(model, torch.randn(3, 4))
    with pytest.raises(ConfigError, match=r"the model must give \[\(3, 2\), \(8,\)\], got \[\(3, 2\), \(4,\)\]"):
        extract(model, groups, width=0.5)


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self, shared, second):
        super().__init__()
        self.first, self.second, self.shared, self.last = nn.Linear(4, 6), second, shared, nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.shared(self.first(x)) + self.shared(self.second(x)))


def test_what_a_layer_that_is_called_twice_reads_is_united():
    model = Twice(nn.Linear(6, 6), nn.Linear(4, 6))
    groups = trace(model, torch.randn(3, 4))
    assert dict(groups.units) == {"first": 6, "shared": 6}
    assert torch.equal(groups.axes["second.weight"][0], groups.axes["first.weight"][0])
    extract(model, groups, width=0.5)


def test_a_layer_that_is_called_twice_with_other_sizes_is_refused():
    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 9), nn.Linear(9, 2)
            self.norm = nn.InstanceNorm1d(6)

        def forward(self, x):
            x = self.norm(self.first(x)[..., None].expand(-1, -1, 2))[..., 0]
            return self.third(self.norm(self.second(x)[..., None].expand(-1, -1, 2))[..., 0])

    with (
        pytest.warns(UserWarning, match="num_features"),
        pytest.raises(ConfigError, match=r"layer 'norm' \(InstanceNorm1d\): .*called twice meets 6 and 9 channels"),
    ):
        trace(Sizes(), torch.randn(3, 4))


def test_packed_sequences_are_refused():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.cells = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(self.first(x), torch.tensor([2, 1]), batch_first=True)
            return self.cells(packed)[0].data

    with pytest.raises(ConfigError, match="pack_padded_sequence is not known"):
        trace(Packed(), torch.randn(2, 2, 3))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_must_stay_smaller_than_what_it_projects():
    model = nn.Sequential(nn.LSTM(3, 4, proj_size=3), Does(lambda _, x: x[0]), nn.Linear(3, 2))
    groups = trace(model, torch.randn(2, 5, 3))
    with pytest.raises(ConfigError, match="layer '0': torch needs proj_size < hidden_size, got 3 and 2"):
        extract(model, groups, {"0": [0, 1]})


@pytest.mark.parametrize("width", [0.0, -1.0, 1.01, float("nan")])
def test_a_width_must_leave_something(width):
    model = Around(nn.ReLU())
    with pytest.raises(SupportError, match=r"width must be in \(0, 1\]"):
        extract(model, trace(model, torch.randn(3, 4)), width=width)


@pytest.mark.parametrize("keep", [[], [8], [-1, 2], [1, 1], [2, 1], torch.tensor([0.5]), torch.tensor([[1]])])
def test_kept_units_must_be_some_and_in_order(keep):
    model = Around(nn.ReLU())
    with pytest.raises(SupportError, match=r"group 'first': at least one unit of \[0, 8\) must be kept"):
        extract(model, trace(model, torch.randn(3, 4)), {"first": keep})


def test_only_one_way_to_say_what_is_kept():
    model = Around(nn.ReLU())
    groups = trace(model, torch.randn(3, 4))
    with pytest.raises(SupportError, match="give one of them"):
        extract(model, groups, {"first": [0]}, 0.5)
    with pytest.raises(SupportError, match="keep must name groups of the model, got 'nowhere'; it has first"):
        extract(model, groups, {"nowhere": [0]})
    with pytest.raises(SupportError, match="multiple must be at least 1, got 0"):
        extract(model, groups, width=0.5, multiple=0)
    with pytest.raises(SupportError, match=r"the model must be the one that was traced; 'first.weight'"):
        extract(Around(nn.ReLU(), width=7), groups, width=0.5)


def test_what_is_moved_must_fit():
    support = Support.grid((3,), [torch.tensor([0, 2])])
    with pytest.raises(SupportError, match=r"must have shape \(3,\), got \(2,\)"):
        gather({"a": torch.ones(2)}, {"a": support})
    with pytest.raises(SupportError, match="every support needs its tensor, got none for a"):
        gather({}, {"a": support})
    with pytest.raises(SupportError, match="every tensor needs its support, got none for b"):
        scatter({"b": torch.ones(2)}, {"a": support})
    with pytest.raises(SupportError, match=r"must have shape \(2,\), got \(3,\)"):
        scatter({"a": torch.ones(3)}, {"a": support})
    with pytest.raises(SupportError, match="a smaller tensor needs a dense support or a grid, got a mask"):
        add_into(torch.ones(2), torch.ones(1), Support.masked(torch.tensor([True, False])))


def test_masks_must_fit():
    model = Around(nn.ReLU())
    groups = trace(model, torch.randn(3, 4))
    for masks in (
        {"first.weight": torch.ones(8, 4)},
        {"first.weight": torch.ones(8, dtype=torch.bool)},
        {"nowhere": torch.ones(8, dtype=torch.bool)},
    ):
        with pytest.raises(SupportError, match="must be bool and have shape"):
            shrink(model, groups, masks)
