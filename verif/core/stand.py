"""Finds the instruction at which a program comes to a stand, which is the one that the watchdog
must blame.

It runs the cycle model, with a memory that may fall silent, until nothing can move any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from evolute.hw.isa.instructions import Instruction, Unit
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.core import BeatSteps, Machine
from evolute.sim.timing.memory import MemoryTiming

_NEVER = 1 << 62


class _Standing(Machine):
    """The cycle model with a memory that accepts and answers nothing from the cycle `silent_from`
    on."""

    def __init__(
        self,
        core: CoreSpec,
        program: Sequence[Instruction],
        timing: MemoryTiming,
        beat_steps: BeatSteps | None,
        silent_from: int,
    ):
        super().__init__(core, program, timing, beat_steps)
        self.silent_from = silent_from
        self.address_waits = False  # for a memory that accepts it no more
        self.at_work: dict[int, int] = {}  # the instruction that each unit took last

    def stand(self) -> tuple[int, int]:
        """The last cycle in which anything can have moved, and the index of the instruction to
        blame."""
        cycle, events = 0, self.events
        while True:
            while events and events[0][0] <= cycle:
                _, _, action, argument = heapq.heappop(events)
                action(argument)
            assert not self._halts(), "the program ends"
            if self._visit(cycle):
                cycle += 1
            elif events and events[0][0] < _NEVER:
                cycle = events[0][0]
            else:
                return cycle, self._blamed()

    def _blamed(self) -> int:
        """The instruction of a unit at work, else the first one that waits in a queue, else the
        next one."""
        for unit in Unit:
            if self.active[unit]:
                return self.at_work[unit]
        for queue in self.queues:
            if queue:
                return queue[0].index
        return self.next

    def _start(self, cycle: int, unit: int) -> None:
        self.at_work[unit] = self.queues[unit][0].index
        super()._start(cycle, unit)

    def _grant(self):
        return (0, None) if self.address_waits else super()._grant()

    def _read(self, granted: int, words: int) -> int:
        arrival = super()._read(granted, words)
        self.address_waits = granted + 1 >= self.silent_from
        # A word is seen in the cycle after it has crossed the bus.
        return _NEVER if self.address_waits or arrival > self.silent_from else arrival

    def _write(self, burst) -> None:
        accepted, _, complete = burst
        if accepted >= self.silent_from:
            return
        before = self.scheduled
        super()._write(burst)
        # The answer is seen in the cycle after it has crossed the bus.
        if complete is not None:
            remaining = [
                event for event in self.events if event[1] <= before or event[0] <= self.silent_from
            ]
            self.events[:] = remaining
            heapq.heapify(self.events)


def stand(
    core: CoreSpec,
    program: Sequence[Instruction],
    timing: MemoryTiming,
    beat_steps: BeatSteps | None = None,
    silent_from: int = _NEVER,
) -> tuple[int, int]:
    """The last cycle in which anything can have moved, and the index of the instruction to blame.

    The program must never end by itself, or its memory must fall silent from the cycle
    `silent_from` on.
    """
    return _Standing(core, program, timing, beat_steps, silent_from).stand()
