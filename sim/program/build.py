"""Linear layers to a core's program: which unit does what, and waits for whom.

A program runs one or several stages (`sim.program.placement`); between two of them the core waits
in a `sync` while the host reads results and writes the next input. Blocks of row tiles stay in the
activation buffer while all column tiles pass by; for each of these, as many row tiles as a bank of
sums holds make a run; each part of K of a run is one `matmul`. Buffers are rings, and the banks
take turns. Whatever an instruction waits for comes earlier in the program, so that none can wait
for ever.

Programs have many thousand instructions, and the same few steps again and again. So the steps of a
column tile are written once (`sim.program.steps`), and everything after that is done in columns: a
row for each load, each compute (a matmul or a fill) and each store of the whole program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import BUFFERS, OPERATIONS, Unit
from evolute.hw.isa.table import InstructionTable
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, CoreSpec
from evolute.sim.program.placement import Batch, Layer, PlaceError, Stage, aligned, batch
from evolute.sim.program.rooms import packed, ring
from evolute.sim.program.steps import (
    ACTIVATION,
    COMPUTE,
    DATA,
    LOAD,
    UNTIL_NEXT,
    WEIGHT,
    Pattern,
    PatternWriter,
    TilePart,
)
from evolute.sim.program.tiling import (
    blocks,
    divisible,
    equal_parts,
    matmul_overhead,
    resident,
    run_tiles,
)
from evolute.sim.timing.core import BeatSteps
from evolute.sim.workload.linear import LayerName

_AHEAD = 0.5
"""How much of the free room in the buffers is filled for the next stage before the host is called.

More would delay the next input, which is loaded after it; less would leave the bus idle while the
last results are stored."""

_LOAD, _COMPUTE, _STORE = (np.uint8(1 << unit) for unit in Unit)
"""The units' bits in a mask."""

_NO_LOAD = np.zeros(1, np.int64)
"""In the place of a load, for a sync: any."""


LayerSteps = Mapping[LayerName, NDArray[np.integer]]
"""Measured on the weights of an engine whose steps depend on them: the steps of every weight beat,
by the layers' names, int [column tiles, beats]."""


_Column: TypeAlias = NDArray[np.signedinteger]
"""A number for each of many steps. Most are narrow: a program has millions of them."""


@dataclass(frozen=True)
class StageWork:
    """What a stage asks of a core's parts, whatever they wait for."""

    bus_words: int
    """Words that its loads and stores move."""
    computes: int
    """How many matmuls and fills it has."""


@dataclass(frozen=True)
class TileParts:
    """What every matmul takes of its layer's weights."""

    layers: Sequence[LayerName]
    """Those of every block, one block after another."""
    tile_layer: _Column
    """Of every column tile, its layer's place in `layers`."""
    tile_number: _Column
    """Of every column tile, its number in the layer."""
    tile: _Column
    """Of every matmul, its column tile."""
    first_beat: _Column
    """Of every matmul, the first weight beat in the column tile."""
    beats: _Column
    """Of every matmul."""

    def __iter__(self) -> Iterator[TilePart]:
        columns = (self.tile.tolist(), self.first_beat.tolist(), self.beats.tolist())
        for tile, first, beats in zip(*columns, strict=True):
            layer, number = int(self.tile_layer[tile]), int(self.tile_number[tile])
            yield TilePart(self.layers[layer], number, slice(first, first + beats))


@dataclass(frozen=True)
class Program:
    """Instructions, which lie at `address`, and the stages they run."""

    core: CoreSpec
    address: int
    instructions: InstructionTable
    batches: tuple[Batch, ...]
    work: tuple[StageWork, ...]
    """Of each stage."""
    end: int
    """First byte after inputs, results and instructions."""
    parts: TileParts

    def beat_steps(self, layers: LayerSteps | None) -> BeatSteps | None:
        """The steps of every matmul's beats, from those of the layers by name, int [column tiles,
        beats]; None for None, where steps do not depend on weights."""
        if layers is None:
            return None
        matmuls = self.instructions.at("matmul").tolist()
        return {
            index: layers[part.layer][part.tile, part.beats]
            for index, part in zip(matmuls, self.parts, strict=True)
        }

    @property
    def code(self) -> bytes:
        """The instructions as they lie in memory."""
        return self.instructions.code


def compile_stages(core: CoreSpec, stages: Sequence[Stage], rows: int, address: int) -> Program:
    """The program that runs `stages` on `rows` rows of activations each.

    Inputs, results and instructions take memory from `address` on. Raises `PlaceError` where a
    stage or the whole does not fit.
    """
    assert stages and rows >= 1
    batches, place = [], address
    cuts: dict[tuple[object, ...], tuple[int, ...]] = {}
    for stage in stages:
        shape = stage.parts, *((_shape(layer), layer.words) for layer in stage.layers)
        if shape not in cuts:
            cuts[shape] = blocks(core, stage, rows)
        batches.append(batch(core, stage, rows, cuts[shape], place))
        place = batches[-1].end
    first = aligned(place, MEMORY_PAGE_BYTES)
    builder = _Builder(core, batches)
    instructions = builder.instructions()
    end = first + len(instructions) * isa.INSTRUCTION_BYTES
    if (over := end - (1 << core.address_bits)) > 0:
        raise PlaceError(f"memory: {over} bytes too small for the program, address_bits is short")
    return Program(core, first, instructions, tuple(batches), builder.work(), end, builder.parts())


def _shape(layer: Layer) -> tuple[object, ...]:
    """What a layer's steps depend on beside where it lies."""
    return (
        layer.linear.format,
        layer.offset_shift,
        layer.group_slices,
        layer.planes,
        layer.mode,
        layer.column_tiles,
        layer.weight_words,
        layer.scale_words,
        layer.fill_words,
    )


def _alike(layer: Layer, *, alone: bool) -> Iterator[tuple[int, int]]:
    """The first of column tiles of `layer` that follow one another and have all parts, and how many
    they are: all of them, the first one `alone` if asked for; of a layer with a skip list each."""
    if layer.stretches is not None:
        yield from ((tile, 1) for tile in range(layer.column_tiles))
        return
    if alone:
        yield 0, 1
    if layer.column_tiles > alone:
        yield int(alone), layer.column_tiles - alone


class _Patterns:
    """The patterns of a program's tiles, each written once."""

    def __init__(self, core: CoreSpec):
        self.core = core
        self.patterns: list[Pattern] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        self._kinds: dict[tuple[object, ...], int] = {}

    def kind(self, stage: Stage, layer: Layer) -> int:
        """A number that is equal for layers whose steps are."""
        key = stage.parts, stage.taken, _shape(layer)
        return self._kinds.setdefault(key, len(self._kinds))

    def number(
        self,
        kind: int,
        stage: Stage,
        layer: Layer,
        tile: int,
        row_tiles: int,
        fills: bool,
        begins: bool,
    ) -> int:
        """The number of the pattern of one of the layer's tiles, of that kind, in a block of so
        many row tiles: of one that fills the engine's memories first, or that begins the block."""
        stretches = None if layer.stretches is None else layer.stretches[tile]
        key = kind, stretches, row_tiles, fills, begins
        if key not in self._numbers:
            self._numbers[key] = len(self.patterns)
            parts = layer.tile_stretches(tile)
            self.patterns.append(self._write(stage, layer, parts, row_tiles, fills, begins))
        return self._numbers[key]

    def _write(
        self,
        stage: Stage,
        layer: Layer,
        stretches: tuple[range, ...],
        row_tiles: int,
        fills: bool,
        begins: bool,
    ) -> Pattern:
        core, stays = self.core, resident(self.core, stage)
        words = [core.buffers[ACTIVATION].words(row_tiles * part) for part in stage.parts]
        runs = equal_parts(row_tiles, run_tiles(core))
        if begins and stays and divisible(core, stage):
            runs = self._first_runs(row_tiles, sum(words))
        writer = PatternWriter(core, layer, stage.parts)
        if fills:
            writer.fill()
        writer.tile(words, runs, stretches, stage.taken, begins or not stays, stays)
        return writer.pattern()

    def _first_runs(self, row_tiles: int, words: int) -> tuple[int, ...]:
        """Runs of a block's first column tile, so short that the first can start early.

        In c runs, the first waits for 1/c of the block's words, and the others cost their overhead.
        """
        count = math.isqrt(words // matmul_overhead(self.core))
        most = -(-row_tiles // max(1, count))
        return equal_parts(row_tiles, min(most, run_tiles(self.core)))


def _narrow(column: _Column) -> _Column:
    """The same in 32 bits, where they are enough."""
    bounds = np.iinfo(np.int32)
    fits = not len(column) or (bounds.min <= column.min() and column.max() <= bounds.max)
    return column.astype(np.int32) if fits else column


class _Rows:
    """The rows of one kind of all tiles of a program, in the order of the tiles."""

    def __init__(self, of_patterns: Sequence[NDArray[np.int64]], patterns: NDArray[np.int64]):
        """`of_patterns` are the rows of every pattern, int64 [columns, rows]; `patterns` is the
        pattern of every tile."""
        lengths = np.array([rows.shape[1] for rows in of_patterns])
        counts = lengths[patterns]
        self.starts = np.cumsum(counts) - counts
        """Of every tile, its first row."""
        self.tile = np.repeat(np.arange(len(patterns)), counts)
        """Of every row."""
        self._table = [_narrow(column) for column in np.concatenate(of_patterns, axis=1)]
        first = np.cumsum(lengths) - lengths
        self._places = np.arange(len(self.tile)) + (first[patterns] - self.starts)[self.tile]

    def __len__(self) -> int:
        return len(self.tile)

    def column(self, place: int) -> _Column:
        """A column, of every row."""
        return self._table[place].take(self._places)

    def columns(self, names: Sequence[str], rows: NDArray[np.intp] | slice) -> dict[str, _Column]:
        """All columns of some rows, by their names."""
        places = self._places[rows]
        return {name: self._table[i].take(places) for i, name in enumerate(names)}


@dataclass(frozen=True, eq=False)
class _Loads:
    """The loads of a program, stage by stage in the order needed; a row for each."""

    columns: Mapping[str, _Column]
    """The instructions' fields."""
    needed: _Column
    """The first compute that needs these words."""
    after: _Column
    """The last compute that must come before."""
    firsts: NDArray[np.int64]
    """Of each stage, its first load."""


@dataclass(frozen=True, eq=False)
class _Computes:
    """The matmuls and fills of a program."""

    matmul: Mapping[str, _Column]
    """The instructions' fields, and the other columns of `COMPUTE`."""
    matmul_place: NDArray[np.intp]
    """Their numbers among all computes."""
    fill: Mapping[str, _Column]
    fill_place: NDArray[np.intp]
    firsts: NDArray[np.int64]
    """Of each stage, its first compute."""
    count: int


@dataclass(frozen=True, eq=False)
class _Stores:
    """The stores of a program, each of one filling of a bank of sums."""

    columns: Mapping[str, _Column]
    """The instructions' fields."""
    first: _Column
    """The first matmul of the filling."""
    after: _Column
    """The last one."""
    firsts: NDArray[np.int64]
    """Of each stage, its first store."""


class _Builder:
    """The steps of all stages, and at last the program."""

    def __init__(self, core: CoreSpec, batches: Sequence[Batch]):
        self.core, self.batches = core, batches
        self._tiles()
        self.loads = self._place_loads()
        self._place_sums()

    def _tiles(self) -> None:
        """All column tiles of all blocks and stages: their patterns, and where in memory they are.

        Tiles that follow one another in a layer, and have one pattern, are a segment.
        """
        core, patterns = self.core, _Patterns(self.core)
        segments: list[tuple[int, ...]] = []
        self.layers: list[Layer] = []
        """Of every block, one after another."""
        stage_tiles, filled = [0], None
        for run in self.batches:
            stage, memory, tiles = run.stage, run.input_address, stage_tiles[-1]
            kinds = [patterns.kind(stage, layer) for layer in stage.layers]
            for row_tiles in run.blocks:
                begins = True
                for kind, layer in zip(kinds, stage.layers, strict=True):
                    fills = filled is not layer and layer.fill_words > 0
                    filled, weights = layer, layer.fill_end(core)
                    for first, count in _alike(layer, alone=fills or begins):
                        one = patterns.number(kind, stage, layer, first, row_tiles, fills, begins)
                        place = weights + layer.tile_start(first) * core.bus_bytes
                        tile_bytes = layer.tile_words * core.bus_bytes
                        segments.append(
                            (one, count, first, memory, place, tile_bytes, len(self.layers))
                        )
                        fills = begins = False
                    self.layers.append(layer)
                    tiles += layer.column_tiles
                beats = (row_tiles * part for part in stage.parts)
                memory += sum(map(core.buffers[ACTIVATION].words, beats)) * core.bus_bytes
            stage_tiles.append(tiles)
        self.stage_tiles = np.array(stage_tiles[:-1])
        """Of each stage, its first tile."""
        self.patterns = patterns.patterns
        columns = np.array(segments).T
        counts = columns[1]
        self.pattern, _, first, inputs, weights, tile_bytes, self.tile_layer = np.repeat(
            columns, counts, axis=1
        )
        starts = np.cumsum(counts) - counts
        in_segment = np.arange(counts.sum()) - np.repeat(starts, counts)
        self.tile_number = in_segment + first
        """In the layer."""
        self.tile_memory = np.stack([weights + in_segment * tile_bytes, inputs])
        """Of a tile's weights, and of its block's activations."""
        self.rows = _Rows([pattern.computes for pattern in self.patterns], self.pattern)

    def _place_loads(self) -> _Loads:
        """Give data their room in the buffers, in the order in which they are loaded."""
        starts, places = self.rows.starts, []
        self.data_starts = []
        """Of each buffer, the first data of every tile."""
        bases, base = [], 0
        for number, buffer in enumerate(self.core.buffers):
            data = _Rows([pattern.data[number] for pattern in self.patterns], self.pattern)
            words, first, last = map(data.column, range(len(DATA)))
            before = starts[data.tile]
            following = np.append(before[1:], len(self.rows))
            last = np.where(last == UNTIL_NEXT, following - 1, before + last)
            address, after = ring(words, last, buffer.bus_words)
            assert (after < before + first).all(), "what does not fit must have been refused"
            places.append((address, after))
            self.data_starts.append(data.starts)
            bases.append(data.starts + base)
            base += len(data)
        self.data_address = [address for address, _ in places]
        address, after = (np.concatenate(column) for column in zip(*places, strict=True))
        loads = _Rows([pattern.loads for pattern in self.patterns], self.pattern)
        buffer, data, offset, words, memory, needed = map(loads.column, range(len(LOAD)))
        data = data + np.stack(bases)[buffer, loads.tile]
        memory = memory + self.tile_memory[(buffer == ACTIVATION).view(np.int8), loads.tile]
        needed += starts[loads.tile]
        columns = {"buffer": buffer, "address": address[data] + offset}
        return _Loads(
            columns={**columns, "words": words, "memory": memory},
            needed=needed,
            after=after[data],
            firsts=loads.starts[self.stage_tiles],
        )

    def _place_sums(self) -> None:
        """Give runs of row tiles their room in the banks of sums, which take turns, and write each
        filling of a bank; then a matmul's places are known."""
        core = self.core
        runs = _Rows([pattern.runs[None] for pattern in self.patterns], self.pattern)
        row_tiles = runs.column(0)
        restarts = runs.starts[self.stage_tiles]
        fillings, place = packed(row_tiles * core.scale_steps, core.bank_words, restarts)
        filling = np.repeat(np.arange(len(fillings)), np.diff(fillings, append=len(runs)))

        is_fill = self.rows.column(COMPUTE.index("is_fill")).astype(bool)
        own = np.flatnonzero(~is_fill) if is_fill.any() else slice(None)
        tile, columns = self.rows.tile[own], self.rows.columns(COMPUTE, own)
        for buffer, starts, address in zip(
            BUFFERS, self.data_starts, self.data_address, strict=True
        ):
            columns[buffer] = address[columns[f"{buffer}_data"] + starts[tile]]
            columns[buffer] += columns[f"{buffer}_offset"]
        run = columns["run"] + runs.starts[tile]
        columns["accumulator"] = _narrow(place + filling % 2 * core.bank_words)[run]
        self.matmul_tile = tile
        matmul_place = np.arange(len(self.rows))[own]

        fill_place = np.flatnonzero(is_fill)
        fill = self.rows.columns(COMPUTE, fill_place)
        data = fill["weight_data"] + self.data_starts[WEIGHT][self.rows.tile[fill_place]]
        fill["weight"] = self.data_address[WEIGHT][data] + fill["weight_offset"]
        firsts = self.rows.starts[self.stage_tiles]
        self.computes = _Computes(columns, matmul_place, fill, fill_place, firsts, len(self.rows))

        # The first matmul of every filling, and the last one: that before the first of the next.
        begins = np.flatnonzero(np.diff(filling[run], prepend=-1))
        words = np.add.reduceat(row_tiles, fillings) * core.tile_store_words
        stage_fillings = filling[restarts]
        before = np.cumsum(words) - words
        results = np.array([run.result_address for run in self.batches])
        results -= before[stage_fillings] * core.bus_bytes
        counts = np.diff(stage_fillings, append=len(fillings))
        self.stores = _Stores(
            columns={
                "accumulator": np.arange(len(fillings)) % 2 * core.bank_words,
                "words": words,
                "memory": np.repeat(results, counts) + before * core.bus_bytes,
            },
            first=matmul_place[begins],
            after=matmul_place[np.append(begins[1:], len(run)) - 1],
            firsts=stage_fillings,
        )

    def work(self) -> tuple[StageWork, ...]:
        """Of each stage."""
        words = np.add.reduceat(self.loads.columns["words"], self.loads.firsts)
        words += np.add.reduceat(self.stores.columns["words"], self.stores.firsts)
        computes = np.diff(self.computes.firsts, append=self.computes.count)
        return tuple(map(StageWork, words.tolist(), computes.tolist()))

    def parts(self) -> TileParts:
        """What every matmul of the program takes."""
        matmul = self.computes.matmul
        return TileParts(
            layers=[layer.linear.name for layer in self.layers],
            tile_layer=self.tile_layer,
            tile_number=self.tile_number,
            tile=self.matmul_tile,
            first_beat=matmul["first_beat"],
            beats=matmul["slices"] * matmul["planes"],
        )

    # Order and tokens.

    def instructions(self) -> InstructionTable:
        """The program. Loads go ahead of the matmul that needs them by as many as a queue holds:
        more would fill it, and keep the matmul itself from being dispatched."""
        loads, computes, stores = self.loads, self.computes, self.stores
        order, syncs = self._load_order()
        count, stages = len(order), np.arange(1, len(syncs) + 1)

        # Loads and syncs in their order. A sync comes after the stage before, and its stage's first
        # matmul needs it: a fill needs no input, and a sync's token would tell it nothing of the
        # loads that are still under way.
        needed, after = loads.needed[order], loads.after[order]
        first_matmul = np.searchsorted(computes.matmul_place, computes.firsts[stages])
        needed[syncs] = computes.matmul_place[first_matmul]
        after[syncs] = computes.firsts[stages] - 1

        # For each compute, which load is the last that it or an earlier one needs.
        last_needed = np.full(computes.count, -1, np.int32)
        last_needed[needed] = np.arange(
            count, dtype=np.int32
        )  # of equal places, the last one stays
        last_needed = np.maximum.accumulate(last_needed)

        wait, signal = np.zeros((2, computes.count), np.uint8)
        load_signal = np.zeros(count, np.uint8)
        store_signal = np.zeros(len(stores.first), np.uint8)

        # A matmul waits for its last load, unless an earlier one has: loads end in order.
        more = np.flatnonzero(np.diff(last_needed, prepend=-1))
        wait[more] |= _LOAD
        load_signal[last_needed[more]] |= _COMPUTE
        # A load waits for the last matmul that needs what it replaces, a store for its own.
        latest = np.maximum.accumulate(after)
        waits = np.diff(latest, prepend=-1) > 0
        waits[syncs] = False
        load_wait = waits.view(np.uint8) * _COMPUTE
        signal[after[np.flatnonzero(waits)]] |= _LOAD
        store_wait = np.full(len(stores.first), _COMPUTE)
        signal[stores.after] |= _STORE
        # A sync waits for the stage's last store, a matmul for that of the bank's last filling.
        load_wait[syncs] |= _STORE
        store_signal[stores.firsts[stages] - 1] |= _LOAD
        wait[stores.first[2:]] |= _STORE
        store_signal[:-2] |= _COMPUTE

        # Before which compute each load comes: after what it waits for, behind the loads before it,
        # and near enough to the compute that needs it.
        ahead = self.core.queue_instructions
        before = np.zeros(count, np.int64)
        too_early = np.cumsum(np.bincount(last_needed + 1, minlength=count))
        before[ahead:] = too_early[: max(0, count - ahead)]
        before = np.maximum.accumulate(np.maximum(before, latest + 1))
        own = last_needed >= 0
        assert (before[last_needed[own]] <= np.flatnonzero(own)).all(), (
            "a load must not wait for a matmul that needs it"
        )
        loads_before = np.cumsum(np.bincount(before, minlength=computes.count))
        is_stored = np.zeros(computes.count + 1, np.int64)
        is_stored[stores.after + 1] = 1
        stores_before = np.cumsum(is_stored)
        place = np.arange(computes.count) + loads_before + stores_before[:-1]
        load_place = np.arange(count) + before + stores_before[before]
        store_place = place[stores.after] + 1

        opcodes, waits, signals = np.zeros((3, len(place) + count + len(store_place) + 1), np.uint8)
        for places, name, masks in (
            (load_place, "load", (load_wait, load_signal)),
            (place, "matmul", (wait, signal)),
            (store_place, "store", (store_wait, store_signal)),
        ):
            opcodes[places] = OPERATIONS[name].opcode
            waits[places], signals[places] = masks
        opcodes[load_place[syncs]] = OPERATIONS["sync"].opcode
        opcodes[place[computes.fill_place]] = OPERATIONS["fill"].opcode
        opcodes[-1] = OPERATIONS["halt"].opcode

        order = np.delete(order, syncs)
        sources = {"load": loads.columns, "matmul": computes.matmul, "fill": computes.fill}
        sources["store"] = stores.columns
        fields = {}
        for name, operation in OPERATIONS.items():
            columns = [sources[name][field.name] for field in operation.fields]
            if name == "load":
                columns = [column.take(order) for column in columns]
            fields[name] = columns
        return InstructionTable(opcodes, waits, signals, fields)

    def _load_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The loads in their order with a sync before every stage but the first, and the places of
        these syncs in it.

        Of a stage's weights and scales, some that have room before the stage begins go ahead of its
        sync.
        """
        loads = self.loads
        counts = np.diff(loads.firsts, append=len(loads.needed)).tolist()
        firsts = loads.firsts.tolist()
        pieces, syncs = [np.arange(counts[0])], []
        for stage in range(1, len(firsts)):
            first, last = firsts[stage], firsts[stage] + counts[stage]
            is_input = loads.columns["buffer"][first:last] == ACTIVATION
            late = loads.after[first:last] >= self.computes.firsts[stage]
            late &= ~is_input
            free = np.flatnonzero(~is_input[: late.argmax() if late.any() else None])
            early = free[: math.ceil(len(free) * _AHEAD)]
            syncs.append(first + stage - 1 + len(early))
            head = np.arange(first, first + early[-1] + 1) if len(early) else early
            others = np.delete(head, early)
            pieces += [first + early, _NO_LOAD, others, np.arange(first + len(head), last)]
        return np.concatenate(pieces), np.array(syncs, np.int64)
