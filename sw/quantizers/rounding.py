"""Quantizers that round to nearest, group by group."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights import Grid
from evolute.sw.tensors.tensor import SCALE_BITS, QuantError, QuantTensor, grid_of, inverse


class Scheme(enum.Enum):
    """How a grid is fitted to the weights of a group. The value is its letter in `w4g32a`."""

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
    """A quantizer that rounds to nearest."""

    format: WeightCodes
    group: int | None
    """Weights along K that share a grid; None is one grid per output channel."""
    scheme: Scheme
    clip: bool = False
    """Whether each group's grid is drawn in or out to the least squared error, in `RATIOS`."""

    @property
    def group_bits(self) -> int:
        """Bits that a group stores beside its codes."""
        if self.scheme is Scheme.ASYMMETRIC:
            return SCALE_BITS + self.format.bits
        if self.scheme is Scheme.SPECIAL_VALUE:
            return SCALE_BITS + self.format.special_bits
        return SCALE_BITS * (2 if self.scheme is Scheme.FLOAT_MINIMUM else 1)


RATIOS = np.linspace(1, 0.4, 16, dtype=np.float32)
"""What a grid is shrunk to where clipping is sought. Ternary grids are divided by it instead: the
mean magnitude is less than what serves best."""


class _Grid(NamedTuple):
    """The grids of groups: scale and minimum, both half-precision values."""

    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    origin: NDArray[np.float32]
    """The code, not always an integer, at which the grid passes through zero."""


def _half(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """`values` rounded to half precision. Raises `QuantError` if they overflow."""
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


class _Rounded(NamedTuple):
    """Rows that are rounded to one grid: scale, minimum and special value per group, and codes [N,
    K]."""

    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    special: int
    codes: NDArray[np.uint8]
    values: NDArray[np.float32]
    """What codes count as."""


_BLOCK_WEIGHTS = 1 << 20
"""Weights whose every grid is tried at once; keeps intermediates small."""


def quantize(
    w: NDArray[np.float32], rounding: Rounding, importance: NDArray[np.floating] | None = None
) -> QuantTensor:
    """`w` [N, K] rounded to the nearest code, group by group. Raises `QuantError`.

    Codes are chosen after scales are rounded to half precision, so that errors are those of the
    stored weights. If several grids are tried, each group takes the first one with the least
    squared error; a column's error counts with its `importance` [K], by default 1.
    """
    k, kind = w.shape[1], rounding.format
    group = min(rounding.group or k, k)
    starts = np.arange(0, k, group)
    counts = np.minimum(group, k - starts)
    shape = (len(w), len(starts))
    codes = np.zeros(w.shape, np.uint8)
    scale, minimum = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    special = np.zeros(shape, np.uint8)
    one_grid = not (rounding.clip or kind.specials)
    factor = None if importance is None else importance.astype(np.float32)
    rows = max(1, _BLOCK_WEIGHTS // k)
    for block in (slice(start, start + rows) for start in range(0, len(w), rows)):
        least_error = np.full((len(w[block]), len(starts)), np.inf)
        for tried in _tries(w[block], rounding, starts, counts):
            if one_grid:
                codes[block], scale[block], minimum[block] = tried.codes, tried[0], tried[1]
                break
            difference = tried.values * np.repeat(tried.scale, counts, axis=1) - w[block]
            difference += np.repeat(tried.minimum, counts, axis=1)
            difference *= difference
            if factor is not None:
                difference *= factor
            error = np.add.reduceat(difference, starts, axis=1)
            better = error < least_error
            least_error[better] = error[better]
            scale[block][better] = tried.scale[better]
            minimum[block][better] = tried.minimum[better]
            special[block][better] = tried.special
            np.copyto(codes[block], tried.codes, where=np.repeat(better, counts, axis=1))
    return QuantTensor(Grid(codes, kind, group, special), scale, minimum, rounding.group_bits)


def _tries(
    w: NDArray[np.float32], rounding: Rounding, starts: NDArray, counts: NDArray
) -> Iterator[_Rounded]:
    """`w` rounded to each grid that is tried; the first one is that of the scheme itself."""
    kind = rounding.format
    for ratio in RATIOS if rounding.clip else RATIOS[:1]:
        if rounding.scheme is Scheme.SPECIAL_VALUE:
            largest = np.maximum.reduceat(np.abs(w), starts, axis=1) * ratio
            for special in range(len(kind.specials)):
                yield _to_special(w, kind, special, largest, counts)
            continue
        stretched = w / ratio if rounding.scheme is Scheme.ABSMEAN else w * ratio
        grid = _GRIDS[rounding.scheme](stretched, starts, counts, kind.bits)
        steps = w * np.repeat(inverse(grid.scale), counts, axis=1)
        steps += np.repeat(grid.origin, counts, axis=1)
        values = np.clip(np.rint(steps, out=steps), 0, kind.levels - 1, out=steps)
        yield _Rounded(grid.scale, grid.minimum, 0, values.astype(np.uint8), values)


def _to_special(
    w: NDArray[np.float32], kind: WeightCodes, special: int, largest: NDArray, counts: NDArray
) -> _Rounded:
    """`w` rounded to the grid with one special value, with scales for the largest magnitudes of
    groups, `largest`."""
    values = np.array(kind.values(special), np.float32)
    scale = _half(largest / np.abs(values).max())
    of_code = np.repeat(scale, counts, axis=1)
    steps = np.divide(w, of_code, out=np.zeros_like(w), where=of_code != 0)
    codes = _nearest(kind, special).take(_place(kind, special, steps))
    return _Rounded(scale, np.zeros_like(scale), special, codes, values.take(codes))


def _nearest(codes: WeightCodes, special: int) -> NDArray[np.uint8]:
    """A table of the nearest code for numbers x, indexed by `_place`; of two equally near ones, the
    lower value.

    Values are integers, so the borders between the nearest codes are multiples of one half.
    """
    values = np.array(codes.values(special))
    order = np.argsort(values)
    limits = (values[order][1:] + values[order][:-1]) / 2
    limit = 2 * np.abs(values).max()
    nearest_codes = order[np.searchsorted(limits, np.arange(-limit, limit + 1) / 2)]
    return nearest_codes.astype(np.uint8)


def _place(codes: WeightCodes, special: int, x: NDArray[np.floating]) -> NDArray[np.int8]:
    """The index of a number x in the table of `_nearest`: ceil(2 * x), limited and shifted to start
    at 0."""
    limit = 2 * max(map(abs, codes.values(special)))
    return np.clip(np.ceil(2 * x), -limit, limit).astype(np.int8) + np.int8(limit)


ColumnRounder: TypeAlias = Callable[
    [int, NDArray[np.float64]], tuple[NDArray[np.uint8], NDArray[np.float64]]
]
"""A column's number and new weights [N] -> their codes, and the weights that these stand for."""


def column_rounder(tensor: QuantTensor) -> ColumnRounder:
    """A function that rounds columns one by one to the existing grids of `tensor` [N, K]."""
    grid, kind, group = grid_of(tensor), tensor.format, tensor.group
    scale, minimum = tensor.scale.T.astype(np.float64), tensor.minimum.T.astype(np.float64)
    steps = inverse(scale)
    if not kind.specials:
        origin = -minimum * steps

        def to_integers(
            column: int, w: NDArray[np.float64]
        ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
            g = column // group
            codes = np.clip(np.rint(w * steps[g] + origin[g]), 0, kind.levels - 1)
            return codes.astype(np.uint8), codes * scale[g] + minimum[g]

        return to_integers
    of_special = grid.special.T
    tables = [
        (_nearest(kind, special), np.array(kind.values(special), np.float64))
        for special in range(len(kind.specials))
    ]

    def to_specials(
        column: int, w: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        g = column // group
        codes, values = np.zeros(len(w), np.uint8), np.zeros(len(w))
        for special_index, (nearest, counts_as) in enumerate(tables):
            here = of_special[g] == special_index
            x = w[here] * steps[g][here]
            codes[here] = nearest.take(_place(kind, special_index, x))
            values[here] = counts_as.take(codes[here])
        return codes, values * scale[g]

    return to_specials
