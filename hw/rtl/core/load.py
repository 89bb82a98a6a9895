"""The read side: loads cut into bursts, the AXI4 read channels, and where each data word goes."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import INDEX_BITS, OPCODE_BITS, OPERATIONS, SIGNAL_OFFSET, Unit
from evolute.hw.rtl.blocks.arith import log2
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.spec.core import CoreSpec


def burst_beats_minus_1(core: CoreSpec, memory: Value, left_minus_1: Value) -> Value:
    """Length less one of the next burst: to the end of what is left, or to the next multiple of
    `burst_beats` words of memory, whichever is nearer."""
    to_boundary = ~(memory >> log2(core.bus_bytes))[: log2(core.burst_beats)]
    return Mux(left_minus_1 < to_boundary, left_minus_1, to_boundary)[:8]


class Load(wiring.Component):
    """Runs loads and syncs one after another; data arrives while the next ones already ask.

    Members
    -------
    pop, word : the instruction that starts; only while `idle`.
    request, memory, beats_minus_1, last : the next burst, and whether it is its load's last;
        `grant` takes it.
    buffer, address, signals : where its words go, and the load's signals.
    sync : a sync waits for the host; `resume` ends it, with `sync_signals`.
    """

    pop: Signal
    word: Signal
    idle: Signal
    request: Signal
    memory: Signal
    beats_minus_1: Signal
    last: Signal
    grant: Signal
    buffer: Signal
    address: Signal
    signals: Signal
    sync: Signal
    resume: Signal
    sync_signals: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        load = OPERATIONS["load"]
        super().__init__(
            {
                "pop": In(1),
                "word": In(unit_bits(Unit.LOAD)),
                "idle": Out(1),
                "request": Out(1),
                "memory": Out(core.address_bits),
                "beats_minus_1": Out(8),
                "last": Out(1),
                "grant": In(1),
                "buffer": Out(load["buffer"].bits),
                "address": Out(load["address"].bits),
                "signals": Out(len(Unit)),
                "sync": Out(1),
                "resume": In(1),
                "sync_signals": Out(len(Unit)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core, load = self.core, OPERATIONS["load"]
        left_minus_1 = Signal(len(field(self.word, load, "words")), reset_less=True)
        memory = Signal(core.address_bits, reset_less=True)
        address = Signal.like(self.address, reset_less=True)
        buffer = Signal.like(self.buffer, reset_less=True)
        signals = Signal.like(self.signals, reset_less=True)
        m.d.comb += [
            self.idle.eq(~self.request & ~self.sync),
            self.memory.eq(memory),
            self.beats_minus_1.eq(burst_beats_minus_1(core, memory, left_minus_1)),
            self.last.eq(self.beats_minus_1 == left_minus_1),
            self.buffer.eq(buffer),
            self.address.eq(address),
            self.signals.eq(signals),
            self.sync_signals.eq(Mux(self.sync & self.resume, signals, 0)),
        ]
        with m.If(self.pop):
            is_sync = self.word[:OPCODE_BITS] == OPERATIONS["sync"].opcode
            m.d.sync += [
                self.request.eq(~is_sync),
                self.sync.eq(is_sync),
                left_minus_1.eq(field(self.word, load, "words")),
                memory.eq(field(self.word, load, "memory")),
                address.eq(field(self.word, load, "address")),
                buffer.eq(field(self.word, load, "buffer")),
                signals.eq(self.word[SIGNAL_OFFSET:][: len(Unit)]),
            ]
        with m.If(self.grant):
            beats = self.beats_minus_1 + 1
            m.d.sync += [
                self.request.eq(~self.last),
                left_minus_1.eq(left_minus_1 - beats),
                memory.eq(memory + (beats << log2(core.bus_bytes))),
                address.eq(address + beats),
            ]
        with m.If(self.sync & self.resume):
            m.d.sync += self.sync.eq(0)
        return m


class ReadMaster(wiring.Component):
    """The AXI4 read address and data channels, for fetch and load.

    Members
    -------
    fetch_*, load_* : their requests; `fetch` goes first. `load_index` is the load's place in the
        program, `fetch_index` that of the first instruction in the next fetched word.
    run : new bursts may be asked for.
    araddr .. rvalid : the channels; `rready` is constantly 1.
    fetch_write, load_write, data : a word for the instruction FIFO, or for the buffer bit in
        `load_write` at `word`.
    signals : those of a load whose last word arrives.
    index : the instruction that the arriving word belongs to.
    error : the memory answered with an error, to that instruction.
    empty : no burst is on its way.
    """

    run: Signal
    fetch_request: Signal
    fetch_memory: Signal
    fetch_beats_minus_1: Signal
    fetch_grant: Signal
    fetch_index: Signal
    load_request: Signal
    load_memory: Signal
    load_beats_minus_1: Signal
    load_last: Signal
    load_grant: Signal
    load_buffer: Signal
    load_address: Signal
    load_signals: Signal
    load_index: Signal
    araddr: Signal
    arlen: Signal
    arvalid: Signal
    arready: Signal
    rdata: Signal
    rresp: Signal
    rvalid: Signal
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
        load = OPERATIONS["load"]
        super().__init__(
            {
                "run": In(1),
                "fetch_request": In(1),
                "fetch_memory": In(core.address_bits),
                "fetch_beats_minus_1": In(8),
                "fetch_grant": Out(1),
                "fetch_index": In(INDEX_BITS),
                "load_request": In(1),
                "load_memory": In(core.address_bits),
                "load_beats_minus_1": In(8),
                "load_last": In(1),
                "load_grant": Out(1),
                "load_buffer": In(load["buffer"].bits),
                "load_address": In(load["address"].bits),
                "load_signals": In(len(Unit)),
                "load_index": In(INDEX_BITS),
                "araddr": Out(core.address_bits),
                "arlen": Out(8),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(core.bus_bits),
                "rresp": In(2),
                "rvalid": In(1),
                "fetch_write": Out(1),
                "load_write": Out(len(core.buffers)),
                "word": Out(load["address"].bits),
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
            "signals": Mux(self.load_last, self.load_signals[1:], 0),
            "buffer": self.load_buffer,
            "address": self.load_address,
            "beats_minus_1": Mux(
                self.fetch_grant, self.fetch_beats_minus_1, self.load_beats_minus_1
            ),
            "index": self.load_index,
        }
        width = sum(len(value) for value in tags.values())
        m.submodules.bursts = bursts = SyncFIFO(width=width, depth=core.outstanding_reads)
        oldest = {name: Signal(len(value), name=f"oldest_{name}") for name, value in tags.items()}
        grant, free = Signal(), Signal()
        m.d.comb += [
            free.eq(self.run & bursts.w_rdy & (~self.arvalid | self.arready)),
            self.fetch_grant.eq(free & self.fetch_request),
            self.load_grant.eq(free & self.load_request & ~self.fetch_request),
            grant.eq(self.fetch_grant | self.load_grant),
            bursts.w_data.eq(Cat(*tags.values())),
            bursts.w_en.eq(grant),
            Cat(*oldest.values()).eq(bursts.r_data),
            self.empty.eq(~bursts.r_rdy & ~self.arvalid),
        ]
        with m.If(~self.arvalid | self.arready):
            m.d.sync += self.arvalid.eq(grant)
        with m.If(grant):
            m.d.sync += [
                self.araddr.eq(Mux(self.fetch_grant, self.fetch_memory, self.load_memory)),
                self.arlen.eq(tags["beats_minus_1"]),
            ]

        beat = Signal(8)
        last, arrives = Signal(), Signal()
        for_load = arrives & ~oldest["fetch"]
        m.d.comb += [
            arrives.eq(self.rvalid & bursts.r_rdy),
            last.eq(arrives & (beat == oldest["beats_minus_1"])),
            bursts.r_en.eq(last),
            self.data.eq(self.rdata),
            self.word.eq(oldest["address"] + beat),
            self.fetch_write.eq(arrives & oldest["fetch"]),
            self.load_write.eq(
                Cat(for_load & (oldest["buffer"] == i) for i in range(len(core.buffers)))
            ),
            self.signals[1:].eq(Mux(last & ~oldest["fetch"], oldest["signals"], 0)),
            self.error.eq(arrives & self.rresp[1]),
            self.index.eq(Mux(oldest["fetch"], self.fetch_index, oldest["index"])),
        ]
        with m.If(arrives):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        return m
