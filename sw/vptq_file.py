"""The published form of VPTQ layers: packed index streams, and what folds into activations.

Layout after the `vptq` package 0.0.5.post1 (microsoft/VPTQ, MIT), whose layers hold `indices` int32
[groups, rows of codewords, words]. A row is one little-endian stream: field j occupies bits
[j*T, (j+1)*T) with T = log2 k + log2 k2; its low log2 k bits are the index of the codeword, the
others that of the residual's. Words have 32 bits, lowest bit first, and a field may straddle two.

Columns are stored in an order of their own, and have a scale and a bias:

    w[m, perm[c]] = scale[perm[c]] * v[m, c] + bias[perm[c]]

so that y = v @ (scale * x)[perm] + sum(bias * x), the last term being the same for every output.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import require

WORD_BITS = 32
_WORD = np.dtype("<u4")


class Indices(NamedTuple):
    """Indices of codewords and, where there is a residual codebook, of what is added to them."""

    main: NDArray[np.int64]
    residual: NDArray[np.int64] | None = None


def pack_indices(indices: Indices, main_bits: int, residual_bits: int = 0) -> NDArray[np.int32]:
    """Index streams of rows [..., columns] as words, int32 [..., words]."""
    fields = indices.main.astype(np.int64)
    require(_fits(fields, main_bits), "main", f"below 2^{main_bits}", int(fields.max(initial=0)))
    if indices.residual is not None:
        residual = indices.residual.astype(np.int64)
        rule = f"below 2^{residual_bits}"
        require(_fits(residual, residual_bits), "residual", rule, int(residual.max(initial=0)))
        fields = fields | residual << main_bits
    bits = fields[..., None] >> np.arange(main_bits + residual_bits) & 1
    stream = bits.astype(np.uint8).reshape(*fields.shape[:-1], -1)
    padding = [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % WORD_BITS)]
    packed = np.packbits(np.pad(stream, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(_WORD).astype(np.uint32).view(np.int32)


def unpack_indices(
    words: NDArray[np.int32], columns: int, main_bits: int, residual_bits: int = 0
) -> Indices:
    """The indices in rows of words [..., words], each [..., columns]."""
    width = main_bits + residual_bits
    most = words.shape[-1] * WORD_BITS // width
    require(columns <= most, "columns", f"at most {most} in {words.shape[-1]} words", columns)
    stored = np.ascontiguousarray(words).view(np.uint32).astype(_WORD)
    bits = np.unpackbits(stored.view(np.uint8), axis=-1, count=columns * width, bitorder="little")
    fields = bits.reshape(*words.shape[:-1], columns, width).astype(np.int64)
    fields = fields @ (np.int64(1) << np.arange(width))
    main = fields & (1 << main_bits) - 1
    return Indices(main, fields >> main_bits if residual_bits else None)


def _fits(values: NDArray[np.int64], bits: int) -> bool:
    return bool(((values >= 0) & (values < 1 << bits)).all())


def join_groups(parts: NDArray, outputs: int) -> NDArray:
    """Decoded weights [outputs, groups * columns] of codewords [groups, rows, columns, v].

    Codewords lie along outputs; those of the last row that exceed `outputs` are padding.
    """
    groups, rows, columns, v = parts.shape
    whole = parts.transpose(1, 3, 0, 2).reshape(rows * v, groups * columns)
    return whole[:outputs]


def with_outliers(outliers: NDArray, rest: NDArray) -> NDArray:
    """Weights in stored order: the outlier columns, which have a codebook of their own, come first.

    Each is [outputs, its columns].
    """
    return np.concatenate([outliers, rest], axis=1)


class Folded(NamedTuple):
    """Activations for weights as stored, and what is added to every output of a row."""

    x: NDArray[np.float64]
    bias: NDArray[np.float64]


def fold_columns(
    x: NDArray[np.floating],
    permutation: NDArray[np.integer] | None = None,
    scale: NDArray[np.floating] | None = None,
    bias: NDArray[np.floating] | None = None,
) -> Folded:
    """Put columns' order, scale and bias into activations [M, K].

    With v the weights as stored, [N, K], the layer's output is x' @ v.T + bias[:, None]. Column c
    as stored belongs to input `permutation[c]`, as saved in the uint16 that int16 stands for.
    """
    given = x.astype(np.float64)
    added = np.zeros(len(x)) if bias is None else given @ bias.astype(np.float64)
    scaled = given if scale is None else given * scale.astype(np.float64)
    if permutation is not None:
        scaled = scaled[:, column_order(permutation)]
    return Folded(scaled, added)


def column_order(permutation: NDArray[np.integer]) -> NDArray[np.int64]:
    """A stored permutation, int16 that stands for uint16 or wider, as indices."""
    if permutation.dtype == np.int16:
        permutation = permutation.view(np.uint16)
    order = permutation.astype(np.int64)
    whole = np.array_equal(np.sort(order), np.arange(len(order)))
    require(whole, "permutation", f"an order of {len(order)} columns", order.tolist()[:8])
    return order
