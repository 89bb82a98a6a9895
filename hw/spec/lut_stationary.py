"""LUT-DLA as its paper arranges it: an encoder, a matcher, and tables that stay while rows pass.

`hw.spec.lut_dla` has the arithmetic, and an engine that matches table entries while they stream.
This is the machine as published (Li et al., HPCA 2025, arXiv 2501.10658), a unit of its own, with
its own streams and two clocks, so that no core can hold it:

- An encoder finds the nearest centroid of every row's subspace: a systolic `chain` of one distance
  unit per centroid, which holds it and passes rows on with the least distance so far, or a `tree`
  of comparators over all distances, or over `lanes` of them at a time (folded). Of equal distances
  the first wins.
  Rows are encoded again for every column tile, unless their indices are kept.
- A queue takes the indices from the encoder's clock to the matcher's. Neither has to be a multiple
  of the other.
- The matcher keeps the sums of m rows by n columns in a scratchpad, and adds a table row to one row
  of them per cycle, in the LUT-stationary order: column tile, subspace, row. Of two banks of tables
  one is filled from the table stream while indices look up in the other.

Two options for decoding are not in the paper. With `tables` = `gather`, indices leave the unit as a
stream of row numbers, and only the table rows that they name come back, in that order: for one
token that is 1 / c of the whole table. With `dedup`, a row that several tokens choose is asked for
once and kept in one bank of tables; without it there is no bank.

`STREAMS` tells what commands, table beats and results carry.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.lut_dla import METRICS, distance_bits, require_sums
from evolute.hw.spec.unit import UnitSpec

ENCODERS = ("chain", "tree")
TABLES = ("stream", "gather")


STREAMS = """\
Column tiles are outermost, then subspaces, then rows.

- `command`, one per matrix multiplication: rows - 1, subspaces - 1, column tiles - 1.
- `centroid`, of the encoder's clock: x[beat_centroids][v]; all of a subspace, in the order of
  their indices, before its rows, again for every column tile unless indices are kept.
- `activation`, of the encoder's clock: x[v], one row's activations of the subspace, and `last`,
  whether the row is the last one. Again as centroids are.
- `table`: entry[beat_entries]. Of the stream, all rows of a subspace's table in the order of
  their indices, each n / beat_entries beats; of a gather, only the rows asked for, in order.
- `request`, of a gather: `row`, the number of the table row that is wanted, index in the lowest
  bits and above it column tile * subspaces + subspace. With `dedup` none is asked for twice.
- `result`, one per row and column tile: psum[n]."""
"""A text that tells what moves over the streams."""


@dataclass(frozen=True)
class StationaryStreams:
    """The streams of the unit, as `STREAMS` says; `request` is None unless table rows are
    gathered. `centroid` and `activation` belong to the encoder's clock."""

    command: Beat
    centroid: Beat
    activation: Beat
    table: Beat
    result: Beat
    request: Beat | None


@dataclass(frozen=True, kw_only=True)
class LutStationary(UnitSpec):
    """Choices of one unit that keeps tables while rows pass."""

    m: int = 64
    """Most rows (tokens) of a tile: those for whose sums the scratchpad has room."""
    n: int = 32
    """Columns (outputs) of a tile, for all of which an index is looked up at once."""
    v: int = 4
    """Activations of one row in a subspace."""
    centroids: int = 16
    """Centroids of a subspace, a power of two."""
    subspaces: int = 256
    """Most subspaces over which a sum runs."""
    tiles: int = 65536
    """Most column tiles of a command."""
    activation_bits: int = 8
    """Width of activations and of centroids' components, in two's complement."""
    weight_bits: int = 8
    """Width of a table entry, in two's complement."""
    metric: str = "l1"
    """Distance: `l1`, `l2` or `chebyshev`, as in `hw.spec.lut_dla`."""
    encoder: str = "chain"
    """How the nearest centroid is found: by a systolic `chain` of distance units or by a `tree` of
    comparators, as this module's text says."""
    lanes: int = 16
    """Distances per cycle of the encoder's clock: one per centroid, or in a tree fewer."""
    beat_centroids: int = 1
    """Centroids per beat of their stream; a chain takes one at a time."""
    queue: int = 32
    """Indices that the queue between the clocks holds, a power of two."""
    keeps_indices: bool = False
    """Whether the indices of all subspaces are kept for a command's later column tiles, so that
    activations and centroids come only for the first one."""
    tables: str = "stream"
    """How table rows arrive. `stream`: whole tables in order. `gather`: the rows that were asked
    for."""
    dedup: bool = False
    """Whether a gathered table row is kept for other rows of the tile that choose it."""
    beat_entries: int = 8
    """Table entries per beat of the table stream."""
    overflow: str = "exact"
    """What becomes of a sum that exceeds its width, as in `hw.spec.lut_dla`."""
    accumulator_bits: int | None = None
    """Width of a sum; None if `overflow` is `exact`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("m", self.m, 2, 1024)
        require_range("n", self.n, 1, 1024)
        require_range("v", self.v, 1, 16)
        require_range("subspaces", self.subspaces, 1, 4096)
        require_range("tiles", self.tiles, 2, 65536)
        require_range("activation_bits", self.activation_bits, 4, 16)
        require_range("weight_bits", self.weight_bits, 2, 16)
        for name in ("centroids", "lanes", "beat_centroids", "queue"):
            value = getattr(self, name)
            require(value > 0 and value & (value - 1) == 0, name, "a power of two", value)
        require_range("centroids", self.centroids, 2, 64)
        require_range("queue", self.queue, 2, 1024)
        for name, values in (("metric", METRICS), ("encoder", ENCODERS), ("tables", TABLES)):
            value = getattr(self, name)
            require(value in values, name, f"one of {', '.join(values)}", value)
        least = self.centroids if self.encoder == "chain" else 1
        require_range("lanes", self.lanes, least, self.centroids)
        most = 1 if self.encoder == "chain" else self.centroids
        require_range("beat_centroids", self.beat_centroids, 1, most)
        gathers = self.tables == "gather"
        require(gathers or not self.dedup, "dedup", "false where tables stream", self.dedup)
        parts = self.beat_entries > 0 and self.n % self.beat_entries == 0
        require(parts, "beat_entries", f"a divisor of n = {self.n}", self.beat_entries)
        require_sums(self.overflow, self.accumulator_bits, self.weight_bits)

    @property
    def distance_bits(self) -> int:
        """Width of an unsigned distance."""
        return distance_bits(self.metric, self.v, self.activation_bits)

    @property
    def acc_bits(self) -> int:
        """Width of a sum: `accumulator_bits`, or the least that cannot overflow."""
        exact = ((1 << self.weight_bits - 1) * self.subspaces).bit_length() + 1
        return self.accumulator_bits or exact

    @property
    def saturates(self) -> bool:
        """Whether a sum that would leave its range stays at the end of it. Otherwise sums are
        modulo 2^acc_bits."""
        return self.overflow == "saturate"

    @property
    def gathers(self) -> bool:
        """Whether only the table rows that were asked for arrive."""
        return self.tables == "gather"

    @property
    def centroid_beats(self) -> int:
        """Beats of the centroid stream in a subspace."""
        return self.centroids // self.beat_centroids

    @property
    def row_beats(self) -> int:
        """Beats of the table stream in a table row of n entries."""
        return self.n // self.beat_entries

    # Times, in cycles of the encoder's clock unless said otherwise.

    @property
    def encoder_period_cycles(self) -> int:
        """The fewest cycles from one row's transfer to that of the next row or centroid."""
        return self.centroids // self.lanes

    @property
    def encoder_latency_cycles(self) -> int:
        """Cycles from a row's transfer until the queue takes its index: one to hold the row, one
        for distances, and one per comparison, of which a chain has one per centroid."""
        stages = self.centroids if self.encoder == "chain" else self.encoder_period_cycles
        return stages + 2

    @property
    def crossing_latency_cycles(self) -> int:
        """Cycles that a signal takes to cross to another clock: two registers, counted in that
        clock from the first edge at or after the one that changed the signal."""
        return 2

    # Memories.

    @property
    def table_words(self) -> int:
        """Table rows of n entries that the unit keeps, in two banks, one, or none."""
        banks = int(self.dedup) if self.gathers else 2
        return banks * self.centroids

    @property
    def table_memory_bits(self) -> int:
        """Bits of the memories of table rows."""
        return self.table_words * self.n * self.weight_bits

    @property
    def index_memory_bits(self) -> int:
        """Bits of the memory of kept indices, 0 if there is none."""
        kept = self.m * self.subspaces if self.keeps_indices else 0
        return kept * (self.centroids - 1).bit_length()

    @property
    def scratchpad_bits(self) -> int:
        """Bits of the memory of sums."""
        return self.m * self.n * self.acc_bits

    # Streams.

    @cached_property
    def streams(self) -> StationaryStreams:
        """The layout of all streams, as `STREAMS` says."""
        x = Field("x", self.activation_bits, (self.v,), signed=True)
        space_bits = (self.subspaces - 1).bit_length()
        tile_bits = (self.tiles - 1).bit_length()
        index_bits = (self.centroids - 1).bit_length()
        row = Field("row", index_bits + space_bits + tile_bits)
        return StationaryStreams(
            command=Beat(
                (
                    Field("rows_minus_1", (self.m - 1).bit_length()),
                    *([Field("subspaces_minus_1", space_bits)] if space_bits else []),
                    Field("tiles_minus_1", tile_bits),
                )
            ),
            centroid=Beat((replace(x, shape=(self.beat_centroids, self.v)),)),
            activation=Beat((x, Field("last", 1))),
            table=Beat((Field("entry", self.weight_bits, (self.beat_entries,), signed=True),)),
            result=Beat((Field("psum", self.acc_bits, (self.n,), signed=True),)),
            request=Beat((row,)) if self.gathers else None,
        )

    @property
    def beats(self) -> dict[str, Beat]:
        """The layout of every stream that this unit has, by the stream's name."""
        beats = {stream.name: getattr(self.streams, stream.name) for stream in fields(self.streams)}
        return {name: beat for name, beat in beats.items() if beat is not None}

    @property
    def meaning(self) -> str:
        return STREAMS

    @property
    def more_clocks(self) -> tuple[tuple[str, str], ...]:
        """The encoder's clock and its reset."""
        return (("encoder_clk", "encoder_rst"),)
