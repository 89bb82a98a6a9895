"""What every golden engine gives back: exact integers per scale group."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.engine import Engine


@dataclass(frozen=True)
class GroupSums:
    """Integer results of one matrix multiplication, before any scale is applied.

    `psum[m, g, n]` is the sum of `value(q[n, k]) * x[m, k]` over the k of scale group g, and
    `row_sum[m, g]` the sum of `x[m, k]` over the same k; of engines with `one_hot`, of such rows.
    """

    psum: np.ndarray
    row_sum: np.ndarray


def symmetric(x: np.ndarray, maximum: int) -> np.ndarray:
    """Activations as int64, the one code below -`maximum` read as -`maximum`, as hardware does."""
    return np.maximum(x.astype(np.int64), -maximum)


def wrap(values: np.ndarray, bits: int) -> np.ndarray:
    """int64 values modulo 2^bits, as two's complement of that width."""
    return values << 64 - bits >> 64 - bits


def read_outs(spec: Engine, sums: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What an engine gives for sums of slices, int64 [rows, slices, n], added up from each of
    `starts` to the next, [rows, read-outs, n]; in the width and manner that it has for sums."""
    if not spec.saturates:
        return wrap(np.add.reduceat(sums, starts, axis=1), spec.acc_bits)
    top = (1 << spec.acc_bits - 1) - 1
    group_sums = np.zeros((len(sums), len(starts), sums.shape[2]), np.int64)
    for i, (start, end) in enumerate(itertools.pairwise([*starts, sums.shape[1]])):
        for part in range(start, end):
            group_sums[:, i] = np.clip(group_sums[:, i] + sums[:, part], -top - 1, top)
    return group_sums
