"""Lanes that select, shift and add, or compare bits; `hw.spec.bit_serial` says what they compute.

No lane negates: whole activations are negated once for all columns, so that no carries of negations
reach the adder trees.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Value

from evolute.hw.rtl.blocks.arith import any_of, named, negate_if, select, sum_modulo, total_signed
from evolute.hw.rtl.engines.engine import EngineComponent
from evolute.hw.spec.bit_serial import RADIX_BITS, SPECIAL_CODE, BitSerial, float_code, float_terms
from evolute.hw.spec.formats import Kind, WeightCodes


@dataclass(frozen=True)
class Digit:
    """The term of one weight in a step, as its lanes use it."""

    plus: Value
    """Whether the term is above zero."""
    minus: Value
    """Whether the term is below zero."""
    magnitude: tuple[Value, ...]
    """Whether the term's magnitude is 1, 2 or 4, one-hot. Of no meaning for a term of zero."""


class BitSerialEngine(EngineComponent):
    """A complete bit-serial engine."""

    spec: BitSerial
    _taken: list[Value]
    """Whether the step takes digit or plane i of its beat, by i; only where steps are skipped. At
    most one is set."""
    _last: Value
    """The number of steps that the beat needs, less 1, or 0 if it needs none."""

    def weights(self, m, arrives, held, sequencer):
        """The weights of the beat. Where steps are skipped, also finds the digit or plane that this
        step takes, which is the next one needed."""
        fields = super().weights(m, arrives, held, sequencer)
        if self.spec.skips:
            (needed,) = fields["needed"]
            before: Value = Const(0, 1)
            self._taken = []
            for i, bit in enumerate(needed):
                taken = bit & (before == sequencer.beat_step)
                self._taken.append(named(m, f"takes_digit{i}", taken))
                before = named(m, f"digits_to{i}", before + bit)
            self._last = Mux(before == 0, 0, before - 1)
        return fields

    def operands(self, m, x, fields):
        """The activations, followed by their negations where digits have signs of their own, and
        the sum of each row's activations."""
        spec = self.spec
        rows = [x[start : start + spec.k] for start in range(0, len(x), spec.k)]
        words: list[Value] = list(x)
        if spec.terms in ("booth", "bitmod"):
            words += [named(m, f"minus{i}", (-value)[: len(value)]) for i, value in enumerate(x)]
        return Cat(*words), [total_signed(row) for row in rows]

    def multiply(self, m, operands, weights, sequencer):
        """The sum of the products of all lanes of an output, for every output [m][n]."""
        spec, bits = self.spec, self.spec.activation_bits
        words = [operands.word_select(i, bits) for i in range(len(operands) // bits)]
        if spec.has_pairs:
            return self._pairs(m, words, weights, sequencer)
        count = spec.m * spec.k
        lanes = self._planes if spec.terms == "planes" else self._digits
        terms = lanes(m, words[:count], words[count:], weights, sequencer)
        return [total_signed(terms[i : i + spec.k]) for i in range(0, len(terms), spec.k)]

    def _places(self) -> list[tuple[int, int]]:
        """The activation and the weight of each lane, [m][n][k]."""
        spec = self.spec
        return [
            (row * spec.k + i, column * spec.k + i)
            for row in range(spec.m)
            for column in range(spec.n)
            for i in range(spec.k)
        ]

    def _planes(self, m, x, _minus, weights, sequencer) -> list[Value]:
        """The product of every lane: the activation if the weight's bit is set, else 0, negated in
        the top plane."""
        top, bits = sequencer.last_of_slice, weights["code"]
        if self.spec.skips:
            top = any_of(taken & (sequencer.mode == i) for i, taken in enumerate(self._taken))
            top = named(m, "top", top)
            bits = [
                named(m, f"bit{i}", (code & Cat(self._taken)).any()) for i, code in enumerate(bits)
            ]
        signed = [
            named(m, f"x{i}", (negate_if(value, top) + top)[: len(value)])
            for i, value in enumerate(x)
        ]
        return [bits[at].replicate(len(x[0])) & signed[i] for i, at in self._places()]

    def _pairs(self, m, x, weights, sequencer) -> list[Value]:
        """The sum of every output in a step of one plane of activations and one of weights: the
        number of lanes that are 1, or for `xnor` the ones less the zeros."""
        spec, counts = self.spec, []
        bipolar = spec.terms == "xnor"
        steps = [
            named(m, f"step{i}", sequencer.beat_step == i) for i in range(spec.activation_planes)
        ]
        places = []
        for i, value in enumerate(x):
            # Planes of -1 and 1 are those of x plus half of the range, above a plane of -1 alone.
            planes = [Const(0, 1), *value[:-1], ~value[-1]] if bipolar else list(value)
            chosen = any_of(bit & step for bit, step in zip(planes, steps, strict=True))
            places.append(named(m, f"bit{i}", chosen))
        width = spec.step_bits
        negative = named(m, "negative", sequencer.last_of_beat)
        lanes = [
            ~(places[i] ^ weights["code"][at]) if bipolar else places[i] & weights["code"][at]
            for i, at in self._places()
        ]
        for number, start in enumerate(range(0, len(lanes), spec.k)):
            ones = sum_modulo(m, f"ones{number}", lanes[start : start + spec.k], width)
            if bipolar:
                counts.append((ones + ones - spec.k)[:width].as_signed())
            else:
                counts.append((negate_if(ones, negative) + negative)[:width].as_signed())
        return counts

    def _digits(self, m, x, minus, weights, sequencer) -> list[Value]:
        """The product of every lane: the activation times the digit of its weight."""
        digits = self._decoded(m, weights, sequencer)
        terms = []
        for number, (i, at) in enumerate(self._places()):
            digit = digits[at]
            signed = select([x[i], minus[i]], [digit.plus, digit.minus])
            signed = named(m, f"signed{number}", signed)
            most = len(digit.magnitude) - 1
            extended = Cat(signed, signed[-1].replicate(most))
            shifted = [Cat(Const(0, by), extended)[: len(extended)] for by in range(most + 1)]
            terms.append(named(m, f"term{number}", select(shifted, digit.magnitude)))
        return terms

    def _decoded(self, m, weights, sequencer) -> list[Digit]:
        """The step's digit of every weight."""
        spec, digits = self.spec, []
        steps = [sequencer.beat_step == step for step in range(spec.digits)]
        if spec.skips:
            steps = self._taken
        specials = [
            _special_digit(m, column, special, sequencer.beat_step[0])
            for column, special in enumerate(weights.get("special", ()))
            if not spec.skips
        ]
        for i, code in enumerate(weights["code"]):
            # A digit's own two bits and the one below; a sign above codes of an odd width.
            bits = Cat(Const(0, 1), code, code[-1])
            windows = [bits[RADIX_BITS * step :][:3] for step in range(spec.digits)]
            digit = _integer_digit(named(m, f"window{i}", select(windows, steps)))
            if spec.has_floats and spec.skips:
                is_float, special = sequencer.mode[spec.digit_bits], weights["special"][i // spec.k]
                own = _own_float_digit(m, i, code, special, steps)
                digit = Digit(
                    Mux(is_float, own.plus, digit.plus),
                    Mux(is_float, own.minus, digit.minus),
                    tuple(
                        Mux(is_float, of_float, of_integer)
                        for of_float, of_integer in zip(
                            own.magnitude, (*digit.magnitude, Const(0)), strict=True
                        )
                    ),
                )
            elif spec.has_floats:
                is_float = sequencer.mode[spec.digit_bits]
                special, upper = specials[i // spec.k], sequencer.beat_step[0]
                digit = _float_digit(m, i, code, is_float, special, upper, digit)
            digits.append(
                Digit(
                    named(m, f"plus{i}", digit.plus),
                    named(m, f"minus{i}", digit.minus),
                    tuple(named(m, f"by{1 << j}_{i}", e) for j, e in enumerate(digit.magnitude)),
                )
            )
        return digits

    def shift(self, sequencer):
        spec = self.spec
        if spec.has_pairs:
            step = sequencer.beat_step
            below = step.any() if spec.terms == "xnor" else Const(0)
            return sequencer.plane + step - below
        if spec.has_planes:
            return sequencer.plane
        step = sequencer.beat_step
        if spec.skips:
            numbers = range((spec.digits - 1).bit_length())
            step = Cat(
                any_of(taken for i, taken in enumerate(self._taken) if i >> bit & 1)
                for bit in numbers
            )
        return Cat(Const(0, spec.radix_bits - 1), step)

    def last_beat_step(self, mode):
        if self.spec.has_pairs:
            return Const(self.spec.activation_planes - 1)
        if self.spec.skips:
            return self._last
        return mode[: self.spec.digit_bits]


def _integer_digit(window: Value) -> Digit:
    """The radix-4 digit -2 * high + middle + below of a window of three bits."""
    below, middle, high = window
    odd = middle ^ below
    return Digit(~high & (middle | below), high & ~(middle & below), (odd, ~odd))


def _special_digit(m: Module, column: int, special: Value, upper: Value) -> Digit:
    """The term of a column's special value, the upper one if `upper`, else the lower: +-10 is
    2 * 4 + 2 and +-16 is 4 * 4."""
    negative, far = special
    present = named(m, f"special_present{column}", ~far | upper)
    return Digit(
        named(m, f"special_plus{column}", present & ~negative),
        named(m, f"special_minus{column}", present & negative),
        (Const(0), ~far, far),
    )


def _float_digit(
    m: Module,
    i: int,
    code: Value,
    is_float: Value,
    special: Digit,
    upper: Value,
    integer: Digit,
) -> Digit:
    """The term of a code in a step, the upper one if `upper`, else the lower.

    It is the digit of the code as an integer, except that if `is_float` four codes stand for other
    values: 5 for 8 = 1 * 4 + 4, 7 for 12 = 4 * 4 - 4, -7 for -12, and -5 for the special value. The
    terms of 8, 12 and -12 have the signs of the integer's digits.
    """
    c0, c1, c2, c3 = code[:4]
    differs = named(m, f"differs{i}", is_float & c0 & (c3 ^ c2))
    is_special = named(m, f"is_special{i}", differs & c3 & c1)
    far = special.magnitude[2]
    of_five = ~c3 & ~c1
    by_4 = named(m, f"four{i}", differs & Mux(c3 & c1, far, ~(of_five & upper)))
    by_1 = named(m, f"one{i}", integer.magnitude[0] & ~by_4 & ~is_special)
    return Digit(
        Mux(is_special, special.plus, integer.plus),
        Mux(is_special, special.minus, integer.minus),
        (by_1, ~by_1 & ~by_4, by_4),
    )


def _own_float_digit(m: Module, i: int, code: Value, special: Value, steps: list[Value]) -> Digit:
    """The term of a BitMoD value in a step, by `float_terms`: the lower one if the first of `steps`
    is set, the upper one if the second is."""
    whole = code[:4]
    plus: list[Value] = []
    minus: list[Value] = []
    magnitudes: tuple[list[Value], ...] = ([], [], [])

    def has(condition: Value, value: int) -> None:
        for step, term in zip(steps, float_terms(value), strict=False):
            if term:
                taken = condition & step
                (plus if term > 0 else minus).append(taken)
                magnitudes[abs(term).bit_length() - 1].append(taken)

    fp4 = WeightCodes(4, Kind.BITMOD)
    for value in set(fp4.values()) - {*fp4.specials, 0}:
        is_value = whole == float_code(value) % 16
        has(named(m, f"is{value % 32}_{i}", is_value), value)
    for number, value in enumerate(fp4.specials):
        is_value = (whole == SPECIAL_CODE % 16) & (special == number)
        has(named(m, f"is_special{number}_{i}", is_value), value)
    return Digit(any_of(plus), any_of(minus), tuple(map(any_of, magnitudes)))
