"""Golden model of the core: what a program leaves in memory, bit for bit, whatever the timing.

The program runs on a memory image, instruction by instruction. Dispatch and units take turns as
tokens and queues allow; every order they allow must give the same, so that a program whose results
depend on the order lacks a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import DeadlockError, Instruction, IsaError, Unit
from evolute.hw.isa.table import check_program
from evolute.hw.spec import layout
from evolute.hw.spec.core import RESULT_BITS, Buffer, CoreSpec
from evolute.hw.spec.layout import Beat
from evolute.sim.golden import GOLDEN, MEMORIES
from evolute.sim.golden.align import integers
from evolute.sim.golden.sums import read_outs, wrap

ORDER_CHANGE = 0.1
"""How often, per step, a random order of turns changes: seldom enough for units to run far ahead
of each other."""


def execute(
    core: CoreSpec,
    memory: np.ndarray,
    program_address: int,
    instructions: int,
    host: Callable[[], None] | None = None,
    rng: np.random.Generator | None = None,
    watch: Callable[[int, Mapping[str, np.ndarray]], None] | None = None,
) -> None:
    """Run the program at `program_address` of `memory`, uint8 [bytes], which it changes.

    `host` is called at every sync, and may change memory too; `watch` at every matrix
    multiplication, with its index and the fields of its weight beats. With `rng` the units take
    turns in random order and buffers begin with noise, to expose a program that lacks a token or a
    load. Raises `IsaError` for a program that the core cannot run or that reaches beyond the image,
    with the index of the instruction, and its subclass `DeadlockError` for one that never ends.
    """
    end = program_address + instructions * isa.INSTRUCTION_BYTES
    program = isa.from_bytes(memory[program_address:end].tobytes())
    check_program(core, program, program_address)
    _Machine(core, memory, program, host, rng, watch).run()


def unpack(beat: Beat, bits: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of beats given as bits, uint8 [beats, beat.bits]; each int64 [beats, *shape]."""
    fields = {}
    for field in beat.fields:
        start = beat.offsets[field.name]
        part = bits[:, start : start + field.total_bits].reshape(len(bits), *field.shape, -1)
        values = np.zeros(part.shape[:-1], np.int64)
        for place in range(field.bits):
            values |= part[..., place].astype(np.int64) << place
        if field.signed:
            values -= values >> field.bits - 1 << field.bits
        fields[field.name] = values
    return fields


class _Machine:
    """Buffers, sums, queues and tokens between two steps."""

    def __init__(
        self,
        core: CoreSpec,
        memory: np.ndarray,
        program: list[Instruction],
        host: Callable[[], None] | None,
        rng: np.random.Generator | None,
        watch: Callable[[int, Mapping[str, np.ndarray]], None] | None,
    ):
        self.core, self.memory, self.program, self.host, self.rng = core, memory, program, host, rng
        self.watch = watch
        self.buffers = [
            np.zeros((buffer.bus_words, core.bus_bytes), np.uint8) for buffer in core.buffers
        ]
        self.sums = np.zeros((core.accumulator_words, core.scale_lanes), np.int64)
        if rng is not None:
            for buffer in self.buffers:
                buffer[:] = rng.integers(0, 256, buffer.shape)
            self.sums[:] = wrap(rng.integers(-(1 << 62), 1 << 62, self.sums.shape), core.sum_bits)
        own = MEMORIES.get(type(core.engine))
        self.contents = {} if own is None else own.contents(core.engine, rng)
        self.next = 0
        self.queues: dict[Unit, deque[int]] = {unit: deque() for unit in Unit}
        self.loading: deque[int] = deque()  # started, with nothing moved yet
        self.tokens = {(source, sink): 0 for source in Unit for sink in Unit}

    def run(self) -> None:
        """Until the halt: each step is that of the first in order who can take one."""
        turns = [self._dispatch, self._load, self._load_end, self._compute, self._store]
        while not self._halts():
            if self.rng is not None and self.rng.random() < ORDER_CHANGE:
                turns = [turns[i] for i in self.rng.permutation(len(turns))]
            if not any(turn() for turn in turns):
                raise DeadlockError(self._waits())

    def _halts(self) -> bool:
        idle = not (self.loading or any(self.queues.values()))
        return idle and self.program[self.next].operation.unit is None

    # Turns: take a step if possible, and say whether it was.

    def _dispatch(self) -> bool:
        unit = self.program[self.next].operation.unit
        if unit is None or len(self.queues[unit]) >= self.core.queue_instructions:
            return False
        self.queues[unit].append(self.next)
        self.next += 1
        return True

    def _load(self) -> bool:
        """Loads only start here: a unit's next instruction does not wait for their data."""
        index = self._start(Unit.LOAD)
        if index is None:
            return False
        if self.program[index].operation.name == "load":
            self.loading.append(index)
            return True
        if self.host is not None:
            self.host()
        self._signal(index)
        return True

    def _load_end(self) -> bool:
        if not self.loading:
            return False
        index = self.loading.popleft()
        load = self.program[index]
        words = self._words(index, load).reshape(load["words"], self.core.bus_bytes)
        first = load["address"]
        self.buffers[load["buffer"]][first : first + load["words"]] = words
        self._signal(index)
        return True

    def _compute(self) -> bool:
        index = self._start(Unit.COMPUTE)
        if index is None:
            return False
        instruction = self.program[index]
        if instruction.operation.name == "fill":
            self._fill(instruction)
        else:
            self._matmul(index, instruction)
        self._signal(index)
        return True

    def _store(self) -> bool:
        index = self._start(Unit.STORE)
        if index is None:
            return False
        store = self.program[index]
        words = self._words(index, store)
        first = store["accumulator"] * self.core.scale_lanes
        sums = self.sums.reshape(-1)[first : first + len(words) * 8 // RESULT_BITS]
        words[:] = sums.astype("<i8").view(np.uint8)
        self._signal(index)
        return True

    def _start(self, unit: Unit) -> int | None:
        """The index of a unit's next instruction, its tokens taken; None if it must wait."""
        queue = self.queues[unit]
        if not queue:
            return None
        wait = self.program[queue[0]].wait
        if not all(self.tokens[source, unit] for source in wait):
            return None
        for source in wait:
            self.tokens[source, unit] -= 1
        return queue.popleft()

    def _signal(self, index: int) -> None:
        instruction = self.program[index]
        unit = instruction.operation.unit
        assert unit is not None
        for sink in instruction.signal:
            self.tokens[unit, sink] += 1

    def _waits(self) -> dict[int, str]:
        """What each instruction at the head of a queue waits for, by its index."""
        waits = {}
        for unit, queue in self.queues.items():
            if queue:
                wait = self.program[queue[0]].wait
                missing = [
                    other.name.lower() for other in sorted(wait) if not self.tokens[other, unit]
                ]
                waits[queue[0]] = f"a signal from {' and '.join(missing)}"
        unit = self.program[self.next].operation.unit
        what = "all to end" if unit is None else f"room in the {unit.name.lower()} queue"
        waits[self.next] = what
        return waits

    # Data.

    def _words(self, index: int, transfer: Instruction) -> np.ndarray:
        """The bytes of memory that a load or store moves."""
        start, length = transfer["memory"], transfer["words"] * self.core.bus_bytes
        if start + length > len(self.memory):
            raise IsaError(
                f"instruction {index}: reaches beyond {len(self.memory)} bytes of memory"
            )
        return self.memory[start : start + length]

    def _beats(self, buffer: int, address: int, beats: int, beat: Beat) -> dict[str, np.ndarray]:
        """Fields of `beats` beats of a buffer, from bit 0 of word `address` on."""
        shape: Buffer = self.core.buffers[buffer]
        words = self.buffers[buffer][address : address + shape.words(beats)]
        bits = np.unpackbits(words.reshape(-1), bitorder="little")
        return unpack(beat, bits.reshape(-1, shape.stride_bits)[:beats, : beat.bits])

    def _fill(self, fill: Instruction) -> None:
        """Put beats of weights in the engine's own memories."""
        engine, beats = self.core.engine, fill["slices"] * fill["planes"]
        kind = next(candidate for candidate in engine.fills if candidate.mode == fill["mode"])
        fields = self._beats(0, fill["weight"], beats, kind.beat)
        MEMORIES[type(engine)].fill(engine, fields, self.contents)

    def _matmul(self, index: int, matmul: Instruction) -> None:
        """Sum slices as the engine does, then groups of them, scale those, sum the groups."""
        core, engine = self.core, self.core.engine
        streams = layout.streams(engine)
        slices, planes, row_tiles = matmul["slices"], matmul["planes"], matmul["row_tiles"]
        rows = row_tiles * engine.m
        starts = np.arange(0, slices, matmul["group_slices"])

        weights = self._beats(0, matmul["weight"], slices * planes, streams.weight)
        if self.watch is not None:
            self.watch(index, weights)
        beats = self._beats(1, matmul["activation"], row_tiles * slices, streams.activation)
        exponent = beats["exponent"][:, :, None] if "exponent" in beats else None
        x = integers(beats["x"], exponent, engine.activations)
        x = x.reshape(row_tiles, slices, engine.m, engine.slice_k)
        x = x.swapaxes(1, 2).reshape(rows, slices, -1)
        fields = weights | self.contents
        sums = GOLDEN[type(engine)].slice_sums(engine, fields, x, planes, matmul["mode"])
        psum = read_outs(engine, sums, starts)
        met = np.ones(x.shape[:2], np.int64) if engine.one_hot else x.sum(axis=2)
        row_sum = np.add.reduceat(met, starts, axis=1)

        count = len(starts) * engine.n // core.scale_lanes
        factors = self._beats(2, matmul["scale"], count, core.scale_beat)
        scale = factors["scale"].reshape(-1, engine.n)
        offset = factors["offset"].reshape(-1, engine.n) << matmul["offset_shift"]

        first, words = matmul["accumulator"], row_tiles * core.scale_steps
        held = self.sums[first : first + words].reshape(rows, engine.n)
        scaled = (scale * psum + offset * row_sum[:, :, None]).sum(axis=1)
        totals = held if matmul["accumulate"] else 0
        held[:] = wrap(totals + scaled, core.sum_bits)
