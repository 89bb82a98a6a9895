"""The program model against a slow simulator that walks every cycle and every beat.

`walk` transcribes the core's timing rules naively and apart from `sim.timing.core`: each cycle is
computed from a copy of the last one's registers, and the memory serves beat by beat. The model
itself is there twice, in Python and compiled; both are run, and have to say the same.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import DeadlockError, IsaError, Unit, instruction
from evolute.hw.isa.registers import COUNTERS
from evolute.hw.isa.table import InstructionTable
from evolute.hw.spec import BitSerial, SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.presets import CORES
from evolute.hw.spec.scaling import MULTIPLIERS
from evolute.sim.golden.core import execute
from evolute.sim.program.build import compile_stages
from evolute.sim.program.placement import stage
from evolute.sim.timing import core as core_timing
from evolute.sim.timing.compute_unit import computes_of, matmul_cycles
from evolute.sim.timing.core import Machine, _Server, program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.timing.walk import rows_of
from evolute.sim.timing.walk import walk as walk_compiled
from evolute.sim.workload.linear import LayerName, Linear
from evolute.support import native
from evolute.verif.harness.driver import DRIVERS

LOAD, COMPUTE, STORE = Unit
UNITS = (LOAD, COMPUTE, STORE)


class Memory:
    """Serves bursts beat by beat, in the order accepted."""

    def __init__(self, timing, bus_bytes):
        self.timing, self.bus_bytes = timing, bus_bytes
        self.b = min(timing.bytes_per_cycle, bus_bytes)
        self.free = 0
        self.moved = []  # from when to when every word was moved, in cycles
        self.r = {}  # cycle -> what came of the burst, for its last beat
        self.b_done = {}

    def refreshing(self, cycle):
        every = self.timing.refresh_interval_cycles
        return every > 0 and cycle % every < self.timing.refresh_cycles

    def beats(self, start, count):
        cycles = []
        u = max(start * self.b, self.free)
        for _ in range(count):
            cycle = math.ceil(u / self.b)
            if self.refreshing(cycle):
                while self.refreshing(cycle):
                    cycle += 1
                u = cycle * self.b
            cycles.append(cycle)
            self.moved.append((Fraction(u) / self.b, Fraction(u + self.bus_bytes) / self.b))
            u += self.bus_bytes
        self.free = u
        return cycles

    def accept_read(self, cycle, burst):
        for i, at in enumerate(self.beats(cycle + self.timing.latency_cycles, burst["words"])):
            assert at not in self.r
            self.r[at] = {**burst, "last": i == burst["words"] - 1}

    def accept_write(self, cycle, burst):
        at = self.beats(cycle + 1, burst["words"])[-1] + self.timing.latency_cycles
        self.b_done[at] = burst


def cut(core, first, words):
    """Lengths of bursts, word by word."""
    lengths = []
    for word in range(first, first + words):
        if word == first or word % core.burst_beats == 0:
            lengths.append(0)
        lengths[-1] += 1
    return lengths


def group_steps(core, matmul, beat_steps):
    """Steps of every group of a matmul; `beat_steps` are those of a row tile's beats, or None."""
    if beat_steps is None:
        steps = core.engine.beat_steps(matmul["mode"])
        beat_steps = np.full(matmul["slices"] * matmul["planes"], steps)
    slices = beat_steps.reshape(matmul["slices"], -1).sum(axis=1)
    size = matmul["group_slices"]
    tile = [int(slices[start : start + size].sum()) for start in range(0, len(slices), size)]
    return tile * matmul["row_tiles"]


def last_result(groups, period):
    """The cycle of the last result's transfer, the first step being in cycle 0: registers for a
    product and for a result, cycle by cycle."""
    ends = np.cumsum(groups) - 1
    product = result = None  # the step whose product, or the group whose sum, is held
    cycle, taken, left, read = 0, 0, -period, 0
    while True:
        leaves = result is not None and cycle - left >= period
        if leaves:
            left, read = cycle, read + 1
            if read == len(groups):
                return cycle
        moves = product is not None and (result is None or leaves)
        steps = taken < sum(groups) and (product is None or moves)
        result = None if leaves else result
        if moves:
            result = True if product in ends else result
            product = None
        if steps:
            product, taken = taken, taken + 1
        cycle += 1


def compute_cycles(core, matmul, beat_steps):
    """From a matmul's issue to its end, result by result."""
    groups = group_steps(core, matmul, beat_steps)
    taken = core.stream_latency_cycles + core.engine.operand_latency_cycles
    latency, period = core.engine.step_latency_cycles, core.result_period_cycles
    if core.engine.keeps_results:
        step, left = taken - 1, -period
        for steps in groups:
            for of_group in range(steps):
                step += 1
                while of_group == steps - 1 and step <= left:
                    step += 1
            left = max(step + latency - 1, left + period)
        taken = left + 1
    elif beat_steps is not None:
        taken += last_result(groups, period)
    else:
        taken += groups[0] + latency - 1
        for steps in groups[1:]:
            taken += max(steps, period)
    per_step = 1
    if core.scale_multiplier == "serial":
        per_step = max(core.scale_bits, core.offset_bits)
    return taken + core.scale_latency_cycles + (core.scale_steps - 1) * per_step


def walk(core, program, timing, beat_steps, patience=5000):
    """Counters of `program`, or None once nothing has moved for `patience` cycles."""
    memory = Memory(timing, core.bus_bytes)
    per_word, parts = max(1, core.bus_bits // 128), max(1, 128 // core.bus_bits)
    state = SimpleNamespace(
        words_left=math.ceil(len(program) * 16 / core.bus_bytes),
        reserved=0,
        ar=None,
        in_flight=0,
        fifo=0,
        parts=0,
        position=0,
        index=0,
        queues={unit: [] for unit in UNITS},
        tokens={(source, sink): 0 for source in UNITS for sink in UNITS},
        load=None,
        requested=0,
        loading=[],
        sync=None,
        compute=None,
        store=None,
        read_beats=0,
        write_beats=0,
        steps=0,
        compute_cycles=0,
        dispatched=0,
    )
    syncs, moved, cycle = [], 0, 0
    while cycle - moved < patience:
        now, new = SimpleNamespace(**vars(state)), state
        now.queues = {unit: list(queue) for unit, queue in state.queues.items()}
        now.tokens = dict(state.tokens)
        signals = []

        # Memory and the AXI channels. A read accepted in a cycle is served before a write.
        if now.ar is not None:
            memory.accept_read(cycle, now.ar)
            new.ar = None
        if now.store is not None:
            for end, burst in now.store["bursts"]:
                if end == cycle:
                    memory.accept_write(cycle, burst)
            new.write_beats += cycle in now.store["beats"]
        beat = memory.r.pop(cycle, None)
        if beat is not None:
            new.read_beats += 1
            if beat["fetch"]:
                new.fifo += 1
            elif beat["last"]:
                new.loading[0]["left"] -= 1
                if new.loading[0]["left"] == 0:
                    signals.append(new.loading.pop(0)["instruction"])
            if beat["last"]:
                new.in_flight -= 1
        answer = memory.b_done.pop(cycle, None)
        if answer is not None and answer["final"]:
            signals.append(now.store["instruction"])
            new.store = None

        # Address grant: fetch first.
        if now.in_flight < core.outstanding_reads:
            b = min(now.words_left, core.fetch_beats)
            if now.words_left > 0 and now.reserved + b <= core.fetch_words:
                new.ar = {"fetch": True, "words": b}
                new.words_left -= b
                new.reserved += b
                new.in_flight += 1
            elif now.load is not None:
                lengths = now.load["lengths"]
                new.ar = {"fetch": False, "words": lengths[now.requested]}
                new.in_flight += 1
                new.requested += 1
                if new.requested == len(lengths):
                    new.load = None

        # Dispatch.
        full = now.parts == parts
        leaves = False
        if full:
            current = program[now.index]
            unit = current.operation.unit
            if unit is None:
                idle = now.load is None and now.sync is None
                idle = idle and now.compute is None and now.store is None
                if idle and now.in_flight == 0 and not any(now.queues.values()):
                    assert now.fifo == 0 and now.words_left == 0 and now.ar is None
                    new.dispatched += 1
                    counters = {name: getattr(new, name) for name in COUNTERS if name != "cycles"}
                    return {"cycles": cycle + 1, **counters}, syncs
            elif len(now.queues[unit]) < core.queue_instructions:
                leaves = True
                new.queues[unit].append((now.index, current))
                new.index += 1
                new.position += 1
                new.dispatched += 1
        last_leaves = leaves and now.position == per_word - 1
        if last_leaves:
            new.parts = new.position = 0
        if now.fifo > 0 and (not full or last_leaves):
            new.fifo -= 1
            new.reserved -= 1
            new.parts += 1

        # Units.
        def pop(unit, active, now=now, new=new):
            if active or not now.queues[unit]:
                return None, None
            index, current = now.queues[unit][0]
            if any(now.tokens[source, unit] == 0 for source in current.wait):
                return None, None
            for source in current.wait:
                new.tokens[source, unit] -= 1
            new.queues[unit].pop(0)
            return index, current

        if now.sync is not None and now.sync["end"] == cycle:
            signals.append(now.sync["instruction"])
            new.sync = None
        index, current = pop(LOAD, now.load is not None or now.sync is not None)
        if current is not None and current.operation.name == "load":
            lengths = cut(core, current["memory"] // core.bus_bytes, current["words"])
            new.load, new.requested = {"lengths": lengths}, 0
            new.loading.append({"instruction": current, "left": len(lengths)})
        elif current is not None:
            end = cycle + 1 + timing.host_cycles
            new.sync = {"instruction": current, "end": end}
            syncs.append({"index": index, "raised_cycle": cycle + 1, "resumed_cycle": end})
        if now.compute is not None:
            new.compute_cycles += 1
            if now.compute["end"] == cycle:
                signals.append(now.compute["instruction"])
                new.compute = None
        index, current = pop(COMPUTE, now.compute is not None)
        if current is not None:
            own = None if beat_steps is None else beat_steps[index]
            end = cycle + compute_cycles(core, current, own)
            new.compute = {"instruction": current, "end": end}
            new.steps += sum(group_steps(core, current, own))
        _, current = pop(STORE, now.store is not None)
        if current is not None:
            first = cycle + core.store_latency_cycles
            beats = [first + core.store_word_cycles * (k + 1) for k in range(current["words"])]
            lengths = cut(core, current["memory"] // core.bus_bytes, current["words"])
            ends = np.cumsum(lengths)
            bursts = [
                (beats[end - 1], {"words": words, "final": end == current["words"]})
                for words, end in zip(lengths, ends, strict=True)
            ]
            new.store = {"instruction": current, "bursts": bursts, "beats": beats}

        for current in signals:
            for sink in current.signal:
                new.tokens[current.operation.unit, sink] += 1
        busy = now.compute is not None or now.sync is not None or now.store is not None
        if busy or beat is not None or leaves or new.ar or new.queues != now.queues:
            moved = cycle
        cycle += 1
    return None


# Random cores and programs.


def random_core(rng):
    """A legal core of any bus, small enough that its buffers fill."""
    drivers = list(DRIVERS.values())
    while True:
        engine = drivers[rng.integers(len(drivers))].random_spec(rng)
        bus_bits = int(rng.choice([64, 128, 256, 512]))
        lanes = int(rng.choice([1, 2, 4, 8]))
        try:
            core = CoreSpec(
                engine=engine.evolve(m=min(3, engine.m), n=int(rng.choice([1, 2, 4, 8, 12, 16]))),
                bus_bits=bus_bits,
                burst_beats=int(rng.choice([4, 8, 16, 64])),
                outstanding_reads=int(rng.choice([1, 2, 3, 8])),
                weight_buffer_bytes=16384,
                activation_buffer_bytes=4096,
                scale_buffer_bytes=2048,
                accumulators=int(rng.choice([64, 128, 256])),
                scale_lanes=lanes,
                scale_multiplier=str(rng.choice(MULTIPLIERS)),
                sum_bits=48,
            )
        except SpecError:
            continue
        return core


def random_rate(rng):
    """Bytes per cycle: whole, or a fraction of small or of large numbers."""
    cycles = int(rng.choice([1, 7, 200, 1 << 40]))
    return Fraction(int(rng.integers(cycles // 2 + 1, 70 * cycles)), cycles)


def random_timing(rng):
    interval = int(rng.choice([0, 0, 7, 40, 200]))
    rate = random_rate(rng) if rng.integers(2) else int(rng.choice([1, 3, 7, 8, 24, 32, 64, 1000]))
    return MemoryTiming(
        latency_cycles=int(rng.choice([1, 2, 9, 60])),
        bytes_per_cycle=rate,
        refresh_interval_cycles=interval,
        refresh_cycles=int(rng.integers(interval)) if interval else 0,
        host_cycles=int(rng.choice([1, 2, 50])),
    )


def random_instruction(core, rng, name, **tokens):
    """A legal instruction with fields drawn freely; short ones are likelier."""
    short = int(rng.choice([2, 10, 100]))
    while True:
        values = {
            "words": int(rng.integers(1, short + 1)),
            "memory": int(rng.integers(1 << 10)) * core.bus_bytes,
        }
        if name == "load":
            buffer = int(rng.integers(3))
            most = core.buffers[buffer].bus_words
            values |= {"buffer": buffer, "address": int(rng.integers(most))}
        elif name == "store":
            values["accumulator"] = int(rng.integers(core.accumulator_words))
        elif name == "matmul":
            planes = int(rng.integers(1, 9))
            values = {
                "weight": 0,
                "activation": 0,
                "scale": 0,
                "accumulator": int(rng.integers(core.accumulator_words)),
                "slices": int(rng.integers(1, short + 1)),
                "row_tiles": int(rng.integers(1, 5)),
                "group_slices": int(rng.integers(1, core.engine.group_slices + 1)),
                "planes": planes,
                "mode": int(rng.choice(list(core.engine.modes))),
                "accumulate": int(rng.integers(2)),
                "offset_shift": int(rng.integers(8)),
            }
        else:
            values = {}
        drawn = instruction(name, **values, **tokens)
        try:
            isa.check(core, drawn)
        except IsaError:
            continue
        return drawn


def random_program(core, rng, reckless):
    """Instructions whose waits earlier ones satisfy; a `reckless` program waits for anything."""
    left = {(source, sink): 0 for source in UNITS for sink in UNITS}
    program = []
    for _ in range(rng.integers(0, 40)):
        name = str(rng.choice(["load", "matmul", "store", "sync"], p=[0.6, 0.2, 0.15, 0.05]))
        own = isa.OPERATIONS[name].unit
        others = [unit for unit in UNITS if unit != own]
        wait = [
            unit
            for unit in others
            if rng.random() < 0.6 and (left[unit, own] > 0 or (reckless and rng.random() < 0.1))
        ]
        signal = [unit for unit in others if rng.random() < 0.5]
        for unit in wait:
            left[unit, own] -= 1
        for unit in signal:
            left[own, unit] += 1
        program.append(random_instruction(core, rng, name, wait=wait, signal=signal))
    return [*program, instruction("halt")]


def random_steps(core, program, rng):
    """Steps of every matmul's beats where an engine's depend on weights."""
    if core.engine.steps_are_fixed:
        return None
    return {
        index: rng.integers(
            1, core.engine.beat_steps(each["mode"]) + 1, each["slices"] * each["planes"]
        )
        for index, each in enumerate(program)
        if each.operation.name == "matmul"
    }


def model(core, program, timing, steps):
    """The model's account of a program, once in Python, and compiled with and without skipping;
    raises what all three raise."""

    def run(code):
        try:
            return code()
        except IsaError as error:
            return error

    def compiled(skips):
        table = InstructionTable.of(program)
        computes = computes_of(core, table, steps)
        walked = walk_compiled(core, rows_of(core, table, computes.cycles), timing, skips=skips)
        assert walked is not None, "this machine has no compiler"
        return core_timing._cycles(core, table, timing, computes, walked)

    table = InstructionTable.of(program)
    assert list(table) == list(program)
    assert table.code == isa.to_bytes(program)
    reference = run(lambda: Machine(core, program, timing, steps).run())
    for found in (run(lambda: compiled(True)), run(lambda: compiled(False))):
        if isinstance(reference, IsaError):
            assert type(found) is type(reference) and str(found) == str(reference)
        else:
            assert found == reference
            for name in ("steps", "cycles"):
                pair = (getattr(each.computes, name) for each in (found, reference))
                assert np.array_equal(*pair)
    if isinstance(reference, IsaError):
        raise reference
    assert program_cycles(core, program, timing, 0, steps) == reference
    return reference


def compare(core, program, timing, seed):
    """Whether the program ends; raises if model and walk differ."""
    lines = "\n".join(map(isa.disassemble, program))
    context = f"seed {seed}\n{core}\n{timing}\n{lines}"
    steps = random_steps(core, program, np.random.default_rng(seed))
    walked = walk(core, program, timing, steps)
    if walked is None:
        with pytest.raises(DeadlockError):
            model(core, program, timing, steps)
        return False
    counters, syncs = walked
    found = model(core, program, timing, steps)
    assert {name: getattr(found, name) for name in COUNTERS} == counters, context
    assert [vars(each) for each in found.syncs] == syncs, context
    return True


@pytest.mark.parametrize("batch", range(8))
def test_the_model_equals_a_walk_through_every_cycle(batch):
    for seed in range(40 * batch, 40 * batch + 40):
        rng = np.random.default_rng(seed)
        core, timing = random_core(rng), random_timing(rng)
        assert compare(core, random_program(core, rng, reckless=False), timing, seed)


def test_a_deadlock_is_one_in_the_walk_and_in_every_order_of_the_golden_model():
    ended = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        core, timing = random_core(rng), random_timing(rng)
        program = random_program(core, rng, reckless=True)
        ended.append(compare(core, program, timing, seed))
        address = 1 << 17
        memory = rng.integers(0, 256, 1 << 18).astype(np.uint8)
        code = np.frombuffer(isa.to_bytes(program), np.uint8)
        memory[address : address + len(code)] = code
        for order in (None, rng, rng):
            try:
                execute(core, memory, address, len(program), rng=order)
            except DeadlockError:
                assert not ended[-1], f"seed {seed}"
            else:
                assert ended[-1], f"seed {seed}"
    assert 10 < sum(ended) < 50


def balanced(body):
    """The body without signals beyond those that it waits for, the last ones first."""
    left = dict.fromkeys(itertools.product(UNITS, UNITS), 0)
    for each in body:
        for sink in each.signal:
            left[each.operation.unit, sink] += 1
        for source in each.wait:
            left[source, each.operation.unit] -= 1
    found = []
    for each in reversed(body):
        unit = each.operation.unit
        needless = {sink for sink in each.signal if left[unit, sink] > 0}
        for sink in needless:
            left[unit, sink] -= 1
        found.append(replace(each, signal=each.signal - needless))
    return found[::-1]


def repeated(core, rng, reckless):
    """A body of random instructions, run many times, of which each time takes its own memory."""
    *body, halt = random_program(core, rng, reckless)
    length = int(rng.choice([3, 8, 20]))
    body = body[:length] or [instruction("sync")]
    if not reckless and rng.random() < 0.8:
        body = balanced(body)
    times, stride = int(rng.choice([20, 60, 300])), int(rng.choice([0, 1, core.burst_beats]))
    program = []
    for time in range(times):
        for each in body:
            values = {field.name: each[field.name] for field in each.operation.fields}
            if "memory" in values:
                values["memory"] += time * stride * core.bus_bytes
            tokens = {"wait": each.wait, "signal": each.signal}
            program.append(instruction(each.operation.name, **values, **tokens))
    return [*program, halt]


@pytest.mark.parametrize("batch", range(4))
def test_periods_that_are_skipped_change_nothing(batch):
    """Of programs that repeat themselves; some come to a deadlock, some give too many tokens."""
    ended, saved = [], 0
    for seed in range(50 * batch, 50 * batch + 50):
        rng = np.random.default_rng(seed)
        core, timing = random_core(rng), random_timing(rng)
        program = repeated(core, rng, reckless=seed % 4 == 0)
        steps = random_steps(core, program, rng)
        try:
            model(core, program, timing, steps)
        except DeadlockError:
            ended.append("deadlock")
            continue
        except IsaError as error:
            assert "tokens may wait for" in str(error)
            ended.append("tokens")
            continue
        ended.append("done")
        table = InstructionTable.of(program)
        rows = rows_of(core, table, computes_of(core, table, steps).cycles)
        all_of_it, skipping = (
            walk_compiled(core, rows, timing, skips=skips) for skips in (False, True)
        )
        saved += skipping.visits < all_of_it.visits / 2
        if timing.refresh_interval_cycles:
            assert skipping.visits == all_of_it.visits
    assert {"deadlock", "tokens", "done"} == set(ended)
    assert saved > 2, (saved, ended)


@pytest.mark.parametrize("name", CORES)
def test_programs_of_the_compiler_take_the_same_compiled(name):
    """Two blocks of two stages, whose steps are the most that there can be."""
    core = CORES[name]
    codes = WeightCodes(4) if core.engine.accepts(WeightCodes(4)) else core.engine.formats[-1]
    address, stages = 0, []
    for n, k in ((160, 256), (96, 512)) * 2:
        linear = Linear(LayerName(None, f"{n}x{k}"), n, k, codes, 32, 16)
        stages.append(stage(core, "stage", [linear], address))
        address = stages[-1].end
    compiled = compile_stages(core, stages, 3, address)
    steps = None
    if not core.engine.steps_are_fixed:
        steps = random_steps(core, compiled.instructions, np.random.default_rng(0))
    for timing in (MemoryTiming(), MemoryTiming(60, Fraction(7, 2), 1560, 60, 9)):
        model(core, compiled.instructions, timing, steps)


def test_times_beyond_64_bits_are_exact():
    """Hosts that take 2^48 cycles each, and a rate of numbers near 2^52."""
    core = CORES["core-decode"]
    body = [
        instruction("load", buffer=0, address=0, words=70, memory=96, signal=[COMPUTE]),
        instruction("sync"),
    ]
    program = [*body * 40, instruction("halt")]
    for rate in (7, Fraction((1 << 52) - 1, (1 << 50) - 3)):
        timing = MemoryTiming(bytes_per_cycle=rate, host_cycles=1 << 48)
        assert model(core, program, timing, None).cycles > 40 << 48


def test_without_a_compiler_python_walks(monkeypatch, tmp_path, capsys):
    core, rng = CORES["core-decode"], np.random.default_rng(3)
    program = random_program(core, rng, reckless=False)
    expected = program_cycles(core, program, MemoryTiming())
    monkeypatch.setenv("PATH", str(tmp_path))
    native.library.cache_clear()
    try:
        for _ in range(2):
            assert program_cycles(core, program, MemoryTiming()) == expected
    finally:
        native.library.cache_clear()
    assert capsys.readouterr().err == (
        "evolute: programs of cores take longer, as they cannot be compiled: "
        "none of g++, clang++, c++ is on the path\n"
    )


def test_the_server_equals_one_that_counts_beats():
    rng = np.random.default_rng(0)
    for _ in range(100):
        timing, bus_bytes = random_timing(rng), int(rng.choice([8, 16, 32, 64]))
        server, slow, cycle = _Server(timing, bus_bytes), Memory(timing, bus_bytes), 0
        for _ in range(10):
            cycle += int(rng.integers(0, 300))
            beats = int(rng.integers(1, 257))
            assert server.serve(cycle, beats) == slow.beats(cycle, beats)[-1], timing
        edges = sorted({int(each) for each in rng.integers(0, cycle + 2, 8)})
        windows = list(itertools.pairwise(edges))[::2]  # with time between them
        for busy, window in zip(server.busy_cycles(windows), windows, strict=True):
            inside = (max(0, min(e, window[1]) - max(s, window[0])) for s, e in slow.moved)
            assert busy == pytest.approx(float(sum(inside))), timing


def test_counts_bound_the_cycles():
    """No program beats its memory or its engine."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        core, timing = random_core(rng), random_timing(rng)
        program = random_program(core, rng, reckless=False)
        found = program_cycles(core, program, timing, 0, random_steps(core, program, rng))
        words = found.read_beats + found.write_beats
        rate = min(1, timing.bytes_per_cycle / core.bus_bytes)
        assert found.bus_utilization == words / found.cycles
        assert words - 1 <= rate * found.cycles  # the last word crosses as its time begins
        assert found.engine_utilization < 1
        assert found.steps <= found.compute_cycles < found.cycles


def test_groups_of_any_steps_wait_for_results_as_registers_do():
    """Short groups between long ones, on cores whose scaling takes up to 16 cycles."""

    def matmul(slices, row_tiles, group_slices):
        values = {"slices": slices, "row_tiles": row_tiles, "group_slices": group_slices}
        values |= dict.fromkeys(("weight", "activation", "scale", "accumulator", "accumulate"), 0)
        return instruction("matmul", **values, planes=1, mode=3, offset_shift=0)

    rng, waited = np.random.default_rng(5), 0
    engine = BitSerial(m=2, n=8, k=2, terms="booth", weight_bits=8, group_size=6, skips=True)
    for lanes in (1, 2, 4, 8):
        core = CoreSpec(engine=engine, scale_lanes=lanes, sum_bits=48)
        for _ in range(60):
            slices, size = int(rng.integers(1, 12)), int(rng.integers(1, 4))
            rows = int(rng.integers(1, 3))
            one = matmul(slices, rows, size)
            steps = rng.choice([1, 1, 2, 4], slices)
            found = matmul_cycles(core, one, steps)
            groups = group_steps(core, one, steps)
            assert found.cycles == compute_cycles(core, one, steps)
            assert found.steps == sum(groups)
            free = matmul_cycles(core, matmul(1, 1, 4), steps[:1]).cycles
            waited += found.cycles - free > found.steps - int(steps[0])
    assert waited > 60
