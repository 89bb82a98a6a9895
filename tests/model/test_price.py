"""What compiled programs reach on the cycle model, with the shapes of SmolLM2-135M."""

from __future__ import annotations

import numpy as np
import pytest

from hw.spec import CoreSpec, SpecError
from hw.spec.formats import WeightCodes
from hw.spec.presets import CORES
from sim.memory import MemoryTiming
from sim.program import program_cycles
from sim.workload import Linear
from sw.compile import Program, compile_stages
from sw.place import stage
from sw.price import CorePlatform, Cost, cost

SHAPES = (
    (("q", 576, 576), ("k", 192, 576), ("v", 192, 576)),
    (("o", 576, 576),),
    (("gate", 1536, 576), ("up", 1536, 576)),
    (("down", 576, 1536),),
)


def block(number: int, bits: int = 4) -> tuple[tuple[Linear, ...], ...]:
    return tuple(
        tuple(Linear(f"{number}.{name}", n, k, WeightCodes(bits), 32, 16) for name, n, k in layers)
        for layers in SHAPES
    )


HEAD = ((Linear("head", 4096, 576, WeightCodes(8), 32, 16, last_token_only=True),),)


def program(core: CoreSpec, rows: int, bits: int = 4) -> Program:
    stages, address = [], 0
    for layers in block(0, bits):
        stages.append(stage(core, "+".join(each.name for each in layers), layers, address))
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
        assert len(found.computes) == sum(work.computes for work in compiled.work)
        assert found.compute_cycles == sum(each.cycles for each in found.computes)


PLATFORM = CorePlatform(200e6, 6.4e9, 60, False)


def test_a_prompt_takes_a_program_per_block_and_a_token_one_for_all():
    core = CORES["core-prefill"]
    blocks = [block(0), block(1), block(2, bits=2), HEAD]
    found = cost(core, blocks, PLATFORM, 9, 5)
    one, two = (program(core, 9, bits) for bits in (4, 2))
    timing = PLATFORM.timing()
    cycles = [program_cycles(core, each.instructions, timing).cycles for each in (one, two)]
    assert [count for _, count in found.prefill.programs] == [2, 1, 1]
    assert [each.cycles for each, _ in found.prefill.programs[:2]] == cycles
    assert found.prefill.cycles == 2 * cycles[0] + cycles[1] + found.prefill.programs[2][0].cycles
    ((token, count),) = found.decode.programs
    assert count == 1
    assert found.decode.cycles == 5 * token.cycles
    assert len(token.syncs) == 4 * 3
    record = found.to_dict()
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
    core, blocks = CORES["core-skip"], [block(0)[:2], block(1)[:2], ()]
    with pytest.raises(SpecError, match="beat_steps: must be given"):
        cost(core, blocks, PLATFORM, 9, 1)

    def priced(core: CoreSpec, *steps: int) -> Cost:
        """With so many steps a beat in each block."""
        given = {
            each.name: np.full((each.n // 2, -(-each.k // each.group) * 5), count)
            for layers, count in zip(blocks, steps, strict=False)
            for stage in layers
            for each in stage
        }
        return cost(core, blocks, PLATFORM, 9, 1, given if steps else None)

    fixed = priced(core.evolve(engine=core.engine.evolve(skips=False))).to_dict()
    whole, half = priced(core, 2, 2), priced(core, 2, 1)
    for name in ("prefill", "decode"):
        assert whole.to_dict()[name] == fixed[name]
    ones, twos = sorted(cycles.cycles for cycles, _ in half.prefill.programs)
    assert ones < twos == whole.prefill.programs[0][0].cycles
    assert half.decode.cycles < whole.decode.cycles
    record = half.to_dict()["prefill"]
    assert [each["count"] for each in record["layers"]] == [2] * 2
    steps = sum(cycles.steps for cycles, _ in half.prefill.programs)
    assert record["engine_utilization"] == steps / half.prefill.cycles
    assert record["utilization"] < record["engine_utilization"]


def test_padding_is_no_useful_work():
    """Nine rows on an engine for eight: the second row tile is nearly empty."""
    found = cost(CORES["core-prefill"], [block(0), HEAD], PLATFORM, 9, 1).to_dict()["prefill"]
    assert found["utilization"] < 0.6 * found["engine_utilization"]


def test_memory_slower_than_a_byte_per_cycle_is_refused():
    with pytest.raises(SpecError, match="bandwidth_bytes_per_s: must be at least 1 byte per cycle"):
        CorePlatform(200e6, 1e8, 60, False).timing()
