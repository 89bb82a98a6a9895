"""Weights made zero by their magnitude in a pattern, and blocks of weights that are zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights import Grid
from evolute.sim.workload.skip_list import SkipList
from evolute.sim.workload.sparsity import NOfM, RowGroup, Sparsity
from evolute.sw.tensors.rescale import ScaledTensor
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor


def pruned(tensor: PartedTensor, pattern: Sparsity, outputs: int) -> PartedTensor:
    """The tensor with those weights zero that are least in magnitude, as `pattern` counts them; of
    blocks the mean square decides, and of equal ones the first go. A column tile has so many
    `outputs`.

    Nothing is drawn at random. Raises `QuantError` for codewords and tables, and where weights must
    become zero that have no code which counts as zero.
    """
    (part,) = tensor.parts if len(tensor.parts) == 1 else (None,)
    if part is None or not isinstance(part.form, Grid):
        raise QuantError("prune: must be of weights with a code each, got codewords or tables")
    weights = part.dequantize()
    return replace(tensor, parts=(zeroed(part, least(weights, pattern, outputs, part.group)),))


def least(
    weights: NDArray[np.float32], pattern: Sparsity, outputs: int, group: int
) -> NDArray[np.bool_]:
    """Which of `weights` [N, K], of which `group` inputs share a scale, a pattern makes zero, bool
    [N, K]."""
    n, k = weights.shape
    square = weights.astype(np.float64) ** 2
    if isinstance(pattern, NOfM):
        spare = -k % pattern.m
        padded = np.pad(square, ((0, 0), (0, spare)), constant_values=-1)
        grouped = padded.reshape(n, -1, pattern.m)
        rank = np.argsort(np.argsort(-grouped, axis=2, kind="stable"), axis=2)
        return (rank >= pattern.n).reshape(n, -1)[:, :k]
    inputs = pattern.block_inputs(k, group)
    rows = 1 if isinstance(pattern, RowGroup) else outputs
    row_starts, starts = np.arange(0, n, rows), np.arange(0, k, inputs)
    row_counts, counts = np.diff(row_starts, append=n), np.diff(starts, append=k)
    sums = np.add.reduceat(np.add.reduceat(square, starts, axis=1), row_starts, axis=0)
    means = sums / (row_counts[:, None] * counts)
    if isinstance(pattern, RowGroup):
        rank = np.argsort(np.argsort(means, axis=1, kind="stable"), axis=1)
        gone = rank < pattern.dropped(len(starts))
    else:
        rank = np.argsort(np.argsort(means, axis=None, kind="stable"))
        gone = (rank < pattern.dropped(means.size)).reshape(means.shape)
    return np.repeat(np.repeat(gone, row_counts, axis=0), counts, axis=1)


def zeroed(tensor: QuantTensor, gone: NDArray[np.bool_]) -> QuantTensor:
    """The tensor, which has a code for every weight, with some weights zero, bool [N, K].

    A scale group of zeros has the scale 0. Raises `QuantError` where a group keeps others and has
    no code that counts as zero.
    """
    assert isinstance(tensor.form, Grid)
    k = tensor.shape[1]
    starts = np.arange(0, k, tensor.group)
    counts = np.diff(starts, append=k)
    whole = np.logical_and.reduceat(gone, starts, axis=1)
    some = np.logical_or.reduceat(gone, starts, axis=1) & ~whole
    scale, minimum = np.where(whole, 0, tensor.scale), np.where(whole, 0, tensor.minimum)
    zero, has_zero = _zero_codes(tensor.format, scale.astype(np.float64), minimum)
    if (some & ~has_zero).any():
        raise QuantError(
            f"prune: must be of weights with a code for zero, {tensor.format.name} has none in a "
            "scale group; choose symmetric or ternary weights, or blocks of whole scale groups"
        )
    codes = np.where(gone, np.repeat(zero, counts, axis=1), tensor.codes)
    return replace(
        tensor,
        form=replace(tensor.form, codes=codes.astype(np.uint8)),
        scale=scale.astype(np.float32),
        minimum=minimum.astype(np.float32),
    )


def _zero_codes(
    codes: WeightCodes, scale: NDArray[np.float64], minimum: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For every scale group a code that stands for zero if any does, and whether it does."""
    if codes.specials:
        return np.zeros(scale.shape, np.int64), minimum == 0
    origin = np.divide(-minimum, scale, out=np.zeros(scale.shape), where=scale != 0)
    code = np.clip(np.rint(origin), 0, codes.levels - 1)
    return code.astype(np.int64), scale * code + minimum == 0


def skip_list(tensor: ScaledTensor, inputs: int, outputs: int) -> SkipList:
    """The blocks of `inputs` inputs of every column tile of `outputs` outputs in which a core's
    integers of some weight are not zero; of a tile of zeros the first."""
    n, k = tensor.shape
    starts = np.arange(0, k, inputs)
    kept = []
    for row in range(0, n, outputs):
        other = tensor.integers(slice(row, min(n, row + outputs))) != 0
        blocks = np.flatnonzero(np.logical_or.reduceat(other.any(axis=0), starts))
        kept.append(tuple(blocks.tolist()) or (0,))
    return SkipList(inputs, outputs, tuple(kept))
