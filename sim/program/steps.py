"""Steps of a core's program before their order and tokens are known, in columns.

The steps of one column tile are a `Pattern`, which all tiles of a layer in a block share but for
their place in memory. Matmuls, and fills among them, are called computes and numbered in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa.instructions import BUFFERS, OPERATIONS
from evolute.hw.spec.core import CoreSpec
from evolute.sim.program.placement import Layer
from evolute.sim.workload.linear import LayerName

WEIGHT, ACTIVATION, SCALE = range(len(BUFFERS))

LOAD = ("buffer", "data", "offset", "words", "memory", "needed")
"""Columns of a load: the buffer; to which of the tile's data there it belongs; its first bus word
in these; bus words; the byte address in memory, counted from the tile's weights or the block's
activations; and the first compute that needs it, in the tile."""

COMPUTE = (
    "is_fill", "weight_data", "weight_offset", "activation_data", "activation_offset",
    "scale_data", "scale_offset", "run", "slices", "row_tiles", "group_slices", "planes", "mode",
    "accumulate", "offset_shift", "first_beat",
)  # fmt: skip
"""Columns of a compute: data and offsets as of a load, -1 for the last data of the tiles before;
the run of row tiles in the tile that its sums belong to; fields of the instruction; and the first
weight beat in the column tile."""

DATA = ("words", "first", "last")
"""Columns of bus words that some computes need together in a buffer: how many, the first of these
computes in the tile, and the last; `UNTIL_NEXT` for the last before the next such data."""

UNTIL_NEXT = -1

_MOST_WORDS = OPERATIONS["load"]["words"].maximum
"""Bus words that a load can have."""


@dataclass(frozen=True)
class TilePart:
    """Weight beats of one column tile that a matmul takes."""

    layer: LayerName
    tile: int
    beats: slice


@dataclass(frozen=True)
class Pattern:
    """The steps of one column tile, a row for each: loads, computes, data of every buffer, and the
    row tiles of every run. The columns are `LOAD`, `COMPUTE` and `DATA`; int64 [columns, rows]."""

    loads: NDArray[np.int64]
    computes: NDArray[np.int64]
    data: tuple[NDArray[np.int64], ...]
    runs: NDArray[np.int64]


class PatternWriter:
    """Writes the steps of a column tile of `layer` in the order they are needed."""

    def __init__(self, core: CoreSpec, layer: Layer, parts: Sequence[int]):
        self.core, self.layer, self.parts = core, layer, parts
        self._loads: list[tuple[int, ...]] = []
        self._computes: list[tuple[int, ...]] = []
        self._data: list[list[list[int]]] = [[] for _ in BUFFERS]
        self._runs: list[int] = []

    def fill(self) -> None:
        """Bring what the layer needs in the engine's own memories, which lies before its tiles."""
        core, memory = self.core, -self.layer.fill_words * self.core.bus_bytes
        for fill in core.engine.fills:
            words = core.buffers[WEIGHT].words(fill.slices * fill.planes)
            ((data, offset),) = self._places(WEIGHT, [words], together=False)
            self._load(WEIGHT, data, offset, words, memory)
            values = {"weight_data": data, "weight_offset": offset, "slices": fill.slices}
            self._compute(is_fill=1, planes=fill.planes, mode=fill.mode, **values)
            memory += words * core.bus_bytes

    def tile(
        self,
        words: Sequence[int],
        runs: Sequence[int],
        stretches: Sequence[range],
        taken: Collection[int],
        fresh: bool,
        stays: bool,
    ) -> None:
        """All runs of row tiles by a column tile, which has the parts of K in `stretches`.

        `words` are the bus words of the block's activations, a number for each part of K. The
        activations are loaded if `fresh`, and for this tile alone unless they stay (`stays`); then
        those of all parts that are `taken`.
        """
        core, layer = self.core, self.layer
        row_tiles, bus_bytes = sum(runs), core.bus_bytes
        kept = [part for stretch in stretches for part in stretch]
        starts = list(itertools.accumulate(words, initial=0))
        if not fresh:
            inputs = {part: (-1, starts[part]) for part in kept}
        elif stays:
            (whole,) = self._places(ACTIVATION, [starts[-1]], together=True)
            inputs = {part: (whole[0], starts[part]) for part in taken}
        else:
            places = self._places(ACTIVATION, [words[part] for part in kept], together=False)
            inputs = dict(zip(kept, places, strict=True))
        sizes = [
            [(layer.weight_words[part], layer.scale_words[part]) for part in stretch]
            for stretch in stretches
        ]
        weights, scales = (
            self._places(
                buffer,
                [sum(size[place] for size in stretch) for stretch in sizes],
                together=len(runs) > 1,
            )
            for place, buffer in enumerate((WEIGHT, SCALE))
        )
        beats = [0, *itertools.accumulate(slices * layer.planes for slices in self.parts)]
        joined = stays and row_tiles == 1  # then slices of parts that lie together do so everywhere
        row = 0
        for number, run in enumerate(runs):
            tile_memory, to_load = 0, sorted(inputs) if fresh else []
            for i, stretch in enumerate(stretches):
                own_words = [sum(column) for column in zip(*sizes[i], strict=True)]
                weight_offset, scale_offset = weights[i][1], scales[i][1]
                for piece in [stretch] if joined else [range(p, p + 1) for p in stretch]:
                    while to_load and (to_load[0] <= piece[-1] or piece[-1] == kept[-1]):
                        part = to_load.pop(0)
                        data, offset = inputs[part]
                        start, end = (words[part] * at // row_tiles for at in (row, row + run))
                        memory = (starts[part] + start) * bus_bytes
                        self._load(ACTIVATION, data, offset + start, end - start, memory)
                    if row == 0 and piece[0] == stretch[0]:
                        for buffer, place, size in (
                            (WEIGHT, weights[i], own_words[0]),
                            (SCALE, scales[i], own_words[1]),
                        ):
                            self._load(buffer, *place, size, tile_memory)
                            tile_memory += size * bus_bytes
                    first = piece[0]
                    self._compute(
                        weight_data=weights[i][0],
                        weight_offset=weight_offset,
                        activation_data=inputs[first][0],
                        activation_offset=inputs[first][1] + words[first] * row // row_tiles,
                        scale_data=scales[i][0],
                        scale_offset=scale_offset,
                        run=number,
                        slices=sum(self.parts[part] for part in piece),
                        row_tiles=run,
                        group_slices=layer.group_slices,
                        planes=layer.planes,
                        mode=layer.mode,
                        accumulate=first != kept[0],
                        offset_shift=layer.offset_shift,
                        first_beat=beats[first],
                    )
                    weight_offset += sum(layer.weight_words[part] for part in piece)
                    scale_offset += sum(layer.scale_words[part] for part in piece)
            row += run
        self._runs += runs
        if fresh and stays:
            self._data[ACTIVATION][-1][2] = UNTIL_NEXT

    def pattern(self) -> Pattern:
        """What was written."""
        loads, computes, *data, runs = (
            np.array(rows, np.int64).reshape(len(rows), columns).T
            for rows, columns in (
                (self._loads, len(LOAD)),
                (self._computes, len(COMPUTE)),
                *((rows, len(DATA)) for rows in self._data),
                (self._runs, 1),
            )
        )
        return Pattern(loads, computes, tuple(data), runs[0])

    def _places(
        self, buffer: int, words: Sequence[int], *, together: bool
    ) -> list[tuple[int, int]]:
        """Returns for each number in `words` the number of the piece of data that has room for this
        many bus words, and the first of these words in the piece. Places that are needed `together`
        are in one piece."""
        first = len(self._data[buffer])
        self._data[buffer] += [[count, -1, -1] for count in ([sum(words)] if together else words)]
        if not together:
            return [(first + place, 0) for place in range(len(words))]
        return [(first, start) for start in itertools.accumulate(words[:-1], initial=0)]

    def _load(self, buffer: int, data: int, offset: int, words: int, memory: int) -> None:
        """Load `words` bus words for the next compute."""
        needed = len(self._computes)
        if self._data[buffer][data][1] < 0:
            self._data[buffer][data][1] = needed
        for start in range(0, words, _MOST_WORDS):
            count = min(words - start, _MOST_WORDS)
            place = memory + start * self.core.bus_bytes
            self._loads.append((buffer, data, offset + start, count, place, needed))

    def _compute(self, **values: int) -> None:
        number = len(self._computes)
        self._computes.append(tuple(values.get(name, 0) for name in COMPUTE))
        for buffer, name in enumerate(BUFFERS):
            data = values.get(f"{name}_data", -1)
            if data >= 0:
                self._data[buffer][data][2] = number
