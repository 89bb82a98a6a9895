"""The read side of a core: loads are cut into bursts, and each arriving word goes to its buffer or
to the instruction FIFO."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import INDEX_BITS, OPCODE_BITS, OPERATIONS, SIGNAL_OFFSET, Unit
from evolute.hw.rtl.blocks.arith import log2
from evolute.hw.rtl.blocks.bundles import Ports, axi_read, burst_request, load_request
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.spec.core import CoreSpec


def burst_beats_minus_1(core: CoreSpec, memory: Value, left_minus_1: Value) -> Value:
    """The length of the next burst from the byte address `memory` on, less one.

    A burst ends with the transfer (`left_minus_1` + 1 bus words are left of it), or before the next
    multiple of `burst_beats` bus words of memory, whichever comes first.
    """
    to_boundary = ~(memory >> log2(core.bus_bytes))[: log2(core.burst_beats)]
    return Mux(left_minus_1 < to_boundary, left_minus_1, to_boundary)[: len(to_boundary)]


class Load(wiring.Component):
    """Runs loads and syncs one after another. The next load asks for its data while that of the
    previous ones still arrives.

    Members
    -------
    pop, word : start the instruction `word`; allowed only while `idle`.
    idle : all bursts of the last load were accepted, or the last sync has ended.
    burst, grant : the request for the next burst, see `bundles.load_request`, and that it is
        accepted.
    sync : a sync waits for the host.
    resume : the host ends the sync.
    sync_signals : the tokens that a sync gives in the cycle in which it ends, one bit per unit.
    """

    pop: Signal
    word: Signal
    idle: Signal
    burst: Ports
    grant: Signal
    sync: Signal
    resume: Signal
    sync_signals: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "pop": In(1),
                "word": In(unit_bits(Unit.LOAD)),
                "idle": Out(1),
                "burst": Out(load_request(core)),
                "grant": In(1),
                "sync": Out(1),
                "resume": In(1),
                "sync_signals": Out(len(Unit)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core, load = self.core, OPERATIONS["load"]
        # The dispatcher refuses a load that is longer than its buffer.
        left_minus_1 = Signal(range(core.largest_buffer_words), reset_less=True)
        memory = Signal(core.address_bits, reset_less=True)
        address = Signal.like(self.burst.address, reset_less=True)
        buffer = Signal.like(self.burst.buffer, reset_less=True)
        signals = Signal.like(self.burst.signals, reset_less=True)
        m.d.comb += [
            self.idle.eq(~self.burst.request & ~self.sync),
            self.burst.memory.eq(memory),
            self.burst.beats_minus_1.eq(burst_beats_minus_1(core, memory, left_minus_1)),
            self.burst.last.eq(self.burst.beats_minus_1 == left_minus_1),
            self.burst.buffer.eq(buffer),
            self.burst.address.eq(address),
            self.burst.signals.eq(signals),
            self.sync_signals.eq(Mux(self.sync & self.resume, signals, 0)),
        ]
        with m.If(self.pop):
            is_sync = self.word[:OPCODE_BITS] == OPERATIONS["sync"].opcode
            m.d.sync += [
                self.burst.request.eq(~is_sync),
                self.sync.eq(is_sync),
                left_minus_1.eq(field(self.word, load, "words")),
                memory.eq(field(self.word, load, "memory")),
                address.eq(field(self.word, load, "address")),
                buffer.eq(field(self.word, load, "buffer")),
                signals.eq(self.word[SIGNAL_OFFSET:][: len(Unit)]),
            ]
        with m.If(self.grant):
            beats = self.burst.beats_minus_1 + 1
            m.d.sync += [
                self.burst.request.eq(~self.burst.last),
                left_minus_1.eq(left_minus_1 - beats),
                memory.eq(memory + (beats << log2(core.bus_bytes))),
                address.eq(address + beats),
            ]
        with m.If(self.sync & self.resume):
            m.d.sync += self.sync.eq(0)
        return m


class ReadMaster(wiring.Component):
    """The AXI4 read address and read data channels, shared by fetch and load.

    Members
    -------
    run : new bursts may be requested.
    fetch, load : the requests of both; those of `fetch` are served first.
    fetch_grant, load_grant : the request is accepted.
    fetch_index : index of the first instruction of which the next fetched word holds a part.
    load_index : index of the load that makes the request.
    axi : the channels, see `bundles.axi_read`.
    data : the word that arrives.
    fetch_write : it goes to the instruction FIFO.
    load_write, word : it goes to bus word `word` of the buffer whose bit of `load_write` is set.
    signals : the tokens of a load, in the cycle in which its last word arrives; one bit per unit.
    index : index of the instruction that the arriving word belongs to.
    error : the memory answered with an error for that instruction.
    empty : no burst is outstanding.
    """

    run: Signal
    fetch: Ports
    fetch_grant: Signal
    fetch_index: Signal
    load: Ports
    load_grant: Signal
    load_index: Signal
    axi: Ports
    fetch_write: Signal
    load_write: Signal
    word: Signal
    data: Signal
    signals: Signal
    index: Signal
    error: Signal
    empty: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "run": In(1),
                "fetch": In(burst_request(core, "fetch_")),
                "fetch_grant": Out(1),
                "fetch_index": In(INDEX_BITS),
                "load": In(load_request(core, "load_")),
                "load_grant": Out(1),
                "load_index": In(INDEX_BITS),
                "axi": Out(axi_read(core)),
                "fetch_write": Out(1),
                "load_write": Out(len(core.buffers)),
                "word": Out(range(core.largest_buffer_words)),
                "data": Out(core.bus_bits),
                "signals": Out(len(Unit)),
                "index": Out(INDEX_BITS),
                "error": Out(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core = self.core
        # Bursts asked for and not yet answered in full, oldest first. No unit signals to itself, so
        # that the first bit of the signals, which is the load unit's own, is always 0.
        assert Unit.LOAD == 0
        tags = {
            "fetch": self.fetch_grant,
            "signals": Mux(self.load.last, self.load.signals[1:], 0),
            "buffer": self.load.buffer,
            "address": self.load.address,
            "beats_minus_1": Mux(
                self.fetch_grant, self.fetch.beats_minus_1, self.load.beats_minus_1
            ),
            "index": self.load_index,
        }
        width = sum(len(value) for value in tags.values())
        m.submodules.bursts = bursts = SyncFIFO(width=width, depth=core.outstanding_reads)
        oldest = {name: Signal(len(value), name=f"oldest_{name}") for name, value in tags.items()}
        grant, free = Signal(), Signal()
        m.d.comb += [
            free.eq(self.run & bursts.w_rdy & (~self.axi.arvalid | self.axi.arready)),
            self.fetch_grant.eq(free & self.fetch.request),
            self.load_grant.eq(free & self.load.request & ~self.fetch.request),
            grant.eq(self.fetch_grant | self.load_grant),
            bursts.w_data.eq(Cat(*tags.values())),
            bursts.w_en.eq(grant),
            Cat(*oldest.values()).eq(bursts.r_data),
            self.empty.eq(~bursts.r_rdy & ~self.axi.arvalid),
        ]
        with m.If(~self.axi.arvalid | self.axi.arready):
            m.d.sync += self.axi.arvalid.eq(grant)
        with m.If(grant):
            m.d.sync += [
                self.axi.araddr.eq(Mux(self.fetch_grant, self.fetch.memory, self.load.memory)),
                self.axi.arlen.eq(tags["beats_minus_1"]),
            ]

        beat = Signal(range(core.burst_beats))
        last, arrives = Signal(), Signal()
        for_load = arrives & ~oldest["fetch"]
        m.d.comb += [
            arrives.eq(self.axi.rvalid & bursts.r_rdy),
            last.eq(arrives & (beat == oldest["beats_minus_1"])),
            bursts.r_en.eq(last),
            self.data.eq(self.axi.rdata),
            self.word.eq(oldest["address"] + beat),
            self.fetch_write.eq(arrives & oldest["fetch"]),
            self.load_write.eq(
                Cat(for_load & (oldest["buffer"] == i) for i in range(len(core.buffers)))
            ),
            self.signals[1:].eq(Mux(last & ~oldest["fetch"], oldest["signals"], 0)),
            self.error.eq(arrives & self.axi.rresp[1]),
            self.index.eq(Mux(oldest["fetch"], self.fetch_index, oldest["index"])),
        ]
        with m.If(arrives):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        return m
