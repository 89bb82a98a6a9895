"""Which step when: the loops that every engine runs, without data.

Loop order, outermost first: tile, scale group, K-slice, weight beat, step of the beat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evolute.hw.spec.engine import Engine
from evolute.sim.workload.linear import Linear


@dataclass(frozen=True)
class Run:
    """One command: `tiles` output tiles, each of `slices` K-slices of `planes` weight beats, each
    of which is used for `beat_steps` steps.

    Every `group_slices` slices of a tile end a group, and so does the tile. A `fill` takes no
    activations and gives no results. Where steps depend on weights, `steps_of_beats` are those of
    every beat, tile by tile; else it is empty.
    """

    tiles: int
    slices: int
    group_slices: int
    planes: int
    mode: int = 0
    beat_steps: int = 1
    fill: bool = False
    steps_of_beats: tuple[int, ...] = ()

    @property
    def beats(self) -> int:
        """Weight beats."""
        return self.tiles * self.slices * self.planes

    @property
    def steps(self) -> int:
        return sum(self.steps_of_beats) if self.steps_of_beats else self.beats * self.beat_steps

    @property
    def results(self) -> int:
        """Result beats: one per group of every tile."""
        if self.fill:
            return 0
        return self.tiles * -(-self.slices // self.group_slices)


def plan(spec: Engine, linear: Linear, rows: int) -> Run:
    """The command that multiplies `rows` rows of activations by a linear layer's weights.

    Each scale group is padded to whole K-slices. A scale group longer than the engine's own is
    read out in equal parts, whose sums add up to the group's. Where steps depend on weights, which
    a layer does not hold, all beats take the most there are; see `weighed`. Raises `SpecError`
    where the engine does not run the layer's weights.
    """
    slice_k = spec.slice_k
    full, rest = divmod(linear.k, linear.group)
    coding = spec.coding_of(linear.format)
    return Run(
        tiles=-(-rows // spec.m) * -(-linear.n // spec.n),
        slices=full * -(-linear.group // slice_k) + -(-rest // slice_k),
        group_slices=spec.read_out_slices(linear.group),
        planes=coding.planes,
        mode=coding.mode,
        beat_steps=spec.beat_steps(coding.mode),
    )


def weighed(run: Run, steps_of_beats: np.ndarray) -> Run:
    """The run with its weights' own steps, those of the beats of all column tiles, in order, which
    every tile of rows repeats."""
    repeats, rest = divmod(run.beats, steps_of_beats.size)
    assert not rest
    return replace(run, steps_of_beats=tuple(np.tile(steps_of_beats.ravel(), repeats).tolist()))


def fills(spec: Engine) -> list[Run]:
    """The commands that fill the engine's own memories."""
    return [
        Run(1, filling.slices, group_slices=1, planes=filling.planes, mode=filling.mode, fill=True)
        for filling in spec.fills
    ]


@dataclass(frozen=True)
class Steps:
    """Every step of a run in order: its K-slice, whether it takes a weight beat, and whether it
    ends that beat's use, the slice, or a group."""

    slice_index: np.ndarray
    takes_beat: np.ndarray
    ends_beat: np.ndarray
    ends_slice: np.ndarray
    ends_group: np.ndarray


def steps(run: Run) -> Steps:
    """The run's steps, one by one; arrays of `run.steps` elements."""
    of_each = np.array(run.steps_of_beats) if run.steps_of_beats else run.beat_steps
    beat = np.repeat(np.arange(run.beats), of_each)
    ends_beat = np.diff(beat, append=-1) != 0
    slice_index = beat // run.planes
    in_tile = slice_index % run.slices
    ends_slice = ends_beat & (beat % run.planes == run.planes - 1)
    group_full = (in_tile % run.group_slices == run.group_slices - 1) | (in_tile == run.slices - 1)
    return Steps(
        slice_index=slice_index,
        takes_beat=np.diff(beat, prepend=-1) != 0,
        ends_beat=ends_beat,
        ends_slice=ends_slice,
        ends_group=ends_slice & group_full,
    )
