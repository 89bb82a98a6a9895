"""Which step when: the loops that every engine runs, without data.

Loop order, outermost first: tile, scale group, K-slice, weight beat, step of the beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.spec.engine import Engine
from sim.workload import Linear


@dataclass(frozen=True)
class Run:
    """One command: `tiles` output tiles, each of `slices` K-slices of `planes` weight beats, each
    of which is used for `beat_steps` steps.

    Every `group_slices` slices of a tile end a group, and so does the tile. A `fill` takes no
    activations and gives no results.
    """

    tiles: int
    slices: int
    group_slices: int
    planes: int
    mode: int = 0
    beat_steps: int = 1
    fill: bool = False

    @property
    def beats(self) -> int:
        """Weight beats."""
        return self.tiles * self.slices * self.planes

    @property
    def steps(self) -> int:
        return self.beats * self.beat_steps

    @property
    def results(self) -> int:
        """Result beats: one per group of every tile."""
        if self.fill:
            return 0
        return self.tiles * -(-self.slices // self.group_slices)


def read_out_slices(spec: Engine, group: int) -> int:
    """Slices after which sums of scale groups of so many activations are read out: the whole
    group's, or the most that are an equal part of it and fit the engine's group."""
    per_group = -(-group // spec.slice_k)
    most = min(per_group, spec.group_slices)
    return next(size for size in range(most, 0, -1) if per_group % size == 0)


def plan(spec: Engine, linear: Linear, rows: int) -> Run:
    """The command that multiplies `rows` rows of activations by a linear layer's weights.

    Each scale group is padded to whole K-slices. A scale group longer than the engine's own is
    read out in equal parts, whose sums add up to the group's. Raises `SpecError` where the engine
    does not run the layer's weights.
    """
    per_group = -(-linear.group // spec.slice_k)
    full, rest = divmod(linear.k, linear.group)
    coding = spec.coding_of(linear.format)
    return Run(
        tiles=-(-rows // spec.m) * -(-linear.n // spec.n),
        slices=full * per_group + -(-rest // spec.slice_k),
        group_slices=read_out_slices(spec, linear.group),
        planes=coding.planes,
        mode=coding.mode,
        beat_steps=spec.beat_steps(coding.mode),
    )


def fills(spec: Engine) -> list[Run]:
    """The commands that fill the engine's own memories."""
    return [
        Run(1, each.slices, group_slices=1, planes=each.planes, mode=each.mode, fill=True)
        for each in spec.fills
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
    index = np.arange(run.steps)
    slice_steps = run.planes * run.beat_steps
    slice_index = index // slice_steps
    in_tile = slice_index % run.slices
    ends_slice = index % slice_steps == slice_steps - 1
    of_beat = index % run.beat_steps
    group_full = (in_tile % run.group_slices == run.group_slices - 1) | (in_tile == run.slices - 1)
    return Steps(
        slice_index=slice_index,
        takes_beat=of_beat == 0,
        ends_beat=of_beat == run.beat_steps - 1,
        ends_slice=ends_slice,
        ends_group=ends_slice & group_full,
    )
