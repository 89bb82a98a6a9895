"""Multipliers, adder trees and a systolic array; `hw.spec.mac` says what they compute."""

from collections.abc import Sequence
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import booth_products, named, resized, select, sum_modulo, total
from evolute.hw.rtl.engines.engine import EngineComponent
from evolute.hw.spec.mac import Mac


class Multiples(NamedTuple):
    """An activation and the multiples of it that its products with all weights share."""

    x: Value
    """The activation."""
    negative: Value
    """-x."""
    triple: Value | None
    """3x, or None where no product needs it."""


def multiples(m: Module, name: str, x: Value, *, triple: bool) -> Multiples:
    """The multiples of an activation `x`, which must lie in its symmetric range. `triple` says
    whether 3x is needed."""
    x = named(m, f"times_{name}", x)
    negative = named(m, f"negative_{name}", (-x)[: len(x)].as_signed())
    if not triple:
        return Multiples(x, negative, None)
    tripled = named(m, f"triple_{name}", (x + (x << 1))[: len(x) + 2].as_signed())
    return Multiples(x, negative, tripled)


def needs_triple(bits: int) -> bool:
    """Whether `products` needs 3x for codes of `bits` bits: only a pair of bits below the highest
    pair can stand for 3."""
    return bits > 3


def products(m: Module, name: str, x: Multiples, code: Value) -> list[Value]:
    """Signed values whose sum is the product of x and the two's complement `code`: one multiple of
    x per pair of bits, -2x .. x for the highest pair and 0 .. 3x for the others, and if the number
    of bits is odd x or 0 for the lowest bit.

    Unlike Booth's digits, each depends only on its own two bits, and none is a one's complement
    that an addition must complete.
    """
    if len(code) == 1:
        return [masked(x.negative, code)]
    terms = []
    for place in range(len(code) - 2, -1, -2):
        low, high = code[place], code[place + 1]
        values = (low & ~high, high & ~low, low & high)
        one_hot = [named(m, f"{name}_{place}_{i}", value) for i, value in enumerate(values, 1)]
        double = x.negative << 1 if place == len(code) - 2 else x.x << 1
        other = x.negative if place == len(code) - 2 else x.triple
        assert other is not None
        bits = max(len(double), len(other))
        taken = select([resized(multiple, bits) for multiple in (x.x, double, other)], one_hot)
        terms.append(Cat(Const(0, place), taken).as_signed())
    return terms + [masked(x.x, code[0])] * (len(code) % 2)


def shifted(m: Module, name: str, x: Multiples, code: Value) -> list[Value]:
    """Signed values whose sum is the product of x and the two's complement `code`: the shifted x
    for every bit that is set, and the shifted -x for the sign bit."""
    top = len(code) - 1
    terms = [masked(x.x, bit) << place for place, bit in enumerate(code[:top])]
    return [*terms, masked(x.negative, code[top]) << top]


def masked(value: Value, bit: Value) -> Value:
    """The signed `value`, or 0."""
    return (value.as_unsigned() & bit.replicate(len(value))).as_signed()


class SystolicArray(wiring.Component):
    """A systolic array: sums stay while operands move past them, and a register beside each sum
    keeps it when it is complete.

    Members
    -------
    x, codes : the step's activations [m] and weights [n]; without a step activations must be 0.
    first, last : the step starts a group; it ends one.
    psums, row_sums : complete sums. The first of them are written in the cycle of the step that
        ends their group.
    ended : the last of the sums are written in this cycle.
    """

    x: Signal
    codes: Signal
    first: Signal
    last: Signal
    psums: Signal
    row_sums: Signal
    ended: Signal

    def __init__(self, spec: Mac):
        self.spec = spec
        super().__init__(
            {
                "x": In(spec.m * spec.activation_bits),
                "codes": In(spec.n * spec.weight_bits),
                "first": In(1),
                "last": In(1),
                "psums": Out(spec.m * spec.n * spec.acc_bits),
                "row_sums": Out(spec.m * spec.row_sum_bits),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec

        def later(name: str, value: Value, cycles: int = 1, reset_less: bool = True) -> Value:
            for cycle in range(cycles):
                register = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=reset_less)
                m.d.sync += register.eq(value)
                value = register
            return value

        def whole(name: str, bits: int, terms: Sequence[Value], first: Value, last: Value) -> Value:
            """The sum of `terms` over all steps from a `first` to a `last` one, kept until the next
            sum is complete."""
            before = Signal(signed(bits), name=name, reset_less=True)
            after = Signal(signed(bits), name=f"next_{name}")
            kept = Signal(signed(bits), name=f"whole_{name}", reset_less=True)
            start = Mux(first, 0, before).as_signed()
            m.d.comb += after.eq(sum_modulo(m, f"{name}_sum", [start, *terms], bits))
            m.d.sync += before.eq(after)
            with m.If(last):
                m.d.sync += kept.eq(after)
            return kept

        rows, row_sums = [], []
        for row in range(spec.m):
            x = self.x.word_select(row, spec.activation_bits).as_signed()
            sum_ = whole(f"row_sum{row}", spec.row_sum_bits, [x], self.first, self.last)
            row_sums.append(sum_)
            rows.append(later(f"x{row}_enters", x, row))
        columns, first, last = [], self.first, self.last
        for column in range(spec.n):
            code = self.codes.word_select(column, spec.weight_bits).as_signed()
            columns.append((later(f"code{column}_enters", code, column), first, last))
            if column + 1 < spec.n:
                first = later(f"first{column}", first)
                last = later(f"last{column}", last, reset_less=False)

        psums = []
        for row, x in enumerate(rows):
            below = []
            for column, (code, first, last) in enumerate(columns):
                name = f"{row}_{column}"
                terms = self._product(m, name, x, code)
                psums.append(whole(f"psum{name}", spec.acc_bits, terms, first, last))
                m.d.comb += self.ended.eq(last)  # the last of these assignments holds
                if column + 1 < spec.n:
                    x = later(f"x{name}_right", x)
                if row + 1 < spec.m:
                    code, first = later(f"code{name}_down", code), later(f"first{name}_down", first)
                    below.append((code, first, later(f"last{name}_down", last, reset_less=False)))
            columns = below
        m.d.comb += [self.psums.eq(Cat(*psums)), self.row_sums.eq(Cat(*row_sums))]
        return m

    def _product(self, m: Module, name: str, x: Value, code: Value) -> list[Value]:
        """Signed values whose sum is the product. No multiples of x are shared, since they would
        have to move along with x."""
        if self.spec.multiplier == "shift_add":
            return shifted(m, name, multiples(m, f"x{name}", x, triple=False), code)
        return booth_products(x, code)


class MacEngine(EngineComponent):
    """A complete array of dot products."""

    spec: Mac

    def operands(self, m, x, fields):
        """The activations themselves."""
        k = self.spec.k
        rows = [x[start : start + k] for start in range(0, len(x), k)]
        return Cat(*x), [total(row) for row in rows]

    def multiply(self, m, operands, weights, sequencer):
        """The sum of k products for every output, [m][n]."""
        spec, psums = self.spec, []
        product, triple = shifted, False
        if spec.multiplier == "multiples":
            product, triple = products, needs_triple(spec.weight_bits)
        weights = [named(m, f"weight{i}", code) for i, code in enumerate(weights["code"])]
        for row in range(spec.m):
            x = []
            for i in range(row * spec.k, (row + 1) * spec.k):
                value = operands.word_select(i, spec.activation_bits).as_signed()
                x.append(multiples(m, f"x{i}", value, triple=triple))
            for column in range(spec.n):
                codes, terms = weights[column * spec.k : (column + 1) * spec.k], []
                for i, (activation, code) in enumerate(zip(x, codes, strict=True)):
                    terms += product(m, f"product{row}_{column}_{i}", activation, code)
                psums.append(sum_modulo(m, f"sum{row}_{column}", terms, spec.step_bits))
        return psums

    def add_up(self, m, operands, sums, weights, sequencer):
        """As in all engines for a tree; a systolic array multiplies and accumulates in one."""
        spec, step = self.spec, self.step
        if spec.arrangement == "tree":
            return super().add_up(m, operands, sums, weights, sequencer)
        m.submodules.array = array = SystolicArray(spec)
        m.d.comb += [
            array.x.eq(operands & step.replicate(len(operands))),
            array.codes.eq(Cat(*weights["code"])),
            array.first.eq(sequencer.first),  # without a step it begins with sums of nothing
            array.last.eq(step & sequencer.last),
            self.result.payload.eq(Cat(array.psums, array.row_sums)),
        ]
        return self.keep_results(m, sequencer, array.ended)
