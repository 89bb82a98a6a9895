"""Floating-point arithmetic as `hw.spec.floating` defines it. All of it is combinational.

Numbers are normalized: the highest bit of a significand is its leading one, also for subnormal
numbers. The number zero has significand 0 and exponent 0; its sign has no meaning, and a sum that
is zero has sign 0. The range of every number is known when the hardware is generated, so that
exponents are just wide enough and nothing overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amaranth.hdl import Cat, Const, Module, Mux, Value

from evolute.hw.rtl.blocks.arith import booth_products, named, sum_modulo
from evolute.hw.spec.formats import FloatFormat


@dataclass(frozen=True)
class Range:
    """A range of numbers: multiples of 2^unit with magnitudes below 2^high and `bits` significand
    bits."""

    unit: int
    high: int
    bits: int

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent, which is the place of the leading one above `unit`."""
        return (self.high - 1 - self.unit).bit_length()

    @property
    def word_bits(self) -> int:
        """Width of a number as one word."""
        return 1 + self.exponent_bits + self.bits


@dataclass(frozen=True)
class Number:
    """A floating-point number: (-1)^negative * significand * 2^(exponent + range.unit - (range.bits
    - 1))."""

    negative: Value
    exponent: Value
    significand: Value
    range: Range

    @property
    def nonzero(self) -> Value:
        """Whether the number is not zero."""
        return self.significand[-1]

    @property
    def word(self) -> Value:
        """The number as one word of `range.word_bits` bits. Zero is 0, apart from its sign bit."""
        return Cat(self.significand, self.exponent, self.negative)


def number(word: Value, range_: Range) -> Number:
    """The number in a word that `Number.word` made."""
    return Number(word[-1], word[range_.bits : -1], word[: range_.bits], range_)


def kept(m: Module, name: str, value: Number) -> Number:
    """The same number, carried by signals that are named after `name`."""
    return number(named(m, name, value.word), value.range)


def negated(value: Number, negative: Value) -> Number:
    """-value where `negative` is set, else the value."""
    return replace(value, negative=value.negative ^ negative)


def gated(value: Number, present: Value) -> Number:
    """The value where `present` is set, else zero."""
    return number(value.word & present.replicate(value.range.word_bits), value.range)


def scaled(value: Number, places: Value, most_places: int) -> Number:
    """value * 2^places; `places` is at most `most`."""
    range_ = replace(value.range, high=value.range.high + most_places)
    exponent = value.exponent + (places & value.nonzero.replicate(len(places)))
    return Number(value.negative, exponent[: range_.exponent_bits], value.significand, range_)


def normalized(m: Module, name: str, bits: Value) -> tuple[Value, Value]:
    """Returns (zeros, shifted): the number of zeros above the leading one of `bits`, and `bits`
    shifted left by that number. Neither has a meaning if all bits are 0."""
    zeros = []
    for place in reversed(range((len(bits) - 1).bit_length())):
        shift = 1 << place
        empty = named(m, f"{name}_empty{shift}", ~bits[-shift:].any())
        shifted = Mux(empty, Cat(Const(0, shift), bits[:-shift]), bits)
        bits = named(m, f"{name}_left{shift}", shifted)
        zeros.insert(0, empty)
    return Cat(*zeros), bits


def rounded(m: Module, name: str, bits: Value, below: Value, precision: int) -> tuple[Value, Value]:
    """Returns (significand, carry) for the normalized significand `bits`: the nearest one of
    `precision` bits, halves to even, and whether it was rounded up to the next power of two.

    `below` says that the exact value has further ones below the last of `bits`.
    """
    if len(bits) <= precision:
        return Cat(Const(0, precision - len(bits)), bits), Const(0, 1)
    high, half = bits[-precision:], bits[-precision - 1]
    up = half & (high[0] | below | bits[: -precision - 1].any())
    total = named(m, f"{name}_rounded", (high + up)[: precision + 1])
    carry = total[-1]
    return Cat(total[: precision - 1], total[precision - 1] | carry), carry


def decoded(m: Module, name: str, code: Value, kind: FloatFormat) -> Number:
    """The number that a code of the format `kind` stands for. Infinities and NaN become the
    greatest finite number with their sign."""
    magnitude = code[:-1]
    magnitude = Mux(magnitude <= kind.largest_code, magnitude, kind.largest_code)
    magnitude = named(m, f"{name}_finite", magnitude[: kind.bits - 1])
    mantissa, exponent = magnitude[: kind.mantissa_bits], magnitude[kind.mantissa_bits :]
    normal = named(m, f"{name}_normal", exponent.any())
    zeros, significand = normalized(m, name, Cat(mantissa, normal))
    nonzero = significand[-1]
    range_ = float_range(kind)
    # A subnormal counts as one of exponent 1.
    above = Mux(normal, exponent - 1, 0) + (kind.mantissa_bits - zeros)
    exponent = above[: range_.exponent_bits] & nonzero.replicate(range_.exponent_bits)
    return kept(m, f"{name}_number", Number(code[-1], exponent, significand, range_))


def float_range(kind: FloatFormat) -> Range:
    """The range of the finite numbers of a format."""
    high = kind.top_exponent - kind.bias + 1
    return Range(1 - kind.bias - kind.mantissa_bits, high, kind.mantissa_bits + 1)


def from_integer(m: Module, name: str, code: Value) -> Number:
    """The number equal to a signed integer. An integer of a single bit is 0 or -1."""
    negative = code[-1]
    # The lowest integer alone needs all bits, and of these the top one.
    width = max(1, len(code) - 1)
    magnitude = named(m, f"{name}_magnitude", Mux(negative, -code, code)[: len(code)])
    zeros, bits = normalized(m, name, magnitude)
    nonzero = bits[-1]
    range_ = Range(0, len(code), width)
    exponent = (len(code) - 1 - zeros)[: range_.exponent_bits]
    significand = bits[-width:]
    exponent = exponent & nonzero.replicate(range_.exponent_bits)
    return kept(m, f"{name}_number", Number(negative, exponent, significand, range_))


def multiply(m: Module, name: str, a: Number, b: Number) -> Number:
    """The exact product."""
    bits = a.range.bits + b.range.bits
    if min(a.range.bits, b.range.bits) == 1:
        single_bit, factor_of_bits = (a, b) if a.range.bits == 1 else (b, a)
        product = factor_of_bits.significand & single_bit.significand.replicate(
            factor_of_bits.range.bits
        )
        bits, top = factor_of_bits.range.bits, Const(0, 1)
    else:
        x, y = (Cat(factor.significand, Const(0, 1)).as_signed() for factor in (a, b))
        if len(x) < len(y):
            x, y = y, x
        full_product = sum_modulo(m, f"{name}_product", booth_products(x, y), bits + 1)
        full_product = named(m, f"{name}_whole", full_product[:bits])
        top = full_product[-1]
        product = Mux(top, full_product, Cat(Const(0, 1), full_product)[:bits])
    nonzero = a.nonzero & b.nonzero
    range_ = Range(a.range.unit + b.range.unit, a.range.high + b.range.high, bits)
    exponent = (a.exponent + b.exponent + top)[: range_.exponent_bits]
    exponent = exponent & nonzero.replicate(range_.exponent_bits)
    negative = a.negative ^ b.negative
    return kept(m, f"{name}_exact", Number(negative, exponent, product, range_))


def nearest(m: Module, name: str, value: Number, precision: int) -> Number:
    """The nearest number of `precision` significand bits, halves to even."""
    if value.range.bits <= precision:
        return value
    significand, carry = rounded(m, name, value.significand, Const(0, 1), precision)
    range_ = replace(value.range, high=value.range.high + 1, bits=precision)
    exponent = (value.exponent + carry)[: range_.exponent_bits]
    return kept(m, f"{name}_nearest", Number(value.negative, exponent, significand, range_))


def _from_unit(value: Number, unit: int, bits: int) -> Value:
    """The exponent in `bits` bits, counted from a lower unit; 0 for the number zero."""
    raised = Const(value.range.unit - unit, bits) & value.nonzero.replicate(bits)
    return (value.exponent + raised)[:bits]


def add(
    m: Module, name: str, a: Number, b: Number, precision: int, high: int | None = None
) -> Number:
    """The sum, rounded to `precision` significand bits, halves to even. Give `high` where the sum
    is known to be below 2^high."""
    unit = min(a.range.unit, b.range.unit)
    range_ = Range(unit, high or max(a.range.high, b.range.high) + 1, precision)
    widest = max(a.range.bits, b.range.bits)
    exponent_bits = max(1, (max(a.range.high, b.range.high) - 1 - unit).bit_length())
    keys = [
        named(
            m,
            f"{name}_key{i}",
            Cat(
                Const(0, widest - addend.range.bits),
                addend.significand,
                _from_unit(addend, unit, exponent_bits),
            ),
        )
        for i, addend in enumerate((a, b))
    ]
    swap = named(m, f"{name}_swap", keys[1] > keys[0])
    large = named(m, f"{name}_large", Mux(swap, keys[1], keys[0]))
    small = named(m, f"{name}_small", Mux(swap, keys[0], keys[1]))
    negative = Mux(swap, b.negative, a.negative)
    distance = named(m, f"{name}_distance", (large[widest:] - small[widest:])[:exponent_bits])

    # One bit more than the wider operand, so that neighbours subtract exactly; and two more than
    # the result, so that what is below its last half bit only counts as more than nothing.
    width = max(widest + 1, precision + 2)
    padding = Const(0, width - widest)
    shifted: Value = Cat(padding, small[:widest])
    lost: Value = Const(0, 1)
    places = min(exponent_bits, (width - 1).bit_length())
    for place in reversed(range(places)):
        shift, taken = 1 << place, distance[place]
        lost = lost | (taken & shifted[:shift].any())
        shifted = named(m, f"{name}_right{shift}", Mux(taken, shifted >> shift, shifted)[:width])
    if places < exponent_bits:
        far = named(m, f"{name}_far", distance[places:].any())
        # What zero loses does no harm to a number that has no half bit of its own below its last.
        lost = lost | (far if widest <= precision else far & shifted.any())
        shifted = shifted & ~far.replicate(width)
    lost = named(m, f"{name}_lost", lost)

    subtract = named(m, f"{name}_subtract", a.negative ^ b.negative)
    addend = Cat(shifted, Const(0, 1)) ^ subtract.replicate(width + 1)
    carry = subtract & ~lost  # else what is lost takes the rest of it away
    total = named(m, f"{name}_total", (Cat(padding, large[:widest]) + addend + carry)[: width + 1])
    zeros, bits = normalized(m, f"{name}_sum", total)
    significand, up = rounded(m, name, bits, lost, precision)
    nonzero = significand[-1]
    exponent = (large[widest:] + 1 + up - zeros)[: range_.exponent_bits]
    return kept(
        m,
        f"{name}_added",
        Number(
            negative & nonzero,
            exponent & nonzero.replicate(range_.exponent_bits),
            significand,
            range_,
        ),
    )


def half_table(m: Module, name: str, x: Sequence[Number], precision: int) -> list[Number]:
    """The stored half table of `x`, entry by entry as `hw.rtl.blocks.arith.half_sums` orders them:
    12 adders for four numbers."""
    if len(x) == 1:
        return [x[0]]
    low = half_table(m, f"{name}l", x[: len(x) // 2], precision)
    high = half_table(m, f"{name}h", x[len(x) // 2 :], precision)
    return joined(m, name, low, high, precision)


def joined(
    m: Module, name: str, low: Sequence[Number], high: Sequence[Number], precision: int
) -> list[Number]:
    """The half table of several numbers, from the half tables of their lower and upper halves."""
    entries, least = [], 2 * len(low)  # entries with and without the low part's top sign
    for entry in range(least * len(high)):
        pattern = entry % least
        minus = pattern >= len(low)
        term = negated(low[least - 1 - pattern if minus else pattern], Const(minus, 1))
        entries.append(add(m, f"{name}_{entry}", high[entry // least], term, precision))
    return entries


def encoded(value: Number, kind: FloatFormat) -> Value:
    """The code of a number in the format `kind`, which must be able to represent it."""
    lowest = value.range.unit + kind.bias
    assert lowest > 0 and value.range.high - 1 <= kind.top_exponent - kind.bias
    assert value.range.bits - 1 <= kind.mantissa_bits
    mantissa = Cat(Const(0, kind.mantissa_bits + 1 - value.range.bits), value.significand[:-1])
    raised = Const(lowest, kind.exponent_bits) & value.nonzero.replicate(kind.exponent_bits)
    exponent = (value.exponent + raised)[: kind.exponent_bits]
    return Cat(mantissa, exponent, value.negative)


def from_code(m: Module, name: str, code: Value, kind: FloatFormat, range_: Range) -> Number:
    """The number of a code that `encoded` made from a number in the range `range_`."""
    mantissa, above = code[: kind.mantissa_bits], code[kind.mantissa_bits : -1]
    nonzero = named(m, f"{name}_nonzero", above.any())
    exponent = (above - (range_.unit + kind.bias))[: range_.exponent_bits]
    exponent = exponent & nonzero.replicate(range_.exponent_bits)
    significand = Cat(mantissa[kind.mantissa_bits + 1 - range_.bits :], nonzero)
    return kept(m, f"{name}_number", Number(code[-1], exponent, significand, range_))
