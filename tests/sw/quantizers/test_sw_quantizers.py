"""Quantizers: their grids by hand, their bounds by property, their names and their storage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.spec import BitSerial, Engine, LutTensorCore, Mac
from evolute.hw.spec.formats import TERNARY, Activations, Kind, WeightCodes
from evolute.sim.weights import Grid
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.rescale import OFFSET_SHIFTS, rescale
from evolute.sw.tensors.tensor import QuantError, QuantTensor, grid_of
from evolute.sw.tensors.weights import FLOAT, NATIVE, parse_weights

ROUNDINGS = [f"w{bits}g{group}{s}" for bits in range(1, 9) for group in (0, 32) for s in "saf"]


def rounding(text: str) -> Rounding:
    found = parse_weights(text).rounding
    assert found is not None
    return found


def test_names_mean_what_they_say():
    assert parse_weights("native") is NATIVE
    assert parse_weights("float") is FLOAT
    assert rounding("w4g32") == Rounding(WeightCodes(4), 32, Scheme.ASYMMETRIC)
    assert rounding("w2g128f") == Rounding(WeightCodes(2), 128, Scheme.FLOAT_MINIMUM)
    assert rounding("w3s") == rounding("w3g0s") == Rounding(WeightCodes(3), None, Scheme.SYMMETRIC)
    assert rounding("tg64") == Rounding(TERNARY, 64, Scheme.ABSMEAN)
    codes = WeightCodes(3, Kind.BITMOD)
    assert rounding("b3g64") == Rounding(codes, 64, Scheme.SPECIAL_VALUE)
    assert rounding("b3") == rounding("b3g0") == Rounding(codes, None, Scheme.SPECIAL_VALUE)


@pytest.mark.parametrize(
    "text",
    ["", "w9", "w0", "w4g", "w4g32x", "4g32", "tg32s", "w4 g32", "W4", "b2", "b5g32", "b4g32s"],
)
def test_other_names_are_refused(text):
    with pytest.raises(QuantError, match="w4g32"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("text", "codes", "scale", "minimum"),
    [
        # Zero is code 2; the largest magnitude, 3, is one step at two bits (levels -2..1). Half a
        # step goes to the even code.
        ("w2s", [1, 2, 2, 2], 3.0, -6.0),
        # From -3 to 1.5 in three steps of 1.5, zero at code 2.
        ("w2a", [0, 2, 2, 3], 1.5, -3.0),
        # The same range, from -3.
        ("w2f", [0, 2, 2, 3], 1.5, -3.0),
        # Magnitude 1.25 on average: the sign decides.
        ("w1s", [0, 0, 1, 1], 2.5, -1.25),
        ("t", [0, 1, 1, 2], 1.25, -1.25),
    ],
)
def test_grids_by_hand(text, codes, scale, minimum):
    w = np.array([[-3.0, -0.125, 0.375, 1.5]], np.float32)
    tensor = quantize(w, rounding(text))
    assert tensor.codes.tolist() == [codes]
    assert (tensor.scale, tensor.minimum) == (scale, minimum)
    assert tensor.dequantize().tolist() == [[scale * code + minimum for code in codes]]


@pytest.mark.parametrize("text", [*ROUNDINGS, "tg32", "t", "b3g32", "b4g32", "b4"])
def test_ragged_groups_equal_their_parts(text):
    """A row of 32 + 32 + 8 weights is quantized as three tensors would be."""
    w = np.random.default_rng(1).normal(size=(3, 72)).astype(np.float32)
    whole = quantize(w, rounding(text))
    if whole.group == 72:
        assert whole.scale.shape == (3, 1)
        return
    parts = [quantize(w[:, start : start + 32], rounding(text)) for start in (0, 32, 64)]
    assert np.array_equal(whole.codes, np.hstack([part.codes for part in parts]))
    assert np.array_equal(whole.dequantize(), np.hstack([part.dequantize() for part in parts]))


@settings(max_examples=60)
@given(st.sampled_from(ROUNDINGS), st.integers(0, 2**32 - 1), st.floats(-2, 3))
def test_errors_stay_within_half_a_step(text, seed, magnitude):
    w = np.random.default_rng(seed).normal(size=(2, 70)) * 10**magnitude
    w = w.astype(np.float32)
    choice = rounding(text)
    tensor = quantize(w, choice)
    error = np.abs(tensor.dequantize() - w)
    step = np.repeat(tensor.scale, tensor.group, axis=1)[:, :70]
    # Rounding a scale to half precision (2^-11) can move the far end of the grid: slack in steps.
    slack = 0.5 + tensor.format.levels * 2.0**-10
    if choice.scheme is Scheme.SYMMETRIC and choice.format.bits == 1:
        assert ((tensor.codes == 1) == (w >= 0)).all()
    elif choice.scheme is Scheme.ASYMMETRIC:
        # The zero point is rounded too: the far end may lie up to half a step outside.
        assert (error <= (slack + 0.5) * step).all()
    else:
        assert (error <= slack * step).all()


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_a_grid_with_its_own_minimum_is_found_again(bits, seed):
    """w = d*q + m with every group's ends in use: the codes come back, as from a Q4_1 file."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (4, 96), dtype=np.uint8)
    codes[:, ::32], codes[:, 1::32] = 0, (1 << bits) - 1
    scale = rng.uniform(0.01, 1, (4, 3)).astype(np.float16).astype(np.float32)
    minimum = rng.uniform(-8, 0, (4, 3)).astype(np.float16).astype(np.float32)
    given_tensor = QuantTensor(Grid.plain(codes, WeightCodes(bits), 32), scale, minimum, 32)
    found = quantize(given_tensor.dequantize(), rounding(f"w{bits}g32f"))
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(found.minimum, minimum)


def test_bits_count_codes_and_group_storage():
    w = np.zeros((4, 72), np.float32)
    # Three groups a row: 16 bits of scale; a zero point of 4 bits; or a minimum of 16.
    for text, group_bits in (("w4g32s", 16), ("w4g32a", 20), ("w4g32f", 32)):
        tensor = quantize(w, rounding(text))
        assert tensor.code_bits == 4 * 72 * 4
        assert tensor.total_bits == tensor.code_bits + 4 * 3 * group_bits
    assert quantize(w, rounding("tg32")).code_bits == 2 * 72 * 4
    # Two bits say which of four special values a group has (BitMoD, section III-C).
    assert quantize(w, rounding("b4g32")).total_bits == 4 * 72 * 4 + 4 * 3 * 18


def test_all_zero_weights_stay_zero():
    for text in (*ROUNDINGS, "b3g32", "b4"):
        assert not quantize(np.zeros((2, 40), np.float32), rounding(text)).dequantize().any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_weights_without_a_half_precision_scale_are_refused(value):
    w = np.ones((2, 40), np.float32)
    w[1, 3] = value
    for text in ("w4g32", "b4g32"):
        with pytest.raises(QuantError, match="half-precision"):
            quantize(w, rounding(text))


# BitMoD.

SHARED = {3: [0, 1, 2, 4], 4: [0, 1, 2, 3, 4, 6, 8, 12]}
SPECIALS = {3: [3, -3, 6, -6], 4: [10, -10, 16, -16]}


def brute_force(w, bits):
    """Special value, scale and values of one group: every grid, every value of it."""
    found = []
    for special, value in enumerate(SPECIALS[bits]):
        grid = sorted({*SHARED[bits], *(-each for each in SHARED[bits]), value})
        scale = np.float32(np.float16(np.abs(w).max() / np.float32(max(map(abs, grid)))))
        steps = w / scale if scale else np.zeros_like(w)
        nearest = [min(grid, key=lambda each: (abs(each - step), each)) for step in steps]
        error = float(((np.array(nearest, np.float32) * scale - w) ** 2).sum())
        found.append((error, special, scale, nearest))
    return min(found)[1:]


@pytest.mark.parametrize("bits", [3, 4])
def test_special_values_are_those_of_least_error(bits):
    rng = np.random.default_rng(bits)
    w = (rng.laplace(size=(150, 16)) * 10.0 ** rng.uniform(-3, 1, (150, 1))).astype(np.float32)
    w[0] = 0
    # Halfway between values: of each pair the lower is taken, on either side of zero.
    w[1:3, 0] = 4 if bits == 3 else 12
    w[1:3, 1:] = np.tile([0.5, 1.5, -0.5, -1.5, 3, -3, 0], 3)[:15]
    tensor = quantize(w, rounding(f"b{bits}g16"))
    chosen = grid_of(tensor).special
    for row, code in enumerate(tensor.codes):
        special, scale, values = brute_force(w[row], bits)
        assert chosen[row, 0] == special
        assert tensor.scale[row, 0] == scale
        assert [tensor.format.values(special)[each] for each in code] == values
    assert set(chosen.reshape(-1)) == {0, 1, 2, 3}
    assert not tensor.minimum.any()


@pytest.mark.parametrize(
    ("text", "gaussian", "laplace"),
    [
        ("w3g128s", 11.24, 8.96),
        ("w3g128a", 13.33, 11.28),
        ("b3g128", 14.20, 12.99),
        ("w4g128s", 18.60, 15.91),
        ("w4g128a", 19.95, 17.71),
        ("b4g128", 20.19, 19.45),
        ("w6g128s", 31.53, 28.74),
        ("w8g128s", 43.78, 40.97),
    ],
)
def test_noise_is_as_measured_elsewhere(text, gaussian, laplace):
    """Signal to noise in dB, of which another program measured these for groups of 128."""
    rng = np.random.default_rng(6)
    for drawn, measured in (
        (rng.standard_normal((512, 2048)), gaussian),
        (rng.laplace(size=(512, 2048)), laplace),
    ):
        w = drawn.astype(np.float32)
        tensor = quantize(w, rounding(text))
        assert decibels(w, tensor.rows(slice(None), np.float64)) == pytest.approx(measured, abs=0.1)
        if tensor.format.specials:
            # The 8-bit scales of a core lose next to nothing (BitMoD, Table V).
            scaled = rescaled(BITMOD, tensor)
            rebuilt = scaled.integers(slice(None)) * scaled.unit[:, None]
            assert decibels(w, rebuilt) == pytest.approx(measured, abs=0.1)


def decibels(w, rebuilt):
    return 10 * np.log10((w.astype(np.float64) ** 2).sum() / ((rebuilt - w) ** 2).sum())


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_activations_round_to_nearest_even_per_row(bits):
    most = Activations(bits).maximum
    a = np.array([[most, 0.5, 1.5, -2.5, 0], [0, 0, 0, 0, 0]], np.float32)
    found = quantize_activations(a, Activations(bits))
    assert found.x.tolist() == [[most, 0, 2, -2, 0], [0] * 5]
    assert found.scale.tolist() == [1, 0]


@settings(max_examples=60)
@given(st.integers(4, 16), st.integers(0, 2**32 - 1), st.floats(-44, 30))
def test_activation_errors_stay_within_half_a_step(bits, seed, magnitude):
    a = (np.random.default_rng(seed).normal(size=(3, 50)) * 10.0**magnitude).astype(np.float32)
    found = quantize_activations(a, Activations(bits))
    assert np.abs(found.x).max(initial=0) <= Activations(bits).maximum
    if magnitude > -30:  # smaller scales are denormal and have few bits themselves
        error = np.abs(found.x * found.scale[:, None].astype(np.float64) - a)
        half = 0.5 + 2.0 ** (bits - 22)  # and float32's own rounding of the quotient
        assert (error <= half * found.scale[:, None]).all()


def test_activations_that_are_not_finite_are_refused():
    with pytest.raises(QuantError, match="finite"):
        quantize_activations(np.array([[1, np.inf]], np.float32), Activations(8))


# Integer scales of a core, for an engine that counts half steps from the middle of the codes, and
# for one that counts whole steps from the code above it.

HALVES, WHOLE = LutTensorCore(weight_bits=8), Mac(weight_bits=8)
BITMOD = BitSerial(terms="bitmod")
each_coding = pytest.mark.parametrize("engine", [HALVES, WHOLE], ids=["halves", "whole"])


def rescaled(engine: Engine, tensor: QuantTensor, scale_bits: int = 8, offset_bits: int = 8):
    return rescale(tensor, engine.coding_of(tensor.format), scale_bits, offset_bits)


@each_coding
@pytest.mark.parametrize("text", ["w4s", "w1s", "w2s", "w8s", "t", "w4a", "w3a"])
def test_one_group_per_output_is_rescaled_exactly(engine, text):
    """Symmetric, ternary and zero-point grids, whatever the sizes of the outputs."""
    rng = np.random.default_rng(2)
    w = (rng.normal(size=(50, 40)) * 10.0 ** rng.uniform(-3, 2, (50, 1))).astype(np.float32)
    tensor = quantize(w, rounding(text))
    found = rescaled(engine, tensor)
    rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
    # The unit alone is rounded, to float32.
    np.testing.assert_allclose(rebuilt, tensor.rows(slice(None), np.float64), rtol=2.0**-24)


@pytest.mark.parametrize("text", ["b3", "b4"])
def test_one_group_with_a_special_value_is_rescaled_exactly(text):
    w = np.random.default_rng(3).laplace(size=(50, 40)).astype(np.float32)
    tensor = quantize(w, rounding(text))
    found = rescaled(BITMOD, tensor)
    rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
    np.testing.assert_allclose(rebuilt, tensor.rows(slice(None), np.float64), rtol=2.0**-24)
    assert not found.offset.any()


@settings(max_examples=120)
@given(
    st.sampled_from([HALVES, WHOLE]),
    st.sampled_from([*ROUNDINGS, "tg32"]),
    st.integers(2, 16),
    st.integers(2, 16),
    st.integers(0, 2**32 - 1),
)
def test_rescaled_grids_lie_within_half_a_step_of_each_integer(engine, text, scales, offsets, seed):
    w = np.random.default_rng(seed).normal(size=(3, 70)).astype(np.float32)
    tensor = quantize(w, rounding(text))
    found = rescaled(engine, tensor, scales, offsets)
    assert 0 <= found.scale.min() <= found.scale.max() < 1 << scales
    assert np.abs(found.offset.astype(int)).max() < 1 << offsets - 1
    assert found.offset_shift in OFFSET_SHIFTS
    unit = found.unit[:, None].astype(np.float64)
    scale, levels = tensor.scale.astype(np.float64), tensor.format.levels
    if engine is HALVES:
        wanted, zero = scale / 2, tensor.minimum + scale * (levels - 1) / 2
    else:
        wanted, zero = scale, tensor.minimum + scale * (levels // 2)
    assert (np.abs(found.scale * unit - wanted) <= 0.5001 * unit).all()
    step = unit * (1 << found.offset_shift)
    assert (np.abs(found.offset * step - zero) <= 0.5001 * step).all()


@each_coding
def test_more_bits_mean_smaller_errors(engine):
    w = np.random.default_rng(4).normal(size=(64, 256)).astype(np.float32)
    tensor = quantize(w, rounding("w4g32"))

    def error(bits: int) -> float:
        found = rescaled(engine, tensor, bits, bits)
        rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
        return float(np.abs(rebuilt - tensor.rows(slice(None), np.float64)).mean())

    errors = [error(bits) for bits in range(3, 15)]
    assert errors == sorted(errors, reverse=True)
    # Four bits more are 16 times as fine, up to the granularity of the shift.
    assert error(8) < error(4) / 10


@each_coding
def test_groups_with_a_negative_scale_are_mirrored(engine):
    codes = np.array([[0, 1, 2, 3], [3, 3, 0, 1]], np.uint8)
    scale = np.array([[-0.5], [0.25]], np.float32)
    minimum = np.array([[1.0], [-0.5]], np.float32)
    tensor = QuantTensor(Grid.plain(codes, WeightCodes(2), 4), scale, minimum, 32)
    found = rescaled(engine, tensor)
    assert found.codes.tolist() == [[3, 2, 1, 0], [3, 3, 0, 1]]
    rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
    np.testing.assert_allclose(rebuilt, tensor.dequantize(), rtol=2.0**-24)


def test_the_largest_sum_is_reached():
    rng = np.random.default_rng(5)
    w = rng.normal(size=(1, 70)).astype(np.float32)
    tensor = rescaled(HALVES, quantize(w, rounding("w2g32")))
    extreme = 3 * (tensor.offset >= 0).astype(np.uint8)  # the code that adds to the offset
    codes = np.repeat(extreme, 32, axis=1)[:, :70]
    weights = replace(tensor, form=replace(tensor.form, codes=codes)).integers(slice(None))[0]
    x = 127 * np.sign(weights)
    assert tensor.largest_sum(Activations(8)) == weights @ x


@settings(max_examples=60)
@given(st.sampled_from(ROUNDINGS), st.integers(0, 2**32 - 1))
def test_no_sum_is_larger_where_codes_reach_further_down_than_up(text, seed):
    rng = np.random.default_rng(seed)
    tensor = rescaled(WHOLE, quantize(rng.normal(size=(1, 70)).astype(np.float32), rounding(text)))
    lowest, highest = (
        replace(tensor, form=replace(tensor.form, codes=np.full((1, 70), code, np.uint8))).integers(
            slice(None)
        )[0]
        for code in (0, tensor.format.levels - 1)
    )
    reached = 127 * np.maximum(np.abs(lowest), np.abs(highest)).sum()
    # A group whose offset is positive would need a code above the highest.
    above = 127 * tensor.scale[0].astype(int).repeat(tensor.group)[:70].sum()
    assert reached <= tensor.largest_sum(Activations(8)) <= reached + above
