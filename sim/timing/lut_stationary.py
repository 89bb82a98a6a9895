"""Cycles of `hw.spec.lut_stationary`: when every transfer on every stream is, by either clock.

Transfers follow from each other by maxima and sums alone. A cycle ends with the edge at which its
transfers happen; what crosses to the other clock there is seen after the second edge of that clock
that comes later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from evolute.hw.spec.lut_stationary import LutStationary
from evolute.sim.timing.engine import Free

ENCODER_STREAMS = ("centroid", "activation")
"""Streams of the encoder's clock; all others are of the matcher's."""


@dataclass(frozen=True)
class Clocks:
    """Periods of both clocks in one unit. Both have an edge at time 0, where cycle 0 begins."""

    encoder: int = 1
    matcher: int = 1

    def seen(self, cycle: int, of: str, by: str, latency_cycles: int) -> int:
        """The first cycle of the clock `by` that knows what a cycle of the clock `of` brought,
        where crossing between the clocks takes `latency_cycles` cycles."""
        time = (cycle + 1) * getattr(self, of)
        return time // getattr(self, by) + latency_cycles


@dataclass(frozen=True)
class Command:
    """One command. `asked` says of a gather which indices ask for their row, in order; it is empty
    where tables stream."""

    rows: int
    subspaces: int
    tiles: int
    asked: tuple[bool, ...] = ()

    @property
    def steps(self) -> int:
        """Subspaces of all tiles."""
        return self.subspaces * self.tiles


def command_of(spec: LutStationary, shape: tuple[int, int, int], asked: np.ndarray) -> Command:
    """The command of one matrix multiplication.

    `shape` is the number of rows, of subspaces, and of the table's columns, which are whole tiles.
    `asked`, bool [tiles, subspaces, rows], says which indices ask a gather for their row; other
    specs take no notice of it.
    """
    rows, subspaces, columns = shape
    wanted = asked.ravel().tolist() if spec.gathers else ()
    return Command(rows, subspaces, columns // spec.n, tuple(wanted))


@dataclass
class StationaryTransfers:
    """The cycle of every transfer, of the stream's own clock."""

    command: list[int] = field(default_factory=list)
    centroid: list[int] = field(default_factory=list)
    activation: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    request: list[int] = field(default_factory=list)
    result: list[int] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """Cycles of the matcher's clock up to and including the last result."""
        return self.result[-1] + 1


def fold(
    spec: LutStationary,
    commands: Sequence[Command],
    clocks: Clocks = Clocks(),
    pauses: Mapping[str, np.ndarray] | None = None,
    memory_latency_cycles: int = 1,
) -> StationaryTransfers:
    """Replay commands row by row against partners that pause, as `sim.timing.engine.fold` does.

    A gather's memory offers the first beat of a row `memory_latency_cycles` after its request, at
    least one.
    """
    replay = _Replay(spec, clocks, pauses or {}, memory_latency_cycles)
    for command in commands:
        replay.run(command)
    return replay.transfers


class _Replay:
    """The transfers so far, and what later ones wait for."""

    def __init__(
        self, spec: LutStationary, clocks: Clocks, pauses: Mapping[str, np.ndarray], latency: int
    ):
        self.spec, self.clocks, self.latency = spec, clocks, latency
        self.free = {
            name: Free(pauses.get(name)) for name in StationaryTransfers.__dataclass_fields__
        }
        self.transfers = StationaryTransfers()
        self.encodes = 0
        """The first cycle in which the encoder can take a row or a centroid."""
        self.removed: list[int] = []
        """When each index left the queue between the clocks."""
        self.taken: list[int] = []
        """When each index was used to look up or to ask, from the queue or as one that was kept."""
        self.entered: list[int] = [-1]
        """When each row's table row went to the sums; the first one stands for reset."""
        self.leaves = -1
        """When the last of them left for its sum."""
        self.bank_free = [0, 0]
        self.step = 0

    def take(self, stream: str, ready: int, offered: int = 0) -> int:
        """The transfer of a source's next beat, which it has from `offered` on, where the machine
        takes it from `ready` on."""
        before: list[int] = getattr(self.transfers, stream)
        offer = self.free[stream](max(before[-1] + 1 if before else 0, offered))
        before.append(max(offer, ready))
        return before[-1]

    def give(self, stream: str, offered: int) -> int:
        """The transfer to a sink of what the machine offers from `offered` on."""
        before: list[int] = getattr(self.transfers, stream)
        before.append(self.free[stream](offered))
        return before[-1]

    def run(self, command: Command) -> None:
        start = self.take("command", self.entered[-1]) + 1
        asked = iter(command.asked)
        one_row = int(command.rows == 1)
        for turn in range(command.steps):
            kept = self.spec.keeps_indices and turn >= command.subspaces
            for _ in range(0 if kept else self.spec.centroid_beats):
                self.encodes = self.take("centroid", self.encodes) + 1
            filled = 0 if self.spec.gathers else self.fill()
            for row in range(command.rows):
                if kept:
                    # What was kept last is written before the first is looked up.
                    there = self.taken[-1] + (2 if turn == command.subspaces and row == 0 else 1)
                else:
                    there = max(self.encode(), start)
                if self.spec.gathers:
                    enters = self.gather(there, next(asked), one_row)
                else:
                    enters = max(there, filled, self.leaves + one_row)
                    self.taken.append(enters)
                if not kept:
                    self.removed.append(self.taken[-1])
                self.entered.append(enters)
                self.leaves = enters + 1
                if turn % command.subspaces == command.subspaces - 1:
                    before = self.transfers.result[-1] if self.transfers.result else 0
                    self.leaves = max(self.leaves, before)
                    self.give("result", self.leaves + 1)
            self.bank_free[self.step % 2] = self.entered[-1] + 1
            self.step += 1

    def encode(self) -> int:
        """When the matcher has the index of the next row."""
        spec, ready = self.spec, self.encodes
        if len(self.transfers.activation) >= spec.queue:
            room = self.removed[len(self.transfers.activation) - spec.queue]
            ready = max(ready, self.seen(room, "matcher", "encoder"))
        row = self.take("activation", ready)
        self.encodes = row + spec.encoder_period_cycles
        return self.seen(row + spec.encoder_latency_cycles, "encoder", "matcher")

    def seen(self, cycle: int, of: str, by: str) -> int:
        """See `Clocks.seen`."""
        return self.clocks.seen(cycle, of, by, self.spec.crossing_latency_cycles)

    def fill(self) -> int:
        """When the next table is there."""
        for _ in range(self.spec.centroids * self.spec.row_beats):
            self.take("table", self.bank_free[self.step % 2])
        return self.transfers.table[-1] + 1

    def gather(self, there: int, asks: bool, one_row: int) -> int:
        """When the next row's table row goes to the sums: with the last beat that comes, or once
        the row waits in front."""
        spec = self.spec
        leaves = self.leaves
        ready = max(there, self.taken[-1] + 1 if self.taken else 0)
        if spec.dedup and len(self.taken) >= spec.queue:
            ready = max(ready, self.entered[1 + len(self.taken) - spec.queue] + 1)
        self.taken.append(self.give("request", ready) if asks else ready)
        waits = self.taken[-1] + 1
        if not asks:
            return max(waits, leaves + one_row)
        comes = self.taken[-1] + self.latency
        for beat in range(spec.row_beats):
            last = beat == spec.row_beats - 1
            self.take("table", max(waits, leaves + (one_row if last else 0)), comes)
        return self.transfers.table[-1]


@dataclass(frozen=True)
class StepCycles:
    """Cycles of the matcher's clock that each part of the machine needs for one subspace of a
    tile, of whole tables."""

    load: Fraction
    look_up: Fraction
    encode: Fraction

    @property
    def most(self) -> Fraction:
        """What a subspace takes where tables are double, and the queue holds all rows."""
        return max(self.load, self.look_up, self.encode)


def step_cycles(spec: LutStationary, rows: int, clocks: Clocks = Clocks()) -> StepCycles:
    """What a subspace of `rows` rows takes each part, if no stream waits for its partner. One row
    takes two lookups' time, since its sum is read again."""
    encode = spec.centroid_beats + rows * spec.encoder_period_cycles
    return StepCycles(
        load=Fraction(spec.centroids * spec.row_beats),
        look_up=Fraction(max(rows, 2)),
        encode=Fraction(encode * clocks.encoder, clocks.matcher),
    )
