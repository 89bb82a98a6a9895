"""Golden model of the multiply-accumulate baseline: two's complement integers, multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hw.spec.formats import WeightCodes
from hw.spec.mac import Mac
from sim.golden import integer
from sim.golden.sums import GroupSums, symmetric


@dataclass(frozen=True)
class EncodedWeights:
    """Weights as integers, int16 [N, K], in groups of `group` along K."""

    group: int
    values: np.ndarray


def encode(
    spec: Mac,
    codes: np.ndarray,
    weight_format: WeightCodes,
    group: int,
    special: np.ndarray | None = None,
) -> EncodedWeights:
    """What the codes, uint8 [N, K], multiply by. Raises `SpecError`."""
    return EncodedWeights(group, integer.weights(spec, codes, weight_format, group, special))


def group_sums(
    spec: Mac, x: np.ndarray, weights: EncodedWeights, shift: np.ndarray | None = None
) -> GroupSums:
    """Multiply integer activations [M, K] by encoded weights; sums are int64.

    The leftover code -2^(bits-1) is read as the lowest activation, as the hardware does.
    """
    x = symmetric(x, spec.activations.maximum)
    return integer.group_sums(x, weights.values, weights.group)


def slice_sums(
    spec: Mac, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats."""
    weights = fields["code"].reshape(-1, spec.n, spec.k)
    return np.einsum("rsk,snk->rsn", x, weights)
