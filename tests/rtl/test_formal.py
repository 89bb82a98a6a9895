"""Proofs over all inputs that the RTL's table arithmetic is what it claims (SAT, by Yosys)."""

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw import yosys
from hw.rtl.arith import decode, half_sums, negate_if, round_shift, select, shift_left
from hw.tools import ToolError


def prove(m: Module, inputs: list[Signal], equal: Value) -> None:
    """Raise `ToolError` unless `equal` is 1 for every value of `inputs`."""
    holds = Signal()
    m.d.comb += holds.eq(equal)
    text = rtlil.convert(m, ports=[*inputs, holds], name="top", emit_src=False)
    script = [
        "read_rtlil top.il",
        "proc",
        "flatten",
        "opt -full",
        "techmap",
        "opt",
        "sat -verify -prove holds 1 top",
    ]
    yosys.run(script, {"top.il": text}, (), timeout_s=300)


def looked_up(m: Module, x: list[Signal], code: Signal, bits: int) -> Value:
    """One output of one table, as `hw.rtl.lut_tensor_core.Lookup` forms it."""
    entries = half_sums(m, x, bits)
    value = select(entries, decode(code[:-1]))
    return (negate_if(value, code[-1]) + code[-1])[:bits].as_signed()


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


def test_a_shift_by_one_hot_multiplies_by_its_power_of_two_or_zero():
    value, amount, taken, m = Signal(signed(7)), Signal(2), Signal(), Module()
    shifted = shift_left(value, [taken & (amount == i) for i in range(4)])
    prove(m, [value, amount, taken], shifted == Mux(taken, value << amount, 0))


def test_a_wrong_claim_is_not_proved():
    x = [Signal(signed(4), name=f"x{i}") for i in range(3)]
    code, m = Signal(3), Module()
    with pytest.raises(ToolError):
        prove(m, [*x, code], looked_up(m, x, code, 5) == signed_sum(x, code) + 1)
