"""Combinational arithmetic shared by engines. Functions take and return Amaranth values."""

import operator
from collections.abc import Iterable, Sequence
from functools import reduce

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value


def log2(power: int) -> int:
    """The exponent of a power of two. Fails for any other number."""
    return power.bit_length() - 1


def any_of(signals: Iterable[Value]) -> Value:
    """Whether any of the signals is set."""
    return Cat(*signals).any()


def named(m: Module, name: str, value: Value) -> Signal:
    """A new signal called `name` that carries `value`.

    Amaranth copies an unnamed expression to each place where it is used.
    """
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def wrap(m: Module, name: str, length: int, advance: Value, restart: Value | None = None) -> Value:
    """Whether a counter is at its last count. It counts 0 .. `length` - 1, one step per cycle in
    which `advance` is set, and `restart` sets it to 0."""
    if length == 1:
        return Const(1)
    count = Signal(range(length), name=name)
    last = named(m, f"last_{name}", count == length - 1)
    with m.If(advance):
        m.d.sync += count.eq(Mux(last, 0, count + 1))
    if restart is not None:
        with m.If(restart):
            m.d.sync += count.eq(0)
    return last


def ends_turn(m: Module, name: str, length: int, runs: Value) -> Value:
    """Whether this cycle is the last one of a turn of `length` consecutive cycles. `runs` must be
    set in all cycles of a turn and in no others."""
    return wrap(m, name, length, runs) if length > 1 else runs


def choose(values: Sequence[Value], index: Value) -> Value:
    """`values[index]` as a tree of two-way multiplexers; there are 2^len(index) values."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    low, high = choose(values[:half], index[:-1]), choose(values[half:], index[:-1])
    return Mux(index[-1], high, low)


def decode(index: Value) -> list[Value]:
    """One-hot: bit i is set where `index == i`."""
    return [index == i for i in range(1 << len(index))]


def select(values: Sequence[Value], one_hot: Sequence[Value]) -> Value:
    """The value whose bit of `one_hot` is set, or 0 if none is.

    Where one decoded index serves all bits of several words, ANDs and ORs take fewer gates than
    two-way multiplexers.
    """
    terms = [bit.replicate(len(value)) & value for value, bit in zip(values, one_hot, strict=True)]
    while len(terms) > 1:
        terms = [
            terms[i] | terms[i + 1] if i + 1 < len(terms) else terms[i]
            for i in range(0, len(terms), 2)
        ]
    return terms[0]


def resized(value: Value, bits: int) -> Value:
    """The low `bits` bits of the signed `value`, sign-extended if it has fewer."""
    return Cat(value, value[-1].replicate(max(0, bits - len(value))))[:bits]


def shift_left(value: Value, amounts: Sequence[int], one_hot: Sequence[Value]) -> Value:
    """Signed `value << amounts[i]` for the bit i that is set in `one_hot`; 0 if none is."""
    extended = Cat(value, value[-1].replicate(max(amounts)))
    shifted = [Cat(Const(0, amount), extended)[: len(extended)] for amount in amounts]
    return select(shifted, one_hot).as_signed()


def total(values: Iterable[Value]) -> Value:
    """The sum of all values."""
    return reduce(operator.add, values)


def total_signed(values: Sequence[Value]) -> Value:
    """The sum of signed values of one width.

    Inverted sign bits and a single constant replace the sign extensions, which an adder tree would
    also have to sum (Baugh and Wooley 1973).
    """
    unsigned = [Cat(value[:-1], ~value[-1]) for value in values]
    return total([*unsigned, Const(-(len(values) << len(values[0]) - 1))])


def sum_modulo(m: Module, name: str, values: Sequence[Value], bits: int) -> Value:
    """The sum of values of any widths, modulo 2^bits. Sign extensions are replaced as in
    `total_signed`.

    Every partial sum has the same width, so that synthesis joins them to one carry-save adder.
    """
    signed = [value.shape().signed for value in values]
    constant = -sum(
        1 << len(value) - 1 for value, is_signed in zip(values, signed, strict=True) if is_signed
    )
    total: Value = Const(constant % (1 << bits), bits)
    for i, value in enumerate(values):
        term = named(m, f"{name}_term{i}", value)
        high = ~term[-1] if signed[i] else term[-1]
        total = named(m, f"{name}_{i}", (total + Cat(term[:-1], high, Const(0, bits)))[:bits])
    return total.as_signed()


def booth_digit(code: Value, place: int) -> tuple[Value, Value, Value]:
    """Returns (one, two, negative) for the radix-4 digit of a signed code at an even `place`:
    whether its magnitude is 1, whether it is 2, and its sign. A digit with neither magnitude is 0,
    even if it is negative.

    Source: MacSorley 1961.
    """
    top = len(code) - 1
    high, middle = code[min(place + 1, top)], code[min(place, top)]
    below = code[place - 1] if place else Const(0, 1)
    return middle ^ below, (high & ~middle & ~below) | (~high & middle & below), high


def booth_products(x: Value, code: Value) -> list[Value]:
    """Signed values whose sum is `x * code`: two per radix-4 digit of the signed `code`."""
    products = []
    for place in range(0, len(code), 2):
        one, two, negative = booth_digit(code, place)
        wide = Cat(x, x[-1])
        multiple = select([wide, Cat(Const(0, 1), x)], [one, two])
        products += [
            Cat(Const(0, place), negate_if(multiple, negative)).as_signed(),
            Cat(Const(0, place), negative),
        ]
    return products


def square_terms(value: Value) -> list[Value]:
    """Values whose sum is the square of the unsigned `value`.

    Every bit counts at twice its place, and the product of every pair of bits is doubled. This
    takes half the products of a multiplication.
    """
    terms: list[Value] = [Cat(*(Cat(bit, Const(0, 1)) for bit in value))]
    for i, bit in enumerate(value[:-1]):
        above = value[i + 1 :]
        terms.append(Cat(Const(0, 2 * i + 2), above & bit.replicate(len(above))))
    return terms


def negate_if(value: Value, sign: Value) -> Value:
    """The one's complement of `value` where `sign` is set. The caller adds `sign` to complete the
    negation."""
    return (value ^ sign.replicate(len(value))).as_signed()


def saturated(value: Value, bits: int) -> Value:
    """The signed value of `bits` bits that is nearest to the signed `value`."""
    high = value[bits - 1 :]
    overflows = high.any() & ~high.all()
    end = Cat((~value[-1]).replicate(bits - 1), value[-1])
    return Mux(overflows, end, value[:bits]).as_signed()


def half_sums(m: Module, x: Sequence[Value], bits: int) -> list[Value]:
    """The stored half of the table of `x`: entry e is x[-1] minus the sum of (2*e_i - 1)*x[i] over
    i < len(x)-1, where e_i is bit i of e.

    This is Eq. 5 of LUT Tensor Core, negated. Every entry combines two sums of the same kind over
    the halves of `x`: 12 adders for four activations, 24 for five, 44 for six.
    """
    if len(x) == 1:
        return [x[0]]
    split = len(x) // 2
    low, high = half_sums(m, x[:split], bits), half_sums(m, x[split:], bits)
    sums = []
    for entry in range(1 << (len(x) - 1)):
        # The low half's own top sign is a bit of the entry; half of its sums are negations.
        above, pattern = high[entry >> split], entry & ((1 << split) - 1)
        if pattern >> (split - 1):
            sums.append(above - low[(1 << split) - 1 - pattern])
        else:
            sums.append(above + low[pattern])
    return _named_sums(m, "half", sums, bits)


def subset_sums(m: Module, x: Sequence[Value], bits: int) -> list[Value]:
    """The sums of all non-empty subsets of `x`: entry e - 1 is the sum of the x[i] for the set bits
    i of e.

    It takes 1 adder for two values and 4 for three.
    """
    if len(x) == 1:
        return [x[0]]
    split = len(x) // 2
    low = [None, *subset_sums(m, x[:split], bits)]
    high = [None, *subset_sums(m, x[split:], bits)]
    sums = []
    for entry in range(1, 1 << len(x)):
        pair = low[entry & ((1 << split) - 1)], high[entry >> split]
        sums.append(total(part for part in pair if part is not None))
    return _named_sums(m, "subset", sums, bits)


def digit_sums(m: Module, x: Sequence[Value], bits: int) -> list[Value]:
    """The sums of `x` weighted with -1, 0 or 1: entry j - 1 is the sum of w[i]*x[i], where j > 0 is
    the sum of w[i]*3^i with w[i] in -1 .. 1.

    It takes 2 adders for two activations and 10 for three. The 13 entries for three, and zero, are
    those of TL2 (arXiv 2502.11880).
    """
    if len(x) == 1:
        return [x[0]]
    low, top = digit_sums(m, x[:-1], bits), x[-1]
    minus = [top - entry for entry in reversed(low)]
    sums = [*low, *minus, top, *(top + entry for entry in low)]
    return _named_sums(m, "digits", sums, bits)


def _named_sums(m: Module, name: str, sums: Sequence[Value], bits: int) -> list[Value]:
    """The sums in at most `bits` bits, each with a signal of its own."""
    signals: list[Value] = []
    for i, value in enumerate(sums):
        short = value[:bits].as_signed() if len(value) > bits else value
        signals.append(
            value if isinstance(value, Signal) else named(m, f"{name}{len(sums)}_{i}", short)
        )
    return signals


def round_shift(m: Module, value: Value, amount: Value, maximum_shift: int, maximum: int) -> Value:
    """`value / 2^min(amount, maximum_shift)`, halves to even, clamped to -maximum .. maximum."""
    shifts = [min(shift, maximum_shift) for shift in range(1 << len(amount))]
    # Adding just under a half, plus the last kept bit, rounds halves to even.
    halves = [((1 << shift) // 2 - 1) + value[shift] if shift else Const(0) for shift in shifts]
    total = named(m, "total", value + choose(halves, amount))
    rounded = named(m, "rounded", choose([total >> shift for shift in shifts], amount).as_signed())
    return Mux(rounded > maximum, maximum, Mux(rounded < -maximum, -maximum, rounded))
