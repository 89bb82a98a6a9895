"""What surrounds an accelerator: its clock, and the memory behind its port."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from evolute.hw.spec.base import require, require_range
from evolute.support.labels import Figure

REFRESH_INTERVAL_S, REFRESH_S = 7.8e-6, 350e-9
"""Average interval and length of an all-bank refresh of 8-Gbit DDR4 (JESD79-4, tREFI and tRFC1)."""


def decimal(value: float) -> Fraction:
    """The number that a float is written as: 0.1 is a tenth, not the binary fraction next to it."""
    return Fraction(repr(float(value)))


@dataclass(frozen=True)
class Platform:
    """A clock and a memory, for an engine alone and for a core alike.

    Clock and bandwidth are taken as the decimal numbers that they are written as. Each of the other
    fields concerns only one of the two. An engine alone has a buffer of weights before it, and a
    memory that is modelled without latency. A core has buffers of its own, and a memory with a
    latency, which answers every read in one cycle that can be predicted
    (`sim.timing.memory.MemoryTiming`). Raises `SpecError` for an impossible value.
    """

    frequency_hz: Annotated[float, Figure("exact")] = 200e6
    bandwidth_bytes_per_s: Annotated[float, Figure("exact")] = 6.4e9
    weight_buffer_bytes: Annotated[int, Figure("exact", core="absent")] = 64 * 1024
    """For an engine alone: bytes of a buffer that lets several tiles of rows share one read of the
    weights."""
    latency_cycles: Annotated[int, Figure("absent", core="exact")] = 60
    """For a core: cycles from an accepted read address to the first word from memory."""
    refresh: Annotated[bool, Figure("absent", core="exact")] = False
    """For a core: whether the memory pauses for `REFRESH_S` every `REFRESH_INTERVAL_S`."""

    def __post_init__(self) -> None:
        for name in ("frequency_hz", "bandwidth_bytes_per_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, "finite and above 0", value)
        size = self.weight_buffer_bytes
        require(size >= 0, "weight_buffer_bytes", "0 or more", size)
        require_range("latency_cycles", self.latency_cycles, 1, 1 << 20)
