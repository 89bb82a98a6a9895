"""Weight matrices made of codes, as files, quantizers and engines share them.

Scales are half-precision values, as they are stored. With integer activations, every sum of a
linear layer is then exact in float64 (`sw.language_model.linear`), in any order of summation.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights import Form, Grid, Rows
from evolute.support.errors import RefusedError

SCALE_BITS = 16
"""Stored width of a group's scale or minimum: IEEE half precision; and of the one scale of a matrix
whose groups have none, which may be BF16 as well."""


class QuantError(RefusedError):
    """A choice of weights that does not exist, or numbers that codes cannot represent."""


def inverse(scale: NDArray[np.floating]) -> NDArray:
    """1 / scale, and 0 where the scale is 0, as for a group of zeros."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def spread(
    values: NDArray[np.float64], scale: NDArray, offset: NDArray, group: int
) -> NDArray[np.float64]:
    """values[n, k] * scale[n, g] + offset[n, g] with g = k // group, written into `values`."""
    k = values.shape[1]
    scale, offset = scale.astype(np.float64), offset.astype(np.float64)  # once for each group
    if k % group:
        values *= np.repeat(scale, group, axis=1)[:, :k]
        values += np.repeat(offset, group, axis=1)[:, :k]
    else:  # the same by broadcasting, several times faster
        grouped = values.reshape(len(values), -1, group)
        grouped *= scale[:, :, None]
        grouped += offset[:, :, None]
    return values


@dataclass(frozen=True, eq=False)
class CodedWeights:
    """A weight matrix whose codes are in one of the forms of `sim.weights`. Subclasses define the
    scales."""

    form: Form

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The code of every weight, uint8 [N, K], or of every entry of a table."""
        return self.form.codes

    @property
    def format(self) -> WeightCodes:
        """The values that the codes stand for."""
        return self.form.format

    @property
    def group(self) -> int:
        """The number of inputs that share a scale."""
        return self.form.group

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.form.shape


@dataclass(frozen=True, eq=False)
class QuantTensor(CodedWeights):
    """A weight matrix w[n, k] = scale[n, g] * v + minimum[n, g], with g = k // group.

    v is the value of the code at n and k in `form`. `scale` and `minimum` are float32 [N, G] with G
    = ceil(K / group); the last group may be shorter. Scales are half-precision values, or one
    float32 for the whole matrix, with which sums are just as exact. Minima are half-precision
    values, or multiples of half their scale. `group_bits` is the number of bits that one group
    stores beside its codes.

    Entries of a `Table` are not weights, but they are scaled in the same way: the entries of a
    subspace belong to the group of its inputs.
    """

    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    group_bits: int

    @property
    def code_bits(self) -> int:
        """Bits of all codes, or of indices and codebooks; for tables, with their centroids."""
        return self.form.stored.total

    @property
    def scale_bits(self) -> int:
        """Bits that groups store beside their codes, or bits of the one scale of the matrix."""
        return self.scale.size * self.group_bits or SCALE_BITS

    @property
    def total_bits(self) -> int:
        """Bits of all codes and scales."""
        return self.code_bits + self.scale_bits

    @property
    def table(self) -> NDArray[np.float64]:
        """The integer that each code stands for, float64 [specials, levels]."""
        specials = range(max(1, len(self.format.specials)))
        return np.array([self.format.values(special) for special in specials], np.float64)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """What each group adds to every one of its weights, float64 [N, G]."""
        return self.minimum.astype(np.float64)

    def rows(self, rows: Rows, dtype: type[np.floating]) -> NDArray:
        """The selected rows, dequantized, [rows, K], or all entries of tables, [rows, subspaces *
        c]. Exact in float64, rounded once in float32."""
        if self.format.specials:
            values = self.form.counted(self.table, rows)
        else:  # every code counts as itself
            values = self.codes[rows].astype(np.float64)
        weights = spread(values, self.scale[rows], self.minimum[rows], self.form.group_codes)
        return weights.astype(dtype, copy=False)

    def dequantize(self) -> NDArray[np.float32]:
        """The whole matrix, float32 [N, K]. Raises `QuantError` for tables, which hold no
        weights."""
        if not self.form.is_of_weights:
            raise QuantError("tables by centroid stand for no weights that could be used otherwise")
        matrix = np.empty(self.shape, np.float32)
        for start in range(0, len(matrix), 4096):  # keeps the float64 intermediate small
            block = slice(start, start + 4096)
            matrix[block] = self.rows(block, np.float32)
        return matrix


ORDER_BITS = 16
"""Stored width of a column's place."""


@dataclass(frozen=True, eq=False)
class PartedTensor:
    """Tensors of different kinds side by side, with a transformation of their inputs:

        w[n, order[c]] = scale[order[c]] * v[n, c] + bias[order[c]]

    where v is the parts side by side along K: for example outlier columns, or groups of columns
    that have a codebook of their own (VPTQ, arXiv 2409.17066, section 3). The product is therefore
    y = v @ (scale * x)[order], and each output also gets sum(bias * x).

    `order` is int64 [K]; `scale` and `bias` are float32 [K] with half-precision values, in the
    order of the inputs. Each is None if it is not needed.
    """

    parts: tuple[QuantTensor, ...]
    order: NDArray[np.int64] | None = None
    scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    @property
    def columns(self) -> tuple[slice, ...]:
        """The stored columns of each part."""
        ends = list(itertools.accumulate((part.shape[1] for part in self.parts), initial=0))
        return tuple(slice(*bounds) for bounds in itertools.pairwise(ends))

    @property
    def code_bits(self) -> int:
        """Bits of all codes, or of indices and codebooks."""
        return sum(part.code_bits for part in self.parts)

    @property
    def column_bits(self) -> int:
        """Bits that a column stores beside its codes."""
        per_column = (self.order, ORDER_BITS), (self.scale, SCALE_BITS), (self.bias, SCALE_BITS)
        return sum(bits for values, bits in per_column if values is not None)

    @property
    def total_bits(self) -> int:
        """Bits of all codes and of what groups and columns store beside them."""
        return sum(part.total_bits for part in self.parts) + self.shape[1] * self.column_bits

    def inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inputs x [M, K] after the transformation, in float32, as the parts take them."""
        scaled = x if self.scale is None else x * self.scale
        return scaled if self.order is None else scaled[:, self.order]

    def added(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the bias adds to every output of a row, float64 [M]."""
        assert self.bias is not None
        return x.astype(np.float64) @ self.bias.astype(np.float64)

    def rows(self, rows: Rows, dtype: type[np.floating]) -> NDArray:
        """The selected rows, dequantized, [rows, K]."""
        return self._in_place(np.concatenate([part.rows(rows, dtype) for part in self.parts], 1))

    def dequantize(self) -> NDArray[np.float32]:
        """The whole matrix, float32 [N, K]."""
        return self._in_place(np.concatenate([part.dequantize() for part in self.parts], 1))

    def _in_place(self, stored: NDArray) -> NDArray:
        """Rows of the parts side by side, turned into rows of weights."""
        rows = stored if self.order is None else np.empty_like(stored)
        if self.order is not None:
            rows[:, self.order] = stored
        if self.scale is not None:
            rows *= self.scale
        if self.bias is not None:
            rows += self.bias
        return rows


Coded: TypeAlias = QuantTensor | PartedTensor
"""Weights in codes."""


def parted(tensor: Coded) -> PartedTensor:
    """The tensor as a `PartedTensor`; a plain tensor becomes its only part."""
    return tensor if isinstance(tensor, PartedTensor) else PartedTensor((tensor,))


def grid_of(tensor: QuantTensor) -> Grid:
    """The form of a tensor that has a code for every weight."""
    assert isinstance(tensor.form, Grid)
    return tensor.form


def rows_of(tensor: Coded, rows: Rows) -> Coded:
    """Some rows of a tensor. Raises ValueError for vectors along N, because one vector belongs to
    several rows."""
    if isinstance(tensor, PartedTensor):
        return replace(tensor, parts=tuple(_rows_of(part, rows) for part in tensor.parts))
    return _rows_of(tensor, rows)


def _rows_of(tensor: QuantTensor, rows: Rows) -> QuantTensor:
    return replace(
        tensor,
        form=tensor.form.of_outputs(rows),
        scale=tensor.scale[rows],
        minimum=tensor.minimum[rows],
    )
