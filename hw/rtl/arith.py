"""Combinational arithmetic shared by engines. Functions take and return Amaranth values."""

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value


def log2(power: int) -> int:
    """The exponent of a power of two."""
    return power.bit_length() - 1


def any_of(signals: Iterable[Value]) -> Value:
    """Whether any of the signals is set."""
    return Cat(*signals).any()


def named(m: Module, name: str, value: Value) -> Signal:
    """A signal that carries `value`. An expression is a tree, copied whole at each of its uses."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def wrap(m: Module, name: str, length: int, advance: Value, restart: Value | None = None) -> Value:
    """Whether a counter that `advance` turns through 0 .. `length` - 1 is at its last count."""
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
    """The value whose `one_hot` bit is set, by AND-OR: cheaper than two-way multiplexers in gates
    when the decoded index serves all bits of several words."""
    terms = [bit.replicate(len(value)) & value for value, bit in zip(values, one_hot, strict=True)]
    while len(terms) > 1:
        terms = [
            terms[i] | terms[i + 1] if i + 1 < len(terms) else terms[i]
            for i in range(0, len(terms), 2)
        ]
    return terms[0]


def shift_left(value: Value, one_hot: Sequence[Value]) -> Value:
    """Signed `value << i` for the bit i that is set in `one_hot`; 0 if none is."""
    most = len(one_hot) - 1
    extended = Cat(value, value[-1].replicate(most))
    shifted = [Cat(Const(0, i), extended)[: len(extended)] for i in range(len(one_hot))]
    return select(shifted, one_hot).as_signed()


def negate_if(value: Value, sign: Value) -> Value:
    """One's complement of `value` where `sign`: adding `sign` completes the negation."""
    return (value ^ sign.replicate(len(value))).as_signed()


def half_sums(m: Module, x: Sequence[Value], bits: int) -> list[Signal]:
    """The stored half table of `x`: entry e is -x[-1] + sum of (2*e_i - 1)*x[i] over i < len(x)-1.

    LUT Tensor Core, Eq. 5. Two halves of `x` are summed once per sign pattern, up to negation, and
    every entry combines two of those sums: 12 adders for four activations.
    """
    split = len(x) // 2
    low, high = x[:split], x[split:]

    def sums(terms: Sequence[Value], patterns: range, name: str) -> list[Signal]:
        results = []
        for pattern in patterns:
            total = Value.cast(0)
            for i, term in enumerate(terms):
                total = total + term if pattern >> i & 1 else total - term
            results.append(named(m, f"{name}{pattern}", total[:bits].as_signed()))
        return results

    # Sign of the last low term is +: the other half of the low sums is the negation of this one.
    positive = 1 << (split - 1)
    low_sums = sums(low, range(positive, 2 * positive), "low")
    high_sums = sums(high, range(1 << (len(high) - 1)), "high")
    entries = []
    for entry in range(1 << (len(x) - 1)):
        pattern, above = entry & (2 * positive - 1), high_sums[entry >> split]
        if pattern >= positive:
            total = above + low_sums[pattern - positive]
        else:
            total = above - low_sums[positive - 1 - pattern]
        entries.append(named(m, f"entry{entry}", total[:bits].as_signed()))
    return entries


def round_shift(m: Module, value: Signal, amount: Value, maximum_shift: int, maximum: int) -> Value:
    """`value / 2^min(amount, maximum_shift)`, halves to even, clamped to -maximum .. maximum."""
    shifts = [min(each, maximum_shift) for each in range(1 << len(amount))]
    # Adding just under a half, plus the last kept bit, rounds halves to even.
    halves = [((1 << shift) // 2 - 1) + value[shift] if shift else Const(0) for shift in shifts]
    total = named(m, "total", value + choose(halves, amount))
    rounded = named(m, "rounded", choose([total >> shift for shift in shifts], amount).as_signed())
    return Mux(rounded > maximum, maximum, Mux(rounded < -maximum, -maximum, rounded))
