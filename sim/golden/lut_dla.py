"""Golden model of tables by centroid: distances as defined, `numpy.argmin`, and lookups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.hw.spec.lut_dla import LutDla
from evolute.sim.golden import integer
from evolute.sim.golden.sums import GroupSums, group_bounds, read_outs, symmetric

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
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
    points: np.ndarray

    @property
    def v(self) -> int:
        return self.points.shape[2]

    @property
    def stored_bits(self) -> int:
        return self.points.size * self.activations.bits

    def subspaces(self, group: int) -> int:
        """Subspaces of a scale group of so many activations."""
        return -(-group // self.v)

    def group_codes(self, group: int) -> int:
        """Table entries of one output in such a group."""
        return self.subspaces(group) * self.points.shape[1]

    def one_hot(self, x: np.ndarray, group: int) -> np.ndarray:
        """What table entries meet in the place of integer activations [M, K]: 1 for the nearest
        centroid of each subspace, else 0, int8 [M, subspaces * c]."""
        index = nearest(self.metric, subspaces(x, group, self.v), self.points)
        found = np.zeros((*index.shape, self.points.shape[1]), np.int8)
        np.put_along_axis(found, index[:, :, None], 1, axis=2)
        return found.reshape(len(x), -1)


def require_room(spec: Engine, centroids: Centroids) -> None:
    """Raise `SpecError` unless the engine is built for such centroids."""
    kind = centroids.activations
    wanted = {
        "v": centroids.v,
        "centroids": centroids.points.shape[1],
        "metric": centroids.metric,
        "activation_bits": kind.bits,
        "activation_format": kind.format.name if kind.format else "int",
    }
    for name, value in wanted.items():
        given = getattr(spec, name)
        require(given == value, name, f"{value} for these tables", given)


@dataclass(frozen=True, eq=False)
class EncodedWeights:
    """Entries of tables as integers, int16 [N, subspaces * c], with their centroids, in groups of
    `group` activations."""

    group: int
    values: np.ndarray
    centroids: Centroids


def subspaces(x: np.ndarray, group: int, v: int) -> np.ndarray:
    """Rows [M, K] cut into subspaces, [M, subspaces, v]. Every scale group begins one, and its last
    one is filled with zeros."""
    parts = [
        np.pad(x[:, start:end], ((0, 0), (0, (start - end) % v)))
        for start, end in group_bounds(x.shape[1], group)
    ]
    return np.concatenate(parts, axis=1).reshape(len(x), -1, v)


def nearest(metric: str, x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index of each subspace's nearest centroid, of several the first, int64 [M, subspaces].

    `x` is int [M, subspaces, v], `centroids` [subspaces, c, v].
    """
    found = np.empty(x.shape[:2], np.int64)
    _, count, v = centroids.shape
    step = max(1, _BLOCK_DISTANCES // (x.shape[1] * count))
    for start in range(0, len(x), step):
        part = x[start : start + step, :, None].astype(np.int64)
        distance = np.zeros((len(part), x.shape[1], count), np.int64)
        for i in range(v):
            magnitude = np.abs(part[..., i] - centroids[..., i])
            distance = METRICS[metric](distance, magnitude)
        found[start : start + step] = distance.argmin(axis=-1)
    return found


def encode(
    spec: LutDla,
    codes: np.ndarray,
    weight_format: WeightCodes,
    group: int,
    special: np.ndarray | None = None,
    centroids: Centroids | None = None,
) -> EncodedWeights:
    """What the codes of tables, uint8 [N, subspaces * c], count as, with their centroids.

    Raises `SpecError` where the engine has no room for them, ValueError where they do not fit each
    other.
    """
    if centroids is None:
        raise ValueError("tables without the centroids that they are of")
    require_room(spec, centroids)
    if codes.shape[1] != centroids.points.shape[0] * centroids.points.shape[1]:
        raise ValueError("tables of other centroids")
    bound = 1 << spec.activation_bits - 1
    if centroids.points.min() < -bound or centroids.points.max() >= bound:
        raise ValueError(f"centroids of more than {spec.activation_bits} bits")
    return EncodedWeights(group, integer.weights(spec, codes, weight_format, group), centroids)


def group_sums(
    spec: LutDla, x: np.ndarray, weights: EncodedWeights, shift: np.ndarray | None = None
) -> GroupSums:
    """Look integer activations [M, K] up in tables; sums are int64, in the engine's own width.

    The leftover code -2^(bits-1) is read as the lowest activation, as the hardware does. A group's
    sum is that of its read-outs, and its `row_sum` the number of its subspaces.
    """
    points = weights.centroids.points
    parts = subspaces(symmetric(x, spec.activations.maximum), weights.group, spec.v)
    index = nearest(spec.metric, parts, points)
    count, tables = len(points), weights.values.reshape(-1, *points.shape[:2])
    terms = tables.transpose(1, 2, 0)[np.arange(count), index].astype(np.int64)  # [M, subspaces, N]
    per_group = weights.centroids.subspaces(weights.group)
    groups = np.arange(0, count, per_group)
    step = spec.read_out_slices(weights.group)
    starts = np.concatenate(
        [np.arange(first, min(first + per_group, count), step) for first in groups]
    )
    read = read_outs(spec, terms, starts)
    psum = np.add.reduceat(read, np.searchsorted(starts, groups), axis=1)
    row_sum = np.diff(groups, append=count)
    return GroupSums(psum, np.tile(row_sum, (len(x), 1)))


def slice_sums(
    spec: LutDla, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats."""
    centroids = fields["centroid"].reshape(-1, spec.centroids, spec.v)
    entries = fields["entry"].reshape(-1, spec.centroids, spec.n)
    return entries[np.arange(len(entries)), nearest(spec.metric, x, centroids)]
