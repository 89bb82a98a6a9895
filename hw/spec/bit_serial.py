"""Bit-serial weights: every step multiplies by one small term of each weight, after BitMoD.

After Chen et al., "BitMoD", HPCA 2025 (arXiv 2411.11745): a weight is a short sum of signed powers
of two, its terms. A lane that shifts and negates multiplies by one term a step, so that it serves
weights of several formats, narrow ones in fewer steps. `BitSerial.terms` says where the terms come
from:

- `planes`: two's complement bit by bit, as in Stripes (Judd et al., MICRO 2016) with weights and
  activations exchanged. A lane is an AND.
- `booth`: the radix-4 digits -2 .. 2 of two's complement codes (BitMoD, section III-B).
- `bitmod`: these digits, and the two terms of FP3 and FP4 with a special value per group. Unlike
  the paper's, codes are rearranged offline, so that integer digits give most of the terms.
- `and`: weights and activations bit by bit, a pair of planes a step, of which a lane is an AND and
  an output a count of ones, as in ABQ-LLM (arXiv 2408.08554) and Loom (DAC 2018). Weights count
  from 0; the top plane of the activations' two's complement is subtracted.
- `xnor`: the same with planes of -1 and 1, and a lane is an XNOR, as in AP-LLM (arXiv 2409.17870).
  Planes of -1 and 1 can only express the odd integers 2 * u - (2^bits - 1). Weights are such
  integers. An activation x is expressed as 2 * x + 1, and one more plane, of -1 everywhere, takes
  the 1 away, which leaves 2 * x.

With `skips` a beat holds whole codes, also for `planes`, and says which of its steps at least one
of its weights needs. It takes only these steps, or one if no weight needs any, so that cycles
depend on the weights, but on nothing else (`sim.timing.schedule.Run.steps_of_beats`). A BitMoD
value is then the sum of other terms (`float_terms`), so that all values of FP3 but the special ones
need only the first step. How much that saves depends on the number of weights in a beat, n * k, and
not on m. Mean steps of a beat, measured on all layers of blocks 3 and 15 of SmolLM2-135M in groups
of 128:

    weights a beat     1     4    16    32    64   128   of
    BitMoD FP3      1.02  1.08  1.28  1.47  1.71  1.91    2
    BitMoD FP4      1.32  1.86  2.00  2.00  2.00  2.00    2
    INT4, digits    1.33  1.86  2.00  2.00  2.00  2.00    2
    INT8, digits    2.69  3.85  4.00  4.00  4.00  4.00    4
    INT8, planes    4.01  7.36  8.00  8.00  8.00  8.00    8
    ternary, planes 1.34  1.81  2.00  2.00  2.00  2.00    2

So skipping serves FP3, and other formats only with few lanes or with weights that are zero in the
same places. The whole model in FP3 on `core-skip` takes 11,296,073 cycles a token, and 17,260,192
with `engine.skips=false`, by the cycle model with 6.4 GB/s at 200 MHz.

Sums are exact integers; a group's scale comes after its sum, as in `hw.spec.mac`.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import Coding, Engine
from evolute.hw.spec.formats import Kind, WeightCodes

TERMS = {"planes": 1, "booth": 2, "bitmod": 4, "and": 1, "xnor": 1}
"""The largest magnitude of a term, before its step's shift, by where terms come from."""

RADIX_BITS = 2
"""Bits by which a digit of radix 4 is shifted against the one before it."""

FLOAT_STEPS = 2
"""Steps of a BitMoD value, one per term, the lower term first. Values count halves."""

SPECIAL_CODE = -5
"""The code in a weight beat that stands for the special value of a column's group."""

_REARRANGED = {8: 5, 12: 7, -12: -7, **dict.fromkeys((10, -10, 16, -16), SPECIAL_CODE)}
"""The codes of BitMoD values that are not their own codes, by value. They are codes of 5, 7 and
their negations, which are no values of FP4."""


_UPPER = {3: 1, 6: 1, 8: 2, 10: 2, 12: 2, 16: 4}
"""The upper terms that are not 0 where steps are skipped, by the magnitude of the value."""


def float_terms(value: int) -> tuple[int, int]:
    """The lower and the upper term of a BitMoD value in halves, for engines that skip steps: the
    value is the first plus four times the second.

    Magnitudes 1, 2 and 4 have only a lower term, 8 and 16 only an upper one. 3 is 4 - 1. The upper
    term of all others is the largest power of two that they contain.
    """
    sign = -1 if value < 0 else 1
    upper = _UPPER.get(abs(value), 0)
    return sign * (abs(value) - 4 * upper), sign * upper


def float_code(value: int) -> int:
    """The code of a BitMoD value in halves as a weight beat holds it: a 4-bit two's complement
    number, most often the value itself."""
    return _REARRANGED.get(value, value)


@dataclass(frozen=True, kw_only=True)
class BitSerial(Engine):
    """Choices of one bit-serial engine.

    A step's sum is shifted when it is accumulated. `acc_bits` also suffice in the midst of a slice,
    since the lower terms of a weight add up to no more than the largest weight; and even if they
    did not, sums are modulo 2^acc_bits, so that only the last value of a slice would count.
    """

    k: int = 16
    """Lanes of an output, whose products its adder tree sums in one step; not a layer's depth."""
    terms: str = "booth"
    """Where the terms of a weight come from: `planes`, `booth`, `bitmod`, `and` or `xnor`, as this
    module's text says."""
    skips: bool = False
    """Whether an engine leaves out the steps that no weight of a beat needs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 1, 128)
        if self.skips:
            rule = "planes, booth or bitmod where steps are skipped"
            require(self.terms in ("planes", "booth", "bitmod"), "terms", rule, self.terms)
            require_range("weight_bits", self.weight_bits, self.radix_bits + 1, 8)
        require(self.terms in TERMS, "terms", f"one of {', '.join(TERMS)}", self.terms)
        if self.has_floats:
            require_range("weight_bits", self.weight_bits, 4, 8)

    # What the choices mean.

    @property
    def has_planes(self) -> bool:
        """Whether a weight beat carries one bit of each weight. If not, it carries whole codes, and
        serves all of their steps."""
        return (self.terms == "planes" and not self.skips) or self.has_pairs

    @property
    def has_pairs(self) -> bool:
        """Whether activations are multiplied bit by bit, too, so that a step takes a pair of
        planes."""
        return self.terms in ("and", "xnor")

    @property
    def activation_planes(self) -> int:
        """Steps for which a plane of weights is used where steps take pairs of planes: one per
        plane of the activations."""
        return self.activation_bits + (self.terms == "xnor")

    @property
    def has_floats(self) -> bool:
        """Whether the engine runs BitMoD's own formats, FP3 and FP4."""
        return self.terms == "bitmod"

    @property
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""
        return self.k

    @property
    def steps_are_fixed(self) -> bool:
        return not self.skips

    @property
    def radix_bits(self) -> int:
        """Bits by which a step's terms are shifted against those of the step before."""
        return RADIX_BITS if self.terms in ("booth", "bitmod") else 1

    @property
    def digits(self) -> int:
        """Most steps of a beat of whole codes: the digits, or planes, of the widest code."""
        return -(-self.weight_bits // self.radix_bits)

    @property
    def digit_bits(self) -> int:
        """Width of the lowest field of a mode, which holds the steps of a weight beat, less 1."""
        return 0 if self.has_planes else (self.digits - 1).bit_length()

    @property
    def float_mode(self) -> int:
        """The bit of a mode which says that codes are those of `float_code`."""
        return 1 << self.digit_bits

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, or None if it cannot.

        Integer codes are taken in two's complement: a code q of `levels` multiplies by
        q - levels // 2. It takes one plane per bit, of which the top one is subtracted, even if it
        is the only one; or one beat of whole codes, with one step per digit or bit. With pairs of
        planes it multiplies by q (`and`) or by 4 * q - 2 * (2^bits - 1) (`xnor`).

        BitMoD's values count halves. Those of FP3 are doubled, so that all of them, the special
        ones included, are values of FP4. Where steps are skipped they are not doubled.
        """
        if codes.kind is Kind.BITMOD:
            if not self.has_floats:
                return None
            scale = 2 if codes.bits == 3 and not self.skips else 1
            return Coding(1, self.float_mode | FLOAT_STEPS - 1, scale, origin=0)
        if not codes.is_plain or codes.bits > self.weight_bits:
            return None
        if self.terms == "and":
            return Coding(codes.bits, 0, scale=1, origin=0)
        if self.terms == "xnor":
            return Coding(codes.bits, 0, scale=4, origin=2 - (2 << codes.bits))
        origin = -(codes.levels // 2)
        if self.has_planes:
            return Coding(codes.bits, 0, scale=1, origin=origin)
        return Coding(1, -(-codes.bits // self.radix_bits) - 1, scale=1, origin=origin)

    def beat_steps(self, mode: int) -> int:
        """Cycles for which one weight beat is used in this mode: one per digit or plane of whole
        codes, of which `skips` may leave out some; or one per plane of the activations."""
        if self.has_pairs:
            return self.activation_planes
        return (mode & self.float_mode - 1) + 1

    @property
    def weight_beat(self) -> Beat:
        if self.has_planes:
            meaning = "code[n][k], one bit of each weight's two's complement a plane"
            if self.has_pairs:
                meaning = "code[n][k], one bit of each weight's code a plane"
            return Beat((Field("code", 1, (self.n, self.k)),), f"{meaning}.")
        fields = [Field("code", self.weight_bits, (self.n, self.k), signed=True)]
        meaning = (
            "code[n][k], each weight's two's complement, of which a mode with few steps uses the "
            "low digits."
        )
        if self.has_floats:
            fields.append(Field("special", 2, (self.n,)))
            meaning += (
                " For BitMoD codes are what `float_code` in `hw.spec.bit_serial` says, and "
                "special[n] names the special value of the group, of which there are four."
            )
        if self.skips:
            fields.append(Field("needed", self.digits))
            meaning += (
                " Bit i of needed says whether to take the step of digit, or plane, i; of a beat "
                "without any it is one step, which adds nothing."
            )
        return Beat(tuple(fields), meaning)

    # Sums.

    @property
    def step_bits(self) -> int:
        """Width of the sum of the products of all lanes of an output."""
        if self.has_pairs:
            return self.k.bit_length() + 1
        return (self.k * TERMS[self.terms] * self.activations.maximum).bit_length() + 1

    @property
    def shifts(self) -> tuple[int, ...]:
        """The left shifts that a step's number can have: one per plane or digit, or one per sum of
        the places of two planes."""
        if self.has_pairs:
            return tuple(range(self.weight_bits + self.activation_bits - 1))
        return tuple(range(0, self.weight_bits, self.radix_bits))
