"""The core: an engine with its buffers, memory ports and control, complete enough to instantiate.

Four units run decoupled, as in TVM's VTA (Moreau et al., IEEE Micro 2019): fetch, load, compute and
store, ordered only by tokens that instructions wait for and signal (`hw.isa.instructions`).
Weights, activations and scales are loaded over AXI4 into buffers while the engine works on others.
The engine gives one sum per output and scale group. The core multiplies these sums by integer
scales and adds them up over the groups, so that its results are exact:

    result[m, n] = sum over groups g of scale[g, n] * psum[m, g, n]
                                      + (offset[g, n] << offset_shift) * row_sum[m, g]

with unsigned 8-bit scales, as in BitMoD's second level (HPCA 2025, section III-C); one float per
output remains for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from evolute.hw.spec import layout
from evolute.hw.spec.base import Spec, added, require, require_range
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.layout import Beat
from evolute.hw.spec.scaling import RESULT_BITS, IntegerScaling

INSTRUCTION_BITS = 128
"""Width of an instruction, see `hw.isa.instructions`."""

MEMORY_PAGE_BYTES = 4096
"""No AXI4 burst crosses a multiple of this (AXI4 specification, A3.4.1)."""

BUFFER_ADDRESS_BITS = {"weight": 20, "activation": 20, "scale": 16}
"""Width of an address of a bus word in each buffer, by the buffer's name, in the order of the
buffers' numbers. No buffer is larger than its addresses reach. Instructions take the widths of
their fields from here, as from the two below (`hw.isa.instructions`)."""

ACCUMULATOR_ADDRESS_BITS = 12
"""Width of an address of a word of `scale_lanes` sums."""

MEMORY_ADDRESS_BITS = 48
"""Width of a byte address in memory in an instruction, the widest that a core's bus can have."""


@dataclass(frozen=True)
class Buffer:
    """Geometry of one on-chip buffer, which is filled in bus words and read in beats.

    A beat is padded to a power of two of bits, so that it takes a bus word, a power-of-two share of
    one or a power of two of them, and addresses need no division.
    """

    name: str
    """The buffer's name: weight, activation or scale."""
    bus_words: int
    """Bus words that the buffer holds."""
    bus_bits: int
    """Width of a bus word."""
    beat_bits: int
    """Width of a beat before it is padded."""

    @cached_property
    def stride_bits(self) -> int:
        """Bits from the start of one beat to the start of the next."""
        return 1 << max(0, self.beat_bits - 1).bit_length()

    @cached_property
    def words_per_beat(self) -> int:
        """Bus words that one beat spans, 1 if several beats share one. Each word of a beat lies in
        a memory bank of its own."""
        return max(1, self.stride_bits // self.bus_bits)

    @cached_property
    def beats_per_word(self) -> int:
        """Beats that share one bus word, 1 if a beat spans several words."""
        return max(1, self.bus_bits // self.stride_bits)

    @property
    def beats(self) -> int:
        """Beats that the buffer holds."""
        return self.bus_words // self.words_per_beat * self.beats_per_word

    def words(self, beats: int) -> int:
        """Bus words that `beats` beats occupy if the first one starts at the start of a word."""
        return -(-beats // self.beats_per_word) * self.words_per_beat


@dataclass(frozen=True, kw_only=True)
class CoreSpec(Spec):
    """Choices of one core."""

    engine: Engine
    """The engine that the core feeds."""
    bus_bits: int = 256
    """Width of the AXI4 data bus."""
    address_bits: int = 40
    """Width of an AXI4 address."""
    burst_beats: int = 64
    """Bus words of the longest burst. Every burst ends at or before a multiple of it, so that none
    crosses a 4 KiB page."""
    outstanding_reads: int = 8
    """Read bursts in flight at once."""
    weight_buffer_bytes: int = 65536
    activation_buffer_bytes: int = 8192
    scale_buffer_bytes: int = 8192
    accumulators: int = 64
    """Sums that the core holds, in two banks: one is stored while the other accumulates."""
    scale_bits: int = 8
    """Width of a group's unsigned scale."""
    offset_bits: int = 8
    """Width of a group's signed offset, which multiplies the sum of its activations."""
    scale_lanes: int = 4
    """Sums that are scaled at once."""
    scale_multiplier: str = "array"
    """How sums are multiplied by their scales: `array`, in one cycle, or `serial`, one bit of the
    scale a cycle (`hw.spec.scaling`)."""
    sum_bits: int = 40
    """Width of a sum over all groups."""
    clock_mhz: int = 200
    """Clock in MHz that constraints ask for and that turns cycles into seconds."""
    vector_lanes: int = added(0)
    """Lanes of a unit for norms, rotary positions, gates and residuals; 0 leaves these to the host.
    Only cost models know the unit so far: a core with lanes cannot be exported or simulated."""
    attention_rows: int = added(0)
    """Rows of a unit for attention over keys and values of 8 bits or fewer, each row a head of a
    token; 0 leaves attention to the host. Known to cost models alone, as `vector_lanes`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self.engine).__name__
        _ = self.scaling  # raises SpecError where a choice breaks a rule of scaling
        require(self.bus_bits in (64, 128, 256, 512), "bus_bits", "64, 128, 256 or 512",
                self.bus_bits)  # fmt: skip
        require_range("address_bits", self.address_bits, 16, MEMORY_ADDRESS_BITS)
        most = min(256, MEMORY_PAGE_BYTES // self.bus_bytes)
        require(
            self.burst_beats in [1 << i for i in range(2, most.bit_length())],
            "burst_beats",
            f"a power of two in 4..{most} (256 beats and 4 KiB at most)",
            self.burst_beats,
        )
        require_range("outstanding_reads", self.outstanding_reads, 1, 64)
        require_range("clock_mhz", self.clock_mhz, 1, 4000)
        require(self.vector_lanes in (0, 1, 2, 4, 8), "vector_lanes", "0, 1, 2, 4 or 8",
                self.vector_lanes)  # fmt: skip
        require_range("attention_rows", self.attention_rows, 0, 64)
        tile = self.engine.m * self.engine.n
        require(
            tile * RESULT_BITS % self.bus_bits == 0,
            "bus_bits",
            f"a divisor of the engine's results in memory ({tile * RESULT_BITS} bits)",
            self.bus_bits,
        )
        words = self.accumulators // self.scale_lanes
        most = self.scale_lanes << ACCUMULATOR_ADDRESS_BITS
        require(
            words * self.scale_lanes == self.accumulators
            and words & (words - 1) == 0
            and 2 * tile <= self.accumulators <= most,
            "accumulators",
            f"scale_lanes times a power of two, in {2 * tile}..{most} (two result tiles)",
            self.accumulators,
        )
        for buffer in self.buffers:
            name = f"{buffer.name}_buffer_bytes"
            least = 2 * buffer.words_per_beat * self.bus_bytes
            most = self.bus_bytes << BUFFER_ADDRESS_BITS[buffer.name]
            value = getattr(self, name)
            require(
                value % least == 0 and least <= value <= most,
                name,
                f"a multiple of {least} (two beats) in {least}..{most}",
                value,
            )

    @property
    def bus_bytes(self) -> int:
        """Bytes of a bus word."""
        return self.bus_bits // 8

    @cached_property
    def scaling(self) -> IntegerScaling:
        """The spec of the part that scales the engine's results."""
        return IntegerScaling(
            engine=self.engine,
            scale_lanes=self.scale_lanes,
            scale_multiplier=self.scale_multiplier,
            scale_bits=self.scale_bits,
            offset_bits=self.offset_bits,
            sum_bits=self.sum_bits,
        )

    def require_rtl(self) -> None:
        """Raise `SpecError` for a core of which there is no RTL."""
        for name in ("vector_lanes", "attention_rows"):
            rule = "0 for a core in Verilog; cost models alone know others so far"
            require(getattr(self, name) == 0, name, rule, getattr(self, name))

    # Buffers.

    @property
    def scale_beat(self) -> Beat:
        """Scales and offsets of `scale_lanes` neighbouring outputs."""
        return self.scaling.beat

    def _buffer(self, name: str, size_bytes: int, beat: Beat) -> Buffer:
        return Buffer(name, size_bytes // self.bus_bytes, self.bus_bits, beat.bits)

    @cached_property
    def weight_buffer(self) -> Buffer:
        """The buffer of the engine's weight beats."""
        streams = layout.streams(self.engine)
        return self._buffer("weight", self.weight_buffer_bytes, streams.weight)

    @cached_property
    def activation_buffer(self) -> Buffer:
        """The buffer of the engine's activation beats."""
        streams = layout.streams(self.engine)
        return self._buffer("activation", self.activation_buffer_bytes, streams.activation)

    @cached_property
    def scale_buffer(self) -> Buffer:
        """The buffer of scales and offsets."""
        return self._buffer("scale", self.scale_buffer_bytes, self.scale_beat)

    @cached_property
    def buffers(self) -> tuple[Buffer, Buffer, Buffer]:
        """The buffers that a load can fill; the index is the buffer's number in an instruction."""
        return self.weight_buffer, self.activation_buffer, self.scale_buffer

    @property
    def largest_buffer_words(self) -> int:
        """Bus words of the largest buffer. A load's address within a buffer has no more bits than
        this needs, because the dispatcher refuses a load that would pass a buffer's end."""
        return max(buffer.bus_words for buffer in self.buffers)

    # Sums. They are kept in words of `scale_lanes`.

    @property
    def scale_steps(self) -> int:
        """Steps of scaling per result of the engine, which are also the words of sums in it."""
        return self.scaling.steps

    @property
    def accumulator_words(self) -> int:
        """Words of `scale_lanes` sums in both banks together."""
        return self.accumulators // self.scale_lanes

    @property
    def bank_words(self) -> int:
        """Words of `scale_lanes` sums in each of the two banks."""
        return self.accumulator_words // 2

    @property
    def tile_store_words(self) -> int:
        """Bus words that one result tile, [m][n], takes in memory."""
        return self.engine.m * self.engine.n * RESULT_BITS // self.bus_bits

    # Instruction supply.

    @property
    def fetch_beats(self) -> int:
        """Bus words per burst of instructions: those of eight instructions, but four at least and
        no more than the longest burst."""
        return min(self.burst_beats, max(4, 8 * INSTRUCTION_BITS // self.bus_bits))

    @property
    def fetch_words(self) -> int:
        """Most bus words of instructions that are held or on their way."""
        return 2 * self.fetch_beats

    @property
    def queue_instructions(self) -> int:
        """Most instructions that wait in the queue of one unit."""
        return 4

    @property
    def token_limit(self) -> int:
        """Most tokens that may wait between a pair of units."""
        return 255

    # Time.

    @property
    def scale_latency_cycles(self) -> int:
        """Cycles from a result's transfer until its first sums are written."""
        return self.scaling.latency_cycles

    @property
    def scale_drain_cycles(self) -> int:
        """Cycles from a result's transfer until its last sums are written."""
        return self.scaling.drain_cycles

    @property
    def result_period_cycles(self) -> int:
        """The fewest cycles from one result's transfer to the next."""
        return self.scaling.period_cycles

    @property
    def stream_latency_cycles(self) -> int:
        """Cycles from a matrix multiplication's issue until its first operands are offered."""
        return 2

    @property
    def store_word_cycles(self) -> int:
        """Cycles from one stored bus word to the next."""
        return max(1, self.bus_bits // (self.scale_lanes * RESULT_BITS))

    @property
    def store_latency_cycles(self) -> int:
        """Cycles from a store's issue until its first bus word, less `store_word_cycles`."""
        return 2
