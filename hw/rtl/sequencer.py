"""The loop counter of an engine: tiles, groups, K-slices and bit-planes of one command."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.words import unpack
from hw.spec.layout import Beat


class Sequencer(wiring.Component):
    """Names the engine's next step. One command is in force at a time, the next waits at the port.

    Members
    -------
    command : stream of `layout.EngineStreams.command`.
    valid : there is a next step; the other outputs describe it.
    plane, ternary : its bit-plane, and whether all planes weigh the same.
    last_plane : it is the K-slice's last use of its table.
    first, last : it starts, or ends, a group's accumulation.
    step : from the engine; the step is taken in this cycle.
    """

    command: stream.Interface
    valid: Signal
    plane: Signal
    ternary: Signal
    last_plane: Signal
    first: Signal
    last: Signal
    step: Signal

    def __init__(self, command: Beat):
        self._layout = command
        super().__init__(
            {
                "command": In(stream.Signature(command.bits)),
                "valid": Out(1),
                "plane": Out(3),
                "ternary": Out(1),
                "last_plane": Out(1),
                "first": Out(1),
                "last": Out(1),
                "step": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        current = Signal(self._layout.bits, reset_less=True)
        limit = {name: value[0] for name, value in unpack(current, self._layout).items()}

        def counter(name: str, advance):
            """Counts 0 .. limit on `advance`; returns the count and `advance` on the limit."""
            count = Signal(len(limit[name]), name=name.removesuffix("_minus_1"))
            full = Signal(name=f"last_{count.name}")
            m.d.comb += full.eq(count == limit[name])
            with m.If(advance):
                m.d.sync += count.eq(Mux(full, 0, count + 1))
            return count, full

        plane, last_plane = counter("planes_minus_1", self.step)
        slice_end = self.step & last_plane
        _, last_slice = counter("slices_minus_1", slice_end)
        tile_end = slice_end & last_slice
        _, last_tile = counter("tiles_minus_1", tile_end)

        # A tile's end also ends its last group, which may be shorter than the others.
        in_group = Signal(len(limit["group_slices_minus_1"]))
        group_full = Signal()
        m.d.comb += group_full.eq((in_group == limit["group_slices_minus_1"]) | last_slice)
        with m.If(slice_end):
            m.d.sync += in_group.eq(Mux(group_full, 0, in_group + 1))

        m.d.comb += [
            self.plane.eq(plane),
            self.ternary.eq(limit["ternary"]),
            self.last_plane.eq(last_plane),
            self.first.eq((plane == 0) & (in_group == 0)),
            self.last.eq(last_plane & group_full),
        ]

        done = Signal()
        m.d.comb += [done.eq(tile_end & last_tile), self.command.ready.eq(~self.valid | done)]
        with m.If(self.command.ready):
            m.d.sync += [self.valid.eq(self.command.valid), current.eq(self.command.payload)]
        return m
