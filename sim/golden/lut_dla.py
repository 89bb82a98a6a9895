"""Golden model of tables by centroid: distances as defined, `numpy.argmin`, and lookups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.lut_dla import LutDla
from evolute.sim.golden import integer
from evolute.sim.golden.sums import GroupSums, read_outs, symmetric
from evolute.sim.weights import Centroids, Form, Table, nearest, subspaces


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
class EncodedTables:
    """Entries of tables as integers, int16 [N, subspaces * c], with their centroids, in groups of
    `group` activations."""

    group: int
    values: np.ndarray
    centroids: Centroids


def encode(spec: LutDla, weights: Form) -> EncodedTables:
    """What the entries of tables count as, with their centroids.

    Raises `SpecError` where the engine has no room for them, ValueError where they do not fit each
    other, and for weights that are no tables.
    """
    if not isinstance(weights, Table):
        raise ValueError("tables without the centroids that they are of")
    centroids = weights.centroids
    require_room(spec, centroids)
    if weights.codes.shape[1] != centroids.points.shape[0] * centroids.points.shape[1]:
        raise ValueError("tables of other centroids")
    bound = 1 << spec.activation_bits - 1
    if centroids.points.min() < -bound or centroids.points.max() >= bound:
        raise ValueError(f"centroids of more than {spec.activation_bits} bits")
    return EncodedTables(weights.group, integer.weights(spec, weights), centroids)


def group_sums(
    spec: LutDla, x: np.ndarray, weights: EncodedTables, shift: np.ndarray | None = None
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
