"""The compute unit of a core: operand buffers, the engine, the scaler and the sums.

The four streams of `hw.spec.layout.EngineStreams` connect the engine, which may stall each of them.
The fields of a matmul instruction become the fields of the same names in the engine's command.
Readers stream activations and weights from buffers to the engine; the scaler takes its results.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import BUFFERS, OPCODE_BITS, OPERATIONS, SIGNAL_OFFSET, Unit
from evolute.hw.rtl.blocks.arith import any_of
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.rtl.core.buffer import BeatBuffer, BeatReader
from evolute.hw.rtl.core.scale import Scaler, SumBanks
from evolute.hw.rtl.engines.registry import COMPONENTS
from evolute.hw.spec import layout
from evolute.hw.spec.core import CoreSpec


class Compute(wiring.Component):
    """Runs `matmul` and `fill` instructions one after another.

    Members
    -------
    pop, word : start the instruction `word`; allowed only while `idle`.
    idle : no instruction is in progress.
    signals : the tokens that the instruction gives in the cycle in which it ends, one bit per unit.
    load_write, load_word, load_data : write `load_data` as bus word `load_word` into each buffer
        whose bit of `load_write` is set.
    store_read, store_word, stored, storing, store_bank : the store unit's access to the sums, see
        `Accumulators`.
    step : the engine takes a step.
    moved : the engine takes a step or a beat of a fill, or sums are written.
    bounds : an operand or a sum lies outside its buffer.
    """

    pop: Signal
    word: Signal
    idle: Signal
    signals: Signal
    load_write: Signal
    load_word: Signal
    load_data: Signal
    store_read: Signal
    store_word: Signal
    stored: Signal
    storing: Signal
    store_bank: Signal
    step: Signal
    moved: Signal
    bounds: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "pop": In(1),
                "word": In(unit_bits(Unit.COMPUTE)),
                "idle": Out(1),
                "signals": Out(len(Unit)),
                "load_write": In(len(BUFFERS)),
                "load_word": In(range(core.largest_buffer_words)),
                "load_data": In(core.bus_bits),
                "store_read": In(1),
                "store_word": In(range(core.accumulator_words)),
                "stored": Out(core.scale_lanes * core.sum_bits),
                "storing": In(1),
                "store_bank": In(1),
                "step": Out(1),
                "moved": Out(1),
                "bounds": Out(1),
            }
        )

    def _field(self, name: str, is_fill: Value) -> Value:
        """The field `name` of the instruction, or 0 for a fill that has no such field.

        The slices of a fill are cut to the bits that the engine's longest fill needs.
        """
        value, fill = field(self.word, OPERATIONS["matmul"], name), OPERATIONS["fill"]
        if not self.core.engine.fills:
            return value
        fill_value = field(self.word, fill, name) if name in fill.offsets else Const(0)
        if name == "slices":
            most_slices = max(fill.slices for fill in self.core.engine.fills)
            fill_value = fill_value[: (most_slices - 1).bit_length()]
        return Mux(is_fill, fill_value, value)

    def elaborate(self, platform):
        m = Module()
        core = self.core
        is_fill = self.word[:OPCODE_BITS] == OPERATIONS["fill"].opcode
        multiplies = self.pop & ~is_fill if core.engine.fills else self.pop
        buffers = {}
        for i, buffer in enumerate(core.buffers):
            memory = BeatBuffer(buffer)
            m.submodules[f"{buffer.name}_buffer"] = buffers[buffer.name] = memory
            m.d.comb += [
                memory.write.eq(self.load_write[i]),
                memory.word.eq(self.load_word),
                memory.data.eq(self.load_data),
            ]
        m.submodules.engine = engine = COMPONENTS[type(core.engine)](core.engine)
        m.submodules.scaler = scaler = Scaler(core)
        m.submodules.sums = sums = SumBanks(core)

        loops = {
            "weight": ("row_tiles", "slices", "planes"),
            "activation": ("row_tiles", "slices"),
        }
        readers = []
        for name, limits in loops.items():
            memory = buffers[name]
            limits = [name for name in limits if name != "planes" or core.engine.most_planes > 1]
            bits = tuple(len(self._field(limit, is_fill)) for limit in limits)
            reader = BeatReader(memory.buffer, bits, rewind=name == "weight")
            m.submodules[f"{name}_reader"] = reader
            readers.append(reader)
            operand = getattr(engine, name)
            m.d.comb += [
                *(
                    getattr(reader, f"limit{i}").eq(self._field(limit, is_fill))
                    for i, limit in enumerate(limits)
                ),
                reader.start.eq(self.pop if name == "weight" else multiplies),
                reader.first.eq(self._field(name, is_fill)),
                memory.read.eq(reader.read),
                memory.beat.eq(reader.beat),
                operand.payload.eq(memory.value),
                operand.valid.eq(reader.valid),
                reader.ready.eq(operand.ready),
            ]
        moved = engine.step | engine.fill if core.engine.fills else engine.step
        m.d.comb += [self.step.eq(engine.step), self.moved.eq(moved | scaler.write)]

        command = layout.streams(core.engine).command
        # A row tile of the instruction is a tile of the engine's command.
        renamed = {"tiles": "row_tiles"}
        parts = []
        for command_field in command.fields:
            name = command_field.name.removesuffix("_minus_1")
            value = self._field(renamed.get(name, name), is_fill)
            parts.append(Cat(value, Const(0, command_field.bits))[: command_field.bits])
        with m.If(self.pop):
            m.d.sync += [engine.command.payload.eq(Cat(*parts)), engine.command.valid.eq(1)]
        with m.Elif(engine.command.ready):
            m.d.sync += engine.command.valid.eq(0)

        scales = buffers["scale"]
        m.d.comb += [
            scaler.start.eq(multiplies),
            scaler.word.eq(self.word),
            scales.read.eq(scaler.scale_read),
            scales.beat.eq(scaler.scale_beat),
            scaler.scales.eq(scales.value),
            sums.read.eq(scaler.read),
            sums.read_word.eq(scaler.read_word),
            scaler.value.eq(sums.value),
            sums.write.eq(scaler.write),
            sums.write_word.eq(scaler.write_word),
            sums.data.eq(scaler.data),
            sums.store_read.eq(self.store_read),
            sums.store_word.eq(self.store_word),
            self.stored.eq(sums.stored),
            sums.storing.eq(self.storing),
            sums.store_bank.eq(self.store_bank),
        ]
        wiring.connect(m, engine.result, scaler.result)

        done = scaler.done | engine.filled if core.engine.fills else scaler.done
        signals, active = Signal.like(self.signals, reset_less=True), Signal()
        m.d.comb += [
            self.idle.eq(~active),
            self.signals.eq(signals & done.replicate(len(Unit))),
            self.bounds.eq(any_of([scaler.bounds, *(reader.bounds for reader in readers)])),
        ]
        with m.If(done):
            m.d.sync += active.eq(0)
        with m.If(self.pop):
            m.d.sync += [
                active.eq(1),
                signals.eq(self.word[SIGNAL_OFFSET:][: len(Unit)]),
            ]
        return m
