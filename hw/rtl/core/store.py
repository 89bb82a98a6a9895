"""The write side of a core: sums are read from the accumulators, widened to 64 bits and written to
memory over AXI4."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import OPERATIONS, SIGNAL_OFFSET, Unit
from evolute.hw.rtl.blocks.arith import log2, wrap
from evolute.hw.rtl.blocks.bundles import Ports, axi_write
from evolute.hw.rtl.blocks.queues import field, unit_bits
from evolute.hw.rtl.core.load import burst_beats_minus_1
from evolute.hw.spec.core import RESULT_BITS, CoreSpec


class Store(wiring.Component):
    """Runs stores one after another.

    Members
    -------
    pop, word : start the instruction `word`; allowed only while `idle`.
    idle : no store is in progress.
    read, address, sums : look up the word `address` of sums; it is on `sums` from the next cycle
        on.
    bank : the bank of sums that is being stored.
    axi : the AXI4 write channels, see `bundles.axi_write`.
    signals : the tokens that the store gives in the cycle in which it ends, one bit per unit.
    bounds : the store runs beyond the bank in which it began.
    error : the memory answered with an error.
    """

    pop: Signal
    word: Signal
    idle: Signal
    read: Signal
    address: Signal
    bank: Signal
    sums: Signal
    axi: Ports
    signals: Signal
    bounds: Signal
    error: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "pop": In(1),
                "word": In(unit_bits(Unit.STORE)),
                "idle": Out(1),
                "read": Out(1),
                "address": Out(range(core.accumulator_words)),
                "bank": Out(1),
                "sums": In(core.scale_lanes * core.sum_bits),
                "axi": Out(axi_write(core)),
                "signals": Out(len(Unit)),
                "bounds": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core, store = self.core, OPERATIONS["store"]
        words_minus_1 = field(self.word, store, "words")
        memory = field(self.word, store, "memory")
        signals = Signal.like(self.signals, reset_less=True)
        bank, active = Signal(), Signal()
        m.d.comb += [
            self.bank.eq(bank),
            self.idle.eq(~active),
            self.error.eq(self.axi.bvalid & self.axi.bresp[1]),
        ]

        # Addresses of all bursts, one after another.
        aw_left_minus_1 = Signal(len(words_minus_1), reset_less=True)
        aw_memory = Signal(core.address_bits, reset_less=True)
        aw_taken = Signal()
        m.d.comb += [
            self.axi.awaddr.eq(aw_memory),
            self.axi.awlen.eq(burst_beats_minus_1(core, aw_memory, aw_left_minus_1)),
            aw_taken.eq(self.axi.awvalid & self.axi.awready),
        ]
        with m.If(aw_taken):
            beats = self.axi.awlen + 1
            m.d.sync += [
                self.axi.awvalid.eq(self.axi.awlen != aw_left_minus_1),
                aw_left_minus_1.eq(aw_left_minus_1 - beats),
                aw_memory.eq(aw_memory + (beats << log2(core.bus_bytes))),
            ]

        # Data: a word of sums behind the memory, then the bus words it is a part or multiple of.
        lane_bits = core.scale_lanes * RESULT_BITS
        parts = max(1, core.bus_bits // lane_bits)
        shares = max(1, lane_bits // core.bus_bits)
        reads_minus_1 = Signal(len(words_minus_1) + log2(parts), reset_less=True)
        reading, there, take = Signal(), Signal(), Signal()
        address = Signal(core.accumulator_words.bit_length(), reset_less=True)
        m.d.comb += [
            self.read.eq(reading & (~there | take)),
            self.address.eq(address),
            self.bounds.eq(reading & (address >> log2(core.bank_words) != bank)),
        ]
        with m.If(self.read):
            m.d.sync += [
                there.eq(1),
                address.eq(address + 1),
                reads_minus_1.eq(reads_minus_1 - 1),
                reading.eq(reads_minus_1 != 0),
            ]
        with m.Elif(take):
            m.d.sync += there.eq(0)

        wide = Signal(max(core.bus_bits, lane_bits), reset_less=True)
        full, sent = Signal(), Signal()
        m.d.comb += [sent.eq(self.axi.wvalid & self.axi.wready), self.axi.wdata.eq(wide)]
        sums = [
            self.sums.word_select(i, core.sum_bits).as_signed() for i in range(core.scale_lanes)
        ]
        extended = Cat(
            *(Cat(total, total[-1].replicate(RESULT_BITS - len(total))) for total in sums)
        )
        last_share = wrap(m, "share", shares, sent, restart=self.pop)
        last_part = wrap(m, "part", parts, take)
        with m.If(sent):
            m.d.sync += wide.eq(wide >> core.bus_bits)
        m.d.comb += take.eq(there & (~full | (sent & last_share)))
        with m.If(sent & last_share):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += [wide.eq(Cat(wide, extended)[-len(wide) :]), full.eq(last_part)]

        # Bursts of data: only after their address, and ending where it said.
        w_left_minus_1 = Signal(len(words_minus_1), reset_less=True)
        w_place = Signal(log2(core.burst_beats), reset_less=True)
        ahead = Signal(range(1 << len(words_minus_1)))
        unanswered = Signal.like(ahead)
        w_end, done = Signal(), Signal()
        w_done = Signal()
        m.d.comb += [
            self.axi.wvalid.eq(full & (ahead != 0)),
            self.axi.wlast.eq((w_left_minus_1 == 0) | (w_place == core.burst_beats - 1)),
            w_end.eq(sent & self.axi.wlast),
            done.eq(w_done & active & self.axi.bvalid & (unanswered == 1)),
            self.signals.eq(Mux(done, signals, 0)),
        ]
        m.d.sync += [
            ahead.eq(ahead + aw_taken - w_end),
            unanswered.eq(unanswered + aw_taken - self.axi.bvalid),
        ]
        with m.If(sent):
            m.d.sync += [
                w_left_minus_1.eq(w_left_minus_1 - 1),
                w_place.eq(w_place + 1),
                w_done.eq(w_left_minus_1 == 0),
            ]
        with m.If(done):
            m.d.sync += active.eq(0)

        with m.If(self.pop):
            first = field(self.word, store, "accumulator")
            # The last word of sums may be sent in part only.
            reads = ((words_minus_1 << log2(parts)) | (parts - 1)) >> log2(shares)
            m.d.sync += [
                active.eq(1),
                signals.eq(self.word[SIGNAL_OFFSET:][: len(Unit)]),
                self.axi.awvalid.eq(1),
                aw_left_minus_1.eq(words_minus_1),
                aw_memory.eq(memory),
                reading.eq(1),
                reads_minus_1.eq(reads),
                address.eq(first),
                bank.eq(first[log2(core.bank_words)]),
                full.eq(0),
                w_done.eq(0),
                w_left_minus_1.eq(words_minus_1),
                w_place.eq(memory >> log2(core.bus_bytes)),
            ]
        return m
