"""The walk through a program in compiled code: what `Machine` of `sim.timing.core` does, the same
cycle for cycle, a hundred times faster.

The code is `native/walk.cpp`. It takes a program as rows of what timing depends on, and no buffers'
addresses: instructions that differ in these alone take the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa.instructions import (
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    OPERATIONS,
    Unit,
)
from evolute.hw.isa.table import InstructionTable
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.memory import MemoryTiming
from evolute.support.native import library

_SOURCE = Path(__file__).parent / "native" / "walk.cpp"

ROW = np.dtype(
    [
        ("cycles", np.int64),
        ("words", np.int32),
        ("first_burst", np.int16),
        ("opcode", np.uint8),
        ("tokens", np.uint8),
    ]
)
"""An instruction: the cycles of a matmul or a fill, words of a load or a store and those of its
first burst, and the units that it waits for (from bit 0 on) and signals (from bit 3 on)."""

_MOST_QUEUED = 16
"""Room in each of the compiled code's queues."""


@dataclass(frozen=True)
class TooManyTokens:
    """The instruction that gave the one token too many, and the unit that it was for."""

    index: int
    sink: Unit


@dataclass(frozen=True)
class Deadlock:
    """Whatever waits when nothing moves: of every queue with an instruction at its head, the index
    of that and the units it waits for; and the next instruction, if the dispatcher has it."""

    heads: tuple[tuple[int, tuple[Unit, ...]], ...]
    next: int | None


@dataclass(frozen=True)
class Walk:
    """What the counters hold at the halt; of every sync its index, first cycle, and cycle of
    resuming; and of every stage the units of service in which the memory moved words."""

    cycles: int
    read_beats: int
    write_beats: int
    dispatched: int
    syncs: tuple[tuple[int, int, int], ...]
    busy_units: tuple[int, ...]
    visits: int
    """Cycles that were looked at one by one."""


def _structure(name: str, fields: str, arrays: Sequence[str] = ()) -> type[ctypes.Structure]:
    """A structure of 64-bit integers, of which `arrays` have one for each unit."""
    kinds = {field: ctypes.c_int64 * len(Unit) for field in arrays}
    kinds = [(field, kinds.get(field, ctypes.c_int64)) for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": kinds})


_Setup = _structure(
    "_Setup",
    "instructions program_words outstanding_reads fetch_beats fetch_words "
    "queue_instructions token_limit word_instructions instruction_words burst_beats "
    "store_latency_cycles store_word_cycles latency_cycles host_cycles "
    "refresh_interval_cycles refresh_cycles cycle_units word_units skips",
)

_Outcome = _structure(
    "_Outcome",
    "code cycles read_beats write_beats dispatched syncs visits index sink head missing held",
    ("head", "missing"),
)

_DONE, _DEADLOCK, _TOO_MANY_TOKENS = range(3)


def rows_of(
    core: CoreSpec, program: InstructionTable, compute_cycles: NDArray[np.int64]
) -> NDArray[np.void]:
    """The rows of a program, `ROW` [instructions]; `compute_cycles` are those of its matmuls and
    fills in their order, int [computes]."""
    rows = np.zeros(len(program), ROW)
    rows["opcode"] = program.opcodes
    rows["tokens"] = program.waits | program.signals << len(Unit)
    computes = (program.opcodes == OPERATIONS["matmul"].opcode) | (
        program.opcodes == OPERATIONS["fill"].opcode
    )
    rows["cycles"][computes] = compute_cycles
    for name in ("load", "store"):
        own, words = program.at(name), program.column(name, "words")
        place = program.column(name, "memory") // core.bus_bytes % core.burst_beats
        rows["words"][own] = words
        rows["first_burst"][own] = np.minimum(words, core.burst_beats - place)
    return rows


def walk(
    core: CoreSpec, rows: NDArray[np.void], timing: MemoryTiming, *, skips: bool = True
) -> Walk | Deadlock | TooManyTokens | None:
    """Run a program, whose last row alone is a halt; None where there is no compiled code.

    With `skips`, periods that repeat are not walked again where the memory does not refresh.
    """
    code = library(_SOURCE, "programs of cores")
    if code is None:
        return None
    assert core.queue_instructions <= _MOST_QUEUED
    service = timing.service(core.bus_bytes)
    setup = _Setup(
        instructions=len(rows),
        program_words=-(-len(rows) * INSTRUCTION_BYTES // core.bus_bytes),
        outstanding_reads=core.outstanding_reads,
        fetch_beats=core.fetch_beats,
        fetch_words=core.fetch_words,
        queue_instructions=core.queue_instructions,
        token_limit=core.token_limit,
        word_instructions=max(1, core.bus_bits // INSTRUCTION_BITS),
        instruction_words=max(1, INSTRUCTION_BITS // core.bus_bits),
        burst_beats=core.burst_beats,
        store_latency_cycles=core.store_latency_cycles,
        store_word_cycles=core.store_word_cycles,
        latency_cycles=timing.latency_cycles,
        host_cycles=timing.host_cycles,
        refresh_interval_cycles=timing.refresh_interval_cycles,
        refresh_cycles=timing.refresh_cycles,
        cycle_units=service.cycle_units,
        word_units=service.word_units,
        skips=skips and not timing.refresh_interval_cycles,
    )
    most_syncs = int((rows["opcode"] == OPERATIONS["sync"].opcode).sum())
    syncs = np.zeros((most_syncs, 3), np.int64)
    busy = np.zeros((most_syncs + 1, 2), np.uint64)
    outcome = _Outcome()
    code.walk(
        ctypes.byref(setup),
        *(ctypes.c_void_p(array.ctypes.data) for array in (rows, syncs, busy)),
        ctypes.byref(outcome),
    )
    if outcome.code == _TOO_MANY_TOKENS:
        return TooManyTokens(outcome.index, Unit(outcome.sink))
    if outcome.code == _DEADLOCK:
        heads = tuple(
            (head, tuple(unit for unit in Unit if missing >> unit & 1))
            for head, missing in zip(outcome.head, outcome.missing, strict=True)
            if head >= 0
        )
        return Deadlock(heads, outcome.index if outcome.held else None)
    assert outcome.code == _DONE
    return Walk(
        cycles=outcome.cycles,
        read_beats=outcome.read_beats,
        write_beats=outcome.write_beats,
        dispatched=outcome.dispatched,
        syncs=tuple(map(tuple, syncs[: outcome.syncs].tolist())),
        busy_units=tuple(low + (high << 64) for low, high in busy.tolist()),
        visits=outcome.visits,
    )
