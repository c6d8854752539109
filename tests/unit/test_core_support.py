"""Supports hold for any shape: what they gather they scatter back, and they have one form and one name each."""

import hashlib
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.support import Support, pack_bits, unpack_bits

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def masks(draw) -> Tensor:
    shape = draw(shapes)
    bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(bits, dtype=torch.bool).reshape(shape)


@st.composite
def grids(draw) -> Callable[[], Support]:
    shape = draw(shapes)
    chosen = [sorted(draw(st.sets(st.integers(0, size - 1)))) if size else [] for size in shape]
    return partial(Support.grid, shape, [torch.tensor(one, dtype=torch.int64) for one in chosen])


# Made within the tests: the type checker samples lists by `random`, which Hypothesis forbids while it draws.
supports = st.one_of(
    masks().map(lambda mask: partial(Support.masked, mask)),
    grids(),
    shapes.map(lambda shape: partial(Support.dense, shape)),
)


def numbered(support: Support) -> Tensor:
    """A tensor of the support's shape whose values tell their places apart; none is zero."""
    return torch.arange(1.0, support.numel + 1).reshape(support.shape)


@settings(deadline=None)
@given(supports)
def test_gather_and_scatter_undo_each_other(make):
    support = make()
    whole = numbered(support)
    values = support.gather(whole)
    assert torch.equal(support.gather(support.scatter(values)), values)
    assert torch.equal(support.scatter(values), support.apply(whole))
    assert torch.equal(support.scatter(values, fill=-1.0), torch.where(support.indicator(), whole, -1.0))


@settings(deadline=None)
@given(supports)
def test_count_positions_and_indicator_agree(make):
    support = make()
    present = support.indicator()
    assert present.shape == support.shape
    assert support.count == math.prod(support.value_shape) == int(present.sum()) == len(support.gather(present))
    assert support.positions.tolist() == present.reshape(-1).nonzero().reshape(-1).tolist()


@settings(deadline=None)
@given(masks())
def test_a_support_is_its_mask_and_nothing_else(mask):
    support = Support.masked(mask)
    assert torch.equal(support.indicator(), mask)
    assert support == Support.masked(mask.clone())
    assert hash(support) == hash(Support.masked(mask.clone()))
    assert support.kind == ("dense" if mask.all() else "mask")
    if mask.numel():
        other = mask.clone()
        other.view(-1)[0] ^= True
        assert support != Support.masked(other)


@settings(deadline=None)
@given(grids())
def test_a_grid_is_the_outer_product_of_its_lists(make):
    shape, lists = make.args
    grid = make()
    expected = torch.ones(shape, dtype=torch.bool)
    for dim, one in enumerate(lists):
        expected &= torch.isin(torch.arange(shape[dim]), one).reshape(-1, *[1] * (len(shape) - dim - 1))
    assert torch.equal(grid.indicator(), expected)
    assert grid.value_shape == tuple(len(one) for one in lists)
    assert grid.kind == ("dense" if grid.value_shape == shape else "grid")
    assert grid == make()


def test_a_grid_by_hand():
    grid = Support.grid((3, 4), [tensor([0, 2]), tensor([1, 3])])
    assert grid.kind == "grid"
    assert grid.value_shape == (2, 2)
    assert grid.positions.tolist() == [1, 3, 9, 11]
    assert grid.scatter(tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [[0, 1, 0, 2], [0, 0, 0, 0], [0, 3, 0, 4]]


@settings(deadline=None)
@given(shapes)
def test_what_covers_everything_is_dense(shape):
    dense = Support.dense(shape)
    assert dense == Support.masked(torch.ones(shape, dtype=torch.bool))
    assert dense == Support.grid(shape, [torch.arange(size) for size in shape])


@settings(deadline=None)
@given(masks())
def test_positions_say_the_same_as_the_mask_they_are_of(mask):
    positions = mask.reshape(-1).nonzero().reshape(-1)
    support = Support.at(mask.shape, positions)
    assert support == Support.masked(mask)
    assert torch.equal(support.indicator(), mask)
    assert torch.equal(support.positions, positions)
    assert support.count == len(positions)


def test_the_digest_is_the_same_on_every_machine():
    mask = Support.masked(tensor([[True, False], [False, True]]))
    assert mask.digest == hashlib.sha256(b"mask(2, 2)" + bytes([0b1001])).digest()[:16]
    little = b"".join(number.to_bytes(8, "little") for number in (1, 2, 2, 0, 1))
    grid = Support.grid((3, 2), [tensor([2]), tensor([0, 1])])
    assert grid.digest == hashlib.sha256(b"grid(3, 2)" + little).digest()[:16]
    assert Support.dense([3]).digest == hashlib.sha256(b"dense(3,)").digest()[:16]


def test_shape_kind_and_lists_tell_supports_apart():
    bits = tensor([True, False, True, True, True, True])
    row = Support.grid((2, 2), [tensor([0]), tensor([0, 1])])
    different = [
        Support.masked(bits),
        Support.masked(bits.reshape(2, 3)),
        Support.masked(bits.reshape(3, 2)),
        Support.dense((2, 3)),
        Support.dense((3, 2)),
        row,
        Support.masked(row.indicator()),
        Support.grid((2, 2), [tensor([0, 1]), tensor([0])]),
    ]
    assert len(set(different)) == len(different)
    assert different[0] != bits


def test_a_support_does_not_follow_the_tensors_that_it_was_made_of():
    mask, index = tensor([True, False]), tensor([0])
    masked, grid = Support.masked(mask), Support.grid((2,), [index])
    mask[1], index[0] = True, 1
    assert masked.positions.tolist() == grid.positions.tolist() == [0]


def test_absent_values_become_exact_zeros_whatever_they_were():
    support = Support.masked(tensor([True, False, False]))
    assert support.apply(tensor([-1.0, math.nan, -math.inf])).tolist() == [-1.0, 0.0, 0.0]
    assert support.apply(torch.ones(3, dtype=torch.float64)).dtype == torch.float64


def test_scatter_gives_a_tensor_of_its_own():
    values = torch.ones(4)
    Support.dense((2, 2)).scatter(values).zero_()
    assert values.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Support.masked(tensor([1, 0])), "a mask must be bool, got torch.int64"),
        (lambda: Support.grid((2, 2), [tensor([0])]), "one index list a dimension: 2, got 1"),
        (lambda: Support.grid((3,), [tensor([0, 3])]), r"dimension 0: indices must increase within \[0, 3\)"),
        (lambda: Support.grid((3,), [tensor([-1, 0])]), r"got \[-1, 0\]"),
        (lambda: Support.grid((3, 3), [tensor([0]), tensor([1, 1])]), r"dimension 1: .* got \[1, 1\]"),
        (lambda: Support.grid((3,), [tensor([2, 1])]), "must increase"),
        (lambda: Support.grid((3,), [tensor([[0, 1]])]), "must increase"),
        (lambda: Support.grid((3,), [tensor(1)]), "must increase"),
        (lambda: Support.at((2, 2), tensor([0, 4])), r"increase within \(2, 2\), got \[0, 4\]"),
        (lambda: Support.at((2, 2), tensor([-1])), r"increase within \(2, 2\), got \[-1\]"),
        (lambda: Support.at((2, 2), tensor([1, 1])), r"got \[1, 1\]"),
        (lambda: Support.at((2, 2), tensor([0, 1], dtype=torch.int32)), "positions must be int64"),
        (lambda: Support.at((2, 2), tensor(1)), r"got \[1\]"),
        (lambda: Support.dense((2, 2)).gather(torch.ones(4)), r"must have shape \(2, 2\), got \(4,\)"),
        (lambda: Support.dense((2, 2)).scatter(torch.ones(3)), r"must have shape \(4,\), got \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(SupportError, match=said):
        make()


@settings(deadline=None)
@given(masks())
def test_packed_bits_unpack_to_the_same_mask(mask):
    packed = pack_bits(mask)
    assert (packed.dtype, len(packed)) == (torch.uint8, -(-mask.numel() // 8))
    assert torch.equal(unpack_bits(packed, mask.shape), mask)


def test_the_first_bit_is_the_lowest():
    assert pack_bits(tensor([True] * 8 + [False, True])).tolist() == [255, 2]


@pytest.mark.parametrize(
    "packed",
    [[0b1000], [0, 0], []],
    ids=["padding is set", "a byte too many", "a byte too few"],
)
def test_bits_that_do_not_fit_are_refused(packed):
    with pytest.raises(SupportError, match=f"3 bits need 1 bytes with zero padding, got {len(packed)}"):
        unpack_bits(torch.tensor(packed, dtype=torch.uint8), (3,))
