"""Memory that reading takes is paid for before it is taken: so many bytes a value or a coordinate, worked by hand."""

import pytest
import torch

from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import Limits, encode, read_frame, read_message, seeded_support


@pytest.fixture(autouse=True)
def _nothing_is_compressed(monkeypatch):
    """What is expanded is paid for besides."""
    monkeypatch.setattr("fedbonsai.wire.streams.squeeze", lambda data, _: data)


def spent(message, values="raw", held=None, base=None, seeds=None):
    frame = read_frame(encode(message, values=values, held=held, base=base, seeds=seeds), Limits())
    before = frame.budget.left
    assert read_message(frame, held or {}, base or {}).groups.keys() == message.groups.keys()
    return before - frame.budget.left


# That a tensor of 72 values is whole costs a byte a value, like every set of coordinates.
WHOLE = 72


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("values", "a_value"),
    [
        ("raw", 2 * 4),
        ("fp32", 2 * 4),
        ("bf16", 4 + 2 * 2),
        ("fp16", 4 + 2 * 2),
        ("int8", 12),
        ("int4", 12),
        ("uniform", 40),
        ("sign", 6),
        ("ternary", 12),
        ("bits", 6),
    ],
)
def test_each_coding_has_its_price_a_value(values, a_value):
    assert spent(Message({"weights": group({"w": draw(9, 8)})}), values) == WHOLE + 72 * a_value


def test_wide_values_cost_more():
    for dtype, size in ((torch.float64, 8), (torch.bfloat16, 2)):
        message = Message({"weights": group({"w": draw(9, 8).to(dtype)})})
        assert spent(message) == spent(message, "fp32") == WHOLE + 72 * 2 * size


def test_few_different_values_cost_their_index_too():
    assert spent(Message({"weights": group({"w": draw(9, 8).sign()})}), "fp32") == WHOLE + 72 * (2 * 4 + 8)


def test_a_difference_costs_its_base_too():
    # Eight bytes a coordinate and a present value, and four times the words of the base.
    groups, base = {"weights": group({"w": draw(9, 8)})}, {"weights": group({"w": draw(9, 8, seed=1)})}
    assert spent(Message(groups), "delta", base=base) == WHOLE + 8 * (72 + 72) + 4 * 72 * 4


MASK = Support.masked(draw(100, 10, seed=2) > 0)
SPARSE = Support.at((100, 10), torch.arange(7, 1000, 97))


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (Support.masked(torch.zeros(100, 10).bool()), 1000),
        (MASK, 1000),
        (Support.at((1000,), torch.arange(30, 90)), 1000),
        (SPARSE, 1000 + 24 * SPARSE.count),
        (Support.masked(~SPARSE.indicator()), 1000 + 24 * SPARSE.count),
        (Support.masked(torch.tensor([[False, True], [True, False]] * 20)), 80 + 16 * 80),
        # The product itself, a set of rows and one of columns.
        (Support.masked((torch.arange(9) < 4)[:, None] & (torch.arange(7) > 2)), 63 + 9 + 7),
        # Both sets, and sixteen bytes for each of their indices.
        (Support.grid((9, 7), [torch.arange(4), torch.arange(3, 7)]), 9 + 7 + 16 * (4 + 4)),
    ],
)
def test_each_coding_of_a_support_has_its_price(support, expected):
    message = Message({"weights": group({"w": torch.zeros(support.shape)}, {"w": support})})
    assert spent(message) == expected + 8 * support.count


def test_a_seed_costs_what_its_support_takes_to_draw():
    support = seeded_support((100, 10), 50, seed=3)
    message = Message({"weights": group({"w": torch.zeros(100, 10)}, {"w": support})})
    assert spent(message, seeds={support.digest: 3}) == 64 * 1000 + 8 * 50


def test_a_changed_support_costs_its_base_and_both_parts():
    base = Support.masked(draw(300, 100, seed=2) > 0)
    mask = base.indicator().clone().reshape(-1)
    mask[base.positions[:2]] = False  # a run among the present, and nothing among the absent
    support = Support.masked(mask.reshape(300, 100))
    message = Message({"weights": group({"w": torch.zeros(300, 100)}, {"w": support})})
    parts = base.count + (base.numel - base.count)
    expected = 3 * base.numel + 8 * base.count + parts + 8 * support.count
    assert spent(message, held={base.digest: base}) == expected
