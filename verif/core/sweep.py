"""Writes of registers in every cycle around starts, syncs, faults and halts of programs.

Each case is a program, some writes during its cycles, and a second program after it, all with exact
timing. Pins, registers, answers, counters and memory are compared with `verif.core.orders`. That
model needs to know how each program runs undisturbed: this is recorded once from the RTL, and
compared with the golden and the cycle model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import INSTRUCTION_BYTES, Fault, Instruction, Unit
from evolute.hw.isa.registers import Control
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, RESULT_BITS, CoreSpec
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core.bench import LIMIT_CYCLES, Bench, BenchProgram, put
from evolute.verif.core.faults import overrunning_words, plain, words_to_bytes
from evolute.verif.core.orders import NEVER, Course, HostView, Order, UnknownProgram, expected
from evolute.verif.core.programs import beats_taken
from evolute.verif.core.session import SLVERR, Event, Session
from evolute.verif.harness.simulators import SimulatorError

FIRST, SECOND = MEMORY_PAGE_BYTES, 4 * MEMORY_PAGE_BYTES
"""Where the two programs lie."""
FIRST_DATA, SECOND_DATA = 8 * MEMORY_PAGE_BYTES, 24 * MEMORY_PAGE_BYTES
"""Where their operands lie, and a page before, their results."""
MEMORY_BYTES = 40 * MEMORY_PAGE_BYTES

PATIENCE = 150
"""The watchdog's cycles, more than any program here stands still that does not do so for good."""
PATIENCES = (0, 64, PATIENCE - 1, PATIENCE + 1, 0xFFFFFFFF)
"""Others that are written; the least are still more than that."""

LATENCY_CYCLES = 20
HOST_CYCLES = 10

START_CYCLE = 10
"""The cycle in which the first program is started."""
SLACK = 30
"""Cycles between one part of a case and the next."""


@dataclass(frozen=True)
class Scene:
    """A program that is disturbed, and its outcome without a disturbance."""

    name: str
    words: tuple[int, ...]
    fault: Fault | None = None
    index: int = 0
    address: int = FIRST
    count: int | None = None
    """The number that is written to the register `instructions`; by default that of `words`."""
    instructions: Sequence[Instruction] = ()
    """The program for the golden model; empty if a fault stops the program before its end."""
    traps: tuple[tuple[int, bool], ...] = ()
    """Addresses that the memory answers with an error, each with whether that is for writes."""

    @property
    def place(self) -> tuple[int, int]:
        """The address and the number of instructions that the host states."""
        return self.address, len(self.words) if self.count is None else self.count


def _work(core: CoreSpec, data: int, *, sync: bool = False) -> list[Instruction]:
    """A program of loads, one or two matmuls, a store, and with `sync` a call of the host between
    the matmuls."""
    program: list[Instruction] = []

    def add(
        name: str, wait: Sequence[Unit] = (), signal: Sequence[Unit] = (), **fields: int
    ) -> None:
        bare = plain(core, name, **fields)
        program.append(replace(bare, wait=frozenset(wait), signal=frozenset(signal)))

    for fill in core.engine.fills:
        words = core.weight_buffer.words(fill.slices * fill.planes)
        add("load", [Unit.COMPUTE] if program else [], [Unit.COMPUTE], words=words, memory=data)
        shape = {"slices": fill.slices, "planes": fill.planes, "mode": fill.mode}
        add("fill", [Unit.LOAD], [Unit.LOAD], **shape)
    sums = core.engine.m * core.engine.n
    rows = -(-core.bus_bits // RESULT_BITS // sums) or 1
    matmul = plain(core, "matmul", row_tiles=rows)
    values = {field.name: matmul[field.name] for field in matmul.operation.fields}
    for number, beats in enumerate(beats_taken(core, values)):
        words = core.buffers[number].words(beats)
        memory = data + MEMORY_PAGE_BYTES * number
        wait = [Unit.COMPUTE] if program and number == 0 else []
        signal = [Unit.COMPUTE] if number == 2 else []
        add("load", wait, signal, buffer=number, words=words, memory=memory)
    if sync:
        add("matmul", [Unit.LOAD], [Unit.LOAD], row_tiles=rows)
        add("sync", [Unit.COMPUTE], [Unit.COMPUTE])
        add("matmul", [Unit.LOAD], [Unit.STORE], row_tiles=rows, accumulate=1)
    else:
        add("matmul", [Unit.LOAD], [Unit.STORE], row_tiles=rows)
    words = rows * sums * RESULT_BITS // core.bus_bits
    add("store", [Unit.COMPUTE], words=min(words, 4), memory=data - MEMORY_PAGE_BYTES)
    add("halt")
    return program


def _long_matmul(core: CoreSpec) -> Instruction:
    """A legal matmul of whatever the buffers hold, with as many slices as they allow, up to 64."""
    slices = 64
    while True:
        group = min(slices, core.engine.group_slices)
        matmul = plain(core, "matmul", slices=slices, group_slices=group)
        values = {field.name: matmul[field.name] for field in matmul.operation.fields}
        needs = zip(core.buffers, beats_taken(core, values), strict=True)
        if all(buffer.words(beats) <= buffer.bus_words for buffer, beats in needs):
            return matmul
        slices //= 2


def scenes(core: CoreSpec) -> Iterator[Scene]:
    """Yields a program that ends well, one that calls the host, and one for every fault."""

    def words(*parts: Instruction | int) -> tuple[int, ...]:
        return tuple(part if isinstance(part, int) else isa.encode(part) for part in parts)

    halt = plain(core, "halt")
    room = min(16, min(buffer.bus_words for buffer in core.buffers))
    load = plain(core, "load", buffer=1, words=room, memory=FIRST_DATA)
    elsewhere = plain(core, "load", buffer=1, words=room, memory=FIRST_DATA + MEMORY_PAGE_BYTES)
    work, called = _work(core, FIRST_DATA), _work(core, FIRST_DATA, sync=True)
    yield Scene("good", words(*work), instructions=work)
    yield Scene("sync", words(*called), instructions=called)
    yield Scene("illegal", words(load, load, load, 0, halt), Fault.ILLEGAL, 3)
    yield Scene("illegal at once", words(0), Fault.ILLEGAL, 0)
    parts = words(_long_matmul(core), 0, halt)
    yield Scene("illegal while multiplying", parts, Fault.ILLEGAL, 1)
    for word in list(overrunning_words(core).values())[:1]:
        yield Scene("bounds", words(load, word, load, load, halt), Fault.BOUNDS, 1)
    yield Scene("no halt", words(load, load, load), Fault.NO_HALT, 3)
    yield Scene("no instruction", (), Fault.NO_HALT, 0)
    trap = (elsewhere["memory"] + core.bus_bytes * (room - 1), False)
    parts = words(load, elsewhere, load, load, halt)
    yield Scene("read", parts, Fault.READ, 1, traps=(trap,))
    at = FIRST + 17 * INSTRUCTION_BYTES
    first = (17 * INSTRUCTION_BYTES // core.bus_bytes * core.bus_bytes) // INSTRUCTION_BYTES
    parts = words(*[load] * 30, halt)
    yield Scene("fetch", parts, Fault.READ, first, traps=((at, False),))
    store = next(i for i, step in enumerate(work) if step.operation.name == "store")
    trap = (work[store]["memory"], True)
    parts = words(*work[:-1], *[load] * 12, halt)
    yield Scene("write", parts, Fault.WRITE, store, traps=(trap,))
    gives = replace(plain(core, "load", memory=FIRST_DATA), signal=frozenset([Unit.COMPUTE]))
    parts = words(*[gives] * (core.token_limit + 1), load, load, halt)
    yield Scene("tokens", parts, Fault.TOKENS, core.token_limit)
    waits = replace(plain(core, "sync"), wait=frozenset([Unit.STORE]))
    yield Scene("watchdog", words(load, waits, load, halt), Fault.WATCHDOG, 1)
    yield Scene("misaligned", words(load, halt), Fault.MISALIGNED, 0, FIRST + INSTRUCTION_BYTES)
    last_page = (1 << core.address_bits) - MEMORY_PAGE_BYTES
    count = MEMORY_PAGE_BYTES // INSTRUCTION_BYTES + 1
    yield Scene("past memory", (), Fault.MISALIGNED, 0, last_page, count)


class Courses(dict[tuple[int, int], Course]):
    """The course of each program that the host leaves alone, recorded on first use. `scene` gives
    the traps."""

    def __init__(self, session: Session, image: NDArray[np.uint8], scene: Scene):
        super().__init__()
        self.session, self.image, self.scene = session, image, scene

    def learn(self, place: tuple[int, int]) -> Course:
        """Run the program at `place` (address and number of instructions) and record its course."""
        session = self.session
        ready(session, self.image, self.scene)
        session.set("watchdog", PATIENCE)
        event = session.run(*place, LIMIT_CYCLES, stop_at_error=True)
        if event.kind == "sync":
            raised, writes_before = event.cycle, self._written()
            remainder = self._ended(session.resume(LIMIT_CYCLES))

            def resumed(cycle: int) -> Course:
                delay_cycles = cycle - raised - HOST_CYCLES
                stop = min(NEVER, remainder.stop + delay_cycles)
                return replace(remainder, stop=stop, end=remainder.end + delay_cycles)

            course = Course(NEVER, NEVER, writes=writes_before, sync=raised, resumed=resumed)
        else:
            course = self._ended(event)
        self[place] = course
        return course

    def _ended(self, event: Event) -> Course:
        """The course of a program that has just ended."""
        session, stop, stands = self.session, NEVER, None
        if event.kind == "error":
            stop = event.cycle
            # The interrupt rose; the end may have come since, or is still to come.
            final = session.wait(LIMIT_CYCLES)
            end = final.cycle
        elif event.kind == "done":
            end = event.cycle
        else:
            raise SimulatorError(f"a program of scene {self.scene.name} comes to no end")
        if event.fault is Fault.WATCHDOG:
            stands = stop - 1 - PATIENCE
        counters = session.counters()
        return Course(stop, end, event.fault, event.index, counters, self._written(), stands)

    def _written(self) -> dict[int, int]:
        memory = self.session.memory
        return {
            int(address): int(memory[address]) for address in np.flatnonzero(memory != self.image)
        }


def ready(session: Session, image: NDArray[np.uint8], scene: Scene) -> None:
    """Reset the core and give memory the contents with which every case starts."""
    session.reset(2)
    session.memory[:] = image
    session.calm()
    for address, write in scene.traps:
        session.trap(address, address + 1, write=write, response=SLVERR)


def check_course(bench: Bench, scene: Scene, course: Course, image: NDArray[np.uint8]) -> None:
    """An undisturbed program does what the golden model, the cycle model and the scene say."""
    case = f"sweep {scene.name} undisturbed"
    ended = course if course.resumed is None else course.resumed(course.sync + HOST_CYCLES)
    bench.check(case, "fault", (ended.fault, ended.index), (scene.fault, scene.index))
    if not scene.instructions:
        return
    program = BenchProgram(bench.core, scene.instructions, scene.address, image.copy())
    golden = program.expected()
    golden_writes = {
        int(address): int(golden.memory[address])
        for address in np.flatnonzero(golden.memory != image)
    }
    bench.check(case, "what it writes", ended.writes, golden_writes)
    if scene.fault is not None:
        return
    timing = MemoryTiming(LATENCY_CYCLES, bench.core.bus_bytes, host_cycles=HOST_CYCLES)
    model = program_cycles(
        bench.core, program.instructions, timing, program.address, golden.beat_steps
    )
    bench.check(case, "cycles", ended.end, model.cycles)
    bench.check(
        case,
        "syncs",
        [course.sync] * (course.sync != NEVER),
        [sync.raised_cycle for sync in model.syncs],
    )
    for name, value in ended.counters.items():
        bench.check(case, name, value, getattr(model, name))


# Cases.


@dataclass(frozen=True)
class SceneCase:
    """Writes during the cycles of a scene."""

    orders: tuple[Order, ...]
    hold: range = range(0)
    """The cycles in which the host takes no answer to a write."""
    enable: int = 0
    """The bits of `interrupt_enable`."""
    watched: str = "status"
    """The register that is read all the time, from the cycle `after` on."""
    after: int = 0
    alone: bool = False
    """No second program follows."""


def _start(cycle: int, place: tuple[int, int], enable: int) -> list[Order]:
    """The documented writes that start a program, one per cycle; the last of them writes `START`,
    in `cycle`."""
    address, count = place
    writes = (
        ("interrupt_enable", enable),
        ("watchdog", PATIENCE),
        ("program_low", address & 0xFFFFFFFF),
        ("program_high", address >> 32),
        ("instructions", count),
        ("control", int(Control.START)),
    )
    return [Order(cycle - len(writes) + 1 + i, *write) for i, write in enumerate(writes)]


def single_writes(second: tuple[int, int]) -> list[tuple[str, int, int]]:
    """Register, value and strobes of all writes that are tried alone in a case."""
    writes = [("control", value, 15) for value in range(1, 8)]
    writes += [("control", 7, 14), ("control", 0xFFFFFFF8, 15), ("instructions", 0, 15)]
    writes += [("instructions", 0xFFFFFF, 15), ("instructions", 0xFFFFFF, 2)]
    writes += [("program_low", second[0], 15), ("program_low", FIRST + INSTRUCTION_BYTES, 15)]
    writes += [("program_low", 0xFFFFFFFF, 2), ("program_high", 1, 15), ("interrupt_enable", 0, 15)]
    writes += [("watchdog", value, 15) for value in PATIENCES]
    return [*writes, *((name, 0xFFFFFFFF, 15) for name in ("status", "error", "cycles_low", "fc"))]


def moments(course: Course) -> list[int]:
    """The cycles of a case in which something happens."""
    began = START_CYCLE + 1
    ended = course if course.resumed is None else course.resumed(course.sync + SLACK)
    times = [0, course.sync, ended.stop, ended.end]
    return sorted({began + cycle for cycle in times if cycle < NEVER})


def window(course: Course) -> list[int]:
    """The cycles near every moment, in each of which a write is tried."""
    return sorted(
        {
            moment + distance
            for moment in moments(course)
            for distance in range(-6, 14)
            if moment + distance >= START_CYCLE
        }
    )


def random_case(
    rng: np.random.Generator, course: Course, second: tuple[int, int], singles: bool
) -> SceneCase:
    """One write, or several, near the moments of a course; the channels may pause."""
    times = window(course)
    orders: list[Order] = []
    for _ in range(1 if singles else int(rng.integers(1, 6))):
        cycle = int(rng.choice(times))
        kinds = single_writes(second)
        name, value, strobes = kinds[rng.integers(len(kinds))]
        draw = rng.random()
        if draw < 0.4 and not singles:
            name, value, strobes = "control", int(rng.integers(1, 8)), 15
        elif draw < 0.6 and not singles:
            # The driver of the documentation: it acknowledges, and starts the next program.
            orders.append(Order(cycle, "control", Control.ACKNOWLEDGE))
            orders += _start(cycle + int(rng.integers(6, 12)), second, int(rng.integers(16)))
            continue
        skew = int(rng.integers(-3, 4)) if rng.random() < 0.4 else 0
        orders.append(Order(cycle, name, value, strobes, cycle + skew))
    orders.sort(key=lambda order: order.cycle)
    hold = range(0)
    if rng.random() < 0.3:
        first = orders[rng.integers(len(orders))].cycle - int(rng.integers(3))
        hold = range(first, first + int(rng.integers(1, 12)))
    watched = ("status", "status", "status", "error", "error_index", "watchdog", "program_low")
    name = watched[rng.integers(len(watched))]
    enable, after, alone = (int(rng.integers(limit)) for limit in (16, 2, 2))
    return SceneCase(tuple(orders), hold, enable, name, after, bool(alone))


def every_case(
    rng: np.random.Generator, course: Course, second: tuple[int, int]
) -> Iterator[SceneCase]:
    """Every single write in every cycle of the window, and an acknowledge followed by a start at
    all distances around a stop."""
    for cycle in window(course):
        for write in single_writes(second):
            enable, after, alone = (int(rng.integers(limit)) for limit in (16, 2, 2))
            name = ("status", "error", "error_index")[rng.integers(3)]
            yield SceneCase((Order(cycle, *write),), range(0), enable, name, after, bool(alone))
    if course.stop == NEVER:
        return
    # The driver of the documentation, that has the next program ready, at every pace.
    began = START_CYCLE + 1
    for cycle in range(began + course.stop - 3, began + course.end + 4):
        for pause in range(1, 4):
            *ready_made, start = _start(cycle + pause, second, int(rng.integers(16)))
            earlier = [replace(order, cycle=order.cycle - pause - 1) for order in ready_made]
            acknowledge = Order(cycle, "control", Control.ACKNOWLEDGE)
            yield SceneCase((*earlier, acknowledge, start), watched="error", alone=True)


def pointed_cases(rng: np.random.Generator, course: Course) -> Iterator[SceneCase]:
    """Orders of the host in the most critical cycles of a course."""
    began = START_CYCLE + 1
    writes = []
    if course.sync != NEVER:
        writes += [(course.sync + distance, "control", Control.RESUME) for distance in range(-2, 2)]
    if course.stands is not None:
        writes += [(course.stop - 5, "watchdog", value) for value in PATIENCES]
    elif course.stop != NEVER:
        cycle = int(rng.integers(course.stop, course.end + 1))
        writes += [(cycle, "control", Control.ACKNOWLEDGE), (cycle, "control", Control.START)]
        # While transfers are under way it is remembered.
        if course.end - course.stop > 1:
            cycle = int(rng.integers(course.stop, course.end - 1))
            writes.append((cycle, "control", Control.ACKNOWLEDGE))
    for cycle, name, value in writes:
        yield SceneCase((Order(began + cycle, name, int(value)),), enable=int(rng.integers(16)))


def play(
    bench: Bench,
    courses: Courses,
    scene: Scene,
    case: SceneCase,
    second: tuple[int, int],
    title: str,
) -> None:
    """Run one case, and compare everything that the host sees."""
    session, first = courses.session, courses[scene.place]
    over = moments(first)[-1] + SLACK
    resumed = first if first.resumed is None else first.resumed(first.sync)
    length = max(resumed.end, courses[second].end) + SLACK
    orders = [
        *_start(START_CYCLE, scene.place, case.enable),
        *case.orders,
        Order(over, "control", Control.RESUME),
    ]
    if not case.alone:
        orders.append(Order(over + length, "control", Control.ACKNOWLEDGE))
        orders += _start(over + length + 8, second, case.enable)
    cycles = over + length + 8 + courses[second].end + SLACK
    while True:
        host = HostView(courses)
        try:
            must_see = expected(host, orders, case.hold, cycles, case.watched, case.after)
            break
        except UnknownProgram as unknown:
            courses.learn(unknown.place)
    ready(session, courses.image, scene)
    for order in orders:
        session.offer(
            order.cycle, order.offset, order.value, order.strobes, data_after=order.data_cycle
        )
    session.hold(case.hold.start, len(case.hold))
    sights = sorted(session.watch(cycles, case.watched, case.after))
    bench.tally.cases += 1
    if sights != must_see:
        for actual, required in itertools.zip_longest(sights, must_see):
            if actual != required:
                bench.differ(title, f"the host sees {actual}, must see {required} {case}")
                return
    for name in (*host.registers, "status", "error", "error_index"):
        bench.check(title, f"{name} at the end", session.get(name), host.read(name))
    if host.running is None and host.last is not None:
        counters = dict(host.last.counters) | {"cycles": host.cycles}
        bench.check(title, "counters", session.counters(), counters)
    memory = courses.image.copy()
    for address, byte in host.written.items():
        memory[address] = byte
    wrong = np.flatnonzero(session.memory != memory)
    bench.check(title, "bytes wrong in memory, at", wrong[:4].tolist(), [])
    bench.watch(session, title)


def sweep(bench: Bench, rng: np.random.Generator, *, cases: int | None) -> None:
    """Run every scene with the pointed cases and `cases` random ones, half of which have a single
    write.

    If `cases` is None, every single write is tried in every cycle of the scene's window instead,
    and the documented driver at every pace.
    """
    core = bench.core
    timing = MemoryTiming(LATENCY_CYCLES, core.bus_bytes, host_cycles=HOST_CYCLES)
    second_program = _work(core, SECOND_DATA)
    second = SECOND, len(second_program)
    image = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
    put(image, SECOND, isa.to_bytes(second_program))
    with Session(bench.native, MEMORY_BYTES, timing, seed=bench.seed) as session:
        for scene in scenes(core):
            put(image, FIRST, bytes(SECOND - FIRST))
            put(image, FIRST, words_to_bytes(scene.words))
            courses = Courses(session, image, scene)
            check_course(bench, scene, courses.learn(scene.place), image)
            second_scene = Scene("second", (), None, 0, SECOND, len(second_program), second_program)
            check_course(bench, second_scene, courses.learn(second), image)
            first = courses[scene.place]
            if cases is None:
                all_cases = every_case(rng, first, second)
            else:
                drawn = (random_case(rng, first, second, i % 2 == 0) for i in range(cases))
                all_cases = itertools.chain(pointed_cases(rng, first), drawn)
            for i, case in enumerate(all_cases):
                play(bench, courses, scene, case, second, f"sweep {scene.name} {i}")
            bench.tally.coverage[f"host sweeps {scene.name}"] += 1


def check_orders(bench: Bench, rng: np.random.Generator) -> None:
    """A short sweep of random writes over every scene."""
    sweep(bench, rng, cases=12)
