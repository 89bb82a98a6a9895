"""Scales an engine's results and adds them to sums, as `hw.spec.scaling` defines it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import ends_turn, named, negate_if, sum_modulo
from evolute.hw.rtl.blocks.floating import (
    Range,
    add,
    decoded,
    encoded,
    float_range,
    from_code,
    multiply,
    nearest,
)
from evolute.hw.rtl.blocks.words import unpack
from evolute.hw.rtl.engines.floating import register
from evolute.hw.spec import layout
from evolute.hw.spec.floating import FP16, RESULT
from evolute.hw.spec.scaling import OFFSET_SHIFT_BITS, FloatScaling, IntegerScaling, Scaling


class Step(NamedTuple):
    """A step of a result at some stage of the pipeline."""

    valid: Value
    """Whether there is one."""
    tag: Value
    """The word that goes along with it; its lowest bit is set where its sums start, at 0."""


class ScaleLanes(wiring.Component):
    """Takes results step by step: looks scales up, multiplies, looks up the sums so far, adds the
    products and writes the sums back.

    Members
    -------
    result : stream of results from the engine.
    taken : a result is taken.
    shift : left shift of all offsets.
    look : look up the scales of a step.
    step, chunk : the number of that step in its result, and that of its part of the columns.
    last : that step is the result's last one.
    tag : a word that goes along with the step; the lowest bit is set where its sums start, at 0.
    scales : the scales that were looked up, a cycle after `look`; absent where there are none.
    read, read_tag : look up the sums of the step with this tag.
    value : the sums that were looked up, a cycle after `read`.
    write, write_tag, data : write the sums of the step with this tag.
    """

    result: stream.Interface
    taken: Signal
    shift: Signal
    look: Signal
    step: Signal
    chunk: Signal
    last: Signal
    tag: Signal
    scales: Signal
    read: Signal
    read_tag: Signal
    value: Signal
    write: Signal
    write_tag: Signal
    data: Signal

    def __init__(self, scaling: Scaling, tag_bits: int = 1):
        self.scaling = scaling
        engine, bits = scaling.engine, scaling.scale_lanes * scaling.word_bits
        self.chunks = engine.n // scaling.scale_lanes
        factors = {"scales": In(scaling.beat.bits)} if scaling.beat.fields else {}
        super().__init__(
            {
                **factors,
                "result": In(stream.Signature(layout.streams(engine).result.bits)),
                "taken": Out(1),
                "shift": In(OFFSET_SHIFT_BITS),
                "look": Out(1),
                "step": Out(range(max(2, scaling.steps))),
                "chunk": Out(range(max(2, self.chunks))),
                "last": Out(1),
                "tag": In(tag_bits),
                "read": Out(1),
                "read_tag": Out(tag_bits),
                "value": In(bits),
                "write": Out(1),
                "write_tag": Out(tag_bits),
                "data": Out(bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        scaling, engine = self.scaling, self.scaling.engine
        fields = {field.name: field for field in layout.streams(engine).result.fields}
        offsets = layout.streams(engine).result.offsets
        held = {
            name: Signal(field.total_bits, name=f"{name}s", reset_less=True)
            for name, field in fields.items()
        }
        stepping = Signal()
        wait = Signal(range(scaling.period_cycles))
        take = named(m, "take", self.result.valid & self.result.ready)
        ends_step = named(m, "ends_step", ends_turn(m, "cycle", scaling.step_cycles, stepping))
        last_chunk = named(m, "last_chunk", self.chunk == self.chunks - 1)
        m.d.comb += [
            self.result.ready.eq(wait == 0),
            self.taken.eq(take),
            self.last.eq(self.step == scaling.steps - 1),
        ]
        step, chunk = Signal.like(self.step), Signal.like(self.chunk)
        m.d.comb += [self.step.eq(step), self.chunk.eq(chunk)]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(ends_step):
            m.d.sync += [
                stepping.eq(~self.last),
                step.eq(Mux(self.last, 0, step + 1)),
                chunk.eq(Mux(last_chunk, 0, chunk + 1)),
                held["psum"].eq(held["psum"] >> scaling.scale_lanes * engine.acc_bits),
            ]
            if "row_sum" in held:
                with m.If(last_chunk):
                    m.d.sync += held["row_sum"].eq(held["row_sum"] >> engine.row_sum_bits)
        with m.If(take):
            m.d.sync += [
                wait.eq(scaling.period_cycles - 1),
                stepping.eq(1),
                *(
                    held[name].eq(self.result.payload[offset:][: len(held[name])])
                    for name, offset in offsets.items()
                ),
            ]

        # A step that takes several cycles is looked up in its first.
        looks = stepping
        if scaling.step_cycles > 1:
            looks = Signal(name="looks")
            m.d.sync += looks.eq(take | (ends_step & ~self.last))
        m.d.comb += self.look.eq(looks)

        lanes = range(scaling.scale_lanes)
        psum = [held["psum"].word_select(i, engine.acc_bits).as_signed() for i in lanes]
        row_sum = None
        if "row_sum" in held:
            row_sum = held["row_sum"][: engine.row_sum_bits].as_signed()
        terms, at = self.terms(m, psum, row_sum, Step(looks, self.tag))
        m.d.comb += [self.read.eq(at.valid), self.read_tag.eq(at.tag)]

        # Accumulate.
        at = _later(m, "accumulate", at)
        words = [self.value.word_select(i, scaling.word_bits) for i in lanes]
        before = [named(m, f"before{i}", Mux(at.tag[0], 0, word)) for i, word in enumerate(words)]
        sums = [self.total(m, f"sum{i}", before[i], terms[i]) for i in lanes]
        m.d.comb += [
            self.write.eq(at.valid),
            self.write_tag.eq(at.tag),
            self.data.eq(Cat(*sums)),
        ]
        return m

    @abstractmethod
    def terms(
        self, m: Module, psum: Sequence[Value], row_sum: Value | None, at: Step
    ) -> tuple[Sequence[Any], Step]:
        """Returns (terms, later): the numbers that a step adds to its sums, one per lane, and the
        step as it is one cycle before they are present.

        `at` is the step in the cycle in which `psum` and `row_sum` are present and its scales are
        looked up.
        """

    @abstractmethod
    def total(self, m: Module, name: str, before: Value, term: Any) -> Value:
        """A sum's next word."""


class PipelinedLanes(ScaleLanes):
    """Lanes that start a step every cycle, in three stages: hold, multiply, add the products."""

    def terms(self, m, psum, row_sum, at):
        lanes = range(self.scaling.scale_lanes)

        # Hold what was looked up: a memory's output comes late in its cycle.
        psum = [self.hold(m, f"psum{i}", psum[i]) for i in lanes]
        row_sum = None if row_sum is None else self.hold(m, "row_sum", row_sum)
        at = _later(m, "hold", at)

        # Multiply.
        psum = [self.hold(m, f"held_psum{i}", psum[i]) for i in lanes]
        row_sum = None if row_sum is None else self.hold(m, "held_row_sum", row_sum)
        at = _later(m, "multiply", at)
        factors: dict[str, list[Value]] = {}
        if self.scaling.beat.fields:
            factors = unpack(_register(m, "held_scales", self.scales), self.scaling.beat)
        scales = factors.get("scale", [None] * len(lanes))
        scaled = [self.product(m, f"scaled{i}", psum[i], scales[i]) for i in lanes]
        offset: list[Any] = [None] * len(lanes)
        if row_sum is not None:
            offset = [self.product(m, f"offset{i}", row_sum, factors["offset"][i]) for i in lanes]

        # Add products up.
        scaled = [self.register(m, f"scaled{i}_later", scaled[i]) for i in lanes]
        if row_sum is not None:
            offset = [self.register(m, f"offset{i}_later", offset[i]) for i in lanes]
        at = _later(m, "add", at)
        terms = [self.term(m, f"added{i}", scaled[i], offset[i]) for i in lanes]
        return [self.register(m, f"term{i}", terms[i]) for i in lanes], at

    def hold(self, m: Module, name: str, value: Value) -> Value:
        """A part of a result, a cycle later."""
        return _register(m, name, value)

    @abstractmethod
    def product(self, m: Module, name: str, value: Value, factor: Value | None) -> Any:
        """A part of a result times its factor, if it has one."""

    @abstractmethod
    def term(self, m: Module, name: str, scaled: Any, offset: Any) -> Any:
        """The sum of both products; `offset` is None where there are no offsets."""

    @abstractmethod
    def register(self, m: Module, name: str, value: Any) -> Any:
        """`value`, a cycle later."""


class ArrayLanes(PipelinedLanes):
    """Lanes for integers that multiply in one cycle."""

    scaling: IntegerScaling  # pyright: ignore[reportIncompatibleVariableOverride]

    def product(self, m, name, value, factor):
        assert factor is not None
        return value * factor

    def term(self, m, name, scaled, offset):
        return (scaled + (offset << self.shift))[: self.scaling.sum_bits].as_signed()

    def register(self, m, name, value):
        return _register(m, name, value)

    def total(self, m, name, before, term):
        return (before + term)[: self.scaling.sum_bits]


def bit_products(
    m: Module, name: str, psum: Value, scale: Value, row_sum: Value, offset: Value, top: Value
) -> list[Value]:
    """Values to add for one bit of the scale and one of the offset, after the sum of the bits above
    has been doubled. The `top` bit of an offset counts negatively."""
    minus = named(m, f"minus{name}", top & offset)
    return [
        Mux(scale, psum, 0),
        negate_if(Mux(offset, row_sum, 0).as_unsigned(), minus),
        minus,
    ]


class SerialLanes(ScaleLanes):
    """Lanes for integers that multiply by shift and add, from the highest bits of scale and offset
    down, one bit of each a cycle."""

    scaling: IntegerScaling  # pyright: ignore[reportIncompatibleVariableOverride]

    def terms(self, m, psum, row_sum, at):
        # One step at a time: it loads its operands, then takes `bits` cycles, one per bit.
        scaling = self.scaling
        bits, lanes = scaling.step_cycles, range(scaling.scale_lanes)
        assert row_sum is not None
        at = _later(m, "hold", at)
        loads = at.valid
        at = Step(Signal(name="multiplies"), _kept(m, loads, "step_tag", at.tag))
        ends = named(m, "ends_product", ends_turn(m, "bit", bits, at.valid))
        top = Signal(name="top_bit")
        m.d.sync += top.eq(loads)
        with m.If(loads):
            m.d.sync += at.valid.eq(1)
        with m.Elif(ends):
            m.d.sync += at.valid.eq(0)

        row_sum = _kept(m, loads, "held_row_sum", row_sum)
        shifted = (row_sum << self.shift)[: scaling.sum_bits].as_signed()
        shifted = named(m, "shifted_row_sum", shifted)
        # The width of the sum of both products, at most that of a sum, modulo which it counts.
        width = 1 + max(
            scaling.engine.acc_bits + scaling.scale_bits, len(shifted) + scaling.offset_bits
        )
        width = min(width, scaling.sum_bits)
        factors = unpack(self.scales, scaling.beat)
        terms = []
        for i in lanes:
            factor = {}
            for name in ("scale", "offset"):
                left = Signal(bits, name=f"{name}{i}", reset_less=True)
                extended = Signal(bits, name=f"wide_{name}{i}")
                m.d.comb += extended.eq(factors[name][i])
                m.d.sync += left.eq(Mux(loads, extended, left << 1))
                factor[name] = left[-1]
            value = _kept(m, loads, f"held_psum{i}", psum[i])
            term = Signal(signed(width), name=f"term{i}", reset_less=True)
            before = Mux(top, 0, term << 1)[:width].as_signed()
            added = bit_products(m, f"{i}", value, factor["scale"], shifted, factor["offset"], top)
            m.d.sync += term.eq(sum_modulo(m, f"next{i}", [before, *added], width))
            terms.append(term)
        return terms, at._replace(valid=ends)

    def total(self, m, name, before, term):
        return (before + term)[: self.scaling.sum_bits]


class FloatLanes(PipelinedLanes):
    """Lanes for floating numbers, which are rounded as the engine's sums are."""

    scaling: FloatScaling  # pyright: ignore[reportIncompatibleVariableOverride]

    def _numbers(self, unit: int, high: int) -> Range:
        return Range(unit, high, self.scaling.engine.significand_bits)

    @property
    def _parts(self) -> Range:
        """The range of the sums in a result: of up to 2^28 products of two FP16 numbers."""
        fp16 = float_range(FP16)
        return self._numbers(2 * fp16.unit, 2 * fp16.high + 28)

    @property
    def _sums(self) -> Range:
        """The range of sums over groups: of up to 2^30 scaled sums of results."""
        fp16, parts = float_range(FP16), self._parts
        return self._numbers(parts.unit + fp16.unit, parts.high + fp16.high + 32)

    def hold(self, m, name, value):
        zeros = RESULT.mantissa_bits + 1 - self._parts.bits  # below what a sum's significand has
        return Cat(Const(0, zeros), _register(m, name, value[zeros:]))

    def product(self, m, name, value, factor):
        part = from_code(m, f"{name}_part", value, RESULT, self._parts)
        if factor is None:
            return part
        exact = multiply(m, name, part, decoded(m, f"{name}_factor", factor, FP16))
        return nearest(m, name, exact, part.range.bits)

    def term(self, m, name, scaled, offset):
        return scaled if offset is None else add(m, name, scaled, offset, scaled.range.bits)

    def register(self, m, name, value):
        return register(m, name, value)

    def total(self, m, name, before, term):
        range_ = self._sums
        sum_ = from_code(m, f"{name}_before", before, RESULT, range_)
        return encoded(add(m, name, sum_, term, range_.bits, range_.high), RESULT)


def lanes_of(scaling: Scaling, tag_bits: int = 1) -> ScaleLanes:
    """The component that a scaling's spec describes."""
    if isinstance(scaling, FloatScaling):
        return FloatLanes(scaling, tag_bits)
    assert isinstance(scaling, IntegerScaling)
    return (SerialLanes if scaling.is_serial else ArrayLanes)(scaling, tag_bits)


def _register(m: Module, name: str, value: Value) -> Signal:
    """`value`, a cycle later."""
    register = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def _kept(m: Module, load: Value, name: str, value: Value) -> Signal:
    """`value` as it was in the last cycle before this one in which `load` was set."""
    register = Signal(value.shape(), name=name, reset_less=True)
    with m.If(load):
        m.d.sync += register.eq(value)
    return register


def _later(m: Module, stage: str, at: Step) -> Step:
    """The step a cycle later; only `valid` is reset."""
    valid = Signal(name=f"{stage}_valid")
    m.d.sync += valid.eq(at.valid)
    return Step(valid, _register(m, f"{stage}_tag", at.tag))
