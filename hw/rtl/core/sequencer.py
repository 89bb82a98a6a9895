"""The loop counters of an engine: they walk through tiles, groups, K-slices, weight beats and steps
of a command."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import any_of
from evolute.hw.rtl.blocks.words import unpack
from evolute.hw.spec.engine import PLANES_BITS
from evolute.hw.spec.layout import Beat


class Sequencer(wiring.Component):
    """Describes the engine's next step. One command is in progress at a time; the next one waits at
    the port.

    Members
    -------
    command : stream of `layout.EngineStreams.command`.
    valid : there is a next step; the other outputs describe it.
    plane : number of the step's weight beat within its K-slice.
    mode : mode of the command.
    beat_step : number of the step among those of its weight beat.
    last_beat_step : from the engine; the number of the last step of a weight beat in this mode.
    first_of_slice : the step is the first of its K-slice.
    last_of_slice : the step is the last one that uses the operands of its K-slice.
    last_of_beat : the step is the last one that uses its weight beat.
    first, last : the step starts, or ends, the accumulation of a group.
    step : from the engine; the step is taken in this cycle.

    Only for engines with fills:

    fill : the command is a fill.
    slice : number of the step's K-slice.
    ends : the command ends with the step that is taken in this cycle.
    """

    command: stream.Interface
    valid: Signal
    plane: Signal
    mode: Value
    beat_step: Value
    last_beat_step: Signal
    first_of_slice: Signal
    last_of_slice: Signal
    last_of_beat: Signal
    first: Signal
    last: Signal
    step: Signal
    fill: Value
    slice: Signal
    ends: Signal

    def __init__(
        self,
        command: Beat,
        most_beat_steps: int,
        most_planes: int,
        most_group_slices: int,
        fill_modes: tuple[int, ...] = (),
    ):
        self._layout, self._most_beat_steps = command, most_beat_steps
        self._most_planes = most_planes
        self._most_group_slices = most_group_slices
        self._fill_modes = fill_modes
        members = {f.name: Out(f.bits) for f in command.fields if f.name == "mode"}
        if most_beat_steps > 1:
            members |= {
                "beat_step": Out(range(most_beat_steps)),
                "last_beat_step": In(range(most_beat_steps)),
            }
        else:
            self.beat_step = Const(0)
        if "mode" not in members:
            self.mode = Const(0)
        if fill_modes:
            slices = command.field("slices_minus_1").bits
            members |= {"fill": Out(1), "slice": Out(slices), "ends": Out(1)}
        else:
            self.fill = Const(0)
        super().__init__(
            {
                "command": In(stream.Signature(command.bits)),
                "valid": Out(1),
                "plane": Out(PLANES_BITS),
                **members,
                "first_of_slice": Out(1),
                "last_of_slice": Out(1),
                "last_of_beat": Out(1),
                "first": Out(1),
                "last": Out(1),
                "step": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        current = Signal(self._layout.bits, reset_less=True)
        fields = {name: value[0] for name, value in unpack(current, self._layout).items()}

        def counter(name: str, limit: Value, advance: Value) -> tuple[Signal, Signal]:
            """Counts 0 .. limit on `advance`; returns the count and whether it is at the limit."""
            count = Signal(len(limit), name=name)
            full = Signal(name=f"last_{name}")
            m.d.comb += full.eq(count == limit)
            with m.If(advance):
                m.d.sync += count.eq(Mux(full, 0, count + 1))
            return count, full

        beat_end: Value = self.step
        beat_start: Value = Const(1)
        m.d.comb += self.last_of_beat.eq(1)
        if self._most_beat_steps > 1:
            beat_step, last_beat_step = counter("beat_step", self.last_beat_step, self.step)
            m.d.comb += [self.beat_step.eq(beat_step), self.last_of_beat.eq(last_beat_step)]
            beat_start, beat_end = beat_step == 0, self.step & last_beat_step
        plane, last_plane = Const(0, 1), Const(1, 1)
        if self._most_planes > 1:
            planes_minus_1 = fields["planes_minus_1"][: (self._most_planes - 1).bit_length()]
            plane, last_plane = counter("planes", planes_minus_1, beat_end)
        slice_end = beat_end & last_plane
        slices, last_slice = counter("slices", fields["slices_minus_1"], slice_end)
        tile_end = slice_end & last_slice
        _, last_tile = counter("tiles", fields["tiles_minus_1"], tile_end)

        # A tile's end also ends its last group, which may be shorter than the others.
        in_group: Value = Const(0)
        group_full = Signal(init=1)
        if self._most_group_slices > 1:
            in_group = count = Signal(range(self._most_group_slices), name="in_group")
            m.d.comb += group_full.eq((in_group == fields["group_slices_minus_1"]) | last_slice)
            with m.If(slice_end):
                m.d.sync += count.eq(Mux(group_full, 0, count + 1))

        m.d.comb += [
            self.plane.eq(plane),
            self.first_of_slice.eq(beat_start & (plane == 0)),
            self.last_of_slice.eq(self.last_of_beat & last_plane),
            self.first.eq(self.first_of_slice & (in_group == 0)),
            self.last.eq(self.last_of_slice & group_full),
        ]

        if "mode" in fields:
            m.d.comb += self.mode.eq(fields["mode"])

        done = Signal()
        m.d.comb += [done.eq(tile_end & last_tile), self.command.ready.eq(~self.valid | done)]
        if self._fill_modes:
            m.d.comb += [
                self.fill.eq(any_of(self.mode == mode for mode in self._fill_modes)),
                self.slice.eq(slices),
                self.ends.eq(done),
            ]
        with m.If(self.command.ready):
            m.d.sync += [self.valid.eq(self.command.valid), current.eq(self.command.payload)]
        return m
