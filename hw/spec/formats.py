"""Number formats as data: what the codes of a weight or an activation mean."""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec.base import require_range


@dataclass(frozen=True)
class Activations:
    """Signed integers in -(2^(bits-1)-1) .. 2^(bits-1)-1.

    The range is symmetric; hardware and golden model read the one leftover code, -2^(bits-1), as
    the lowest value. That keeps a sum of K activations and its negation in the same width.
    """

    bits: int

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class WeightCodes:
    """Weight codes that a lookup engine multiplies one bit-plane at a time.

    Binary, `bits` planes: code q in 0 .. 2^bits-1 counts as the odd integer 2q - (2^bits - 1), so
    that every plane is a vector of signs with positive weight 2^plane (LUT Tensor Core, Eq. 2).
    Ternary: code q in 0 .. 2 counts as 2(q - 1), carried by two sign planes (q >= 1, q >= 2) of
    equal weight 1. In both cases an engine accumulates `value(q) * x`, twice the usual grid.
    """

    bits: int
    ternary: bool = False

    def __post_init__(self) -> None:
        require_range("bits", self.bits, 2 if self.ternary else 1, 2 if self.ternary else 8)

    @property
    def name(self) -> str:
        return "ternary" if self.ternary else f"w{self.bits}"

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return 3 if self.ternary else 1 << self.bits

    @property
    def planes(self) -> int:
        """Bit-planes, that is engine steps per K-slice."""
        return self.bits

    @property
    def plane_shifts(self) -> tuple[int, ...]:
        """log2 of each plane's weight, in the order the planes are streamed."""
        return (0,) * self.planes if self.ternary else tuple(range(self.planes))

    @property
    def maximum(self) -> int:
        """The largest magnitude of `value`."""
        return sum(1 << shift for shift in self.plane_shifts)

    def value(self, code: int) -> int:
        """The integer by which an engine multiplies for `code`."""
        return 2 * code - (self.levels - 1)
