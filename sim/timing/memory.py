"""What crosses the memory bus, and how long that takes.

`traffic` is a model of traffic, not of a controller: transfers overlap computation perfectly, the
bus is always busy while there is anything to move, and each byte moves as few times as the stated
buffer allows. `MemoryTiming` is the exact counterpart for a core with its own memory ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import REFRESH_INTERVAL_S, REFRESH_S, Platform, decimal
from evolute.sim.timing.schedule import Run, fills
from evolute.sim.workload.linear import Linear


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


def traffic(spec: Engine, linear: Linear, rows: int, run: Run, platform: Platform) -> Traffic:
    """Bytes that one layer moves for `rows` rows of activations; `run` is their `plan`.

    Weights, in whole beats, cross once per tile of rows, or once in all when one tile of columns
    fits half of the weight buffer (the other half loads the next); beats of fills once.
    Activations, floating ones with an exponent per row, and 16-bit results cross once.
    """
    bits = spec.activations.code_bits
    shared_bits = spec.activations.exponent_bits if spec.aligns else 0
    row_tiles, column_tiles = -(-rows // spec.m), -(-linear.n // spec.n)
    tile_bytes = run.slices * run.planes * spec.weight_beat_bytes
    fill_bytes = sum(fill.beats for fill in fills(spec)) * spec.weight_beat_bytes
    # A product in the place of an `if`, for arrays of many designs as well (`sim.cost.columns`).
    reads_again = 2 * tile_bytes > platform.weight_buffer_bytes
    passes = 1 + reads_again * (row_tiles - 1)
    return Traffic(
        weight_bytes=passes * column_tiles * tile_bytes + fill_bytes,
        scale_bytes=passes * -(-linear.n * linear.groups * linear.group_bits // 8),
        activation_bytes=rows * -(-(linear.k * bits + shared_bits) // 8),
        result_bytes=rows * linear.n * 2,
    )


SLOWEST, FASTEST = Fraction(1, 512), 1 << 20
"""Bytes per cycle that a memory may have. A slower one could need more cycles for a bus word than
the core's watchdog waits."""

LARGEST_TERM = 1 << 52
"""The largest numerator or denominator of a rate, which a bus word of 512 bits multiplies."""


@dataclass(frozen=True)
class Service:
    """A memory's rate behind a port, in units small enough that both numbers are whole: the memory
    gives `cycle_units` units in each cycle, and a bus word needs `word_units` units."""

    cycle_units: int
    word_units: int

    @property
    def word_cycles(self) -> Fraction:
        """Cycles that a bus word occupies the memory for, at least 1."""
        return Fraction(self.word_units, self.cycle_units)


@dataclass(frozen=True)
class MemoryTiming:
    """A memory whose every answer has one possible cycle, for whole programs (`sim.timing.core`).

    It accepts every address and word at once. One server, used by reads and writes in turn, serves
    bursts in the order accepted: a read when its address is, a write when its last word is, the
    read first if both are in one cycle. Times are kept in bytes of service: a cycle has B of them,
    B being `bytes_per_cycle` but at most the bus width. A read accepted in cycle a starts at
    max((a + latency_cycles) * B, free), a write accepted in x at max((x + 1) * B, free). A beat at
    time u belongs to cycle ceil(u / B), and the next starts `bus_bytes` later; a beat whose cycle
    is in a refresh waits for the first cycle after it. `free` is the end of the last beat. A read's
    beats cross the bus in their cycles; a write is answered `latency_cycles` after its last beat's.
    Cycle 0 is the program's first. B is any fraction, and no time is ever rounded: whoever keeps
    these times counts in `Service` units, in integers.
    """

    latency_cycles: int = Platform.latency_cycles
    """From an accepted read address to its first word, and from a written word to the answer."""
    bytes_per_cycle: int | Fraction = 32
    """What the memory can move, in both directions together."""
    refresh_interval_cycles: int = 0
    """Cycles from one refresh to the next, of which the first `refresh_cycles` serve nothing; 0 for
    no refresh."""
    refresh_cycles: int = 0
    host_cycles: int = 1
    """From the first cycle of a `sync` to the one in which the host resumes the program."""

    def __post_init__(self) -> None:
        require_range("latency_cycles", self.latency_cycles, 1, 1 << 20)
        rate = self.bytes_per_cycle
        is_exact = isinstance(rate, int | Fraction)
        require(is_exact, "bytes_per_cycle", "a whole number or a fraction", rate)
        require(
            SLOWEST <= rate <= FASTEST, "bytes_per_cycle", f"in {SLOWEST}..{FASTEST}", float(rate)
        )
        terms = max(rate.numerator, rate.denominator)
        rule = "a fraction of numbers up to 2^52, so that times stay exact in 64 bits"
        require(terms <= LARGEST_TERM, "bytes_per_cycle", rule, float(rate))
        require_range("refresh_interval_cycles", self.refresh_interval_cycles, 0, 1 << 32)
        most = max(0, self.refresh_interval_cycles - 1)
        require_range("refresh_cycles", self.refresh_cycles, 0, most)
        require_range("host_cycles", self.host_cycles, 1, 1 << 48)

    def service(self, bus_bytes: int) -> Service:
        """The rate of this memory behind a port of `bus_bytes` bytes, in whole units."""
        rate = min(Fraction(self.bytes_per_cycle), Fraction(bus_bytes))
        return Service(rate.numerator, bus_bytes * rate.denominator)


def memory_timing(platform: Platform) -> MemoryTiming:
    """The memory of a core's platform in cycles, its bytes per cycle an exact fraction.

    Raises `SpecError` for a rate that `MemoryTiming` cannot hold.
    """
    rate = decimal(platform.bandwidth_bytes_per_s) / decimal(platform.frequency_hz)
    interval, length = (
        round(seconds * platform.frequency_hz) if platform.refresh else 0
        for seconds in (REFRESH_INTERVAL_S, REFRESH_S)
    )
    return MemoryTiming(
        latency_cycles=platform.latency_cycles,
        bytes_per_cycle=rate,
        refresh_interval_cycles=interval,
        refresh_cycles=length,
    )
