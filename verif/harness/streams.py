"""Source, sink and monitor of a valid/ready stream, stepped by one loop, one cycle at a time.

A pause pattern is data, a boolean per cycle, so that the cycle model can be given the same one.
Cycle 0 is the first after reset is released; past a pattern's end nothing pauses.

- A source that offers nothing offers its next beat in a cycle in which it does not pause, and keeps
  it there until it is taken; the next may follow one cycle later.
- A sink is ready exactly in the cycles in which it does not pause.

Ports are anything with a `value`, as cocotb's handles have. Writes made after an edge count from
that cycle on, reads made at the next edge still see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Source:
    """Offers `beats` in order on an input stream of the device.

    While it offers nothing, the payload is the complement of the last beat, so that a device that
    takes one without `valid` shows it. Before cycle 0, while reset is on, it offers all ones, which
    the device must not keep.
    """

    def __init__(self, payload: Any, valid: Any, ready: Any, width: int):
        self._payload, self._valid, self._ready = payload, valid, ready
        self._mask = (1 << width) - 1
        self.load((), ())

    def load(self, beats: Sequence[int], pause: Sequence[bool]) -> None:
        """Take new beats to offer, from cycle 0; to be called when reset begins."""
        self._beats, self._pause = beats, pause
        self._offering, self._driven = False, True
        self.transfers: list[int] = []
        self._payload.value = self._mask
        self._valid.value = 1

    def drive(self, cycle: int) -> None:
        """Set the ports for `cycle`."""
        if not self._offering:
            paused = cycle < len(self._pause) and self._pause[cycle]
            if len(self.transfers) < len(self._beats) and not paused:
                self._payload.value = self._beats[len(self.transfers)]
                self._offering = True
            elif self._driven:
                last = self._beats[len(self.transfers) - 1] if self._beats else 0
                self._payload.value = last ^ self._mask
        if self._offering != self._driven:
            self._valid.value = int(self._offering)
            self._driven = self._offering

    def observe(self, cycle: int) -> None:
        """Note, at the edge that ends `cycle`, whether the beat was taken."""
        if self._offering and int(self._ready.value):
            self.transfers.append(cycle)
            self._offering = False


class MemorySource(Source):
    """A source that answers requests in order: each answer is offered no sooner than in a cycle
    that is given."""

    def load(self, beats: Sequence[int], pause: Sequence[bool]) -> None:
        super().load([], pause)
        self._answers: list[tuple[int, Sequence[int]]] = []

    def answer(self, cycle: int, beats: Sequence[int]) -> None:
        """Offer `beats` from `cycle` on, after all that was asked for before."""
        self._answers.append((cycle, beats))

    def drive(self, cycle: int) -> None:
        while self._answers and self._answers[0][0] <= cycle:
            self._beats = [*self._beats, *self._answers.pop(0)[1]]
        super().drive(cycle)


class Monitor:
    """Checks the rule of an output stream: a beat that is offered is neither withdrawn nor changed
    until it is taken."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._waiting: int | None = None

    def observe(self, cycle: int, valid: bool, ready: bool, payload: int) -> None:
        """Check one cycle; `payload` only counts while `valid` is set."""
        if self._waiting is not None:
            if not valid:
                self.violations.append(f"cycle {cycle}: valid fell before the beat was taken")
            elif payload != self._waiting:
                self.violations.append(f"cycle {cycle}: the payload changed before it was taken")
        self._waiting = payload if valid and not ready else None


class Sink:
    """Takes beats from an output stream of the device, under a monitor."""

    def __init__(self, payload: Any, valid: Any, ready: Any):
        self._payload, self._valid, self._ready = payload, valid, ready
        self.ready: bool | None = None
        self.load(())

    def load(self, pause: Sequence[bool]) -> None:
        """Start over from cycle 0 with a new pattern."""
        self._pause = pause
        self.transfers: list[int] = []
        self.beats: list[int] = []
        self.monitor = Monitor()

    def drive(self, cycle: int) -> None:
        """Set the ports for `cycle`."""
        ready = not (cycle < len(self._pause) and self._pause[cycle])
        if ready != self.ready:
            self._ready.value = int(ready)
            self.ready = ready

    def observe(self, cycle: int) -> None:
        """Note, at the edge that ends `cycle`, the beat taken, and check the stream's rules."""
        valid, ready = bool(int(self._valid.value)), bool(self.ready)
        payload = self._payload.value.to_unsigned() if valid else 0
        self.monitor.observe(cycle, valid, ready, payload)
        if valid and ready:
            self.transfers.append(cycle)
            self.beats.append(payload)
