"""The sums of a core, and the loops that say which scales and which sums belong to each result of
the engine. `hw.spec.core` defines the arithmetic."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import OPERATIONS, Unit
from evolute.hw.rtl.blocks.arith import choose, log2, named
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.rtl.core.buffer import NO_COLLISION
from evolute.hw.rtl.units.scale_lanes import lanes_of
from evolute.hw.spec import layout
from evolute.hw.spec.core import CoreSpec


class SumBanks(wiring.Component):
    """The sums, in two banks of words of `scale_lanes` sums each. One bank can be stored to memory
    while sums are added in the other.

    Members
    -------
    read, read_word, value : look up the word `read_word`; it is on `value` from the next cycle on.
    write, write_word, data : replace the word `write_word` by `data`.
    store_read, store_word, stored : look up a word in the bank that is being stored.
    storing, store_bank : a store is in progress and uses the read port of that bank.
    """

    read: Signal
    read_word: Signal
    value: Signal
    write: Signal
    write_word: Signal
    data: Signal
    store_read: Signal
    store_word: Signal
    stored: Signal
    storing: Signal
    store_bank: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        word, bits = range(core.accumulator_words), core.scale_lanes * core.sum_bits
        super().__init__(
            {
                "read": In(1),
                "read_word": In(word),
                "value": Out(bits),
                "write": In(1),
                "write_word": In(word),
                "data": In(bits),
                "store_read": In(1),
                "store_word": In(word),
                "stored": Out(bits),
                "storing": In(1),
                "store_bank": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core = self.core
        bits = len(self.data)
        place_bits = log2(core.bank_words)
        values = []
        for bank in range(2):
            store = memory.Memory(shape=bits, depth=core.bank_words, init=[], attrs=NO_COLLISION)
            m.submodules[f"bank{bank}"] = store
            write, read = store.write_port(), store.read_port()
            owned = Signal(name=f"owned{bank}")
            here = self.read & (self.read_word[place_bits] == bank)
            m.d.comb += [
                write.addr.eq(self.write_word),
                write.data.eq(self.data),
                write.en.eq(self.write & (self.write_word[place_bits] == bank)),
                owned.eq(self.storing & (self.store_bank == bank)),
                read.addr.eq(Mux(owned, self.store_word, self.read_word)),
                read.en.eq(Mux(owned, self.store_read, here)),
            ]
            values.append(read.data)
        last = Signal()
        with m.If(self.read):
            m.d.sync += last.eq(self.read_word[place_bits])
        m.d.comb += [
            self.value.eq(choose(values, last)),
            self.stored.eq(choose(values, self.store_bank)),
        ]
        return m


class Scaler(wiring.Component):
    """Takes the engine's results, scales each and adds it to its sums.

    The arithmetic is in `hw.rtl.units.scale_lanes`. This component has the loops over row tiles and
    groups, which say which scales and which sums belong to a result.

    Members
    -------
    start, word : a matmul instruction `word` begins.
    result : stream of results from the engine.
    scale_read, scale_beat, scales : to the scale buffer.
    read, read_word, value, write, write_word, data : to the `SumBanks`.
    done : the last sums of the instruction are written in this cycle.
    bounds : a scale lies outside its buffer, or a sum outside its bank.
    """

    start: Signal
    word: Signal
    result: stream.Interface
    scale_read: Signal
    scale_beat: Signal
    scales: Signal
    read: Signal
    read_word: Signal
    value: Signal
    write: Signal
    write_word: Signal
    data: Signal
    done: Signal
    bounds: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        word, bits = range(core.accumulator_words), core.scale_lanes * core.sum_bits
        result = layout.streams(core.engine).result
        super().__init__(
            {
                "start": In(1),
                "word": In(unit_bits(Unit.COMPUTE)),
                "result": In(stream.Signature(result.bits)),
                "scale_read": Out(1),
                "scale_beat": Out(range(core.scale_buffer.beats)),
                "scales": In(core.scale_beat.bits),
                "read": Out(1),
                "read_word": Out(word),
                "value": In(bits),
                "write": Out(1),
                "write_word": Out(word),
                "data": Out(bits),
                "done": Out(1),
                "bounds": Out(1),
            }
        )

    def _field(self, name: str) -> Value:
        return field(self.word, OPERATIONS["matmul"], name)

    def elaborate(self, platform):
        m = Module()
        core, engine = self.core, self.core.engine
        buffer = core.scale_buffer
        chunks = engine.n // core.scale_lanes

        # Where the next result belongs: the loops of row tiles and groups.
        slices_minus_1 = Signal.like(self._field("slices"), reset_less=True)
        left_minus_1 = Signal.like(slices_minus_1, reset_less=True)
        group_minus_1 = Signal(range(max(2, engine.group_slices)), reset_less=True)
        rows_minus_1 = Signal.like(self._field("row_tiles"), reset_less=True)
        accumulate = Signal(reset_less=True)
        shift = Signal.like(self._field("offset_shift"), reset_less=True)
        first_scale = Signal(range(buffer.beats), reset_less=True)
        scale = Signal(range(2 * buffer.beats), reset_less=True)
        bank = Signal(reset_less=True)
        tile = Signal(range(2 * core.accumulator_words), reset_less=True)
        first_group = Signal(reset_less=True)
        last_group = Signal()
        m.d.comb += last_group.eq(left_minus_1 <= group_minus_1)

        # The result being walked.
        walk_scale, walk_tile = Signal.like(scale), Signal.like(tile)
        walk_first, walk_last = Signal(), Signal()
        # Along with a step go its word of sums and whether it is the last of all.
        m.submodules.lanes = lanes = lanes_of(core.scaling, tag_bits=len(tile) + 3)
        wiring.connect(m, wiring.flipped(self.result), lanes.result)
        with m.If(lanes.taken):
            m.d.sync += [
                walk_scale.eq(scale),
                walk_tile.eq(tile),
                walk_first.eq(first_group & ~accumulate),
                walk_last.eq(last_group & (rows_minus_1 == 0)),
                first_group.eq(last_group),
            ]
            with m.If(last_group):
                m.d.sync += [
                    left_minus_1.eq(slices_minus_1),
                    scale.eq(first_scale),
                    tile.eq(tile + core.scale_steps),
                    rows_minus_1.eq(rows_minus_1 - 1),
                ]
            with m.Else():
                m.d.sync += [
                    left_minus_1.eq(left_minus_1 - group_minus_1 - 1),
                    scale.eq(scale + chunks),
                ]
        with m.If(self.start):
            begin = self._field("scale") >> log2(buffer.words_per_beat)
            begin = Cat(Const(0, log2(buffer.beats_per_word)), begin)
            m.d.sync += [
                slices_minus_1.eq(self._field("slices")),
                left_minus_1.eq(self._field("slices")),
                group_minus_1.eq(self._field("group_slices")),
                rows_minus_1.eq(self._field("row_tiles")),
                accumulate.eq(self._field("accumulate")),
                shift.eq(self._field("offset_shift")),
                first_scale.eq(begin),
                scale.eq(begin),
                tile.eq(self._field("accumulator")),
                bank.eq(self._field("accumulator")[log2(core.bank_words)]),
                first_group.eq(1),
            ]

        # Its steps, and the sums they belong to.
        place = named(m, "place", walk_scale + lanes.chunk)
        word = named(m, "word", walk_tile + lanes.step)
        write_word, write_last = lanes.write_tag[1:-1], lanes.write_tag[-1]
        m.d.comb += [
            lanes.shift.eq(shift),
            self.scale_read.eq(lanes.look),
            self.scale_beat.eq(place),
            lanes.scales.eq(self.scales),
            lanes.tag.eq(Cat(walk_first, word, walk_last & lanes.last)),
            self.read.eq(lanes.read),
            self.read_word.eq(lanes.read_tag[1:-1]),
            lanes.value.eq(self.value),
            self.write.eq(lanes.write),
            self.write_word.eq(write_word),
            self.data.eq(lanes.data),
            self.done.eq(lanes.write & write_last),
            self.bounds.eq(
                (lanes.look & (place >= buffer.beats))
                | (lanes.write & (write_word >> log2(core.bank_words) != bank))
            ),
        ]
        return m
