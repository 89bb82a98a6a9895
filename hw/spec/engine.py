"""What every engine has in common: the choices and numbers that a core, a schedule and a bench ask
for. An engine multiplies [M, K] integer activations by [N, K] weight codes, tile by tile, and gives
one exact sum per output and scale group."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from hw.spec.base import Spec, require_range
from hw.spec.formats import Activations, WeightCodes


@dataclass(frozen=True, kw_only=True)
class Engine(Spec, abc.ABC):
    """Choices that every engine has. A subclass adds its own, and defines what is abstract here."""

    m: int = 1
    """Rows of activations (tokens) held at once."""
    n: int = 64
    """Columns (outputs) that share each activation."""
    activation_bits: int = 8
    """Width of the signed activations."""
    weight_bits: int = 4
    """Widest weight the engine can run; the width in use is chosen at run time."""
    group_size: int = 128
    """Longest run of K that one accumulator sums before it is read out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("m", self.m, 1, 64)
        require_range("n", self.n, 1, 512)
        require_range("activation_bits", self.activation_bits, 4, 16)
        require_range("weight_bits", self.weight_bits, 1, 8)
        require_range("group_size", self.group_size, 1, 16384)

    @property
    def activations(self) -> Activations:
        return Activations(self.activation_bits)

    @property
    def group_slices(self) -> int:
        """Most K-slices in one group."""
        return -(-self.group_size // self.slice_k)

    def accepts(self, codes: WeightCodes) -> bool:
        """Whether weights of this format run on this engine."""
        return codes.planes <= self.weight_bits

    @property
    def slice_sum_bits(self) -> int:
        """Width of the sum of one row's activations over a slice."""
        return (self.slice_k * self.activations.maximum).bit_length() + 1

    @property
    def row_sum_bits(self) -> int:
        """Width of the sum of one row's activations over a group."""
        return (self.slice_k * self.group_slices * self.activations.maximum).bit_length() + 1

    @property
    @abc.abstractmethod
    def slice_k(self) -> int:
        """Activations of one row consumed per K-slice."""

    @property
    @abc.abstractmethod
    def acc_bits(self) -> int:
        """Width of a group's sum."""

    @property
    @abc.abstractmethod
    def operand_latency_cycles(self) -> int:
        """Cycles from an activation beat's transfer until a step can use it."""

    @property
    @abc.abstractmethod
    def step_latency_cycles(self) -> int:
        """Cycles from a step until the sums that hold it can be read."""

    @property
    @abc.abstractmethod
    def macs_per_cycle(self) -> int:
        """One-bit multiply-accumulates per cycle; divide by the planes for the weight width."""
