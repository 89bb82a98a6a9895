"""Linear layers to a core's program: which unit does what, and waits for whom.

A program runs one or several stages (`sw.place`); between two of them the core waits in a `sync`
while the host reads results and writes the next input. Blocks of row tiles stay in the activation
buffer while all column tiles pass by; for each of these, as many row tiles as a bank of sums holds
make a run; each part of K of a run is one `matmul`. Buffers are rings, and the banks take turns.
Whatever an instruction waits for comes earlier in the program, so that none can wait for ever.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hw import isa
from hw.isa import Instruction, Unit, instruction
from hw.spec.core import MEMORY_PAGE_BYTES, CoreSpec
from hw.spec.engine import Fill
from sim.program import compute_cycles
from sw.place import Batch, Layer, PlaceError, Stage, aligned, batch

_WEIGHT, _ACTIVATION, _SCALE = range(len(isa.BUFFERS))

_MOST_ROW_TILES = 1 << 8
"""Row tiles that a matmul can have."""
_MOST_WORDS = 1 << 16
"""Bus words that a load can have."""

_AHEAD = 0.5
"""How much of the free room in the buffers is filled for the next stage before the host is called.

More would delay the next input, which is loaded after it; less would leave the bus idle while the
last results are stored."""


@dataclass(frozen=True)
class Work:
    """What a stage asks of a core's parts, whatever they wait for."""

    bus_words: int
    """Words that its loads and stores move."""
    compute_cycles: int
    """Cycles of its matmuls and fills."""


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
        batches.append(batch(core, stage, rows, _blocks(core, stage, rows), place))
        place = batches[-1].end
        builder.add(batches[-1])
    first = aligned(place, MEMORY_PAGE_BYTES)
    instructions = tuple(builder.instructions())
    end = first + len(instructions) * isa.INSTRUCTION_BYTES
    if (over := end - (1 << core.address_bits)) > 0:
        raise PlaceError(f"memory: {over} bytes too small for the program, address_bits is short")
    return Program(core, first, instructions, tuple(batches), builder.work(instructions), end)


# Blocks and runs of row tiles.


def _equal(total: int, most: int) -> tuple[int, ...]:
    """`total` in the fewest parts of at most `most`, about equal."""
    count = -(-total // most)
    return tuple(total * (i + 1) // count - total * i // count for i in range(count))


def _run_tiles(core: CoreSpec) -> int:
    """Row tiles in a run at most."""
    return min(core.bank_words // core.scale_steps, _MOST_ROW_TILES)


def _resident(core: CoreSpec, stage: Stage) -> bool:
    """Whether the activation buffer holds a row tile's whole K; if not, it holds parts of it."""
    words = sum(map(core.activation_buffer.words, stage.parts))
    return words <= core.activation_buffer.bus_words


def _divisible(core: CoreSpec, stage: Stage) -> bool:
    """Whether the row tiles of a block can go in several runs: each begins a bus word, and all
    parts of a column tile fit the buffers until the last run."""
    per_word = core.activation_buffer.beats_per_word
    return all(part % per_word == 0 for part in stage.parts) and all(
        sum(layer.weight_words) <= core.weight_buffer.bus_words
        and sum(layer.scale_words) <= core.scale_buffer.bus_words
        for layer in stage.layers
    )


def _blocks(core: CoreSpec, stage: Stage, rows: int) -> tuple[int, ...]:
    """Row tiles of each block: about equal, with the least estimate, of those the fewest blocks."""
    row_tiles = -(-rows // core.engine.m)
    cuts = dict.fromkeys(_equal(row_tiles, most) for most in range(row_tiles, 0, -1))
    fitting = [blocks for blocks in cuts if _fits(core, stage, max(blocks))]
    return min(fitting, key=lambda blocks: _estimate(core, stage, blocks))


def _fits(core: CoreSpec, stage: Stage, row_tiles: int) -> bool:
    """Whether blocks can have so many row tiles; one they always can."""
    buffer = core.activation_buffer
    words = [buffer.words(row_tiles * part) for part in stage.parts]
    if row_tiles > _run_tiles(core) and not (_resident(core, stage) and _divisible(core, stage)):
        return False
    needed = sum(words) if _resident(core, stage) else 2 * max(words)
    return needed <= buffer.bus_words


def _estimate(core: CoreSpec, stage: Stage, blocks: tuple[int, ...]) -> float:
    """Cycles of the bus or of the engine, whichever has more, and of loads that nothing covers."""
    buffer, period = core.activation_buffer, core.result_period_cycles
    block_words = sum(buffer.words(max(blocks) * part) for part in stage.parts)
    weight_words = sum(layer.words for layer in stage.layers)
    bus = len(blocks) * weight_words
    bus += len(blocks) * block_words * (1 if _resident(core, stage) else stage.column_tiles)
    bus += sum(blocks) * stage.column_tiles * core.tile_store_words
    matmuls = len(stage.parts) * sum(len(_equal(block, _run_tiles(core))) for block in blocks)
    engine = 0
    for layer in stage.layers:
        steps = layer.group_slices * core.engine.slice_steps(layer.linear.format)
        row_tile = max(sum(stage.parts) / layer.group_slices, 1) * max(steps, period)
        engine += layer.column_tiles * (sum(blocks) * row_tile + matmuls * _matmul_overhead(core))
    covered = 2 * block_words <= buffer.bus_words
    return max(bus, engine) + block_words * (1 if covered else len(blocks))


def _matmul_overhead(core: CoreSpec) -> int:
    """Cycles between the last step of a matmul and the first of the next at the soonest."""
    engine = core.engine
    fill = core.stream_latency_cycles + engine.operand_latency_cycles
    return fill + engine.step_latency_cycles + core.scale_drain_cycles


# Steps of a program, before their order and tokens are known. Matmuls, and fills among them, are
# numbered in their order.


@dataclass(eq=False)
class _Data:
    """Bus words that some matmuls need together in a buffer."""

    buffer: int
    words: int
    first: int = -1
    """The first matmul that needs them."""
    last: int = -1
    address: int = -1
    after: int = -1
    """The last matmul that needs what lay there before."""


@dataclass(frozen=True)
class _Place:
    """A place within some data."""

    data: _Data
    offset: int

    @property
    def address(self) -> int:
        return self.data.address + self.offset


@dataclass(eq=False)
class _Step:
    """An instruction to be: what it waits for and signals is found last."""

    waits: set[Unit] = field(default_factory=set, init=False)
    signals: set[Unit] = field(default_factory=set, init=False)

    def _make(self, name: str, **values: int) -> Instruction:
        return instruction(name, wait=self.waits, signal=self.signals, **values)


@dataclass(eq=False)
class _Load(_Step):
    """Fills a place."""

    place: _Place
    words: int
    memory: int
    needed: int
    """The first matmul that needs these words."""

    @property
    def after(self) -> int:
        """The last matmul that must come before."""
        return self.place.data.after

    def instruction(self) -> Instruction:
        return self._make(
            "load",
            buffer=self.place.data.buffer,
            address=self.place.address,
            words=self.words,
            memory=self.memory,
        )


@dataclass(eq=False)
class _Sync(_Step):
    """Waits for the host after the matmul `after`.

    `needed` is the first one that takes what the host gives: a fill needs no input, and a sync's
    token would tell it nothing of the loads that are still under way.
    """

    after: int
    needed: int

    def instruction(self) -> Instruction:
        return self._make("sync")


@dataclass(eq=False)
class _Matmul(_Step):
    layer: Layer
    weight: _Place
    activation: _Place
    scale: _Place
    accumulator: int
    slices: int
    row_tiles: int
    accumulate: bool
    filling: int
    """Which filling of a bank its sums belong to."""

    def instruction(self) -> Instruction:
        return self._make(
            "matmul",
            weight=self.weight.address,
            activation=self.activation.address,
            scale=self.scale.address,
            accumulator=self.accumulator,
            slices=self.slices,
            row_tiles=self.row_tiles,
            group_slices=self.layer.group_slices,
            planes=self.layer.planes,
            mode=self.layer.mode,
            accumulate=self.accumulate,
            offset_shift=self.layer.offset_shift,
        )


@dataclass(eq=False)
class _Fill(_Step):
    """Fills the engine's own memories with what a layer needs there."""

    fill: Fill
    weight: _Place
    filling: int = 0
    """None of a bank's, whatever came before."""

    def instruction(self) -> Instruction:
        return self._make(
            "fill",
            weight=self.weight.address,
            slices=self.fill.slices,
            planes=self.fill.planes,
            mode=self.fill.mode,
        )


@dataclass(eq=False)
class _Store(_Step):
    """Writes one filling of a bank."""

    accumulator: int
    memory: int
    words: int = 0
    after: int = -1
    """The last matmul of the filling."""

    def instruction(self) -> Instruction:
        return self._make(
            "store", accumulator=self.accumulator, words=self.words, memory=self.memory
        )


class _Ring:
    """The room in a buffer, given out and taken back in the same order."""

    def __init__(self, words: int):
        self.words, self.head = words, 0
        self.given: deque[_Data] = deque()

    def give(self, data: _Data) -> None:
        """Set the address of `data`, and after which matmul the room is free for it."""
        if self.head + data.words > self.words:
            self._take_back(data, self.words)
            self.head = 0
        data.address, self.head = self.head, self.head + data.words
        self._take_back(data, self.head)
        self.given.append(data)
        assert data.after < data.first, "what does not fit must have been refused"

    def _take_back(self, data: _Data, end: int) -> None:
        """Free the room from the head to `end`, whose data are always the oldest."""
        start = self.head if data.address < 0 else data.address
        while self.given and start <= self.given[0].address < end:
            data.after = max(data.after, self.given.popleft().last)


class _Builder:
    """The steps of stage after stage, and at last the program."""

    def __init__(self, core: CoreSpec):
        self.core = core
        self.matmuls: list[_Matmul | _Fill] = []
        self.filled: Layer | None = None  # whose contents the engine's own memories hold
        self.loads: list[_Load | _Sync] = []
        self.stores: list[_Store] = []
        self.rings = [_Ring(buffer.bus_words) for buffer in core.buffers]
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
            multiplies = (isinstance(step, _Matmul) for step in self.matmuls[first:])
            needed = first + next(i for i, does in enumerate(multiplies) if does)
            self.loads += [*early, _Sync(first - 1, needed)]
            loads = [load for load in loads if id(load) not in chosen]
        self.loads += loads

    def _batch(self, run: Batch) -> Iterator[_Load]:
        """Append the stage's matmuls and stores; yields the loads in the order needed."""
        memory, buffer = run.input_address, self.core.activation_buffer
        for row_tiles in run.blocks:
            words = [buffer.words(row_tiles * part) for part in run.stage.parts]
            yield from self._block(run.stage, row_tiles, words, memory)
            memory += sum(words) * self.core.bus_bytes

    def _block(
        self, stage: Stage, row_tiles: int, words: list[int], memory: int
    ) -> Iterator[_Load]:
        """One block, whose parts of K have so many `words` each and lie at `memory`."""
        core = self.core
        resident = _resident(core, stage)
        inputs: list[_Place] = []
        tiles = [(layer, tile) for layer in stage.layers for tile in range(layer.column_tiles)]
        for index, (layer, tile) in enumerate(tiles):
            fresh = index == 0 or not resident
            runs = _equal(row_tiles, _run_tiles(core))
            if fresh:
                inputs = _places(_ACTIVATION, words, resident)
                if _divisible(core, stage) and resident:
                    runs = self._first_runs(row_tiles, sum(words))
            weights = _places(_WEIGHT, layer.weight_words, len(runs) > 1)
            scales = _places(_SCALE, layer.scale_words, len(runs) > 1)
            if self.filled is not layer:
                yield from self._fill(layer)
            row = 0
            for run in runs:
                accumulator = self._sums(run)
                tile_memory = layer.fill_end(core) + tile * layer.tile_words * core.bus_bytes
                part_memory = memory
                for part, slices in enumerate(stage.parts):
                    start, end = (words[part] * at // row_tiles for at in (row, row + run))
                    activation = _Place(inputs[part].data, inputs[part].offset + start)
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
                    self.matmuls.append(
                        _Matmul(
                            layer=layer,
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
                self.stores[-1].after = len(self.matmuls) - 1
                row += run

    def _fill(self, layer: Layer) -> Iterator[_Load]:
        """Bring what the layer needs in the engine's own memories."""
        buffer, memory = self.core.weight_buffer, layer.address
        for fill in self.core.engine.fills:
            words = buffer.words(fill.slices * fill.planes)
            place = _Place(_Data(_WEIGHT, words), 0)
            yield from self._load(place, words, memory)
            place.data.last = len(self.matmuls)
            self.matmuls.append(_Fill(fill, place))
            memory += words * self.core.bus_bytes
        self.filled = layer

    def _first_runs(self, row_tiles: int, words: int) -> tuple[int, ...]:
        """Runs of a block's first column tile, so short that the first can start early.

        In c runs, the first waits for 1/c of the block's words, and the others cost their overhead.
        """
        count = math.isqrt(words // _matmul_overhead(self.core))
        most = -(-row_tiles // max(1, count))
        return _equal(row_tiles, min(most, _run_tiles(self.core)))

    def _load(self, place: _Place, words: int, memory: int) -> Iterator[_Load]:
        """Loads of so many words for the next matmul."""
        needed = len(self.matmuls)
        if place.data.first < 0:
            place.data.first = needed
        for start in range(0, words, _MOST_WORDS):
            part = _Place(place.data, place.offset + start)
            count = min(words - start, _MOST_WORDS)
            yield _Load(part, count, memory + start * self.core.bus_bytes, needed)

    def _sums(self, row_tiles: int) -> int:
        """Room for the sums of so many row tiles, in the other bank if this one is full."""
        core, words = self.core, row_tiles * self.core.scale_steps
        if words > self.room:
            bank = len(self.stores) % 2
            self.stores.append(_Store(bank * core.bank_words, self.result))
            self.room = core.bank_words
        store, stored = self.stores[-1], row_tiles * core.tile_store_words
        accumulator = store.accumulator + core.bank_words - self.room
        self.room -= words
        store.words += stored
        self.result += stored * core.bus_bytes
        return accumulator

    def work(self, instructions: Sequence[Instruction]) -> tuple[Work, ...]:
        """Of each stage, of the finished program."""
        own = (each for each in instructions if each.operation.unit is Unit.COMPUTE)
        cycles = [compute_cycles(self.core, each) for each in own]
        bounds = itertools.pairwise([*self.firsts, len(cycles)])
        return tuple(
            Work(words, sum(cycles[start:end]))
            for words, (start, end) in zip(self.words, bounds, strict=True)
        )

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
            if isinstance(load, _Load) and load.after > free:
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
            if isinstance(load, _Sync):
                load.waits.add(Unit.STORE)
                last[load.after].signals.add(Unit.LOAD)
        filling = 1
        for matmul in self.matmuls:
            if matmul.filling > filling:
                filling = matmul.filling
                matmul.waits.add(Unit.STORE)
                self.stores[filling - 2].signals.add(Unit.COMPUTE)


def _places(buffer: int, words: Sequence[int], together: bool) -> list[_Place]:
    """Places of so many words each: in one piece of data if they are needed together."""
    if not together:
        return [_Place(_Data(buffer, count), 0) for count in words]
    data = _Data(buffer, sum(words))
    return [_Place(data, start) for start in itertools.accumulate(words[:-1], initial=0)]
