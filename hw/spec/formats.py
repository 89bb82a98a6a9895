"""Number formats as data: what the codes of a weight or an activation mean."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from evolute.hw.spec.base import require


@dataclass(frozen=True)
class FloatFormat:
    """A floating format of sign, exponent and mantissa. A code counts as

        (-1)^sign * significand * 2^(max(exponent, 1) - bias - mantissa_bits)

    where the significand is the mantissa, with a one before it unless the exponent is 0.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    infinities: bool = True
    """Whether the highest exponent means infinity and NaN. If not, only the highest mantissa of the
    highest exponent is special, and means NaN."""

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from a code's exponent to give that of the number."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest_code(self) -> int:
        """The code of the greatest finite number. All greater codes without the sign bit stand for
        infinity or NaN."""
        specials = 1 << self.mantissa_bits if self.infinities else 1
        return (1 << (self.bits - 1)) - 1 - specials

    @property
    def top_exponent(self) -> int:
        """The highest exponent of a finite number, as its code holds it."""
        return self.largest_code >> self.mantissa_bits


FLOATS = {
    float_format.name: float_format
    for float_format in (
        FloatFormat("fp16", 5, 10),
        FloatFormat("bf16", 8, 7),
        FloatFormat("fp8e4m3", 4, 3, infinities=False),
        FloatFormat("fp8e5m2", 5, 2),
    )
}
"""Formats of activations: IEEE 754 binary16, its neighbour with the exponent of binary32, and the
two of the OCP 8-bit floating point specification (OFP8, revision 1.0)."""


@dataclass(frozen=True)
class Activations:
    """The format of activations: signed integers in -(2^(bits-1)-1) .. 2^(bits-1)-1, or numbers of
    a floating format that an engine aligns to such integers.

    The range is symmetric, so that a sum of activations and its negation have the same width.
    Hardware and golden model read the one code that is left over, -2^(bits-1), as the lowest value
    of the range.

    Alignment follows FIGNA (HPCA 2024) and FIGLUT (HPCA 2025): the numbers of a row share an
    exponent E, and each is rounded to the nearest multiple of 2^(E - bias - (bits - 2)), halves to
    even, so that a number of exponent E has its leading one just below the integer's sign bit.
    Numbers of higher exponents, infinities, and NaN (by its sign) become the nearest integer in
    range.
    """

    bits: int
    """Width of the integers that the engine multiplies."""
    format: FloatFormat | None = None
    """The floating format in which activations arrive; None for integers."""

    @property
    def maximum(self) -> int:
        """The greatest integer of the range."""
        return (1 << (self.bits - 1)) - 1

    @property
    def code_bits(self) -> int:
        """Width of an activation as it arrives at the engine."""
        return self.format.bits if self.format else self.bits

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent that a row shares; integers share none."""
        return self.format.exponent_bits if self.format else 0

    @property
    def guard_bits(self) -> int:
        """Bits that an aligned integer has below the last bit of a number of the shared exponent.

        Less than 0 where even such a number is rounded. Only for floating activations.
        """
        assert self.format is not None
        return self.bits - 1 - (self.format.mantissa_bits + 1)


class Kind(enum.Enum):
    """Kinds of weight formats. They differ in what a code counts as and in how codes are stored."""

    INTEGER = "w"
    """Code q in 0 .. 2^bits - 1 counts as q."""
    TERNARY = "t"
    """Code q in 0 .. 2 counts as q."""
    BITMOD = "b"
    """Sign and magnitude, and one special value per scale group in place of minus zero: FP3 and FP4
    with extra resolution or extra asymmetry (BitMoD, HPCA 2025, section III-A)."""
    SHORT = "s"
    """As VECTOR, but of codewords shorter than those that an engine takes in one beat. It is not
    stored in files, since an engine decides which codewords are short (`hw.spec.vq_codebook`)."""
    VECTOR = "v"
    """Code q in 0 .. 2^bits - 1 counts as q, and is a component of a codeword. What is stored per
    weight is an index into a codebook (VPTQ, EMNLP 2024; `hw.spec.vq_codebook`)."""
    TABLE = "d"
    """Code q in 0 .. 2^bits - 1 counts as q, and is an entry of a table: the dot product of a
    centroid of activations with an output's weights (LUT-DLA, HPCA 2025; `hw.spec.lut_dla`)."""


_WIDTHS = {
    Kind.INTEGER: range(1, 9),
    Kind.TERNARY: range(2, 3),
    Kind.BITMOD: range(3, 5),
    Kind.SHORT: range(2, 9),
    Kind.VECTOR: range(2, 9),
    Kind.TABLE: range(2, 9),
}

_MAGNITUDES = {3: (0, 1, 2, 4), 4: (0, 1, 2, 3, 4, 6, 8, 12)}
_SPECIALS = {3: (3, -3, 6, -6), 4: (10, -10, 16, -16)}
"""BitMoD, Table I; those of FP4 in halves, so that all are integers."""


@dataclass(frozen=True)
class WeightCodes:
    """A format of weights. A weight is stored as a code of `bits` bits; `kind` says which integer a
    code stands for, and the weight is that integer times the scale of the weight's group.

    If codes are evenly spaced, a group may also have an offset. Hardware may then count codes from
    another origin than 0, since the offset can correct its sums (`hw.spec.engine.Coding`).
    """

    bits: int
    """Width of a code."""
    kind: Kind = Kind.INTEGER
    """What codes count as."""

    def __post_init__(self) -> None:
        legal = _WIDTHS[self.kind]
        name = self.kind.name.lower()
        require(self.bits in legal, "bits", f"in {legal[0]}..{legal[-1]} for {name}", self.bits)

    @property
    def is_plain(self) -> bool:
        """Whether every weight has its own code, which counts as itself."""
        return self.kind in (Kind.INTEGER, Kind.TERNARY)

    @property
    def is_direct(self) -> bool:
        """Whether every weight has its own code."""
        return self.is_plain or self.kind is Kind.BITMOD

    @property
    def name(self) -> str:
        """The format's name in files, options and messages, as `w4`, `ternary` or `bitmod3`."""
        if self.kind is Kind.TERNARY:
            return "ternary"
        prefix = "w" if self.kind is Kind.INTEGER else self.kind.name.lower()
        return f"{prefix}{self.bits}"

    @property
    def levels(self) -> int:
        """The number of codes."""
        return 3 if self.kind is Kind.TERNARY else 1 << self.bits

    @property
    def specials(self) -> tuple[int, ...]:
        """The special values among which a group chooses one; empty where the format has none."""
        return _SPECIALS[self.bits] if self.kind is Kind.BITMOD else ()

    @property
    def special_bits(self) -> int:
        """Bits that one group stores to name its special value."""
        return max(0, len(self.specials) - 1).bit_length()

    def values(self, special: int = 0) -> tuple[int, ...]:
        """The integer that every code counts as, by code, in a group with the special value of
        index `special`."""
        if self.kind is not Kind.BITMOD:
            return tuple(range(self.levels))
        magnitudes = _MAGNITUDES[self.bits]
        negative = (-magnitude for magnitude in magnitudes[1:])
        return (*magnitudes, self.specials[special], *negative)


TERNARY = WeightCodes(2, Kind.TERNARY)

FORMATS = tuple(WeightCodes(bits, kind) for kind in Kind for bits in _WIDTHS[kind])
"""Every weight format there is."""
