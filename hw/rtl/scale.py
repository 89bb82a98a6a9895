"""Scales the engine's results group by group and sums them: what `hw.spec.core` defines."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import OPERATIONS, Unit
from hw.rtl.arith import choose, log2, named
from hw.rtl.buffer import NO_COLLISION
from hw.rtl.queues import field, unit_bits
from hw.rtl.words import unpack
from hw.spec import layout
from hw.spec.core import CoreSpec


class Accumulators(wiring.Component):
    """The sums, in two banks of words of `scale_lanes`; one bank is stored while the other sums.

    Members
    -------
    read, read_word, value : look a word up; it is on `value` from the next cycle on.
    write, write_word, data : replace a word.
    store_read, store_word, stored : look a word up in the bank that is being stored.
    storing, store_bank : a store owns this bank's read port.
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
    """Takes the engine's results and adds each, scaled, to its sums.

    A result is taken, then walked in `scale_steps` steps, each through five stages, one cycle
    apart: look scales up, hold them, multiply, add products up, accumulate.

    Members
    -------
    start, word : a matrix multiplication begins.
    result : stream from the engine.
    scale_read, scale_beat, scales : to the scale buffer.
    read .. data : to the `Accumulators`.
    done : the last sums are written in this cycle.
    bounds : a scale or a sum lies outside its buffer or bank.
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
        group_minus_1 = Signal.like(self._field("group_slices"), reset_less=True)
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
        beat = layout.streams(engine).result
        psums = Signal(beat.field("psum").total_bits, reset_less=True)
        row_sums = Signal(beat.field("row_sum").total_bits, reset_less=True)
        walk_scale, walk_tile = Signal.like(scale), Signal.like(tile)
        walk_first, walk_last = Signal(), Signal()
        stepping = Signal()
        step, chunk = Signal(range(max(2, core.scale_steps))), Signal(range(max(2, chunks)))
        wait = Signal(range(core.result_period_cycles))
        take, last_step, last_chunk = Signal(), Signal(), Signal()
        m.d.comb += [
            self.result.ready.eq(wait == 0),
            take.eq(self.result.valid & self.result.ready),
            last_step.eq(step == core.scale_steps - 1),
            last_chunk.eq(chunk == chunks - 1),
        ]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(stepping):
            m.d.sync += [
                stepping.eq(~last_step),
                step.eq(Mux(last_step, 0, step + 1)),
                chunk.eq(Mux(last_chunk, 0, chunk + 1)),
                psums.eq(psums >> core.scale_lanes * engine.acc_bits),
            ]
            with m.If(last_chunk):
                m.d.sync += row_sums.eq(row_sums >> engine.row_sum_bits)
        with m.If(take):
            offsets = beat.offsets
            m.d.sync += [
                wait.eq(core.result_period_cycles - 1),
                stepping.eq(1),
                psums.eq(self.result.payload[offsets["psum"] :][: len(psums)]),
                row_sums.eq(self.result.payload[offsets["row_sum"] :][: len(row_sums)]),
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

        # Look scales up.
        place = named(m, "place", walk_scale + chunk)
        word = named(m, "word", walk_tile + step)
        m.d.comb += [self.scale_read.eq(stepping), self.scale_beat.eq(place)]
        lanes = range(core.scale_lanes)
        psum = [psums.word_select(i, engine.acc_bits).as_signed() for i in lanes]
        row_sum = row_sums[: engine.row_sum_bits].as_signed()

        # Hold what was looked up: a memory's output comes late in its cycle.
        psum = [_register(m, f"psum{i}", psum[i]) for i in lanes]
        row_sum = _register(m, "row_sum", row_sum)
        tags = _tags(m, "hold", stepping, word, walk_first, walk_last & last_step)

        # Multiply.
        psum = [_register(m, f"held_psum{i}", psum[i]) for i in lanes]
        row_sum = _register(m, "held_row_sum", row_sum)
        tags = _tags(m, "multiply", *tags)
        fields = unpack(_register(m, "held_scales", self.scales), core.scale_beat)
        scaled = [psum[i] * fields["scale"][i] for i in lanes]
        offset = [row_sum * fields["offset"][i] for i in lanes]

        # Add products up.
        scaled = [_register(m, f"scaled{i}", scaled[i]) for i in lanes]
        offset = [_register(m, f"offset{i}", offset[i]) for i in lanes]
        tags = _tags(m, "add", *tags)
        terms = [(scaled[i] + (offset[i] << shift))[: core.sum_bits].as_signed() for i in lanes]
        m.d.comb += [self.read.eq(tags[0]), self.read_word.eq(tags[1])]

        # Accumulate.
        terms = [_register(m, f"term{i}", terms[i]) for i in lanes]
        valid, word, first, last = _tags(m, "accumulate", *tags)
        before = [Mux(first, 0, self.value.word_select(i, core.sum_bits)) for i in lanes]
        m.d.comb += [
            self.write.eq(valid),
            self.write_word.eq(word),
            self.data.eq(Cat((before[i] + terms[i])[: core.sum_bits] for i in lanes)),
            self.done.eq(valid & last),
            self.bounds.eq(
                (stepping & (place >= buffer.beats))
                | (valid & (word >> log2(core.bank_words) != bank))
            ),
        ]
        return m


def _register(m: Module, name: str, value: Value) -> Signal:
    """`value`, a cycle later."""
    register = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def _tags(m: Module, stage: str, valid: Value, *tags: Value) -> tuple[Signal, ...]:
    """The tags of a step in its next stage; only `valid` is reset."""
    register = Signal(name=f"{stage}_valid")
    m.d.sync += register.eq(valid)
    return register, *(_register(m, f"{stage}_tag{i}", tag) for i, tag in enumerate(tags))
