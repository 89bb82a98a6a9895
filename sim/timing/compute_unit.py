"""How many cycles the compute unit takes for a matrix multiplication or a fill: the engine's steps,
and the waits between results, which are scaled one after another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa.instructions import OPERATIONS, Instruction
from evolute.hw.isa.table import InstructionTable
from evolute.hw.spec.core import CoreSpec


@dataclass(frozen=True)
class ComputeCycles:
    """The engine's steps and the compute unit's cycles of a matrix multiplication or a fill; and of
    these cycles those between results of which the later waited for the scaler, as it was still
    busy with the one before."""

    steps: int
    cycles: int
    scaling: int = 0


@dataclass(frozen=True, eq=False)
class Computes:
    """The same of all of a program's matrix multiplications and fills, in their order, int64
    [computes] each."""

    steps: NDArray[np.int64]
    cycles: NDArray[np.int64]
    scaling: NDArray[np.int64]

    @classmethod
    def of(cls, computes: Sequence[ComputeCycles]) -> Self:
        rows = np.array(
            [(compute.steps, compute.cycles, compute.scaling) for compute in computes], np.int64
        ).reshape(-1, 3)
        return cls(*rows.T)

    @property
    def total_steps(self) -> int:
        return int(self.steps.sum())

    @property
    def total_cycles(self) -> int:
        return int(self.cycles.sum())

    @property
    def total_scaling(self) -> int:
        return int(self.scaling.sum())


BeatSteps = Mapping[int, NDArray[np.integer]]
"""Of engines whose steps depend on weights: the steps of every weight beat of a row tile, int
[beats], for each matrix multiplication by its index in the program."""


def computes_of(
    core: CoreSpec, program: InstructionTable, beat_steps: BeatSteps | None
) -> Computes:
    """Steps and cycles of all matrix multiplications and fills of a program."""
    if beat_steps is None:
        cycles, which = _of_distinct_matmuls(core, program)
    else:
        cycles, which = _of_weighed_matmuls(core, program, beat_steps)
    fills = range(len(program.column("fill", "slices")))
    computes = Computes.of([*cycles, *(fill_cycles(core, program.nth("fill", i)) for i in fills)])
    if fills:
        which = np.concatenate([which, len(cycles) + np.arange(len(fills))])
        index = np.concatenate([program.at("matmul"), program.at("fill")])
        which = which[np.argsort(index)]
    return Computes(computes.steps[which], computes.cycles[which], computes.scaling[which])


_SHAPE = ("slices", "row_tiles", "group_slices", "planes", "mode")
"""The fields of a matrix multiplication that its time depends on; 43 bits in all."""


def _of_distinct_matmuls(
    core: CoreSpec, program: InstructionTable
) -> tuple[list[ComputeCycles], NDArray[np.intp]]:
    """The cycles of all different matrix multiplications, and which of them each one is."""
    key = np.zeros(len(program.column("matmul", "slices")), np.int64)
    for name in _SHAPE:
        key = key * (OPERATIONS["matmul"][name].maximum + 1) + program.column("matmul", name)
    distinct = np.unique(key)
    which = np.searchsorted(distinct, key)
    one = np.empty(len(distinct), np.intp)
    one[which] = np.arange(len(which))
    return [matmul_cycles(core, program.nth("matmul", i), None) for i in one.tolist()], which


def _of_weighed_matmuls(
    core: CoreSpec, program: InstructionTable, beat_steps: BeatSteps
) -> tuple[list[ComputeCycles], NDArray[np.intp]]:
    """The same where steps depend on weights: different are those of different steps, too."""
    shapes = zip(*(program.column("matmul", name).tolist() for name in _SHAPE), strict=True)
    numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
    cycles, which = [], []
    for place, (index, shape) in enumerate(zip(program.at("matmul").tolist(), shapes, strict=True)):
        steps = beat_steps[index]
        number = numbers.setdefault((shape, steps.tobytes()), len(cycles))
        if number == len(cycles):
            cycles.append(matmul_cycles(core, program.nth("matmul", place), steps))
        which.append(number)
    return cycles, np.array(which, np.intp)


def matmul_cycles(
    core: CoreSpec, matmul: Instruction, beat_steps: NDArray[np.integer] | None
) -> ComputeCycles:
    """Steps of a matrix multiplication, and cycles from its issue until its last sums are written.

    `beat_steps` are those of a row tile, int [beats], None where steps do not depend on weights.
    """
    engine = core.engine
    fill = core.stream_latency_cycles + engine.operand_latency_cycles
    if beat_steps is None:
        steps, results = _fixed_steps(core, matmul)
    else:
        steps, results = _weighed_steps(core, matmul, beat_steps)
    by_scaler = core.result_period_cycles > engine.result_period_cycles
    return ComputeCycles(
        steps,
        fill + results.cycles + engine.step_latency_cycles - 1 + core.scale_drain_cycles,
        results.waiting if by_scaler else 0,
    )


class _Results(NamedTuple):
    """Cycles of steps and of waits for results to leave; and of them those between a result and a
    later one that waited for it."""

    cycles: int
    waiting: int


def _weighed_steps(
    core: CoreSpec, matmul: Instruction, beat_steps: NDArray[np.integer]
) -> tuple[int, _Results]:
    """Steps of row tiles that each have the same, and cycles of those with the waits between."""
    assert len(beat_steps) == matmul["slices"] * matmul["planes"]
    starts = np.arange(0, len(beat_steps), matmul["group_slices"] * matmul["planes"])
    groups = np.add.reduceat(beat_steps.astype(np.int64), starts)
    steps = matmul["row_tiles"] * int(groups.sum())
    period = core.result_period_cycles
    if groups.min() >= period:
        return steps, _Results(steps, 0)
    all_groups = itertools.chain.from_iterable(
        itertools.repeat(groups.tolist(), matmul["row_tiles"])
    )
    return steps, _waiting(all_groups, core.engine.step_latency_cycles, period)


def _waiting(groups: Iterable[int], drain: int, period: int) -> _Results:
    """Cycles of groups with the numbers of steps in `groups`; results are at least `period` cycles
    apart.

    A result leaves `drain` cycles after the step that ends its group. Until it has left, one step
    more can be taken, whose product waits before the accumulators.
    """
    ended, left, before, waits = 0, -period, -period, 0
    for group in groups:
        first = max(ended + 1, before)
        ended = first if group == 1 else max(first + group - 1, left + group - 2)
        waits += left + period > ended + drain
        before, left = left, max(ended + drain, left + period)
    return _Results(left - drain, waits * period)


def _fixed_steps(core: CoreSpec, matmul: Instruction) -> tuple[int, _Results]:
    """Steps where every weight beat takes as many, and cycles of those with the waits between."""
    engine = core.engine
    slice_steps = matmul["planes"] * engine.beat_steps(matmul["mode"])
    slices, group_slices = matmul["slices"], min(matmul["slices"], matmul["group_slices"])
    full, rest = divmod(slices, group_slices)
    period = core.result_period_cycles
    first, last = group_slices * slice_steps, rest * slice_steps
    if engine.keeps_results:
        groups = (full, first, last)
        results = _overlapped(matmul["row_tiles"], groups, engine.step_latency_cycles, period)
    else:
        row_tile = full * max(first, period) + (rest > 0) * max(last, period)
        waits = full * (first < period) + (0 < last < period)
        # The first result of all waits for no other one.
        results = _Results(
            matmul["row_tiles"] * row_tile - max(first, period) + first,
            (matmul["row_tiles"] * waits - (first < period)) * period,
        )
    return matmul["row_tiles"] * slices * slice_steps, results


@functools.cache
def _overlapped(row_tiles: int, groups: tuple[int, int, int], drain: int, period: int) -> _Results:
    """Cycles of steps and waits where groups add up while the result before them waits.

    `groups` says what each row tile consists of: a number of full groups, the steps of a full
    group, and the steps of a shorter last group (0 for none). The step that ends a group comes
    after the previous result has left. A result leaves at least `drain` cycles after that step,
    and at least `period` cycles after the previous result.
    """
    full, steps, rest = groups
    row_tile = [steps] * full + [rest] * (rest > 0)
    ended, left, waits = 0, -period, 0
    for group in itertools.chain.from_iterable(itertools.repeat(row_tile, row_tiles)):
        ended = max(ended + group, left)
        waits += left + period > ended + drain
        left = max(ended + drain, left + period)
    return _Results(left - drain, waits * period)


def fill_cycles(core: CoreSpec, fill: Instruction) -> ComputeCycles:
    """Cycles from a fill's issue until its last beat is in its place; it takes no steps."""
    beats = fill["slices"] * fill["planes"]
    latency = core.stream_latency_cycles + core.engine.weight_latency_cycles
    return ComputeCycles(0, latency + beats - 1)
