"""How many cycles a whole program takes: the core's timing written out, equal to the RTL.

`Machine` is the reference. Where a compiler is, `sim.timing.walk` does the same in compiled code.

Only cycles in which an instruction, a burst or a token can move are visited. In each, everything is
decided on the state that the cycle begins with and then applied, as registers do. What ends in a
cycle known beforehand, a burst or a multiplication, waits as an event for the cycle in which the
core sees it: a change made in one cycle is seen in the next.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import DeadlockError, Instruction, IsaError, Unit
from evolute.hw.isa.table import InstructionTable, check_program
from evolute.hw.spec.base import require
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.compute_unit import (
    BeatSteps,
    ComputeCycles,
    Computes,
    computes_of,
    fill_cycles,
    matmul_cycles,
)
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.timing.walk import Deadlock, TooManyTokens, Walk, rows_of, walk


@dataclass(frozen=True)
class Sync:
    """One `sync`: its instruction's index, its first cycle, and the cycle of the host's resume."""

    index: int
    raised_cycle: int
    resumed_cycle: int


@dataclass(frozen=True)
class ProgramCycles:
    """What the core's counters hold after a program (`hw.isa.registers.COUNTERS`), its syncs, and
    what each of its multiplications and fills takes, in their order."""

    cycles: int
    read_beats: int
    write_beats: int
    steps: int
    compute_cycles: int
    dispatched: int
    syncs: tuple[Sync, ...]
    computes: Computes = field(compare=False)
    stage_memory_cycles: tuple[float, ...]
    """Of the cycles of each stage, those in which the memory was busy with words of any stage."""

    @property
    def bus_utilization(self) -> float:
        """Share of cycles in which the data bus moved a word, in either direction."""
        return (self.read_beats + self.write_beats) / self.cycles

    @property
    def engine_utilization(self) -> float:
        """Share of cycles in which the engine took a step."""
        return self.steps / self.cycles

    @property
    def stage_cycles(self) -> tuple[int, ...]:
        """Cycles before, between and after the syncs; the host's own are in none of them."""
        return tuple(end - start for start, end in _windows(self.syncs, self.cycles))


def _windows(syncs: Sequence[Sync], cycles: int) -> list[tuple[int, int]]:
    """First cycle, and first cycle after, of what lies before, between and after the syncs."""
    starts = [0, *(sync.resumed_cycle + 1 for sync in syncs)]
    ends = [*(sync.raised_cycle for sync in syncs), cycles]
    return list(zip(starts, ends, strict=True))


def program_cycles(
    core: CoreSpec,
    program: Sequence[Instruction],
    memory: MemoryTiming,
    address: int = 0,
    beat_steps: BeatSteps | None = None,
) -> ProgramCycles:
    """Run `program`, which lies at byte `address`, to its halt.

    `beat_steps` are needed where they depend on weights. Raises `SpecError` where they are needed
    and not given; `IsaError` for a program that the core cannot run, with the index of the
    instruction, and its subclass `DeadlockError` for one that never ends.
    """
    table = InstructionTable.of(program)
    check_program(core, table, address)
    if not core.engine.steps_are_fixed:
        rule = "given for an engine whose steps depend on weights"
        require(beat_steps is not None, "beat_steps", rule, beat_steps)
    computes = computes_of(core, table, beat_steps)
    walked = walk(core, rows_of(core, table, computes.cycles), memory)
    if walked is None:
        return Machine(core, table, memory, beat_steps).run()
    return _cycles(core, table, memory, computes, walked)


def _cycles(
    core: CoreSpec,
    program: InstructionTable,
    memory: MemoryTiming,
    computes: Computes,
    walked: Walk | Deadlock | TooManyTokens,
) -> ProgramCycles:
    """What compiled code found, in the words of `Machine`."""
    if isinstance(walked, TooManyTokens):
        raise _too_many_tokens(core, walked.index, walked.sink)
    if isinstance(walked, Deadlock):
        next_unit = None if walked.next is None else program[walked.next].operation.unit
        raise DeadlockError(_waits(dict(walked.heads), walked.next, next_unit))
    rate = memory.service(core.bus_bytes).cycle_units
    return ProgramCycles(
        cycles=walked.cycles,
        read_beats=walked.read_beats,
        write_beats=walked.write_beats,
        steps=computes.total_steps,
        compute_cycles=computes.total_cycles,
        dispatched=walked.dispatched,
        syncs=tuple(Sync(*sync) for sync in walked.syncs),
        computes=computes,
        stage_memory_cycles=tuple(units / rate for units in walked.busy_units),
    )


def _too_many_tokens(core: CoreSpec, index: int, sink: Unit) -> IsaError:
    rule = f"at most {core.token_limit} tokens may wait for {sink.name.lower()}"
    return IsaError(f"instruction {index}: {rule}")


def _waits(
    heads: Mapping[int, Sequence[Unit]], next: int | None, next_unit: Unit | None
) -> dict[int, str]:
    """What each waiting instruction waits for, by its index: those at the heads of queues for the
    units given, and the dispatcher's, if it has one, for room in its unit's queue or for all."""
    waits = {
        index: f"a signal from {' and '.join(unit.name.lower() for unit in units)}"
        for index, units in heads.items()
    }
    if next is not None:
        waits[next] = (
            "all to end" if next_unit is None else f"room in the {next_unit.name.lower()} queue"
        )
    return waits


def _bursts(core: CoreSpec, transfer: Instruction) -> list[int]:
    """Words of each burst of a load or store; bursts end at multiples of the longest in memory."""
    words, longest = transfer["words"], core.burst_beats
    first = min(words, longest - transfer["memory"] // core.bus_bytes % longest)
    full, rest = divmod(words - first, longest)
    return [first, *[longest] * full, *[rest] * (rest > 0)]


UNITS = len(Unit)


class _Server:
    """The memory's one server; `MemoryTiming` says how it works."""

    def __init__(self, timing: MemoryTiming, bus_bytes: int):
        self.timing, self.service = timing, timing.service(bus_bytes)
        self.free = 0  # in units of service
        self.spans: list[tuple[int, int]] = []  # in which it moved words, from and to, in units

    def serve(self, cycle: int, beats: int) -> int:
        """The cycle of the last of `beats` beats that start in `cycle` at the soonest."""
        rate, word = self.service.cycle_units, self.service.word_units
        interval = self.timing.refresh_interval_cycles
        start = max(cycle * rate, self.free)
        while interval:  # one turn for each refresh passed
            at = -(-start // rate)
            refresh = at - at % interval
            if at < refresh + self.timing.refresh_cycles:
                start = (refresh + self.timing.refresh_cycles) * rate
            room = ((refresh + interval - 1) * rate - start) // word + 1
            if room >= beats:
                break
            self._occupy(start, start + room * word)
            start, beats = start + room * word, beats - room
        last = start + (beats - 1) * word
        self.free = last + word
        self._occupy(start, self.free)
        return -(-last // rate)

    def _occupy(self, start: int, end: int) -> None:
        if self.spans and self.spans[-1][1] == start:
            start, _ = self.spans.pop()
        if start < end:
            self.spans.append((start, end))

    def busy_cycles(self, windows: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """For how long words were moved in each of these windows, in cycles: from the first cycle
        of one to the first after it, one after another."""
        busy, spans, rate = [], deque(self.spans), self.service.cycle_units
        for first, end in windows:
            units = 0
            while spans and spans[0][0] < end * rate:
                start, stop = spans.popleft()
                units += max(0, min(stop, end * rate) - max(start, first * rate))
                if stop > end * rate:
                    spans.appendleft((end * rate, stop))
            busy.append(units / rate)
        return tuple(busy)


@dataclass(slots=True)
class Job:
    """An instruction on its way, with the counters whose tokens it takes and gives."""

    index: int
    instruction: Instruction
    unit: Unit | None
    takes: tuple[int, ...]
    gives: tuple[int, ...]


def _counter(source: Unit, sink: Unit) -> int:
    """Place of the counter of tokens that `source` gives and `sink` takes."""
    return source * UNITS + sink


def _job(index: int, instruction: Instruction) -> Job:
    unit = instruction.operation.unit
    if unit is None:
        return Job(index, instruction, None, (), ())
    takes = tuple(_counter(source, unit) for source in instruction.wait)
    gives = tuple(_counter(unit, sink) for sink in instruction.signal)
    return Job(index, instruction, unit, takes, gives)


class Machine:
    """Fetch, dispatch, the three units, their tokens and the memory, between two cycles."""

    def __init__(
        self,
        core: CoreSpec,
        program: Sequence[Instruction],
        timing: MemoryTiming,
        beat_steps: BeatSteps | None,
    ):
        self.core, self.timing, self.beat_steps = core, timing, beat_steps
        self.server = _Server(timing, core.bus_bytes)
        self.events: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self.scheduled = 0

        # What is counted.
        self.read_beats = self.write_beats = 0
        self.computes: list[ComputeCycles] = []
        self.syncs: list[Sync] = []

        # Fetch.
        self.outstanding_reads = core.outstanding_reads
        self.fetch_beats, self.fetch_words = core.fetch_beats, core.fetch_words
        self.words_left = -(-len(program) * isa.INSTRUCTION_BYTES // core.bus_bytes)
        self.reserved = 0  # words granted and not yet taken by the dispatcher
        self.arrived = 0  # words that the dispatcher can take
        self.in_flight = 0  # read bursts, loads' included

        # Dispatch.
        self.queue_instructions = core.queue_instructions
        self.jobs = [_job(index, instruction) for index, instruction in enumerate(program)]
        self.next = 0
        self.word_instructions = max(1, core.bus_bits // isa.INSTRUCTION_BITS)
        self.instruction_words = max(1, isa.INSTRUCTION_BITS // core.bus_bits)
        self.parts = 0  # words held of an instruction longer than a word
        self.held = 0  # instructions left in the holding register

        # Units.
        self.queues: tuple[deque[Job], ...] = tuple(deque() for _ in Unit)
        self.active = [False for _ in Unit]
        self.tokens = [0] * UNITS**2
        self.load: Job | None = None  # the load that still requests bursts
        self.bursts: deque[int] = deque()  # their words

    def run(self) -> ProgramCycles:
        """From start to halt. Raises `DeadlockError`."""
        cycle, events = 0, self.events
        while True:
            while events and events[0][0] <= cycle:
                _, _, action, argument = heapq.heappop(events)
                action(argument)
            if self._halts():
                break
            if self._visit(cycle):
                cycle += 1
            elif events:
                cycle = events[0][0]
            else:
                raise DeadlockError(self._waits())
        computes = Computes.of(self.computes)
        return ProgramCycles(
            cycles=cycle + 1,
            read_beats=self.read_beats,
            write_beats=self.write_beats,
            steps=computes.total_steps,
            compute_cycles=computes.total_cycles,
            dispatched=self.next + 1,
            syncs=tuple(self.syncs),
            computes=computes,
            stage_memory_cycles=self.server.busy_cycles(_windows(self.syncs, cycle + 1)),
        )

    def _at(self, cycle: int, action: Callable[[Any], None], argument: Any) -> None:
        """Call `action(argument)` before `cycle` is visited."""
        self.scheduled += 1
        heapq.heappush(self.events, (cycle, self.scheduled, action, argument))

    # One cycle.

    def _halts(self) -> bool:
        """Whether the halt leaves the dispatcher."""
        if not self.held or self.jobs[self.next].unit is not None:
            return False
        return not (self.in_flight or any(self.queues) or any(self.active))

    def _visit(self, cycle: int) -> bool:
        """Decide on the state that `cycle` begins with, then apply; whether anything moved."""
        leaving = self._leaving()
        refills = self.arrived and (not self.held or (leaving is not None and self.held == 1))
        fetch, load = self._grant()
        starting = [
            unit
            for unit, queue in enumerate(self.queues)
            if queue and not self.active[unit] and self._ready(queue[0])
        ]

        if leaving is not None:
            self.queues[leaving].append(self.jobs[self.next])
            self.next += 1
            self.held -= 1
        if refills:
            self.arrived -= 1
            self.reserved -= 1
            self.parts += 1
            if self.parts == self.instruction_words:
                self.parts, self.held = 0, self.word_instructions
        if fetch:
            self._read_program(cycle, fetch)
        elif load is not None:
            self._read_data(cycle, load)
        for unit in starting:
            self._start(cycle, unit)
        return bool(leaving is not None or refills or fetch or load is not None or starting)

    def _leaving(self) -> Unit | None:
        """The unit that the dispatcher's instruction goes to, None if it stays."""
        if not self.held:
            return None
        unit = self.jobs[self.next].unit
        if unit is None or len(self.queues[unit]) >= self.queue_instructions:
            return None
        return unit

    def _grant(self) -> tuple[int, Job | None]:
        """Who may send a read address: words of a fetch, else the load, else neither."""
        if self.in_flight >= self.outstanding_reads:
            return 0, None
        words = min(self.words_left, self.fetch_beats)
        if words and self.reserved + words <= self.fetch_words:
            return words, None
        return 0, self.load

    def _ready(self, job: Job) -> bool:
        """Whether all tokens that the instruction takes are there."""
        return all(self.tokens[counter] for counter in job.takes)

    # Reads. An address granted in a cycle is accepted in the next.

    def _read_program(self, cycle: int, words: int) -> None:
        self.words_left -= words
        self.reserved += words
        self.in_flight += 1
        for left in reversed(range(words)):
            self._at(self._read(cycle, 1), self._see_word, left == 0)

    def _read_data(self, cycle: int, load: Job) -> None:
        """The next burst of the load; its last completes it, and lets the next load start."""
        words = self.bursts.popleft()
        complete = None
        if not self.bursts:
            complete, self.load, self.active[Unit.LOAD] = load, None, False
        self.in_flight += 1
        self._at(self._read(cycle, words), self._see_burst, complete)

    def _read(self, granted: int, words: int) -> int:
        """The first cycle in which the last of these words is seen."""
        self.read_beats += words
        return self.server.serve(granted + 1 + self.timing.latency_cycles, words) + 1

    def _see_word(self, ends_burst: bool) -> None:
        self.arrived += 1
        self.in_flight -= ends_burst

    def _see_burst(self, complete: Job | None) -> None:
        self.in_flight -= 1
        if complete is not None:
            self._signal(complete)

    # Units.

    def _start(self, cycle: int, unit: int) -> None:
        """Take the first instruction from a unit's queue, and its tokens."""
        job = self.queues[unit].popleft()
        for counter in job.takes:
            self.tokens[counter] -= 1
        self.active[unit] = True
        START[job.instruction.operation.name](self, cycle, job)

    def _start_load(self, cycle: int, job: Job) -> None:
        self.load, self.bursts = job, deque(_bursts(self.core, job.instruction))

    def _start_sync(self, cycle: int, job: Job) -> None:
        sync = Sync(job.index, cycle + 1, cycle + 1 + self.timing.host_cycles)
        self.syncs.append(sync)
        self._at(sync.resumed_cycle + 1, self._finish, job)

    def _start_matmul(self, cycle: int, job: Job) -> None:
        steps = None if self.beat_steps is None else self.beat_steps[job.index]
        self._start_compute(cycle, job, matmul_cycles(self.core, job.instruction, steps))

    def _start_fill(self, cycle: int, job: Job) -> None:
        self._start_compute(cycle, job, fill_cycles(self.core, job.instruction))

    def _start_compute(self, cycle: int, job: Job, compute: ComputeCycles) -> None:
        self.computes.append(compute)
        self._at(cycle + compute.cycles + 1, self._finish, job)

    def _start_store(self, cycle: int, job: Job) -> None:
        """Words leave at a steady pace; the memory accepts a burst with its last word."""
        accepted = cycle + self.core.store_latency_cycles
        bursts = _bursts(self.core, job.instruction)
        for left, words in zip(reversed(range(len(bursts))), bursts, strict=True):
            accepted += words * self.core.store_word_cycles
            # Before that cycle is visited, and after the one before: reads accepted in the same
            # cycle, which are served first, were granted in that one.
            self._at(accepted, self._write, (accepted, words, None if left else job))

    def _write(self, burst: tuple[int, int, Job | None]) -> None:
        accepted, words, complete = burst
        self.write_beats += words
        last = self.server.serve(accepted + 1, words)
        if complete is not None:
            self._at(last + self.timing.latency_cycles + 1, self._finish, complete)

    def _finish(self, job: Job) -> None:
        assert job.unit is not None
        self.active[job.unit] = False
        self._signal(job)

    def _signal(self, job: Job) -> None:
        for counter in job.gives:
            self.tokens[counter] += 1
            if self.tokens[counter] > self.core.token_limit:
                raise _too_many_tokens(self.core, job.index, Unit(counter % UNITS))

    def _waits(self) -> dict[int, str]:
        """What each instruction at the head of a queue waits for, by its index."""
        heads = {
            queue[0].index: [
                Unit(counter // UNITS) for counter in queue[0].takes if not self.tokens[counter]
            ]
            for queue in self.queues
            if queue
        }
        if not self.held:
            return _waits(heads, None, None)
        return _waits(heads, self.next, self.jobs[self.next].unit)


START: dict[str, Callable[[Machine, int, Job], None]] = {
    "load": Machine._start_load,
    "sync": Machine._start_sync,
    "matmul": Machine._start_matmul,
    "fill": Machine._start_fill,
    "store": Machine._start_store,
}
"""What an instruction does in the cycle in which it leaves its queue."""
