"""Quantizers: their grids by hand, their bounds by property, their names and their storage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.spec.formats import Activations, WeightCodes
from sw.quant import (
    FLOAT,
    NATIVE,
    OFFSET_SHIFTS,
    QuantError,
    QuantTensor,
    Rounding,
    Scheme,
    parse_weights,
    quantize,
    quantize_activations,
    rescale,
)

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
    assert rounding("tg64") == Rounding(WeightCodes(2, ternary=True), 64, Scheme.ABSMEAN)


@pytest.mark.parametrize("text", ["", "w9", "w0", "w4g", "w4g32x", "4g32", "tg32s", "w4 g32", "W4"])
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


@pytest.mark.parametrize("text", [*ROUNDINGS, "tg32", "t"])
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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_a_grid_with_its_own_minimum_is_found_again(bits, seed):
    """w = d*q + m with every group's ends in use: the codes come back, as from a Q4_1 file."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (4, 96), dtype=np.uint8)
    codes[:, ::32], codes[:, 1::32] = 0, (1 << bits) - 1
    scale = rng.uniform(0.01, 1, (4, 3)).astype(np.float16).astype(np.float32)
    minimum = rng.uniform(-8, 0, (4, 3)).astype(np.float16).astype(np.float32)
    given_tensor = QuantTensor(codes, WeightCodes(bits), 32, scale, minimum, 32)
    found = quantize(given_tensor.dequantize(), rounding(f"w{bits}g32f"))
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(found.minimum, minimum)


def test_bits_count_codes_and_group_storage():
    w = np.zeros((4, 72), np.float32)
    # Three groups a row: 16 bits of scale; a zero point of 4 bits; or a minimum of 16.
    for text, group_bits in (("w4g32s", 16), ("w4g32a", 20), ("w4g32f", 32)):
        tensor = quantize(w, rounding(text))
        assert tensor.index_bits == 4 * 72 * 4
        assert tensor.total_bits == tensor.index_bits + 4 * 3 * group_bits
    assert quantize(w, rounding("tg32")).index_bits == 2 * 72 * 4


def test_all_zero_weights_stay_zero():
    for text in ROUNDINGS:
        assert not quantize(np.zeros((2, 40), np.float32), rounding(text)).dequantize().any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_weights_without_a_half_precision_scale_are_refused(value):
    w = np.ones((2, 40), np.float32)
    w[1, 3] = value
    with pytest.raises(QuantError, match="half-precision"):
        quantize(w, rounding("w4g32"))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_activations_round_to_nearest_even_per_row(bits):
    most = Activations(bits).maximum
    a = np.array([[most, 0.5, 1.5, -2.5, 0], [0, 0, 0, 0, 0]], np.float32)
    found = quantize_activations(a, Activations(bits))
    assert found.x.tolist() == [[most, 0, 2, -2, 0], [0] * 5]
    assert found.scale.tolist() == [1, 0]


@settings(max_examples=60, deadline=None)
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


# Integer scales of a core.


@pytest.mark.parametrize("text", ["w4s", "w1s", "w2s", "w8s", "t", "w4a", "w3a"])
def test_one_group_per_output_is_rescaled_exactly(text):
    """Symmetric, ternary and zero-point grids, whatever the sizes of the outputs."""
    rng = np.random.default_rng(2)
    w = (rng.normal(size=(50, 40)) * 10.0 ** rng.uniform(-3, 2, (50, 1))).astype(np.float32)
    tensor = quantize(w, rounding(text))
    found = rescale(tensor, 8, 8)
    rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
    # The unit alone is rounded, to float32.
    np.testing.assert_allclose(rebuilt, tensor.rows(slice(None), np.float64), rtol=2.0**-24)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*ROUNDINGS, "tg32"]),
    st.integers(2, 16),
    st.integers(2, 16),
    st.integers(0, 2**32 - 1),
)
def test_rescaled_grids_lie_within_half_a_step_of_each_integer(text, scales, offsets, seed):
    w = np.random.default_rng(seed).normal(size=(3, 70)).astype(np.float32)
    tensor = quantize(w, rounding(text))
    found = rescale(tensor, scales, offsets)
    assert 0 <= found.scale.min() <= found.scale.max() < 1 << scales
    assert np.abs(found.offset.astype(int)).max() < 1 << offsets - 1
    assert found.offset_shift in OFFSET_SHIFTS
    unit = found.unit[:, None].astype(np.float64)
    half = tensor.scale.astype(np.float64) / 2
    middle = tensor.minimum + half * (tensor.format.levels - 1)
    assert (np.abs(found.scale * unit - half) <= 0.5001 * unit).all()
    step = unit * (1 << found.offset_shift)
    assert (np.abs(found.offset * step - middle) <= 0.5001 * step).all()


def test_more_bits_mean_smaller_errors():
    w = np.random.default_rng(4).normal(size=(64, 256)).astype(np.float32)
    tensor = quantize(w, rounding("w4g32"))

    def error(bits: int) -> float:
        found = rescale(tensor, bits, bits)
        rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
        return float(np.abs(rebuilt - tensor.rows(slice(None), np.float64)).mean())

    errors = [error(bits) for bits in range(3, 15)]
    assert errors == sorted(errors, reverse=True)
    # Four bits more are 16 times as fine, up to the granularity of the shift.
    assert error(8) < error(4) / 10


def test_groups_with_a_negative_scale_are_mirrored():
    codes = np.array([[0, 1, 2, 3], [3, 3, 0, 1]], np.uint8)
    scale = np.array([[-0.5], [0.25]], np.float32)
    minimum = np.array([[1.0], [-0.5]], np.float32)
    tensor = QuantTensor(codes, WeightCodes(2), 4, scale, minimum, 32)
    found = rescale(tensor, 8, 8)
    assert found.codes.tolist() == [[3, 2, 1, 0], [3, 3, 0, 1]]
    rebuilt = found.integers(slice(None)) * found.unit[:, None].astype(np.float64)
    np.testing.assert_allclose(rebuilt, tensor.dequantize(), rtol=2.0**-24)


def test_the_largest_sum_is_reached():
    rng = np.random.default_rng(5)
    tensor = rescale(quantize(rng.normal(size=(1, 70)).astype(np.float32), rounding("w2g32")), 8, 8)
    extreme = 3 * (tensor.offset >= 0).astype(np.uint8)  # the code that adds to the offset
    codes = np.repeat(extreme, 32, axis=1)[:, :70]
    weights = replace(tensor, codes=codes).integers(slice(None))[0]
    x = 127 * np.sign(weights)
    assert tensor.largest_sum(Activations(8)) == weights @ x
