"""The plain integer matrix multiplication that every exact engine must equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.engine import Engine
from evolute.sim.golden.sums import GroupSums, symmetric
from evolute.sim.weights import Form, group_bounds


@dataclass(frozen=True, eq=False)
class EncodedIntegers:
    """Weights as integers, int16 [N, K], in groups of `group` along K."""

    group: int
    values: np.ndarray


def weights(spec: Engine, form: Form) -> np.ndarray:
    """The integers by which an engine multiplies the operands of a form, int16 [N, entries]."""
    coding = spec.coding_of(form.format)
    count = max(1, len(form.format.specials))
    return form.counted(
        np.array([coding.values(form.format, special) for special in range(count)], np.int16)
    )


def encode(spec: Engine, form: Form) -> EncodedIntegers:
    """What the codes multiply by. Raises `SpecError`."""
    return EncodedIntegers(form.group, weights(spec, form))


def exact_float(maximum: int, activation_maximum: int, group: int) -> type:
    """The narrowest float type in which sums of `group` products, in any order, are exact."""
    bound = maximum * activation_maximum * group
    if bound <= 1 << 24:
        return np.float32
    if bound <= 1 << 53:
        return np.float64
    raise OverflowError(f"sums up to {bound} are not exact in float64")


def group_sums(x: np.ndarray, weights: np.ndarray, group: int) -> GroupSums:
    """Multiply integer activations by integer weights, exactly.

    `x` int [M, K], `weights` int [N, K]; both sums come back as int64. The products run through
    floating-point BLAS, in a type wide enough that every partial sum is an exact integer.
    """
    most = int(np.abs(weights.astype(np.int32)).max(initial=0))
    kind = exact_float(most, int(np.abs(x).max(initial=0)), group)
    bounds = group_bounds(x.shape[1], group)
    psum = np.empty((x.shape[0], len(bounds), weights.shape[0]), np.int64)
    row_sum = np.empty((x.shape[0], len(bounds)), np.int64)
    for g, (start, end) in enumerate(bounds):
        psum[:, g] = x[:, start:end].astype(kind) @ weights[:, start:end].astype(kind).T
        row_sum[:, g] = x[:, start:end].sum(axis=1)
    return GroupSums(psum, row_sum)


def encoded_sums(
    spec: Engine, x: np.ndarray, weights: EncodedIntegers, shift: np.ndarray | None = None
) -> GroupSums:
    """Multiply integer activations [M, K] by encoded weights; sums are int64.

    The leftover code -2^(bits-1) is read as the lowest activation, as the hardware does.
    """
    return group_sums(symmetric(x, spec.activations.maximum), weights.values, weights.group)
