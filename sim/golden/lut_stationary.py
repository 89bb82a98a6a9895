"""Golden model of `hw.spec.lut_stationary`: `numpy.argmin`, sums one after another, row numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.lut_stationary import LutStationary
from evolute.sim.weights import nearest


@dataclass(frozen=True, eq=False)
class CommandProduct:
    """What one command multiplies, cut to subspaces and column tiles.

    `x` int [rows, subspaces, v]; `centroids` int [subspaces, c, v]; `table` int [subspaces, c,
    columns], columns a multiple of the machine's n.
    """

    x: np.ndarray
    centroids: np.ndarray
    table: np.ndarray

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def subspaces(self) -> int:
        return self.x.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, subspaces, columns."""
        return self.rows, self.subspaces, self.table.shape[2]


def product(
    spec: LutStationary, x: np.ndarray, centroids: np.ndarray, table: np.ndarray
) -> CommandProduct:
    """The command for rows [M, K], centroids [subspaces, c, v] and a table [subspaces, c, N].

    K is filled with zeros to whole subspaces, N to whole tiles. Raises `SpecError` where the
    machine has no room for them.
    """
    subspaces = -(-x.shape[1] // spec.v)
    require(0 < len(x) <= spec.m, "rows", f"in 1..{spec.m}", len(x))
    require(0 < subspaces <= spec.subspaces, "subspaces", f"in 1..{spec.subspaces}", subspaces)
    shape = (subspaces, spec.centroids, spec.v)
    require(centroids.shape == shape, "centroids", f"of shape {shape}", centroids.shape)
    require(table.shape[:2] == shape[:2], "table", f"of shape {shape[:2]} and N", table.shape)
    tiles = -(-table.shape[2] // spec.n)
    require(0 < tiles <= spec.tiles, "tiles", f"in 1..{spec.tiles}", tiles)
    for name, values, bits in (
        ("activations", x, spec.activation_bits),
        ("centroids", centroids, spec.activation_bits),
        ("table", table, spec.weight_bits),
    ):
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        fits = bool(low <= values.min() and values.max() <= high)
        require(fits, name, f"in {low}..{high}", [int(values.min()), int(values.max())])
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % spec.v))).reshape(len(x), subspaces, spec.v)
    return CommandProduct(
        x, centroids, np.pad(table, ((0, 0), (0, 0), (0, -table.shape[2] % spec.n)))
    )


def indices(spec: LutStationary, operands: CommandProduct) -> np.ndarray:
    """The nearest centroid of every row and subspace, the first of several; int64 [rows,
    subspaces]."""
    return nearest(spec.metric, operands.x, operands.centroids)


def sums(spec: LutStationary, operands: CommandProduct) -> np.ndarray:
    """Sums int64 [rows, columns], each limited to its width after every subspace."""
    low, high = -(1 << spec.acc_bits - 1), (1 << spec.acc_bits - 1) - 1
    total = np.zeros((operands.rows, operands.table.shape[2]), np.int64)
    for table, index in zip(operands.table, indices(spec, operands).T, strict=True):
        total += table[index]
        if spec.overflow == "saturate":
            total = np.clip(total, low, high)
        elif spec.overflow == "wrap":
            total = (total - low) % (high - low + 1) + low
    return total


def asked(spec: LutStationary, operands: CommandProduct) -> np.ndarray:
    """Whether a gather asks for the row of an index, bool [tiles, subspaces, rows]: always, or, of
    rows of a tile that choose alike, for the first of them."""
    index = indices(spec, operands).T
    if spec.dedup:
        first = [
            [centroid not in row[:i] for i, centroid in enumerate(row)] for row in index.tolist()
        ]  # [subspaces, rows]
    else:
        first = np.ones(index.shape, bool)
    tiles = operands.table.shape[2] // spec.n
    return np.broadcast_to(np.array(first, bool), (tiles, *index.shape))


def requests(spec: LutStationary, operands: CommandProduct) -> np.ndarray:
    """Numbers of the table rows that a gather asks for, in order, int64; see
    `hw.spec.lut_stationary.STREAMS`."""
    wanted = asked(spec, operands)
    tile, space, row = np.nonzero(wanted)
    number = (tile * operands.subspaces + space) * spec.centroids
    return number + indices(spec, operands)[row, space]
