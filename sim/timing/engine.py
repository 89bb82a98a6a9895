"""How many cycles: a closed form, and a fold over every step, each equal to the RTL.

Cycle 0 is the first in which any stream may transfer; a run's cycles go up to and include the
transfer of its last result.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.engine import Engine
from evolute.sim.timing.schedule import Run
from evolute.sim.timing.schedule import steps as steps_of


def run_cycles(spec: Engine, runs: Sequence[Run]) -> int:
    """Cycles of commands issued back to back while no stream ever waits for its partner.

    One step a cycle, after the first table is built and before the last sum can be read; a group
    after the first waits until as many cycles after the one before as a result needs. A cycle
    goes by between a fill and what follows it, and before a multiplication whose operands are made
    of what a fill keeps; fills themselves wait for no operands. `runs` end with a multiplication.
    Only engines with a period of 1 have steps that depend on weights, so that no group waits.
    """
    steps = sum(_cycles_apart(spec, run) for run in runs)
    if spec.keeps_results:
        steps -= _above_0(spec.result_period_cycles - _first_group(runs[0]))
    waits = sum(
        before.fill or (spec.operands_are_filled and not run.fill)
        for before, run in itertools.pairwise(runs)
    )
    first = spec.weight_latency_cycles if runs[0].fill else spec.operand_latency_cycles
    return first + steps + waits + spec.step_latency_cycles


def _above_0(number: int) -> int:
    """The number if it is above 0, else 0; of an array, element by element (`sim.cost.columns`)."""
    return number * (number > 0)


def _first_group(run: Run) -> int:
    """Steps of a run's first group."""
    slices = run.group_slices - _above_0(run.group_slices - run.slices)
    return slices * run.planes * run.beat_steps


def _cycles_apart(spec: Engine, run: Run) -> int:
    """Cycles of a run's steps, every group of them taking as many as a result needs at least."""
    if not spec.keeps_results:
        return run.steps
    assert not run.steps_of_beats
    period = spec.result_period_cycles
    full, rest = divmod(run.slices, run.group_slices)
    waits = full * _above_0(period - _first_group(run))
    waits += (rest > 0) * _above_0(period - rest * run.planes * run.beat_steps)
    return run.steps + run.tiles * waits


@dataclass(frozen=True)
class Transfers:
    """The cycle of every transfer on every stream; `cycles` ends with the last result's."""

    command: np.ndarray
    activation: np.ndarray
    weight: np.ndarray
    result: np.ndarray

    @property
    def cycles(self) -> int:
        return int(self.result[-1]) + 1


class Free:
    """The first cycle at or after a given one in which a stream's partner does not pause."""

    def __init__(self, pause: np.ndarray | None):
        pause = np.zeros(0, bool) if pause is None else np.asarray(pause, bool)
        candidates = np.where(pause, len(pause), np.arange(len(pause)))
        self._next = np.minimum.accumulate(candidates[::-1])[::-1].tolist()

    def __call__(self, cycle: int) -> int:
        return self._next[cycle] if cycle < len(self._next) else cycle


class _Source:
    """A stream into the engine: the cycles of its transfers so far."""

    def __init__(self, pause: np.ndarray | None):
        self.cycles: list[int] = []
        self._free = Free(pause)

    def transfer(self, ready: int) -> int:
        """The cycle of the next transfer: when the beat is offered, which is after the one before
        it has gone, and not before the cycle in which the engine is `ready` for it."""
        offered = self._free(self.cycles[-1] + 1 if self.cycles else 0)
        self.cycles.append(max(offered, ready))
        return self.cycles[-1]


def _entered(activation: _Source, leaves: Sequence[int]) -> list[int]:
    """The cycles in which a slice's operands enter each of their registers, one after another.

    They enter the first from the stream. A register can be entered in the cycle in which what it
    holds, of the slice before, `leaves` it.
    """
    entered = [activation.transfer(leaves[0])]
    for leave in leaves[1:]:
        entered.append(max(entered[-1] + 1, leave))
    return entered


def fold(
    spec: Engine, runs: Sequence[Run], pauses: Mapping[str, np.ndarray] | None = None
) -> Transfers:
    """Replay commands step by step against partners that pause.

    `pauses` maps a stream's name to booleans per cycle; past their end nothing pauses. In a cycle
    in which it pauses, a source does not newly offer a beat (one on offer stays), and the sink of
    `result` is not ready. Holding registers are refilled in the cycle they empty, as in the RTL.
    """
    pauses = pauses or {}
    command, activation, weight = (
        _Source(pauses.get(name)) for name in ("command", "activation", "weight")
    )
    result_free = Free(pauses.get("result"))
    results: list[int] = []
    step = release = beat_end = -1  # cycles of the last step, of the last one of a slice, of a beat
    operands = [-1] * spec.operand_latency_cycles  # when they entered each of their registers
    beat = -1  # cycle of the last weight beat's transfer
    moved = -1  # cycle in which the last step's sums left for the accumulators
    read = -1  # cycle of the last result's transfer
    for run in runs:
        begun = command.transfer(step)
        schedule = steps_of(run)
        last_slice = -1
        for slice_index, takes_beat, ends_beat, ends_slice, ends_group in zip(
            schedule.slice_index.tolist(),
            schedule.takes_beat.tolist(),
            schedule.ends_beat.tolist(),
            schedule.ends_slice.tolist(),
            schedule.ends_group.tolist(),
            strict=True,
        ):
            if takes_beat:
                beat = weight.transfer(beat_end)
            if run.fill:
                step = beat_end = max(beat + spec.weight_latency_cycles, begun + 1, step + 1)
                continue
            if slice_index != last_slice:
                last_slice = slice_index
                # Operands that are made of what a fill keeps wait for the command.
                free = max(release, begun + 1) if spec.operands_are_filled else release
                operands = _entered(activation, [*operands[1:], free])
            # Accumulators that are the result take no step before it has left.
            free = (read if ends_group else -1) if spec.keeps_results else moved
            arrived = max(beat + spec.weight_latency_cycles, operands[-1] + 1, begun + 1)
            step = max(arrived, step + 1, free)
            if ends_beat:
                beat_end = step
            if ends_slice:
                release = step
            moved = max(step + spec.step_latency_cycles - 1, read)
            if ends_group:
                read = result_free(moved + 1)
                results.append(read)
        if run.fill:
            beat_end = step + 1  # the next beat is looked up when all is written
    cycles = (command.cycles, activation.cycles, weight.cycles, results)
    return Transfers(*(np.array(stream) for stream in cycles))
