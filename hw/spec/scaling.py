"""Scaling of an engine's results, group by group, on their way to sums over all groups:

    sum[m, n] += scale[g, n] * psum[m, g, n] + (offset[g, n] << offset_shift) * row_sum[m, g]

A result is taken in `steps` steps of `scale_lanes` sums each. Scales, offsets and the sums so far
come from memories, which are not part of the scaling.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from evolute.hw.spec.base import Spec, require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.floating import FP16, RESULT, FloatEngine

RESULT_BITS = 64
"""Width of one result in memory, sign-extended."""

MULTIPLIERS = ("array", "serial")

OFFSET_SHIFT_BITS = 4
"""Width of the left shift that all offsets of a matrix multiplication share."""


@dataclass(frozen=True, kw_only=True)
class Scaling(Spec, abc.ABC):
    """What both kinds of scaling have in common: the one by integers, for a core, and the one by
    floating numbers, for the baselines."""

    engine: Engine
    """The engine whose results are scaled."""
    scale_lanes: int = 4
    """Sums that are scaled at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.scale_lanes > 0
            and self.engine.n % self.scale_lanes == 0
            and self.scale_lanes & (self.scale_lanes - 1) == 0,
            "scale_lanes",
            f"a power of two that divides the engine's n ({self.engine.n})",
            self.scale_lanes,
        )

    @property
    @abc.abstractmethod
    def beat(self) -> Beat:
        """The word of scales and offsets that one step takes, of `scale_lanes` neighbouring
        outputs."""

    @property
    @abc.abstractmethod
    def word_bits(self) -> int:
        """Width of a sum in memory."""

    @property
    def steps(self) -> int:
        """Words of `scale_lanes` sums per result of the engine."""
        return self.engine.m * self.engine.n // self.scale_lanes

    @property
    def step_cycles(self) -> int:
        """Cycles that a step takes."""
        return 1

    @property
    def walk_cycles(self) -> int:
        """Cycles that all steps of a result take."""
        return self.steps * self.step_cycles

    @property
    def latency_cycles(self) -> int:
        """Cycles from a result's transfer until its first sums are written, one for each stage:
        look scales up, hold them, multiply, add, accumulate."""
        return 5

    @property
    def drain_cycles(self) -> int:
        """Cycles from a result's transfer until its last sums are written."""
        return self.latency_cycles + (self.steps - 1) * self.step_cycles

    @property
    def accumulate_cycles(self) -> int:
        """Cycles from the lookup of a sum until it can be looked up again: one to look it up and
        one to write it."""
        return 2

    @property
    def period_cycles(self) -> int:
        """The fewest cycles from one result's transfer to the next."""
        return max(self.walk_cycles, self.accumulate_cycles, self.engine.result_period_cycles)


@dataclass(frozen=True, kw_only=True)
class IntegerScaling(Scaling):
    """Scaling by unsigned integer scales and signed integer offsets."""

    scale_multiplier: str = "array"
    """How products are formed. `array`: whole products, one step a cycle. `serial`: by shift and
    add, one bit of scale and offset a cycle from the highest bit down, as in BitMoD (HPCA 2025,
    section IV-B) and MixPE (arXiv 2411.16158), while the engine sums the next group."""
    scale_bits: int = 8
    """Width of a group's unsigned scale."""
    offset_bits: int = 8
    """Width of a group's signed offset, which multiplies the sum of its activations."""
    sum_bits: int = 40
    """Width of a sum over all groups."""

    def __post_init__(self) -> None:
        name = type(self.engine).__name__
        integers = not isinstance(self.engine, FloatEngine)
        require(integers, "engine", "one with integer sums (scaling multiplies them)", name)
        super().__post_init__()
        require(
            not self.engine.row_shift_bits, "engine", "without row shifts (scaling has none)", name
        )
        names = ", ".join(MULTIPLIERS)
        known = self.scale_multiplier in MULTIPLIERS
        require(known, "scale_multiplier", f"one of {names}", self.scale_multiplier)
        require_range("scale_bits", self.scale_bits, 2, 16)
        require_range("offset_bits", self.offset_bits, 2, 16)
        require_range("sum_bits", self.sum_bits, self.engine.acc_bits, RESULT_BITS)

    @property
    def beat(self) -> Beat:
        lanes = (self.scale_lanes,)
        return Beat(
            (
                Field("scale", self.scale_bits, lanes),
                Field("offset", self.offset_bits, lanes, signed=True),
            )
        )

    @property
    def word_bits(self) -> int:
        return self.sum_bits

    @property
    def is_serial(self) -> bool:
        """Whether products are formed by shift and add."""
        return self.scale_multiplier == "serial"

    @property
    def step_cycles(self) -> int:
        """Cycles that a step takes: one, or with serial products one per bit of the wider of scale
        and offset."""
        return max(self.scale_bits, self.offset_bits) if self.is_serial else 1

    @property
    def latency_cycles(self) -> int:
        """As for all scaling, but serial products take these stages: look scales up, hold them, one
        cycle per bit, accumulate."""
        return 3 + self.step_cycles if self.is_serial else super().latency_cycles


@dataclass(frozen=True, kw_only=True)
class FloatScaling(Scaling):
    """Scaling of floating sums. Its products and sums are rounded as the engine's are.

    Scales and offsets are FP16 codes. The word has no scale where weights are multiplied by theirs
    before they are summed, and no offset where the weights are FP16 numbers, which need none.
    """

    engine: FloatEngine

    @property
    def scales(self) -> bool:
        """Whether sums still have to be multiplied by a scale."""
        return self.engine.scales_sums

    @property
    def beat(self) -> Beat:
        lanes = (self.scale_lanes,)
        scale = [Field("scale", FP16.bits, lanes)] if self.scales else []
        offset = [Field("offset", FP16.bits, lanes)] if self.engine.row_sum_bits else []
        return Beat((*scale, *offset))

    @property
    def word_bits(self) -> int:
        return RESULT.bits
