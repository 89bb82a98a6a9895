"""The registers behind AXI4-Lite, and the state of a program's run: its counters, watchdog and
end."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import INDEX_BITS, INSTRUCTION_BYTES, Fault
from evolute.hw.isa.registers import (
    COUNTERS,
    IDENTITY,
    REGISTERS,
    WATCHDOG_DEFAULT,
    Control,
    Status,
)
from evolute.hw.rtl.blocks.arith import log2
from evolute.hw.rtl.blocks.bundles import Ports, axi_lite
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, CoreSpec

_OKAY, _SLVERR = 0, 2


class Registers(wiring.Component):
    """The registers of `hw.isa.registers`, as the host reads and writes them over AXI4-Lite.

    No output of a channel depends on an input of the same cycle, as AXI demands. The address and
    the data of a write are each taken when they arrive, and either may be one write ahead of the
    other. The write takes effect in the cycle in which both are present and the previous answer has
    been taken or is being taken.

    Members
    -------
    axi : the AXI4-Lite channels, see `bundles.axi_lite`.
    start, resume, acknowledge : orders of the host, each set for one cycle.
    interrupt : a status bit is set whose interrupt the host has enabled.
    status, error, error_index : the values that the host reads.
    program, instructions, watchdog : the values that the host wrote.
    clear : set all counters to 0.
    count_<name> : what the counter of that name grows by in this cycle.
    """

    axi: Ports
    start: Signal
    resume: Signal
    acknowledge: Signal
    interrupt: Signal
    status: Signal
    error: Signal
    error_index: Signal
    program: Signal
    instructions: Signal
    watchdog: Signal
    clear: Signal
    count_cycles: Signal
    count_read_beats: Signal
    count_write_beats: Signal
    count_steps: Signal
    count_compute_cycles: Signal
    count_dispatched: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        super().__init__(
            {
                "axi": In(axi_lite()),
                "start": Out(1),
                "resume": Out(1),
                "acknowledge": Out(1),
                "interrupt": Out(1),
                "status": In(4),
                "error": In(4),
                "error_index": In(INDEX_BITS),
                "program": Out(64),
                "instructions": Out(INDEX_BITS),
                "watchdog": Out(32),
                "clear": In(1),
                **{f"count_{name}": In(1) for name in COUNTERS},
            }
        )

    def elaborate(self, platform):
        m = Module()
        program_low, program_high = Signal(32), Signal(32)
        instructions = Signal(INDEX_BITS)
        watchdog = Signal(32, init=WATCHDOG_DEFAULT)
        enable = Signal(len(Status))
        written = {
            "interrupt_enable": enable,
            "program_low": program_low,
            "program_high": program_high,
            "instructions": instructions,
            "watchdog": watchdog,
        }
        counters = {name: Signal(64, name=name) for name in COUNTERS}
        readable = {
            "identity": Const(IDENTITY, 32),
            "digest": Const(int(self.core.digest[:8], 16), 32),
            "control": Const(0, 32),
            "status": self.status,
            "error": self.error,
            "error_index": self.error_index,
            **written,
            **{f"{name}_low": value[:32] for name, value in counters.items()},
            **{f"{name}_high": value[32:] for name, value in counters.items()},
        }

        # What comes first, or while an answer waits, is held.
        address_held, data_held = Signal(), Signal()
        held_address = Signal.like(self.axi.awaddr, reset_less=True)
        held_data = Signal.like(self.axi.wdata, reset_less=True)
        held_strobes = Signal.like(self.axi.wstrb, reset_less=True)
        address, data = Signal.like(self.axi.awaddr), Signal.like(self.axi.wdata)
        strobes, write = Signal.like(self.axi.wstrb), Signal()
        m.d.comb += [
            self.axi.awready.eq(~address_held),
            self.axi.wready.eq(~data_held),
            address.eq(Mux(address_held, held_address, self.axi.awaddr)),
            data.eq(Mux(data_held, held_data, self.axi.wdata)),
            strobes.eq(Mux(data_held, held_strobes, self.axi.wstrb)),
            write.eq(
                (address_held | self.axi.awvalid)
                & (data_held | self.axi.wvalid)
                & (~self.axi.bvalid | self.axi.bready)
            ),
        ]
        m.d.sync += [
            address_held.eq((address_held | self.axi.awvalid) & ~write),
            data_held.eq((data_held | self.axi.wvalid) & ~write),
            held_address.eq(address),
            held_data.eq(data),
            held_strobes.eq(strobes),
        ]

        # Whole bytes are written, as the strobes say.
        with m.If(self.axi.bready):
            m.d.sync += self.axi.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [self.axi.bvalid.eq(1), self.axi.bresp.eq(_SLVERR)]
            for register in REGISTERS.values():
                if register.writable:
                    with m.If(address == register.offset):
                        m.d.sync += self.axi.bresp.eq(_OKAY)
        for name, value in written.items():
            with m.If(write & (address == REGISTERS[name].offset)):
                for byte in range(-(-len(value) // 8)):
                    part = value[8 * byte : 8 * byte + 8]
                    with m.If(strobes[byte]):
                        m.d.sync += part.eq(data[8 * byte :][: len(part)])
        order = Mux(write & strobes[0] & (address == REGISTERS["control"].offset), data, 0)
        m.d.comb += [
            self.start.eq((order & Control.START).any()),
            self.resume.eq((order & Control.RESUME).any()),
            self.acknowledge.eq((order & Control.ACKNOWLEDGE).any()),
        ]

        m.d.comb += self.axi.arready.eq(~self.axi.rvalid)
        with m.If(self.axi.rready):
            m.d.sync += self.axi.rvalid.eq(0)
        with m.If(self.axi.arvalid & self.axi.arready):
            m.d.sync += [self.axi.rvalid.eq(1), self.axi.rdata.eq(0), self.axi.rresp.eq(_SLVERR)]
            for name, register in REGISTERS.items():
                with m.If(self.axi.araddr == register.offset):
                    m.d.sync += [self.axi.rdata.eq(readable[name]), self.axi.rresp.eq(_OKAY)]

        for name, counter in counters.items():
            # A cycle late, so that no path runs through what is counted into a carry chain.
            more = Signal(name=f"{name}_more")
            m.d.sync += [more.eq(getattr(self, f"count_{name}")), counter.eq(counter + more)]
            with m.If(self.clear):
                m.d.sync += [more.eq(0), counter.eq(0)]
        m.d.comb += [
            self.interrupt.eq((self.status & enable).any()),
            self.program.eq(Cat(program_low, program_high)),
            self.instructions.eq(instructions),
            self.watchdog.eq(watchdog),
        ]
        return m


class RunState(wiring.Component):
    """Whether a program runs, and how it ended. The first fault stops a program and is kept.

    A program that a fault has stopped never continues. The core stays busy until the program's
    transfers on the bus are complete. Until then `acknowledge` and `start` are remembered; `start`
    also clears the status at once. While a program runs, `start` does nothing.

    Members
    -------
    start, acknowledge, program, instructions : from the registers.
    take : a start is accepted; the program is the one that the registers name in this cycle.
    begin : the program accepted last begins in the next cycle; the state of the previous one is
        cleared.
    outside : the address and length in the registers are not a legal place for a program, so that
        it must not be fetched.
    run : a program runs and no fault has stopped it.
    halted : the program has reached its halt.
    fault_<name>, index_<name> : a fault found by that source, and the index of the instruction at
        fault. It takes effect a cycle later, which is as soon as the program could halt without it.
    waiting : a sync waits for the host, so that the watchdog does not count.
    moved : something happened in this cycle, so that the watchdog starts over.
    watchdog : the number of cycles without movement that stop a program.
    oldest : the index of the instruction that the watchdog's fault names.
    quiet : no transfer is outstanding, so that a stopped core may become idle.
    busy, status, error, error_index : for the host to read.
    """

    KINDS = ("dispatch", "read", "store", "write", "compute", "tokens")

    start: Signal
    acknowledge: Signal
    program: Signal
    instructions: Signal
    take: Signal
    begin: Signal
    outside: Signal
    run: Signal
    halted: Signal
    waiting: Signal
    moved: Signal
    watchdog: Signal
    oldest: Signal
    quiet: Signal
    busy: Signal
    status: Signal
    error: Signal
    error_index: Signal
    fault_dispatch: Signal
    index_dispatch: Signal
    fault_read: Signal
    index_read: Signal
    fault_store: Signal
    index_store: Signal
    fault_write: Signal
    index_write: Signal
    fault_compute: Signal
    index_compute: Signal
    fault_tokens: Signal
    index_tokens: Signal

    def __init__(self, core: CoreSpec):
        self.core = core
        code = range(max(Fault) + 1)
        super().__init__(
            {
                "start": In(1),
                "acknowledge": In(1),
                "program": In(64),
                "instructions": In(INDEX_BITS),
                "take": Out(1),
                "begin": Out(1),
                "outside": Out(1),
                "run": Out(1),
                "halted": In(1),
                **{f"fault_{kind}": In(code) for kind in self.KINDS},
                **{f"index_{kind}": In(INDEX_BITS) for kind in self.KINDS},
                "waiting": In(1),
                "moved": In(1),
                "watchdog": In(32),
                "oldest": In(INDEX_BITS),
                "quiet": In(1),
                "busy": Out(1),
                "status": Out(4),
                "error": Out(code),
                "error_index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        done, faulted, still = Signal(), Signal(), Signal(32)
        # A program was stopped; what the host has ordered meanwhile, for when its transfers end.
        stopped, again, forget = Signal(), Signal(), Signal()
        free = Signal()
        m.d.comb += [
            free.eq(~self.busy | (stopped & self.quiet)),
            self.take.eq(self.start & ~self.run),
            self.begin.eq((self.take | again) & free),
            self.run.eq(self.busy & ~stopped),
            self.status.eq(Cat(self.busy, done, faulted, self.waiting & self.run)),
        ]
        assert [status.name for status in Status] == ["BUSY", "DONE", "ERROR", "SYNC"]

        fault, index = Signal.like(self.error), Signal(INDEX_BITS)
        bits, misplaced = self.core.address_bits, Signal()
        below_page = self.program[: log2(MEMORY_PAGE_BYTES)]
        end = (self.program[:bits] >> log2(INSTRUCTION_BYTES)) + self.instructions
        too_long = end > 1 << bits - log2(INSTRUCTION_BYTES)
        m.d.comb += self.outside.eq(below_page.any() | self.program[bits:].any() | too_long)
        with m.If(self.take):
            m.d.sync += misplaced.eq(self.outside)
        # The last of these that holds wins.
        with m.If((still >= self.watchdog) & (self.watchdog != 0)):
            m.d.comb += [fault.eq(Fault.WATCHDOG), index.eq(self.oldest)]
        for kind in reversed(self.KINDS):
            code, place = Signal.like(self.error, name=kind), Signal(INDEX_BITS, name=f"{kind}_at")
            m.d.sync += [
                code.eq(Mux(self.begin, 0, getattr(self, f"fault_{kind}"))),
                place.eq(getattr(self, f"index_{kind}")),
            ]
            with m.If(code != 0):
                m.d.comb += [fault.eq(code), index.eq(place)]
        with m.If(misplaced):
            m.d.comb += [fault.eq(Fault.MISALIGNED), index.eq(0)]

        with m.If(~self.run | self.moved | self.waiting):
            m.d.sync += still.eq(0)
        with m.Else():
            m.d.sync += still.eq(still + 1)
        with m.If(self.acknowledge & self.busy & faulted):
            m.d.sync += forget.eq(1)
        clear = self.take | ((self.acknowledge | forget) & free)
        with m.If(clear):
            m.d.sync += [done.eq(0), faulted.eq(0), self.error.eq(0), self.error_index.eq(0)]
            m.d.sync += forget.eq(0)
        with m.If(self.run & (fault != 0)):
            m.d.sync += [stopped.eq(1), faulted.eq(1)]
            m.d.sync += [self.error.eq(fault), self.error_index.eq(index)]
        with m.Elif(self.run & self.halted):
            m.d.sync += [self.busy.eq(0), done.eq(1)]
        with m.Elif(self.busy & free):
            m.d.sync += self.busy.eq(0)
        with m.If(self.take):
            m.d.sync += again.eq(1)
        with m.If(self.begin):
            m.d.sync += [self.busy.eq(1), stopped.eq(0), again.eq(0)]
        return m
