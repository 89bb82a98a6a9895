"""A model of what a core's registers must do, cycle by cycle, as `docs/isa.md` describes them.

It is written from that page alone and shares nothing with the RTL. How a program runs while the
host leaves it alone is given as a `Course`; everything else follows from the host's writes and
their cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evolute.hw.isa.instructions import INDEX_BITS, Fault
from evolute.hw.isa.registers import REGISTERS, WATCHDOG_DEFAULT, Control, Status
from evolute.verif.core.session import OKAY, SLVERR, Seen, Sight

NEVER = 1 << 62

_BUSY, _DONE, _ERROR, _SYNC = map(int, Status)
assert [status.name for status in Status] == ["BUSY", "DONE", "ERROR", "SYNC"]


@dataclass(frozen=True)
class Course:
    """How a program runs that the host does not disturb. Cycle 0 is the first one in which the core
    is busy."""

    stop: int
    """The first cycle that shows the program's fault, or `NEVER`."""
    end: int
    """The first cycle in which the core is not busy any more."""
    fault: Fault | None = None
    index: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    """The values of all counters at the end, except `cycles`."""
    writes: Mapping[int, int] = field(default_factory=dict)
    """The bytes that the program changes in memory, by address."""
    stands: int | None = None
    """For a program that comes to a stand: the first cycle after the last movement, else None. Only
    the watchdog stops such a program; the core is busy for another `end` - `stop` cycles."""
    sync: int = NEVER
    """The cycle of the program's only sync, or `NEVER`."""
    resumed: Callable[[int], Course] | None = None
    """Gives the whole course for a sync that is resumed in a given cycle."""


@dataclass(frozen=True)
class Order:
    """A write of a register: its value, and the cycles from which its address and its data are
    offered."""

    cycle: int
    name: str
    """Name of the register; a hexadecimal offset where there is none."""
    value: int
    strobes: int = 15
    data_cycle: int | None = None

    @property
    def offset(self) -> int:
        """Byte offset of the register."""
        return REGISTERS[self.name].offset if self.name in REGISTERS else int(self.name, 16)


class UnknownProgram(Exception):
    """A program was started whose course is not known. `place` is its address and its number of
    instructions."""

    def __init__(self, place: tuple[int, int]):
        super().__init__(f"program {place}")
        self.place = place


class HostView:
    """The state that the host sees, from reset on. `courses` has the course of each program by
    address and number of instructions."""

    def __init__(self, courses: Mapping[tuple[int, int], Course]):
        self.courses = courses
        self.registers = {name: 0 for name, register in REGISTERS.items() if register.writable}
        self.registers["watchdog"] = WATCHDOG_DEFAULT
        self.running: Course | None = None  # until its transfers are complete
        self.stopped = False  # the running one was, by a fault
        self.stopped_end = NEVER
        self.began = 0  # its first busy cycle
        self.waits = False  # for a RESUME
        self.next: Course | None = None  # started while the one before is stopped and busy
        self.forget = False  # an ACKNOWLEDGE waits for that one's end
        self.done = False
        self.fault: Fault | None = None
        self.index = 0
        self.cycles = 0  # the counter
        self.last: Course | None = None  # whose counters are shown
        self.written: dict[int, int] = {}  # in memory, by programs that went as far

    @property
    def status(self) -> int:
        """Bits of `Status`."""
        return (
            _BUSY * (self.running is not None)
            | _DONE * self.done
            | _ERROR * (self.fault is not None)
            | _SYNC * self.waits
        )

    @property
    def interrupt(self) -> bool:
        """Whether an enabled status bit is set."""
        return bool(self.status & self.registers["interrupt_enable"])

    def read(self, name: str) -> int:
        """The value of a register that is neither a counter nor a constant."""
        if name == "status":
            return self.status
        if name == "error":
            return int(self.fault or 0)
        if name == "error_index":
            return self.index
        return 0 if name == "control" else self.registers[name]

    def step(self, cycle: int, order: Order | None) -> None:
        """Go from `cycle` to the next one. `order` is the write that takes effect in it, if any."""
        patience = self.registers["watchdog"]
        if order:
            self._act(cycle, self._write(order))
        self._advance(cycle, patience)
        if self.running is None and self.next:
            self.running = self.last = self.next
            self.next, self.stopped, self.cycles = None, False, 0
            self.began, self.stopped_end = cycle + 1, NEVER
            self.written |= self.running.writes

    def _act(self, cycle: int, control: int) -> None:
        """Do what the bits of `Control` say."""
        runs = self.running is not None and not self.stopped
        start = control & Control.START and not runs
        resume = control & Control.RESUME and self.waits
        acknowledge = control & Control.ACKNOWLEDGE
        if start:
            place = self.registers["program_low"] | self.registers["program_high"] << 32
            self.next = self._course((place, self.registers["instructions"]))
        if acknowledge and self.running and self.fault:
            self.forget = True
        if start or (acknowledge and not self.running):
            self._clear()
        if resume:
            assert self.running is not None and self.running.resumed is not None
            self.running = self.last = self.running.resumed(cycle - self.began)
            self.waits = False
            self.written |= self.running.writes

    def _write(self, order: Order) -> int:
        """Write the register. Returns the bits of `Control` that the write sets."""
        mask = sum(0xFF << 8 * i for i in range(4) if order.strobes >> i & 1)
        if order.name == "control":
            return order.value & mask
        if order.name in self.registers:
            widths = {"interrupt_enable": len(Status), "instructions": INDEX_BITS}
            mask &= (1 << widths.get(order.name, 32)) - 1
            unchanged_bits = self.registers[order.name] & ~mask
            self.registers[order.name] = unchanged_bits | order.value & mask
        return 0

    def _course(self, place: tuple[int, int]) -> Course:
        if place not in self.courses:
            raise UnknownProgram(place)
        return self.courses[place]

    def _clear(self) -> None:
        self.done, self.fault, self.index, self.forget = False, None, 0, False

    def _advance(self, cycle: int, patience: int) -> None:
        """Let the running program do what it does on its own in the next cycle."""
        course = self.running
        if course is None:
            return
        self.cycles += 1
        next_cycle = cycle + 1 - self.began
        if self.stopped:
            if next_cycle == self.stopped_end:
                self.running = None
                if self.forget:
                    self._clear()
            return
        stop = next_cycle == course.stop
        if course.stands is not None:
            stop = 0 < patience <= cycle - self.began - course.stands
        if stop:
            self.stopped, self.waits = True, False
            self.stopped_end = next_cycle + course.end - course.stop
            self.fault, self.index = course.fault, course.index
        elif next_cycle == course.end and course.stands is None:
            self.running, self.done = None, True
        elif next_cycle == course.sync:
            self.waits = True


def acting(
    orders: Sequence[Order], hold: range, cycles: int
) -> tuple[dict[int, Order], list[Sight]]:
    """Returns the write that takes effect in each cycle, and what is seen of the writes on their
    channels.

    Addresses and data cross their channels in order, and neither is more than one write ahead of
    the other. A write takes effect in the cycle in which both are present, unless an earlier answer
    waits and is not taken in that cycle. Answers are taken at once except in the cycles `hold`.
    """
    acts: dict[int, Order] = {}
    sights: list[Sight] = []
    address_cycles = [order.cycle for order in orders]
    data_cycles = [
        order.cycle if order.data_cycle is None else order.data_cycle for order in orders
    ]
    place = taken_addresses = taken_data = 0
    answer: int | None = None
    for cycle in range(cycles):
        if (
            taken_addresses == place
            and taken_addresses < len(orders)
            and address_cycles[taken_addresses] <= cycle
        ):
            taken_addresses += 1
            sights.append(Sight(Seen.ADDRESS, cycle))
        if taken_data == place and taken_data < len(orders) and data_cycles[taken_data] <= cycle:
            taken_data += 1
            sights.append(Sight(Seen.DATA, cycle))
        if answer is not None and cycle not in hold:
            sights.append(Sight(Seen.ANSWER, cycle, answer))
            answer = None
        if answer is None and taken_addresses > place and taken_data > place:
            order = acts[cycle] = orders[place]
            is_writable = order.name in REGISTERS and REGISTERS[order.name].writable
            answer = OKAY if is_writable else SLVERR
            place += 1
    return acts, sights


def expected(
    host: HostView,
    orders: Sequence[Order],
    hold: range,
    cycles: int,
    name: str,
    after: int,
) -> list[Sight]:
    """The sorted sights that `Session.watch(cycles, name, after)` must return after a reset. Leaves
    `host` in its final state. Raises `UnknownProgram`."""
    acts, sights = acting(orders, hold, cycles)
    pins: tuple[bool, bool] | None = None
    value: int | None = None
    for cycle in range(cycles):
        levels = host.running is not None, host.interrupt
        if levels != pins:
            sights.append(Sight(Seen.PINS, cycle, *map(int, levels)))
            pins = levels
        # The answer comes a cycle later, and is seen if that is still watched.
        if cycle >= after and (cycle - after) % 2 == 0 and cycle + 1 < cycles:
            answer = host.read(name)
            if answer != value:
                sights.append(Sight(Seen.VALUE, cycle, answer))
                value = answer
        host.step(cycle, acts.get(cycle))
    return sorted(sights)
