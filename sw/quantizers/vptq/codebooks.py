"""Codebooks for given weights or indices: learned by k-means, fitted to the layer's outputs, and
rounded to the numbers in which they are stored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy  # whose parts are loaded where they are used first
from numpy.typing import NDArray

from evolute.sw.quantizers.kmeans import kmeans
from evolute.sw.quantizers.vptq.choice import WEIGHT_BITS, Vptq
from evolute.sw.quantizers.vptq.parts import VectorPart
from evolute.sw.tensors.tensor import QuantError


def add_codebook(
    part: VectorPart,
    w: NDArray[np.float64],
    strength: NDArray[np.float64],
    entries: int,
    rng: np.random.Generator,
) -> None:
    """Give a part one codebook more, for `w` [N, columns]; a vector counts as much as the strengths
    of its columns [columns]."""
    vectors = part.cut(w)
    starts = np.arange(vectors.shape[1]) * part.width
    mass = np.add.reduceat(strength, starts)
    points = vectors.reshape(-1, part.v).astype(np.float32)
    clusters = kmeans(points, np.tile(mass, len(vectors)), entries, rng)
    part.books.append(clusters.codebook.astype(np.float64))
    part.index.append(clusters.index.reshape(vectors.shape[:2]))


def round_codebooks(parts: Sequence[VectorPart], choice: Vptq) -> None:
    """Bring codebooks to the numbers in which they are stored.

    Integers have a half-precision scale for the codebooks of a part together. That which loses
    least of them is taken; it may cut off the outermost components. Those of outliers are as wide
    as the others, since an engine keeps either in the same memories.
    """
    width = WEIGHT_BITS - any(len(part.books) > 1 for part in parts)
    for part in parts:
        if choice.half:
            part.books = [book.astype(np.float16).astype(np.float64) for book in part.books]
            continue
        most = (1 << (width - 1)) - 1
        values = np.concatenate([book.ravel() for book in part.books])
        counts = np.concatenate(
            [
                np.repeat(np.bincount(index.ravel(), minlength=len(book)), part.v)
                for book, index in zip(part.books, part.index, strict=True)
            ]
        )
        largest = np.abs(values).max()
        units = np.linspace(1, 0.4, 25) * largest / most
        units = units.astype(np.float16).astype(np.float64)
        units[units == 0] = np.finfo(np.float16).smallest_subnormal
        if not np.isfinite(units).all():
            raise QuantError("weights are not finite or too large for a half-precision scale")
        errors = [
            (counts * (_integers(values, unit, most) * unit - values) ** 2).sum() for unit in units
        ]
        part.unit = float(units[int(np.argmin(errors))])
        part.books = [_integers(book, part.unit, most) * part.unit for book in part.books]


def _integers(values: NDArray[np.float64], unit: float, most: int) -> NDArray[np.float64]:
    return np.clip(np.rint(values / unit), -most, most)


def fit_codebooks(
    target: NDArray[np.float64], h: NDArray[np.float64], parts: Sequence[VectorPart]
) -> None:
    """Move codebooks to the least tr(E H E^T), E being the weights' error with these indices, part
    by part."""
    n = len(target)
    for part in parts:
        others = np.concatenate([other.values(n) for other in parts], axis=1)
        others[:, part.columns] = 0
        pull = ((target - others) @ h)[:, part.columns]
        within = np.ascontiguousarray(h[part.columns, part.columns])
        solve = _solved if part.along == "outputs" else _descended
        part.books = solve(part, pull, within)


_RIDGE = 1e-6
"""What keeps codewords without vectors where they are, as a part of the mean diagonal."""


def _solved(
    part: VectorPart, pull: NDArray[np.float64], h: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The best codebooks along outputs for weights W with W H = `pull` [N, columns].

    With P [entries, columns] the one-hot rows of a row of vectors, of both codebooks one below the
    other, E is W - C^T P there: C solves (sum P H P^T) C = sum P H W^T. SciPy's sparse products set
    the system up in an eighth of the time, but add in another order, and a system this close to
    singular then gives other codebooks; every kept result would be of another revision.
    """
    pulls, within = part.cut(pull), h.astype(np.float32)
    starts = np.cumsum([0, *(len(book) for book in part.books)])
    normal, right = np.zeros((starts[-1], starts[-1])), np.zeros((starts[-1], part.v))
    for row in range(len(pulls)):
        runs = [_runs(index[row], start) for index, start in zip(part.index, starts, strict=False)]
        for run in runs:
            right[run.codewords] += run.sums(pulls[row])
            summed = np.ascontiguousarray(run.sums(within).T)
            for other in runs:
                normal[np.ix_(other.codewords, run.codewords)] += other.sums(summed)
    books = np.concatenate(part.books)
    ridge = _RIDGE * np.diag(normal).mean() + np.finfo(np.float64).tiny
    normal[np.diag_indices(len(normal))] += ridge
    # Two codebooks can trade a constant, so that the system is close to singular: a factorization
    # for positive definite systems, though twice as fast, gives other codebooks than this one.
    fitted = np.linalg.solve(normal, right + ridge * books)
    return [fitted[start:end] for start, end in itertools.pairwise(starts)]


_SLOPE = 1e-3
"""The gradient at which a descent ends, as a part of the first."""

_STEPS = 100
"""Steps after which a descent ends anyhow; layers take some ten."""


def _descended(
    part: VectorPart, pull: NDArray[np.float64], h: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The best codebooks along inputs, as `_solved` has them, by conjugate gradients.

    Every component is an unknown of its own here, and rows have no system in common; but the
    gradient is W H - Q H, summed for every codeword, with Q [N, columns] what codebooks stand for.
    Unknowns are in units in which what the diagonal has of a codeword's own vectors is 1, which
    preconditions the system. Codewords without vectors have no gradient and stay where they are.
    """
    n = len(pull)

    def sums(of: NDArray[np.float64]) -> NDArray[np.float64]:
        vectors = part.cut(of).reshape(-1, part.v)
        component_sums = [
            np.bincount(index.ravel(), component, len(book))
            for index, book in zip(part.index, part.books, strict=True)
            for component in vectors.T
        ]
        return np.concatenate(component_sums, dtype=np.float64)

    def books(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        ends = np.cumsum([book.size for book in part.books])[:-1]
        return [book.reshape(part.v, -1).T for book in np.split(flat, ends)]

    def curved(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums(replace(part, books=books(flat)).values(n) @ h)

    start = np.concatenate([book.T.ravel() for book in part.books])
    mass = sums(np.broadcast_to(np.diag(h), (n, len(h)))) + np.finfo(np.float64).tiny
    unit = 1 / np.sqrt(mass)  # of unknowns, so that the system's diagonal is near 1
    system = scipy.sparse.linalg.LinearOperator(
        (len(start), len(start)), lambda moved: unit * curved(unit * moved), dtype=np.float64
    )
    gradient = unit * (sums(pull) - curved(start))
    moved, _ = scipy.sparse.linalg.cg(system, gradient, rtol=_SLOPE, maxiter=_STEPS)
    return books(start + unit * moved)


class _Runs(NamedTuple):
    """A row of indices in the order of their codewords."""

    codewords: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def sums(self, rows: NDArray) -> NDArray:
        """Of rows that belong to the indices, the sum for every codeword."""
        return np.add.reduceat(rows[self.order], self.starts, axis=0)


def _runs(index: NDArray[np.int64], first: int) -> _Runs:
    order = np.argsort(index, kind="stable")
    codewords, starts = np.unique(index[order], return_index=True)
    return _Runs(codewords + first, order, starts)
