"""Proofs over all inputs that the RTL's arithmetic is what it claims (SAT, by Yosys)."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from evolute.hw.rtl.blocks.arith import (
    booth_products,
    decode,
    half_sums,
    negate_if,
    round_shift,
    saturated,
    select,
    shift_left,
    square_terms,
    total,
    total_signed,
)
from evolute.hw.rtl.engines.bit_serial import BitSerialEngine
from evolute.hw.rtl.engines.lut_dla import distance, nearest
from evolute.hw.rtl.engines.mac import multiples, needs_triple, products, shifted
from evolute.hw.rtl.units.scale_lanes import bit_products
from evolute.hw.spec.bit_serial import FLOAT_STEPS, TERMS, BitSerial, float_code
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.synthesis.tools import ToolError
from evolute.verif.harness.proof import prove


def looked_up(m: Module, x: list[Signal], code: Signal, bits: int) -> Value:
    """One output of one table, as `hw.rtl.engines.lut_tensor_core` forms it."""
    entries = half_sums(m, x, bits)
    value = select(entries, decode(code[:-1]))
    return (negate_if(value, ~code[-1]) + ~code[-1])[:bits].as_signed()


def signed_sum(x: list[Signal], code: Signal) -> Value:
    """What folded code bits stand for: the top bit is a sign, the others are XORed with it."""
    total = Const(0)
    for i, value in enumerate(x):
        plus = code[-1] if i == len(x) - 1 else code[i] ^ code[-1]
        total = total + Mux(plus, value, -value)
    return total


@pytest.mark.parametrize(("k", "bits"), [(2, 8), (3, 6), (4, 5), (5, 3)])
def test_a_lookup_is_the_signed_sum(k, bits):
    x = [Signal(signed(bits), name=f"x{i}") for i in range(k)]
    code, m = Signal(k), Module()
    # Activations reach the tables within the symmetric range only.
    lowest = -(1 << (bits - 1))
    symmetric = Cat(value != lowest for value in x).all()
    width = (k * ((1 << (bits - 1)) - 1)).bit_length() + 1
    equal = looked_up(m, x, code, width) == signed_sum(x, code)
    prove(m, [*x, code], ~symmetric | equal)


@pytest.mark.parametrize("maximum_shift", [1, 2, 3])
def test_rounding_is_to_the_nearest_and_halves_to_even(maximum_shift):
    value, amount = Signal(signed(9)), Signal(range(maximum_shift + 1))
    m, limit = Module(), 31
    rounded = Signal(signed(10))
    m.d.comb += rounded.eq(round_shift(m, value, amount, maximum_shift, limit))
    shift = Signal(range(maximum_shift + 1))
    m.d.comb += shift.eq(Mux(amount > maximum_shift, maximum_shift, amount))
    # Twice the distance to the result, in units of the value, against one step of the result.
    step, distance = Const(1) << shift, Signal(signed(14))
    m.d.comb += distance.eq((value << 1) - ((rounded << shift) << 1))
    near = (distance < step) & (-distance < step)
    tie = ((distance == step) | (-distance == step)) & ~rounded[0]
    too_high = (rounded == limit) & (distance >= -step)
    too_low = (rounded == -limit) & (distance <= step)
    bounded = (rounded <= limit) & (rounded >= -limit)
    prove(m, [value, amount], bounded & (near | tie | too_high | too_low))


@pytest.mark.parametrize("amounts", [(0, 1, 2, 3), (0,), (2, 0, 5)])
def test_a_shift_by_one_hot_multiplies_by_its_power_of_two_or_zero(amounts):
    value, index, m = Signal(signed(7)), Signal(2), Module()
    shifted = shift_left(value, amounts, [index == i for i in range(len(amounts))])
    expected = Const(0)
    for i, amount in enumerate(amounts):
        expected = Mux(index == i, value << amount, expected)
    prove(m, [value, index], shifted == expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_products_of_a_code_sum_to_its_product(bits):
    x, code, m = Signal(signed(5)), Signal(signed(bits)), Module()
    prove(m, [x, code], total(booth_products(x, code)) == x * code)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_terms_of_a_square_sum_to_it(bits):
    value, m = Signal(bits), Module()
    prove(m, [value], total(square_terms(value)) == value * value)
    if bits > 1:
        with pytest.raises(ToolError):
            prove(Module(), [value], total(square_terms(value)[:-1]) == value * value)


@pytest.mark.parametrize("form", [products, shifted])
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_multiples_of_an_activation_sum_to_its_product(form, bits):
    x, code, m = Signal(signed(5)), Signal(signed(bits)), Module()
    triple = form is products and needs_triple(bits)
    found = total(form(m, "product", multiples(m, "x", x, triple=triple), code))
    # Activations reach the multipliers within the symmetric range only.
    prove(m, [x, code], (x == -16) | (found == x * code))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_inverted_signs_and_a_constant_are_sign_extensions(count):
    values, m = [Signal(signed(4), name=f"v{i}") for i in range(count)], Module()
    prove(m, values, total_signed(values) == total(values))


def lane_sum(m: Module, spec: BitSerial, x: Signal, weights: dict, mode: int, steps: int) -> Value:
    """What the only lane of a bit-serial engine adds up in all steps of a weight."""
    engine, added = BitSerialEngine(spec), Const(0)
    operands, _ = engine.operands(m, [x], {})
    for step in range(steps):
        sequencer: Any = SimpleNamespace(
            plane=Const(step, 3),
            beat_step=Const(step, 3),
            mode=Const(mode, spec.mode_bits),
            last_of_slice=Const(int(step == steps - 1)),
        )
        engine._taken = [Const(int(i == step)) for i in range(spec.digits)]
        beat = {name: [value] for name, value in weights.items()}
        if spec.has_planes:
            beat["code"] = [weights["code"][step]]
        m.submodules += (multiply := Module())
        (psum,) = engine.multiply(multiply, operands, beat, sequencer)
        added = added + (psum[: spec.step_bits].as_signed() << spec.shifts[step])
    return added


@pytest.mark.filterwarnings("ignore:.*BitSerialEngine.* created but never used")
@pytest.mark.parametrize(
    ("terms", "bits", "skips"),
    [
        (terms, bits, skips)
        for terms in TERMS
        if terms not in ("and", "xnor")
        for skips in (False, True)
        for bits in range(4 if terms == "bitmod" else 3 if skips else 1, 9)
    ],
)
def test_the_terms_of_an_integer_sum_to_its_product(terms, bits, skips):
    spec = BitSerial(m=1, n=1, k=1, terms=terms, activation_bits=4, weight_bits=bits, skips=skips)
    x, code, special, m = Signal(signed(4)), Signal(signed(bits)), Signal(2), Module()
    weights = {"code": code} | ({"special": special} if spec.has_floats else {})
    coding = spec.coding_of(WeightCodes(bits))
    steps = coding.planes * spec.beat_steps(coding.mode)
    found = lane_sum(m, spec, x, weights, coding.mode, steps)
    prove(m, [x, code, special], (x == -8) | (found == x * code))


@pytest.mark.filterwarnings("ignore:.*BitSerialEngine.* created but never used")
@pytest.mark.parametrize(
    ("bits", "skips"), [(4, False), (5, False), (8, False), (4, True), (8, True)]
)
def test_the_terms_of_every_special_value_and_code_sum_to_its_product(bits, skips):
    """All 16 codes of FP4 in groups of all 4 special values, times any activation."""
    spec = BitSerial(m=1, n=1, k=1, terms="bitmod", weight_bits=bits, skips=skips)
    spec, weight_format = spec.evolve(activation_bits=5), WeightCodes(4, Kind.BITMOD)
    x, number, special, m = Signal(signed(5)), Signal(4), Signal(2), Module()
    code, value = Signal(signed(bits)), Signal(signed(6))
    with m.Switch(Cat(number, special)):
        for each in range(4):
            for i, counted in enumerate(weight_format.values(each)):
                with m.Case(each << 4 | i):
                    m.d.comb += [value.eq(counted), code.eq(float_code(counted))]
    mode, weights = spec.coding_of(weight_format).mode, {"code": code, "special": special}
    found = lane_sum(m, spec, x, weights, mode, FLOAT_STEPS)
    prove(m, [x, number, special], (x == -16) | (found == x * value))


def magnitude(difference: Value) -> Value:
    return Mux(difference < 0, -difference, difference)


@pytest.mark.parametrize("v", [1, 2, 3])
def test_distances_are_sums_and_maxima_of_magnitudes(v):
    x = [Signal(signed(4), name=f"x{i}") for i in range(v)]
    y = [Signal(signed(4), name=f"y{i}") for i in range(v)]
    each = [magnitude(a - b) for a, b in zip(x, y, strict=True)]
    m = Module()
    found = {metric: distance(m, metric, metric, x, y) for metric in ("l1", "chebyshev")}
    among = Cat(found["chebyshev"] == part for part in each).any()
    greatest = Cat(found["chebyshev"] >= part for part in each).all()
    prove(m, [*x, *y], (found["l1"] == total(each)) & among & greatest)


@pytest.mark.parametrize(("v", "bits"), [(1, 4), (2, 3)])
def test_a_squared_distance_is_the_sum_of_squares(v, bits):
    x = [Signal(signed(bits), name=f"x{i}") for i in range(v)]
    y = [Signal(signed(bits), name=f"y{i}") for i in range(v)]
    m = Module()
    squares = total((a - b) * (a - b) for a, b in zip(x, y, strict=True))
    prove(m, [*x, *y], distance(m, "l2", "l2", x, y) == squares)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_nearest_is_the_first_of_the_least(count):
    distances, m = [Signal(3, name=f"d{i}") for i in range(count)], Module()
    found = nearest(m, "nearest", distances)
    holds = [Cat(found.distance <= each for each in distances).all()]
    for i, taken in enumerate(found.one_hot):
        nearer = [distances[i] < each for each in distances[:i]]
        no_farther = [distances[i] <= each for each in distances[i + 1 :]]
        first = Cat(*nearer, *no_farther, Const(1, 1)).all()
        holds.append((taken == first) & (~taken | (found.distance == distances[i])))
    prove(m, distances, Cat(*holds).all())


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_saturation_is_to_the_nearest_in_range(bits):
    value, m, top = Signal(signed(7)), Module(), (1 << bits - 1) - 1
    clamped = Mux(value > top, top, Mux(value < -top - 1, -top - 1, value))
    prove(m, [value], saturated(value, bits) == clamped)


def pair_sum(m: Module, spec: BitSerial, x: list[Signal], codes: list[Signal]) -> Value:
    """What the only output of a bit-serial engine adds up in all pairs of planes."""
    engine, added = BitSerialEngine(spec), Const(0)
    operands, _ = engine.operands(m, x, {})
    last = spec.beat_steps(0) - 1
    for plane, step in itertools.product(range(spec.weight_bits), range(last + 1)):
        sequencer: Any = SimpleNamespace(
            plane=Const(plane, 3),
            beat_step=Const(step, 3),
            last_of_beat=Const(int(step == last)),
        )
        m.submodules += (multiply := Module())
        beat = {"code": [code[plane] for code in codes]}
        (psum,) = engine.multiply(multiply, operands, beat, sequencer)
        shift = Signal(range(spec.shifts[-1] + 1), name=f"shift{plane}_{step}")
        m.d.comb += shift.eq(engine.shift(sequencer))
        added = added + (psum[: spec.step_bits].as_signed() << shift)
    return added


@pytest.mark.filterwarnings("ignore:.*BitSerialEngine.* created but never used")
@pytest.mark.parametrize(
    ("terms", "bits"), [*(("and", bits) for bits in range(1, 5)), ("xnor", 1), ("xnor", 2)]
)
def test_pairs_of_planes_sum_to_the_product(terms, bits):
    """Of two lanes, so that counts are sums, in all steps with the shifts that they are given."""
    spec = BitSerial(m=1, n=1, k=2, terms=terms, activation_bits=4, weight_bits=bits)
    x = [Signal(signed(4), name=f"x{i}") for i in range(2)]
    codes = [Signal(bits, name=f"code{i}") for i in range(2)]
    m, coding = Module(), spec.coding_of(WeightCodes(bits))
    expected = total(
        value * (coding.scale * code + coding.origin) for value, code in zip(x, codes, strict=True)
    )
    symmetric = Cat(value != -8 for value in x).all()
    prove(m, [*x, *codes], ~symmetric | (pair_sum(m, spec, x, codes) == expected))


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_bits_of_scale_and_offset_sum_to_both_products(bits):
    psum, row_sum = Signal(signed(4), name="psum"), Signal(signed(3), name="row_sum")
    scale, offset, m = Signal(bits, name="scale"), Signal(signed(bits), name="offset"), Module()
    added: Value = Const(0)
    for bit in reversed(range(bits)):
        top = Const(int(bit == bits - 1), 1)
        parts = bit_products(m, str(bit), psum, scale[bit], row_sum, offset[bit], top)
        added = (added << 1) + total(parts)
    prove(m, [psum, row_sum, scale, offset], added == psum * scale + row_sum * offset)


def test_a_wrong_claim_is_not_proved():
    x = [Signal(signed(4), name=f"x{i}") for i in range(3)]
    code, m = Signal(3), Module()
    with pytest.raises(ToolError):
        prove(m, [*x, code], looked_up(m, x, code, 5) == signed_sum(x, code) + 1)
    x, code, m = Signal(signed(5)), Signal(signed(4)), Module()
    with pytest.raises(ToolError):
        prove(m, [x, code], total(booth_products(x, code)[:-1]) == x * code)
