"""On-chip buffers. Loads fill them one bus word at a time; the units that compute read them one
beat at a time."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import choose, log2
from evolute.hw.spec.core import Buffer

NO_COLLISION: dict[str, Any] = {"no_rw_check": 1}
"""Attribute of a memory that is never read and written at the same address in the same cycle,
unless the program lacks a token. It spares Yosys the logic that would define the value of such a
read."""


class BeatBuffer(wiring.Component):
    """One buffer with one write port and one read port. A read takes one cycle.

    Members
    -------
    write, word, data : while `write` is set, store `data` as bus word number `word`.
    read, beat : while `read` is set, look up beat number `beat`.
    value : the beat that was looked up last. It changes in the cycle after `read`.
    """

    write: Signal
    word: Signal
    data: Signal
    read: Signal
    beat: Signal
    value: Signal

    def __init__(self, buffer: Buffer):
        self.buffer = buffer
        super().__init__(
            {
                "write": In(1),
                "word": In(range(buffer.bus_words)),
                "data": In(buffer.bus_bits),
                "read": In(1),
                "beat": In(range(buffer.beats)),
                "value": Out(buffer.beat_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        buffer = self.buffer
        bank_bits, part_bits = log2(buffer.words_per_beat), log2(buffer.beats_per_word)
        depth = buffer.bus_words // buffer.words_per_beat
        banks = []
        for bank in range(buffer.words_per_beat):
            store = memory.Memory(shape=buffer.bus_bits, depth=depth, init=[], attrs=NO_COLLISION)
            m.submodules[f"bank{bank}"] = store
            write, read = store.write_port(), store.read_port()
            m.d.comb += [
                write.addr.eq(self.word >> bank_bits),
                write.data.eq(self.data),
                write.en.eq(self.write & (self.word[:bank_bits] == bank)),
                read.addr.eq(self.beat >> part_bits),
                read.en.eq(self.read),
            ]
            banks.append(read.data)
        word: Value = Cat(*banks)
        if part_bits:
            part = Signal(part_bits)
            with m.If(self.read):
                m.d.sync += part.eq(self.beat[:part_bits])
            parts = [word.word_select(i, buffer.stride_bits) for i in range(1 << part_bits)]
            word = choose(parts, part)
        m.d.comb += self.value.eq(word[: buffer.beat_bits])
        return m


class BeatReader(wiring.Component):
    """Streams a run of beats out of a buffer. The first beat is valid two cycles after `start`;
    then one follows per cycle unless `ready` is low.

    The run is a nest of loops, the last one innermost. Beats are consecutive. With `rewind`, every
    turn of the outermost loop instead starts again at the first beat.

    Members
    -------
    start, first : begin a run at the buffer's bus word `first`.
    limit0, limit1, .. : the number of turns of each loop, less one; taken at `start`.
    valid, ready : handshake of the stream of beats. Its payload is the buffer's `value`.
    bounds : the run leaves the buffer.
    read, beat : to the buffer's members of the same names.
    """

    start: Signal
    first: Signal
    valid: Signal
    ready: Signal
    bounds: Signal
    read: Signal
    beat: Signal

    def __init__(self, buffer: Buffer, loops: tuple[int, ...], *, rewind: bool):
        self.buffer, self.loops, self.rewind = buffer, loops, rewind
        members = {f"limit{i}": In(bits) for i, bits in enumerate(loops)}
        super().__init__(
            {
                "start": In(1),
                "first": In(range(buffer.bus_words)),
                **members,
                "valid": Out(1),
                "ready": In(1),
                "bounds": Out(1),
                "read": Out(1),
                "beat": Out(range(buffer.beats)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        buffer = self.buffer
        first = Signal(range(buffer.beats))
        m.d.comb += first.eq(
            Cat(Const(0, log2(buffer.beats_per_word)), self.first >> log2(buffer.words_per_beat))
        )
        # One bit more than an address has: past the end it is seen to be so.
        beat = Signal(range(2 * buffer.beats), reset_less=True)
        reading = Signal()
        m.d.comb += [
            self.read.eq(reading & (~self.valid | self.ready)),
            self.beat.eq(beat),
            self.bounds.eq(reading & (beat >= buffer.beats)),
        ]
        with m.If(self.read | self.ready):
            m.d.sync += self.valid.eq(self.read)

        advance: Value = self.read
        turn: Value = Const(0)
        for i in reversed(range(len(self.loops))):
            count = Signal(self.loops[i], name=f"count{i}")
            limit = Signal(self.loops[i], name=f"last{i}", reset_less=True)
            full = Signal(name=f"full{i}")
            m.d.comb += full.eq(advance & (count == limit))
            with m.If(self.start):
                m.d.sync += limit.eq(getattr(self, f"limit{i}"))
            with m.If(full):
                m.d.sync += count.eq(0)
            with m.Elif(advance):
                m.d.sync += count.eq(count + 1)
            if i == 1:
                turn = full
            advance = full
        with m.If(self.read):
            m.d.sync += beat.eq(beat + 1)
        if self.rewind:
            begin = Signal.like(first, name="begin", reset_less=True)
            with m.If(turn):
                m.d.sync += beat.eq(begin)
            with m.If(self.start):
                m.d.sync += begin.eq(first)
        with m.If(self.start):
            m.d.sync += [reading.eq(1), beat.eq(first)]
        with m.Elif(advance):
            m.d.sync += reading.eq(0)
        return m
