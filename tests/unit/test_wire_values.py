"""Values on the wire: exact ones bit by bit, the others within their bounds."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from fedbonsai.core.errors import ConfigError, UnknownSupport
from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.support import Support
from fedbonsai.wire import SETTINGS, decode, encode
from fedbonsai.wire.feedback import Origin, compensate
from fedbonsai.wire.streams import write_rest
from fedbonsai.wire.values import TYPES, Coding, choose

LOSSY = ("bf16", "fp16", "int8", "int4", "uniform", "sign", "ternary", "bits")

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def through(values: Tensor, setting: str, round_: int = 0) -> Tensor:
    message = Message({"weights": group({"w": values})}, round=round_)
    return decode(encode(message, values=setting)).groups["weights"]["w"].values.reshape(values.shape)


def bits_of(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(BITS[values.dtype.itemsize])


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ZEROS = [0x00000000, 0x80000000]
INFINITE = [0x7F800000, 0xFF800000]
NANS = [0x7FC00000, 0x7FA12345]
SUBNORMAL = [0x00000001, 0x807FFFFF]


@pytest.mark.parametrize("setting", ["raw", "fp32", "delta"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_exact_codings_keep_every_bit_of_every_type(setting: str, dtype: torch.dtype) -> None:
    special = torch.tensor(ZEROS + INFINITE + NANS + SUBNORMAL, dtype=torch.int64)
    patterns = special.to(torch.int32).view(torch.float32)
    values = torch.cat([patterns, weights(5000)])
    if not dtype.is_floating_point:
        values = torch.randint(0, 2 if dtype is torch.bool else 100, (5008,))
    values = values.to(dtype)
    assert torch.equal(bits_of(through(values, setting)), bits_of(values))
    assert through(values, setting).dtype is dtype


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint32, st.integers(0, 300)), st.sampled_from(["fp32", "delta"]))
def test_any_bits_of_floats_survive(words: np.ndarray, setting: str) -> None:
    values = torch.from_numpy(words.view(np.int32)).view(torch.float32)
    base = {"weights": group({"w": values.roll(1)})}
    message = Message({"weights": group({"w": values})})
    back = decode(encode(message, values=setting, base=base), base=base)
    assert torch.equal(bits_of(back.groups["weights"]["w"].values), bits_of(values))


@pytest.mark.parametrize(("different", "bits"), [(2, 1.0), (3, 1.6), (11, 3.47), (16, 4.0), (256, 8.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_few_different_values_cost_an_index_each(different: int, bits: float, dtype: torch.dtype) -> None:
    table = weights(different).to(dtype)
    table[:2] = torch.tensor([float("nan"), -0.0])  # any bits may be in the table
    values = table[torch.randint(different, (300, 300), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(bits_of(through(values, "fp32")), bits_of(values))
    overhead = 110 + different * dtype.itemsize
    assert len(encode(Message({"weights": group({"w": values})}))) < 1.02 * bits / 8 * 90000 + overhead


@pytest.mark.parametrize("values", [torch.ones(4000), weights(4000), torch.arange(7.0), weights(4000).repeat(2)])
def test_one_value_and_many_are_left_to_their_planes(values: Tensor) -> None:
    assert choose(Part(values, Support.dense(values.shape)), Coding.PLANES) is Coding.PLANES


def test_a_long_piece_is_stored_when_its_samples_do_not_compress() -> None:
    piece = np.zeros(2**15, np.uint8)
    for start in (0, 2**14, 2**15 - 2048):
        piece[start : start + 2048] = np.frombuffer(random.Random(start).randbytes(2048), np.uint8)
    assert write_rest([piece]).directory.large == (2**15,)
    assert write_rest([piece[:-1]]).directory.large[0] < 2**13  # not long: all of it is looked at


def test_a_difference_costs_less_than_the_values() -> None:
    values = weights(100, 100)
    base = {"weights": group({"w": values})}
    message = Message({"weights": group({"w": values * 1.0001})})
    assert len(encode(message, values="delta", base=base)) < 0.6 * len(encode(message))


def test_a_difference_reads_the_base_on_its_own_support() -> None:
    values = weights(20, 20)
    base = {"weights": group({"w": values}, {"w": Support.masked(values > 0)})}
    message = Message({"weights": group({"w": values + 1}, {"w": Support.masked(values < 0.5)})})
    back = decode(encode(message, values="delta", base=base), base=base)
    assert torch.equal(back.dense()["w"], message.dense()["w"])


def test_a_difference_against_another_base_is_an_unknown_support() -> None:
    base = {"weights": group({"w": torch.ones(9)})}
    data = encode(Message(base), values="delta", base=base)
    for other in (
        {},
        {"weights": group({"w": torch.zeros(9)})},
        {"weights": group({"w": torch.ones(3)})},
    ):
        with pytest.raises(UnknownSupport):
            decode(data, base=other)


@pytest.mark.parametrize("setting", LOSSY)
def test_lossy_codings_leave_small_and_strange_tensors_alone(setting: str) -> None:
    tensors = {
        "bias": weights(8191),
        "tiny": weights(7, 9),
        "integers": torch.arange(100).reshape(10, 10),
        "nan": torch.full((10, 10), float("nan")),
        "infinite": torch.full((10, 10), float("inf")),
        "huge": torch.full((10, 10), 2.0**101),
        "zero": torch.zeros(10, 10),
    }
    for values in tensors.values():
        assert torch.equal(bits_of(through(values, setting)), bits_of(values))
    numbers = {"pi": 3.141592653589793, "nan": float("nan"), "tiny": 5e-324}
    back = decode(encode(Message(numbers=numbers), values=setting)).numbers
    assert np.array_equal(list(back.values()), list(numbers.values()), equal_nan=True)


@pytest.mark.parametrize("setting", LOSSY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_lossy_codings_take_other_floats(setting: str, dtype: torch.dtype) -> None:
    values = weights(30, 30).to(dtype)
    back = through(values, setting)
    assert back.dtype is dtype
    assert float((back - values).abs().max()) < 8


@pytest.mark.parametrize(
    ("setting", "sizes"),
    [
        ("fp32", 3.5),
        ("bf16", 1.5),
        ("fp16", 2.0),
        ("int8", 1.05),
        ("int4", 0.56),
        ("uniform", 0.45),
        ("ternary", 0.25),
        ("sign", 0.14),
        ("bits", 0.14),
    ],
)
def test_codings_have_the_size_that_they_should(setting: str, sizes: float) -> None:
    values = weights(300, 300)
    assert len(encode(Message({"weights": group({"w": values})}), values=setting)) < sizes * 90000


matrices = arrays(np.float32, (9, 40), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_nan=False))


@settings(max_examples=40, deadline=None)
@given(matrices, st.sampled_from([("int8", 127, 256), ("int4", 7, 64)]))
def test_blocks_are_within_half_a_scale(values: np.ndarray, kind: tuple[str, int, int]) -> None:
    setting, top, block = kind
    flat = values.reshape(-1)
    back = through(torch.from_numpy(values), setting).numpy().reshape(-1)
    for start in range(0, flat.size, block):
        own = slice(start, start + block)
        scale = np.abs(flat[own]).max() / top
        assert (np.abs(back[own] - flat[own]) <= scale * (0.5 + 1e-5) + 2.0**-140).all()


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_rounded_floats_are_within_half_a_unit(values: np.ndarray) -> None:
    back = through(torch.from_numpy(values), "bf16").numpy()
    assert (np.abs(back - values) <= 2.0**-8 * np.abs(values) + 2.0**-134).all()


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(0, 99))
def test_uniform_is_within_half_a_step(values: np.ndarray, round_: int) -> None:
    back = through(torch.from_numpy(values), "uniform", round_).numpy()
    step = 0.5 * np.sqrt((values.astype(np.float64) ** 2).mean())
    bound = 0.5 * step * 1.001 + 1e-5 * np.abs(values)
    assert (np.abs(back - values) <= bound).all()


def test_uniform_keeps_outliers() -> None:
    values = weights(300, 300)
    values[0, 0] = 5000.0
    assert abs(float(through(values, "uniform")[0, 0]) - 5000) < 10


@pytest.mark.parametrize("setting", ["uniform", "bits"])
def test_dithered_codings_are_right_on_average_over_rounds(setting: str) -> None:
    values, rounds = weights(8, 8), 150
    backs = torch.stack([through(values, setting, round_) for round_ in range(rounds)])
    spread = float(values.max() - values.min()) if setting == "bits" else 0.5
    # Five deviations of a mean of values that are at most half a spread away.
    assert float((backs.mean(0) - values).abs().max()) < 5 * spread / 2 / rounds**0.5
    assert float((backs[0] - values).abs().max()) > spread / 4


def test_uniform_noise_does_not_depend_on_the_values() -> None:
    values = weights(400, 400)
    noise = through(values, "uniform") - values
    step = 0.5 * float(values.square().mean().sqrt())
    assert float(noise.var()) == pytest.approx(step**2 / 12, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), values.flatten()]))[0, 1])) < 0.01


def test_sign_has_the_best_scale() -> None:
    values = weights(50, 50)
    back = through(values, "sign")
    assert torch.equal(back.sign(), torch.where(values < 0, -1.0, 1.0))
    assert float(back.abs().max()) == pytest.approx(float(values.abs().mean()), rel=1e-4)


@pytest.mark.parametrize("coding", sorted(set(LOSSY) - {"fp16"}))
def test_values_of_any_size_are_coded_alike(coding: str) -> None:
    values = torch.linspace(-3, 5, 40)
    assert torch.equal(through(values * 2.0**-30, coding), through(values, coding) * 2.0**-30)


def test_ternary_has_three_values() -> None:
    values = weights(50, 50)
    back, threshold = through(values, "ternary"), 0.7 * float(values.abs().mean())
    kept = values.abs() > threshold
    assert torch.equal(back != 0, kept)
    assert torch.equal(back.sign(), torch.where(kept, values.sign(), 0.0))
    assert float(back.abs().max()) == pytest.approx(float(values[kept].abs().mean()), rel=1e-4)


def test_bits_are_exact_where_there_are_two_values() -> None:
    values = torch.where(weights(50, 50) > 0, 1.0, 0.0)
    assert torch.equal(through(values, "bits"), values)
    assert torch.equal(through(torch.full((9, 9), 0.3), "bits"), torch.full((9, 9), 0.3))


def test_an_unknown_setting_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        encode(Message(), values="int9")
    assert choose(Part(weights(100), Support.dense((10, 10))), Coding.INT8) is Coding.INT8


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_equal_messages_have_equal_bytes(setting: str) -> None:
    message = Message({"weights": group({"w": weights(60, 60)})}, {"loss": 0.25}, round=3)
    assert encode(message, values=setting) == encode(message, values=setting)


@pytest.mark.parametrize("setting", LOSSY)
def test_the_residual_is_what_the_receiver_lacks(setting: str) -> None:
    support = Support.masked(weights(40, 40, seed=1) > 0)
    parts, origin = group({"w": weights(40, 40)}, {"w": support}), Origin(5, 2, "weights")
    before = {"w": weights(40, 40, seed=2)}
    sent, left = compensate(parts, before, setting, origin)
    data = encode(Message({"weights": sent}, round=5, client=2), values=setting)
    received = decode(data).dense()["w"]
    whole = support.apply(parts["w"].dense() + before["w"])
    assert torch.allclose(received + support.apply(left["w"]), whole, atol=1e-6)
    assert torch.equal(left["w"][~support.indicator()], before["w"][~support.indicator()])


def test_a_residual_has_the_type_of_its_tensor() -> None:
    parts = group({"w": weights(9, 9).bfloat16()})
    for before in ({}, {"w": torch.zeros(9, 9, dtype=torch.bfloat16)}):
        assert compensate(parts, before, "sign")[1]["w"].dtype is torch.bfloat16


def test_feedback_makes_sign_right_on_average() -> None:
    values, rounds = torch.linspace(-1, 1, 100).reshape(10, 10), 60
    residual, total = {}, torch.zeros(10, 10)
    for round_ in range(rounds):
        sent, residual = compensate(group({"w": values}), residual, "sign", Origin(round_))
        data = encode(Message({"weights": sent}, round=round_), values="sign")
        total += decode(data).dense()["w"]
    assert float((total / rounds - values).abs().max()) < 0.15
    assert float((through(values, "sign") - values).abs().max()) > 0.45


@pytest.mark.parametrize("setting", ["fp32", "raw", "delta"])
def test_exact_codings_leave_no_residual(setting: str) -> None:
    _, left = compensate(group({"w": weights(10, 10)}), {}, setting)
    assert not left["w"].any()
