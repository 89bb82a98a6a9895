"""How many cycles: a closed form, and a fold over every step, each equal to the RTL.

Cycle 0 is the first in which any stream may transfer; a run's cycles go up to and include the
transfer of its last result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hw.spec.engine import Engine
from sim.schedule import SCHEDULE
from sim.schedule.lut_tensor_core import Run


def run_cycles(spec: Engine, runs: Sequence[Run]) -> int:
    """Cycles of commands issued back to back while no stream ever waits for its partner.

    One step a cycle, after the first table is built and before the last sum can be read.
    """
    steps = sum(run.steps for run in runs)
    return spec.operand_latency_cycles + steps + spec.step_latency_cycles


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


class _Free:
    """The first cycle at or after a given one in which a stream's partner does not pause."""

    def __init__(self, pause: np.ndarray | None):
        pause = np.zeros(0, bool) if pause is None else np.asarray(pause, bool)
        candidates = np.where(pause, len(pause), np.arange(len(pause)))
        self._next = np.minimum.accumulate(candidates[::-1])[::-1].tolist()

    def __call__(self, cycle: int) -> int:
        return self._next[cycle] if cycle < len(self._next) else cycle


def fold(
    spec: Engine, runs: Sequence[Run], pauses: Mapping[str, np.ndarray] | None = None
) -> Transfers:
    """Replay commands step by step against partners that pause.

    `pauses` maps a stream's name to booleans per cycle; past their end nothing pauses. In a cycle
    in which it pauses, a source does not newly offer a beat (one on offer stays), and the sink of
    `result` is not ready. Holding registers are refilled in the cycle they empty, as in the RTL.
    """
    pauses = pauses or {}
    command_free, activation_free, weight_free, result_free = (
        _Free(pauses.get(name)) for name in ("command", "activation", "weight", "result")
    )
    build = spec.operand_latency_cycles - 1  # after the cycle in which activations are held
    commands: list[int] = []
    activations: list[int] = []
    weights: list[int] = []
    results: list[int] = []
    step = release = table = -1  # cycles of the last step, its table's release, the last build
    moved = -1  # cycle in which the last step's sums left for the accumulators
    read = -1  # cycle of the last result's transfer
    for run in runs:
        offer = command_free(commands[-1] + 1 if commands else 0)
        commands.append(max(offer, step))
        schedule = SCHEDULE[type(spec)].steps(run)
        last_slice = -1
        for slice_index, ends_slice, ends_group in zip(
            schedule.slice_index.tolist(),
            schedule.ends_slice.tolist(),
            schedule.ends_group.tolist(),
            strict=True,
        ):
            if slice_index != last_slice:
                last_slice = slice_index
                offer = activation_free(activations[-1] + 1 if activations else 0)
                activations.append(max(offer, table))
                table = max(activations[-1] + build, release)
            offer = weight_free(weights[-1] + 1 if weights else 0)
            weights.append(max(offer, step))
            step = max(weights[-1] + 1, table + 1, commands[-1] + 1, step + 1, moved)
            if ends_slice:
                release = step
            moved = max(step + spec.step_latency_cycles - 1, read)
            if ends_group:
                read = result_free(moved + 1)
                results.append(read)
    return Transfers(*(np.array(each) for each in (commands, activations, weights, results)))
