"""Products of integer activations with weights in scale groups, exact and fast.

    total[m, n] = sum over k of x[m, k] * w[n, k],  w[n, k] = scale[n, g] * v[n, k] + offset[n, g]

All products and partial sums are exact in float64, so any order of summation gives the same bits.
In general this is a plain matrix product with dequantized weights. If activations and values v have
at most 8 bits, the sums of groups are computed with a processor's integer instructions instead, by
`native/group_products.cpp`, which is compiled on first use. That takes half the time of the same
product in float32, and a quarter of that of the plain product.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.support.native import library
from evolute.sw.tensors.rescale import ScaledTensor
from evolute.sw.tensors.tensor import QuantTensor

_OUTPUTS, _QUAD = 16, 4
"""Neighbouring outputs, and codes along K, of one word of `native/group_products.cpp`."""

BLOCK_BYTES = 1 << 22
"""Memory of one block of an intermediate array; near a core's second-level cache."""

_SOURCE = Path(__file__).parent / "native" / "group_products.cpp"

_LARGEST_CODE = {1: 128, 2: 255}
"""By the instructions that the native product is made of."""

_EXACT = 1 << 53
"""Integers below it are exact in float64."""


Product: TypeAlias = Callable[[NDArray[np.integer]], NDArray[np.float64]]
"""What an engine with exact sums computes: activations [M, K] -> [M, N]."""


def product_of(tensor: QuantTensor | ScaledTensor) -> Product:
    """The product with a tensor's weights. For a `ScaledTensor`, the result is without its unit."""
    packed = _pack(tensor, best_instructions())

    def product(x: NDArray[np.integer]) -> NDArray[np.float64]:
        meets = tensor.form.operand(x)
        if packed is not None and max(-int(meets.min()), int(meets.max())) < 1 << 7:
            return packed.product(meets)
        return _plain(tensor, meets)

    return product


def matrix_product(x: NDArray, weight: NDArray) -> NDArray:
    """x @ weight.T. A single row is passed as a vector, because BLAS's matrix path is far slower
    for it."""
    return (weight @ x[0])[None] if len(x) == 1 else x @ weight.T


def _plain(tensor: QuantTensor | ScaledTensor, x: NDArray[np.integer]) -> NDArray[np.float64]:
    """x @ w.T for x [M, K], with the weights in float64."""
    n, k = tensor.codes.shape
    integers, total = x.astype(np.float64), np.empty((len(x), n))
    step = max(1, BLOCK_BYTES // (8 * k))
    for start in range(0, n, step):
        block = slice(start, start + step)
        if isinstance(tensor, ScaledTensor):
            rows = tensor.integers(block)
        else:
            rows = tensor.rows(block, np.float64)
        total[:, block] = matrix_product(integers, rows)
    return total


@dataclass(frozen=True, eq=False)
class _Packed:
    """Weights in the form of `native/group_products.cpp`, whose values start from 0.

    `u` is uint8 [blocks, quads, 16, 4]; `scale` and `offset` are float64 [G, blocks * 16].
    """

    instructions: int
    n: int
    k: int
    group: int
    u: NDArray[np.uint8]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def product(self, x: NDArray[np.integer]) -> NDArray[np.float64]:
        """x @ w.T for x [M, K] within 8 bits."""
        compiled = _library()
        assert compiled is not None
        blocks, quads, *_ = self.u.shape
        rows = np.zeros((len(x), quads * _QUAD), np.int8)
        rows[:, : self.k] = x
        starts = np.arange(0, self.k, self.group)
        inputs = np.add.reduceat(x, starts, axis=1, dtype=np.int64).astype(np.float64)
        total = np.empty((len(x), blocks * _OUTPUTS))
        counts = (len(x), quads, blocks, -(-self.group // _QUAD))
        arrays = (rows, self.u, self.scale, self.offset, inputs, total)
        compiled.group_products(
            self.instructions,
            *map(ctypes.c_long, counts),
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        )
        return total[:, : self.n]


def best_instructions() -> int:
    """The number of the best instruction set of this machine for the native product; 0 for none."""
    compiled = _library()
    return 0 if compiled is None else compiled.instructions()


def _pack(tensor: QuantTensor | ScaledTensor, instructions: int) -> _Packed | None:
    """The tensor in the form of the native product; None if that does not support it or would not
    be exact."""
    table = tensor.table.astype(np.int64)
    n, k = tensor.codes.shape
    group, least = min(tensor.form.group_codes, k), table.min()
    step = max(1, np.gcd.reduce((table - least).ravel()))
    span = int(table.max() - least) // step
    if span > _LARGEST_CODE.get(instructions, 0) or (group < k and group % _QUAD):
        return None
    scale = tensor.scale.astype(np.float64)
    scale, offset = scale * step, tensor.offsets + scale * least
    inputs = group << 7
    sums = (np.abs(scale) * span + np.abs(offset)).sum(axis=1).max(initial=0) * inputs
    unit = min(_unit(scale), _unit(offset))
    if span * inputs >= 1 << 31 or not sums < _EXACT * unit:
        return None
    blocks, quads = -(-n // _OUTPUTS), -(-k // _QUAD)
    u = np.zeros((blocks * _OUTPUTS, quads * _QUAD), np.uint8)
    counts = ((table - least) // step).astype(np.uint8)
    u[:n, :k] = tensor.form.counted(counts)
    u = u.reshape(blocks, _OUTPUTS, quads, _QUAD).transpose(0, 2, 1, 3)
    return _Packed(
        instructions, n, k, group, np.ascontiguousarray(u), _columns(scale), _columns(offset)
    )


def _columns(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number per group and output, rearranged from [N, G] to [G, blocks * 16]."""
    n, groups = values.shape
    columns = np.zeros((groups, -(-n // _OUTPUTS) * _OUTPUTS))
    columns[:, :n] = values.T
    return columns


def _unit(values: NDArray[np.float64]) -> float:
    """The largest power of two of which all values are multiples; infinity for zeros alone."""
    significand, exponent = np.frexp(values)
    integers = (significand * _EXACT).astype(np.int64)
    lowest = np.ldexp((integers & -integers).astype(np.float64), exponent - 53)
    return float(lowest.min(where=values != 0, initial=np.inf))


def _library() -> ctypes.CDLL | None:
    """The compiled native products; None if they cannot be compiled, which is reported once."""
    built = library(_SOURCE, "products")
    if built is not None:
        built.group_products.restype = None
    return built
