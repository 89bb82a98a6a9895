"""Tables by centroid (LUT-DLA, HPCA 2025): what the centroids of activations come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.sim.weights.form import Rows, StoredBits, group_bounds

DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "l1": lambda distance, part: distance + part,
    "l2": lambda distance, part: distance + part * part,
    "chebyshev": np.maximum,
}
"""What another magnitude of a difference makes of a distance, by the name of the metric."""

_BLOCK_DISTANCES = 1 << 18
"""Distances that are held at once."""


@dataclass(frozen=True, eq=False)
class Centroids:
    """What tables are of: for every subspace of `k` activations the centroids, in the integers that
    `activations` are, int [subspaces, c, v], and the metric by which one is nearest.

    Every scale group along K begins a subspace. Beyond its end centroids are 0.
    """

    k: int
    activations: Activations
    metric: str
    points: NDArray[np.integer]

    @property
    def v(self) -> int:
        """Activations of a subspace."""
        return self.points.shape[2]

    @property
    def stored_bits(self) -> int:
        """Bits of all centroids."""
        return self.points.size * self.activations.bits

    def subspaces(self, inputs: Any) -> Any:
        """The number of subspaces that `inputs` activations of one scale group are cut into."""
        return -(-inputs // self.v)

    def group_codes(self, group: int) -> int:
        """The number of table entries that one output has in a scale group of `group`
        activations: one for every centroid of every subspace."""
        return self.subspaces(group) * self.points.shape[1]

    def one_hot(self, x: NDArray[np.integer], group: int) -> NDArray[np.int8]:
        """For integer activations [M, K] 1 for the nearest centroid of each subspace, else 0, [M,
        subspaces * c]."""
        index = nearest(self.metric, subspaces(x, group, self.v), self.points)
        rows = np.zeros((*index.shape, self.points.shape[1]), np.int8)
        np.put_along_axis(rows, index[:, :, None], 1, axis=2)
        return rows.reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class Table:
    """For every output and every centroid of its inputs an entry, what that centroid adds to the
    output: `codes` uint8 [N, subspaces * c].

    Entries meet, in the place of activations, one-hot rows made of them. The entries of a subspace
    are in the scale group of its inputs.
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    group: int
    centroids: Centroids

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return len(self.codes), self.centroids.k

    @property
    def group_codes(self) -> int:
        """Entries of one output in a whole scale group."""
        return self.centroids.group_codes(self.group)

    @property
    def is_of_weights(self) -> bool:
        return False

    @property
    def stored(self) -> StoredBits:
        """The entries and the centroids."""
        return StoredBits(
            codes=self.codes.size * self.format.bits, codebooks=self.centroids.stored_bits
        )

    def operand(self, x: NDArray[np.integer]) -> NDArray[np.integer]:
        """One-hot rows, [M, subspaces * c]."""
        return self.centroids.one_hot(x, self.group)

    def operand_bound(self, inputs: Any, activations: Activations) -> Any:
        """A 1 for every subspace."""
        return self.centroids.subspaces(inputs)

    def counted(self, values: NDArray[Any], rows: Rows = slice(None)) -> NDArray[Any]:
        """What the entries of some outputs stand for, [rows, subspaces * c], by a table [1,
        levels]."""
        return values[0].take(self.codes[rows])

    def of_outputs(self, rows: Rows) -> Table:
        """The table of some outputs."""
        return replace(self, codes=self.codes[rows])


def subspaces(x: np.ndarray, group: int, v: int) -> np.ndarray:
    """Rows [M, K] cut into subspaces, [M, subspaces, v]. Every scale group begins one, and its last
    one is filled with zeros."""
    parts = [
        np.pad(x[:, start:end], ((0, 0), (0, (start - end) % v)))
        for start, end in group_bounds(x.shape[1], group)
    ]
    return np.concatenate(parts, axis=1).reshape(len(x), -1, v)


def nearest(metric: str, x: np.ndarray, centroids: np.ndarray) -> NDArray[np.int64]:
    """The index of each subspace's nearest centroid, of several the first, int64 [M, subspaces].

    `x` is int [M, subspaces, v], `centroids` [subspaces, c, v].
    """
    index = np.empty(x.shape[:2], np.int64)
    _, count, v = centroids.shape
    step = max(1, _BLOCK_DISTANCES // (x.shape[1] * count))
    for start in range(0, len(x), step):
        part = x[start : start + step, :, None].astype(np.int64)
        distance = np.zeros((len(part), x.shape[1], count), np.int64)
        for i in range(v):
            magnitude = np.abs(part[..., i] - centroids[..., i])
            distance = DISTANCES[metric](distance, magnitude)
        index[start : start + step] = distance.argmin(axis=-1)
    return index
