"""Which step when: the LUT Tensor Core's loops, without data.

Loop order, outermost first: tile, scale group, K-slice, bit-plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.spec.engine import Engine
from sim.workload import Linear


@dataclass(frozen=True)
class Run:
    """One command: `tiles` output tiles, each of `slices` K-slices of `planes` steps.

    Every `group_slices` slices of a tile end a group, and so does the tile.
    """

    tiles: int
    slices: int
    group_slices: int
    planes: int

    @property
    def steps(self) -> int:
        return self.tiles * self.slices * self.planes

    @property
    def results(self) -> int:
        """Result beats: one per group of every tile."""
        return self.tiles * -(-self.slices // self.group_slices)


def plan(spec: Engine, linear: Linear, rows: int) -> Run:
    """The command that multiplies `rows` rows of activations by a linear layer's weights.

    Each scale group is padded to whole K-slices. A scale group longer than the engine's own is
    read out in equal parts, whose sums add up to the group's.
    """
    per_group = -(-linear.group // spec.slice_k)
    parts = next(
        size for size in range(min(per_group, spec.group_slices), 0, -1) if per_group % size == 0
    )
    full, rest = divmod(linear.k, linear.group)
    return Run(
        tiles=-(-rows // spec.m) * -(-linear.n // spec.n),
        slices=full * per_group + -(-rest // spec.slice_k),
        group_slices=parts,
        planes=linear.format.planes,
    )


@dataclass(frozen=True)
class Steps:
    """Every step of a run in order: its K-slice, and whether it ends the slice, or a group."""

    slice_index: np.ndarray
    ends_slice: np.ndarray
    ends_group: np.ndarray


def steps(run: Run) -> Steps:
    """The run's steps, one by one; arrays of `run.steps` elements."""
    index = np.arange(run.steps)
    slice_index = index // run.planes
    in_tile = slice_index % run.slices
    ends_slice = index % run.planes == run.planes - 1
    group_full = (in_tile % run.group_slices == run.group_slices - 1) | (in_tile == run.slices - 1)
    return Steps(slice_index, ends_slice, ends_slice & group_full)
