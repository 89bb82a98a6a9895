"""Cores: every preset and random ones against their models, and a check of that check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from evolute.hw.emit.export import to_verilog
from evolute.hw.isa.instructions import Fault
from evolute.hw.rtl.blocks import queues
from evolute.hw.rtl.core import compute, control, dispatch, load, scale, store
from evolute.hw.rtl.core import core as rtl
from evolute.hw.rtl.units import scale_lanes
from evolute.hw.spec import BitSerial, CoreSpec, Engine, LutDla, LutTensorCore
from evolute.hw.spec.presets import CORES, DEFAULT
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core import session as core_session
from evolute.verif.core.bench import Bench, run, timings
from evolute.verif.core.kinds import verify
from evolute.verif.core.programs import random_core
from evolute.verif.core.session import Session
from evolute.verif.core.sweep import sweep
from evolute.verif.harness.driver import DRIVERS
from evolute.verif.harness.simulators import SimulatorError
from evolute.verif.mutation import planted as mutants

SMALL = CoreSpec(
    engine=LutTensorCore(m=2, n=4, k=2, kg=1, activation_bits=5, weight_bits=3, group_size=6),
    bus_bits=128,
    burst_beats=8,
    outstanding_reads=3,
    weight_buffer_bytes=1024,
    activation_buffer_bytes=512,
    scale_buffer_bytes=512,
    accumulators=64,
    scale_lanes=4,
    sum_bits=40,
)
SERIAL = SMALL.evolve(scale_multiplier="serial", scale_bits=5, offset_bits=7)


def passes(core: CoreSpec, seed: int) -> set[str]:
    """Verify a core; returns what was covered beside what must be."""
    report = verify(core, seed=seed)
    assert report.passed, "\n".join(report.differences)
    assert report.rtl_cycles == report.model_cycles > 0
    assert report.elements > 0
    covered = {
        *(f"fault {fault.name}" for fault in Fault),
        *timings(core),
        "random rate",
        "random time",
        "reset in mid-flight",
        "sync",
        "accumulate",
        "load to compute",
        "compute to load",
        "compute to store",
        "store to compute",
        "random word accepted",
        "refused",
        "host sweeps sync",
        "host sweeps watchdog",
    }
    covered |= {"last group shorter"} if core.engine.group_slices > 1 else set()
    covered |= set() if core.engine.steps_are_fixed else {"steps of weights"}
    assert covered <= set(report.coverage)
    return set(report.coverage) - covered


EVERY_DAY = {"core-decode", "core-fpga", "core-skip", "core-mac", "core-dla"}
"""Presets of different engines. Others differ from these in widths, in codebooks, of which programs
run in `test_run.py`, or in serial scale multipliers, as `SERIAL` has."""


@pytest.mark.parametrize(
    "core",
    [
        pytest.param(core, id=name, marks=[pytest.mark.slow] * (name not in EVERY_DAY))
        for name, core in CORES.items()
    ],
)
def test_presets(core: CoreSpec) -> None:
    found = passes(core, seed=1)
    if core == CORES[DEFAULT]:  # of others, programs of a few instructions may have none
        assert "several row tiles" in found


QUICK = {(LutTensorCore, 0), (LutTensorCore, 1), (BitSerial, 0), (LutDla, 0)}
"""Kinds and seeds of random cores that are built in seconds."""


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param(kind, seed, marks=[pytest.mark.slow] * ((kind, seed) not in QUICK))
        for kind in DRIVERS
        for seed in range(4 if kind is LutTensorCore else 2)
    ],
)
def test_random_cores(kind: type[Engine], seed: int) -> None:
    passes(random_core(np.random.default_rng(seed), kind), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_random_cores(seed: int) -> None:
    passes(random_core(np.random.default_rng(seed)), seed)


# A check of the check: faults put into the RTL or the model must be found.


@dataclass(frozen=True)
class Mutant(mutants.PlantedFault):
    slow: bool = False
    core: CoreSpec = SMALL


MUTANTS = (
    Mutant(
        "tokens: not waited for",
        queues,
        "self.idle & ~(wait & ~self.tokens).any()",
        "self.idle",
        "must be done",
    ),
    Mutant(
        "dispatch: a bubble before every bus word",
        dispatch,
        "fifo.r_rdy & (~full | leave_last)",
        "fifo.r_rdy & ~full",
        "model says",
    ),
    Mutant(
        "store: sums not sign-extended",
        store,
        "total[-1].replicate(RESULT_BITS - len(total))",
        "total[:1].replicate(RESULT_BITS - len(total)) & 0",
        "golden says",
    ),
    Mutant(
        "store: a burst's last word not marked",
        store,
        "(w_left_minus_1 == 0) | (w_place == core.burst_beats - 1)",
        "w_left_minus_1 == 0",
        "WLAST is misplaced",
        slow=True,
    ),
    Mutant(
        "store: data before their address",
        store,
        "full & (ahead != 0)",
        "full",
        "W before its AW",
        slow=True,
    ),
    Mutant(
        "store: ends before the answer",
        store,
        "w_done & active & self.axi.bvalid & (unanswered == 1)",
        "w_done & active",
        "model says",
        slow=True,
    ),
    Mutant(
        "load: bursts of any length",
        load,
        "[: log2(core.burst_beats)]",
        "[:8]",
        "burst is too long",
        slow=True,
    ),
    Mutant(
        "load: a request changes while it waits",
        load,
        "(~self.axi.arvalid | self.axi.arready)),",
        "1),",
        "AR payload changed before ready",
    ),
    Mutant(
        "load: one read too many",
        load,
        "depth=core.outstanding_reads",
        "depth=core.outstanding_reads + 1",
        "too many reads outstanding",
        slow=True,
    ),
    Mutant(
        "scale: offsets not shifted",
        scale_lanes,
        "(offset << self.shift)",
        "offset",
        "golden says",
        slow=True,
    ),
    Mutant(
        "serial scale: a negative offset counts positive",
        scale_lanes,
        "top & offset",
        "top & 0",
        "golden says",
        slow=True,
        core=SERIAL,
    ),
    Mutant(
        "serial scale: products begin with the one before",
        scale_lanes,
        "Mux(top, 0, term << 1)",
        "(term << 1)",
        "golden says",
        slow=True,
        core=SERIAL,
    ),
    Mutant(
        "serial scale: a cycle too long",
        scale_lanes,
        'ends_turn(m, "bit", bits, at.valid)',
        'ends_turn(m, "bit", bits + 1, at.valid)',
        "model says",
        slow=True,
        core=SERIAL,
    ),
    Mutant(
        "scale: sums never start anew",
        scale,
        "first_group & ~accumulate",
        "first_group & 0",
        "golden says",
        slow=True,
    ),
    Mutant(
        "dispatch: buffer 3 accepted",
        dispatch,
        'get("buffer") >= len(BUFFERS), ',
        "",
        "load: no such buffer",
    ),
    Mutant(
        "control: a stopped core does not wait for the bus",
        control,
        "self.busy & free",
        "self.busy & stopped",
        "busy ended with transfers outstanding",
    ),
    Mutant(
        "control: the watchdog runs in a sync",
        control,
        "~self.run | self.moved | self.waiting",
        "~self.run | self.moved",
        "a host slower than the watchdog",
    ),
)


def order_mutant(
    name: str,
    module: ModuleType,
    old: str,
    new: str,
    found_in: str = "sweep",
    *,
    slow: bool = True,
) -> Mutant:
    """A fault in what the host's writes do, which the sweep of them finds."""
    return Mutant(f"orders: {name}", module, old, new, found_in, slow)


ORDER_MUTANTS = (
    order_mutant(
        "a stopped program goes on once it is acknowledged",
        control,
        "self.run.eq(self.busy & ~stopped)",
        "self.run.eq(self.busy & ~faulted)",
        slow=False,
    ),
    order_mutant(
        "an acknowledge acts while a stopped program is busy",
        control,
        "((self.acknowledge | forget) & free)",
        "self.acknowledge",
    ),
    order_mutant(
        "an acknowledge is not remembered",
        control,
        "(self.acknowledge | forget) & free",
        "self.acknowledge & free",
    ),
    order_mutant(
        "a start is dropped while a stopped program is busy",
        control,
        "self.take.eq(self.start & ~self.run)",
        "self.take.eq(self.start & ~self.busy)",
    ),
    order_mutant(
        "a start is not remembered",
        control,
        "(self.take | again) & free",
        "self.take & free",
    ),
    order_mutant(
        "a start does not wait for the bus",
        control,
        "(self.take | again) & free",
        "self.take | again",
    ),
    order_mutant(
        "a start while a program runs begins anew",
        control,
        "self.take.eq(self.start & ~self.run)",
        "self.take.eq(self.start)",
    ),
    order_mutant(
        "a resume in the first cycle of a sync swallows it",
        load,
        "with m.If(self.sync & self.resume):",
        "with m.If(self.resume):",
        slow=False,
    ),
    order_mutant(
        "the number of instructions is read while a program runs",
        rtl,
        "dispatch.count.eq(instructions)",
        "dispatch.count.eq(registers.instructions)",
    ),
    order_mutant(
        "the program's place is read while it runs",
        control,
        "with m.If(misplaced):",
        "with m.If(self.outside):",
    ),
    order_mutant(
        "a program that passes the last address is fetched",
        control,
        "self.program[bits:].any() | too_long",
        "self.program[bits:].any()",
    ),
    order_mutant(
        "a program that just fits is refused",
        control,
        "end > 1 << bits",
        "end >= 1 << bits",
        "instructions at",
    ),
    order_mutant(
        "a lowered watchdog never fires",
        control,
        "still >= self.watchdog",
        "still == self.watchdog",
    ),
    order_mutant(
        "a write does not wait for the answer before",
        control,
        "                & (~self.bvalid | self.bready)\n",
        "",
    ),
    order_mutant(
        "data that come first are not held",
        control,
        "Mux(data_held, held_data, self.wdata)",
        "self.wdata",
    ),
    order_mutant(
        "counters go on after a stop",
        rtl,
        "registers.count_compute_cycles.eq(~compute.idle & control.busy)",
        "registers.count_compute_cycles.eq(~compute.idle)",
        "counters",
    ),
)

FAULT_MUTANTS = (
    Mutant(
        "faults: a fetched word is blamed on what is dispatched next",
        rtl,
        "reads.fetch_index.eq(dispatch.arriving)",
        "reads.fetch_index.eq(dispatch.index)",
        "fetch of",
    ),
    Mutant(
        "faults: tokens are blamed on what is dispatched next",
        rtl,
        "control.index_tokens.eq(index)",
        "control.index_tokens.eq(dispatch.index)",
        "too many tokens",
        slow=True,
    ),
    Mutant(
        "faults: a sync's tokens are blamed on a load",
        rtl,
        "(tokens.overflow_load_1, indices[Unit.LOAD])",
        "(tokens.overflow_load_1, reads.index)",
        "too many tokens of sync",
        slow=True,
    ),
    Mutant(
        "faults: a standstill is blamed on the next instruction",
        rtl,
        "index = Mux(units[unit].idle, index, active[unit])",
        "pass",
        "silent memory",
        slow=True,
    ),
    Mutant(
        "ports: reads are not bufferable",
        rtl,
        '"m_axi_arcache": _NORMAL_BUFFERABLE',
        '"m_axi_arcache": 0b0010',
        "AR cache is not",
        slow=True,
    ),
    Mutant(
        "ports: writes are not bufferable",
        rtl,
        '"m_axi_awcache": _NORMAL_BUFFERABLE',
        '"m_axi_awcache": 0b0010',
        "AW cache is not",
        slow=True,
    ),
    Mutant(
        "ports: writes of half words",
        rtl,
        '"m_axi_awsize": log2(core.bus_bytes)',
        '"m_axi_awsize": log2(core.bus_bytes) - 1',
        "AW size is not",
        slow=True,
    ),
    Mutant(
        "ports: bursts to one address",
        rtl,
        '"m_axi_arburst": _INCREMENTING',
        '"m_axi_arburst": 0',
        "AR burst is not",
        slow=True,
    ),
)

ROOMY = SMALL.evolve(
    weight_buffer_bytes=32768,
    activation_buffer_bytes=32768,
    scale_buffer_bytes=16384,
    accumulators=4096,
)

COUNT_MUTANTS = (
    Mutant(
        "fetch: addresses wrap at 64 KiB",
        dispatch,
        "memory.eq(memory + core.fetch_beats * core.bus_bytes),",
        "memory[:16].eq(memory + core.fetch_beats * core.bus_bytes),",
        "case 'long across",
        core=ROOMY,
    ),
    Mutant(
        "load: addresses wrap at 1 MiB",
        load,
        "memory.eq(memory + (beats << log2(core.bus_bytes))),",
        "memory[:20].eq(memory + (beats << log2(core.bus_bytes))),",
        "case 'long across",
        slow=True,
        core=ROOMY,
    ),
    Mutant(
        "load: words wrap at 1,024",
        load,
        "left_minus_1.eq(left_minus_1 - beats),",
        "left_minus_1.eq((left_minus_1 - beats)[:10]),",
        "case 'long across",
        slow=True,
        core=ROOMY,
    ),
    Mutant(
        "scaling: slices wrap at 512",
        scale,
        "left_minus_1.eq(left_minus_1 - group_minus_1 - 1),",
        "left_minus_1.eq((left_minus_1 - group_minus_1 - 1)[:9]),",
        "case 'long across",
        slow=True,
        core=ROOMY,
    ),
    Mutant(
        "counters: of 32 bits",
        control,
        "counter.eq(counter + more)]",
        "counter[:32].eq(counter + more)]",
        "case 'counters from 0x100000000'",
    ),
    Mutant(
        "index: wraps at 1,024 instructions",
        dispatch,
        "index.eq(index + 1)",
        "index.eq((index + 1)[:10])",
        "late': ",
        slow=True,
    ),
    Mutant(
        "tokens: one less than can be counted",
        queues,
        "total > self.limit",
        "total >= self.limit",
        "case 'all tokens",
    ),
    Mutant(
        "tokens: of two that come at once, one counts",
        queues,
        "given = sum(gives.values(), start=Const(0, 1))",
        "given = any_of(gives.values())",
        'case "two tokens',
    ),
    Mutant(
        "load: the buffer is another one late in a long program",
        load,
        '"buffer": self.load.buffer,',
        '"buffer": self.load.buffer ^ self.load_index[-1],',
        "case 'late ",
    ),
    Mutant(
        "registers: a write does not wait for the answer to the one before",
        control,
        "(~self.axi.bvalid | self.axi.bready)",
        "Const(1, 1)",
        "answers to several writes",
    ),
)
COUNT_KINDS = {
    "case 'counters": "counts",
    "case 'all": "tokens",
    'case "two': "tokens",
    "case 'long": "long",
    "case 'late ": "late",
    "answers": "registers",
}
"""What each is found by, by how the case begins; else by faults late in a program."""

MODULES = (queues, dispatch, load, store, control, scale_lanes, scale, compute, rtl)
"""What a core is made of beside its engine, each after those that it imports from."""


def parameters(faults: Sequence[Mutant]) -> list[ParameterSet]:
    """Each fault by its name; most take seconds, and some are enough for every day."""
    return [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] * each.slow) for each in faults
    ]


@pytest.mark.parametrize("mutant", parameters(MUTANTS))
def test_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.put_in(mutant, CoreSpec, MODULES, monkeypatch)
    report = verify(mutant.core, seed=1)
    assert any(mutant.found_in in difference for difference in report.differences)


def found_by(kind: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What one kind of check finds in the core with the fault, those that it is for."""
    mutants.put_in(mutant, CoreSpec, MODULES, monkeypatch)
    try:
        report = verify(mutant.core, seed=1, kinds=[kind])
    except SimulatorError as error:  # a program that comes to no end, or that never starts
        return [str(error)]
    return [each for each in report.differences if mutant.found_in in each]


@pytest.mark.parametrize("mutant", parameters(ORDER_MUTANTS))
def test_fault_in_orders_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "faults" if mutant.found_in == "instructions at" else "orders"
    assert found_by(kind, mutant, monkeypatch)


@pytest.mark.parametrize("mutant", parameters(FAULT_MUTANTS))
def test_fault_in_faults_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_by("faults", mutant, monkeypatch)


@pytest.mark.parametrize("mutant", parameters(COUNT_MUTANTS))
def test_fault_in_counts_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = COUNT_KINDS.items()
    kind = next((kind for start, kind in starts if mutant.found_in.startswith(start)), "faults")
    assert found_by(kind, mutant, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [None, 300], ids=["every cycle", "random"])
def test_orders_in_every_cycle(native: Path, cases: int | None) -> None:
    bench = Bench(SMALL, native, seed=1, waves=None)
    sweep(bench, np.random.default_rng(1), cases=cases)
    assert not bench.tally.differences
    assert bench.tally.cases > 4000


@pytest.fixture(scope="module")
def small() -> str:
    return to_verilog(SMALL)


@pytest.mark.parametrize(
    "latency",
    [
        "stream_latency_cycles",
        "scale_drain_cycles",
        "store_latency_cycles",
        "store_word_cycles",
        "queue_instructions",
    ],
)
def test_wrong_latency_is_found(latency: str, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = getattr(SMALL, latency) + 1
    monkeypatch.setattr(CoreSpec, latency, property(lambda _: wrong))
    report = verify(SMALL, seed=1, kinds=["programs"], verilog=small)
    assert report.rtl_cycles != report.model_cycles
    assert all("model says" in difference for difference in report.differences)


@pytest.mark.parametrize("core", [SMALL, SERIAL], ids=["array", "serial"])
def test_core_without_fault_passes(core: CoreSpec) -> None:
    passes(core, seed=1)


# The session.


@pytest.fixture(scope="module")
def native() -> Path:
    return core_session.build(SMALL)


def test_a_dead_simulation_is_refused_in_one_line(native: Path) -> None:
    with Session(native, 4096, MemoryTiming()) as session:
        session._process.kill()
        with pytest.raises(SimulatorError, match="ended with -9") as caught:
            session.get("identity")
    assert "\n" not in str(caught.value)


def test_a_core_that_never_ends_reaches_its_limit(native: Path) -> None:
    with Session(native, 4096, MemoryTiming()) as session:
        session.silence(0)
        session.set("watchdog", 0)
        event = session.run(0, 1, limit=1000)
        assert event.kind == "limit"
        assert session.busy
        assert session.cycles > 1000


def test_random_time_is_the_same_for_the_same_seed(native: Path) -> None:
    def cycles(seed: int) -> list[int]:
        bench = Bench(SMALL, native, seed=1, waves=None)
        program = bench.random_program(np.random.default_rng(1))
        with bench.session() as session:
            session.memory[:] = program.image
            session.set_random(seed)
            raised, event = run(session, program)
            return [*raised, event.cycle]

    assert cycles(1) == cycles(1) != cycles(2)


def test_waveform_of_a_core(tmp_path: Path) -> None:
    waves = tmp_path / "core.vcd"
    native = core_session.build(SMALL, waves=True)
    with Session(native, 4096, MemoryTiming(), waves=waves) as session:
        session.step(100)
        cycles = session.cycles
    text = waves.read_text()
    names = set(re.findall(r"\$var \w+ \d+ \S+ (\S+)", text))
    assert {"aclk", "aresetn", "m_axi_araddr", "s_axi_rdata", "busy"} <= names
    last_time_ps = int(re.findall(r"^#(\d+)", text, re.MULTILINE)[-1])
    assert last_time_ps == cycles * 10_000 - 5_000


def test_icarus_runs_no_core() -> None:
    with pytest.raises(SimulatorError, match="cores run on verilator alone"):
        verify(SMALL, seed=1, simulator="icarus")
