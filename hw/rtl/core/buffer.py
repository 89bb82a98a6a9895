"""On-chip buffers: filled in bus words by loads, read in beats by the units that use them."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import choose, log2
from evolute.hw.spec.core import Buffer

NO_COLLISION: dict[str, Any] = {"no_rw_check": 1}
"""Attribute of a memory in which no word is read in the cycle it is written in, unless the program
lacks a token: spares Yosys the logic that would define what is read then."""


class BeatBuffer(wiring.Component):
    """A buffer with one write port and one read port, in memory that reads a cycle late.

    Members
    -------
    write, word, data : write `data` to the bus word `word`.
    read, beat : look the beat `beat` up; `value` carries it from the next cycle to the next read.
    value : the beat last looked up.
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
    """Streams a run of beats out of a buffer, one per cycle from the second after `start`.

    The run is a nest of loops, the last one innermost; beats are consecutive, except that every
    turn of the outermost loop starts over at the first where `rewind` is set.

    Members
    -------
    start, first, limits : begin, at the buffer's bus word `first`, with loops of `limits` + 1.
    value, valid, ready : the stream of beats.
    bounds : the run leaves the buffer.
    read, beat : to the buffer; its `value` is the stream's payload.
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
