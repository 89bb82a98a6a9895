"""Golden model of the multiply-accumulate baseline: two's complement integers, multiplied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evolute.hw.spec.mac import Mac
from evolute.sim.golden import integer
from evolute.sim.weights import Form


def encode(spec: Mac, weights: Form) -> integer.EncodedWeights:
    """What the codes multiply by. Raises `SpecError`."""
    return integer.EncodedWeights(weights.group, integer.weights(spec, weights))


group_sums = integer.encoded_sums


def slice_sums(
    spec: Mac, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats."""
    weights = fields["code"].reshape(-1, spec.n, spec.k)
    return np.einsum("rsk,snk->rsn", x, weights)
