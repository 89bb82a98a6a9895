"""The complete core: its units, with queues and tokens, between the AXI ports.

`hw.spec.core` says what a core computes, `hw.isa.instructions` what its programs are made of, and
`hw.isa.registers` what the host sees.
"""

from collections.abc import Mapping

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Module,
    Mux,
    ResetInserter,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import wiring

from evolute.hw.isa.instructions import INSTRUCTION_BYTES, Fault, Unit
from evolute.hw.rtl.blocks.arith import log2
from evolute.hw.rtl.blocks.bundles import (
    HOST,
    MEMORY,
    axi_lite,
    axi_read,
    axi_write,
    connect,
    core_ports,
)
from evolute.hw.rtl.blocks.queues import Queue, Tokens
from evolute.hw.rtl.core.compute import Compute
from evolute.hw.rtl.core.control import Registers, RunState
from evolute.hw.rtl.core.dispatch import Dispatch, Fetch
from evolute.hw.rtl.core.load import Load, ReadMaster
from evolute.hw.rtl.core.store import Store
from evolute.hw.spec.core import CoreSpec

_INCREMENTING = 1
_NORMAL_BUFFERABLE = 0b0011
"""AxCACHE: normal memory, as the AXI4 specification recommends for masters without coherency."""


def _oldest(
    units: Mapping[Unit, Load | Compute | Store],
    active: dict[Unit, Signal],
    queues: dict[Unit, Queue],
    next_index: Value,
) -> Value:
    """The index of the instruction that the watchdog's fault names: that of a unit at work, else
    the first that waits in a queue, else the next one to be dispatched."""
    index = next_index
    for queue in reversed(queues.values()):
        index = Mux(queue.empty, index, queue.first_index)
    for unit in reversed(Unit):
        index = Mux(units[unit].idle, index, active[unit])
    return index


class Core(wiring.Component):
    """The top module, with the ports of `bundles.core_ports`. Raises `SpecError` for a core whose
    engine or scaling has no RTL."""

    def __init__(self, core: CoreSpec):
        core.require_rtl()
        self.core = core
        super().__init__(core_ports(core))
        self._ports: dict[str, Signal] = {name: getattr(self, name) for name in core_ports(core)}

    def elaborate(self, platform):
        m = Module()
        core, port = self.core, self._ports
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(port["aclk"]), ResetSignal().eq(~port["aresetn"])]

        m.submodules.registers = registers = Registers(core)
        m.submodules.control = control = RunState(core)
        m.submodules.fetch = fetch = Fetch(core)
        # Every program finds these as reset left them, whatever the one before did.
        fresh = ResetInserter(control.begin)
        load, compute, store = Load(core), Compute(core), Store(core)
        reads, dispatch = ReadMaster(core), Dispatch(core)
        queues = {unit: Queue(unit, core.queue_instructions) for unit in Unit}
        tokens = Tokens(core.token_limit)
        m.submodules.load = fresh(load)
        m.submodules.compute = fresh(compute)
        m.submodules.store = fresh(store)
        m.submodules.reads = fresh(reads)
        m.submodules.dispatch = fresh(dispatch)
        m.submodules.token_counts = fresh(tokens)
        for unit, queue in queues.items():
            m.submodules[f"{unit.name.lower()}_queue"] = fresh(queue)
        units = {Unit.LOAD: load, Unit.COMPUTE: compute, Unit.STORE: store}

        self._connect_ports(m, registers, reads, store)

        # Program words. What the registers say later is for the next program.
        instructions = Signal.like(registers.instructions, reset_less=True)
        with m.If(control.take):
            m.d.sync += instructions.eq(registers.instructions)
        words = registers.instructions * INSTRUCTION_BYTES + (core.bus_bytes - 1)
        m.d.comb += [
            fetch.take.eq(control.take),
            fetch.begin.eq(control.begin),
            fetch.address.eq(registers.program),
            fetch.words.eq(Mux(control.outside, 0, words >> log2(core.bus_bytes))),
            fetch.popped.eq(dispatch.popped),
            fetch.grant.eq(reads.fetch_grant),
        ]
        connect(m, reads.fetch, fetch.burst)
        m.d.comb += [
            reads.fetch_index.eq(dispatch.arriving),
            dispatch.write.eq(reads.fetch_write),
            dispatch.data.eq(reads.data),
            dispatch.count.eq(instructions),
            dispatch.run.eq(control.run),
        ]

        # Instructions to their units, which remember whose they are.
        indices = {}
        for unit, queue in queues.items():
            part, name = units[unit], unit.name.lower()
            index = Signal.like(queue.first_index, name=f"{name}_index", reset_less=True)
            indices[unit] = index
            m.d.comb += [
                queue.push.eq(dispatch.push[unit]),
                queue.word.eq(dispatch.word),
                queue.index.eq(dispatch.index),
                dispatch.room[unit].eq(queue.room),
                queue.tokens.eq(getattr(tokens, f"there_{name}")),
                queue.idle.eq(part.idle & control.run),
                getattr(tokens, f"take_{name}").eq(queue.take),
                part.pop.eq(queue.pop),
                part.word.eq(queue.first),
            ]
            with m.If(queue.pop):
                m.d.sync += index.eq(queue.first_index)
        m.d.comb += [
            tokens.signal_load_0.eq(reads.signals),
            tokens.signal_load_1.eq(load.sync_signals),
            tokens.signal_compute_0.eq(compute.signals),
            tokens.signal_store_0.eq(store.signals),
            load.resume.eq(registers.resume),
        ]

        # Data between the units.
        m.d.comb += reads.run.eq(control.run)
        connect(m, reads.load, load.burst)
        m.d.comb += [
            reads.load_index.eq(indices[Unit.LOAD]),
            load.grant.eq(reads.load_grant),
            compute.load_write.eq(reads.load_write),
            compute.load_word.eq(reads.word),
            compute.load_data.eq(reads.data),
            compute.store_read.eq(store.read),
            compute.store_word.eq(store.address),
            compute.storing.eq(~store.idle),
            compute.store_bank.eq(store.bank),
            store.sums.eq(compute.stored),
        ]

        # The run, its faults and what counts as movement.
        idle = Cat(*(part.idle for part in units.values()), *(q.empty for q in queues.values()))
        moved = Cat(
            *(self._transfers(channel) for channel in ("m_axi_ar", "m_axi_aw", "m_axi_w")),
            port["m_axi_rvalid"],
            port["m_axi_bvalid"],
            dispatch.dispatched,
            compute.moved,
            *(queue.pop for queue in queues.values()),
        )
        m.d.comb += [
            control.start.eq(registers.start),
            control.acknowledge.eq(registers.acknowledge),
            control.program.eq(registers.program),
            control.instructions.eq(registers.instructions),
            control.halted.eq(dispatch.halted),
            control.watchdog.eq(registers.watchdog),
            control.waiting.eq(load.sync),
            control.moved.eq(moved.any()),
            control.oldest.eq(_oldest(units, indices, queues, dispatch.index)),
            control.quiet.eq(reads.empty & store.idle),
            dispatch.idle.eq(idle.all() & reads.empty),
            control.fault_dispatch.eq(dispatch.fault),
            control.index_dispatch.eq(dispatch.index),
            control.fault_read.eq(Mux(reads.error, Fault.READ, 0)),
            control.index_read.eq(reads.index),
            control.fault_write.eq(Mux(store.error, Fault.WRITE, 0)),
            control.index_write.eq(indices[Unit.STORE]),
            control.fault_store.eq(Mux(store.bounds, Fault.BOUNDS, 0)),
            control.index_store.eq(indices[Unit.STORE]),
            control.fault_compute.eq(Mux(compute.bounds, Fault.BOUNDS, 0)),
            control.index_compute.eq(indices[Unit.COMPUTE]),
        ]
        # Of several that give a token too many at once, the first of these is blamed.
        givers = [
            (tokens.overflow_load_0, reads.index),
            (tokens.overflow_load_1, indices[Unit.LOAD]),
            (tokens.overflow_compute_0, indices[Unit.COMPUTE]),
            (tokens.overflow_store_0, indices[Unit.STORE]),
        ]
        for overflow, index in reversed(givers):
            with m.If(overflow):
                m.d.comb += control.fault_tokens.eq(Fault.TOKENS)
                m.d.comb += control.index_tokens.eq(index)

        # What the host sees.
        m.d.comb += [
            port["busy"].eq(control.busy),
            port["interrupt"].eq(registers.interrupt),
            registers.status.eq(control.status),
            registers.error.eq(control.error),
            registers.error_index.eq(control.error_index),
            registers.clear.eq(control.begin),
            registers.count_cycles.eq(control.busy),
            registers.count_read_beats.eq(port["m_axi_rvalid"]),
            registers.count_write_beats.eq(self._transfers("m_axi_w")),
            # Of a stopped program, a multiplication may go on after the end.
            registers.count_steps.eq(compute.step & control.busy),
            registers.count_compute_cycles.eq(~compute.idle & control.busy),
            registers.count_dispatched.eq(dispatch.dispatched),
        ]
        return m

    def _transfers(self, channel: str) -> Value:
        return self._ports[f"{channel}valid"] & self._ports[f"{channel}ready"]

    def _connect_ports(
        self, m: Module, registers: Registers, reads: ReadMaster, store: Store
    ) -> None:
        core = self.core
        constants = {
            "m_axi_arsize": log2(core.bus_bytes),
            "m_axi_arburst": _INCREMENTING,
            "m_axi_arcache": _NORMAL_BUFFERABLE,
            "m_axi_awsize": log2(core.bus_bytes),
            "m_axi_awburst": _INCREMENTING,
            "m_axi_awcache": _NORMAL_BUFFERABLE,
            "m_axi_rready": 1,
            "m_axi_wstrb": (1 << core.bus_bytes) - 1,
            "m_axi_bready": 1,
        }
        port = self._ports
        m.d.comb += [port[name].eq(value) for name, value in constants.items()]
        connect(m, reads.axi, wiring.flipped(axi_read(core, MEMORY).of(port)))
        connect(m, store.axi, wiring.flipped(axi_write(core, MEMORY).of(port)))
        connect(m, registers.axi, axi_lite(HOST).of(port))
