"""Floating adders, multipliers and the engines made of them, against numbers and golden."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.sim import Simulator

from evolute.hw.rtl.blocks import floating as rtl
from evolute.hw.spec import CoreSpec, FloatLut, FloatMac, SpecError
from evolute.hw.spec.floating import FP16, RESULT, FloatEngine
from evolute.hw.spec.formats import FLOATS
from evolute.hw.synthesis.synth import synthesize
from evolute.hw.synthesis.tools import ToolError
from evolute.sim.golden import floating as golden
from evolute.verif.engines.floating import random_spec
from evolute.verif.harness.proof import prove
from evolute.verif.harness.verify import verify

SMALL = [FLOATS["fp8e4m3"], FLOATS["fp8e5m2"]]
COMMON = {"m": 1, "n": 2, "group_size": 20}
SPECS = {
    "int": FloatMac(k=4, weights="int", weight_bits=3, sums="fp16", **COMMON),
    "dequantized": FloatMac(k=2, weights="dequantized", sums="fp32", **COMMON),
    "fp16": FloatMac(k=1, weights="fp16", sums="fp16", **COMMON),
    "fp8": FloatMac(
        k=4, weights="int", activation_format="fp8e5m2", activation_bits=8, sums="fp16", **COMMON
    ),
    "paper": FloatLut(kg=1, weight_bits=2, sums="fp16", **{**COMMON, "m": 2}),
    "tree": FloatLut(k=3, kg=2, weight_bits=4, sums="fp32", **COMMON),
}

SLOW = ("fp16", "fp8")
"""Other operands for the same adders."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in SPECS],
)
def test_rtl_equals_golden_and_cycle_model(name):
    report = verify(SPECS[name], seed=1)
    assert report.passed, "\n".join(report.differences)
    assert report.rtl_cycles == report.model_cycles > 0
    covered = {
        *("no stall", "commands back to back", "reset in mid-flight", "ready probed"),
        *("not finite", "subnormal", "corner extremes", "corner subnormal"),
        *("scale group read out in parts", "last scale group shorter"),
        *(f"stall {stream}" for stream in ("command", "activation", "weight", "result")),
        *(weight_format.name for weight_format in SPECS[name].formats),
    }
    assert covered <= set(report.coverage)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_specs(seed):
    report = verify(random_spec(np.random.default_rng(seed)), seed=seed)
    assert report.passed, "\n".join(report.differences)


# Proofs, over all pairs of 8-bit numbers.


def fixed(m: Module, name: str, value: rtl.Number, unit: int, fraction: int) -> Value:
    """The number in units of 2^(unit - fraction)."""
    places = value.range.unit - unit + fraction - (value.range.bits - 1)
    magnitude = Signal(value.range.high - unit + fraction, name=f"{name}_magnitude")
    above = value.significand << value.exponent
    m.d.comb += magnitude.eq(above << places if places > 0 else above >> -places)
    return Mux(value.negative, -magnitude, magnitude)


@pytest.mark.parametrize(
    ("kind", "precision"), [(SMALL[0], 6), (SMALL[1], 3)], ids=["fp8e4m3", "fp8e5m2"]
)
def test_a_sum_is_the_nearest_number(kind, precision):
    a, b, m = Signal(8), Signal(8), Module()
    x, y = rtl.decoded(m, "a", a, kind), rtl.decoded(m, "b", b, kind)
    prove(m, [a, b], nearest_sum(m, x, y, rtl.add(m, "sum", x, y, precision)))


def test_a_number_counts_for_a_plane_and_zero_does_not():
    a, b, plane, m = Signal(8), Signal(8), Signal(2), Module()
    x, y = (rtl.decoded(m, name, code, SMALL[1]) for name, code in (("a", a), ("b", b)))
    x = rtl.scaled(x, plane, 3)
    prove(m, [a, b, plane], nearest_sum(m, x, y, rtl.add(m, "sum", x, y, 3)))


def nearest_sum(m: Module, x: rtl.Number, y: rtl.Number, found: rtl.Number) -> Value:
    """Whether `found` is x + y, rounded to nearest, halves to even, and well formed."""
    unit, precision = found.range.unit, found.range.bits
    fraction = max(precision, x.range.bits) - 1
    exact = fixed(m, "x", x, unit, fraction) + fixed(m, "y", y, unit, fraction)
    rounded = fixed(m, "found", found, unit, fraction)
    width = found.range.high - unit + fraction + 3
    twice, last = Signal(width), Signal(width)  # of the distance; one in its last place
    difference = exact - rounded
    m.d.comb += [
        twice.eq(Mux(difference < 0, -difference, difference) << 1),
        last.eq((1 << (fraction + 1 - precision)) << found.exponent),
    ]
    even = ~found.significand[0]
    # Below a power of two numbers are twice as near.
    power = ~found.significand[:-1].any()
    inward = (difference < 0) ^ found.negative
    space = Mux(power & inward, last >> 1, last)
    near = (twice < space) | ((twice == space) & even)
    zero = (exact == 0) & (found.word == 0)
    return zero | (near & found.nonzero)


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.name)
def test_a_product_is_exact(kind):
    a, b, m = Signal(8), Signal(8), Module()
    x, y = rtl.decoded(m, "a", a, kind), rtl.decoded(m, "b", b, kind)
    found = rtl.multiply(m, "product", x, y)
    # Significands have their point behind the first bit, a product has one more bit before it.
    assert found.range.bits - 1 == 2 * (x.range.bits - 1) + 1
    exact = (x.significand * y.significand) << (x.exponent + y.exponent)
    same = (found.significand << found.exponent) == exact << 1
    sign = (found.negative == x.negative ^ y.negative) | ~found.nonzero
    zero = found.nonzero == (x.nonzero & y.nonzero)
    assert found.range.unit == 2 * x.range.unit
    prove(m, [a, b], same & sign & zero)


def test_a_wrong_claim_is_not_proved():
    a, b, m = Signal(8), Signal(8), Module()
    x, y = (rtl.decoded(m, name, code, SMALL[1]) for name, code in (("a", a), ("b", b)))
    found = rtl.add(m, "sum", x, y, 3)
    with pytest.raises(ToolError):
        prove(m, [a, b], nearest_sum(m, x, rtl.negated(y, y.nonzero), found))


# FP16.


def test_fp16_operands_of_every_class():
    """Sums of numbers and of products, in both precisions, through decoding and encoding."""
    a, b, m = Signal(16), Signal(16), Module()
    x, y = rtl.decoded(m, "a", a, FP16), rtl.decoded(m, "b", b, FP16)
    product = rtl.multiply(m, "product", x, y)
    outputs = []
    for i, (p, q, precision) in enumerate(((x, y, 11), (product, x, 11), (product, y, 24))):
        found = Signal(RESULT.bits, name=f"found{i}")
        m.d.comb += found.eq(rtl.encoded(rtl.add(m, f"sum{i}", p, q, precision), RESULT))
        outputs.append(found)
    rng = np.random.default_rng(7)
    one = FP16.bias << FP16.mantissa_bits
    corners = np.array([0, 1, 0x3FF, 0x400, one - 1, one, one + 1, FP16.largest_code, 0x7C00])
    codes = np.concatenate([corners, corners | 0x8000])
    first, second = (each.ravel() for each in np.meshgrid(codes, codes))
    some = rng.integers(0, 1 << 16, 150)
    others = np.where(rng.random(150) < 0.5, some ^ 0x8000 ^ rng.integers(0, 8, 150), some[::-1])
    first, second = np.concatenate([first, some]), np.concatenate([second, others])
    seen = []

    async def bench(context):
        for left, right in zip(first.tolist(), second.tolist(), strict=True):
            context.set(a, left)
            context.set(b, right)
            seen.append([context.get(each) for each in outputs])

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    found = np.array(seen, np.uint32).view(np.float32).astype(np.float64).T
    u, v = golden.numbers(first, FP16), golden.numbers(second, FP16)
    assert np.array_equal(found[0], golden.add(u, v, 11))
    assert np.array_equal(found[1], golden.add(u * v, u, 11))
    assert np.array_equal(found[2], golden.add(u * v, v, 24))


# What surrounds them.


def test_no_core_holds_sums_that_are_rounded():
    with pytest.raises(SpecError, match="engine: must be one with integer sums"):
        CoreSpec(engine=SPECS["int"])


@pytest.mark.parametrize("name", ["int", "paper"])
def test_they_are_plain_logic(name):
    spec: FloatEngine = SPECS[name].evolve(n=1)
    found = synthesize(spec, "asic")
    assert (found.latches, found.multipliers, found.memories) == (0, 0, ())
    assert found.flops > spec.m * spec.n * spec.significand_bits
