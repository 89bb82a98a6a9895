"""The core's registers, seen over AXI4-Lite: 32-bit words at byte offsets."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from evolute.hw.isa.instructions import INDEX_BITS
from evolute.hw.spec.core import MEMORY_PAGE_BYTES

IDENTITY = 0x45564C54
"""The value of the register `identity`: "EVLT" in ASCII."""


@dataclass(frozen=True)
class Register:
    """One register. A `writable` register reads back what was written to it, except `control`,
    which reads as 0."""

    name: str
    offset: int
    meaning: str
    writable: bool = False


class Control(enum.IntFlag):
    """Bits written to `control`; all read as zero."""

    START = 1
    """Run the program that the registers describe, from its first instruction. Ignored while a
    program runs. While a program that a fault has stopped is still busy, the order is remembered:
    it clears `status` at once except for BUSY, and the new program begins as soon as the bus is
    quiet."""
    RESUME = 2
    """Go on after a `sync`; ignored unless SYNC is set in `status`."""
    ACKNOWLEDGE = 4
    """Clear `error`, `error_index`, and DONE and ERROR in `status`. While a stopped program is
    still busy, the order is remembered, and clears them in the cycle in which BUSY ends. It never
    makes a program continue."""


class Status(enum.IntFlag):
    """Bits of `status` and of `interrupt_enable`; an enabled status raises the interrupt."""

    BUSY = 1
    """A program runs, or was stopped and its transfers on the bus are not complete."""
    DONE = 2
    """The program has halted."""
    ERROR = 4
    """The program was stopped; `error` and `error_index` say why."""
    SYNC = 8
    """The program waits for `Control.RESUME`."""


WATCHDOG_DEFAULT = 65536
"""Cycles without any movement after which a program is stopped, unless the host writes another
number."""

_WORDS = (
    Register("identity", 0x00, f"0x{IDENTITY:08X}"),
    Register("digest", 0x04, "first 32 bits of the spec's digest"),
    Register("control", 0x08, "bits of Control; reads as 0", writable=True),
    Register("status", 0x0C, "bits of Status"),
    Register("interrupt_enable", 0x10, "bits of Status that raise the interrupt", writable=True),
    Register(
        "program_low",
        0x14,
        f"byte address of the program, a multiple of {MEMORY_PAGE_BYTES}; read at START",
        writable=True,
    ),
    Register("program_high", 0x18, "its upper half; read at START", writable=True),
    Register(
        "instructions",
        0x1C,
        f"instructions in the program, {INDEX_BITS} bits; read at START",
        writable=True,
    ),
    Register(
        "watchdog",
        0x20,
        "cycles without movement that stop a program, 0 never does; acts at once, also on cycles "
        "that have passed",
        writable=True,
    ),
    Register("error", 0x24, "a Fault, or 0"),
    Register("error_index", 0x28, "index of the instruction at fault"),
)

COUNTERS: dict[str, str] = {
    "cycles": "cycles from start to halt",
    "read_beats": "data words read over AXI4, instructions included",
    "write_beats": "data words written over AXI4",
    "steps": "steps that the engine took",
    "compute_cycles": "cycles in which a matrix multiplication was in progress",
    "dispatched": "instructions handed to their units, the halt included",
}
"""The 64-bit counters and what each counts, for the current program or the last one."""

_COUNTER_BASE = 0x40

REGISTERS: dict[str, Register] = {
    register.name: register
    for register in (
        *_WORDS,
        *(
            Register(f"{name}_{half}", _COUNTER_BASE + 8 * i + 4 * j, f"{meaning}, {half} half")
            for i, (name, meaning) in enumerate(COUNTERS.items())
            for j, half in enumerate(("low", "high"))
        ),
    )
}

ADDRESS_BITS = 8
"""Width of an AXI4-Lite address."""
