"""Routed experts of which only some are in memory: an LRU of expert slots, and flash behind it.

Every routed layer has `slots` places in memory for its experts; the others are in flash, and one
that a pass visits and that is not in memory is read from there in the place of the one that was
used longest ago. Under the stated model of routing, that every token chooses its experts evenly at
random, what is in memory says nothing about what comes next, so that an expert that is visited is
in memory with the chance slots / experts, and the mean number of those read is exact. Real routing
prefers some experts; an LRU then reads less, which SmallThinker builds on.

Nothing overlaps: reads add to the time of a pass. Bytes that are read are written to memory, where
they count once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from evolute.hw.spec.base import require
from evolute.sim.workload.linear import Linear, Workload
from evolute.sim.workload.operations import Pass, distinct_experts
from evolute.sim.workload.shape import FeedForward, ModelShape

ROUTING = "uniform at random, the mean"
"""The model of routing that the bytes from flash are of."""


@dataclass(frozen=True)
class ExpertCache:
    """Places for experts in memory, of every routed layer, and how fast flash behind it is."""

    slots: int
    flash_bytes_per_s: float

    def __post_init__(self) -> None:
        require(self.slots >= 1, "expert_slots", "at least 1", self.slots)
        rate = self.flash_bytes_per_s
        rule = "finite and above 0"
        require(math.isfinite(rate) and rate > 0, "flash_bytes_per_s", rule, rate)

    def require_room(self, shape: ModelShape) -> None:
        """Raise `SpecError` unless `shape` has routed experts, and those of a token fit the places
        of each layer, which has more experts than places."""
        halves = (block.feed_forward for block in shape.blocks)
        routed = [half for half in halves if half is not None and half.is_routed]
        require(bool(routed), "expert_slots", "of a model with routed experts", shape.name)
        for half in routed:
            rule = f"in {half.active}..{half.experts}, the experts of a token and of a layer"
            require(half.active <= self.slots <= half.experts, "expert_slots", rule, self.slots)

    def read_experts(self, feed_forward: FeedForward, tokens: int) -> float:
        """Experts that a pass of `tokens` tokens reads from flash in a layer, in the mean."""
        absent = 1 - self.slots / feed_forward.experts
        return distinct_experts(feed_forward, tokens) * absent

    def flash_bytes(self, shape: ModelShape, workload: Workload, work: Pass) -> float:
        """Bytes that a pass, whose layers are `workload`, reads from flash, in the mean."""
        return sum(
            held * self.read_experts(half, work.tokens) for half, held in _experts(shape, workload)
        )

    def absent_bytes(self, shape: ModelShape, workload: Workload) -> int:
        """Bytes of the experts that are not in memory, of all layers."""
        return math.floor(
            sum(held * (half.experts - self.slots) for half, held in _experts(shape, workload))
        )


def _experts(shape: ModelShape, workload: Workload) -> Iterator[tuple[FeedForward, float]]:
    """The routed half of every block that has one, and the bytes of one of its experts."""
    bits: dict[int, int] = {}
    for linear in workload.linears:
        if _is_first_expert(linear) and linear.name.block is not None:
            block = linear.name.block
            bits[block] = bits.get(block, 0) + linear.total_bits
    for block, of_expert in bits.items():
        half = shape.blocks[block].feed_forward
        assert half is not None
        yield half, of_expert / 8


def _is_first_expert(linear: Linear) -> bool:
    """Whether a layer is of an expert, which are numbered as parts, and of the first."""
    return linear.own_rows is not None and linear.name.part == 0
