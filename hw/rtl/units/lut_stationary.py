"""The encoder, the matcher and what is between them; `hw.spec.lut_stationary` says what they do.

    centroid, activation -> encoder -> [queue] -> matcher -> result
                    encoder's clock       |        ^- table
                                          request -> (a memory)

Registers in the matcher are the addressed words of both memories, then the result.
"""

from typing import NamedTuple

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import memory, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from evolute.hw.rtl.blocks.arith import decode, log2, named, saturated
from evolute.hw.rtl.blocks.crossing import Crossing
from evolute.hw.rtl.blocks.words import pack, unpack
from evolute.hw.rtl.core.buffer import NO_COLLISION
from evolute.hw.rtl.units.encoder import ENCODER, Encoder
from evolute.hw.spec.lut_stationary import LutStationary


class Place(NamedTuple):
    """The place of a loop over a command's column tiles, subspaces and rows."""

    row: Value
    """The number of the row."""
    first: Value
    """Whether it is in a tile's first subspace."""
    last: Value
    """Whether it is in a tile's last subspace."""
    ends_rows: Value
    """Whether it is at the last row of a subspace."""
    ends: Value
    """Whether it is at the command's last row."""


class Matcher(wiring.Component):
    """Sums of the table rows that indices name.

    Members
    -------
    command, table, result : streams of `hw.spec.lut_stationary.STREAMS`; and request, of a gather.
    there, index, read : the queue holds an index; the first one; remove it.

    The signal `free` is no port. It is set when the register before the sums can be filled.
    """

    command: stream.Interface
    table: stream.Interface
    result: stream.Interface
    request: stream.Interface
    there: Signal
    index: Signal
    read: Signal

    def __init__(self, spec: LutStationary):
        self.spec = spec
        self.free = Signal()
        streams = spec.streams
        requests = streams.request
        super().__init__(
            {
                "command": In(stream.Signature(streams.command.bits)),
                "table": In(stream.Signature(streams.table.bits)),
                "result": Out(stream.Signature(streams.result.bits)),
                **({"request": Out(stream.Signature(requests.bits))} if requests else {}),
                "there": In(1),
                "index": In(range(spec.centroids)),
                "read": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        beat = spec.streams.command
        current = Signal(beat.bits, reset_less=True)
        fields = {name: value[0] for name, value in unpack(current, beat).items()}
        rows_minus_1 = fields["rows_minus_1"]
        active = Signal()

        # The register between the memories and the sums.
        entered, taken, free = Signal(), Signal(), self.free
        place = self._loop(m, "sums", fields, entered)
        kept_row = Signal.like(place.row, name="kept_row", reset_less=True)
        kept_first, kept_last = Signal(reset_less=True), Signal(reset_less=True)
        leaves = named(m, "leaves", ~kept_last | ~self.result.valid | self.result.ready)
        m.d.comb += free.eq(~taken | leaves)
        with m.If(free):
            m.d.sync += taken.eq(entered)
        with m.If(entered):
            m.d.sync += [
                kept_row.eq(place.row),
                kept_first.eq(place.first),
                kept_last.eq(place.last),
            ]
        # A row's sum is written in the cycle after the one in which it could be read again, unless
        # the only row of a tile takes several cycles to come.
        collides: Value = Const(0)
        if not (spec.gathers and spec.row_beats > 1):
            collides = named(m, "collides", taken & (rows_minus_1 == 0))

        may_enter = named(m, "may_enter", active & free & ~collides)
        if spec.gathers:
            entries = self._gathered(m, fields, active, may_enter, entered)
        else:
            entries = self._banked(m, may_enter, entered, place)

        m.submodules.scratchpad = scratchpad = memory.Memory(
            shape=spec.n * spec.acc_bits, depth=spec.m, init=[], attrs=NO_COLLISION
        )
        read, write = scratchpad.read_port(), scratchpad.write_port()
        sums = []
        for i in range(spec.n):
            before = Mux(kept_first, 0, read.data.word_select(i, spec.acc_bits)).as_signed()
            after = before + entries.word_select(i, spec.weight_bits).as_signed()
            if spec.saturates:
                after = saturated(named(m, f"after{i}", after), spec.acc_bits)
            sums.append(named(m, f"sum{i}", after[: spec.acc_bits]))
        word = pack(spec.streams.result, psum=sums)
        m.d.comb += [
            read.addr.eq(place.row),
            read.en.eq(entered),
            write.addr.eq(kept_row),
            write.data.eq(word),
            write.en.eq(taken),  # the last sum too, which a first one will not look at
        ]
        with m.If(~self.result.valid | self.result.ready):
            m.d.sync += self.result.valid.eq(taken & kept_last)
            with m.If(taken & kept_last):
                m.d.sync += self.result.payload.eq(word)

        m.d.comb += self.command.ready.eq(~active | (entered & place.ends))
        with m.If(self.command.ready):
            m.d.sync += [active.eq(self.command.valid), current.eq(self.command.payload)]
        return m

    def _loop(self, m: Module, name: str, fields: dict[str, Value], advance: Value) -> Place:
        """A loop that goes to the next row with every `advance`: row by row, subspace by subspace,
        tile by tile. `fields` are those of the command."""

        def counter(field: str, step: Value) -> tuple[Value, Value]:
            if field not in fields:
                return Const(0, 1), Const(1)
            limit = fields[field]
            count = Signal(len(limit), name=f"{name}_{field.removesuffix('s_minus_1')}")
            full = named(m, f"{count.name}_is_last", count == limit)
            with m.If(step):
                m.d.sync += count.eq(Mux(full, 0, count + 1))
            return count, full

        row, ends_rows = counter("rows_minus_1", advance)
        space, last = counter("subspaces_minus_1", advance & ends_rows)
        _, last_tile = counter("tiles_minus_1", advance & ends_rows & last)
        ends = named(m, f"{name}_end", ends_rows & last & last_tile)
        return Place(row, space == 0, last, ends_rows, ends)

    def _indices(self, m: Module, place: Place, take: Value) -> tuple[Value, Value]:
        """Returns (there, index): whether the next index is present, and the index. `take`
        takes it, for the row at `place`.

        Indices come from the queue. If they are kept, those of column tiles after the first come
        from the memory that keeps them.
        """
        spec = self.spec
        if not spec.keeps_indices:
            m.d.comb += self.read.eq(take)
            return self.there, self.index
        m.submodules.indices = store = memory.Memory(
            shape=len(self.index), depth=spec.m * spec.subspaces, init=[], attrs=NO_COLLISION
        )
        read, write = store.read_port(), store.write_port()
        again, held = Signal(name="again"), Signal(name="index_held")
        address = Signal(range(spec.m * spec.subspaces), name="index_address")
        last = Signal.like(address, name="last_index", reset_less=True)
        fetch = named(m, "fetch_index", again & (~held | take))
        ends_tile = named(m, "ends_tile", take & place.ends_rows & place.last)
        m.d.comb += [
            self.read.eq(take & ~again),
            write.addr.eq(address),
            write.data.eq(self.index),
            write.en.eq(take & ~again),
            read.addr.eq(address),
            read.en.eq(fetch),
        ]
        with m.If(take & ~again):
            m.d.sync += address.eq(address + 1)
        with m.If(fetch):
            m.d.sync += [held.eq(1), address.eq(Mux(address == last, 0, address + 1))]
        with m.If(ends_tile & ~again):
            m.d.sync += [last.eq(address), address.eq(0), again.eq(1)]
        with m.If(take & place.ends):
            m.d.sync += [again.eq(0), held.eq(0), address.eq(0)]
        return Mux(again, held, self.there), Mux(again, read.data, self.index)

    def _banked(self, m: Module, may_enter: Value, entered: Signal, place: Place) -> Value:
        """The table row of the index that `entered` in the cycle before, out of one of two banks of
        tables, while the other bank is filled from the table stream."""
        spec = self.spec
        m.submodules.tables = tables = memory.Memory(
            shape=spec.n * spec.weight_bits, depth=spec.table_words, init=[], attrs=NO_COLLISION
        )
        granularity = spec.beat_entries * spec.weight_bits
        read, write = tables.read_port(), tables.write_port(granularity=granularity)
        there, index = self._indices(m, place, entered)
        full = [Signal(name=f"full{bank}") for bank in range(2)]
        reads, writes = Signal(), Signal()  # the bank that is read, and the one that is written
        moves = named(m, "moves", self.table.valid & self.table.ready)
        part, last_part = self._part(m, moves)
        row = Signal(log2(spec.centroids))
        m.d.comb += [
            self.table.ready.eq(~Mux(writes, full[1], full[0])),
            entered.eq(may_enter & there & Mux(reads, full[1], full[0])),
            read.addr.eq(Cat(index, reads)),
            read.en.eq(entered),
            write.addr.eq(Cat(row, writes)),
            write.data.eq(self.table.payload.replicate(spec.row_beats)),
            write.en.eq(Cat(moves & at_part for at_part in part)),
        ]
        filled = named(m, "filled", moves & last_part & (row == spec.centroids - 1))
        drained = named(m, "drained", entered & place.ends_rows)
        with m.If(moves & last_part):
            m.d.sync += row.eq(row + 1)
        m.d.sync += [writes.eq(writes ^ filled), reads.eq(reads ^ drained)]
        for bank, bank_full in enumerate(full):
            ends, begins = drained & (reads == bank), filled & (writes == bank)
            m.d.sync += bank_full.eq(begins | (bank_full & ~ends))
        return read.data

    def _part(self, m: Module, moves: Value) -> tuple[list[Value], Value]:
        """Returns (part, last): the place of the next table beat in its table row, one-hot, and
        whether it is the last one."""
        beats = self.spec.row_beats
        if beats == 1:
            return [Const(1, 1)], Const(1, 1)
        part = Signal(range(beats))
        last = named(m, "last_part", part == beats - 1)
        with m.If(moves):
            m.d.sync += part.eq(Mux(last, 0, part + 1))
        return [named(m, f"at_part{i}", part == i) for i in range(beats)], last

    def _gathered(
        self,
        m: Module,
        fields: dict[str, Value],
        active: Value,
        may_enter: Value,
        entered: Signal,
    ) -> Value:
        """The table row of the row that `entered` in the cycle before. It has just arrived, or with
        `dedup` it may have arrived for another row before.

        A loop of its own asks for the table rows, ahead of the loop of the sums within a command.
        """
        # Ask: the loop over indices, and the number of the table row.
        spec = self.spec
        asked, asked_all = Signal(), Signal()
        place = self._loop(m, "asks", fields, asked)
        there, index = self._indices(m, place, asked)
        step = Signal(self.request.payload.shape().width - log2(spec.centroids))
        with m.If(asked & place.ends_rows):
            m.d.sync += step.eq(Mux(place.ends, 0, step + 1))
        with m.If(self.command.ready):
            m.d.sync += asked_all.eq(0)
        with m.Elif(asked & place.ends):
            m.d.sync += asked_all.eq(1)
        asks = named(m, "asks", active & ~asked_all & there)

        # Receive: the beats of a table row, in the register `came`.
        moves = named(m, "moves", self.table.valid & self.table.ready)
        part, last_part = self._part(m, moves)
        comes = named(m, "comes", moves & last_part)
        row_bits = spec.beat_entries * spec.weight_bits
        came = Signal(spec.n * spec.weight_bits, reset_less=True)
        for i, at_part in enumerate(part):
            with m.If(moves & at_part):
                m.d.sync += came.word_select(i, row_bits).eq(self.table.payload)
        # The register of what came is refilled once the sums have taken it.
        takes = Mux(last_part, may_enter, active & self.free)
        m.d.comb += self.request.payload.eq(Cat(index, step))
        if not spec.dedup:
            m.d.comb += [
                self.request.valid.eq(asks),
                asked.eq(asks & self.request.ready),
                self.table.ready.eq(takes),
                entered.eq(comes),
            ]
            return came

        # Keep: rows of the tile wait in a queue for the table row that they, or a row before them,
        # asked for. `new` is set for an index that no row of the subspace has asked for before.
        m.submodules.waiting = waiting = SyncFIFO(width=log2(spec.centroids) + 1, depth=spec.queue)
        known = Signal(spec.centroids)
        wanted = named(m, "wanted", Cat(decode(index)))
        new = named(m, "new", ~(known & wanted).any())
        with m.If(asked):
            m.d.sync += known.eq(Mux(place.ends_rows, 0, known | wanted))
        first, first_new = waiting.r_data[:-1], waiting.r_data[-1]
        m.submodules.tables = tables = memory.Memory(
            shape=len(came), depth=spec.table_words, init=[], attrs=NO_COLLISION
        )
        read, write = tables.read_port(), tables.write_port()
        kept_new = Signal(reset_less=True)
        known_comes = named(m, "known_comes", may_enter & waiting.r_rdy & ~first_new)
        with m.If(entered):
            m.d.sync += kept_new.eq(first_new)
        m.d.comb += [
            self.request.valid.eq(asks & new & waiting.w_rdy),
            asked.eq(asks & waiting.w_rdy & (~new | self.request.ready)),
            waiting.w_data.eq(Cat(index, new)),
            waiting.w_en.eq(asked),
            self.table.ready.eq(takes & waiting.r_rdy & first_new),
            entered.eq(comes | known_comes),
            waiting.r_en.eq(entered),
            write.addr.eq(first),
            write.data.eq(Cat(came[: len(came) - row_bits], self.table.payload)),
            write.en.eq(comes),
            read.addr.eq(first),
            read.en.eq(known_comes),
        ]
        return Mux(kept_new, came, read.data)


CLOCKS = {"sync": ("clk", "rst"), ENCODER: (f"{ENCODER}_clk", f"{ENCODER}_rst")}
"""Clock domains, and the ports of their clocks and synchronous resets."""


class LutStationaryUnit(wiring.Component):
    """The whole unit: the streams of `hw.spec.lut_stationary.STREAMS`, two clocks and their resets.

    Clocks and resets are declared as ports, because Amaranth would otherwise create them in an
    order that differs from process to process.
    """

    def __init__(self, spec: LutStationary):
        self.spec = spec
        streams = spec.streams
        outputs = {"result": streams.result, "request": streams.request}
        super().__init__(
            {
                name: In(stream.Signature(getattr(streams, name).bits))
                for name in ("command", "centroid", "activation", "table")
            }
            | {name: Out(stream.Signature(beat.bits)) for name, beat in outputs.items() if beat}
            | {port: In(1) for ports in CLOCKS.values() for port in ports}
        )

    def elaborate(self, platform):
        m = Module()
        spec = self.spec
        for name, (clock, reset) in CLOCKS.items():
            m.domains += ClockDomain(name)
            m.d.comb += [
                ClockSignal(name).eq(getattr(self, clock)),
                ResetSignal(name).eq(getattr(self, reset)),
            ]
        m.submodules.encoder = encoder = Encoder(spec)
        m.submodules.indices = indices = Crossing(log2(spec.centroids), spec.queue, writes=ENCODER)
        m.submodules.matcher = matcher = Matcher(spec)
        for part, names in ((encoder, ("centroid", "activation")), (matcher, ("command", "table"))):
            for name in names:
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(part, name))
        for name in ("result", "request"):
            if name in self.signature.members:
                wiring.connect(m, getattr(matcher, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            encoder.room.eq(indices.room),
            indices.reserve.eq(encoder.reserve),
            indices.write.eq(encoder.write),
            indices.written.eq(encoder.index),
            matcher.there.eq(indices.there),
            matcher.index.eq(indices.word),
            indices.read.eq(matcher.read),
        ]
        return m
