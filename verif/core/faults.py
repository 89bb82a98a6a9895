"""Checks that a core refuses what it must: every fault is provoked, and random words are tried as
instructions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import (
    BUFFERS,
    OPERATIONS,
    DeadlockError,
    Fault,
    Instruction,
    IsaError,
    Unit,
    instruction,
)
from evolute.hw.isa.registers import WATCHDOG_DEFAULT
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, RESULT_BITS, CoreSpec
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core.bench import (
    LIMIT_CYCLES,
    MEMORY_BYTES,
    Bench,
    BenchProgram,
    Expected,
    go_late,
    outcome,
    put,
)
from evolute.verif.core.session import DECERR, SLVERR, Event, Session
from evolute.verif.core.stand import stand

PATIENCE = 300
"""Cycles without movement after which the watchdog stops a program in these checks."""


def words_to_bytes(words: Sequence[int]) -> bytes:
    """Encoded instructions as they lie in memory."""
    return b"".join(word.to_bytes(isa.INSTRUCTION_BYTES, "little") for word in words)


@dataclass(frozen=True)
class Wrong:
    """A program that must stop with a fault.

    `setup` prepares the session; `words` are the instructions in binary, and `count`, where given,
    how many the register says. Of a program that lies where none can, nothing must be `fetched`.
    Where time decides which instruction is at fault, it is known in exact time alone. So is the
    `cycle` that shows the fault first, where it is given.
    """

    name: str
    words: tuple[int, ...]
    fault: Fault
    index: int
    address: int = MEMORY_PAGE_BYTES
    setup: Callable[[Session], object] = lambda _: None
    count: int | None = None
    fetched: bool = True
    fetch_fails: bool = False
    exact_time: bool = False
    cycle: int | None = None


def plain(core: CoreSpec, name: str, **changes: int) -> Instruction:
    """The instruction `name` with the smallest legal value in every field, except for `changes`."""
    mode, planes = next(iter(core.engine.modes.items()))
    if name == "matmul":
        changes = {"mode": mode, "planes": planes[0]} | changes
    fields = OPERATIONS[name].fields
    values = (changes.get(field.name, field.minimum) for field in fields)
    return Instruction(OPERATIONS[name], tuple(values))


def _encoded(
    core: CoreSpec, changed_instructions: dict[str, tuple[str, dict[str, int]]]
) -> dict[str, int]:
    """The words of plain instructions with changes. Changes that their fields cannot hold are left
    out."""
    words = {}
    for title, (name, changes) in changed_instructions.items():
        with contextlib.suppress(IsaError):
            words[title] = isa.encode(plain(core, name, **changes))
    return words


def illegal_words(core: CoreSpec) -> dict[str, int]:
    """Words that are not an instruction, or not one that the core can run, by a title for each."""
    opcodes = {operation.opcode for operation in OPERATIONS.values()}
    words = {f"opcode {i}": i for i in range(1 << isa.OPCODE_BITS) if i not in opcodes}
    for name, operation in OPERATIONS.items():
        word = isa.encode(plain(core, name))
        words[f"{name}: a bit above"] = word | 1 << operation.bits
        words[f"{name}: the top bit"] = word | 1 << isa.INSTRUCTION_BITS - 1
        for unit in list(Unit) if operation.unit is None else [operation.unit]:
            words[f"{name}: waits for {unit.name}"] = word | 1 << isa.WAIT_OFFSET + unit
            words[f"{name}: signals {unit.name}"] = word | 1 << isa.SIGNAL_OFFSET + unit
    last_address = (1 << core.address_bits) - core.bus_bytes
    changed_instructions: dict[str, tuple[str, dict[str, int]]] = {
        "load: no such buffer": ("load", {"buffer": len(BUFFERS)}),
        "load: past memory": ("load", {"memory": last_address, "words": 2}),
        "store: past memory": ("store", {"memory": last_address, "words": 2}),
        "matmul: past the sums": ("matmul", {"accumulator": core.accumulator_words}),
        "store: past the sums": ("store", {"accumulator": core.accumulator_words}),
        "matmul: group too long": ("matmul", {"group_slices": core.engine.group_slices + 1}),
    }
    modes = core.engine.modes
    for mode in {max(modes) + 1, (1 << isa.MODE_BITS) - 1} - {1 << isa.MODE_BITS}:
        if mode not in modes:
            changed_instructions[f"matmul: no mode {mode}"] = ("matmul", {"mode": mode})
    for mode, planes in modes.items():
        for count in {planes[0] - 1, planes[-1] + 1} & set(range(1, 9)):
            changed_instructions[f"matmul: {count} planes in mode {mode}"] = (
                "matmul",
                {"planes": count, "mode": mode},
            )
    if not core.engine.fills:
        changed_instructions["fill: nothing to fill"] = ("fill", {})
    for fill in core.engine.fills:
        full_fill = {"slices": fill.slices, "planes": fill.planes, "mode": fill.mode}
        changes: dict[str, dict[str, int]] = {
            "too long": {"slices": fill.slices + 1},
            "too many planes": {"planes": fill.planes + 1},
            "too few planes": {"planes": fill.planes - 1},
            "not a fill's mode": {"mode": min(modes)},
            "past weights": {"weight": core.weight_buffer.bus_words},
        }
        if core.weight_buffer.words_per_beat > 1:
            changes["within weights"] = {"weight": 1}
        for title, change in changes.items():
            changed_instructions[f"fill: {title}"] = ("fill", full_fill | change)
    for i, buffer in enumerate(core.buffers):
        past = {"buffer": i, "address": buffer.bus_words - 1, "words": 2}
        changed_instructions[f"load: past {buffer.name}s"] = ("load", past)
        changed_instructions[f"matmul: past {buffer.name}s"] = (
            "matmul",
            {buffer.name: buffer.bus_words},
        )
        if buffer.words_per_beat > 1:
            changed_instructions[f"matmul: within {buffer.name}s"] = ("matmul", {buffer.name: 1})
    return words | _encoded(core, changed_instructions)


def overrunning_words(core: CoreSpec) -> dict[str, int]:
    """Instructions that run past the end of a buffer or of a bank of sums, by a title for each."""
    changed_instructions: dict[str, tuple[str, dict[str, int]]] = {}
    for buffer in core.buffers:
        last_beat = buffer.bus_words - buffer.words_per_beat
        counts = {"slices": buffer.beats_per_word + 1, "group_slices": 1}
        changed_instructions[f"matmul: overruns {buffer.name}s"] = (
            "matmul",
            counts | {buffer.name: last_beat},
        )
    weights = core.weight_buffer
    for fill in core.engine.fills:
        last_beat = weights.bus_words - weights.words_per_beat
        if fill.slices * fill.planes > weights.beats_per_word:
            counts = {"slices": fill.slices, "planes": fill.planes, "mode": fill.mode}
            changed_instructions["fill: overruns weights"] = (
                "fill",
                counts | {"weight": last_beat},
            )
    words = 2 * core.scale_lanes * RESULT_BITS // core.bus_bits + 1
    for title, accumulator in (("a bank", core.bank_words - 1), ("sums", 2 * core.bank_words - 1)):
        rows, span = {"row_tiles": 2}, {"words": words}
        changed_instructions[f"matmul: overruns {title}"] = (
            "matmul",
            rows | {"accumulator": accumulator},
        )
        changed_instructions[f"store: overruns {title}"] = (
            "store",
            span | {"accumulator": accumulator},
        )
    return _encoded(core, changed_instructions)


def static_fault(core: CoreSpec, word: int) -> Fault | None:
    """The fault that the dispatcher must report for a word, or None.

    These are all rules except those on how far a loop runs. They are stated here independently of
    `hw.isa.instructions.check`.
    """
    try:
        decoded = isa.decode(word)
    except IsaError:
        return Fault.ILLEGAL
    name, holds = decoded.operation.name, []
    if name in ("load", "store"):
        end = decoded["memory"] // core.bus_bytes + decoded["words"]
        holds.append(end * core.bus_bytes <= 1 << core.address_bits)
    if name in ("matmul", "store"):
        holds.append(decoded["accumulator"] < core.accumulator_words)
    if name == "load":
        words = [buffer.bus_words for buffer in core.buffers]
        room = dict(enumerate(words)).get(decoded["buffer"], 0)
        holds.append(decoded["address"] + decoded["words"] <= room)
    if name == "matmul":
        holds.append(decoded["planes"] in core.engine.modes.get(decoded["mode"], ()))
        holds.append(decoded["group_slices"] <= core.engine.group_slices)
        for buffer in core.buffers:
            address = decoded[buffer.name]
            holds.append(address < buffer.bus_words and address % buffer.words_per_beat == 0)
    if name == "fill":
        fills = {fill.mode: fill for fill in core.engine.fills}
        fill = fills.get(decoded["mode"])
        holds.append(fill is not None and decoded["slices"] <= fill.slices)
        holds.append(fill is not None and decoded["planes"] == fill.planes)
        buffer, address = core.weight_buffer, decoded["weight"]
        holds.append(address < buffer.bus_words and address % buffer.words_per_beat == 0)
    if not all(holds):
        return Fault.ILLEGAL
    if name in ("load", "store") and decoded["memory"] % core.bus_bytes:
        return Fault.MISALIGNED
    return None


def _random_word(core: CoreSpec, rng: np.random.Generator) -> int:
    """Random bits, or an instruction near the limits of the core, sometimes with one bit
    flipped."""
    if rng.random() < 0.1:
        return int.from_bytes(rng.bytes(isa.INSTRUCTION_BYTES), "little")
    operation = list(OPERATIONS.values())[rng.integers(len(OPERATIONS))]
    limits = [buffer.bus_words for buffer in core.buffers] + [
        core.accumulator_words,
        core.engine.weight_bits,
        core.engine.group_slices,
        1 << core.address_bits,
    ]
    word = operation.opcode
    if rng.random() < 0.3:
        word |= int(rng.integers(64)) << isa.WAIT_OFFSET
    for field in operation.fields:
        limit = limits[rng.integers(len(limits))]
        value = [
            int(rng.integers(1 << field.bits)),
            limit - int(rng.integers(4)),
            (limit - int(rng.integers(1, 4)) * core.bus_bytes) & -core.bus_bytes,
            int(rng.integers(8)),
            0,
        ][rng.choice(5, p=(0.15, 0.15, 0.15, 0.15, 0.4))]
        word |= (max(0, value) & (1 << field.bits) - 1) << operation.offsets[field.name]
    if rng.random() < 0.2:
        word ^= 1 << int(rng.integers(isa.INSTRUCTION_BITS))
    return word


def _edges(core: CoreSpec, rng: np.random.Generator) -> Iterator[int]:
    """Loads and stores that end at the last word of memory or of a buffer, or one word after it.
    Their lengths are the powers of two and some random ones."""

    def lengths(bits: int) -> list[int]:
        largest = (1 << bits) - 1
        return [*(1 << bit for bit in range(bits)), *rng.integers(1, largest, 20).tolist()]

    end = 1 << core.address_bits
    words_bits = {field.name: field.bits for field in OPERATIONS["store"].fields}["words"]
    changes: list[tuple[str, dict[str, int]]] = []
    for excess_words in (0, 1):
        for words in lengths(words_bits):
            if words * core.bus_bytes <= end:
                memory = end - words * core.bus_bytes
                changes.append(("store", {"memory": memory, "words": words + excess_words}))
        for i, buffer in enumerate(core.buffers):
            for words in lengths((buffer.bus_words - 1).bit_length()):
                place = {
                    "buffer": i,
                    "address": buffer.bus_words - words,
                    "words": words + excess_words,
                }
                changes.append(("load", place))
                memory = end - words * core.bus_bytes
                changes.append(
                    ("load", {"buffer": i, "memory": memory, "words": words + excess_words})
                )
    for name, values in changes:
        yield isa.encode(plain(core, name, **values))


def check_words(bench: Bench, rng: np.random.Generator) -> None:
    """Random words: the dispatcher accepts exactly the words that the rules allow."""
    core, address = bench.core, MEMORY_PAGE_BYTES
    with bench.session() as session:
        for word in (*_edges(core, rng), *(_random_word(core, rng) for _ in range(400))):
            put(session.memory, address, words_to_bytes([word]))
            event = session.run(address, 1, LIMIT_CYCLES)
            while event.kind == "sync":
                event = session.resume(LIMIT_CYCLES)
            fault = static_fault(core, word)
            expected = (Fault.NO_HALT, 1) if fault is None else (fault, 0)
            if word == isa.encode(plain(core, "halt")):
                expected = (None, 0)
            bench.check(f"word {word:#034x}", "outcome", (event.fault, event.index), expected)
            bench.tally.cases += 1
            bench.tally.coverage["random word accepted" if fault is None else "refused"] += 1


def _wrongs(bench: Bench, rng: np.random.Generator) -> Iterator[Wrong]:
    """Yields every fault, most of them in the middle of a random program."""
    core = bench.core

    def words(program: Sequence[Instruction]) -> tuple[int, ...]:
        return tuple(isa.encode(step) for step in program)

    def within(name: str, word: int, fault: Fault) -> Wrong:
        program = words(bench.random_program(rng, length=20).instructions)
        index = int(rng.integers(len(program)))
        return Wrong(name, (*program[:index], word, *program[index:]), fault, index)

    for name, word in illegal_words(core).items():
        yield within(name, word, Fault.ILLEGAL)
    for name, word in overrunning_words(core).items():
        yield within(name, word, Fault.BOUNDS)
    for name in ("load", "store"):
        crooked = plain(core, name, memory=int(rng.integers(1, core.bus_bytes)))
        yield within(f"{name}: misaligned", isa.encode(crooked), Fault.MISALIGNED)

    any_program = words(bench.random_program(rng).instructions)
    for offset in (isa.INSTRUCTION_BYTES, MEMORY_PAGE_BYTES // 2, 1 << core.address_bits):
        title = f"program at {offset:#x}"
        yield Wrong(title, any_program, Fault.MISALIGNED, 0, address=offset, fetched=False)
    for pages in (1, 16):
        start = (1 << core.address_bits) - pages * MEMORY_PAGE_BYTES
        count = pages * MEMORY_PAGE_BYTES // isa.INSTRUCTION_BYTES + 1
        title = f"{count} instructions at {start:#x}"
        outside = Wrong(title, (), Fault.MISALIGNED, 0, start, count=count, fetched=False)
        yield outside
        # The longest that would fit is fetched; no memory lies there.
        title = f"{count - 1} instructions at {start:#x}"
        yield Wrong(title, (), Fault.READ, 0, start, count=count - 1)
    longest = (1 << isa.INDEX_BITS) - 1
    start = (1 << core.address_bits) - MEMORY_PAGE_BYTES
    title = f"{longest} instructions at {start:#x}"
    yield Wrong(title, (), Fault.MISALIGNED, 0, start, count=longest, fetched=False)
    yield Wrong("no halt", any_program[:-1], Fault.NO_HALT, len(any_program) - 1)
    yield Wrong("no instruction", (), Fault.NO_HALT, 0)

    for name, fault in (("load", Fault.READ), ("store", Fault.WRITE)):
        for response in (SLVERR, DECERR):
            program: Sequence[Instruction] = ()
            while not any(step.operation.name == name for step in program):
                program = bench.random_program(rng).instructions
            yield _trapped(core, rng, program, name, fault, response)
    longer_program = words(bench.random_program(rng, length=20).instructions)
    for failing_index in {0, len(longer_program) // 2, len(longer_program) - 1}:
        yield _untold(core, longer_program, failing_index)
    yield from _too_many_tokens(core)

    def guarded(session: Session) -> None:
        session.set("watchdog", PATIENCE)

    for unit in (Unit.LOAD, Unit.STORE):
        for _ in range(2):
            yield _silent(bench, rng, unit)
    for last in (None, None, None, None, *_PLAIN.values()):
        yield _stuck(bench, rng, last)
    for name, source in (("matmul", Unit.LOAD), ("store", Unit.COMPUTE), ("sync", Unit.STORE)):
        waits = isa.encode(plain(core, name)) | 1 << isa.WAIT_OFFSET + source
        waiting = (waits, isa.encode(plain(core, "halt")))
        title = f"{name} waits for ever"
        yield Wrong(title, waiting, Fault.WATCHDOG, 0, setup=guarded)


def _untold(core: CoreSpec, program: tuple[int, ...], index: int) -> Wrong:
    """A program for which the fetch of the instruction `index` is answered with an error. The first
    instruction in the fetched bus word is at fault."""
    address = MEMORY_PAGE_BYTES + isa.INSTRUCTION_BYTES * index
    first_index = (address - address % core.bus_bytes - MEMORY_PAGE_BYTES) // isa.INSTRUCTION_BYTES
    return Wrong(
        f"fetch of {index} answered with an error",
        program,
        Fault.READ,
        first_index,
        setup=lambda session: session.trap(address, address + 1, write=False, response=SLVERR),
        fetch_fails=True,
    )


def _too_many_tokens(core: CoreSpec) -> Iterator[Wrong]:
    """Yields programs in which one unit gives another one token more than can be counted, for every
    pair of units."""

    def word(name: str, waits: int = 0, gives: int = 0) -> int:
        header = waits << isa.WAIT_OFFSET | gives << isa.SIGNAL_OFFSET
        return isa.encode(plain(core, name)) | header

    for unit, taker in permutations(Unit, 2):
        name = _PLAIN[unit]
        (third,) = set(Unit) - {unit, taker}
        allowed_tokens = [word(name, gives=1 << taker)] * core.token_limit
        endings = {name: [word(name, gives=1 << taker)]}
        if unit is Unit.LOAD:
            # A sync must not overtake what is still being loaded.
            third_name = {Unit.COMPUTE: "matmul", Unit.STORE: "store"}[third]
            endings["sync"] = [
                word("load", gives=1 << third),
                word(third_name, waits=1 << unit, gives=1 << unit),
                word("sync", waits=1 << third, gives=1 << taker),
            ]
        for title, ending in endings.items():
            program = (*allowed_tokens, *ending, word("halt"))
            index = len(program) - 2
            name = f"too many tokens of {title} to {taker.name}"
            yield Wrong(name, program, Fault.TOKENS, index)


def _stuck(bench: Bench, rng: np.random.Generator, last: str | None) -> Wrong:
    """A random program with a wait that nobody ends. If there is a `last`, it comes after the last
    operation of that name, and no sync is before it, so that the watchdog's cycle is known."""
    core, timing = bench.core, MemoryTiming(20, bench.core.bus_bytes)
    while True:
        drawn = bench.random_program(rng, length=30)
        program = list(drawn.instructions)
        index = int(rng.integers(len(program)))
        if last is not None:
            names = [step.operation.name for step in program]
            if last not in names or "sync" in names:
                continue
            index = len(names) - names[::-1].index(last)
            program[index:] = [plain(core, "sync"), plain(core, "halt")]
        unit = program[index].operation.unit
        if unit is None:
            continue
        source = rng.choice([other for other in Unit if other is not unit])
        waits = program[index].wait | {Unit(source)}
        program[index] = replace(program[index], wait=waits)
        steps = None if core.engine.steps_are_fixed else drawn.expected().beat_steps
        try:
            program_cycles(core, program, timing, MEMORY_PAGE_BYTES, steps)
        except DeadlockError:
            moved, index = stand(core, program, timing, steps)
            break
        except IsaError:
            pass
    words = tuple(isa.encode(step) for step in program)

    def setup(session: Session) -> None:
        session.memory[:] = drawn.image
        put(session.memory, MEMORY_PAGE_BYTES, words_to_bytes(words))
        session.set("watchdog", PATIENCE)

    title = f"a wait for ever after a {last}" if last else "a wait for ever"
    cycle = moved + PATIENCE + 1 if last else None
    return Wrong(title, words, Fault.WATCHDOG, index, setup=setup, cycle=cycle)


def _silent(bench: Bench, rng: np.random.Generator, unit: Unit) -> Wrong:
    """A program during which the memory falls silent until the watchdog has stopped it. The
    instruction that must be blamed is one of `unit`."""
    core = bench.core
    timing = MemoryTiming(20, core.bus_bytes)
    while True:
        program = bench.random_program(rng, length=60)
        instructions = program.instructions
        # The cycle in which the host resumes would count.
        if any(step.operation.name == "sync" for step in instructions):
            continue
        steps = None if core.engine.steps_are_fixed else program.expected().beat_steps
        for first_silent in rng.integers(1, 400, 40).tolist():
            last_movement, index = stand(core, instructions, timing, steps, first_silent)
            if instructions[index].operation.unit is unit:
                return _silent_from(program, first_silent, last_movement + 2 * PATIENCE, index)


def _silent_from(program: BenchProgram, first: int, end: int, index: int) -> Wrong:
    """A program whose memory is silent from the cycle `first` to the cycle `end`; `index` is the
    instruction that must be blamed."""

    def setup(session: Session) -> None:
        session.memory[:] = program.image
        session.set("watchdog", PATIENCE)
        session.silence(first, end)

    encoded = tuple(isa.encode(step) for step in program.instructions)
    return Wrong(
        "silent memory",
        encoded,
        Fault.WATCHDOG,
        index,
        address=program.address,
        setup=setup,
        exact_time=True,
    )


def _trapped(
    core: CoreSpec,
    rng: np.random.Generator,
    program: Sequence[Instruction],
    name: str,
    fault: Fault,
    response: int,
) -> Wrong:
    """A program in which one word of a load or store is answered with an error."""
    touching = [step for step in program if step.operation.name == name]
    chosen = touching[rng.integers(len(touching))]
    address = chosen["memory"] + core.bus_bytes * int(rng.integers(chosen["words"]))

    def touches(step: Instruction) -> bool:
        is_same = step.operation.name == name
        return is_same and 0 <= address - step["memory"] < step["words"] * core.bus_bytes

    return Wrong(
        f"{name} answered with {response}",
        tuple(isa.encode(step) for step in program),
        fault,
        next(i for i, step in enumerate(program) if touches(step)),
        setup=lambda session: session.trap(
            address, address + 1, write=name == "store", response=response
        ),
    )


_PLAIN = {Unit.LOAD: "load", Unit.COMPUTE: "matmul", Unit.STORE: "store"}
"""An instruction of each unit that every core can run."""


def _tokens(core: CoreSpec, giver: Unit, taker: Unit, count: int) -> list[Instruction]:
    """A program in which `count` tokens from one unit to another accumulate before the first is
    taken."""

    def work_of(unit: Unit, wait: Iterable[Unit] = (), signal: Iterable[Unit] = ()) -> Instruction:
        return replace(plain(core, _PLAIN[unit]), wait=frozenset(wait), signal=frozenset(signal))

    # The third unit lets the taker begin once the giver's last instruction is complete.
    (third,) = set(Unit) - {giver, taker}
    return [
        *[work_of(giver, signal=[taker])] * (count - 1),
        work_of(giver, signal=[taker, third]),
        work_of(third, wait=[giver], signal=[taker]),
        work_of(taker, wait=[giver, third]),
        *[work_of(taker, wait=[giver])] * (count - 1),
        plain(core, "halt"),
    ]


def check_tokens(bench: Bench, _: np.random.Generator) -> None:
    """Between every two units, as many tokens as can be counted are given and taken without a
    fault. `check_faults` checks that one more is a fault."""
    core = bench.core
    with bench.session() as session:
        for giver, taker in permutations(Unit, 2):
            program = _tokens(core, giver, taker, core.token_limit)
            put(session.memory, MEMORY_PAGE_BYTES, isa.to_bytes(program))
            event = session.run(MEMORY_PAGE_BYTES, len(program), LIMIT_CYCLES)
            case = f"all tokens {giver.name} to {taker.name}"
            bench.check(case, "outcome", outcome(event), "done")
            if event.kind == "limit":
                session.reset()
            bench.tally.cases += 1
            bench.tally.coverage["all tokens"] += 1
        for taker in (Unit.COMPUTE, Unit.STORE):
            _check_tokens_at_once(bench, session, taker)


def _check_tokens_at_once(bench: Bench, session: Session, taker: Unit) -> None:
    """A load and a sync give a token to one unit in the same cycle or a few cycles apart: both must
    count. Where one of them is a token too many, the later one is at fault, and the load if they
    come at once."""
    core = bench.core
    load = replace(plain(core, "load", words=3), signal=frozenset([taker]))
    sync = replace(plain(core, "sync"), signal=frozenset([taker]))
    take = replace(plain(core, _PLAIN[taker]), wait=frozenset([Unit.LOAD]))
    halt = plain(core, "halt")
    limit = core.token_limit
    cases = {
        "two tokens": ([load, sync, take, take, halt], ["done"] * 2),
        "a token too many": (
            [load] * limit + [sync, halt],
            [f"fault TOKENS at instruction {index}" for index in (limit - 1, limit)],
        ),
    }
    session.set("watchdog", PATIENCE)
    for title, (program, (at_first, later)) in cases.items():
        put(session.memory, MEMORY_PAGE_BYTES, isa.to_bytes(program))
        words = sum(step["words"] for step in program if step.operation.name == "load")
        words += -(-len(program) * isa.INSTRUCTION_BITS // core.bus_bits)

        def start(host_cycles: int, count: int = len(program)) -> Event:
            session.set_timing(MemoryTiming(60, core.bus_bytes, host_cycles=host_cycles))
            return session.run(MEMORY_PAGE_BYTES, count, LIMIT_CYCLES)

        # The cycle of the load's last word, seen from the sync's.
        raised = event = start(1)
        while event.read_beats < words and event.cycle < raised.cycle + PATIENCE:
            event = session.wait(1)
        session.reset()
        session.set("watchdog", PATIENCE)
        for delay_cycles in range(-3, 4):
            start(event.cycle - 1 - raised.cycle + delay_cycles)
            case = f"{title} to {taker.name}, a sync's {delay_cycles} cycles after a load's"
            end = session.resume(LIMIT_CYCLES)
            bench.check(case, "outcome", outcome(end), at_first if delay_cycles <= 0 else later)
            if end.kind == "limit":
                session.reset()
            bench.tally.cases += 1
            bench.tally.coverage["tokens at once"] += 1
    session.set("watchdog", WATCHDOG_DEFAULT)


def check_faults(bench: Bench, rng: np.random.Generator) -> None:
    """Every fault is reported correctly and leaves the bus clean, and the next program runs as it
    should."""
    timing = MemoryTiming(20, bench.core.bus_bytes)
    good = bench.random_program(rng)
    expected = good.expected()
    at_once = max(1, bench.core.bus_bits // isa.INSTRUCTION_BITS)
    with bench.session() as session:
        for seed, wrong in enumerate(_wrongs(bench, rng)):
            session.set_timing(timing)
            _check_fault(bench, session, wrong, wrong.name, rng, exact=True)
            bench.play(session, f"after {wrong.name}", good, expected, timing)
            if not wrong.exact_time:
                session.set_random(seed)
                _check_fault(bench, session, wrong, f"{wrong.name} random", rng)
                bench.play(session, f"after {wrong.name} random", good, expected, seed)
            if wrong.fetched and wrong.count is None:
                memory = (1 << bench.core.address_bits) - wrong.address
                most_before = min(memory // isa.INSTRUCTION_BYTES, 1 << isa.INDEX_BITS) - len(
                    wrong.words
                )
                late = int(rng.integers(most_before))
                for _ in range(_LATE.get(wrong.fault, 1)):
                    late = min(late, most_before - 1) // at_once * at_once
                    _check_fault(bench, session, wrong, f"{wrong.name} late", rng, late)
                    bench.tally.coverage["fault late in a program"] += 1
                    late ^= (1 << most_before.bit_length()) - 1
        _check_places(bench, session)
        _check_lengths(bench, session, rng)
        _check_patience(bench, session, good, expected)


_LATE: dict[Fault, int] = dict.fromkeys(
    (Fault.READ, Fault.WRITE, Fault.BOUNDS, Fault.TOKENS, Fault.WATCHDOG), 2
)
"""How often a fault of an instruction that waits in a queue is checked late in a program. The
second time, each bit of the instruction's index is inverted, so that every bit is tested as 0 and
as 1."""


def _check_places(bench: Bench, session: Session) -> None:
    """A program that does not lie at a legal place is not fetched. Each case breaks one rule: a bit
    of the address that must be 0 is 1, or the program ends past the last address.

    The latter is tried with one instruction too many from each power of two before the end of
    memory, and with excesses of each power of two.
    """
    bits = bench.core.address_bits
    page_bits, page = (MEMORY_PAGE_BYTES - 1).bit_length(), MEMORY_PAGE_BYTES
    places = [(1 << bit, 1) for bit in (*range(page_bits), *range(bits, 64))]
    fitting = [(1 << bit, 1) for bit in range(page_bits, bits + 1)]
    fitting += [(page, 1 << bit) for bit in range(isa.INDEX_BITS)]
    for size, excess in fitting:
        count = size // isa.INSTRUCTION_BYTES + excess
        if count < 1 << isa.INDEX_BITS:
            places.append(((1 << bits) - size, count))
    session.set_timing(MemoryTiming(20, bench.core.bus_bytes))
    for address, count in places:
        event = session.run(address, count, LIMIT_CYCLES)
        if event.kind == "limit":
            session.reset()
        case = f"{count} instructions at {address:#x}"
        stop = (event.fault, event.index, event.read_beats)
        bench.check(case, "fault, index and words read", stop, (Fault.MISALIGNED, 0, 0))
        bench.tally.cases += 1
    bench.watch(session, "programs out of place")


def _check_fault(
    bench: Bench,
    session: Session,
    wrong: Wrong,
    case: str,
    rng: np.random.Generator,
    before: int = 0,
    *,
    exact: bool = False,
) -> None:
    """`before` instructions count as dispatched before those that there are. The session's time may
    be `exact`."""
    session.memory[:] = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
    # What lies beyond the memory's end lies nowhere, but must not be read either.
    put(session.memory, wrong.address % MEMORY_BYTES, words_to_bytes(wrong.words))
    wrong.setup(session)
    at_error = bool(rng.random() < 0.5) or wrong.cycle is not None
    session.advance("index", before)
    session.advance("words", before * isa.INSTRUCTION_BITS // bench.core.bus_bits)
    count = before + (len(wrong.words) if wrong.count is None else wrong.count)
    event = session.run(wrong.address, count, LIMIT_CYCLES, stop_at_error=at_error)
    while event.kind == "sync":
        event = session.resume(LIMIT_CYCLES)
    if session.busy:
        session.wait(LIMIT_CYCLES)
    bench.watch(session, case)
    bench.check(case, "busy", session.busy, False)
    bench.check(case, "fault", event.fault, wrong.fault)
    bench.check(case, "index", event.index, wrong.index + before)
    if exact and wrong.cycle is not None:
        bench.check(case, "cycle", event.cycle, wrong.cycle)
    if wrong.fetch_fails:
        late = max(0, session.get("dispatched_low") - wrong.index)
        bench.check(case, "instructions dispatched from the word at fault on", late, 0)
    if not wrong.fetched:
        bench.check(case, "words read", session.get("read_beats_low"), 0)
        bench.check(case, "words that crossed the bus", event.read_beats, 0)
    session.calm()
    session.set("watchdog", WATCHDOG_DEFAULT)
    bench.tally.cases += 1
    bench.tally.coverage[f"fault {wrong.fault.name}"] += 1


def _check_lengths(bench: Bench, session: Session, rng: np.random.Generator) -> None:
    """Exactly as many words are fetched as a program of any length has. Most of its instructions
    are counted as fetched and dispatched, at the start or some cycles later; the last two bursts of
    it run."""
    core = bench.core
    at_once = max(1, core.bus_bits // isa.INSTRUCTION_BITS)
    words_left = 2 * core.fetch_beats
    loads = words_left * core.bus_bits // isa.INSTRUCTION_BITS - 1
    remainder = [*[plain(core, "load")] * loads, plain(core, "halt")]
    most_instructions = min(
        (1 << core.address_bits) // isa.INSTRUCTION_BYTES, (1 << isa.INDEX_BITS) - 1
    )
    latency_cycles = 20
    put(session.memory, 0, isa.to_bytes(remainder))
    session.set_timing(MemoryTiming(latency_cycles, core.bus_bytes))
    for i, bit in enumerate(np.repeat(range(6, isa.INDEX_BITS), 4).tolist()):
        before = (
            min(int(rng.integers(1 << bit, 2 << bit)), most_instructions - len(remainder))
            // at_once
            * at_once
        )
        count, started = before + len(remainder), None
        if i % 2:
            # Once more bursts were asked for: at once, or when the first has been answered.
            wait = (
                latency_cycles + core.fetch_beats
                if core.outstanding_reads == 1 and i % 4 == 1
                else 0
            )
            started = session.run(0, count, wait + int(rng.integers(1, latency_cycles)))
        go_late(session, core, before)
        event = session.wait(LIMIT_CYCLES) if started else session.run(0, count, LIMIT_CYCLES)
        case = f"{before + len(remainder)} instructions"
        end = outcome(event), event.read_beats
        bench.check(case, "outcome and words read", end, ("done", words_left + loads))
        if event.kind == "limit":
            session.reset()
        bench.tally.cases += 1
    bench.watch(session, "programs of many instructions")


def _check_long_patience(bench: Bench, session: Session) -> None:
    """The watchdog waits exactly as long as it is told, for limits that make its count carry at
    every bit."""
    words = [instruction("sync", wait=[Unit.STORE]), plain(bench.core, "halt")]
    BenchProgram(bench.core, words, 0, session.memory)
    session.set("watchdog", PATIENCE)
    stop = session.run(0, len(words), LIMIT_CYCLES).cycle
    for bit in range(9, 32):
        patience = (1 << bit) + PATIENCE // 2 + bit % 2
        case = f"watchdog of {patience}"
        session.set("watchdog", patience)
        session.run(0, len(words), stop - PATIENCE // 2)
        session.advance("still", (1 << bit) - PATIENCE // 2)
        event = session.wait(LIMIT_CYCLES)
        bench.check(case, "fault", event.fault, Fault.WATCHDOG)
        bench.check(case, "cycle", event.cycle, stop + bit % 2)
        if event.kind == "limit":
            session.reset()
        bench.tally.cases += 1


def _check_patience_after_address(bench: Bench, session: Session) -> None:
    """The watchdog starts to count in the cycle in which an address was taken and nothing else
    moved.

    The first fetch of a program waits for some cycles until its address is taken, and then too long
    for its words.
    """
    words = [plain(bench.core, "halt")]
    BenchProgram(bench.core, words, 0, session.memory)
    session.set_timing(MemoryTiming(4 * PATIENCE, bench.core.bus_bytes))
    session.set("watchdog", PATIENCE)
    waits, stops = (20, 50, 51), []
    for cycles in waits:
        session.silence(0, cycles)
        event = session.run(0, len(words), LIMIT_CYCLES, stop_at_error=True)
        bench.check("watchdog of a fetch", "fault", event.fault, Fault.WATCHDOG)
        stops.append(event.cycle - cycles)
        session.reset()
        session.calm()
        session.set("watchdog", PATIENCE)
    bench.check("watchdog of a fetch", "cycles from its address on", stops, [stops[0]] * len(waits))
    bench.tally.cases += len(waits)


def _check_patience(bench: Bench, session: Session, good: BenchProgram, expected: Expected) -> None:
    """Long waits that the watchdog must allow, and a memory that never answers again."""
    core, case = bench.core, "watchdog"
    session.set("watchdog", PATIENCE)
    program = [plain(core, "sync"), plain(core, "halt")]
    image_ = np.zeros(MEMORY_BYTES, np.uint8)
    called = BenchProgram(core, program, 0, image_)
    slow_host = MemoryTiming(20, core.bus_bytes, host_cycles=2000)
    bench.play(session, "a host slower than the watchdog", called, called.expected(), slow_host)
    bench.play(session, "good under watchdog", good, expected, MemoryTiming(200, core.bus_bytes))

    _check_long_patience(bench, session)
    _check_patience_after_address(bench, session)
    session.set("watchdog", 0)
    waits = instruction("sync", wait=[Unit.STORE])
    BenchProgram(core, [waits, plain(core, "halt")], 0, session.memory)
    event = session.run(0, 2, 100_000)
    bench.check(case, "outcome with the watchdog off", event.kind, "limit")
    session.reset()
    bench.play(session, "after a reset", good, expected, slow_host)

    session.set("watchdog", PATIENCE)
    session.silence(20)
    event = session.run(good.address, len(good.instructions), LIMIT_CYCLES, stop_at_error=True)
    bench.check(case, "fault of a dead memory", event.fault, Fault.WATCHDOG)
    bench.check(case, "busy before a dead memory", session.busy, True)
    session.reset()
    session.calm()
    bench.play(session, "after a dead memory", good, expected, slow_host)
