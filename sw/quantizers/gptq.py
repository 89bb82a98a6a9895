"""GPTQ: columns are rounded one after another, and what rounding one loses the later ones make up.

Frantar et al. (arXiv 2210.17323), in the Cholesky form of their Algorithm 1. Columns go in the
order of diag(H), the greatest first, through grids that are laid beforehand, so that column k keeps
the grid k // group that a stored tensor gives it (AutoGPTQ's "static groups").
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

    With H read from its end, H = L L^T, it is the inverse of L read from its end.
    """
    lower = scipy.linalg.cholesky(h[::-1, ::-1], lower=True)
    inverse, _ = scipy.linalg.lapack.dtrtri(lower, lower=1)
    return inverse[::-1, ::-1].copy()


def act_order(second: NDArray[np.floating]) -> NDArray[np.int64]:
    """Columns by the mean square of their inputs, the greatest first; of equals the first."""
    return np.argsort(-np.diag(second), kind="stable")


def column_loop(
    w: NDArray[np.floating],
    factor: NDArray[np.floating],
    ends: Sequence[int],
    choose: Callable[[int, NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """Go through the columns of `w` [N, K] and let later ones make up for each one's error.

    `factor` is the `inverse_factor` U of H in the same order. The columns before each of `ends`,
    of which the last is K, are chosen together: `choose` is given the place of the first and what
    they should be by then, [columns, N], and says what they are. If they are off by E [N, columns]
    and later ones make up for it as well as they can, the sum of squares of E V^-1 is left, where V
    is what U has in these rows and columns: E (H^-1)^-1 E^T for what H^-1 = V^T V is to them then.
    """
    rest = w.T.astype(np.float64)  # a column of weights is a row here: contiguous
    edges, at = [0, *ends], 0
    while at < len(ends):
        start = edges[at]
        until = min(bisect.bisect_left(edges, start + _BLOCK), len(ends))
        end = edges[until]
        errors = np.empty((end - start, rest.shape[1]))
        for first, last in itertools.pairwise(edges[at : until + 1]):
            chosen = choose(first, rest[first:last])
            for j in range(first, last):  # of those chosen together, E V^-1 column by column
                error = (rest[j] - chosen[j - first]) / factor[j, j]
                if j + 1 < end:
                    rest[j + 1 : end] -= factor[j, j + 1 : end, None] * error
                errors[j - start] = error
        rest[end:] -= factor[start:end, end:].T @ errors
        at = until


def gptq(
    w: NDArray[np.float32], laid: Sequence[QuantTensor], h: NDArray[np.float64]
) -> tuple[QuantTensor, ...]:
    """The parts `laid` of `w` [N, K], side by side along K, with codes found column by column.

    Their grids stay. `h` is damped, for the columns of `w`. Parts go one after another, the first
    first, since what is stored best should make up for the least.
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
