"""Indices for given codebooks: column after column, with feedback to the columns still to come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are loaded where they are used first
from numpy.typing import NDArray

from evolute.sw.quantizers.gptq import column_loop
from evolute.sw.quantizers.kmeans import nearest
from evolute.sw.quantizers.vptq.parts import VectorPart

_CANDIDATES = 8
"""Codewords of which each is tried with its best residual; the paper tries the nearest alone."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A place of a part's `index`: the vectors of one column, or of v neighbouring ones."""

    part: VectorPart
    number: int
    columns: slice
    """Of the stored order; fewer than v where the last vectors are short."""

    def search(self, wanted: NDArray[np.float64], factor: NDArray[np.floating]) -> None:
        """Set the indices of the vectors here, where the weights should be `wanted` [N, columns];
        `factor` is that of `column_loop`, of which the columns here decide what is near."""
        part = self.part
        vectors, books = part.cut(wanted)[:, 0], part.books
        if part.along == "inputs":
            metric = _metric(factor[self.columns, self.columns], part.v)
            vectors, books = vectors @ metric, [book @ metric for book in books]
        single = [book.astype(np.float32) for book in books]
        for index, chosen in zip(part.index, _search(vectors, *single), strict=True):
            index[:, self.number] = chosen

    def values(self, n: int) -> NDArray[np.float64]:
        """The weights [N, columns] that the indices here stand for."""
        width = self.columns.stop - self.columns.start
        return self.part.values(n, slice(self.number, self.number + 1))[:, :width]


def _places(part: VectorPart) -> list[_Place]:
    edges = itertools.pairwise([part.columns.start, *part.ends])
    return [_Place(part, number, slice(*edge)) for number, edge in enumerate(edges)]


def find_indices(
    target: NDArray[np.float64], factor: NDArray[np.floating], parts: Sequence[VectorPart]
) -> NDArray[np.float64]:
    """Find the indices of all parts for their codebooks, so that together they stand for `target`
    [N, K]; indices from before are lost.

    Columns are decided one after another, or as many together as a vector along inputs has, and
    later ones make up for the error of earlier ones: see `column_loop`, which `factor` is for.
    Returns what columns should have been when they were decided, [N, K].
    """
    for part in parts:
        part.index = [np.zeros_like(index) for index in part.index]
    places = {place.columns.start: place for part in parts for place in _places(part)}
    met = np.empty_like(target)

    def choose(first: int, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        place = places[first]
        met[:, place.columns] = wanted.T
        place.search(wanted.T, factor)
        return place.values(len(target)).T

    column_loop(target, factor, [place.columns.stop for place in places.values()], choose)
    return met


def _metric(factor: NDArray[np.floating], v: int) -> NDArray[np.floating]:
    """The V^-1 of `column_loop` up to a factor, [v, v]: 1 for one column, and 0 for components
    beyond the columns of a short vector."""
    metric = np.zeros((v, v))
    inverse, _ = scipy.linalg.lapack.dtrtri(factor / factor[0, 0])
    metric[: len(factor), : len(factor)] = inverse
    return metric


def _search(
    vectors: NDArray[np.float64],
    book: NDArray[np.float32],
    residual: NDArray[np.float32] | None = None,
) -> list[NDArray[np.int64]]:
    """The indices nearest to vectors [R, v]: with a residual codebook the best of what the
    `_CANDIDATES` nearest codewords of the first allow."""
    if residual is None:
        return [nearest(vectors, book)]
    wanted = vectors.astype(np.float32)
    scores = wanted @ book.T - np.square(book).sum(axis=1) / 2
    tried = min(_CANDIDATES, len(book))
    main = np.argpartition(-scores, tried - 1, axis=1)[:, :tried]
    main.sort(axis=1)  # of equals the first
    left = wanted[:, None] - book[main]
    added = nearest(left.reshape(-1, left.shape[2]), residual).reshape(main.shape)
    errors = np.square(left - residual[added]).sum(axis=2)
    rows, best = np.arange(len(main)), errors.argmin(axis=1)
    return [main[rows, best], added[rows, best]]
