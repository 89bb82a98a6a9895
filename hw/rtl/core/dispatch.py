"""The first stages of a core: fetching a program, splitting bus words into instructions, checking
each instruction and handing it to the queue of its unit."""

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import (
    BUFFERS,
    HEADER_BITS,
    INDEX_BITS,
    INSTRUCTION_BITS,
    OPCODE_BITS,
    SIGNAL_OFFSET,
    WAIT_OFFSET,
    Fault,
    Operation,
    Unit,
    operations,
)
from evolute.hw.rtl.blocks.arith import any_of, log2, wrap
from evolute.hw.rtl.blocks.bundles import Ports, burst_request
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.spec.core import Buffer, CoreSpec


def illegal(core: CoreSpec, word: Value, operation: Operation) -> Value:
    """Whether the instruction `word`, which has the opcode of `operation`, breaks a rule of
    `hw.isa.instructions.check`.

    Rules that need a product of fields are left out: the units themselves watch that the spans of
    matmul and store stay within their buffers.
    """
    rules: list[Value] = [word[operation.bits :].any()]
    unit = operation.unit
    if unit is None:
        rules.append(word[OPCODE_BITS:HEADER_BITS].any())
    else:
        rules += [word[WAIT_OFFSET + unit], word[SIGNAL_OFFSET + unit]]
    unit_rules = {
        "load": _illegal_load,
        "matmul": _illegal_matmul,
        "store": _illegal_store,
        "fill": _illegal_fill,
    }
    if operation.name in unit_rules:
        rules += unit_rules[operation.name](core, lambda name: field(word, operation, name))
    return any_of(rules)


def _beyond_memory(core: CoreSpec, get: Callable[[str], Value]) -> Value:
    """Whether the last bus word that the instruction moves lies beyond the last address of
    memory."""
    last_word = (get("memory") >> log2(core.bus_bytes)) + get("words")
    return last_word >= 1 << core.address_bits - log2(core.bus_bytes)


def _illegal_load(core: CoreSpec, get: Callable[[str], Value]) -> list[Value]:
    rules = [get("buffer") >= len(BUFFERS), _beyond_memory(core, get)]
    last_word = get("address") + get("words")
    rules += [
        (get("buffer") == i) & (last_word >= buffer.bus_words)
        for i, buffer in enumerate(core.buffers)
    ]
    return rules


def _illegal_store(core: CoreSpec, get: Callable[[str], Value]) -> list[Value]:
    return [get("accumulator") >= core.accumulator_words, _beyond_memory(core, get)]


def _illegal_matmul(core: CoreSpec, get: Callable[[str], Value]) -> list[Value]:
    rules = [
        ~any_of(
            (get("mode") == mode) & (get("planes") + 1 >= legal[0]) & (get("planes") < legal[-1])
            for mode, legal in core.engine.modes.items()
        ),
        get("group_slices") >= core.engine.group_slices,
        get("accumulator") >= core.accumulator_words,
    ]
    for buffer in core.buffers:
        rules += _outside(get(buffer.name), buffer)
    return rules


def _illegal_fill(core: CoreSpec, get: Callable[[str], Value]) -> list[Value]:
    is_legal = any_of(
        (get("mode") == fill.mode)
        & (get("planes") == fill.planes - 1)
        & (get("slices") < fill.slices)
        for fill in core.engine.fills
    )
    return [~is_legal, *_outside(get("weight"), core.weight_buffer)]


def _outside(address: Value, buffer: Buffer) -> list[Value]:
    """The rules that a buffer address breaks at which no beat of the buffer begins."""
    return [address[: log2(buffer.words_per_beat)].any(), address >= buffer.bus_words]


def misaligned(core: CoreSpec, word: Value, operation: Operation) -> Value:
    """Whether the operation's memory address is not a multiple of the bus width."""
    return field(word, operation, "memory")[: log2(core.bus_bytes)].any()


class Dispatch(wiring.Component):
    """The instruction FIFO and the dispatcher behind it. At most one instruction leaves per cycle.

    Members
    -------
    write, data : a fetched bus word. There is always room for a word that was requested.
    arriving : index of the first instruction of which the next word to arrive holds a part.
    popped : a bus word left the FIFO.
    count : the number of instructions in the program.
    run : a program runs; nothing is dispatched without it.
    idle : all units are idle and their queues empty, so that a halt may complete.
    push, room : one bit per unit: hand the instruction to its queue, which must have room.
    word, index : the instruction and its index in the program, for all queues.
    halted : the halt was reached and all work before it is complete.
    fault : a `Fault` in the instruction `index`, or 0.
    dispatched : an instruction left, the halt included.
    """

    write: Signal
    data: Signal
    arriving: Signal
    popped: Signal
    count: Signal
    run: Signal
    idle: Signal
    push: Signal
    word: Signal
    index: Signal
    room: Signal
    halted: Signal
    fault: Signal
    dispatched: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "write": In(1),
                "data": In(core.bus_bits),
                "arriving": Out(INDEX_BITS),
                "popped": Out(1),
                "count": In(INDEX_BITS),
                "run": In(1),
                "idle": In(1),
                "push": Out(len(Unit)),
                "word": Out(max(unit_bits(unit) for unit in Unit)),
                "index": Out(INDEX_BITS),
                "room": In(len(Unit)),
                "halted": Out(1),
                "fault": Out(range(max(Fault) + 1)),
                "dispatched": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core = self.core
        m.submodules.fifo = fifo = SyncFIFO(width=core.bus_bits, depth=core.fetch_words)
        m.d.comb += [
            fifo.w_data.eq(self.data),
            fifo.w_en.eq(self.write),
            fifo.r_en.eq(self.popped),
        ]

        # The holding register: several instructions per bus word, or several words for one.
        parts = max(1, INSTRUCTION_BITS // core.bus_bits)
        slots = max(1, core.bus_bits // INSTRUCTION_BITS)
        words = Signal(INDEX_BITS + log2(parts) - log2(slots))
        m.d.comb += self.arriving.eq((words << log2(slots)) >> log2(parts))
        m.d.sync += words.eq(words + self.write)
        held = Signal(max(core.bus_bits, INSTRUCTION_BITS), reset_less=True)
        full, leave, leave_last = Signal(), Signal(), Signal()
        m.d.comb += self.popped.eq(fifo.r_rdy & (~full | leave_last))
        m.d.comb += leave_last.eq(leave & wrap(m, "slot", slots, leave))
        with m.If(leave):
            m.d.sync += held.eq(held >> INSTRUCTION_BITS)
        with m.If(leave_last):
            m.d.sync += full.eq(0)
        last_part = wrap(m, "part", parts, self.popped)
        with m.If(self.popped):
            m.d.sync += [held.eq(Cat(held, fifo.r_data)[-len(held) :]), full.eq(last_part)]

        instruction = held[:INSTRUCTION_BITS]
        opcode = instruction[:OPCODE_BITS]
        index = Signal(INDEX_BITS)
        known = operations(core)
        is_a = {name: opcode == operation.opcode for name, operation in known.items()}
        breaks = [
            is_a[name] & illegal(core, instruction, operation) for name, operation in known.items()
        ]
        crooked = [
            is_a[name] & misaligned(core, instruction, operation)
            for name, operation in known.items()
            if "memory" in operation.places
        ]
        there = Signal()
        m.d.comb += [
            there.eq(self.run & full),
            self.index.eq(index),
            self.word.eq(instruction),
        ]
        with m.If(self.run & (index == self.count)):
            m.d.comb += self.fault.eq(Fault.NO_HALT)
        with m.Elif(there & (any_of(breaks) | ~any_of(is_a.values()))):
            m.d.comb += self.fault.eq(Fault.ILLEGAL)
        with m.Elif(there & any_of(crooked)):
            m.d.comb += self.fault.eq(Fault.MISALIGNED)
        with m.Elif(there):
            for_unit = [
                any_of(is_a[name] for name, operation in known.items() if operation.unit is unit)
                for unit in Unit
            ]
            m.d.comb += [
                self.push.eq(Cat(*for_unit) & self.room),
                self.halted.eq(is_a["halt"] & self.idle),
                leave.eq(self.push.any() | self.halted),
            ]
        m.d.comb += self.dispatched.eq(leave)
        with m.If(leave):
            m.d.sync += index.eq(index + 1)
        return m


class Fetch(wiring.Component):
    """Requests the program's bus words in bursts, never more than the instruction FIFO has room
    for.

    Members
    -------
    take, address, words : accept a program of `words` bus words from the byte `address` on.
    begin : release the room in the FIFO that the previous program had reserved; comes with `take`
        or later.
    burst, grant : the request for the next burst, see `bundles.burst_request`, and that it is
        accepted.
    popped : a bus word left the FIFO.
    """

    take: Signal
    begin: Signal
    address: Signal
    words: Signal
    burst: Ports
    grant: Signal
    popped: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "take": In(1),
                "begin": In(1),
                "address": In(core.address_bits),
                "words": In(INDEX_BITS + 1),
                "burst": Out(burst_request(core)),
                "grant": In(1),
                "popped": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core = self.core
        left = Signal(INDEX_BITS + 1)
        reserved = Signal(range(core.fetch_words + 1))
        beats = Signal(range(core.fetch_beats + 1))
        m.d.comb += [
            beats.eq(Mux(left < core.fetch_beats, left, core.fetch_beats)),
            self.burst.request.eq((left != 0) & (reserved + beats <= core.fetch_words)),
            self.burst.beats_minus_1.eq(beats - 1),
        ]
        memory = Signal(core.address_bits, reset_less=True)
        m.d.comb += self.burst.memory.eq(memory)
        granted = Mux(self.grant, beats, Const(0))
        m.d.sync += reserved.eq(reserved + granted - self.popped)
        with m.If(self.grant):
            m.d.sync += [
                left.eq(left - beats),
                memory.eq(memory + core.fetch_beats * core.bus_bytes),
            ]
        with m.If(self.take):
            m.d.sync += [left.eq(self.words), memory.eq(self.address)]
        with m.If(self.begin):
            m.d.sync += reserved.eq(0)
        return m
