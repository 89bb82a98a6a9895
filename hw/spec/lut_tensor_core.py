"""The LUT Tensor Core: mixed-precision matrix multiplication by table lookup.

After Mo et al., "LUT Tensor Core", ISCA 2025 (arXiv 2408.06003): K activations give one table of
their signed sums, shared by all N columns; each column looks its K weight bits up, one bit-plane a
step. Only half of each table exists (odd symmetry, Eq. 5), and the conditional complement of the
index is folded into the packed weights offline (Eq. 6). Beyond the paper: KG tables are reduced by
an adder tree before one accumulator, and streams with back-pressure replace its free-running tile.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec.base import require, require_range
from hw.spec.engine import Engine


@dataclass(frozen=True, kw_only=True)
class LutTensorCore(Engine):
    """Choices of one LUT Tensor Core. Multiplies [M, K] activations by [N, K] weights."""

    k: int = 4
    """Activations per table; a table has 2^(k-1) entries."""
    kg: int = 4
    """Tables summed by the adder tree before the accumulator: a slice is k*kg activations."""
    table_bits: int | None = None
    """Width of a table entry; None keeps exact sums, less rounds them to a shared power of two."""
    accumulator_bits: int | None = None
    """Width of an accumulator; None takes the least that cannot overflow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 2, 6)
        require_range("kg", self.kg, 1, 16)
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
        """Activations of one row consumed per K-slice."""
        return self.k * self.kg

    # Tables.

    @property
    def entries(self) -> int:
        """Stored entries of one table, the half whose top activation is negative (Eq. 5)."""
        return 1 << (self.k - 1)

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
    def shared_bits(self) -> int:
        """Low bits that all entries of a table share: the parity of its sums, if they are exact."""
        return 1 if self.table_bits is None else 0

    @property
    def stored_table_bits(self) -> int:
        """Bits that hold one table: the shared ones, then the rest of every entry."""
        return self.shared_bits + self.entries * (self.entry_bits - self.shared_bits)

    @property
    def maximum_table_shift(self) -> int:
        """Largest right shift of an entry: with it no sum of k activations saturates."""
        shift = 0
        while (self.k * self.activations.maximum) / (1 << shift) > self.entry_maximum:
            shift += 1
        return shift

    @property
    def table_shift_bits(self) -> int:
        """Bits that carry one row's table shift; 0 for exact tables."""
        return self.maximum_table_shift.bit_length()

    # Sums.

    @property
    def tree_bits(self) -> int:
        """Width of the sum of kg lookups."""
        return (self.kg * self.entry_maximum).bit_length() + 1

    @property
    def group_maximum(self) -> int:
        """Largest magnitude that one accumulator can reach within a group."""
        weight_maximum = (1 << self.weight_bits) - 1
        return weight_maximum * self.entry_maximum * self.kg * self.group_slices

    @property
    def _least_accumulator_bits(self) -> int:
        return self.group_maximum.bit_length() + 1

    @property
    def acc_bits(self) -> int:
        """Width of an accumulator."""
        return self.accumulator_bits or self._least_accumulator_bits

    # Time. Stages: hold activations, table; hold weights, look up and reduce, accumulate.

    @property
    def operand_latency_cycles(self) -> int:
        """Cycles from an activation beat's transfer until its table can be looked up in."""
        return 2

    @property
    def step_latency_cycles(self) -> int:
        """Cycles from a weight beat's lookup until the sums that hold it can be read."""
        return 2

    @property
    def macs_per_cycle(self) -> int:
        """One-bit multiply-accumulates per cycle; divide by the planes for the weight width."""
        return self.m * self.n * self.slice_k
