"""Runs programs on a Verilated core and notes every difference from its golden model and its cycle
model."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import BUFFERS, Instruction, instruction
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, RESULT_BITS, CoreSpec
from evolute.sim.golden.core import execute
from evolute.sim.timing.core import BeatSteps, ProgramCycles, program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core.programs import DATA_BYTES, long_program, random_program
from evolute.verif.core.session import Event, Session
from evolute.verif.engines.bit_serial import taken_steps

MEMORY_BYTES = 2 * DATA_BYTES
"""Programs lie in the lower half of memory, their data in the upper."""

MOST_DIFFERENCES = 24
"""Differences after which a verification ends."""

LIMIT_CYCLES = 1 << 20
"""Cycles after which a run ends; no program here takes that long."""


def timings(core: CoreSpec) -> dict[str, MemoryTiming]:
    """Memories with different latencies and rates, by the property that each one tests."""
    bus = core.bus_bytes
    return {
        "latency 1": MemoryTiming(1, bus),
        "latency 20": MemoryTiming(20, bus, host_cycles=5),
        "latency 200": MemoryTiming(200, bus, host_cycles=2),
        "half rate": MemoryTiming(60, bus // 2),
        "odd rate": MemoryTiming(33, max(1, bus // 3), host_cycles=17),
        "fractional rate": MemoryTiming(11, Fraction(301 * bus, 600), host_cycles=4),
        "refresh": MemoryTiming(60, bus, 97, 13, host_cycles=3),
        "slow and refresh": MemoryTiming(7, bus - 3, 31, 30),
    }


def random_rate(core: CoreSpec, rng: np.random.Generator) -> MemoryTiming:
    """A memory with random timing. Its rate in bytes per cycle is a fraction of small or very large
    numbers, between a sixteenth of what the core's port takes and a little more than all of it.
    Half of the memories have a refresh."""
    cycles = int(rng.integers(2, rng.choice([1000, 1 << 40])))
    part = Fraction(int(rng.integers(cycles, 17 * cycles)), 16 * cycles)
    interval = int(rng.integers(20, 200)) if rng.integers(2) else 0
    return MemoryTiming(
        latency_cycles=int(rng.integers(1, 80)),
        bytes_per_cycle=part * core.bus_bytes,
        refresh_interval_cycles=interval,
        refresh_cycles=interval // 8,
        host_cycles=int(rng.integers(1, 20)),
    )


def put(memory: NDArray[np.uint8], place: int, data: bytes | NDArray[np.uint8]) -> None:
    """Write bytes into the image of a memory, from index `place` on."""
    memory[place : place + len(data)] = np.frombuffer(data, np.uint8)


class Enough(Exception):
    """Raised when the number of differences at which a verification ends is reached."""


@dataclass
class Tally:
    """What a verification of a core has counted so far."""

    cases: int = 0
    """Programs played."""
    beats: int = 0
    """Data words that crossed the bus."""
    elements: int = 0
    """Sums compared with the golden model."""
    rtl_cycles: int = 0
    """Cycles that the RTL counted in programs whose cycles are compared."""
    model_cycles: int = 0
    """Cycles of the same programs by the cycle model."""
    differences: list[str] = field(default_factory=list)
    """A text for every difference."""
    coverage: Counter[str] = field(default_factory=Counter)
    """The number of programs that show a feature, by the feature."""


@dataclass(frozen=True)
class Expected:
    """The outcome of a program according to the golden model."""

    memory: NDArray[np.uint8]
    """The memory after the program; it began as the program's `image`."""
    beat_steps: BeatSteps | None
    """The steps of every weight beat of each matmul, by the instruction's index; None if they do
    not depend on the weights."""


@dataclass(frozen=True)
class BenchProgram:
    """A program and the memory around it. The instructions lie at the bus address `address`;
    `image` holds the memory's contents from the bus address `base` on."""

    core: CoreSpec
    instructions: Sequence[Instruction]
    address: int
    image: NDArray[np.uint8]
    base: int = 0
    host: Callable[[int, NDArray[np.uint8]], None] | None = None
    """Called in every sync with its number, from 0, and the memory, which it may change."""

    def __post_init__(self) -> None:
        self._write(self.image, self.instructions)

    def _write(self, memory: NDArray[np.uint8], instructions: Sequence[Instruction]) -> None:
        put(memory, self.address - self.base, isa.to_bytes(instructions))

    def expected(self) -> Expected:
        """The outcome of the program according to the golden model."""
        memory, moved = self.image.copy(), [self._moved(step) for step in self.instructions]
        self._write(memory, moved)
        calls = iter(range(len(moved)))

        def host() -> None:
            """Called at every sync with the sync's number, from 0, and the memory, which it may
            change."""
            if self.host is not None:
                self.host(next(calls), memory)

        steps: dict[int, NDArray[np.int64]] | None = None
        if not self.core.engine.steps_are_fixed:
            steps = {}

        def watch(index: int, fields: Mapping[str, NDArray]) -> None:
            if steps is not None:
                steps[index] = taken_steps(fields)

        execute(self.core, memory, self.address - self.base, len(moved), host, watch=watch)
        self._write(memory, self.instructions)
        return Expected(memory, steps)

    def _moved(self, original: Instruction) -> Instruction:
        names = [field.name for field in original.operation.fields]
        if "memory" not in names:
            return original
        values = dict(zip(names, original.values, strict=True))
        values["memory"] -= self.base
        return instruction(
            original.operation.name, wait=original.wait, signal=original.signal, **values
        )

    def writer(self, address: int) -> str:
        """Describes the instruction that should have written the byte at a bus address."""
        for index in reversed(range(len(self.instructions))):
            step = self.instructions[index]
            if step.operation.name == "store":
                offset = address - step["memory"]
                if 0 <= offset < step["words"] * self.core.bus_bytes:
                    sums = step["accumulator"] * self.core.scale_lanes + offset * 8 // RESULT_BITS
                    return f"sum {sums} stored by instruction {index}"
        return "stored by no instruction"


class Bench:
    """Runs programs on a built core and keeps a tally of the differences from its models."""

    def __init__(
        self,
        core: CoreSpec,
        native: Path,
        seed: int,
        waves: Path | None,
        plusargs: tuple[str, ...] = (),
        most_differences: int = MOST_DIFFERENCES,
    ):
        self.core, self.native, self.seed, self.waves = core, native, seed, waves
        self.plusargs, self.most_differences = plusargs, most_differences
        self.tally = Tally()

    @contextlib.contextmanager
    def session(self, base: int = 0, waves: Path | None = None) -> Iterator[Session]:
        """Start a simulated core with memory from the bus address `base` on. When the session ends,
        violations of bus rules are noted as differences."""
        timing = MemoryTiming(1, self.core.bus_bytes)
        with Session(
            self.native,
            MEMORY_BYTES,
            timing,
            base=base,
            seed=self.seed,
            waves=waves,
            plusargs=self.plusargs,
        ) as session:
            yield session
            self.watch(session, "the end of a session")

    def watch(self, session: Session, case: str) -> None:
        """Note as differences all violations of bus rules since the last call."""
        for violation in session.violations():
            self.differ(case, violation)

    def differ(self, case: str, difference: str) -> None:
        """Note a difference. Raises `Enough` when `most_differences` are reached."""
        where = f"spec {self.core.digest} seed {self.seed} case {case!r}"
        self.tally.differences.append(f"{where}: {difference}")
        if len(self.tally.differences) == self.most_differences:
            raise Enough

    def check(self, case: str, name: str, actual: object, expected: object) -> None:
        """Note a difference in `name` unless `actual` equals `expected`."""
        if actual != expected:
            self.differ(case, f"{name} is {actual!r}, must be {expected!r}")

    def random_program(
        self, rng: np.random.Generator, base: int = 0, length: int | None = None
    ) -> BenchProgram:
        """A random program in a memory of random data, with at least `length` instructions."""
        length = int(rng.integers(2, 60)) if length is None else length
        program = random_program(self.core, rng, base + DATA_BYTES, length)
        size = len(program) * isa.INSTRUCTION_BYTES
        pages = (DATA_BYTES - size) // MEMORY_PAGE_BYTES
        address = base + MEMORY_PAGE_BYTES * int(rng.integers(pages))
        memory = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
        return BenchProgram(self.core, program, address, memory, base)

    def long_program(self, rng: np.random.Generator, length: int, boundary: int) -> BenchProgram:
        """A long program that lies across the address `boundary`, in a memory of random data. If
        `boundary` is negative, not the program but its data lie across the address -`boundary`."""
        base = abs(boundary) - DATA_BYTES // 2 - (DATA_BYTES if boundary < 0 else 0)
        program = long_program(self.core, rng, base + DATA_BYTES, length)
        size = len(program) * isa.INSTRUCTION_BYTES
        before = size // 2 // MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES
        address = boundary - before if boundary > 0 else base
        memory = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
        return BenchProgram(self.core, program, address, memory, base)

    def play(
        self,
        session: Session,
        case: str,
        program: BenchProgram,
        expected: Expected,
        time: MemoryTiming | int,
        starts: Mapping[str, int] | None = None,
        before: int = 0,
    ) -> None:
        """Run a program and compare memory and counters with the models.

        `time` is either the memory's timing, and then cycles are compared too, or the seed of a
        memory that answers at random. `starts` are the values from which counters were made to
        count. The first `before` instructions count as already fetched and dispatched; the program
        itself must be at least as long as a burst then.
        """
        tally = self.tally
        tally.cases += 1
        session.memory[:] = program.image
        model = None
        if isinstance(time, MemoryTiming):
            session.set_timing(time)
            model = program_cycles(
                self.core, program.instructions, time, program.address, expected.beat_steps
            )
        else:
            session.set_random(time)
        if before:
            go_late(session, self.core, before)
        raised, event = run(session, program, before=before)
        self.watch(session, case)
        tally.beats += event.read_beats + event.write_beats
        tally.coverage.update(features(program.instructions))
        if event.kind != "done":
            if event.kind == "limit":
                session.reset()
            self.differ(case, f"{outcome(event)} in cycle {event.cycle}, must be done")
            return
        self._compare_memory(case, program, session.memory, expected.memory)
        counters = {
            name: (value - (starts or {}).get(name, 0)) % (1 << 64)
            for name, value in session.counters().items()
        }
        self.check(case, "cycles counted", counters["cycles"], event.cycle)
        self.check(case, "words read", counters["read_beats"], event.read_beats)
        self.check(case, "words written", counters["write_beats"], event.write_beats)
        if model is not None:
            self._compare_cycles(case, model, raised, counters)

    def _compare_memory(
        self,
        case: str,
        program: BenchProgram,
        stored: NDArray[np.uint8],
        expected: NDArray[np.uint8],
    ) -> None:
        for step in program.instructions:
            if step.operation.name == "store":
                self.tally.elements += step["words"] * self.core.bus_bits // RESULT_BITS
        wrong = np.flatnonzero(stored != expected)
        if len(wrong):
            position = int(wrong[0])
            address = program.base + position
            self.differ(
                case,
                f"byte {address:#x} is {stored[position]}, golden says {expected[position]} "
                f"({program.writer(address)}; {len(wrong)} bytes differ)",
            )

    def _compare_cycles(
        self, case: str, model: ProgramCycles, raised: list[int], counters: dict[str, int]
    ) -> None:
        self.tally.rtl_cycles += counters["cycles"]
        self.tally.model_cycles += model.cycles
        for i, (sync, cycle) in enumerate(zip(model.syncs, raised, strict=True)):
            if cycle != sync.raised_cycle:
                self.differ(case, f"sync {i} is in cycle {cycle}, model says {sync.raised_cycle}")
        for name, value in counters.items():
            if value != getattr(model, name):
                self.differ(case, f"{name} is {value}, model says {getattr(model, name)}")


def go_late(session: Session, core: CoreSpec, before: int) -> None:
    """Make the core count `before` instructions, which fill whole bus words, as fetched and
    dispatched."""
    words = before * isa.INSTRUCTION_BITS // core.bus_bits
    for name, value in (("index", before), ("words", words), ("left", -words)):
        session.advance(name, value)


def run(
    session: Session, program: BenchProgram, limit: int = LIMIT_CYCLES, before: int = 0
) -> tuple[list[int], Event]:
    """Run a program, with its host, to its end. Returns the cycles of its syncs and the last event.

    `before` is added to the program's length, see `go_late`.
    """
    raised: list[int] = []
    event = session.run(program.address, before + len(program.instructions), limit)
    while event.kind == "sync":
        if program.host is not None:
            program.host(len(raised), session.memory)
        raised.append(event.cycle)
        event = session.resume(limit)
    return raised, event


def outcome(event: Event) -> str:
    """An event in words."""
    if event.fault is None:
        return event.kind
    return f"fault {event.fault.name} at instruction {event.index}"


def features(program: Sequence[Instruction]) -> set[str]:
    """The names of the features that a program uses, for counting coverage."""
    shown = set()
    for step in program:
        name = step.operation.name
        shown.add(f"load {BUFFERS[step['buffer']]}" if name == "load" else name)
        unit = step.operation.unit
        if unit is not None:
            shown |= {f"{unit.name} to {sink.name}".lower() for sink in step.signal}
        if name == "matmul":
            facts = {
                "several row tiles": step["row_tiles"] > 1,
                "several groups": step["slices"] > step["group_slices"],
                "last group shorter": step["slices"] % step["group_slices"] > 0,
                f"mode {step['mode']}": True,
                "accumulate": step["accumulate"],
                "offset shift": step["offset_shift"],
            }
            shown |= {fact for fact, holds in facts.items() if holds}
    return shown
