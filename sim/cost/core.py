"""What a model's linear layers cost on a core: its programs, compiled and run on the cycle model.

A prompt takes one program per block and one for the head, which sees the last token alone; every
further token takes a single program. Blocks of equal layers take equal programs, so that a prompt
costs one program per kind of block; where steps depend on weights, each block its own. The host's
own work is not in any of these cycles.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.metrics import LayerMetrics, PhaseMetrics
from evolute.sim.program.build import LayerSteps, Program, compile_stages
from evolute.sim.program.placement import placed, stages_of
from evolute.sim.timing.core import ProgramCycles, program_cycles
from evolute.sim.timing.memory import MemoryTiming, memory_timing
from evolute.sim.timing.schedule import plan
from evolute.sim.workload.linear import Linear, Workload, rows_of
from evolute.sim.workload.operations import Pass

Stages = tuple[tuple[Linear, ...], ...]
"""Layers of a program stage by stage, as `sim.program.placement.stages_of` cuts a block."""


@dataclass(frozen=True)
class PricedProgram:
    """A program, what it takes, and how many such a pass has."""

    stages: Stages
    rows: int
    count: int
    program: Program
    cycles: ProgramCycles


@dataclass(frozen=True)
class PricedPhase:
    """The programs of one pass through the model; decode is `passes` times the same."""

    tokens: int
    passes: int
    programs: tuple[PricedProgram, ...]

    def total(self, name: str) -> int:
        """One of the programs' counters, over the whole phase."""
        counts = (program.count * getattr(program.cycles, name) for program in self.programs)
        return self.passes * sum(counts)

    @property
    def beats(self) -> int:
        """Bus words in both directions, instructions included."""
        return self.total("read_beats") + self.total("write_beats")


def priced_phases(
    core: CoreSpec,
    workload: Workload,
    platform: Platform,
    prefill_tokens: int,
    decode_tokens: int,
    layer_steps: LayerSteps | None = None,
) -> tuple[PricedPhase, PricedPhase]:
    """The programs of a prompt and of decoding for one sequence, see `priced_phase`."""
    asked = core, workload, platform
    return (
        priced_phase(*asked, Pass(prefill_tokens), 1, layer_steps),
        priced_phase(*asked, Pass(1), decode_tokens, layer_steps, in_one=True),
    )


def priced_phase(
    core: CoreSpec,
    workload: Workload,
    platform: Platform,
    work: Pass,
    passes: int,
    layer_steps: LayerSteps | None = None,
    *,
    in_one: bool = False,
) -> PricedPhase:
    """The programs of `passes` equal passes, compiled and run on the cycle model: one for each
    block and one for the head, or where all layers have equally many rows and `in_one` is asked
    for, one for all.

    Raises `PlaceError` where a layer does not fit the core, and `SpecError` for layers counted
    together, of which no program can be made.
    """
    for linear in workload.linears:
        require(
            linear.count == 1, "workload", "of single layers for a core", f"{linear.count} equal"
        )
    timing = memory_timing(platform)
    body, head = _cut(core, workload, numbered=layer_steps is not None)
    if layer_steps is None and not core.engine.steps_are_fixed:
        linears = [linear for block in (*body, head) for layers in block for linear in layers]
        layer_steps = {linear.name: _most_steps(core, linear) for linear in linears}
    rows, last_rows = work.tokens, work.batch * work.head_rows
    parts = (tuple(itertools.chain(*body, head)),) if in_one else (*body, head)
    programs: collections.Counter[tuple[Stages, int]] = collections.Counter()
    for part in parts:
        # Layers of one program have equally many rows: experts need programs of their own.
        for count, stages in itertools.groupby(
            part, key=lambda layers: rows_of(layers[0], rows, last_rows)
        ):
            if count:  # a head that no token of the pass wants has no program
                programs[tuple(stages), count] += 1
    return PricedPhase(
        passes * rows,
        passes,
        tuple(
            _priced(core, stages, rows, count, timing, layer_steps)
            for (stages, rows), count in programs.items()
        ),
    )


def _cut(core: CoreSpec, workload: Workload, *, numbered: bool) -> tuple[list[Stages], Stages]:
    """The stages of every block, and those of the head; without the blocks' numbers in the layers'
    names unless `numbered`."""
    blocks = [stages_of(core, block) for block in workload.blocks]
    if not numbered:
        blocks = [tuple(map(_unnumbered, block)) for block in blocks]
    *body, head = blocks
    return body, head


def _unnumbered(linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
    """Layers without their block's number in their names."""
    return tuple(replace(linear, name=linear.name.kind) for linear in linears)


def _most_steps(core: CoreSpec, linear: Linear) -> np.ndarray:
    """The steps of a layer's weight beats, int [column tiles, beats], if each takes the most."""
    run = plan(core.engine, linear, 1)
    shape = (-(-linear.n // core.engine.n), run.slices * run.planes)
    return np.full(shape, run.beat_steps)


def _priced(
    core: CoreSpec,
    stages: Stages,
    rows: int,
    count: int,
    timing: MemoryTiming,
    layer_steps: LayerSteps | None,
) -> PricedProgram:
    """Compile the layers of `stages` to one program for `rows` rows of activations, run it on the
    cycle model, and count it `count` times."""
    in_memory = placed(core, stages)
    program = compile_stages(core, in_memory, rows, in_memory[-1].end)
    steps = program.beat_steps(layer_steps)
    cycles = program_cycles(core, program.instructions, timing, program.address, steps)
    return PricedProgram(stages, rows, count, program, cycles)


@dataclass(frozen=True)
class _Stage:
    """Layers that share an input, of which a pass has `count`; totals are of all of them.

    `compute_cycles` are those of their matmuls and fills, `scaling_cycles` those of them in which
    results came as fast as they could be scaled, `memory_cycles` those in which the memory
    was busy, with words of the next part too, and `step_macs` their multiply-accumulates, each
    counted as often as the engine has steps for it.
    """

    linears: tuple[Linear, ...]
    rows: int
    count: int = 0
    cycles: int = 0
    bus_words: int = 0
    compute_cycles: int = 0
    scaling_cycles: int = 0
    memory_cycles: float = 0
    step_macs: float = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one."""
        return self.rows * sum(linear.n * linear.k for linear in self.linears)


def _stages(
    core: CoreSpec, programs: Sequence[PricedProgram], layer_steps: LayerSteps | None
) -> list[_Stage]:
    """What the programs of a pass consist of, stages of equal layers together."""
    stages: dict[tuple[Linear, ...], _Stage] = {}
    known: dict[tuple[Linear, ...], tuple[tuple[Linear, ...], float]] = {}
    for priced in programs:
        rows, count, cycles = priced.rows, priced.count, priced.cycles
        first = 0
        parts = zip(cycles.stage_cycles, cycles.stage_memory_cycles, strict=True)
        for linears, (part, busy), work in zip(
            priced.stages, parts, priced.program.work, strict=True
        ):
            last = first + work.computes
            own, first = slice(first, last), last
            computing = int(cycles.computes.cycles[own].sum())
            scaling = int(cycles.computes.scaling[own].sum())
            if linears not in known:
                macs = sum(_step_macs(core, linear, layer_steps) for linear in linears)
                known[linears] = _unnumbered(linears), macs
            kind, step_macs = known[linears]
            before = stages.get(kind, _Stage(kind, rows))
            stages[kind] = replace(
                before,
                count=before.count + count,
                cycles=before.cycles + count * part,
                bus_words=before.bus_words + count * work.bus_words,
                compute_cycles=before.compute_cycles + count * computing,
                scaling_cycles=before.scaling_cycles + count * scaling,
                memory_cycles=before.memory_cycles + count * busy,
                step_macs=before.step_macs + count * rows * step_macs,
            )
    return list(stages.values())


def _step_macs(core: CoreSpec, linear: Linear, layer_steps: LayerSteps | None) -> float:
    """Multiply-accumulates of a layer for one row, each counted as often as there are steps for it;
    where they depend on weights, for all in the mean."""
    steps: float = core.engine.slice_steps(linear.format)
    if layer_steps is not None:
        beats = layer_steps[linear.name]
        steps = beats.mean() * core.engine.coding_of(linear.format).planes
    return linear.n * linear.k * steps


class _Limits(NamedTuple):
    """How long the compute unit computes and its scaler sets the pace of that, the memory moves
    words, and the busier of the two waits; and which of these limits.

    It is the waiting, or latency, where doing away with it would save more than making the busier
    twice as fast could; else what the busier does. Computing is scaling where the scaler, which
    takes one result after another, set the pace in more of its cycles than the engine.
    """

    compute_seconds: float
    scaling_seconds: float
    memory_seconds: float
    waiting_seconds: float
    bound: str


def _limits(
    platform: Platform,
    cycles: float,
    compute_cycles: float,
    scaling_cycles: float,
    memory_cycles: float,
) -> _Limits:
    busy_cycles = max(compute_cycles, memory_cycles)
    waiting_cycles = max(0.0, cycles - busy_cycles)
    computing = "scaling" if scaling_cycles > compute_cycles / 2 else "compute"
    work = computing if compute_cycles >= memory_cycles else "memory"
    frequency = platform.frequency_hz
    return _Limits(
        compute_seconds=compute_cycles / frequency,
        scaling_seconds=scaling_cycles / frequency,
        memory_seconds=memory_cycles / frequency,
        waiting_seconds=waiting_cycles / frequency,
        bound="latency" if waiting_cycles > busy_cycles / 2 else work,
    )


def _layer(core: CoreSpec, platform: Platform, stage: _Stage) -> LayerMetrics:
    first, count = stage.linears[0], stage.count
    totals = stage.cycles, stage.compute_cycles, stage.scaling_cycles, stage.memory_cycles
    limits = _limits(platform, *(total / count for total in totals))
    return LayerMetrics(
        name="+".join(str(linear.name) for linear in stage.linears),
        count=count,
        rows=stage.rows,
        n=sum(linear.n for linear in stage.linears),
        k=first.k,
        weights=", ".join(dict.fromkeys(linear.format.name for linear in stage.linears)),
        group=first.group,
        cycles=round(stage.cycles / count),
        utilization=stage.step_macs / core.engine.macs_per_step / stage.cycles,
        macs=stage.macs,
        dram_bytes=stage.bus_words // count * core.bus_bytes,
        **limits._asdict(),
    )


def core_phase(
    core: CoreSpec,
    workload: Workload,
    platform: Platform,
    work: Pass,
    passes: int,
    layer_steps: LayerSteps | None = None,
    *,
    in_one: bool = False,
) -> PhaseMetrics:
    """See `sim.cost.evaluate.linear_phase`; cycles and traffic are those of `priced_phase`."""
    word_cycles = memory_timing(platform).service(core.bus_bytes).word_cycles
    phase = priced_phase(core, workload, platform, work, passes, layer_steps, in_one=in_one)
    stages = _stages(core, phase.programs, layer_steps)
    cycles, beats = phase.total("cycles"), phase.beats
    seconds = cycles / platform.frequency_hz
    step_macs = passes * sum(stage.step_macs for stage in stages)
    memory_cycles = float(beats * word_cycles)
    scaling_cycles = passes * sum(stage.scaling_cycles for stage in stages)
    computing = phase.total("compute_cycles"), scaling_cycles
    limits = _limits(platform, cycles, *computing, memory_cycles)
    return PhaseMetrics(
        tokens=phase.tokens,
        cycles=cycles,
        seconds=seconds,
        tokens_per_s=phase.tokens / seconds,
        utilization=step_macs / core.engine.macs_per_step / cycles,
        engine_utilization=phase.total("steps") / cycles,
        bus_utilization=beats / cycles,
        dram_bytes=beats * core.bus_bytes,
        macs=passes * sum(stage.count * stage.macs for stage in stages),
        mac_share=workload.mac_share(work.tokens, work.batch * work.head_rows),
        layers=tuple(_layer(core, platform, stage) for stage in stages),
        **limits._asdict(),
    )
