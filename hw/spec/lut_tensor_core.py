"""The LUT Tensor Core: mixed-precision matrix multiplication by table lookup.

After Mo et al., "LUT Tensor Core", ISCA 2025 (arXiv 2408.06003): K activations give one table of
their signed sums, shared by all N columns; each column looks its K weight bits up, one bit-plane a
step. Only half of each table exists (odd symmetry, Eq. 5), and the conditional complement of the
index is folded into the packed weights offline (Eq. 6). Beyond the paper: KG tables are reduced by
an adder tree before one accumulator, streams with back-pressure replace its free-running tile, one
step may look several planes up in the same tables, and tables may hold other sums: of the subsets
of their activations, for planes of 0 and 1, or of what two or three ternary digits select, as in
BitNet's TL2 (arXiv 2502.11880).

The subsets of two activations are these and one sum, which a step makes as it goes, as a multiplier
makes multiples; all other tables wait in registers. Where a step takes all planes of a weight, the
top one of 0 and 1 is wired to count negatively: weights are in two's complement then, and sums a
bit narrower than from 0 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import Coding, Engine
from evolute.hw.spec.formats import Kind, WeightCodes

CODES = {
    (2, True): (
        "Bit k-1 of a code is the sign S of the top weight; bits 0..k-2 are the other signs, each "
        "XORed with S (Eq. 6)."
    ),
    (2, False): "All k bits are plain, of two's complement where a step takes all planes.",
    (3, True): (
        "j being the sum of 3^i times weight i, -1 .. 1: below the top bit the magnitude of j, in "
        "the top bit whether j is negative (as TL2's codes, arXiv 2502.11880)."
    ),
}
"""What a code of a weight beat says, by `base` and `mirrored`."""


@dataclass(frozen=True, kw_only=True)
class LutTensorCore(Engine):
    """Choices of one LUT Tensor Core, which multiplies [M, K] activations by [N, K] weights."""

    k: int = 4
    """Activations per table: the K of the paper's M x N x K tile (section 3), not a layer's
    depth."""
    kg: int = 4
    """Tables whose lookups an adder tree sums before the accumulator, so that a K-slice has k * kg
    activations."""
    base: int = 2
    """Base of the digits of which a weight consists: 2, with one bit-plane per bit, or 3, with one
    digit, for ternary weights only."""
    mirrored: bool = True
    """Whether a table holds half of the signed sums, whose negations are the other half (Eq. 5). If
    not, it holds the sums of all subsets of its activations, and the bits of a plane count as 0 and
    1, not as -1 and 1."""
    planes_per_step: int = 1
    """Bit-planes that a weight beat carries, and that one step looks up and adds in one tree."""
    table_bits: int | None = None
    """Width of a table entry. None keeps exact sums; a smaller width rounds the entries of a row to
    multiples of a power of two that they share."""
    accumulator_bits: int | None = None
    """Width of an accumulator; None takes the least width that cannot overflow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 2, 6)
        require_range("kg", self.kg, 1, 64)
        require(self.base in (2, 3), "base", "2 or 3", self.base)
        planes = self.planes_per_step
        if self.base == 3:
            require(self.k <= 3, "k", "2 or 3 ternary digits", self.k)
            require(self.weight_bits == 2, "weight_bits", "2 for ternary digits", self.weight_bits)
            require(self.mirrored, "mirrored", "true for ternary digits", self.mirrored)
            require(planes == 1, "planes_per_step", "1 for ternary digits", planes)
        require(planes in (1, 2, 4), "planes_per_step", "1, 2 or 4", planes)
        rule = f"a multiple of planes_per_step ({planes})"
        require(self.weight_bits % planes == 0, "weight_bits", rule, self.weight_bits)
        if self.table_bits is not None:
            require(
                4 <= self.table_bits < self.exact_table_bits,
                "table_bits",
                f"in 4..{self.exact_table_bits - 1} or exact ({self.exact_table_bits} bits)",
                self.table_bits,
            )
        if self.accumulator_bits is not None:
            require(
                self._least_accumulator_bits <= self.accumulator_bits <= 64,
                "accumulator_bits",
                f"in {self._least_accumulator_bits}..64 (one group cannot overflow)",
                self.accumulator_bits,
            )

    # What the choices mean.

    @property
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""
        return self.k * self.kg

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, or None if it cannot.

        Mirrored tables take planes of signs: a code q adds (2*q - (levels - 1)) * x (Eq. 2), by one
        plane per bit, plane i with weight 2^i. Tables of subsets take planes of 0 and 1, which add
        q * x, or in two's complement (q - levels // 2) * x.

        A ternary code is one digit of base 3. In base 2 it is two planes of equal weight, q >= 1
        and q >= 2, in mode 1; or, where a step takes several planes, whose shifts are wired, the
        two bits of q.
        """
        if not codes.is_plain or codes.bits > self.weight_bits:
            return None
        if self.base == 3:
            return Coding(1, 0, scale=1, origin=-1) if codes.kind is Kind.TERNARY else None
        if self.is_signed:
            return Coding(1, 0, scale=1, origin=-(codes.levels // 2))
        if codes.bits % self.planes_per_step:
            return None
        equal = self.has_equal_planes(codes)
        highest = codes.levels - 1 if equal else (1 << codes.bits) - 1
        scale, origin = (2, -highest) if self.mirrored else (1, 0)
        return Coding(codes.bits // self.planes_per_step, int(equal), scale, origin)

    @property
    def is_signed(self) -> bool:
        """Whether planes are the bits of two's complement codes, of which the top one is
        negative."""
        subsets = self.base == 2 and not self.mirrored and self.exact
        return subsets and self.planes_per_step == self.weight_bits

    def has_equal_planes(self, codes: WeightCodes) -> bool:
        """Whether all planes of weights of this format have the same weight, not powers of two."""
        return codes.kind is Kind.TERNARY and self.base == 2 and self.planes_per_step == 1

    @property
    def shifts(self) -> tuple[int, ...]:
        """The left shift of each weight beat of a K-slice."""
        return (0,) if self.base == 3 else tuple(range(0, self.weight_bits, self.planes_per_step))

    @property
    def code_bits(self) -> int:
        """Width of a code of a weight beat, of which there is one per table and plane."""
        return self.k if self.base == 2 else self.entries.bit_length() + 1

    @property
    def weight_beat(self) -> Beat:
        code = Field("code", self.code_bits, (self.n, self.planes_per_step, self.kg))
        return Beat((code,), f"code[n][planes_per_step][kg]. {CODES[self.base, self.mirrored]}")

    # Tables.

    @property
    def entries(self) -> int:
        """Stored entries of one table: half of the signed sums, or the sums of all subsets but the
        empty one."""
        if self.base == 3:
            return 3**self.k // 2
        return 1 << (self.k - 1) if self.mirrored else (1 << self.k) - 1

    @property
    def exact_table_bits(self) -> int:
        """Width of a signed sum of k activations."""
        return (self.k * self.activations.maximum).bit_length() + 1

    @property
    def entry_bits(self) -> int:
        """Width of a stored entry."""
        return self.exact_table_bits if self.table_bits is None else self.table_bits

    @property
    def entry_maximum(self) -> int:
        """Largest magnitude of a stored entry."""
        if self.table_bits is None:
            return self.k * self.activations.maximum
        return (1 << (self.table_bits - 1)) - 1

    @property
    def keeps_tables(self) -> bool:
        """Whether tables are held in registers. A table of two activations and their sum is not: it
        is computed anew in every step."""
        return self.mirrored or self.k > 2 or not self.exact

    @property
    def shared_bits(self) -> int:
        """Low bits that all entries of a table share: one, since the exact signed sums of the same
        k activations are all even or all odd."""
        return int(self.table_bits is None and self.base == 2 and self.mirrored)

    @property
    def step_weight(self) -> int:
        """The largest magnitude of a weight that the planes of one step make up together."""
        planes = self.planes_per_step
        return 1 << planes - 1 if self.is_signed else (1 << planes) - 1

    @property
    def maximum_table_shift(self) -> int:
        """Largest right shift of an entry, with which no sum of k activations leaves the entry's
        range."""
        shift = 0
        while (self.k * self.activations.maximum) / (1 << shift) > self.entry_maximum:
            shift += 1
        return shift

    @property
    def row_shift_bits(self) -> int:
        """Width of one row's table shift in an activation beat; 0 for exact tables."""
        return self.maximum_table_shift.bit_length()

    # Sums.

    @property
    def step_bits(self) -> int:
        """Width of the number that a step adds: the sum of kg lookups in each of its planes."""
        return (self.step_weight * self.kg * self.entry_maximum).bit_length() + 1

    @cached_property
    def group_maximum(self) -> int:
        """Largest magnitude that one accumulator can reach within a group."""
        weight_maximum = (1 << self.weight_bits) - 1
        if self.base == 3 or self.is_signed:
            weight_maximum = self.step_weight
        return weight_maximum * self.entry_maximum * self.kg * self.group_slices

    @property
    def _least_accumulator_bits(self) -> int:
        return self.group_maximum.bit_length() + 1

    @property
    def acc_bits(self) -> int:
        """Width of an accumulator."""
        return self.accumulator_bits or self._least_accumulator_bits

    @property
    def exact(self) -> bool:
        """Whether sums are exact: table entries are not rounded."""
        return self.table_bits is None

    @property
    def operand_latency_cycles(self) -> int:
        """As for all engines, and one more cycle where registers hold tables."""
        return super().operand_latency_cycles + self.keeps_tables
