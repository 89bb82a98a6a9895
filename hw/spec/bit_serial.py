"""Bit-serial weights: every step multiplies by one small term of each weight, after BitMoD.

Chen et al., "BitMoD", HPCA 2025 (arXiv 2411.11745): a weight is a short sum of signed powers of
two, so that one lane, which shifts and negates, serves weights of several formats, narrow ones in
fewer steps. What differs is where the terms come from (`BitSerial.terms`):

- `planes`: two's complement bit by bit, as in Stripes (Judd et al., MICRO 2016) with weights and
  activations exchanged. A lane is an AND.
- `booth`: the radix-4 digits -2 .. 2 of two's complement codes (BitMoD, section III-B).
- `bitmod`: these digits, and the two terms of FP3 and FP4 with a special value per group. Unlike
  the paper's, codes are rearranged offline, so that integer digits give most of the terms.
- `and`: weights and activations bit by bit, a pair of planes a step, of which a lane is an AND and
  an output a count of ones, as in ABQ-LLM (arXiv 2408.08554) and Loom (DAC 2018). Weights count
  from 0; the top plane of the activations' two's complement is subtracted.
- `xnor`: the same with planes of -1 and 1, a lane being an XNOR, as in AP-LLM (arXiv 2409.17870).
  Such planes alone say odd integers 2 * u - (2^bits - 1): weights as they are, and of an activation
  x the odd 2 * x + 1, so that a plane more, of -1 everywhere, makes that 2 * x.

With `skips` a beat holds whole codes, of planes too, and says which of its steps some weight of it
needs; it takes no step for the others, so that cycles depend on the weights, but on nothing else
(`sim.timing.schedule.Run.steps_of_beats`). A beat that needs none takes one. A BitMoD value is then
the sum of other terms (`float_terms`), so that all of FP3 but its special values need the first
step alone. What that saves depends on how many weights a beat has, n * k, and not on m. Mean steps
of a beat, measured on all layers of blocks 3 and 15 of SmolLM2-135M in groups of 128:

    weights a beat     1     4    16    32    64   128   of
    BitMoD FP3      1.02  1.08  1.28  1.47  1.71  1.91    2
    BitMoD FP4      1.32  1.86  2.00  2.00  2.00  2.00    2
    INT4, digits    1.33  1.86  2.00  2.00  2.00  2.00    2
    INT8, digits    2.69  3.85  4.00  4.00  4.00  4.00    4
    INT8, planes    4.01  7.36  8.00  8.00  8.00  8.00    8
    ternary, planes 1.34  1.81  2.00  2.00  2.00  2.00    2

So it is for FP3, and else for few lanes or for weights that are sparse together. All of that model
in FP3 on `core-skip` takes 11,296,073 cycles a token, and 17,260,192 with `engine.skips=false`, by
the cycle model with 6.4 GB/s at 200 MHz.

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
"""Bits by which a digit is above the one before it."""

FLOAT_STEPS = 2
"""Terms of a BitMoD value, the lower one first: together up to 4 * 4 + 4 halves."""

SPECIAL_CODE = -5
"""What a weight beat holds for the special value of a column's group."""

_REARRANGED = {8: 5, 12: 7, -12: -7, **dict.fromkeys((10, -10, 16, -16), SPECIAL_CODE)}
"""FP4 needs neither 5 nor 7, nor their negations."""


_UPPER = {3: 1, 6: 1, 8: 2, 10: 2, 12: 2, 16: 4}
"""The upper term of a magnitude where steps are skipped, unless it is 0."""


def float_terms(value: int) -> tuple[int, int]:
    """The lower and the upper term of a BitMoD value, which counts halves, where steps are skipped:
    the value is the first plus four times the second.

    1, 2 and 4 are the lower term alone, 8 and 16 the upper; 3 is 4 - 1, and of others the largest
    power of two in it is the upper.
    """
    sign = -1 if value < 0 else 1
    upper = _UPPER.get(abs(value), 0)
    return sign * (abs(value) - 4 * upper), sign * upper


def float_code(value: int) -> int:
    """What a weight beat holds for a BitMoD value, which counts halves: a 4-bit two's complement
    number, most often the value itself."""
    return _REARRANGED.get(value, value)


@dataclass(frozen=True, kw_only=True)
class BitSerial(Engine):
    """Choices of one bit-serial engine.

    A step's sum is shifted where it is accumulated. `acc_bits` hold sums in the midst of a slice,
    too: what the lower terms of a weight come to is no larger than the largest weight. If it were,
    an accumulator might wrap there: modulo 2^acc_bits only the last value counts.
    """

    k: int = 16
    """Lanes of an output: terms that its adder tree sums in one step."""
    terms: str = "booth"
    """Where the terms of a weight come from: planes, booth, bitmod, and or xnor."""

    skips: bool = False
    """Whether steps that no weight of a beat needs are not taken."""

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
        """Whether weights come bit by bit; if not, a beat of whole codes serves all their steps."""
        return (self.terms == "planes" and not self.skips) or self.has_pairs

    @property
    def has_pairs(self) -> bool:
        """Whether activations come bit by bit, too."""
        return self.terms in ("and", "xnor")

    @property
    def activation_planes(self) -> int:
        """Steps for which a plane of weights is used where planes come in pairs."""
        return self.activation_bits + (self.terms == "xnor")

    @property
    def has_floats(self) -> bool:
        """Whether BitMoD's own formats run."""
        return self.terms == "bitmod"

    @property
    def slice_k(self) -> int:
        """Activations of one row consumed per K-slice."""
        return self.k

    @property
    def steps_are_fixed(self) -> bool:
        return not self.skips

    @property
    def radix_bits(self) -> int:
        """Bits by which a step's terms are above those of the step before."""
        return RADIX_BITS if self.terms in ("booth", "bitmod") else 1

    @property
    def digits(self) -> int:
        """Steps of a beat of the widest whole codes: its digits, or planes."""
        return -(-self.weight_bits // self.radix_bits)

    @property
    def digit_bits(self) -> int:
        """Low bits of a mode, which say how many steps a weight beat has, less 1."""
        return 0 if self.has_planes else (self.digits - 1).bit_length()

    @property
    def float_mode(self) -> int:
        """The bit of a mode that says that codes are `float_code`s."""
        return 1 << self.digit_bits

    def coding(self, codes: WeightCodes) -> Coding | None:
        """Two's complement: a code q of `levels` multiplies by q - levels // 2. That takes a plane
        for each of its bits, of which the top one is subtracted, even where it is the only one; or
        one beat, and a step for each of its digits, or of its bits. In pairs of planes it
        multiplies by q, or by 4 * q - 2 * (2^bits - 1).

        BitMoD's values count in halves, and FP3's twice over: then all are values of FP4, the
        special ones included. Where steps are skipped, FP3's count once, and are values of FP4 too.
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
        """One step per digit, or plane, of whole codes, of which `skips` may skip some, or per
        plane of the activations."""
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
        """Width of the sum of k terms' products."""
        if self.has_pairs:
            return self.k.bit_length() + 1
        return (self.k * TERMS[self.terms] * self.activations.maximum).bit_length() + 1

    @property
    def shifts(self) -> tuple[int, ...]:
        """One per plane, digit, or sum of two planes' places."""
        if self.has_pairs:
            return tuple(range(self.weight_bits + self.activation_bits - 1))
        return tuple(range(0, self.weight_bits, self.radix_bits))
