"""Random programs for cores: legal, without deadlock, and with every token that they need."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import Unit
from evolute.hw.spec import VqCodebook
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.presets import CORES
from evolute.sim.golden.core import execute
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.verif.core.bench import MEMORY_BYTES, BenchProgram, put
from evolute.verif.core.programs import DATA_BYTES, random_core, random_program

RANDOM = {f"random {seed}": random_core(np.random.default_rng(seed)) for seed in range(8)}
FILLED = random_core(np.random.default_rng(0), VqCodebook)
ALL = CORES | RANDOM | {"filled": FILLED}


@pytest.mark.parametrize("core", ALL.values(), ids=ALL)
def test_every_order_that_the_tokens_allow_gives_the_same(core: CoreSpec) -> None:
    rng = np.random.default_rng(1)
    for length in (5, 60, 300):
        program = random_program(core, rng, DATA_BYTES, length)
        assert len(program) > length
        memory = rng.integers(0, 256, MEMORY_BYTES, np.uint8)
        put(memory, 0, isa.to_bytes(program))
        orders = []
        for seed in (1, 2, 3):
            orders.append(memory.copy())
            execute(core, orders[-1], 0, len(program), rng=np.random.default_rng(seed))
        expected = BenchProgram(core, program, 0, memory).expected()
        assert all(np.array_equal(expected.memory, each) for each in orders)
        cycles = program_cycles(core, program, MemoryTiming(), 0, expected.beat_steps)
        assert cycles.dispatched == len(program)


@pytest.mark.parametrize("core", [CORES["core-fpga"], FILLED], ids=["core-fpga", "filled"])
def test_programs_cover_the_instruction_set(core: CoreSpec) -> None:
    rng = np.random.default_rng(2)
    programs = [random_program(core, rng, DATA_BYTES, 40) for _ in range(40)]
    used = [each for program in programs for each in program]
    assert {each.operation.name for each in used} == set(isa.operations(core))
    for waiting in ("wait", "signal"):
        pairs = {(each.operation.unit, other) for each in used for other in getattr(each, waiting)}
        assert len(pairs) == len(Unit) * (len(Unit) - 1)
    syncs = [each for each in used if each.operation.name == "sync"]
    assert any(each.signal for each in syncs)
    assert any(each.wait for each in syncs)


def test_equal_seeds_give_equal_programs() -> None:
    core = CORES["core-decode"]
    first, second = (random_program(core, np.random.default_rng(7), 0, 30) for _ in range(2))
    assert first == second != random_program(core, np.random.default_rng(8), 0, 30)
