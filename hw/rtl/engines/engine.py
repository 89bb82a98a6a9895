"""The part that all engines share: four streams to the outside, and the control and accumulators
inside.

    activation -> [x] -> prepare -> [operands] -> multiply -> [step] -> add -> [sums] -> result
                                     weight -> [code] -^

Names in brackets are registers. Floating activations are aligned between two of them, [held] ->
align -> [x]. A register can be refilled in the cycle in which it is emptied, so that a step runs in
every cycle as long as all four streams keep up. `ready` depends combinationally on the result's
`ready`. Reset clears the valid bits and the sequencer; data registers keep their contents.
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


class WeightBeat(NamedTuple):
    """A beat of weights at one place of its way."""

    beat: Value
    """The word."""
    moves: Value
    """Whether the beat moves on in this cycle: an arriving beat into the engine, a held one into
    the memory that a fill writes."""


class Accumulators(wiring.Component):
    """Adds shifted sums to one accumulator per output, and offers the accumulators as a result when
    a group ends.

    Members
    -------
    psums : the sums of one step, [m][n].
    sums : the sums of each row's activations over the slice, [m].
    shift : left shift of `psums`.
    first, last : the step starts its group; it ends its group.
    add_sums : the step is the first of its slice, which adds `sums`.
    valid, ready : the step is offered; it is taken.
    result : stream of result beats, whose payload is the accumulators themselves.
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
            m.d.comb += shifts.eq(Cat(take & (self.shift == amount) for amount in spec.shifts))
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
    """Base of the engines. The streams carry the words of `hw.spec.layout`.

    A subclass defines what its engine computes by `operands` and `multiply`, both combinational.

    Three signals are no ports. `step` is set in every cycle in which the engine takes a step,
    `fill` in every cycle in which a fill keeps a weight beat, and `filled` with the last beat of a
    fill.
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
        """Returns (word, row_sums): the word that the steps of a slice use, and the sum of each
        row's activations, [m].

        `x` are the activations [m][slice_k], integers in their symmetric range. `fields` are all
        fields of the beat, after alignment those of `layout.aligned`.
        """

    @abstractmethod
    def multiply(
        self, m: Module, operands: Value, weights: Fields, sequencer: Sequencer
    ) -> list[Value]:
        """The numbers that the step adds to the sums [m][n], before they are shifted. Their low
        `step_bits` bits are used."""

    def taken(self, m: Module, x: Sequence[Value]) -> list[Value]:
        """The activations of a beat that need no alignment, as `operands` takes them.

        The code below the symmetric range is read as the lowest value, so that a sum and its
        negation have the same width.
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

    def weights(
        self, m: Module, arrives: WeightBeat, held: WeightBeat, sequencer: Sequencer
    ) -> Fields:
        """The fields of the weight beat that a step uses, from the register that holds it.

        An engine with fills overrides this, which is called before `operands`: it writes the beats
        of a fill into its memories here. If it looks an arriving beat up in a memory, the memory's
        output register takes the place of the register that holds the beat.
        """
        return unpack(held.beat, layout.streams(self.spec).weight)

    def _operands(
        self, m: Module, release: Value, in_force: Value | None
    ) -> tuple[Value, Value, Value]:
        """Takes activation beats and computes the operands of their slices.

        Returns (valid, operands, row_sums): whether a slice's operands are present, the word that
        its steps use, and the sums of its rows' activations. They stay until `release` is set. If
        `in_force` is given, operands are only computed in cycles in which it is set.

        On its way a beat passes up to three registers, each of which is refilled in the cycle in
        which it is emptied: `held`, as it arrived; `aligned` or `taken`, as integers; and
        `operands`.
        """
        spec, beat = self.spec, layout.streams(self.spec).activation
        # Activations may have a second register, whether they are aligned or not.
        twice = spec.aligns or spec.operand_latency_cycles > 2
        prepares = spec.operand_latency_cycles > 1 + twice
        held = Signal(beat.bits, name="held", reset_less=True)
        held_valid = Signal()
        moves = Signal(name="moves") if prepares else release
        aligns = Signal(name="aligns") if twice else moves

        def register(
            name: str, valid: Value, enters: Value, leaves: Value, *words: tuple[str, Value]
        ) -> tuple[Value, list[Signal]]:
            """Adds a register to the way. Returns (full, kept): whether it holds something, and
            its words.

            It takes `words` in the cycles in which it sets `enters`: when they are `valid` and the
            register is empty or `leaves` is set, which empties it.
            """
            full = Signal(name=f"{name}_valid")
            kept = [Signal(len(word), name=title, reset_less=True) for title, word in words]
            m.d.comb += enters.eq(valid & (~full | leaves))
            with m.If(enters):
                taken = [signal.eq(word) for signal, (_, word) in zip(kept, words, strict=True)]
                m.d.sync += [full.eq(1), *taken]
            with m.Elif(leaves):
                m.d.sync += full.eq(0)
            return full, kept

        valid, fields = held_valid, unpack(held, beat)
        if spec.aligns:
            aligned = layout.aligned(spec)
            fields["x"] = self._align(m, fields)
            word = pack(aligned, **{field.name: fields[field.name] for field in aligned.fields})
            valid, kept = register("aligned", valid, aligns, moves, ("aligned", word))
            fields = unpack(kept[0], aligned)
            x = fields["x"]
        else:
            x = self.taken(m, fields["x"])
            if twice:
                taken = [(f"taken{i}", value) for i, value in enumerate(x)]
                valid, x = register("taken", valid, aligns, moves, *taken)
        words, row_sums = self.operands(m, x, fields)
        sums = Cat(*(row_sum[: spec.slice_sum_bits] for row_sum in row_sums))
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
        """The activations of a beat of floating numbers, aligned to integers, [m][slice_k]."""
        spec = self.spec
        kind = spec.activations
        assert kind.format is not None
        integers = []
        for row, exponent in enumerate(fields["exponent"]):
            shared = named(m, f"exponent{row}", shared_exponent(exponent, kind.format))
            codes = fields["x"][row * spec.slice_k : (row + 1) * spec.slice_k]
            integers += [
                align(m, f"x{row}_{i}", code, shared, kind) for i, code in enumerate(codes)
            ]
        return integers

    def elaborate(self, platform):
        m = Module()
        spec, streams = self.spec, layout.streams(self.spec)
        fill_modes = tuple(fill.mode for fill in spec.fills)
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

        arrives = WeightBeat(self.weight.payload, self.weight.ready)
        weights = self.weights(m, arrives, WeightBeat(code, fill), sequencer)
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
        """Offers the result of an engine whose complete sums have registers of their own, from the
        cycle after `ended` until the result leaves. Returns whether the engine can take a step."""
        # Set from the step that ends a group until the group's result leaves.
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
        """Multiplies, accumulates and offers the result. Returns whether a step can be taken.

        `operands` and `sums` are the step's operands and row sums, `weights` the fields of its
        weight beat.
        """
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
