"""Round-to-nearest quantizers, group by group."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.spec.formats import WeightCodes
from sw.tensor import SCALE_BITS, QuantError, QuantTensor, inverse


class Scheme(enum.Enum):
    """How a group's grid is laid through its weights; the value is its letter in `w4g32a`."""

    SYMMETRIC = "s"
    """Zero is the code 2^(bits-1); the largest magnitude decides. One bit: sign times mean."""
    ASYMMETRIC = "a"
    """From the least to the greatest weight, zero included, with an integer zero point."""
    FLOAT_MINIMUM = "f"
    """From the least to the greatest weight, w = d*q + m with its own minimum m."""
    ABSMEAN = ""
    """Ternary: -1, 0 or 1 times the mean magnitude (BitNet b1.58, arXiv 2402.17764, Eq. 1-3)."""
    SPECIAL_VALUE = "b"
    """Of BitMoD's grids, one per special value, that of least squared error; the largest magnitude
    decides its scale (HPCA 2025, section III-A)."""


@dataclass(frozen=True)
class Rounding:
    """A round-to-nearest quantizer."""

    format: WeightCodes
    group: int | None
    """Weights along K that share a grid; None is one grid per output channel."""
    scheme: Scheme

    @property
    def group_bits(self) -> int:
        """Bits that one group stores beside its codes."""
        if self.scheme is Scheme.ASYMMETRIC:
            return SCALE_BITS + self.format.bits
        if self.scheme is Scheme.SPECIAL_VALUE:
            return SCALE_BITS + self.format.special_bits
        return SCALE_BITS * (2 if self.scheme is Scheme.FLOAT_MINIMUM else 1)


class _Grid(NamedTuple):
    """Per group: scale in half precision, minimum, and the codes of the repeated weights."""

    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    origin: NDArray[np.float32]
    """The code, not always an integer, at which the grid passes through zero."""


def _half(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """`values` as half precision holds them. Raises `QuantError` where they overflow."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise QuantError("a weight group is not finite or too large for a half-precision scale")
    return rounded


def _symmetric(w: NDArray, starts: NDArray, counts: NDArray, bits: int) -> _Grid:
    if bits == 1:
        half = _half(np.add.reduceat(np.abs(w), starts, axis=1) / counts)
        return _Grid(2 * half, -half, np.full_like(half, 0.5))
    zero = 1 << (bits - 1)
    scale = _half(np.maximum.reduceat(np.abs(w), starts, axis=1) / (zero - 1))
    return _Grid(scale, -zero * scale, np.full_like(scale, zero))


def _asymmetric(w: NDArray, starts: NDArray, _counts: NDArray, bits: int) -> _Grid:
    low = np.minimum(np.minimum.reduceat(w, starts, axis=1), 0)
    high = np.maximum(np.maximum.reduceat(w, starts, axis=1), 0)
    scale = _half((high - low) / ((1 << bits) - 1))
    zero = np.clip(np.rint(-low * inverse(scale)), 0, (1 << bits) - 1)
    return _Grid(scale, -zero * scale, zero)


def _float_minimum(w: NDArray, starts: NDArray, _counts: NDArray, bits: int) -> _Grid:
    low = _half(np.minimum.reduceat(w, starts, axis=1))
    scale = _half((np.maximum.reduceat(w, starts, axis=1) - low) / ((1 << bits) - 1))
    return _Grid(scale, low, -low * inverse(scale))


def _absmean(w: NDArray, starts: NDArray, counts: NDArray, _bits: int) -> _Grid:
    scale = _half(np.add.reduceat(np.abs(w), starts, axis=1) / counts)
    return _Grid(scale, -scale, np.ones_like(scale))


_GRIDS: dict[Scheme, Callable[[NDArray, NDArray, NDArray, int], _Grid]] = {
    Scheme.SYMMETRIC: _symmetric,
    Scheme.ASYMMETRIC: _asymmetric,
    Scheme.FLOAT_MINIMUM: _float_minimum,
    Scheme.ABSMEAN: _absmean,
}


def quantize(w: NDArray[np.float32], rounding: Rounding) -> QuantTensor:
    """`w` [N, K] rounded to the nearest code, group by group. Raises `QuantError`.

    Codes are chosen after the scales were rounded to half precision, so that what is evaluated is
    what is stored.
    """
    k = w.shape[1]
    group = min(rounding.group or k, k)
    starts = np.arange(0, k, group)
    counts = np.minimum(group, k - starts)
    codes = rounding.format
    if rounding.scheme is Scheme.SPECIAL_VALUE:
        return _with_special_values(w, rounding, group, starts, counts)
    grid = _GRIDS[rounding.scheme](w, starts, counts, codes.bits)
    steps = w * np.repeat(inverse(grid.scale), counts, axis=1)
    steps += np.repeat(grid.origin, counts, axis=1)
    return QuantTensor(
        codes=np.clip(np.rint(steps), 0, codes.levels - 1).astype(np.uint8),
        format=codes,
        group=group,
        scale=grid.scale,
        minimum=grid.minimum,
        group_bits=rounding.group_bits,
    )


def _nearest(codes: WeightCodes, special: int) -> NDArray[np.uint8]:
    """The code of the value nearest to any number x, the lower of two, at ceil(2 * x) plus twice
    the greatest magnitude of a value: values are integers, and what lies between two of them is
    nearer to one up to some half."""
    values = np.array(codes.values(special))
    order = np.argsort(values)
    limits = (values[order][1:] + values[order][:-1]) / 2
    most = 2 * np.abs(values).max()
    found = order[np.searchsorted(limits, np.arange(-most, most + 1) / 2)]
    return found.astype(np.uint8)


_BLOCK_WEIGHTS = 1 << 20
"""Weights whose every grid is tried at once; keeps intermediates small."""


def _with_special_values(
    w: NDArray[np.float32], rounding: Rounding, group: int, starts: NDArray, counts: NDArray
) -> QuantTensor:
    """`quantize` to grids with special values: of grids with equal errors a group has the first."""
    kind, shape = rounding.format, (len(w), len(starts))
    codes = np.zeros(w.shape, np.uint8)
    scale, special = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    rows = max(1, _BLOCK_WEIGHTS // w.shape[1])
    for block in (slice(start, start + rows) for start in range(0, len(w), rows)):
        part = w[block]
        largest = np.maximum.reduceat(np.abs(part), starts, axis=1)
        least_error = np.full(largest.shape, np.inf)
        for each in range(len(kind.specials)):
            values = np.array(kind.values(each), np.float32)
            most = int(np.abs(values).max())
            tried = _half(largest / most)
            of_code = np.repeat(tried, counts, axis=1)
            steps = np.divide(part, of_code, out=np.zeros_like(part), where=of_code != 0)
            place = np.clip(np.ceil(2 * steps), -2 * most, 2 * most).astype(np.int8)
            found = _nearest(kind, each).take(place + np.int8(2 * most))
            difference = values.take(found) * of_code - part
            error = np.add.reduceat(difference * difference, starts, axis=1)
            better = error < least_error
            least_error[better] = error[better]
            scale[block][better], special[block][better] = tried[better], each
            np.copyto(codes[block], found, where=np.repeat(better, counts, axis=1))
    minimum = np.zeros(shape, np.float32)
    return QuantTensor(codes, kind, group, scale, minimum, rounding.group_bits, special)
