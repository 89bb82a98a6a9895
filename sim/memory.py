"""What crosses the memory bus, and how long that takes.

A model of traffic, not of a controller: transfers overlap computation perfectly, the bus is always
busy while there is anything to move, and each byte moves as few times as the stated buffer allows.
The exact counterpart belongs to a core with its own memory ports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hw.spec import layout
from hw.spec.base import require
from hw.spec.lut_tensor_core import LutTensorCore
from sim.schedule.lut_tensor_core import plan
from sim.workload import Linear


@dataclass(frozen=True)
class Platform:
    """What surrounds an engine: its clock, its memory bus, and a buffer for weights."""

    frequency_hz: float = 200e6
    bandwidth_bytes_per_s: float = 6.4e9
    weight_buffer_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        for name in ("frequency_hz", "bandwidth_bytes_per_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, "finite and above 0", value)
        require(
            self.weight_buffer_bytes >= 0,
            "weight_buffer_bytes",
            "0 or more",
            self.weight_buffer_bytes,
        )


@dataclass(frozen=True)
class Traffic:
    """Bytes of one linear layer over the bus, as packed for the engine, padding included."""

    weight_bytes: int
    scale_bytes: int
    activation_bytes: int
    result_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.scale_bytes + self.activation_bytes + self.result_bytes


def traffic(spec: LutTensorCore, linear: Linear, rows: int, platform: Platform) -> Traffic:
    """Bytes that one layer moves for `rows` rows of activations.

    Weights, in whole beats, cross once per tile of rows, or once in all when one tile of columns
    fits half of the weight buffer (the other half loads the next). Activations and 16-bit results
    cross once.
    """
    run = plan(spec, linear, rows)
    row_tiles, column_tiles = -(-rows // spec.m), -(-linear.n // spec.n)
    beat_bytes = -(-layout.lut_tensor_core(spec).weight.bits // 8)
    tile_bytes = run.slices * run.planes * beat_bytes
    passes = 1 if 2 * tile_bytes <= platform.weight_buffer_bytes else row_tiles
    return Traffic(
        weight_bytes=passes * column_tiles * tile_bytes,
        scale_bytes=passes * -(-linear.n * linear.groups * linear.group_bits // 8),
        activation_bytes=rows * -(-linear.k * spec.activation_bits // 8),
        result_bytes=rows * linear.n * 2,
    )
