"""A Verilated core with its memory, driven from Python one event at a time.

The C++ in `verif/native` runs core, memory and bus monitor in a process of its own. The memory's
image is shared through a file; commands and answers are lines of text.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.isa.instructions import Fault
from evolute.hw.isa.registers import COUNTERS, REGISTERS, Control, Status
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.memory import MemoryTiming
from evolute.support.files import replacing
from evolute.verif.harness.settable import with_settable
from evolute.verif.harness.simulators import SimulatorError, build_native

_SOURCES = Path(__file__).parents[1] / "native"
_SHARED_MEMORY = Path("/dev/shm")

RESET_CYCLES = 4
"""How long the reset is held at power-on."""

ADVANCEABLE = {
    **dict.fromkeys(COUNTERS, "registers"),
    "index": "dispatch",
    "words": "dispatch",
    "still": "control",
    "left": "fetch",
}
"""Counts that `Session.advance` can change, and the part of the core that each belongs to."""

QUIT_SECONDS = 20
"""How long a simulation may take to end when it is told to."""

_ANSWERS = ("ok ", "ok\n", "idle ", "interrupt ", "limit ")

NEVER = 1 << 62
"""A cycle that does not come."""

OKAY, SLVERR, DECERR = 0, 2, 3
"""Responses of AXI4; all but the first are errors."""


@dataclass(frozen=True)
class Event:
    """Why a run of a program was interrupted or ended, and in which cycle that was seen.

    Cycle 0 is the first one with `busy`, so for `done` the cycle is the number of cycles that the
    program took. Beats are those on the bus since the start.
    """

    kind: Literal["done", "error", "sync", "limit"]
    cycle: int
    read_beats: int
    write_beats: int
    fault: Fault | None = None
    index: int = 0
    """The instruction at fault."""


class Seen(enum.IntEnum):
    """The kinds of a `Sight`; the same numbers as in `verif/native/main.cpp`."""

    PINS = 0
    """Busy and interrupt, at first and when they change."""
    VALUE = 1
    """A register, at first and when it changes; in the cycle in which the request was taken."""
    ADDRESS = 2
    """A write's address is taken."""
    DATA = 3
    """A write's data is taken."""
    ANSWER = 4
    """The response to a write is taken."""


class Sight(NamedTuple):
    """Something that `Session.watch` saw, and its cycle, counted from the call."""

    what: Seen
    cycle: int
    value: int = 0
    other: int = 0


@dataclass(frozen=True)
class Access:
    """The answer to one access of a register."""

    response: int
    value: int = 0


def build(core: CoreSpec, *, waves: bool = False, verilog: str | None = None) -> Path:
    """Build the program that `Session` runs and return its path. `verilog` replaces the RTL, in
    order to test the checks."""
    sources = {path.name: path.read_text() for path in _SOURCES.iterdir()}
    constants = {
        "BUS_BYTES": core.bus_bytes,
        "BURST_BEATS": core.burst_beats,
        "OUTSTANDING_READS": core.outstanding_reads,
    }
    top, text = module_name(core), to_verilog(core) if verilog is None else verilog
    lines = [f"constexpr unsigned {name} = {value};\n" for name, value in constants.items()]
    text, members = with_settable(text, top, ADVANCEABLE)
    uses = (f'USE("{name}", {member})' for name, member in members.items())
    lines.append(f"#define SETTABLE(USE) {' '.join(uses)}\n")
    sources["config.h"] = "#pragma once\n" + "".join(lines)
    return build_native(text, top, sources, waves=waves)


class Session(contextlib.AbstractContextManager):
    """A core at power-on and a memory of `memory_bytes` zero bytes from the bus address `base` on.

    `memory` is the memory's image (uint8) that programs read and write; it may be changed while no
    program runs. `program` is the result of `build`; `plusargs` are arguments of the simulator.
    Raises `SimulatorError` when the simulation breaks down.
    """

    def __init__(
        self,
        program: Path,
        memory_bytes: int,
        timing: MemoryTiming,
        *,
        base: int = 0,
        seed: int = 1,
        waves: Path | None = None,
        plusargs: tuple[str, ...] = (),
    ):
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_folder(memory_bytes))
            image = folder / "memory"
            with image.open("wb") as file:
                file.truncate(memory_bytes)
            with image.open("r+b") as file:
                shared = mmap.mmap(file.fileno(), memory_bytes)
            self.memory: NDArray[np.uint8] = np.frombuffer(shared, np.uint8)
            command: list[str | Path] = [program, image, str(base), str(memory_bytes), str(seed)]
            if waves is not None:
                stack.enter_context(_keep(folder / "waves.vcd", waves))
                command.append(folder / "waves.vcd")
            command += plusargs
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(self._stop)
            self.reset()
            image.unlink()  # both sides have it; so it cannot outlive them, however they end
            self.set_timing(timing)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _stop(self) -> None:
        try:
            self._process.communicate("quit\n", timeout=QUIT_SECONDS)
        except BrokenPipeError:
            pass
        except subprocess.TimeoutExpired:  # a simulation without an end reads no more
            self._process.kill()
        self._process.wait()

    def _ask(self, *words: object) -> str:
        """Send a command and return the line that answers it."""
        process, line = self._process, ""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(" ".join(str(word) for word in words) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line.startswith(_ANSWERS):
            return line
        reason = " ".join((line + process.stdout.read()).split()) or "no answer"
        raise SimulatorError(f"the core's simulation ended with {process.wait()}: {reason}")

    def _numbers(self, *words: object) -> list[int]:
        """Send a command and return the numbers in its answer."""
        return [int(word) for word in self._ask(*words).split()[1:]]

    # Time and faults.

    def reset(self, cycles: int = RESET_CYCLES) -> None:
        """Reset the core for some cycles. The memory drops all transfers that are under way."""
        self._ask("reset", cycles)

    def set_timing(self, timing: MemoryTiming) -> None:
        """From now on, let the memory keep to `timing` exactly."""
        self._ask(
            "timing",
            timing.latency_cycles,
            timing.bytes_per_cycle.numerator,
            timing.bytes_per_cycle.denominator,
            timing.refresh_interval_cycles,
            timing.refresh_cycles,
            timing.host_cycles,
        )

    def set_random(self, seed: int) -> None:
        """From now on, let every channel pause and every answer take time at random."""
        self._ask("random", seed)

    def trap(self, first: int, end: int, *, write: bool, response: int) -> None:
        """Answer reads or writes of bus addresses `first` to `end` - 1 with `response`."""
        self._ask("trap", first, end, int(write), response)

    def silence(self, first: int, end: int = NEVER) -> None:
        """Let the memory accept and answer nothing in the cycles `first` to `end` - 1 of a
        program."""
        self._ask("silence", first, end)

    def calm(self) -> None:
        """Undo every `trap` and `silence`."""
        self._ask("calm")

    def advance(self, name: str, value: int) -> None:
        """Add `value` to one of the counts in `ADVANCEABLE`, to reach values that would take too
        long to simulate.

        It takes effect now if a program runs, or else when the next one begins. `index` counts the
        next instruction, `words` the bus words that were fetched, and `left` those that are still
        to be fetched.
        """
        self._ask("advance", name, value)

    def step(self, cycles: int) -> None:
        """Simulate some cycles."""
        self._ask("step", cycles)

    # Registers and pins.

    def read(self, *offsets: int) -> list[Access]:
        """The answers to reads of registers at byte offsets. Each read is requested as soon as the
        previous one has been."""
        numbers = self._numbers("read", len(offsets), *offsets)
        return [Access(*access) for access in zip(numbers[::2], numbers[1::2], strict=True)]

    def write(self, offset: int, value: int, strobes: int = 15) -> Access:
        """Write a register at a byte offset; `strobes` has one bit per byte. Returns the answer."""
        return Access(*self._numbers("write", offset, value, strobes))

    def offer(
        self,
        after: int,
        offset: int,
        value: int,
        strobes: int = 15,
        *,
        data_after: int | None = None,
    ) -> None:
        """Let the host write a register while time passes.

        The address is put on its channel `after` cycles from now, and the data at the same time or
        `data_after` cycles from now; both later if an earlier offer on the same channel is not
        taken yet.
        """
        self._ask("address", after, offset)
        self._ask("data", after if data_after is None else data_after, value, strobes)

    def hold(self, after: int, cycles: int) -> None:
        """Let the host take no answer to a write during `cycles` cycles, the first of them `after`
        cycles from now."""
        self._ask("hold", after, cycles)

    def watch(self, cycles: int, name: str, after: int = 0) -> list[Sight]:
        """Simulate some cycles and return what happens on the pins, in writes, and to the register
        `name`, which is read every other cycle from `after` on."""
        numbers = self._numbers("watch", cycles, REGISTERS[name].offset, after)
        return [
            Sight(Seen(kind), *details)
            for kind, *details in zip(*(numbers[i::4] for i in range(4)), strict=True)
        ]

    def get(self, name: str) -> int:
        """The value of the register `name`."""
        return self.read(REGISTERS[name].offset)[0].value

    def set(self, name: str, value: int) -> None:
        """Write the register `name`."""
        self.write(REGISTERS[name].offset, value)

    @property
    def busy(self) -> bool:
        """The core's pin `busy`."""
        return bool(self._numbers("pins")[0])

    @property
    def interrupt(self) -> bool:
        """The core's pin `interrupt`."""
        return bool(self._numbers("pins")[1])

    # Programs.

    def run(
        self, address: int, instructions: int, limit: int = NEVER, *, stop_at_error: bool = False
    ) -> Event:
        """Run the program at the bus address `address` until it ends, reaches a sync or `limit`
        cycles have passed.

        With `stop_at_error` it returns as soon as the core reports an error, even if transfers are
        still under way.
        """
        self._interrupts = Status.SYNC | Status.ERROR if stop_at_error else Status.SYNC
        self.set("interrupt_enable", self._interrupts)
        self.set("program_low", address & 0xFFFFFFFF)
        self.set("program_high", address >> 32)
        self.set("instructions", instructions)
        return self._event("run", REGISTERS["control"].offset, int(Control.START), limit)

    def resume(self, limit: int = NEVER) -> Event:
        """Go on after a sync, until the next event."""
        return self._event("resume", REGISTERS["control"].offset, int(Control.RESUME), limit)

    def wait(self, limit: int = NEVER) -> Event:
        """Go on, after `limit` was reached or an error left the core busy, until the next event."""
        return self._event("wait", limit)

    def _event(self, *words: object) -> Event:
        kind, cycle, reads, writes = self._ask(*words).split()
        counts = int(cycle), int(reads), int(writes)
        if kind == "limit":
            return Event("limit", *counts)
        # No look at the status, which would take the cycle in which the host may have to resume.
        if kind == "interrupt" and self._interrupts == Status.SYNC:
            return Event("sync", *counts)
        status = Status(self.get("status"))
        if Status.ERROR in status:
            fault, index = Fault(self.get("error")), self.get("error_index")
            return Event("error", *counts, fault, index)
        if kind == "interrupt":
            return Event("sync", *counts)
        if Status.DONE not in status:
            raise SimulatorError(f"the core ended with status {status!r}")
        return Event("done", *counts)

    def counters(self) -> dict[str, int]:
        """The core's counters by name."""
        return {name: self.get(f"{name}_low") | self.get(f"{name}_high") << 32 for name in COUNTERS}

    @property
    def cycles(self) -> int:
        """Cycles simulated since power-on, programs or not."""
        return self._numbers("cycles")[0]

    def violations(self) -> list[str]:
        """Descriptions of the bus rules broken since the last call; only the first few."""
        violations, *shown = self._ask("violations").rstrip("\n").split("\t")
        dropped = int(violations.split()[1]) - len(shown)
        return [*shown, *([f"and {dropped} more"] if dropped else [])]


@contextlib.contextmanager
def _folder(memory_bytes: int) -> Iterator[Path]:
    """A temporary folder; in main memory if there is room for the image."""
    roomy = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > 2 * memory_bytes
    parent = _SHARED_MEMORY if roomy else None
    with tempfile.TemporaryDirectory(prefix="evolute-core-", dir=parent) as name:
        yield Path(name)


@contextlib.contextmanager
def _keep(source: Path, target: Path) -> Iterator[None]:
    """Copy `source` to `target` when the block ends."""
    yield
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
