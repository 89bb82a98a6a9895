"""What every engine is to the outside, four streams, and what all have inside.

    activation -> [x] -> prepare -> [operands] -> multiply -> [step] -> add -> [sums] -> result
                                     weight -> [code] -^

Floating activations are aligned between two registers, [held] -> align -> [x]. Registers are in
brackets. Each can be refilled in the cycle in which it is emptied, so a step runs every cycle while
all four streams keep up; `ready` is combinational from the result's `ready` backwards. Reset clears
the valid bits and the sequencer; data registers keep what they hold.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.align import align, shared_exponent
from evolute.hw.rtl.blocks.arith import named, saturated, shift_left
from evolute.hw.rtl.blocks.words import pack, unpack
from evolute.hw.rtl.core.sequencer import Sequencer
from evolute.hw.spec import layout
from evolute.hw.spec.engine import Engine

Fields = Mapping[str, Sequence[Value]]
"""The elements of a beat's fields, flattened with the last index fastest."""


class Weights(NamedTuple):
    """A beat of weights, and whether it moves: into the engine, or from there into a memory."""

    beat: Value
    moves: Value


class Accumulators(wiring.Component):
    """Adds shifted sums into one accumulator per output, and offers them when a group ends.

    Members
    -------
    psums, sums : sums of one step to add, and the slice's row sums.
    shift, first, last : left shift of the sums; the step starts, or ends, its group.
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

    def __init__(self, spec: Engine):
        self.spec = spec
        super().__init__(
            {
                "psums": In(spec.m * spec.n * spec.step_bits),
                "sums": In(spec.m * spec.slice_sum_bits),
                **({"shift": In(range(max(spec.shifts) + 1))} if len(spec.shifts) > 1 else {}),
                "first": In(1),
                "last": In(1),
                "add_sums": In(1),
                "valid": In(1),
                "ready": Out(1),
                "result": Out(stream.Signature(layout.streams(spec).result.bits)),
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
        shifts = Signal(len(spec.shifts))
        m.d.comb += [
            take.eq(self.valid & self.ready),
            clear.eq(take & self.first),
        ]
        if len(spec.shifts) > 1:
            m.d.comb += shifts.eq(Cat(take & (self.shift == each) for each in spec.shifts))
        else:
            m.d.comb += shifts.eq(take)

        def accumulator(name: str, bits: int, addend: Value, saturates: bool = False) -> Signal:
            total = Signal(signed(bits), name=name, reset_less=True)
            after = Mux(clear, 0, total).as_signed() + addend
            if saturates:
                after = saturated(named(m, f"after_{name}", after), bits)
            m.d.sync += total.eq(after)
            return total

        psums = []
        for i in range(spec.m * spec.n):
            psum = self.psums.word_select(i, spec.step_bits)
            addend = shift_left(psum, spec.shifts, list(shifts))
            name = f"psum{i // spec.n}_{i % spec.n}"
            psums.append(accumulator(name, spec.acc_bits, addend, spec.saturates))
        row_sums = []
        for row in range(spec.m):
            row_sum = self.sums.word_select(row, spec.slice_sum_bits).as_signed()
            addend = Mux(take & self.add_sums, row_sum, 0)
            row_sums.append(accumulator(f"row_sum{row}", spec.row_sum_bits, addend))
        beat = layout.streams(spec).result
        m.d.comb += self.result.payload.eq(pack(beat, psum=psums, row_sum=row_sums))
        return m


class EngineComponent(wiring.Component):
    """Base of the engines; the streams carry the words of `hw.spec.layout`.

    A subclass defines what its engine computes: `operands` and `multiply`, both combinational.
    No ports: `step` is set in every cycle in which the engine takes a step, `fill` in every one in
    which it keeps a weight beat, `filled` with the last beat of a fill.
    """

    command: stream.Interface
    activation: stream.Interface
    weight: stream.Interface
    result: stream.Interface

    def __init__(self, spec: Engine):
        self.spec = spec
        self.step = Signal()
        self.fill = Signal()
        self.filled = Signal()
        streams = layout.streams(spec)
        super().__init__(
            {
                "command": In(stream.Signature(streams.command.bits)),
                "activation": In(stream.Signature(streams.activation.bits)),
                "weight": In(stream.Signature(streams.weight.bits)),
                "result": Out(stream.Signature(streams.result.bits)),
            }
        )

    @abstractmethod
    def operands(self, m: Module, x: Sequence[Value], fields: Fields) -> tuple[Value, list[Value]]:
        """The word that a slice's steps use, and the sum of each row's activations.

        `x` are the activations [m][slice_k], integers in their symmetric range, `fields` the whole
        beat, of a floating one what `layout.aligned` keeps.
        """

    @abstractmethod
    def multiply(
        self, m: Module, operands: Value, weights: Fields, sequencer: Sequencer
    ) -> list[Value]:
        """What the step adds to the sums [m][n], each in `step_bits`, before its shift."""

    def taken(self, m: Module, x: Sequence[Value]) -> list[Value]:
        """A beat's activations that need no alignment, as `operands` is given them.

        The leftover code reads as the lowest value, so that a sum's negation has its width.
        """
        lowest = -self.spec.activations.maximum
        return [
            named(m, f"x{i}", Mux(value == lowest - 1, lowest, value).as_signed())
            for i, value in enumerate(x)
        ]

    def shift(self, sequencer: Sequencer) -> Value:
        """The left shift of the step's sums, one of the spec's `shifts`."""
        return Const(0)

    def last_beat_step(self, mode: Value) -> Value:
        """The number of the last step of a weight beat."""
        return Const(0)

    def weights(self, m: Module, arrives: Weights, held: Weights, sequencer: Sequencer) -> Fields:
        """The weights of a step, from the register that holds their beat.

        An engine with fills keeps those beats in its memories here, before `operands` is asked.
        What it reads there for a beat that arrives takes the place of that register.
        """
        return unpack(held.beat, layout.streams(self.spec).weight)

    def _operands(
        self, m: Module, release: Value, in_force: Value | None
    ) -> tuple[Value, Value, Value]:
        """Takes activations; whether operands are there, they, and the row sums.

        They stay until `release`. Where `in_force` is given, they are prepared while it is set.
        """
        spec, beat = self.spec, layout.streams(self.spec).activation
        # Aligned or not, activations may have a second register of their own.
        twice = spec.aligns or spec.operand_latency_cycles > 2
        prepares = spec.operand_latency_cycles > 1 + twice
        held = Signal(beat.bits, name="held", reset_less=True)
        held_valid = Signal()
        moves = Signal(name="moves") if prepares else release
        aligns = Signal(name="aligns") if twice else moves

        def register(
            name: str, valid: Value, enters: Value, leaves: Value, *words: tuple[str, Value]
        ) -> tuple[Value, list[Signal]]:
            """The words a register later, and whether they are there.

            They come from one where they are `valid`, in the cycle of `enters`, and stay until
            `leaves`.
            """
            full = Signal(name=f"{name}_valid")
            kept = [Signal(len(word), name=title, reset_less=True) for title, word in words]
            m.d.comb += enters.eq(valid & (~full | leaves))
            with m.If(enters):
                taken = [each.eq(word) for each, (_, word) in zip(kept, words, strict=True)]
                m.d.sync += [full.eq(1), *taken]
            with m.Elif(leaves):
                m.d.sync += full.eq(0)
            return full, kept

        valid, fields = held_valid, unpack(held, beat)
        if spec.aligns:
            aligned = layout.aligned(spec)
            fields["x"] = self._align(m, fields)
            word = pack(aligned, **{each.name: fields[each.name] for each in aligned.fields})
            valid, kept = register("aligned", valid, aligns, moves, ("aligned", word))
            fields = unpack(kept[0], aligned)
            x = fields["x"]
        else:
            x = self.taken(m, fields["x"])
            if twice:
                taken = [(f"taken{i}", each) for i, each in enumerate(x)]
                valid, x = register("taken", valid, aligns, moves, *taken)
        words, row_sums = self.operands(m, x, fields)
        sums = Cat(*(each[: spec.slice_sum_bits] for each in row_sums))
        if prepares:
            valid = valid if in_force is None else valid & in_force
            valid, (words, sums) = register(
                "operands", valid, moves, release, ("words", words), ("row_sums", sums)
            )
        m.d.comb += self.activation.ready.eq(~held_valid | aligns)
        with m.If(self.activation.ready):
            m.d.sync += [held_valid.eq(self.activation.valid), held.eq(self.activation.payload)]
        return valid, words, sums

    def _align(self, m: Module, fields: Fields) -> list[Value]:
        """The activations of a beat as integers."""
        spec = self.spec
        kind = spec.activations
        assert kind.format is not None
        found = []
        for row, exponent in enumerate(fields["exponent"]):
            shared = named(m, f"exponent{row}", shared_exponent(exponent, kind.format))
            codes = fields["x"][row * spec.slice_k : (row + 1) * spec.slice_k]
            found += [align(m, f"x{row}_{i}", code, shared, kind) for i, code in enumerate(codes)]
        return found

    def elaborate(self, platform):
        m = Module()
        spec, streams = self.spec, layout.streams(self.spec)
        fill_modes = tuple(each.mode for each in spec.fills)
        m.submodules.sequencer = sequencer = Sequencer(
            streams.command,
            spec.most_beat_steps,
            spec.most_planes,
            spec.group_slices,
            fill_modes,
        )
        m.submodules.operands = operands = Module()
        wiring.connect(m, wiring.flipped(self.command), sequencer.command)

        step = self.step
        code = Signal(streams.weight.bits, reset_less=True)
        code_valid = Signal()
        used: Value = step & sequencer.last_of_beat
        fill = self.fill
        multiplies = sequencer.valid
        advances: Value = step
        if fill_modes:
            multiplies = sequencer.valid & ~sequencer.fill
            advances = step | fill
            m.d.comb += [
                fill.eq(code_valid & sequencer.valid & sequencer.fill),
                self.filled.eq(fill & sequencer.ends),
            ]
            # What the fill's last beat writes can be looked up from the next cycle on.
            used = used | (fill & ~sequencer.ends)
        m.d.comb += self.weight.ready.eq(~code_valid | used)
        with m.If(self.weight.ready):
            m.d.sync += [code_valid.eq(self.weight.valid), code.eq(self.weight.payload)]
        if fill_modes:
            with m.Elif(fill):
                m.d.sync += code_valid.eq(0)

        arrives = Weights(self.weight.payload, self.weight.ready)
        weights = self.weights(m, arrives, Weights(code, fill), sequencer)
        release = Signal()
        in_force = multiplies & ~sequencer.ends if spec.operands_are_filled else None
        ready, words, sums = self._operands(operands, release, in_force)
        free = self.add_up(m, words, sums, weights, sequencer)
        m.d.comb += [
            step.eq(code_valid & ready & multiplies & free),
            sequencer.step.eq(advances),
            release.eq(step & sequencer.last_of_slice),
        ]
        if spec.most_beat_steps > 1:
            m.d.comb += sequencer.last_beat_step.eq(self.last_beat_step(sequencer.mode))
        return m

    def keep_results(self, m: Module, sequencer: Sequencer, ended: Value) -> Value:
        """Offers sums that have registers of their own, from the cycle after `ended` until they
        leave; whether the engine can take a step."""
        # Some sum, from the step that ends it until the result leaves.
        held = Signal()
        leaves = named(m, "leaves", self.result.valid & self.result.ready)
        m.d.sync += [
            held.eq((self.step & sequencer.last) | (held & ~leaves)),
            self.result.valid.eq(ended | (self.result.valid & ~leaves)),
        ]
        return ~(sequencer.last & held & ~leaves)

    def add_up(
        self, m: Module, operands: Value, sums: Value, weights: Fields, sequencer: Sequencer
    ) -> Value:
        """All from the step's operands and row sums to the result; whether it can take a step."""
        spec, step = self.spec, self.step
        m.submodules.multiply = multiply = Module()
        m.submodules.accumulators = accumulators = Accumulators(spec)
        wiring.connect(m, accumulators.result, wiring.flipped(self.result))
        psums = Cat(
            *(
                named(multiply, f"psum{i}", psum[: spec.step_bits])
                for i, psum in enumerate(self.multiply(multiply, operands, weights, sequencer))
            )
        )

        # The registers between multiplication and accumulation, with the step's tags.
        psum_valid = Signal()
        psum_free = ~psum_valid | accumulators.ready
        m.d.comb += accumulators.valid.eq(psum_valid)
        with m.If(psum_free):
            m.d.sync += psum_valid.eq(step)
        tagged = {
            "psums": psums,
            "sums": sums,
            **({"shift": self.shift(sequencer)} if len(spec.shifts) > 1 else {}),
            "first": sequencer.first,
            "last": sequencer.last,
            "add_sums": sequencer.first_of_slice,
        }
        for name, value in tagged.items():
            port = getattr(accumulators, name)
            register = Signal(port.shape(), name=f"step_{name}", reset_less=True)
            m.d.comb += port.eq(register)
            with m.If(step):
                m.d.sync += register.eq(value)
        return psum_free
