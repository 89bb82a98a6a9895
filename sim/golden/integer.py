"""The plain integer matrix multiplication that every lossless engine must equal."""

from __future__ import annotations

import numpy as np

from hw.spec.formats import WeightCodes
from sim.golden.sums import GroupSums, group_bounds


def exact_float(weight_format: WeightCodes, activation_maximum: int, group: int) -> type:
    """The narrowest float type in which a group's sums, in any order, are exact integers."""
    bound = weight_format.maximum * activation_maximum * group
    if bound <= 1 << 24:
        return np.float32
    if bound <= 1 << 53:
        return np.float64
    raise OverflowError(f"sums up to {bound} are not exact in float64")


def group_sums(
    x: np.ndarray, codes: np.ndarray, weight_format: WeightCodes, group: int
) -> GroupSums:
    """Multiply integer activations by weight codes, exactly.

    `x` int [M, K], `codes` uint8 [N, K]; both sums come back as int64. The products run through
    floating-point BLAS, in a type wide enough that every partial sum is an exact integer.
    """
    kind = exact_float(weight_format, int(np.abs(x).max(initial=0)), group)
    bounds = group_bounds(x.shape[1], group)
    psum = np.empty((x.shape[0], len(bounds), codes.shape[0]), np.int64)
    row_sum = np.empty((x.shape[0], len(bounds)), np.int64)
    offset = weight_format.levels - 1
    for g, (start, end) in enumerate(bounds):
        values = 2 * codes[:, start:end].astype(kind) - offset
        psum[:, g] = x[:, start:end].astype(kind) @ values.T
        row_sum[:, g] = x[:, start:end].sum(axis=1)
    return GroupSums(psum, row_sum)
