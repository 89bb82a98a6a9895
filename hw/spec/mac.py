"""The multiply-accumulate baseline: integer dot products, every weight in one step.

What lookup engines are measured against: INT8 x INT`weight_bits` multipliers, without any detour
through floating point. Group scales come after the dot product, once per group (MixPE, arXiv
2411.16158).
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import Coding, Engine
from evolute.hw.spec.formats import WeightCodes

ARRANGEMENTS = ("tree", "systolic")
MULTIPLIERS = ("multiples", "shift_add")


@dataclass(frozen=True, kw_only=True)
class Mac(Engine):
    """Choices of one array of multipliers. Narrower weights run in codes of `weight_bits`."""

    k: int = 16
    """Products that a step adds to each sum, by an adder tree; not a layer's depth."""
    arrangement: str = "tree"
    """How operands reach their sums. `tree`: every operand reaches all of its sums in the same
    cycle. `systolic`: an output-stationary array (Kung, IEEE Computer 1982) with one product per
    sum and step, in which activations move from column to column and weights from row to row, one
    place a cycle."""
    multiplier: str = "multiples"
    """How a product is formed. `multiples` adds one multiple of the activation per pair of weight
    bits; `shift_add` adds the shifted activation per weight bit that is set, as MixPE does
    (section IV)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 1, 128)
        for name, values in (("arrangement", ARRANGEMENTS), ("multiplier", MULTIPLIERS)):
            value = getattr(self, name)
            require(value in values, name, f"one of {', '.join(values)}", value)
        if self.arrangement == "systolic":
            require(self.k == 1, "k", "1 in a systolic array", self.k)

    @property
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""
        return self.k

    def coding(self, codes: WeightCodes) -> Coding | None:
        """Two's complement: a code q of `levels` multiplies by q - levels // 2, in one step."""
        if not codes.is_plain or codes.bits > self.weight_bits:
            return None
        return Coding(planes=1, mode=0, scale=1, origin=-(codes.levels // 2))

    @property
    def weight_beat(self) -> Beat:
        code = Field("code", self.weight_bits, (self.n, self.k), signed=True)
        return Beat((code,), "code[n][k], two's complement.")

    @property
    def step_bits(self) -> int:
        """Width of the sum of k products."""
        return self.products_bits(self.k, self.weight_bits)

    @property
    def step_latency_cycles(self) -> int:
        """Cycles from a step until the sums that include it can be read. A tree takes one to
        multiply and reduce and one to accumulate. A systolic array does both in one cycle, but
        operands need m + n - 2 more to reach the last row and column."""
        return 2 if self.arrangement == "tree" else self.m + self.n - 1

    @property
    def keeps_results(self) -> bool:
        """Whether sums have registers for results: in a systolic array, since its first sums are
        complete before its last ones."""
        return self.arrangement == "systolic"
