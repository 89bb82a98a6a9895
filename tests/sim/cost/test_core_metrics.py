"""What compiled programs reach on the cycle model, with the shapes of SmolLM2-135M."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from evolute.hw.isa.instructions import OPERATIONS, instruction
from evolute.hw.spec import CoreSpec, SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.core import PricedPhase, priced_phases
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.cost.metrics import Metrics
from evolute.sim.program.build import Program, compile_stages
from evolute.sim.program.placement import stage, stage_name, stages_of
from evolute.sim.timing.compute_unit import matmul_cycles
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming, memory_timing
from evolute.sim.workload.linear import HEAD, Block, LayerName, Linear, Workload

SHAPES = (
    (("q", 576, 576), ("k", 192, 576), ("v", 192, 576)),
    (("o", 576, 576),),
    (("gate", 1536, 576), ("up", 1536, 576)),
    (("down", 576, 1536),),
)


INPUTS = tuple(tuple(role for role, _, _ in layers) for layers in SHAPES)


def block(number: int, bits: int = 4) -> Block:
    return tuple(
        tuple(
            Linear(LayerName(number, role), n, k, WeightCodes(bits), 32, 16)
            for role, n, k in layers
        )
        for layers in SHAPES
    )


OUTPUT = ((Linear(HEAD, 4096, 576, WeightCodes(8), 32, 16, last_token_only=True),),)


def workload(*blocks: Block) -> Workload:
    linears = tuple(each for block in blocks for layers in block for each in layers)
    return Workload("toy", "w4g32", linears, (), INPUTS)


def program(core: CoreSpec, rows: int, bits: int = 4) -> Program:
    stages, address = [], 0
    for layers in block(0, bits):
        stages.append(stage(core, stage_name(layers), layers, address))
        address = stages[-1].end
    return compile_stages(core, stages, rows, address)


@pytest.mark.parametrize("latency", [60, 200])
@pytest.mark.parametrize(
    ("name", "bits"), [("core-decode", 4), ("core-decode", 8), ("core-fpga", 4)]
)
def test_decoding_a_block_keeps_the_bus_busy(name, bits, latency):
    core = CORES[name]
    compiled = program(core, 1, bits)
    timing = MemoryTiming(latency_cycles=latency, bytes_per_cycle=core.bus_bytes)
    found = program_cycles(core, compiled.instructions, timing, compiled.address)
    assert len(found.syncs) == 3
    assert found.bus_utilization >= 0.97


@pytest.mark.parametrize("latency", [60, 200])
@pytest.mark.parametrize("rows", [64, 128])
def test_a_prompt_keeps_the_engine_busy(rows, latency):
    core = CORES["core-prefill"]
    compiled = program(core, rows)
    timing = MemoryTiming(latency_cycles=latency, bytes_per_cycle=core.bus_bytes)
    found = program_cycles(core, compiled.instructions, timing, compiled.address)
    assert found.engine_utilization >= 0.97


def test_work_of_the_stages_adds_up_to_the_programs():
    for core, rows in ((CORES["core-decode"], 3), (CORES["core-prefill"], 20)):
        compiled = program(core, rows)
        found = program_cycles(core, compiled.instructions, MemoryTiming(), compiled.address)
        fetched = -(-len(compiled.code) // core.bus_bytes)
        words = sum(work.bus_words for work in compiled.work)
        assert found.read_beats + found.write_beats == words + fetched
        assert len(found.computes.cycles) == sum(work.computes for work in compiled.work)
        assert found.compute_cycles == found.computes.cycles.sum()


PLATFORM = Platform(200e6, 6.4e9)


def test_layers_that_share_an_input_are_one_group_and_parts_are_apart() -> None:
    """A workload knows its blocks by its layers' names, and a core cuts them into stages."""
    core, given = CORES["core-decode"], workload(block(0), block(2), OUTPUT)
    assert given.blocks == (block(0), (), block(2), OUTPUT)
    assert stages_of(core, given.blocks[0]) == block(0)
    parts = [
        Linear(LayerName(0, "q", part), 64, k, WeightCodes(4), 32, 16)
        for part, k in enumerate((32, 64))
    ]
    rest = Linear(LayerName(0, "k"), 64, 96, WeightCodes(4), 32, 16)
    (together,) = workload(((*parts, rest),)).blocks[0]
    assert together == (*parts, rest)
    found = stages_of(core, (together,))
    assert [stage_name(each) for each in found] == ["0.q/0", "0.q/1", "0.k"]


def test_layers_counted_together_have_no_program() -> None:
    many = replace(block(0)[1][0], count=2)
    with pytest.raises(SpecError, match="workload: must be of single layers for a core"):
        evaluate(CORES["core-decode"], workload(((many,),)), PLATFORM, 1, 1)


def test_a_prompt_takes_a_program_per_block_and_a_token_one_for_all():
    core = CORES["core-prefill"]
    work = workload(block(0), block(1), block(2, bits=2), OUTPUT)
    prefill, decode = priced_phases(core, work, PLATFORM, 9, 5)
    one, two = (program(core, 9, bits) for bits in (4, 2))
    timing = memory_timing(PLATFORM)
    cycles = [program_cycles(core, each.instructions, timing).cycles for each in (one, two)]
    assert [each.count for each in prefill.programs] == [2, 1, 1]
    assert [each.cycles.cycles for each in prefill.programs[:2]] == cycles
    head = prefill.programs[2].cycles.cycles
    assert prefill.total("cycles") == 2 * cycles[0] + cycles[1] + head
    (one_token,) = decode.programs
    token = one_token.cycles
    assert one_token.count == 1
    assert decode.total("cycles") == 5 * token.cycles
    assert len(token.syncs) == 4 * 3
    metrics = evaluate(core, work, PLATFORM, 9, 5)
    assert metrics.prefill.cycles == prefill.total("cycles")
    assert metrics.decode.cycles == decode.total("cycles")
    record = metrics.to_dict()
    for phase, rows in (("prefill", 9), ("decode", 1)):
        layers = record[phase]["layers"]
        assert [each["name"] for each in layers][-1] == "head"
        assert [each["count"] for each in layers] == [2] * 4 + [1] * 5
        assert {each["rows"] for each in layers[:-1]} == {rows}
        assert layers[-1]["rows"] == 1
        macs = sum(each["macs"] * each["count"] for each in layers)
        assert macs == rows * 3 * 3538944 + 4096 * 576
        assert record[phase]["macs"] == macs * (5 if phase == "decode" else 1)
    assert record["decode"]["dram_bytes"] == 5 * 32 * (token.read_beats + token.write_beats)
    assert record["decode"]["bound"] == "memory"


def test_steps_that_depend_on_weights_are_priced_by_the_weights():
    """Where all are needed, as where none can be skipped; and else less, block by block."""
    core, blocks = CORES["core-skip"], [block(0)[:2], block(1)[:2]]
    work = workload(*blocks)
    names = [[each.name for stage in layers for each in stage] for layers in blocks]
    shapes = {each.name: (each.n // 2, -(-each.k // each.group) * 5) for each in work.linears}

    def steps(*counts: int) -> dict[LayerName, np.ndarray]:
        """So many steps a beat in each block."""
        return {
            name: np.full(shapes[name], count)
            for of_block, count in zip(names, counts, strict=True)
            for name in of_block
        }

    def priced(*counts: int) -> tuple[Metrics, PricedPhase]:
        found = evaluate(core, work, PLATFORM, 9, 1, steps(*counts))
        prefill, _ = priced_phases(core, work, PLATFORM, 9, 1, steps(*counts))
        return found, prefill

    fixed = evaluate(
        core.evolve(engine=core.engine.evolve(skips=False)), work, PLATFORM, 9, 1
    ).to_dict()
    (whole, whole_prefill), (half, half_prefill) = priced(2, 2), priced(2, 1)
    for name in ("prefill", "decode"):
        assert whole.to_dict()[name] == fixed[name]
    ones, twos = sorted(each.cycles.cycles for each in half_prefill.programs)
    assert ones < twos == whole_prefill.programs[0].cycles.cycles
    assert half.decode.cycles < whole.decode.cycles
    record = half.to_dict()["prefill"]
    assert [each["count"] for each in record["layers"]] == [2] * 2
    counted = sum(each.cycles.steps for each in half_prefill.programs)
    assert record["engine_utilization"] == counted / half.prefill.cycles
    assert record["utilization"] < record["engine_utilization"]


def test_steps_that_nobody_measured_give_a_bound_and_say_so():
    """The figures of a core that skips nothing, with labels that tell them from exact ones."""
    core, work = CORES["core-skip"], workload(block(0)[:2], block(1)[:2])
    never = core.evolve(engine=core.engine.evolve(skips=False))
    bound, fixed = (evaluate(each, work, PLATFORM, 9, 1) for each in (core, never))
    assert bound.to_dict()["prefill"] == fixed.to_dict()["prefill"]
    assert bound.to_dict()["decode"] == fixed.to_dict()["decode"]
    assert {fixed.labels[name] for name in ("cycles", "utilization", "bus_utilization")} == {
        "exact"
    }
    for name in ("cycles", "seconds", "tokens_per_s", "utilization", "bus_utilization"):
        assert bound.labels[name] == "bound"
    for name in ("tokens", "macs", "mac_share", "dram_bytes"):
        assert bound.labels[name] == fixed.labels[name] == "exact"


def test_padding_is_no_useful_work():
    """Nine rows on an engine for eight: the second row tile is nearly empty."""
    found = evaluate(CORES["core-prefill"], workload(block(0), OUTPUT), PLATFORM, 9, 1).to_dict()[
        "prefill"
    ]
    assert found["utilization"] < 0.6 * found["engine_utilization"]


@pytest.mark.parametrize(
    ("frequency_hz", "bandwidth_bytes_per_s", "rate"),
    [
        (200e6, 6.4e9, 32),
        (200e6, 301e6, Fraction(301, 200)),
        (200e6, 1e8, Fraction(1, 2)),
        (0.1, 0.3, 3),  # of the numbers as written, not of the binary fractions next to them
        (333.333e6, 6.4e9, Fraction(6400000, 333333)),
    ],
)
def test_bytes_per_cycle_are_the_exact_quotient(frequency_hz, bandwidth_bytes_per_s, rate):
    timing = memory_timing(Platform(frequency_hz, bandwidth_bytes_per_s))
    assert timing.bytes_per_cycle == rate


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_platform_without_a_clock_or_a_bandwidth_is_refused(value):
    with pytest.raises(SpecError, match="frequency_hz: must be finite and above 0"):
        Platform(value, 6.4e9)
    with pytest.raises(SpecError, match="bandwidth_bytes_per_s: must be finite and above 0"):
        Platform(200e6, value)


def test_a_rate_that_memory_cannot_keep_is_refused():
    with pytest.raises(SpecError, match=r"bytes_per_cycle: must be in 1/512\.\.1048576, got 0.001"):
        memory_timing(Platform(200e6, 2e5))


def test_every_rate_between_whole_bytes_costs_its_own_cycles():
    """At 200 MHz all of these are 2 bytes per cycle, were they rounded."""
    found = [
        evaluate(CORES["core-decode"], workload(block(0)), Platform(200e6, mbs * 1e6), 4, 1)
        for mbs in (301, 350, 400, 450, 499)
    ]
    cycles = [each.decode.cycles for each in found]
    assert cycles == sorted(set(cycles), reverse=True)
    # A decode layer is bound by memory, whose rate its cycles follow.
    assert cycles[0] / cycles[-1] == pytest.approx(499 / 301, rel=1e-2)
    assert found[0].to_dict()["platform"]["memory"]["bytes_per_cycle"] == "301/200"


@pytest.mark.parametrize(
    ("latency", "bandwidth", "rows", "bound"),
    [
        (1, 6.4e9, 64, "compute"),
        (60, 6.4e9, 1, "memory"),
        (60, 3e8, 64, "memory"),
        (4000, 6.4e9, 1, "latency"),
        (4000, 6.4e9, 64, "latency"),
    ],
)
def test_what_limits_is_what_would_gain_most(latency, bandwidth, rows, bound):
    """Against the same programs with a memory that answers at once, or is much faster."""
    core, work = CORES["core-decode"], workload(block(0))

    def cycles(latency, bandwidth):
        platform = Platform(200e6, bandwidth, latency_cycles=latency)
        found = evaluate(core, work, platform, rows, 1)
        return found.to_dict()["prefill"]

    found = cycles(latency, bandwidth)
    assert found["bound"] == bound
    least = max(found["compute_seconds"], found["memory_seconds"])
    assert found["seconds"] == pytest.approx(least + found["waiting_seconds"])
    without_wait = 1 - cycles(1, bandwidth)["cycles"] / found["cycles"]
    twice_as_fast = 1 - cycles(latency, 2 * bandwidth)["cycles"] / found["cycles"]
    if bound == "latency":
        assert without_wait > 0.4 and twice_as_fast < 0.1
    else:
        assert without_wait < 0.1
        assert (twice_as_fast > 0.2) == (bandwidth < 6.4e9)  # the port is as fast as 6.4 GB/s


@pytest.mark.parametrize("rows", [1, 16])
def test_scaling_limits_where_only_a_faster_scaler_helps(rows):
    """One bit a weight: a group is summed in half the time that 4 lanes take to scale 32 sums."""
    core = CORES["core-decode"]
    one_bit, four_bits = workload(block(0, bits=1)), workload(block(0, bits=4))

    def phase(core, work):
        return evaluate(core, work, Platform(200e6, 6.4e9), rows, 1).prefill

    slow, fast = phase(core, one_bit), phase(core.evolve(scale_lanes=16), one_bit)
    assert slow.bound == "scaling" and {layer.bound for layer in slow.layers} == {"scaling"}
    assert fast.bound != "scaling" and fast.scaling_seconds == 0
    assert fast.cycles < 0.75 * slow.cycles
    assert 0.8 < slow.scaling_seconds / slow.compute_seconds < 1
    parts = [layer.count * layer.scaling_seconds for layer in slow.layers]
    assert sum(parts) == pytest.approx(slow.scaling_seconds)
    # With 4 bits a group takes the engine twice as long as it takes the scaler.
    engine, faster = phase(core, four_bits), phase(core.evolve(scale_lanes=16), four_bits)
    assert engine.bound != "scaling" and engine.scaling_seconds == 0
    assert faster.cycles == pytest.approx(engine.cycles, rel=0.02)


def test_cycles_that_the_scaler_sets_by_hand():
    """Groups of 4 steps, of which 8 cycles apart is the soonest: all results but the first wait."""
    core = CORES["core-decode"]
    planes = core.engine.coding_of(WeightCodes(1)).planes
    sizes = {"slices": 22, "row_tiles": 2, "group_slices": 4, "planes": planes}
    names = [field.name for field in OPERATIONS["matmul"].fields]
    matmul = instruction("matmul", **{name: sizes.get(name, 0) for name in names})
    found = matmul_cycles(core, matmul, None)
    assert (found.steps, found.scaling) == (2 * 22, (2 * 6 - 1) * 8)
    wide = core.evolve(scale_lanes=32)  # whose period of 2 cycles no group falls short of
    assert matmul_cycles(wide, matmul, None).scaling == 0
    serial = core.evolve(scale_multiplier="serial")
    assert matmul_cycles(serial, matmul, None).scaling == (2 * 6 - 1) * 64


def test_a_stage_is_charged_for_the_memory_that_is_busy_in_its_time():
    """A slow memory binds every stage, also one whose own weights came before it began."""
    core = CORES["core-decode"]
    small = tuple(
        tuple(Linear(LayerName(0, role), n, k, WeightCodes(4), 32, 16) for role, n, k in stage)
        for stage in ((("q", 256, 128),), (("o", 128, 128),), (("up", 640, 128),))
    )
    found = evaluate(core, workload(small), Platform(200e6, 3e8), 1, 1).to_dict()["decode"]
    frequency = 200e6
    for layer in found["layers"]:
        busy, cycles = layer["memory_seconds"] * frequency, layer["cycles"]
        assert 0 < busy <= cycles
        own = layer["dram_bytes"] / 1.5
        assert layer["bound"] == "memory", layer
        if layer["name"] == "o":
            assert own < 0.7 * busy
    total = sum(layer["memory_seconds"] for layer in found["layers"])
    assert total == pytest.approx(found["memory_seconds"], rel=0.01)
