"""The contents of a core's memory for a model: weights, and programs for a prompt and for each
further token.

Between two stages of a program, and between programs, the host computes its part: norms, attention
and the layers that are not on the core.
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
    """A program and its cycles: one block for the prompt, the head for its last token, or the whole
    model for a further token."""

    name: str
    rows: int
    program: Program
    model: ProgramCycles


def phases(
    placed: CoreModel, rows: int, timing: MemoryTiming
) -> tuple[list[PhaseProgram], PhaseProgram]:
    """The programs for a prompt of `rows` tokens, and the program for each token after it. Raises
    `PlaceError`."""
    core, place = placed.core, placed.end
    *blocks, head = placed.blocks

    def phase(name: str, stages: Sequence[Stage], count: int) -> PhaseProgram:
        nonlocal place
        program = compile_stages(core, stages, count, place)
        place = program.end
        steps = program.beat_steps(placed.beat_steps)
        model = program_cycles(core, program.instructions, timing, program.address, steps)
        return PhaseProgram(name, count, program, model)

    decode = phase("decode", placed.stages, 1)
    prompt = [*(("prefill", block, rows) for block in blocks), ("head", head, 1)]
    return [phase(name, stages, count) for name, stages, count in prompt if stages], decode


def contents(placed: CoreModel, programs: Iterable[PhaseProgram]) -> Iterator[tuple[int, Bytes]]:
    """Everything that must be in memory before the first start, as (address, bytes)."""
    for stage in placed.stages:
        yield from images(placed.core, stage, placed.tensors)
    for phase in programs:
        yield phase.program.address, np.frombuffer(phase.program.code, np.uint8)
