"""Checks of the host's side of a core: registers, counters and the interrupt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import Fault
from evolute.hw.isa.registers import (
    COUNTERS,
    IDENTITY,
    REGISTERS,
    WATCHDOG_DEFAULT,
    Control,
    Status,
)
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core.bench import LIMIT_CYCLES, MEMORY_BYTES, Bench, put
from evolute.verif.core.faults import plain, words_to_bytes
from evolute.verif.core.session import OKAY, SLVERR, Access, Seen, Session


def check_registers(bench: Bench, rng: np.random.Generator) -> None:
    """Registers read and are written as documented, with exact and with random bus timing."""
    with bench.session() as session:
        for case in ("registers", "registers in random time"):
            session.reset()
            _check_registers(bench, session, rng, case)
            session.set_random(1)


def _check_registers(bench: Bench, session: Session, rng: np.random.Generator, case: str) -> None:
    bench.tally.cases += 1

    def check(name: str, actual: object, expected: object) -> None:
        bench.check(case, name, actual, expected)

    _check_after_reset(bench, session, "power-on")
    offsets = {register.offset for register in REGISTERS.values()}
    for offset in range(0, 256, 4):
        if offset not in offsets:
            check(f"response to a read of {offset:#x}", session.read(offset)[0].response, SLVERR)
            answer = session.write(offset, int(rng.integers(1 << 32)))
            check(f"response to a write of {offset:#x}", answer.response, SLVERR)
    widths = {"interrupt_enable": len(Status), "instructions": isa.INDEX_BITS}
    for name, register in REGISTERS.items():
        before = session.get(name)
        if not register.writable:
            answer = session.write(register.offset, ~before & 0xFFFFFFFF)
            check(f"response to a write of {name}", answer.response, SLVERR)
            check(f"{name} after a write", session.get(name), before)
        elif name != "control":
            mask = (1 << widths.get(name, 32)) - 1
            for strobes in (15, *range(16)):
                value = int(rng.integers(1 << 32))
                bytes_ = sum(0xFF << 8 * i for i in range(4) if strobes >> i & 1)
                before = (before & ~bytes_ | value & bytes_) & mask
                session.write(register.offset, value, strobes)
                check(f"{name} written with strobes {strobes:#x}", session.get(name), before)
    session.set("watchdog", WATCHDOG_DEFAULT)
    _check_interrupts(bench, session, check)
    _check_half_writes(session, check)
    _check_late_answers(session, check)
    _check_crowds(session, rng, check)
    _check_forgotten(bench, session)


def _check_after_reset(bench: Bench, session: Session, event: str) -> None:
    """Every register has the value that a reset gives it. `event` names the reset in messages."""
    fixed = {
        "identity": IDENTITY,
        "digest": int(bench.core.digest[:8], 16),
        "watchdog": WATCHDOG_DEFAULT,
    }
    for name in REGISTERS:
        bench.check("registers", f"{name} after {event}", session.get(name), fixed.get(name, 0))
    bench.check("registers", f"interrupt after {event}", session.interrupt, False)


def _check_forgotten(bench: Bench, session: Session) -> None:
    """A reset clears what was written, all counters, and each of the errors."""
    core = bench.core
    load, store = (plain(core, name) for name in ("load", "store"))
    illegal = words_to_bytes([(1 << isa.INSTRUCTION_BITS) - 1])
    programs = {
        "no halt": isa.to_bytes([load, store, load]),
        "an illegal instruction": isa.to_bytes([load, store, load]) + illegal,
        "a program out of place": b"",
        "a program that ended": isa.to_bytes([load, store, plain(core, "halt")]),
    }
    for ending, program in programs.items():
        put(session.memory, 0, program)
        session.run(0 if program else 1, len(program) // isa.INSTRUCTION_BYTES, LIMIT_CYCLES)
        for register in REGISTERS.values():
            if register.writable and register.offset != REGISTERS["control"].offset:
                session.write(register.offset, 0xFFFFFFFF)
        session.reset()
        _check_after_reset(bench, session, f"a reset that follows {ending}")
    bench.tally.cases += len(programs)


def _check_half_writes(session: Session, check: Callable[[str, object, object], None]) -> None:
    """A reset drops a write of which only the address or only the data was taken."""
    offset, next_register = REGISTERS["program_low"].offset, REGISTERS["program_high"]
    for half, address_after, data_after in (("address", 0, 50), ("data", 50, 0)):
        session.offer(address_after, offset, 0x1234, data_after=data_after)
        session.step(5)
        session.reset()
        response = session.write(next_register.offset, 7).response
        check(f"response to a write after the {half} alone", response, OKAY)
        check(f"program_high after the {half} alone", session.get("program_high"), 7)
        check(f"program_low after the {half} alone", session.get("program_low"), 0)


def _check_late_answers(session: Session, check: Callable[[str, object, object], None]) -> None:
    """A write takes effect even if the host does not take its answer for a long time."""
    session.hold(0, 60)
    session.offer(5, REGISTERS["program_low"].offset, 0x5A5A)
    sights = session.watch(60, "program_low")
    values = [sight.value for sight in sights if sight.what is Seen.VALUE]
    check("program_low while no answer is taken", values[-1], 0x5A5A)


_CROWD = ("program_low", "program_high", "watchdog")
"""Registers of 32 bits that can be written without effect while no program runs."""


def _check_crowds(
    session: Session, rng: np.random.Generator, check: Callable[[str, object, object], None]
) -> None:
    """Several writes, and several reads, are offered at once. Each waits until the previous one is
    taken, none is lost, and each gets its own answer."""
    for first, address_after, data_after in (("addresses", 0, 20), ("data", 20, 0), ("both", 0, 0)):
        values = {name: int(rng.integers(1 << 32)) for name in _CROWD}
        for name, value in values.items():
            session.offer(address_after, REGISTERS[name].offset, value, data_after=data_after)
        session.hold(21, 20)
        sights = session.watch(120, "status")
        answers = [Access(sight.value) for sight in sights if sight.what is Seen.ANSWER]
        check(f"answers to several writes, {first} first", answers, [Access(OKAY)] * len(values))
        for name, value in values.items():
            check(f"{name} of several writes, {first} first", session.get(name), value)
        answers = session.read(*(REGISTERS[name].offset for name in 2 * _CROWD))
        answered = [answer.value for answer in answers]
        check("registers read one behind the other", answered, 2 * list(values.values()))
    session.set("watchdog", WATCHDOG_DEFAULT)


def check_counts(bench: Bench, rng: np.random.Generator) -> None:
    """Counters count correctly from any value, with every carry."""
    timing = MemoryTiming(20, bench.core.bus_bytes)
    carries = (*(1 << bits for bits in range(8, 64, 8)), 1 << 64)
    with bench.session() as session:
        for i, start in enumerate((*carries, *[0] * 8)):
            program = bench.random_program(rng)
            starts = {
                name: start - int(rng.integers(1, 20)) if start else int(rng.integers(1 << 63)) << 1
                for name in COUNTERS
            }
            for name, value in starts.items():
                session.advance(name, value)
            title = f"counters from {start:#x}" if start else f"counters from anywhere {i}"
            bench.play(session, title, program, program.expected(), timing, starts)
            bench.tally.coverage["counters with carries"] += 1


def check_late(bench: Bench, rng: np.random.Generator) -> None:
    """Programs behave the same, in the same time, when their instructions are the last ones of the
    longest possible program, or of one half as long."""
    core = bench.core
    timing = MemoryTiming(20, core.bus_bytes)
    most_instructions = min((1 << core.address_bits) // isa.INSTRUCTION_BYTES, 1 << isa.INDEX_BITS)
    with bench.session() as session:
        for i, end in enumerate(
            (most_instructions, most_instructions // 2, most_instructions, most_instructions // 2)
        ):
            program = bench.random_program(rng, length=200)
            before = end - MEMORY_BYTES // isa.INSTRUCTION_BYTES - int(rng.integers(1 << 10))
            before -= before % max(1, core.bus_bits // isa.INSTRUCTION_BITS)
            expected = program.expected()
            bench.play(session, f"late {i}", program, expected, timing, before=before)
            bench.play(session, f"late {i} random", program, expected, i, before=before)
            bench.tally.coverage["programs late in a long one"] += 1


def _check_interrupts(
    bench: Bench, session: Session, check: Callable[[str, object, object], None]
) -> None:
    """Every status bit raises the interrupt exactly when it is enabled, and can be cleared."""
    program = [plain(bench.core, "sync"), plain(bench.core, "halt")]
    put(session.memory, 0, isa.to_bytes(program))
    session.set("interrupt_enable", 0)
    for name, value in (("program_low", 0), ("program_high", 0)):
        session.set(name, value)

    def look(moment: str, status: Status) -> None:
        check(f"status {moment}", session.get("status"), status)
        for mask in range(1 << len(Status)):
            session.set("interrupt_enable", mask)
            check(f"interrupt {moment}, enabled {mask}", session.interrupt, bool(mask & status))
        session.set("interrupt_enable", 0)

    def order(control: Control) -> None:
        session.set("control", control)
        session.step(400)

    look("at first", Status(0))
    order(Control.RESUME)
    look("resumed without a program", Status(0))
    session.set("instructions", 2)
    order(Control.START)
    look("in a sync", Status.BUSY | Status.SYNC)
    order(Control.START | Control.ACKNOWLEDGE)
    look("in a sync, started again", Status.BUSY | Status.SYNC)
    order(Control.RESUME)
    look("at the end", Status.DONE)
    check("dispatched", session.get("dispatched_low"), 2)
    order(Control.ACKNOWLEDGE)
    look("acknowledged", Status(0))
    session.set("instructions", 0)
    order(Control.START)
    look("at an error", Status.ERROR)
    check("error", session.get("error"), Fault.NO_HALT)
    order(Control.ACKNOWLEDGE)
    look("acknowledged after an error", Status(0))
    check("error once acknowledged", session.get("error"), 0)
