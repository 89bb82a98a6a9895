"""Rounding by definition, and sums in the order and precision of other implementations."""

import itertools

import numpy as np
import pytest

from evolute.hw.spec import FloatLut, FloatMac, SpecError
from evolute.hw.spec.floating import FP16, RESULT
from evolute.hw.spec.formats import FLOATS
from evolute.sim import numbers
from evolute.sim.golden import floating
from evolute.sim.what_if.accuracy import draw, looked_up, multiplied

SMALL = [FLOATS["fp8e4m3"], FLOATS["fp8e5m2"]]


def classes(kind):
    """Codes at both ends of every class of numbers, and next to a power of two."""
    one, top = kind.bias << kind.mantissa_bits, kind.largest_code
    least_normal = 1 << kind.mantissa_bits
    magnitudes = [0, 1, 2, least_normal - 1, least_normal, one - 1, one, one + 1, top - 1, top]
    return np.array([code | sign << kind.bits - 1 for code in magnitudes for sign in (0, 1)])


def all_pairs(codes):
    pairs = np.array(list(itertools.product(codes, repeat=2)))
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("precision", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.name)
def test_every_sum_of_small_numbers_is_the_nearest_by_integer_arithmetic(kind, precision):
    a, b = (floating.numbers(each, kind) for each in all_pairs(np.arange(256)))
    unit = 1 - kind.bias - kind.mantissa_bits
    exact = (np.ldexp(a, -unit) + np.ldexp(b, -unit)).astype(np.int64)
    magnitude = np.abs(exact)
    length = np.array([int(each).bit_length() for each in magnitude])
    drop = np.maximum(0, length - precision)
    kept, rest, half = magnitude >> drop, magnitude & (1 << drop) - 1, (1 << drop) >> 1
    up = (rest > half) | ((rest == half) & (drop > 0) & (kept & 1 == 1))
    expected = np.sign(exact) * ((kept + up) << drop)
    found = np.ldexp(floating.add(a, b, precision), -unit)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("narrow", "kind"), [(np.float16, FP16), (np.float32, RESULT)])
def test_additions_are_those_of_ieee_754(narrow, kind):
    rng, count = np.random.default_rng(1), 200_000
    width = np.uint16 if kind is FP16 else np.uint32
    near = rng.integers(0, 1 << kind.bits, count)
    corners = all_pairs(classes(kind))
    a = np.concatenate([corners[0], near, rng.integers(0, 1 << kind.bits, count)])
    # Half of the second ones are near the first ones' negations, where bits cancel.
    other = near + rng.integers(-9, 10, count) << kind.mantissa_bits - 3
    b = np.concatenate([corners[1], (near ^ 1 << kind.bits - 1) + other, other])
    a, b = (each % (1 << kind.bits) for each in (a, b))
    finite = numbers.is_finite(a, kind) & numbers.is_finite(b, kind)
    x, y = (each[finite].astype(width).view(narrow) for each in (a, b))
    with np.errstate(over="ignore"):
        expected = x + y
    found = floating.add(x.astype(float), y.astype(float), kind.mantissa_bits + 1)
    inside = np.isfinite(expected)
    assert inside.sum() > count
    # Subnormal binary32 sums are exact, as all sums of subnormals.
    assert np.array_equal(found[inside], expected[inside].astype(float))
    assert (np.abs(found[~inside]) > np.finfo(narrow).max).all()


def test_what_float64_rounds_is_rounded_once_all_the_same():
    halfway, least = 64.0 * (1 + 2.0**-11), 2.0**-48
    assert halfway + least == halfway  # float64 drops it
    assert floating.add(np.array([halfway]), np.array([least]), 11) == 64 * (1 + 2.0**-10)
    assert floating.add(np.array([halfway]), np.array([-least]), 11) == 64
    assert floating.add(np.array([halfway]), np.array([0.0]), 11) == 64  # a tie, to even


def test_what_is_not_finite_counts_as_the_greatest_number():
    for kind in (*SMALL, FP16):
        codes = np.arange(1 << kind.bits)
        values = floating.numbers(codes, kind)
        finite = numbers.is_finite(codes, kind)
        assert np.array_equal(values[finite], numbers.decode(codes[finite], kind))
        top = numbers.decode(np.array([kind.largest_code]), kind)[0]
        assert set(values[~finite]) == {top, -top}


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("distribution", ["normal", "t3"])
def test_one_product_a_step_is_a_chain_of_fused_additions_in_fp16(distribution, bits):
    dots = draw(np.random.default_rng(2), distribution, (60, 200), bits)
    spec = FloatMac(k=1, sums="fp16")
    for i in range(0, 60, 20):
        x, weights = dots.x[i : i + 20].astype(float), dots.weights[i : i + 20].astype(float)
        psum, _ = floating.mac_sums(spec, x, weights)
        assert np.array_equal(np.diag(psum), multiplied(dots)[i : i + 20])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("distribution", ["normal", "t3"])
def test_one_table_a_step_is_the_published_order_of_sums(distribution, bits):
    """LUT Tensor Core's artifact: an FP16 entry per bit-plane added to an FP16 sum."""
    dots = draw(np.random.default_rng(3), distribution, (40, 64), bits)
    spec = FloatLut(kg=1, sums="fp16", weight_bits=bits)
    psum, ones = floating.lut_sums(spec, dots.x.astype(float), dots.codes, bits)
    assert np.array_equal(np.diag(psum), looked_up(dots))
    assert np.array_equal(ones, looked_up(draw_of_ones(dots)))


def draw_of_ones(dots):
    return type(dots)(dots.x, np.ones_like(dots.codes), 1)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_fp32_sums_are_float32_additions_of_pairs(k):
    rng = np.random.default_rng(k)
    x = rng.standard_t(3, (3, 48)).astype(np.float16)
    w = rng.standard_t(3, (5, 48)).astype(np.float16)
    psum, row_sum = floating.mac_sums(FloatMac(k=k, sums="fp32"), x.astype(float), w.astype(float))

    def chained(terms):
        total = np.float32(0)
        for start in range(0, 48, k):
            level = list(terms[start : start + k])
            while len(level) > 1:
                level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
            total = total + level[0]
        return total

    for i, j in itertools.product(range(3), range(5)):
        products = x[i].astype(np.float32) * w[j].astype(np.float32)
        assert psum[i, j] == chained(products)
        assert row_sum[i] == chained(x[i].astype(np.float32))


def test_dequantized_weights_are_rounded_products_of_their_scales():
    rng = np.random.default_rng(4)
    scales = rng.uniform(0.001, 0.1, (7, 1)).astype(np.float16)
    values = rng.integers(-128, 128, (7, 50))
    found = floating.dequantized(values, scales.view(np.uint16))
    assert np.array_equal(found, values.astype(np.float16) * scales)


def test_refusals():
    for fields, reason in (
        ({"activation_format": "int"}, "activation_format: must be one of fp16, fp8e4m3"),
        ({"activation_format": "bf16"}, "whose sums binary32 can hold"),
        ({"activation_bits": 12}, "activation_bits: must be 16, the width of fp16"),
        ({"sums": "fp64"}, "sums: must be one of fp16, fp32"),
    ):
        for kind in (FloatMac, FloatLut):
            with pytest.raises(SpecError, match=reason):
                kind(**fields)
    with pytest.raises(SpecError, match="k: must be one of 1, 2, 4"):
        FloatMac(k=12)
    with pytest.raises(SpecError, match="weights: must be one of int, fp16, dequantized"):
        FloatMac(weights="float")
    with pytest.raises(SpecError, match="kg: must be one of 1, 2, 4"):
        FloatLut(kg=3)
