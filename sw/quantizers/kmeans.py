"""Weighted k-means (Lloyd, 1982) with a seed: equal inputs give equal codebooks, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Init = Literal["spread", "random"]
"""Where codewords begin: k-means++ (Arthur and Vassilvitskii, 2007), or points at random."""

_BLOCK_BYTES = 1 << 22
"""Memory of the distances that are held at once; near a CPU core's second-level cache."""

_SPREAD_POINTS = 1 << 14
"""Points of which k-means++ chooses; more cost time and change little."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """A codebook [entries, v], the index of each point's codeword [P], and the weighted squared
    error."""

    codebook: NDArray[np.float32]
    index: NDArray[np.int64]
    error: float
    """Weighted sum of squared distances."""


def nearest(points: NDArray[np.floating], codebook: NDArray[np.floating]) -> NDArray[np.int64]:
    """The index of the nearest codeword for every point [P, v], in float32; the first one of
    several.

    It takes one matrix product: the codeword with the least |p - c|^2 is the one with the greatest
    p.c - |c|^2 / 2. SciPy's `vq` finds the same codewords, but takes three to five times as long
    with 256 or more of them.
    """
    entries, v = codebook.shape
    table = np.empty((v + 1, entries), np.float32)
    table[:v] = codebook.T
    table[v] = np.square(codebook, dtype=np.float32).sum(axis=1) * np.float32(-0.5)
    index = np.empty(len(points), np.int64)
    step = max(1, _BLOCK_BYTES // (4 * entries))
    wide = np.ones((min(step, len(points)), v + 1), np.float32)
    scores = np.empty((len(wide), entries), np.float32)
    for start in range(0, len(points), step):
        part = points[start : start + step]
        wide[: len(part), :v] = part
        near = np.matmul(wide[: len(part)], table, out=scores[: len(part)])
        near.argmax(axis=1, out=index[start : start + step])
    return index


def kmeans(
    points: NDArray[np.float32],
    weights: NDArray[np.floating],
    entries: int,
    rng: np.random.Generator,
    iterations: int = 100,
    tolerance: float = 1e-4,
    init: Init = "spread",
) -> Clusters:
    """A codebook with `entries` codewords for points [P, v] with weights [P] > 0.

    Ends when an iteration lowers the error by less than the share `tolerance`. A codeword that is
    nearest to no point moves to one of the points with the largest errors. If there are fewer
    points than entries, the entries left over are zero. SciPy's `kmeans2` takes no weights.
    """
    codebook = _start(points, weights, entries, rng, init)
    weights64 = weights.astype(np.float64)
    index, error = nearest(points, codebook), np.inf
    for _ in range(iterations):
        codebook = _centres(points, weights64, index, codebook)
        index = nearest(points, codebook)
        before, error = error, _error(points, weights64, index, codebook)
        if error >= before * (1 - tolerance):
            break
    return Clusters(codebook, index, _error(points, weights64, index, codebook))


def _errors(
    points: NDArray[np.float32],
    weights: NDArray[np.float64],
    index: NDArray[np.int64],
    codebook: NDArray[np.float32],
) -> NDArray[np.float64]:
    difference = points - codebook[index]
    return np.einsum("pv,pv->p", difference, difference) * weights


def _error(
    points: NDArray[np.float32],
    weights: NDArray[np.float64],
    index: NDArray[np.int64],
    codebook: NDArray[np.float32],
) -> float:
    return float(_errors(points, weights, index, codebook).sum())


def _centres(
    points: NDArray[np.float32],
    weights: NDArray[np.float64],
    index: NDArray[np.int64],
    codebook: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The weighted mean of the points of every codeword. Codewords without points move to the
    points with the largest errors."""
    entries = len(codebook)
    mass = np.bincount(index, weights, entries)
    sums = [np.bincount(index, weights * points[:, t], entries) for t in range(points.shape[1])]
    used = mass > 0
    centres = codebook.copy()
    centres[used] = np.stack(sums, axis=1)[used] / mass[used, None]
    if not used.all():
        empty = np.flatnonzero(~used)
        worst = np.argsort(-_errors(points, weights, index, centres), kind="stable")[: len(empty)]
        centres[empty[: len(worst)]] = points[worst]
    return centres


def _start(
    points: NDArray[np.float32],
    weights: NDArray[np.floating],
    entries: int,
    rng: np.random.Generator,
    init: Init,
) -> NDArray[np.float32]:
    centres = np.zeros((entries, points.shape[1]), np.float32)
    if len(points) <= entries:
        centres[: len(points)] = points
        return centres
    if init == "random":
        centres[:] = points[np.sort(rng.choice(len(points), entries, replace=False))]
        return centres
    if len(points) > max(_SPREAD_POINTS, 4 * entries):
        chosen = rng.choice(len(points), max(_SPREAD_POINTS, 4 * entries), replace=False)
        points, weights = points[np.sort(chosen)], weights[np.sort(chosen)]
    left = weights.astype(np.float64)
    distance = np.full(len(points), np.inf)
    for entry in range(entries):
        total = np.cumsum(left)
        place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        centres[entry] = points[min(place, len(points) - 1)]
        difference = points - centres[entry]
        np.minimum(distance, np.einsum("pv,pv->p", difference, difference), out=distance)
        left = weights * distance
    return centres
