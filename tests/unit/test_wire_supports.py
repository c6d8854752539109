"""Supports on the wire: every coding comes back as it was, at the size that it should have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbonsai.core.errors import UnknownSupport
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import account, decode, encode, seeded_support
from fedbonsai.wire.information import subset_limit
from fedbonsai.wire.records import Code
from fedbonsai.wire.shelf import Shelf
from fedbonsai.wire.streams import Sink
from fedbonsai.wire.support_writer import write_support

Held = dict[bytes, Support]


def random_mask(*shape: int, density: float = 0.1, seed: int = 0) -> Support:
    random = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return Support.masked(random < density)


def message_of(*supports: Support) -> Message:
    named = {f"w{at}": one for at, one in enumerate(supports)}
    zeros = {name: torch.zeros(one.shape) for name, one in named.items()}
    return Message({"weights": group(zeros, named)})


def held_by(*supports: Support) -> Held:
    return {one.digest: one for one in supports}


def cost(support: Support, held: Held | None = None) -> int:
    return account(encode(message_of(support), held=held)).supports


def roundtrip(*supports: Support, held: Held | None = None) -> list[Support]:
    message = decode(encode(message_of(*supports), held=held), held=held)
    return [part.support for part in message.groups["weights"].values()]


def rows_of(shape: tuple[int, ...], kept: list[int]) -> Support:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[kept] = True
    return Support.masked(mask)


def columns_and_rows() -> Support:
    rows, columns = torch.arange(40) % 3 == 0, torch.arange(90) % 4 < 2
    return Support.masked((rows[:, None] & columns)[:, :, None].expand(40, 90, 3).contiguous())


CODED = [
    (Support.dense((3, 4)), Code.WHOLE),
    (Support.masked(torch.zeros(5, 5, dtype=torch.bool)), Code.NONE),
    (Support.at((100,), torch.arange(20, 60)), Code.RUN),
    (random_mask(1000, density=0.49), Code.BITMAP),
    (random_mask(1000, density=0.3), Code.PACKED_BITMAP),
    (Support.at((900,), torch.arange(0, 900, 9).repeat_interleave(2) + torch.tensor([0, 4] * 100)), Code.PACKED_BITMAP),
    (random_mask(50, 40, density=0.05), Code.GAPS),
    (random_mask(50, 40, density=0.0005, seed=1), Code.GAPS),
    (random_mask(50, 40, density=0.95), Code.ABSENT_GAPS),
    (Support.at((5000,), torch.tensor([*range(1, 400, 2), 1800, 4999])), Code.GAPS),  # gaps too long for a byte
    (
        Support.masked(torch.tensor([True, False, False, True] * 30 + [True, True, False, False])),
        Code.BLOCKS,
    ),
    (Support.masked(torch.tensor([[False, True], [True, False]] * 20)), Code.BLOCKS),
    (rows_of((9, 5, 2), [1, 4, 5]), Code.PRODUCT),
    (columns_and_rows(), Code.PRODUCT),
    (Support.grid((6, 7), [torch.tensor([0, 3]), torch.arange(7)]), Code.GRID),
    (Support.grid((6, 7), [torch.tensor([], dtype=torch.int64), torch.arange(7)]), Code.GRID),
    (Support.masked(torch.zeros(1, dtype=torch.bool)), Code.NONE),
    (Support.dense((0, 3)), Code.WHOLE),
    (Support.dense(()), Code.WHOLE),
]


@pytest.mark.parametrize(("support", "code"), CODED, ids=lambda one: getattr(one, "name", ""))
def test_every_coding_is_chosen_where_it_fits_and_comes_back(support: Support, code: Code) -> None:
    assert write_support(support, Shelf(), Sink()).code is code
    (back,) = roundtrip(support)
    assert back == support
    assert (back.kind, back.shape, back.count) == (support.kind, support.shape, support.count)
    assert torch.equal(back.positions, support.positions)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0]),
    st.integers(0, 2**32),
)
def test_any_mask_of_any_shape_comes_back(shape: list[int], density: float, seed: int) -> None:
    support = random_mask(*shape, density=density, seed=seed)
    assert roundtrip(support) == [support]


@pytest.mark.parametrize(("chosen", "block"), [(1, 2), (1, 4), (2, 4), (3, 4), (4, 8), (2, 16)])
def test_blocks_come_within_one_and_a_half_percent_of_their_limit(chosen: int, block: int) -> None:
    number = 2**17 // block
    ranks = torch.rand(number, block, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    support = Support.masked((ranks < chosen).reshape(number // 64, 64 * block))
    limit = number * math.log2(math.comb(block, chosen)) / 8
    assert cost(support) <= 1.015 * limit + 20
    assert roundtrip(support) == [support]


@pytest.mark.parametrize("density", [0.5, 0.4, 0.25, 0.24, 0.2, 0.1, 0.03, 0.01])
def test_random_masks_come_within_one_and_a_half_percent_of_their_limit(density: float) -> None:
    mask = np.random.default_rng(0).random(10**6) < density
    support = Support.masked(torch.from_numpy(mask))
    assert cost(support) <= 1.015 * subset_limit(support.numel, support.count)


def test_a_support_that_stands_twice_costs_once() -> None:
    one, other = random_mask(100, 100), random_mask(100, 100, seed=1)
    data = encode(message_of(one, other, one, one))
    assert account(data).supports <= cost(one) + cost(other) + 8
    assert roundtrip(one, other, one, one) == [one, other, one, one]


def test_index_lists_that_stand_twice_cost_once() -> None:
    kept = torch.arange(512)[torch.rand(512, generator=torch.Generator().manual_seed(0)) < 0.5]
    layers = [Support.grid((512, 512, 3, 3), [kept, kept, *[torch.arange(3)] * 2]) for _ in range(9)]
    halves = [Support.grid((512,), [kept])] * 9
    assert account(encode(message_of(*layers, *halves))).supports <= 64 + 60
    assert roundtrip(*layers, *halves) == [*layers, *halves]


def test_a_held_support_costs_a_few_bits() -> None:
    supports = [random_mask(size, 64, seed=seed) for size in range(64, 69) for seed in range(4)]
    held = held_by(*supports)
    assert account(encode(message_of(*supports), held=held)).supports <= 32
    assert roundtrip(*supports, held=held) == supports


def test_many_held_supports_need_no_bits_but_their_check() -> None:
    supports = [random_mask(size, density=0.5, seed=size) for size in range(40, 110)]
    assert roundtrip(*supports, held=held_by(*supports)) == supports


def test_a_receiver_that_holds_more_still_finds_the_right_support() -> None:
    wanted = random_mask(32, 32)
    data = encode(message_of(wanted), held=held_by(wanted))
    more = held_by(*(random_mask(32, 32, seed=seed) for seed in range(50)), wanted)
    assert decode(data, held=more).groups["weights"]["w0"].support == wanted


def test_equal_first_bits_are_settled_by_the_check() -> None:
    masks = [random_mask(8, 8, density=0.5, seed=seed) for seed in range(40)]
    alike = [one for one in masks if one.digest[0] >> 7 == masks[0].digest[0] >> 7][:3]
    used = [masks[0]] * 1 + alike[1:]
    data = encode(message_of(*used), held=held_by(*used))
    assert [one.support for one in decode(data, held=held_by(*masks)).groups["weights"].values()] == used


def test_a_receiver_without_the_support_says_so() -> None:
    wanted, other = random_mask(32, 32), random_mask(32, 32, seed=1)
    data = encode(message_of(wanted), held=held_by(wanted))
    for held in ({}, held_by(other), held_by(random_mask(32, 33))):
        with pytest.raises(UnknownSupport, match="group 'weights', records"):
            decode(data, held=held)


def changed(support: Support, share: float) -> Support:
    """The support with a share of its coordinates moved elsewhere."""
    mask = support.indicator().clone().reshape(-1)
    moved = max(1, int(share * support.count))
    gone, new = support.positions[:: support.count // moved][:moved], (~mask).nonzero()[:moved, 0]
    mask[gone], mask[new] = False, True
    return Support.masked(mask.reshape(support.shape))


def test_a_changed_support_travels_as_the_difference() -> None:
    before = random_mask(1000, 500)
    after = changed(before, 0.01)
    held = held_by(before, random_mask(1000, 500, seed=1))
    assert write_support(after, Shelf(held), Sink()).code is Code.CHANGED
    assert cost(after, held) <= 0.06 * cost(after)
    assert roundtrip(after, held=held) == [after]


def test_of_bases_that_are_as_near_the_lower_digest_is_taken() -> None:
    wanted = random_mask(1000, 500)
    bases = [Support.at(wanted.shape, wanted.positions[kept]) for kept in (slice(100, None), slice(None, -100))]
    held, shelf = held_by(*bases), Shelf(held_by(*bases))
    assert write_support(wanted, shelf, Sink()).code is Code.CHANGED
    assert [one.digest for one in shelf.used] == [min(held)]


def test_top_k_inside_a_held_support_costs_less_than_on_its_own() -> None:
    outer = random_mask(1000, 500)
    inner = Support.at(outer.shape, outer.positions[::5].clone())
    held = held_by(outer)
    assert cost(inner, held) <= 1.05 * subset_limit(outer.count, inner.count) + 40
    assert cost(inner, held) < 0.7 * cost(inner)
    assert roundtrip(inner, held=held) == [inner]


def test_a_grid_that_is_held_is_referred_to() -> None:
    grid = Support.grid((40, 40), [torch.arange(0, 40, 3), torch.arange(0, 40, 2)])
    assert cost(grid, held_by(grid)) <= 32
    assert roundtrip(grid, held=held_by(grid)) == [grid]


def test_a_seeded_support_travels_as_its_seed() -> None:
    support = seeded_support((300, 100), 3000, seed=2**63 + 5)
    assert support.count == 3000
    data = encode(message_of(support), seeds={support.digest: 2**63 + 5})
    assert account(data).supports <= 32
    assert decode(data).groups["weights"]["w0"].support == support


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_seeded_supports_have_any_count(count: int) -> None:
    assert seeded_support((2, 4), count, seed=3).count == count


def test_structured_supports_of_a_whole_network_cost_less_than_a_kilobyte() -> None:
    random = torch.Generator().manual_seed(0)
    kept = {size: torch.randperm(size, generator=random)[: size // 2].sort().values for size in (64, 128, 256, 512)}
    layers = [
        Support.grid((out, into, 3, 3), [kept[out], kept[into], torch.arange(3), torch.arange(3)])
        for out in kept
        for into in kept
    ]
    assert account(encode(message_of(*layers))).supports <= 400


def test_present_values_may_be_zero() -> None:
    support = random_mask(20, 20, density=0.5)
    (back,) = roundtrip(support)
    assert back.count == support.count > 0
