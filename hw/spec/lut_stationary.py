"""LUT-DLA in its paper's arrangement: encoder and matcher apart, tables that stay while rows pass.

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

Two ways are not in the paper, for decoding. With `tables` = `gather` indices leave first, as a
stream of row numbers, and only the table rows that they name come back, in that order: c times less
than the whole table for one token. With `dedup`, a row that several tokens choose alike is asked
for once. One bank of tables is left then, for rows that may be looked up again, or none.

What a table's beats carry, and what a command and the results are, is in `STREAMS`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.lut_dla import METRICS, distance_bits, require_sums
from evolute.hw.spec.unit import Unit

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
"""What moves over the streams."""


@dataclass(frozen=True)
class StationaryStreams:
    """The streams; `centroid` and `activation` are of the encoder's clock."""

    command: Beat
    centroid: Beat
    activation: Beat
    table: Beat
    result: Beat
    request: Beat | None


@dataclass(frozen=True, kw_only=True)
class LutStationary(Unit):
    """Choices of one machine."""

    m: int = 64
    """Most rows (tokens) of a tile, whose sums the scratchpad has room for."""
    n: int = 32
    """Columns (outputs) of a tile, which an index is looked up for at once."""
    v: int = 4
    """Activations of one row in a subspace."""
    centroids: int = 16
    """Centroids of a subspace, a power of two."""
    subspaces: int = 256
    """Most subspaces that a sum goes over."""
    tiles: int = 65536
    """Most column tiles of a command."""
    activation_bits: int = 8
    """Width of activations and of centroids' components, two's complement."""
    weight_bits: int = 8
    """Width of a table entry, two's complement."""
    metric: str = "l1"
    """Distance, as in `hw.spec.lut_dla`."""
    encoder: str = "chain"
    """`chain` or `tree`, see above."""
    lanes: int = 16
    """Distances per cycle of the encoder's clock: all centroids', or, in a tree, fewer."""
    beat_centroids: int = 1
    """Centroids per beat of their stream; a chain takes one after another."""
    queue: int = 32
    """Indices that the queue between the clocks holds, a power of two."""
    keeps_indices: bool = False
    """Whether the indices of all subspaces are kept for a command's other column tiles, so that
    rows and centroids come for the first one alone."""
    tables: str = "stream"
    """`stream`: whole tables come in order. `gather`: rows come as they are asked for."""
    dedup: bool = False
    """Whether a row that is asked for is kept for the other rows of the tile."""
    beat_entries: int = 8
    """Table entries per beat of the table stream."""
    overflow: str = "exact"
    """What a sum does that exceeds its width, as in `hw.spec.lut_dla`."""
    accumulator_bits: int | None = None
    """Width of a sum; None where it is `exact`."""

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
        """Width of a distance, unsigned."""
        return distance_bits(self.metric, self.v, self.activation_bits)

    @property
    def acc_bits(self) -> int:
        """Width of a sum: the least that cannot overflow, where none is given."""
        exact = ((1 << self.weight_bits - 1) * self.subspaces).bit_length() + 1
        return self.accumulator_bits or exact

    @property
    def saturates(self) -> bool:
        """Whether sums stop at the ends of their range; else they count modulo 2^acc_bits."""
        return self.overflow == "saturate"

    @property
    def gathers(self) -> bool:
        """Whether table rows are asked for."""
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
        """From one row's transfer to the next at the soonest, and to that of a centroid."""
        return self.centroids // self.lanes

    @property
    def encoder_latency_cycles(self) -> int:
        """From a row's transfer to the cycle in which the queue takes its index: hold the row,
        distances, and of a chain one comparison per centroid."""
        stages = self.centroids if self.encoder == "chain" else self.encoder_period_cycles
        return stages + 2

    @property
    def crossing_latency_cycles(self) -> int:
        """Cycles of the clock to which something crosses, of which the first begins at or after the
        edge that brought it, until it is seen: two registers."""
        return 2

    # Memories.

    @property
    def table_words(self) -> int:
        """Rows of n entries that the unit keeps: two banks, one, or none."""
        banks = int(self.dedup) if self.gathers else 2
        return banks * self.centroids

    @property
    def table_memory_bits(self) -> int:
        return self.table_words * self.n * self.weight_bits

    @property
    def index_memory_bits(self) -> int:
        kept = self.m * self.subspaces if self.keeps_indices else 0
        return kept * (self.centroids - 1).bit_length()

    @property
    def scratchpad_bits(self) -> int:
        return self.m * self.n * self.acc_bits

    # Streams.

    @cached_property
    def streams(self) -> StationaryStreams:
        """See `STREAMS`."""
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
        """Of all streams that there are."""
        beats = {each.name: getattr(self.streams, each.name) for each in fields(self.streams)}
        return {name: beat for name, beat in beats.items() if beat is not None}

    @property
    def meaning(self) -> str:
        return STREAMS

    @property
    def more_clocks(self) -> tuple[tuple[str, str], ...]:
        """The encoder's."""
        return (("encoder_clk", "encoder_rst"),)
