"""The program model by hand, instruction by instruction; and what it refuses."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import DeadlockError, IsaError, Unit, instruction
from evolute.hw.spec import BitSerial, LutTensorCore, Mac, SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.presets import CORES
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming

LOAD, COMPUTE, STORE = Unit

# By hand, on 256 bits: two instructions are one word, which arrives in cycle 61, is taken in 62 and
# held in 63; the first is in its queue, and taken, in 64.

HALT = instruction("halt")
CORE = CoreSpec(engine=LutTensorCore(m=1, n=32, k=4, kg=2, weight_bits=8))


def load(words, memory=0, **tokens):
    values = {"buffer": 0, "address": 0, "words": words, "memory": memory}
    return instruction("load", **values, **tokens)


def cycles(*program, core=CORE, **timing):
    return program_cycles(core, [*program, HALT], MemoryTiming(**timing)).cycles


def test_a_halt():
    """Seen in the cycle in which it is held, 63, the program's last."""
    assert cycles() == 64
    assert cycles(latency_cycles=5) == 9


def test_a_load():
    """Granted in 65, accepted in 66; its words come from 126 on, and the halt a cycle later."""
    assert cycles(load(1)) == 126 + 1 + 1
    assert cycles(load(10)) == 126 + 10 + 1
    assert cycles(load(100)) == 126 + 100 + 1  # two bursts, as one
    assert cycles(load(10), bytes_per_cycle=8) == 126 + 9 * 4 + 1 + 1


def test_a_load_at_a_fraction_of_a_byte_per_cycle():
    """Nine words of 32 bytes at 301/200 bytes per cycle take 191.4 cycles, at 499/200 they take
    115.4; whole bytes would make 2 of both."""
    assert cycles(load(10), bytes_per_cycle=Fraction(301, 200)) == 126 + 192 + 1 + 1
    assert cycles(load(10), bytes_per_cycle=Fraction(499, 200)) == 126 + 116 + 1 + 1
    assert cycles(load(10), bytes_per_cycle=2) == 126 + 144 + 1 + 1
    # The word of instructions, which came in 61, takes 96 cycles as well.
    assert cycles(load(3), bytes_per_cycle=Fraction(1, 3)) == 61 + 3 * 96 + 1 + 1
    # More than the port takes is what it takes, however odd.
    assert cycles(load(10), bytes_per_cycle=Fraction(1000, 31)) == 126 + 10 + 1


@pytest.mark.parametrize(
    ("rate", "rule"),
    [
        (0, "in 1/512..1048576"),
        (Fraction(1, 513), "in 1/512..1048576"),
        (1.5, "a whole number or a fraction"),
        (Fraction((1 << 52) + 1, 1 << 51), "a fraction of numbers up to 2^52"),
    ],
)
def test_a_rate_that_cannot_be_kept_is_refused(rate, rule):
    with pytest.raises(SpecError, match="bytes_per_cycle: must be " + re.escape(rule)):
        MemoryTiming(bytes_per_cycle=rate)


def test_a_load_that_waits_for_its_own_bursts():
    """With one burst in flight, the second is granted in 190, once the 64th word is there."""
    core = CORE.evolve(outstanding_reads=1)
    assert cycles(load(100), core=core) == 190 + 1 + 60 + 36 + 1
    # The first burst ends 4 words on, at a multiple of 64 in memory: granted again in 130.
    assert cycles(load(40, memory=60 * 32), core=core) == 130 + 1 + 60 + 36 + 1


def test_a_refresh_holds_a_beat_back():
    """Cycles 130 to 139 refresh: the fifth word comes in 140."""
    timing = {"refresh_interval_cycles": 130, "refresh_cycles": 10}
    assert cycles(load(10), **timing) == 126 + 10 + 10 + 1
    assert cycles(load(4), **timing) == 126 + 4 + 1


def matmul(**changes):
    values = {"weight": 0, "activation": 0, "scale": 0, "accumulator": 0, "slices": 8}
    values |= {"row_tiles": 1, "group_slices": 4, "planes": 4, "mode": 0, "accumulate": 0}
    return instruction("matmul", offset_shift=0, **{**values, **changes})


def test_a_matmul():
    """Offered in 66; its first result is taken 2 + 16 + 1 later, the second 16 after that."""
    first = 66 + 2 + 16 + 1
    done = 5 + CORE.scale_steps - 1
    assert cycles(matmul()) == first + 16 + done + 2
    assert cycles(matmul(slices=6)) == first + 8 + done + 2
    # One step a group: scaling, 8 cycles for 32 sums, takes longer.
    assert cycles(matmul(group_slices=1, planes=1)) == 66 + 2 + 1 + 1 + 7 * 8 + done + 2
    found = program_cycles(CORE, [matmul(), HALT], MemoryTiming())
    assert found.steps == 32
    assert found.compute_cycles == first + 16 + done - 64
    # Multipliers: one register less before a step, and a step for each slice.
    core = CORE.evolve(engine=Mac(m=1, n=32, k=8), accumulators=512, scale_lanes=32)
    done = core.scale_latency_cycles
    assert cycles(matmul(planes=1), core=core) == 66 + 1 + 4 + 1 + 4 + done + 2


@pytest.mark.parametrize(
    ("name", "codes"),
    [("core-bitmod", WeightCodes(4, Kind.BITMOD)), ("core-decode", WeightCodes(4))],
)
@pytest.mark.parametrize("row_tiles", [1, 3])
def test_serial_scaling_hides_behind_the_next_group(name, codes, row_tiles):
    """With groups of as many cycles as its steps have bits, only the last result's scaling shows:
    eight cycles instead of two in the multiplier, and for each step after the first."""
    array = CORES[name]
    serial = array.evolve(scale_multiplier="serial")
    walk = array.scale_steps * 8
    group = array.engine.group_slices
    coding, steps = array.engine.coding_of(codes), array.engine.slice_steps(codes)
    operands = {"mode": coding.mode, "planes": coding.planes}
    operands |= {"row_tiles": row_tiles, "slices": 3 * group}

    def longer(group_slices):
        drawn = matmul(**operands, group_slices=group_slices)
        return cycles(drawn, core=serial) - cycles(drawn, core=array)

    tail = (8 - 2) + (array.scale_steps - 1) * (8 - 1)
    assert group * steps >= walk and longer(group) == tail
    # Of shorter groups each result but the first waits for the one before.
    waits = row_tiles * 3 * group - 1
    assert longer(1) == tail + waits * (walk - max(steps, array.result_period_cycles))


def test_a_store():
    """Words cross in 67 to 74, are written in 75 to 82, and answered in 142."""
    store = instruction("store", accumulator=0, words=8, memory=0)
    assert cycles(store) == 142 + 2
    found = program_cycles(CORE, [store, HALT], MemoryTiming())
    assert found.write_beats == 8
    assert found.read_beats == 1
    assert found.dispatched == 2
    assert found.bus_utilization == 9 / 144


def test_syncs_split_a_program_into_stages():
    """A sync is seen in 65 and resumed 5 later; the load, in the second word, long waits in its
    queue, is taken in 71 and complete in 71 + 62 + 10."""
    program = [instruction("sync"), load(10), HALT]
    found = program_cycles(CORE, program, MemoryTiming(host_cycles=5))
    (sync,) = found.syncs
    assert (sync.index, sync.raised_cycle, sync.resumed_cycle) == (0, 65, 70)
    assert found.stage_cycles == (65, 73)
    assert found.cycles == 65 + 6 + 73


def test_tokens_order_a_load_and_a_matmul():
    """The load is complete in 135 and the matmul taken in 136, as if it were 72 cycles later."""
    program = [load(10, signal=[COMPUTE]), matmul()]
    free = cycles(matmul())
    assert cycles(*program) == cycles(load(10))  # no token taken: together
    ordered = [program[0], isa.Instruction(matmul().operation, matmul().values, frozenset({LOAD}))]
    assert cycles(*ordered) == free + 136 - 64


def test_steps_that_depend_on_weights_must_be_given():
    core = CoreSpec(engine=BitSerial(n=8, terms="booth", weight_bits=8, skips=True))
    with pytest.raises(SpecError, match="beat_steps: must be given for an engine whose steps"):
        program_cycles(core, [HALT], MemoryTiming())


# Refusals.


def test_a_deadlock_names_who_waits_for_what():
    stuck = [
        instruction("sync", wait=[COMPUTE, STORE], signal=[STORE]),
        *[load(1)] * CORE.queue_instructions,
        instruction("store", accumulator=0, words=1, memory=0, wait=[LOAD], signal=[LOAD]),
    ]
    with pytest.raises(DeadlockError) as caught:
        cycles(*stuck)
    assert str(caught.value) == (
        "deadlock: instruction 0 waits for a signal from compute and store; "
        "instruction 4 waits for room in the load queue"
    )
    with pytest.raises(DeadlockError, match="instruction 1 waits for all to end"):
        cycles(instruction("sync", wait=[STORE]))


def test_too_many_tokens():
    sync = instruction("sync", signal=[STORE])
    assert cycles(*[sync] * CORE.token_limit)
    with pytest.raises(IsaError, match="instruction 255: at most 255 tokens may wait for store"):
        cycles(*[sync] * (CORE.token_limit + 1))


def test_programs_that_the_core_cannot_run():
    with pytest.raises(IsaError, match="instruction 1: load words: must be at most 2048"):
        cycles(load(1), load(2049))
    with pytest.raises(IsaError, match="must end with its only halt, got halts at \\[0, 1\\]"):
        cycles(HALT)
    with pytest.raises(IsaError, match="program address: must be a multiple of 4096"):
        program_cycles(CORE, [HALT], MemoryTiming(), address=64)
    with pytest.raises(SpecError, match=r"refresh_cycles: must be in 0..9, got 10"):
        MemoryTiming(refresh_interval_cycles=10, refresh_cycles=10)
