"""How tables fill the beats of a LUT-DLA engine, by `hw.spec.layout` alone; which centroids are
nearest, one after another; random specs, centroids and tables."""

from __future__ import annotations

import dataclasses

import numpy as np

from evolute.hw.spec import SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.lut_dla import METRICS, OVERFLOWS, LutDla
from evolute.sim.weights import Centroids, Grid, Table, group_bounds
from evolute.verif.harness.operands import Operands
from evolute.verif.harness.vectors import Matmul


def weight_fields(
    spec: LutDla, codes: np.ndarray, centroids: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, c] and centroids
    [slices, c, v]."""
    tiles, _, slices, _ = codes.shape
    lead = tiles, slices, spec.centroids // spec.lanes, spec.lanes
    entry = (codes - weight_format.levels // 2).transpose(0, 2, 3, 1).reshape(*lead, spec.n)
    centroid = np.broadcast_to(centroids, (tiles, *centroids.shape)).reshape(*lead, spec.v)
    return {"centroid": centroid, "entry": entry}


def cut(x: np.ndarray, group: int, v: int) -> np.ndarray:
    """Rows [M, K] cut into subspaces, [M, subspaces, v]. No subspace reaches beyond a scale
    group."""
    parts = []
    for start, end in group_bounds(x.shape[1], group):
        for first in range(start, end, v):
            part = np.zeros((len(x), v), np.int64)
            last = min(first + v, end)
            part[:, : last - first] = x[:, first:last]
            parts.append(part)
    return np.stack(parts, axis=1)


def nearest(metric: str, parts: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The indices [M, subspaces] of the centroids [subspaces, c, v] that are nearest to the parts
    of rows [M, subspaces, v].

    A centroid is taken if it is nearer than all before it.
    """
    least = np.full(parts.shape[:2], np.iinfo(np.int64).max)
    indices = np.zeros(parts.shape[:2], np.int64)
    for j in range(centroids.shape[1]):
        distance = np.zeros(parts.shape[:2], np.int64)
        for i in range(centroids.shape[2]):
            difference = np.abs(parts[:, :, i] - centroids[:, j, i])
            if metric == "chebyshev":
                distance = np.maximum(distance, difference)
            else:
                distance += difference if metric == "l1" else difference * difference
        indices[distance < least] = j
        least = np.minimum(least, distance)
    return indices


def one_hot(spec: LutDla, x: np.ndarray, centroids: np.ndarray, group: int) -> np.ndarray:
    """One-hot rows [M, subspaces * c]: for every subspace of a row, 1 for the nearest centroid and
    0 for the others."""
    index = nearest(spec.metric, cut(x, group, spec.v), centroids)
    return (index[:, :, None] == np.arange(spec.centroids)).astype(np.int64).reshape(len(x), -1)


def product_group(spec: LutDla, group: int) -> int:
    """Table entries of one output in a scale group of `group` activations."""
    return -(-group // spec.v) * spec.centroids


def tables(
    spec: LutDla,
    x: np.ndarray,
    codes: np.ndarray,
    weight_format: WeightCodes,
    group: int,
    rng: np.random.Generator,
) -> Table:
    """Tables of random centroids, of which the entries of an output are extremes where its codes,
    [N, K], all are.

    Of the centroids some are the activations [M, K] themselves or next to them, and some are equal.
    """
    parts, levels = cut(x, group, spec.v), weight_format.levels
    shape = parts.shape[1], spec.centroids, spec.v
    bound = 1 << spec.activation_bits - 1
    centroids = rng.integers(-bound, bound, shape)
    rows = parts[rng.integers(0, len(x), shape[:2]), np.arange(shape[0])[:, None]]
    near = np.clip(rows + rng.integers(-1, 2, shape), -bound, bound - 1)
    choice = rng.integers(0, 4, shape[:2])[:, :, None]
    centroids = np.where(choice == 0, rows, np.where(choice == 1, near, centroids))
    same = rng.random(shape[:2]) < 0.2
    other = rng.integers(0, spec.centroids, shape[:2])
    centroids[same] = np.take_along_axis(centroids, other[:, :, None], axis=1)[same]
    # Beyond a scale group activations are 0, and so are centroids.
    inside = cut(np.ones((1, x.shape[1]), np.int64), group, spec.v)[0]
    size = len(codes), shape[0] * spec.centroids
    drawn = np.take_along_axis(codes, rng.integers(0, codes.shape[1], size), axis=1)
    extreme = np.isin(codes, (0, levels - 1)).all(axis=1, keepdims=True)
    entries = np.where(extreme, drawn, rng.integers(0, levels, size))
    points = centroids * inside[:, None]
    kept = Centroids(x.shape[1], spec.activations, spec.metric, points)
    return Table(entries.astype(np.uint8), weight_format, group, kept)


def random_spec(rng: np.random.Generator) -> LutDla:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        overflow = OVERFLOWS[max(0, rng.integers(-2, len(OVERFLOWS)))]
        weight_bits = int(rng.integers(2, 9))
        width = None if overflow == "exact" else int(rng.integers(weight_bits, weight_bits + 4))
        try:
            spec = LutDla(
                m=int(rng.integers(1, 5)),
                n=int(rng.integers(1, 13)),
                v=int(rng.integers(1, 9)),
                centroids=1 << int(rng.integers(1, 7)),
                lanes=1 << int(rng.integers(0, 7)),
                metric=METRICS[rng.integers(len(METRICS))],
                overflow=overflow,
                accumulator_bits=width,
                activation_bits=int(rng.integers(4, 17)),
                weight_bits=weight_bits,
                group_size=int(rng.integers(1, 97)),
            )
        except SpecError:
            continue
        unit_bits = spec.activation_bits ** (2 if spec.metric == "l2" else 1)
        size = spec.m * spec.lanes * (spec.v * unit_bits + spec.n * spec.weight_bits // 2)
        if size <= 2000:
            return spec


class CentroidTables(Operands[LutDla]):
    """The operands of an engine whose codes are table entries, which are multiplied by one-hot
    rows."""

    def completed(self, spec, matmul, x, rng):
        """`matmul` with centroids near the activations, and with the tables of these centroids in
        place of its codes."""
        weights = tables(spec, x, matmul.codes, matmul.weight_format, matmul.group, rng)
        return dataclasses.replace(matmul, weights=weights)

    def product(self, spec, matmul, x):
        weights = matmul.weights
        assert isinstance(weights, Table)
        rows = one_hot(spec, x, weights.centroids.points, weights.group)
        group = product_group(spec, weights.group)
        return Matmul(rows, Grid.plain(weights.codes, weights.format, group))
