"""When each unit of a core is busy during a program: the spans of `Machine`'s own events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.hw.isa.instructions import Instruction, Unit
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.compute_unit import BeatSteps
from evolute.sim.timing.core import Job, Machine, ProgramCycles
from evolute.sim.timing.memory import MemoryTiming


@dataclass(frozen=True, slots=True)
class UnitSpan:
    """An instruction in its unit, from the first cycle after it left its queue to the first cycle
    after its last.

    A load ends with its last burst's address, when the next can start; its data come later. A
    matmul and a fill take the compute unit's cycles, a store until its last word is answered, and
    a sync until the host has resumed.
    """

    index: int
    unit: Unit
    first: int
    end: int


class Tracer(Machine):
    """`Machine`, which also keeps the span of every instruction."""

    def __init__(
        self,
        core: CoreSpec,
        program: Sequence[Instruction],
        timing: MemoryTiming,
        beat_steps: BeatSteps | None,
    ):
        super().__init__(core, program, timing, beat_steps)
        self.unit_spans: list[UnitSpan] = []
        self._left: dict[int, int] = {}

    def trace(self) -> tuple[ProgramCycles, list[UnitSpan]]:
        """From start to halt: the counters, and all spans in the order they end."""
        return self.run(), self.unit_spans

    def _start(self, cycle: int, unit: int) -> None:
        self._left[self.queues[unit][0].index] = cycle
        super()._start(cycle, unit)

    def _read_data(self, cycle: int, load: Job) -> None:
        super()._read_data(cycle, load)
        if self.load is None:
            self._end(load, cycle + 1)

    def _at(self, cycle: int, action: Callable[[Any], None], argument: Any) -> None:
        super()._at(cycle, action, argument)
        if action == self._finish:
            self._end(argument, cycle)

    def _end(self, job: Job, end: int) -> None:
        assert job.unit is not None
        self.unit_spans.append(UnitSpan(job.index, job.unit, self._left.pop(job.index) + 1, end))
