"""LUT Tensor Core in registers and multiplexers; `hw.spec.lut_tensor_core` says what it computes.

    activation -> [x] -> build -> [table] -> look up and reduce -> [psum] -> add -> [acc] -> result
                                  weight -> [code] ----^

Registers are in brackets. Each can be refilled in the cycle in which it is emptied, so a step runs
every cycle while all four streams keep up; `ready` is combinational from the result's `ready`
backwards. Reset clears the valid bits and the sequencer; data registers keep what they hold.
"""

from functools import reduce
from operator import xor

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.arith import decode, half_sums, named, negate_if, round_shift, select, shift_left
from hw.rtl.engine import EngineComponent
from hw.rtl.sequencer import Sequencer
from hw.rtl.words import pack, unpack
from hw.spec import layout
from hw.spec.lut_tensor_core import LutTensorCore


class Tables(wiring.Component):
    """Builds the m*kg half tables of a K-slice and holds them while its planes are looked up.

    Members
    -------
    activation : stream of activation beats.
    valid : the outputs hold a slice's tables.
    release : from the array; this cycle is the last use of the tables.
    words : per table `stored_table_bits`: its entries' shared low bits, then the rest of each.
    sums : per row, the sum of the slice's activations.
    """

    activation: stream.Interface
    valid: Signal
    release: Signal
    words: Signal
    sums: Signal

    def __init__(self, spec: LutTensorCore):
        self.spec = spec
        super().__init__(
            {
                "activation": In(stream.Signature(layout.lut_tensor_core(spec).activation.bits)),
                "valid": Out(1),
                "release": In(1),
                "words": Out(spec.m * spec.kg * spec.stored_table_bits),
                "sums": Out(spec.m * spec.slice_sum_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        beat = layout.lut_tensor_core(spec).activation

        held = Signal(beat.bits, reset_less=True)
        held_valid = Signal()
        move = Signal()
        m.d.comb += [
            move.eq(held_valid & (~self.valid | self.release)),
            self.activation.ready.eq(~held_valid | move),
        ]
        with m.If(self.activation.ready):
            m.d.sync += [held_valid.eq(self.activation.valid), held.eq(self.activation.payload)]
        with m.If(move):
            m.d.sync += self.valid.eq(1)
        with m.Elif(self.release):
            m.d.sync += self.valid.eq(0)

        fields = unpack(held, beat)
        lowest = -spec.activations.maximum
        # The leftover code reads as the lowest value, so that a table's sums stay symmetric.
        x = [
            named(m, f"x{i}", Mux(value == lowest - 1, lowest, value).as_signed())
            for i, value in enumerate(fields["x"])
        ]
        built, sums = [], []
        for row in range(spec.m):
            row_sum: Value = Const(0)
            for group in range(spec.kg):
                start = (row * spec.kg + group) * spec.k
                entries = half_sums(m, x[start : start + spec.k], spec.exact_table_bits)
                row_sum = row_sum - entries[0]  # entry 0 is minus the sum of the k activations
                parity = reduce(xor, (value[0] for value in x[start : start + spec.k]))
                if spec.table_bits is not None:
                    shift = fields["table_shift"][row]
                    entries = [
                        round_shift(m, entry, shift, spec.maximum_table_shift, spec.entry_maximum)
                        for entry in entries
                    ]
                built.append(parity[: spec.shared_bits])
                built += [entry[spec.shared_bits : spec.entry_bits] for entry in entries]
            sums.append(row_sum[: spec.slice_sum_bits])

        words = Signal(self.words.shape(), reset_less=True)
        row_sums = Signal(self.sums.shape(), reset_less=True)
        with m.If(move):
            m.d.sync += [words.eq(Cat(*built)), row_sums.eq(Cat(*sums))]
        m.d.comb += [self.words.eq(words), self.sums.eq(row_sums)]
        return m


class Lookup(wiring.Component):
    """Looks one plane's codes up in the tables and sums the kg groups of every output.

    Combinational: `psums` holds m*n sums of `tree_bits`, row by row.
    """

    words: Signal
    codes: Signal
    psums: Signal

    def __init__(self, spec: LutTensorCore):
        self.spec = spec
        super().__init__(
            {
                "words": In(spec.m * spec.kg * spec.stored_table_bits),
                "codes": In(spec.n * spec.kg * spec.k),
                "psums": Out(spec.m * spec.n * spec.tree_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        decoded = []
        for i in range(spec.n * spec.kg):
            code = self.codes.word_select(i, spec.k)
            one_hot = Signal(spec.entries, name=f"one_hot{i}")
            m.d.comb += one_hot.eq(Cat(*decode(code[:-1])))
            decoded.append((one_hot, code[-1]))
        psums = []
        for row in range(spec.m):
            tables = []
            for group in range(spec.kg):
                word = self.words.word_select(row * spec.kg + group, spec.stored_table_bits)
                rest = word[spec.shared_bits :]
                bits = len(rest) // spec.entries
                entries = [rest.word_select(i, bits) for i in range(spec.entries)]
                tables.append((word[: spec.shared_bits], entries))
            for column in range(spec.n):
                total: Value = Const(0)
                for group, (low, entries) in enumerate(tables):
                    one_hot, sign = decoded[column * spec.kg + group]
                    value = Cat(low, select(entries, list(one_hot)))
                    total = total + negate_if(value, sign) + sign
                psums.append(total[: spec.tree_bits])
        m.d.comb += self.psums.eq(Cat(*psums))
        return m


class Accumulators(wiring.Component):
    """Adds shifted sums into one accumulator per output, and offers them when a group ends.

    Members
    -------
    psums, sums : sums of one step to add, and the slice's row sums.
    shift, first, last : log2 of the plane's weight; the step starts, or ends, its group.
    add_sums : the step is the first of its slice, the one that adds the row sums.
    valid, ready : the step is offered, and taken.
    result : stream of result beats; the accumulators themselves are its payload.
    """

    psums: Signal
    sums: Signal
    shift: Signal
    first: Signal
    last: Signal
    add_sums: Signal
    valid: Signal
    ready: Signal
    result: stream.Interface

    def __init__(self, spec: LutTensorCore):
        self.spec = spec
        super().__init__(
            {
                "psums": In(spec.m * spec.n * spec.tree_bits),
                "sums": In(spec.m * spec.slice_sum_bits),
                "shift": In(3),
                "first": In(1),
                "last": In(1),
                "add_sums": In(1),
                "valid": In(1),
                "ready": Out(1),
                "result": Out(stream.Signature(layout.lut_tensor_core(spec).result.bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.d.comb += self.ready.eq(~self.result.valid | self.result.ready)
        with m.If(self.ready):
            m.d.sync += self.result.valid.eq(self.valid & self.last)

        # Without a step the accumulators add nothing, which needs no multiplexer to hold each bit.
        take = Signal()
        clear = Signal()
        shifts = Signal(spec.weight_bits)
        m.d.comb += [
            take.eq(self.valid & self.ready),
            clear.eq(take & self.first),
            shifts.eq(Cat(take & (self.shift == i) for i in range(spec.weight_bits))),
        ]

        def accumulator(name: str, bits: int, addend: Value) -> Signal:
            total = Signal(signed(bits), name=name, reset_less=True)
            m.d.sync += total.eq(Mux(clear, 0, total) + addend)
            return total

        psums = []
        for i in range(spec.m * spec.n):
            psum = self.psums.word_select(i, spec.tree_bits)
            addend = shift_left(psum, list(shifts))
            psums.append(accumulator(f"psum{i // spec.n}_{i % spec.n}", spec.acc_bits, addend))
        row_sums = []
        for row in range(spec.m):
            row_sum = self.sums.word_select(row, spec.slice_sum_bits).as_signed()
            addend = Mux(take & self.add_sums, row_sum, 0)
            row_sums.append(accumulator(f"row_sum{row}", spec.row_sum_bits, addend))
        beat = layout.lut_tensor_core(spec).result
        m.d.comb += self.result.payload.eq(pack(beat, psum=psums, row_sum=row_sums))
        return m


class LutTensorCoreEngine(EngineComponent):
    """A complete LUT Tensor Core."""

    def __init__(self, spec: LutTensorCore):
        self.spec = spec
        super().__init__(spec)

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        m.submodules.sequencer = sequencer = Sequencer(layout.lut_tensor_core(spec).command)
        m.submodules.tables = tables = Tables(spec)
        m.submodules.lookup = lookup = Lookup(spec)
        m.submodules.accumulators = accumulators = Accumulators(spec)
        wiring.connect(m, wiring.flipped(self.command), sequencer.command)
        wiring.connect(m, wiring.flipped(self.activation), tables.activation)
        wiring.connect(m, accumulators.result, wiring.flipped(self.result))

        code = Signal(len(self.weight.payload), reset_less=True)
        code_valid = Signal()
        step = Signal()
        m.d.comb += self.weight.ready.eq(~code_valid | step)
        with m.If(self.weight.ready):
            m.d.sync += [code_valid.eq(self.weight.valid), code.eq(self.weight.payload)]

        # The registers between lookup and accumulation, with the step's tags.
        psum_valid = Signal()
        psum_free = ~psum_valid | accumulators.ready
        m.d.comb += [
            step.eq(code_valid & tables.valid & sequencer.valid & psum_free),
            sequencer.step.eq(step),
            tables.release.eq(step & sequencer.last_plane),
            lookup.words.eq(tables.words),
            lookup.codes.eq(code),
            accumulators.valid.eq(psum_valid),
        ]
        with m.If(psum_free):
            m.d.sync += psum_valid.eq(step)
        tagged = {
            "psums": lookup.psums,
            "sums": tables.sums,
            "shift": Mux(sequencer.ternary, 0, sequencer.plane),
            "first": sequencer.first,
            "last": sequencer.last,
            "add_sums": sequencer.plane == 0,
        }
        for name, value in tagged.items():
            port = getattr(accumulators, name)
            register = Signal(port.shape(), name=f"step_{name}", reset_less=True)
            m.d.comb += port.eq(register)
            with m.If(step):
                m.d.sync += register.eq(value)
        return m
