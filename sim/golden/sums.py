"""What every golden engine gives back: exact integers per scale group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GroupSums:
    """Integer results of one matrix multiplication, before any scale is applied.

    `psum[m, g, n]` is the sum of `value(q[n, k]) * x[m, k]` over the k of scale group g, and
    `row_sum[m, g]` the sum of `x[m, k]` over the same k.
    """

    psum: np.ndarray
    row_sum: np.ndarray


def symmetric(x: np.ndarray, maximum: int) -> np.ndarray:
    """Activations as int64, the one code below -`maximum` read as -`maximum`, as hardware does."""
    return np.maximum(x.astype(np.int64), -maximum)


def group_bounds(k: int, group: int) -> list[tuple[int, int]]:
    """Start and end of each scale group along K; the last may be shorter."""
    return [(start, min(start + group, k)) for start in range(0, k, group)]
