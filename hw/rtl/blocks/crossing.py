"""A queue that carries words from one clock domain to another."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import log2, named

SYNCHRONIZER: dict[str, Any] = {"ASYNC_REG": "TRUE"}
"""Attribute by which Vivado keeps the registers of a crossing together, and out of timing."""


def gray(count: Value) -> Value:
    """The Gray code of a count: exactly one bit changes when the count grows by one."""
    return count ^ (count >> 1)


def from_gray(m: Module, name: str, code: Value) -> Value:
    """The count whose Gray code is `code`; the inverse of `gray`."""
    bits = [code[-1]]
    for i in reversed(range(len(code) - 1)):
        bits.append(named(m, f"{name}_{i}", bits[-1] ^ code[i]))
    return Cat(*reversed(bits))


class Crossing(wiring.Component):
    """A queue of words that are written in one clock domain and read in another. The clocks may
    have any ratio and phase.

    Pointers cross in Gray code through two registers each (Cummings, SNUG 2002). Room is reserved
    before a word is there, so that what makes it need not wait for the queue. A pipeline of fixed
    length between `reserve` and `write` keeps their order. Both sides must be reset together, for
    `hw.spec.unit.RESET_CYCLES` of the slower clock.

    Members
    -------
    reserve, room : in the domain `writes`: reserve room for one word; allowed only while `room`.
    write, written : in the domain `writes`: write the word `written`, for which room was reserved.
    there, word : in the domain `reads`: the queue is not empty, and its first word.
    read : in the domain `reads`: remove the first word; allowed only while `there`.
    """

    reserve: Signal
    room: Signal
    write: Signal
    written: Signal
    there: Signal
    word: Signal
    read: Signal

    def __init__(self, width: int, depth: int, *, writes: str, reads: str = "sync"):
        self.width, self.depth, self.writes, self.reads = width, depth, writes, reads
        super().__init__(
            {
                "reserve": In(1),
                "room": Out(1),
                "write": In(1),
                "written": In(width),
                "there": Out(1),
                "word": Out(width),
                "read": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        places = log2(self.depth)
        m.submodules.store = store = memory.Memory(shape=self.width, depth=self.depth, init=[])
        enter = store.write_port(domain=self.writes)
        leave = store.read_port(domain="comb")

        def pointer(name: str, domain: str, advance: Value) -> tuple[Signal, Signal]:
            """A count modulo twice the depth, and its code, which the other clock reads."""
            count = Signal(places + 1, name=name)
            code = Signal(places + 1, name=f"{name}_code")
            after = named(m, f"{name}_after", (count + advance)[: places + 1])
            m.d[domain] += [count.eq(after), code.eq(gray(after))]
            return count, code

        reserved = Signal(places + 1)
        m.d[self.writes] += reserved.eq(reserved + self.reserve)
        written, written_code = pointer("written_count", self.writes, self.write)
        read, read_code = pointer("read_count", self.reads, self.read)

        def seen(name: str, domain: str, code: Signal) -> Signal:
            """The other clock's code, once the first register has settled."""
            stages = [Signal.like(code, name=f"{name}{i}", attrs=SYNCHRONIZER) for i in range(2)]
            m.d[domain] += [stages[0].eq(code), stages[1].eq(stages[0])]
            return stages[1]

        seen_written = seen("seen_written", self.reads, written_code)
        seen_read = seen("seen_read", self.writes, read_code)
        left = from_gray(m, "left", seen_read)
        m.d.comb += [
            self.room.eq(~(reserved - left)[places]),  # never more than the depth
            enter.addr.eq(written[:places]),
            enter.data.eq(self.written),
            enter.en.eq(self.write),
            self.there.eq(seen_written != read_code),
            leave.addr.eq(read[:places]),
            self.word.eq(leave.data),
        ]
        return m
