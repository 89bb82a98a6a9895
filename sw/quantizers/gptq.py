"""GPTQ: columns are rounded one after another, and the columns that follow compensate for the error
of each one.

Frantar et al. (arXiv 2210.17323), in the Cholesky form of their Algorithm 1. Columns are processed
in the order of diag(H), the largest first. Their grids are laid beforehand, so that column k keeps
the grid k // group of the stored tensor ("static groups" in AutoGPTQ).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy  # whose parts are loaded where they are used first
from numpy.typing import NDArray

from evolute.sw.quantizers.rounding import column_rounder
from evolute.sw.tensors.tensor import QuantTensor, grid_of

_BLOCK = 64
"""Columns after which an error reaches the columns of later blocks, all at once."""


def inverse_factor(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangular U [K, K] with U^T U = H^-1, for a positive definite H.

    If H = L L^T with rows and columns in reverse order, U is the inverse of L, again in reverse
    order.
    """
    lower = scipy.linalg.cholesky(h[::-1, ::-1], lower=True)
    inverse, _ = scipy.linalg.lapack.dtrtri(lower, lower=1)
    return inverse[::-1, ::-1].copy()


def act_order(second: NDArray[np.floating]) -> NDArray[np.int64]:
    """The order of columns by the mean square of their inputs, the largest first; equal ones keep
    their order."""
    return np.argsort(-np.diag(second), kind="stable")


def column_loop(
    w: NDArray[np.floating],
    factor: NDArray[np.floating],
    ends: Sequence[int],
    choose: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """Choose the columns of `w` [N, K] in turn, and let later columns compensate for each error.

    `factor` is the `inverse_factor` U of H, for the same order of columns. `ends` divides the
    columns into runs that are chosen together; the last end is K. `choose(first, wanted)` gets the
    first column of a run and the values that it should have by then, [columns, N], and returns the
    values that it gets.

    If a run is off by E [N, columns] and later columns compensate as well as they can, the
    remaining squared error is the sum of squares of E V^-1. V is the part of U in the run's rows
    and columns.
    """
    remaining = w.T.astype(np.float64)  # a column of weights is a row here: contiguous
    edges, run = [0, *ends], 0
    while run < len(ends):
        start = edges[run]
        until = min(bisect.bisect_left(edges, start + _BLOCK), len(ends))
        end = edges[until]
        errors = np.empty((end - start, remaining.shape[1]))
        for first, last in itertools.pairwise(edges[run : until + 1]):
            chosen = choose(first, remaining[first:last])
            for j in range(first, last):  # of those chosen together, E V^-1 column by column
                error = (remaining[j] - chosen[j - first]) / factor[j, j]
                if j + 1 < end:
                    remaining[j + 1 : end] -= factor[j, j + 1 : end, None] * error
                errors[j - start] = error
        remaining[end:] -= factor[start:end, end:].T @ errors
        run = until


def gptq(
    w: NDArray[np.float32], laid: Sequence[QuantTensor], h: NDArray[np.float64]
) -> tuple[QuantTensor, ...]:
    """The parts `laid` of `w` [N, K], which are side by side along K, with codes that are found
    column by column.

    The grids do not change. `h` is the damped H [K, K] for the columns of `w`. The parts are
    processed in their order. The part that is stored most exactly should be the first, so that it
    does not have to compensate for the errors of the others.
    """
    ends = np.cumsum([part.shape[1] for part in laid])
    starts = [0, *ends[:-1].tolist()]
    order = np.concatenate(
        [
            start + act_order(h[start:end, start:end])
            for start, end in zip(starts, ends, strict=True)
        ]
    )
    rounders = [column_rounder(part) for part in laid]
    codes = [np.empty_like(part.codes) for part in laid]

    def choose(place: int, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        part = int(np.searchsorted(ends, order[place], side="right"))
        column = int(order[place]) - starts[part]
        codes[part][:, column], rounded = rounders[part](column, wanted[0])
        return rounded[None]

    single = range(1, len(order) + 1)
    column_loop(w[:, order], inverse_factor(h[np.ix_(order, order)]), single, choose)
    return tuple(
        replace(part, form=replace(grid_of(part), codes=part_codes))
        for part, part_codes in zip(laid, codes, strict=True)
    )
