"""Floating activations: codes against NumPy's own and the published ones, alignment against
fractions, and a model's layers on aligned integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from evolute.hw.spec import LutTensorCore, SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import FLOATS, Activations, FloatFormat
from evolute.sim import numbers
from evolute.sim.golden import align
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import (
    core_linears,
    core_model,
    golden_stage,
    integer_stage,
    on_accelerator,
)
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import QuantError
from evolute.sw.tensors.weights import parse_weights

FP16, BF16, E4M3, E5M2 = FLOATS.values()
FORMATS = pytest.mark.parametrize("kind", FLOATS.values(), ids=FLOATS)


def every_code(kind: FloatFormat) -> np.ndarray:
    return np.arange(1 << kind.bits)


# Codes.


def test_codes_of_16_bits_are_those_of_ieee_and_of_the_upper_half_of_float32():
    codes = every_code(FP16)
    with np.errstate(invalid="ignore"):  # NaN is converted, too
        halves = codes.astype(np.uint16).view(np.float16).astype(np.float64)
        singles = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    for kind, values in ((FP16, halves), (BF16, singles)):
        finite = numbers.is_finite(codes, kind)
        assert np.array_equal(finite, np.isfinite(values))
        assert np.array_equal(numbers.decode(codes, kind)[finite], values[finite])


@pytest.mark.parametrize(
    ("kind", "largest", "least_normal", "least", "not_finite"),
    [
        (E4M3, 448.0, 2.0**-6, 2.0**-9, {0x7F, 0xFF}),
        (E5M2, 57344.0, 2.0**-14, 2.0**-16, {*range(0x7C, 0x80), *range(0xFC, 0x100)}),
    ],
    ids=["fp8e4m3", "fp8e5m2"],
)
def test_codes_of_8_bits_are_those_of_ofp8(kind, largest, least_normal, least, not_finite):
    """OFP8, revision 1.0, Tables 1 and 2."""
    codes = every_code(kind)
    values = numbers.decode(codes, kind)
    assert set(codes[np.isnan(values)].tolist()) == not_finite
    assert np.nanmax(values) == largest == -np.nanmin(values)
    assert values[1] == least
    assert values[1 << kind.mantissa_bits] == least_normal
    assert values[0] == 0 == values[1 << 7] and np.signbit(values[1 << 7])


@FORMATS
def test_every_number_has_the_code_it_has(kind):
    codes = every_code(kind)
    finite = codes[numbers.is_finite(codes, kind)]
    assert np.array_equal(numbers.encode(numbers.decode(finite, kind), kind), finite)


@FORMATS
def test_encoding_rounds_to_the_nearest_code_and_halves_to_even_ones(kind):
    """At, below and above the middle between any two neighbours, and beyond the last."""
    codes = np.arange(kind.largest_code + 1)
    values = numbers.decode(codes, kind)
    middle = (values[:-1] + values[1:]) / 2
    even = codes[:-1] + (codes[:-1] & 1)
    for sign, top in ((1, 0), (-1, 1 << kind.bits - 1)):
        assert np.array_equal(numbers.encode(sign * middle, kind), even | top)
        below, above = np.nextafter(middle, 0), np.nextafter(middle, np.inf)
        assert np.array_equal(numbers.encode(sign * below, kind), codes[:-1] | top)
        assert np.array_equal(numbers.encode(sign * above, kind), codes[1:] | top)
        beyond = sign * np.array([1.01, 2.0, 1e30]) * values[-1]
        assert (numbers.encode(beyond, kind) == kind.largest_code | top).all()


def test_encoding_is_numpys():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(100_000) * np.exp2(rng.integers(-30, 14, 100_000))
    assert np.array_equal(numbers.encode(values, FP16), values.astype(np.float16).view(np.uint16))


# Alignment.


def nearest(kind: Activations, code: int, exponent: int) -> int:
    """The integer by definition, in fractions."""
    form = kind.format
    assert form is not None
    magnitude, sign = code % (1 << form.bits - 1), -1 if code >> form.bits - 1 else 1
    exponent = min(max(exponent, 1), form.top_exponent)
    field, mantissa = divmod(magnitude, 1 << form.mantissa_bits)
    if magnitude > form.largest_code:
        return sign * kind.maximum
    value = Fraction(mantissa, 1 << form.mantissa_bits) + (field > 0)
    value *= Fraction(2) ** (max(field, 1) - form.bias)
    unit = Fraction(2) ** (exponent - form.bias - (kind.bits - 2))
    return sign * min(round(value / unit), kind.maximum)  # Python rounds halves to even


@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=lambda each: each.name)
@pytest.mark.parametrize("bits", [4, 6, 9, 13])
def test_every_code_of_8_bits_with_every_exponent(kind, bits):
    activations = Activations(bits, kind)
    codes, exponents = every_code(kind), np.arange(1 << kind.exponent_bits)
    found = align.align(codes, exponents[:, None], activations)
    for exponent in exponents.tolist():
        expected = [nearest(activations, code, exponent) for code in codes.tolist()]
        assert found[exponent].tolist() == expected


@pytest.mark.parametrize("kind", [FP16, BF16], ids=lambda each: each.name)
@pytest.mark.parametrize("bits", [8, 10, 12, 13, 16])
def test_codes_of_16_bits(kind, bits):
    activations = Activations(bits, kind)
    rng = np.random.default_rng(bits)
    exponent = rng.integers(0, 1 << kind.exponent_bits, 3000)
    near = np.clip(exponent - rng.integers(-1, bits + 2, 3000), 0, None)
    codes = rng.integers(0, 1 << kind.bits, 3000)
    placed = codes & ~(kind.largest_code | 1) | near << kind.mantissa_bits
    placed |= codes & (1 << kind.mantissa_bits) - 1
    for each in (codes, placed % (1 << kind.bits)):
        found = align.align(each, exponent, activations)
        pairs = zip(each.tolist(), exponent.tolist(), strict=True)
        assert found.tolist() == [nearest(activations, *pair) for pair in pairs]


def test_named_corners():
    """FP16 in 13 bits: one guard bit, so 1.0 of the shared exponent is 2^11."""
    activations = Activations(13, FP16)
    assert activations.guard_bits == 1
    one, top = 15, activations.maximum

    def aligned(value: float, exponent: int) -> int:
        code = np.array(value, np.float16).view(np.uint16)
        return int(align.align(code, np.array(exponent), activations))

    assert [aligned(value, one) for value in (1.0, -1.5, 0.0, -0.0)] == [2048, -3072, 0, 0]
    assert [aligned(value, one) for value in (2.0, -2.0)] == [top, -top]
    assert [aligned(value, 30) for value in (np.inf, -np.inf, np.nan)] == [top, -top, top]
    assert [aligned(value, 31) for value in (np.inf, 32768.0)] == [top, 2048]  # 31 is read as 30
    least = 2.0**-24
    assert [aligned(least * count, 1) for count in (1, 1023, 1024)] == [2, 2046, 2048]
    assert aligned(least * 3, 0) == aligned(least * 3, 1) == 6  # 0 is read as 1
    # Subnormal numbers under an exponent of normal ones: a quarter, then three quarters of a unit.
    assert [aligned(least * count, 4) for count in (1, 2, 3, 4, 6)] == [0, 0, 1, 1, 2]


def test_the_shared_exponent_is_the_highest_of_a_finite_number():
    values = np.array([[0.0, 2.0**-24, 1.0, 3.0, -100.0]]).astype(np.float16)
    codes = values.view(np.uint16)
    assert numbers.shared_exponents(codes, FP16, 2).tolist() == [[1, 16, 21]]
    assert numbers.shared_exponents(codes, FP16, 5).tolist() == [[21]]
    infinite = np.array([[np.inf, 1]], np.float16).view(np.uint16)
    assert numbers.shared_exponents(infinite, FP16, 2).tolist() == [[30]]


# Activations of a model.


@FORMATS
@pytest.mark.parametrize("bits", [6, 13, 16])
def test_rows_are_rounded_to_the_format_and_then_to_half_a_unit(kind, bits):
    rng = np.random.default_rng(bits)
    a = rng.standard_t(3, (20, 64)) * np.exp2(rng.integers(-4, 5, (20, 1)))
    found = quantize_activations(a.astype(np.float32), Activations(bits, kind))
    assert found.exponent is not None
    values = numbers.decode(found.codes, kind)
    assert np.array_equal(found.codes, numbers.encode(a.astype(np.float32), kind))
    assert np.array_equal(np.exp2(np.round(np.log2(found.scale))), found.scale)
    unit = found.scale[:, None].astype(np.float64)
    # Of the shared exponent itself a number can round up to just beyond the greatest integer.
    assert (np.abs(found.x * unit - values) <= unit * (0.5 if bits > 6 else 1)).all()
    assert (np.abs(found.x).max(axis=1) >= 1 << bits - 2).all()


def test_the_least_row_has_a_scale():
    """The unit of the lowest exponent and of most bits is a float32, though not a normal one."""
    least = np.array([[2.0**-133, 0.0]], np.float32)
    found = quantize_activations(least, Activations(16, BF16))
    assert found.x.tolist() == [[128, 0]] and found.scale[0] * 128 == least[0, 0]
    nothing = quantize_activations(np.zeros((1, 2), np.float32), Activations(13, FP16))
    assert not nothing.x.any() and nothing.scale[0] > 0


def test_what_is_too_large_for_the_format_is_its_greatest_and_infinities_are_refused():
    activations = Activations(9, E4M3)
    found = quantize_activations(np.array([[1e6, -1e6, 448]], np.float32), activations)
    assert (found.x * found.scale).tolist() == [[448, -448, 448]]
    with pytest.raises(QuantError, match="not finite"):
        quantize_activations(np.array([[np.inf]], np.float32), activations)


TINY = zoo.load("evolute-tiny")
NAMES = ["1.gate", "1.up"]


def row(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 128)).astype(np.float32)


@FORMATS
def test_an_engine_gives_the_same_through_tables_and_as_integers(kind):
    spec = LutTensorCore(activation_bits=13, activation_format=kind.name, k=3, kg=2)
    weights = parse_weights("w4g32")
    integer, golden = (
        engine_linears(assign(TINY, weights, spec), backend)(NAMES, row(0))
        for backend in ("integer", "golden")
    )
    for first, second in zip(integer, golden, strict=True):
        assert np.array_equal(first, second)


@FORMATS
def test_a_core_gives_the_same_through_tables_and_as_integers(kind):
    engine = LutTensorCore(n=8, kg=2, activation_bits=12, activation_format=kind.name)
    held = core_model(assign(TINY, parse_weights("w4g32"), CoreSpec(engine=engine)))
    integer, golden = (
        core_linears(held, stage(held))(NAMES, row(1)) for stage in (integer_stage, golden_stage)
    )
    for first, second in zip(integer, golden, strict=True):
        assert np.array_equal(first, second)


def test_fp16_activations_move_a_layer_far_less_than_int8_ones():
    weights, x = parse_weights("w8"), row(2)
    exact = on_accelerator(assign(TINY, weights, LutTensorCore(weight_bits=8, activation_bits=16)))(
        "integer"
    )
    (wanted,) = exact(["1.q"], x)
    errors = []
    for choice in ({}, {"activation_format": "fp16", "activation_bits": 13}):
        spec = LutTensorCore(weight_bits=8, **choice)
        (found,) = on_accelerator(assign(TINY, weights, spec))("integer")(["1.q"], x)
        errors.append(np.abs(found - wanted).max())
    assert errors[1] < errors[0] / 8


def test_refusals():
    with pytest.raises(SpecError, match="activation_format: must be one of int, fp16"):
        LutTensorCore(activation_format="fp32")
    spec = LutTensorCore().evolve_text(["activation_format=bf16", "activation_bits=10"])
    assert spec.activations == Activations(10, BF16) and spec.activations.guard_bits == 1
