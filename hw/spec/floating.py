"""Baselines with true floating-point sums: multipliers, and lookups in tables, of floating numbers.

Engines align floating activations to integers. These do not: they multiply, look up and add numbers
with exponents of their own, as the designs do that engines are compared with. They take the same
streams under the same control, but give sums that are rounded, in binary32, so that no core can
hold them: they stand beside engines in comparisons, not in their place.

Numbers inside have `significand_bits` bits from their leading one on, and exponents that can
neither over- nor underflow. A product is exact, an addition is rounded once, to nearest, halves to
even: so FP32 sums are those of IEEE 754 binary32, and FP16 sums those of binary16 wherever binary16
neither overflows nor rounds a subnormal. Infinities and NaN among activations and scales count as
the greatest finite number of their sign, and every zero is +0.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import Coding, Engine
from evolute.hw.spec.formats import FLOATS, FloatFormat, Kind, WeightCodes
from evolute.hw.spec.lut_tensor_core import CODES

SUMS = {"fp16": 11, "fp32": 24}
"""Bits of a significand, its leading one included, by the format of sums."""

RESULT = FloatFormat("fp32", 8, 23)
"""What sums are given as; all of them are numbers of this format."""

FP16 = FLOATS["fp16"]
"""What weights and scales come as where they are floating."""

WEIGHTS = ("int", "fp16", "dequantized")


@dataclass(frozen=True, kw_only=True)
class FloatEngine(Engine, abc.ABC):
    """Choices that both floating-point baselines have."""

    activation_format: str = "fp16"
    """The floating format of activations, which are not aligned."""
    activation_bits: int = FP16.bits
    """Width of an activation: that of the format."""
    sums: str = "fp16"
    """The precision to which additions round: fp16 or fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name for name, kind in FLOATS.items() if kind.exponent_bits <= FP16.exponent_bits]
        rule = f"one of {', '.join(names)}, whose sums binary32 can hold"
        require(self.activation_format in names, "activation_format", rule, self.activation_format)
        bits = self.kind.bits
        rule = f"{bits}, the width of {self.activation_format}"
        require(self.activation_bits == bits, "activation_bits", rule, self.activation_bits)
        require(self.sums in SUMS, "sums", f"one of {', '.join(SUMS)}", self.sums)

    @property
    def kind(self) -> FloatFormat:
        """The format of activations."""
        return FLOATS[self.activation_format]

    @property
    def aligns(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        return False

    @property
    def significand_bits(self) -> int:
        """Bits of a sum's significand, its leading one included."""
        return SUMS[self.sums]

    @property
    @abc.abstractmethod
    def leaves(self) -> int:
        """Numbers that a step adds to each sum, by a tree of adders: a power of two."""

    @property
    def scales_sums(self) -> bool:
        """Whether sums still have to be multiplied by a scale."""
        return True

    @property
    def levels(self) -> int:
        """Levels of adders in the tree."""
        return self.leaves.bit_length() - 1

    @property
    def acc_bits(self) -> int:
        return RESULT.bits

    @property
    def row_sum_bits(self) -> int:
        return RESULT.bits

    @property
    def step_bits(self) -> int:
        return RESULT.bits

    @property
    def operand_latency_cycles(self) -> int:
        """Cycles from an activation beat's transfer until a step can use it, one per register: the
        first holds the activations, the second what steps use, which is normalized activations or
        tables of their sums."""
        return 2

    @property
    def step_latency_cycles(self) -> int:
        """Cycles from a step until the sums that include it can be read: one per level of the tree,
        of which the first also multiplies or looks up, at least one for that, and one to
        accumulate."""
        return max(1, self.levels) + 1

    @property
    def keeps_results(self) -> bool:
        """Whether sums have registers for results: always, so that the pipeline goes on while a
        result waits to leave."""
        return True


@dataclass(frozen=True, kw_only=True)
class FloatMac(FloatEngine):
    """Choices of one array of floating multipliers."""

    k: int = 16
    """Products that a step adds to each sum; not a layer's depth."""
    weights: str = "int"
    """The form of weights. `int`: codes in two's complement, and the group's scale is multiplied
    after the sum. `dequantized`: such a code is multiplied by its group's scale first and rounded
    to the precision of FP16, with one scale per column and beat. `fp16`: weights that the host has
    dequantized."""

    def __post_init__(self) -> None:
        super().__post_init__()
        powers = (1, 2, 4, 8, 16, 32, 64)
        require(self.k in powers, "k", f"one of {', '.join(map(str, powers))}", self.k)
        names = ", ".join(WEIGHTS)
        require(self.weights in WEIGHTS, "weights", f"one of {names}", self.weights)

    @property
    def slice_k(self) -> int:
        return self.k

    @property
    def leaves(self) -> int:
        return self.k

    @property
    def row_sum_bits(self) -> int:
        """Width of the sum of one row's activations over a group. It is 0 where weights are FP16
        numbers: they have no offset that would be multiplied by it."""
        return 0 if self.weights == "fp16" else RESULT.bits

    @property
    def weight_beat(self) -> Beat:
        if self.weights == "fp16":
            return Beat((Field("code", FP16.bits, (self.n, self.k)),), "code[n][k], FP16 codes.")
        fields = [Field("code", self.weight_bits, (self.n, self.k), signed=True)]
        meaning = "code[n][k], two's complement"
        if self.weights == "dequantized":
            fields.append(Field("scale", FP16.bits, (self.n,)))
            meaning += ", with scale[n] of their groups, FP16 codes"
        return Beat(tuple(fields), f"{meaning}.")

    @property
    def scales_sums(self) -> bool:
        """Whether sums still have to be multiplied by a scale: weights are plain integers."""
        return self.weights == "int"

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, as `hw.spec.mac` does: a code q of `levels`
        multiplies by q - levels // 2. None if it cannot."""
        if codes.kind in (Kind.BITMOD, Kind.VECTOR, Kind.SHORT) or codes.bits > self.weight_bits:
            return None
        return Coding(planes=1, mode=0, scale=1, origin=-(codes.levels // 2))


@dataclass(frozen=True, kw_only=True)
class FloatLut(FloatEngine):
    """Choices of one LUT Tensor Core with floating tables, as the artifact of its paper has them
    (Mo et al., ISCA 2025, arXiv 2408.06003, where `k` is 4 and `kg` 1).

    Floating adders compute half of each table's entries in the precision of sums. An entry is the
    sum of two sums, each over one half of the table's signed activations. A step takes one
    bit-plane, whose weight, a power of two, is added to the entry's exponent.
    """

    k: int = 4
    """Activations per table: the K of the paper's M x N x K tile, not a layer's depth."""
    kg: int = 1
    """Tables whose entries a step adds to each sum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 2, 6)
        powers = (1, 2, 4, 8, 16, 32)
        require(self.kg in powers, "kg", f"one of {', '.join(map(str, powers))}", self.kg)

    @property
    def slice_k(self) -> int:
        return self.k * self.kg

    @property
    def leaves(self) -> int:
        return self.kg

    @property
    def entries(self) -> int:
        """Stored entries of one table."""
        return 1 << (self.k - 1)

    @property
    def operand_latency_cycles(self) -> int:
        """As for both baselines, and one more cycle, for the register of half tables' sums."""
        return super().operand_latency_cycles + 1

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, or None if it cannot: by planes of signs, as
        in `hw.spec.lut_tensor_core` (Eq. 2), so that a code q adds (2*q - (2^bits - 1)) * x."""
        if codes.kind in (Kind.BITMOD, Kind.VECTOR, Kind.SHORT) or codes.bits > self.weight_bits:
            return None
        return Coding(codes.bits, 0, scale=2, origin=1 - (1 << codes.bits))

    @property
    def weight_beat(self) -> Beat:
        meaning = f"code[n][1][kg]. {CODES[2, True]}"
        return Beat((Field("code", self.k, (self.n, 1, self.kg)),), meaning)
