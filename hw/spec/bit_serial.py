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

With `skips` a beat of Booth's digits also says which of them some weight of it has, and takes no
step for the others: a step is skipped where all its terms are zero, so that cycles depend on the
weights (`sim.schedule.Run.steps_of_beats`). That is for weights that are sparse together: in dense
INT4 to INT8 layers of SmolLM2-135M some weight of 8 x 16 has every digit, and of 1 x 4 in 31 of 32.

Sums are exact integers; a group's scale comes after its sum, as in `hw.spec.mac`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec.base import require, require_range
from hw.spec.engine import Coding, Engine
from hw.spec.formats import Kind, WeightCodes

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
    """Whether digits that no weight of a beat has take no step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 1, 128)
        if self.skips:
            require(self.terms == "booth", "terms", "booth where steps are skipped", self.terms)
            require_range("weight_bits", self.weight_bits, RADIX_BITS + 1, 8)
        require(self.terms in TERMS, "terms", f"one of {', '.join(TERMS)}", self.terms)
        if self.has_floats:
            require_range("weight_bits", self.weight_bits, 4, 8)

    # What the choices mean.

    @property
    def has_planes(self) -> bool:
        """Whether weights come bit by bit; if not, a beat of whole codes serves all their steps."""
        return self.terms == "planes" or self.has_pairs

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
    def digits(self) -> int:
        """Digits of the widest code."""
        return -(-self.weight_bits // RADIX_BITS)

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
        one beat, and a step for each of its digits. In pairs of planes it multiplies by q, or by
        4 * q - 2 * (2^bits - 1).

        BitMoD's values count in halves, and FP3's twice over: then all are values of FP4, the
        special ones included.
        """
        if codes.kind is Kind.BITMOD:
            if not self.has_floats:
                return None
            scale = 2 if codes.bits == 3 else 1
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
        return Coding(1, -(-codes.bits // RADIX_BITS) - 1, scale=1, origin=origin)

    def beat_steps(self, mode: int) -> int:
        """One step per digit, of which `skips` may skip some, or per plane of the activations."""
        if self.has_pairs:
            return self.activation_planes
        return (mode & self.float_mode - 1) + 1

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
        return tuple(range(0, self.weight_bits, 1 if self.has_planes else RADIX_BITS))
