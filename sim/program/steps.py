"""Steps of a core's program before their order and tokens are known, and the room in buffers that
they are given. Matmuls, and fills among them, are numbered in their order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from evolute.hw.isa.instructions import Instruction, Unit, instruction
from evolute.hw.spec.engine import Fill
from evolute.sim.program.placement import Layer
from evolute.sim.workload.linear import LayerName


@dataclass(eq=False)
class Data:
    """Bus words that some matmuls need together in a buffer."""

    buffer: int
    words: int
    first: int = -1
    """The first matmul that needs them."""
    last: int = -1
    address: int = -1
    after: int = -1
    """The last matmul that needs what lay there before."""


@dataclass(frozen=True)
class Place:
    """A place within some data."""

    data: Data
    offset: int

    @property
    def address(self) -> int:
        return self.data.address + self.offset


@dataclass(frozen=True)
class TilePart:
    """Weight beats of one column tile that a matmul takes."""

    layer: LayerName
    tile: int
    beats: slice


@dataclass(eq=False)
class Step:
    """An instruction to be: what it waits for and signals is found last."""

    waits: set[Unit] = field(default_factory=set, init=False)
    signals: set[Unit] = field(default_factory=set, init=False)

    def _make(self, name: str, **values: int) -> Instruction:
        return instruction(name, wait=self.waits, signal=self.signals, **values)


@dataclass(eq=False)
class LoadStep(Step):
    """Fills a place."""

    place: Place
    words: int
    memory: int
    needed: int
    """The first matmul that needs these words."""

    @property
    def after(self) -> int:
        """The last matmul that must come before."""
        return self.place.data.after

    def instruction(self) -> Instruction:
        return self._make(
            "load",
            buffer=self.place.data.buffer,
            address=self.place.address,
            words=self.words,
            memory=self.memory,
        )


@dataclass(eq=False)
class SyncStep(Step):
    """Waits for the host after the matmul `after`.

    `needed` is the first one that takes what the host gives: a fill needs no input, and a sync's
    token would tell it nothing of the loads that are still under way.
    """

    after: int
    needed: int

    def instruction(self) -> Instruction:
        return self._make("sync")


@dataclass(eq=False)
class MatmulStep(Step):
    """Multiplies a run of row tiles by a part of a layer's column tile."""

    layer: Layer
    part: TilePart
    weight: Place
    activation: Place
    scale: Place
    accumulator: int
    slices: int
    row_tiles: int
    accumulate: bool
    filling: int
    """Which filling of a bank its sums belong to."""

    def instruction(self) -> Instruction:
        return self._make(
            "matmul",
            weight=self.weight.address,
            activation=self.activation.address,
            scale=self.scale.address,
            accumulator=self.accumulator,
            slices=self.slices,
            row_tiles=self.row_tiles,
            group_slices=self.layer.group_slices,
            planes=self.layer.planes,
            mode=self.layer.mode,
            accumulate=self.accumulate,
            offset_shift=self.layer.offset_shift,
        )


@dataclass(eq=False)
class FillStep(Step):
    """Fills the engine's own memories with what a layer needs there."""

    fill: Fill
    weight: Place
    filling: int = 0
    """None of a bank's, whatever came before."""

    def instruction(self) -> Instruction:
        return self._make(
            "fill",
            weight=self.weight.address,
            slices=self.fill.slices,
            planes=self.fill.planes,
            mode=self.fill.mode,
        )


@dataclass(eq=False)
class StoreStep(Step):
    """Writes one filling of a bank."""

    accumulator: int
    memory: int
    words: int = 0
    after: int = -1
    """The last matmul of the filling."""

    def instruction(self) -> Instruction:
        return self._make(
            "store", accumulator=self.accumulator, words=self.words, memory=self.memory
        )


class Ring:
    """The room in a buffer, given out and taken back in the same order."""

    def __init__(self, words: int):
        self.words, self.head = words, 0
        self.given: deque[Data] = deque()

    def give(self, data: Data) -> None:
        """Set the address of `data`, and after which matmul the room is free for it."""
        if self.head + data.words > self.words:
            self._take_back(data, self.words)
            self.head = 0
        data.address, self.head = self.head, self.head + data.words
        self._take_back(data, self.head)
        self.given.append(data)
        assert data.after < data.first, "what does not fit must have been refused"

    def _take_back(self, data: Data, end: int) -> None:
        """Free the room from the head to `end`, whose data are always the oldest."""
        start = self.head if data.address < 0 else data.address
        while self.given and start <= self.given[0].address < end:
            data.after = max(data.after, self.given.popleft().last)


def places(buffer: int, words: Sequence[int], together: bool) -> list[Place]:
    """Places of so many words each: in one piece of data if they are needed together."""
    if not together:
        return [Place(Data(buffer, count), 0) for count in words]
    data = Data(buffer, sum(words))
    return [Place(data, start) for start in itertools.accumulate(words[:-1], initial=0)]
