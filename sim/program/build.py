"""Linear layers to a core's program: which unit does what, and waits for whom.

A program runs one or several stages (`sim.program.placement`); between two of them the core waits
in a `sync` while the host reads results and writes the next input. Blocks of row tiles stay in the
activation buffer while all column tiles pass by; for each of these, as many row tiles as a bank of
sums holds make a run; each part of K of a run is one `matmul`. Buffers are rings, and the banks
take turns. Whatever an instruction waits for comes earlier in the program, so that none can wait
for ever.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import Instruction, Unit, instruction
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, CoreSpec
from evolute.sim.program.placement import Batch, Layer, PlaceError, Stage, aligned, batch
from evolute.sim.program.steps import (
    Data,
    FillStep,
    LoadStep,
    MatmulStep,
    Place,
    Ring,
    StoreStep,
    SyncStep,
    TilePart,
    places,
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

_WEIGHT, _ACTIVATION, _SCALE = range(len(isa.BUFFERS))

_MOST_WORDS = isa.OPERATIONS["load"]["words"].maximum
"""Bus words that a load can have."""

_AHEAD = 0.5
"""How much of the free room in the buffers is filled for the next stage before the host is called.

More would delay the next input, which is loaded after it; less would leave the bus idle while the
last results are stored."""


LayerSteps = Mapping[LayerName, NDArray[np.integer]]
"""Measured on the weights of an engine whose steps depend on them: the steps of every weight beat,
by the layers' names, int [column tiles, beats]."""


@dataclass(frozen=True)
class Work:
    """What a stage asks of a core's parts, whatever they wait for."""

    bus_words: int
    """Words that its loads and stores move."""
    computes: int
    """How many matmuls and fills it has."""


@dataclass(frozen=True)
class Program:
    """Instructions, which lie at `address`, and the stages they run."""

    core: CoreSpec
    address: int
    instructions: tuple[Instruction, ...]
    batches: tuple[Batch, ...]
    work: tuple[Work, ...]
    """Of each stage."""
    end: int
    """First byte after inputs, results and instructions."""
    parts: Mapping[int, TilePart]
    """What every matmul takes, by its index."""

    def beat_steps(self, layers: LayerSteps | None) -> BeatSteps | None:
        """The steps of every matmul's beats, from those of the layers by name, int [column tiles,
        beats]; None for None, where steps do not depend on weights."""
        if layers is None:
            return None
        return {
            index: layers[part.layer][part.tile, part.beats] for index, part in self.parts.items()
        }

    @functools.cached_property
    def code(self) -> bytes:
        """The instructions as they lie in memory."""
        return isa.to_bytes(self.instructions)


def compile_stages(core: CoreSpec, stages: Sequence[Stage], rows: int, address: int) -> Program:
    """The program that runs `stages` on `rows` rows of activations each.

    Inputs, results and instructions take memory from `address` on. Raises `PlaceError` where a
    stage or the whole does not fit.
    """
    assert stages and rows >= 1
    builder, batches, place = _Builder(core), [], address
    for stage in stages:
        batches.append(batch(core, stage, rows, blocks(core, stage, rows), place))
        place = batches[-1].end
        builder.add(batches[-1])
    first = aligned(place, MEMORY_PAGE_BYTES)
    instructions = tuple(builder.instructions())
    end = first + len(instructions) * isa.INSTRUCTION_BYTES
    if (over := end - (1 << core.address_bits)) > 0:
        raise PlaceError(f"memory: {over} bytes too small for the program, address_bits is short")
    work, parts = builder.work(), builder.parts(instructions)
    return Program(core, first, instructions, tuple(batches), work, end, parts)


class _Builder:
    """The steps of stage after stage, and at last the program."""

    def __init__(self, core: CoreSpec):
        self.core = core
        self.matmuls: list[MatmulStep | FillStep] = []
        self.filled: Layer | None = None  # whose contents the engine's own memories hold
        self.loads: list[LoadStep | SyncStep] = []
        self.stores: list[StoreStep] = []
        self.rings = [Ring(buffer.bus_words) for buffer in core.buffers]
        self.firsts: list[int] = []  # each stage's first matmul
        self.words: list[int] = []  # bus words that each stage moves
        self.room = 0  # words left in the bank that is being filled
        self.result = 0  # where the next result goes

    def add(self, run: Batch) -> None:
        """Append a stage, behind a sync unless it is the first."""
        first, first_store = len(self.matmuls), len(self.stores)
        self.room, self.result = 0, run.result_address
        loads = list(self._batch(run))
        for load in loads:
            if load.place.data.address < 0:
                self.rings[load.place.data.buffer].give(load.place.data)
        self.firsts.append(first)
        self.words.append(sum(step.words for step in (*loads, *self.stores[first_store:])))
        if first:
            weights = [load for load in loads if load.place.data.buffer != _ACTIVATION]
            free = list(itertools.takewhile(lambda load: load.after < first, weights))
            early = free[: math.ceil(len(free) * _AHEAD)]
            chosen = set(map(id, early))
            multiplies = (isinstance(step, MatmulStep) for step in self.matmuls[first:])
            needed = first + next(i for i, does in enumerate(multiplies) if does)
            self.loads += [*early, SyncStep(first - 1, needed)]
            loads = [load for load in loads if id(load) not in chosen]
        self.loads += loads

    def _batch(self, run: Batch) -> Iterator[LoadStep]:
        """Append the stage's matmuls and stores; yields the loads in the order needed."""
        memory, buffer = run.input_address, self.core.activation_buffer
        for row_tiles in run.blocks:
            words = [buffer.words(row_tiles * part) for part in run.stage.parts]
            yield from self._block(run.stage, row_tiles, words, memory)
            memory += sum(words) * self.core.bus_bytes

    def _block(
        self, stage: Stage, row_tiles: int, words: list[int], memory: int
    ) -> Iterator[LoadStep]:
        """One block, whose parts of K have so many `words` each and lie at `memory`."""
        core = self.core
        stays = resident(core, stage)
        inputs: list[Place] = []
        tiles = [(layer, tile) for layer in stage.layers for tile in range(layer.column_tiles)]
        for index, (layer, tile) in enumerate(tiles):
            fresh = index == 0 or not stays
            runs = equal_parts(row_tiles, run_tiles(core))
            if fresh:
                inputs = places(_ACTIVATION, words, stays)
                if divisible(core, stage) and stays:
                    runs = self._first_runs(row_tiles, sum(words))
            weights = places(_WEIGHT, layer.weight_words, len(runs) > 1)
            scales = places(_SCALE, layer.scale_words, len(runs) > 1)
            if self.filled is not layer:
                yield from self._fill(layer)
            row = 0
            for run in runs:
                accumulator = self._sums(run)
                tile_memory = layer.fill_end(core) + tile * layer.tile_words * core.bus_bytes
                part_memory, beats = memory, 0
                for part, slices in enumerate(stage.parts):
                    start, end = (words[part] * at // row_tiles for at in (row, row + run))
                    activation = Place(inputs[part].data, inputs[part].offset + start)
                    if fresh:
                        place = part_memory + start * core.bus_bytes
                        yield from self._load(activation, end - start, place)
                        part_memory += words[part] * core.bus_bytes
                    if row == 0:
                        yield from self._load(weights[part], layer.weight_words[part], tile_memory)
                        tile_memory += layer.weight_words[part] * core.bus_bytes
                        yield from self._load(scales[part], layer.scale_words[part], tile_memory)
                        tile_memory += layer.scale_words[part] * core.bus_bytes
                    for place in (weights[part], activation, scales[part]):
                        place.data.last = len(self.matmuls)
                    taken = slices * layer.planes
                    self.matmuls.append(
                        MatmulStep(
                            layer=layer,
                            part=TilePart(layer.linear.name, tile, slice(beats, beats + taken)),
                            weight=weights[part],
                            activation=activation,
                            scale=scales[part],
                            accumulator=accumulator,
                            slices=slices,
                            row_tiles=run,
                            accumulate=part > 0,
                            filling=len(self.stores) - 1,
                        )
                    )
                    beats += taken
                self.stores[-1].after = len(self.matmuls) - 1
                row += run

    def _fill(self, layer: Layer) -> Iterator[LoadStep]:
        """Bring what the layer needs in the engine's own memories."""
        buffer, memory = self.core.weight_buffer, layer.address
        for fill in self.core.engine.fills:
            words = buffer.words(fill.slices * fill.planes)
            place = Place(Data(_WEIGHT, words), 0)
            yield from self._load(place, words, memory)
            place.data.last = len(self.matmuls)
            self.matmuls.append(FillStep(fill, place))
            memory += words * self.core.bus_bytes
        self.filled = layer

    def _first_runs(self, row_tiles: int, words: int) -> tuple[int, ...]:
        """Runs of a block's first column tile, so short that the first can start early.

        In c runs, the first waits for 1/c of the block's words, and the others cost their overhead.
        """
        count = math.isqrt(words // matmul_overhead(self.core))
        most = -(-row_tiles // max(1, count))
        return equal_parts(row_tiles, min(most, run_tiles(self.core)))

    def _load(self, place: Place, words: int, memory: int) -> Iterator[LoadStep]:
        """Loads of so many words for the next matmul."""
        needed = len(self.matmuls)
        if place.data.first < 0:
            place.data.first = needed
        for start in range(0, words, _MOST_WORDS):
            part = Place(place.data, place.offset + start)
            count = min(words - start, _MOST_WORDS)
            yield LoadStep(part, count, memory + start * self.core.bus_bytes, needed)

    def _sums(self, row_tiles: int) -> int:
        """Room for the sums of so many row tiles, in the other bank if this one is full."""
        core, words = self.core, row_tiles * self.core.scale_steps
        if words > self.room:
            bank = len(self.stores) % 2
            self.stores.append(StoreStep(bank * core.bank_words, self.result))
            self.room = core.bank_words
        store, stored = self.stores[-1], row_tiles * core.tile_store_words
        accumulator = store.accumulator + core.bank_words - self.room
        self.room -= words
        store.words += stored
        self.result += stored * core.bus_bytes
        return accumulator

    def work(self) -> tuple[Work, ...]:
        """Of each stage."""
        bounds = itertools.pairwise([*self.firsts, len(self.matmuls)])
        return tuple(
            Work(words, end - start) for words, (start, end) in zip(self.words, bounds, strict=True)
        )

    def parts(self, instructions: Sequence[Instruction]) -> dict[int, TilePart]:
        """What every matmul of the finished program takes, by its index."""
        own = (i for i, each in enumerate(instructions) if each.operation.unit is Unit.COMPUTE)
        return {
            index: matmul.part
            for index, matmul in zip(own, self.matmuls, strict=True)
            if isinstance(matmul, MatmulStep)
        }

    # Order and tokens.

    def instructions(self) -> Iterator[Instruction]:
        """The program. Loads go ahead of the matmul that needs them by as many as a queue holds:
        more would fill it, and keep the matmul itself from being dispatched."""
        needed = self._needed()
        self._signal_loads(needed)
        self._signal_matmuls()
        self._signal_stores()
        loads, stores, loaded = deque(self.loads), deque(self.stores), 0
        for index, matmul in enumerate(self.matmuls):
            most = needed[index] + 1 + self.core.queue_instructions
            while loads and loads[0].after < index and loaded < most:
                yield loads.popleft().instruction()
                loaded += 1
            assert loaded > needed[index], "a load must not wait for a matmul that needs it"
            yield matmul.instruction()
            if stores and stores[0].after == index:
                yield stores.popleft().instruction()
        yield instruction("halt")

    def _needed(self) -> list[int]:
        """For each matmul, which load is the last that it or an earlier one needs."""
        places = [-1] * len(self.matmuls)
        for place, load in enumerate(self.loads):
            places[load.needed] = max(places[load.needed], place)
        return list(itertools.accumulate(places, max))

    def _signal_loads(self, needed: list[int]) -> None:
        """A matmul waits for its last load, unless an earlier one has: loads end in order."""
        for matmul, (before, place) in zip(
            self.matmuls, itertools.pairwise([-1, *needed]), strict=True
        ):
            if place > before:
                matmul.waits.add(Unit.LOAD)
                self.loads[place].signals.add(Unit.COMPUTE)

    def _signal_matmuls(self) -> None:
        """A load waits for the last matmul that needs what it replaces, a store for its own."""
        free = -1
        for load in self.loads:
            if isinstance(load, LoadStep) and load.after > free:
                load.waits.add(Unit.COMPUTE)
                self.matmuls[load.after].signals.add(Unit.LOAD)
            free = max(free, load.after)
        for store in self.stores:
            store.waits.add(Unit.COMPUTE)
            self.matmuls[store.after].signals.add(Unit.STORE)

    def _signal_stores(self) -> None:
        """A sync waits for the stage's last store, a matmul for that of the bank's last filling."""
        last = {store.after: store for store in self.stores}
        for load in self.loads:
            if isinstance(load, SyncStep):
                load.waits.add(Unit.STORE)
                last[load.after].signals.add(Unit.LOAD)
        filling = 1
        for matmul in self.matmuls:
            if matmul.filling > filling:
                filling = matmul.filling
                matmul.waits.add(Unit.STORE)
                self.stores[filling - 2].signals.add(Unit.COMPUTE)
