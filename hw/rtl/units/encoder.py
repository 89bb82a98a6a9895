"""Encoders of `hw.spec.lut_stationary`: a chain of distances, or a tree over all or some of them.

Nothing in an encoder waits once a row is in it: a row enters when the queue has room for its index.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import any_of, log2, named, select
from evolute.hw.rtl.blocks.words import unpack
from evolute.hw.rtl.engines.lut_dla import distance, nearest
from evolute.hw.spec.lut_stationary import LutStationary

ENCODER = "encoder"
"""The domain of the encoder's clock, whose ports are `encoder_clk` and `encoder_rst`."""


class Encoder(wiring.Component):
    """Indices of nearest centroids, in the order of the rows. All by the encoder's clock.

    Members
    -------
    centroid, activation : streams of `hw.spec.lut_stationary.STREAMS`.
    room, reserve : the queue has room for an index, and a row takes it.
    write, index : an index, `encoder_latency_cycles` after its row.
    """

    centroid: stream.Interface
    activation: stream.Interface
    room: Signal
    reserve: Signal
    write: Signal
    index: Signal

    def __init__(self, spec: LutStationary):
        self.spec = spec
        streams = spec.streams
        super().__init__(
            {
                "centroid": In(stream.Signature(streams.centroid.bits)),
                "activation": In(stream.Signature(streams.activation.bits)),
                "room": In(1),
                "reserve": Out(1),
                "write": Out(1),
                "index": Out(range(spec.centroids)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        fields = unpack(self.activation.payload, spec.streams.activation)
        # Centroids come before a subspace's rows, and again after its last one.
        loads = Signal(init=1)
        loaded, row, free = Signal(), Signal(), Signal()
        slot = Signal(log2(spec.centroid_beats))
        m.d.comb += [
            self.centroid.ready.eq(loads & free),
            self.activation.ready.eq(~loads & free & self.room),
            loaded.eq(self.centroid.valid & self.centroid.ready),
            row.eq(self.activation.valid & self.activation.ready),
            self.reserve.eq(row),
        ]
        last = fields["last"][0]
        with m.If(loaded):
            m.d.encoder += [slot.eq(slot + 1), loads.eq(slot != spec.centroid_beats - 1)]
        with m.If(row & last):
            m.d.encoder += loads.eq(1)
        if spec.encoder == "chain":
            m.d.comb += free.eq(1)
            self._chain(m, loaded, row)
        else:
            m.d.comb += free.eq(self._tree(m, loaded, slot, row))
        return m

    def _vector(self, word: Value) -> list[Value]:
        bits = self.spec.activation_bits
        return [word.word_select(i, bits).as_signed() for i in range(self.spec.v)]

    def _chain(self, m: Module, loaded: Value, row: Value) -> None:
        """The chain of one distance unit per centroid.

        Rows pass through all units. A centroid passes until it reaches a unit that is open, which
        keeps it and closes. All units are open after a reset, and each opens again when a row has
        passed it. A unit compares its distance a cycle later, when the least distance of the units
        before it has arrived.
        """
        spec = self.spec
        bits = spec.v * spec.activation_bits
        x = Signal(bits, name="x0", reset_less=True)
        is_row, is_centroid = Signal(name="is_row0"), Signal(name="is_centroid0")
        m.d.encoder += [
            x.eq(Mux(loaded, self.centroid.payload, self.activation.payload[:bits])),
            is_row.eq(row),
            is_centroid.eq(loaded),
        ]
        least: Value = Const(0)
        index: Value = Const(0)
        for j in range(spec.centroids):
            held = Signal(bits, name=f"centroid{j}", reset_less=True)
            opened: Value = Const(1)  # only the last centroid comes as far as the last unit
            if j + 1 < spec.centroids:
                is_open = opened = Signal(name=f"open{j}", init=1)
                with m.If(is_row):
                    m.d.encoder += is_open.eq(1)
                with m.Elif(is_centroid):
                    m.d.encoder += is_open.eq(0)
            with m.If(is_centroid & opened):
                m.d.encoder += held.eq(x)
            compared = distance(m, f"distance{j}", spec.metric, self._vector(x), self._vector(held))
            d = Signal(spec.distance_bits, name=f"distance{j}_kept", reset_less=True)
            m.d.encoder += d.eq(compared[: spec.distance_bits])
            after_index = Signal(log2(spec.centroids), name=f"index{j}", reset_less=True)
            nearer = named(m, f"nearer{j}", d < least) if j else Const(1)
            m.d.encoder += after_index.eq(Mux(nearer, j, index))
            index = after_index
            after_row = Signal(name=f"is_row{j + 1}")
            m.d.encoder += after_row.eq(is_row)
            if j + 1 < spec.centroids:
                after = Signal(bits, name=f"x{j + 1}", reset_less=True)
                # All units are open during a reset, so that nothing passes them.
                after_centroid = Signal(name=f"is_centroid{j + 1}", reset_less=True)
                after_least = Signal(spec.distance_bits, name=f"least{j}", reset_less=True)
                m.d.encoder += [
                    after.eq(x),
                    after_centroid.eq(is_centroid & ~opened),
                    after_least.eq(Mux(nearer, d, least)),
                ]
                x, is_centroid, least = after, after_centroid, after_least
            is_row = after_row
        m.d.encoder += self.write.eq(is_row)
        m.d.comb += self.index.eq(index)

    def _tree(self, m: Module, loaded: Value, slot: Value, row: Value) -> Value:
        """The tree of comparators over all distances, or over `lanes` of them a turn and
        the nearest so far. Returns whether a new row or centroid can replace the present one."""
        spec = self.spec
        bits, turns = spec.v * spec.activation_bits, spec.encoder_period_cycles
        x = Signal(bits, reset_less=True)
        busy = Signal()
        held = []
        for j in range(spec.centroids):
            centroid = Signal(bits, name=f"centroid{j}", reset_less=True)
            at_slot, place = divmod(j, spec.beat_centroids)
            with m.If(loaded & (slot == at_slot)):
                m.d.encoder += centroid.eq(self.centroid.payload.word_select(place, bits))
            held.append(centroid)
        turn = Signal(log2(turns))
        with m.If(busy):
            m.d.encoder += turn.eq(turn + 1)
        last = turn == turns - 1
        free = ~busy | last
        with m.If(free):
            m.d.encoder += [busy.eq(row), x.eq(self.activation.payload[:bits])]
        distances = []
        at_turn = [turn == i for i in range(turns)]
        for lane in range(spec.lanes):
            words = [held[i * spec.lanes + lane] for i in range(turns)]
            y = named(m, f"compared{lane}", select(words, at_turn))
            compared = distance(m, f"distance{lane}", spec.metric, self._vector(x), self._vector(y))
            d = Signal(spec.distance_bits, name=f"distance{lane}_kept", reset_less=True)
            m.d.encoder += d.eq(compared[: spec.distance_bits])
            distances.append(d)
        # The first turn of a row always replaces the nearest so far. Without a row it does so, too,
        # which does no harm, since the next row's first turn replaces it again.
        ends, begins = Signal(), Signal(reset_less=True)
        m.d.encoder += [
            ends.eq(busy if turns == 1 else last),
            begins.eq(at_turn[0]),
        ]
        best = nearest(m, "nearest", distances)
        lane_index = Cat(
            *(
                any_of(is_best for lane, is_best in enumerate(best.one_hot) if lane >> bit & 1)
                for bit in range(log2(spec.lanes))
            )
        )
        index = Signal(log2(spec.centroids), reset_less=True)
        if turns == 1:
            m.d.encoder += index.eq(lane_index)
        else:
            least = Signal(spec.distance_bits, reset_less=True)
            compared_turn = Signal(log2(turns), reset_less=True)
            m.d.encoder += compared_turn.eq(turn)
            nearer = named(m, "nearer", begins | (best.distance < least))
            with m.If(nearer):
                m.d.encoder += [
                    least.eq(best.distance),
                    index.eq(Cat(lane_index, compared_turn)),
                ]
        m.d.encoder += self.write.eq(ends)
        m.d.comb += self.index.eq(index)
        return free
