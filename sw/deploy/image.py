"""A model on a core as memory holds it: weights, and the programs for a prompt and for each token.

Between two stages of a program, and between programs, the host has its part: norms, attention and
whatever layers stay with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evolute.sim.program.build import Program, compile_stages
from evolute.sim.program.placement import Stage
from evolute.sim.timing.core import ProgramCycles, program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sw.deploy.on_core import CoreModel
from evolute.sw.deploy.pack import Bytes, images


@dataclass(frozen=True)
class PhaseProgram:
    """A program: a block for the prompt, the head for its last token, or all for a further one."""

    name: str
    rows: int
    program: Program
    model: ProgramCycles


def phases(
    held: CoreModel, rows: int, timing: MemoryTiming
) -> tuple[list[PhaseProgram], PhaseProgram]:
    """The programs for a prompt of `rows` tokens, and the one for every token after it.

    Raises `PlaceError`.
    """
    core, place = held.core, held.end
    *blocks, head = held.blocks

    def phase(name: str, stages: Sequence[Stage], count: int) -> PhaseProgram:
        nonlocal place
        program = compile_stages(core, stages, count, place)
        place = program.end
        steps = program.beat_steps(held.beat_steps)
        model = program_cycles(core, program.instructions, timing, program.address, steps)
        return PhaseProgram(name, count, program, model)

    decode = phase("decode", held.stages, 1)
    prompt = [*(("prefill", block, rows) for block in blocks), ("head", head, 1)]
    return [phase(name, stages, count) for name, stages, count in prompt if stages], decode


def contents(held: CoreModel, programs: Iterable[PhaseProgram]) -> Iterator[tuple[int, Bytes]]:
    """All that must lie in memory before the first start: addresses, and the bytes there."""
    for stage in held.stages:
        yield from images(held.core, stage, held.tensors)
    for phase in programs:
        yield phase.program.address, np.frombuffer(phase.program.code, np.uint8)
