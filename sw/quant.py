"""Numbers with few bits: weight tensors of codes, round-to-nearest quantizers, activations.

Scales are kept in the half precision they are stored in. Together with integer activations that
makes every sum of a linear layer exact in float64 (`sw.linear`), whatever order it is added in.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import RefusedError
from hw.spec.formats import Activations, WeightCodes

SCALE_BITS = 16
"""Stored width of a group's scale or minimum: IEEE half precision."""


UNIT_BITS = 32
"""Stored width of an output's unit beside a core's integer scales."""


class QuantError(RefusedError):
    """A choice of weights that does not exist, or numbers that no code can hold."""


def _spread(
    values: NDArray[np.float64], scale: NDArray, offset: NDArray, group: int
) -> NDArray[np.float64]:
    """values[n, k] * scale[n, g] + offset[n, g] with g = k // group, in the place of `values`."""
    k = values.shape[1]
    if k % group:
        values *= np.repeat(scale, group, axis=1)[:, :k]
        values += np.repeat(offset, group, axis=1)[:, :k]
    else:  # the same by broadcasting, several times faster
        grouped = values.reshape(len(values), -1, group)
        grouped *= scale[:, :, None]
        grouped += offset[:, :, None]
    return values


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A weight matrix w[n, k] = scale[n, g] * codes[n, k] + minimum[n, g], with g = k // group.

    `codes` is uint8[N, K]; `scale` and `minimum` are float32[N, G], G = ceil(K / group), the last
    group may be short. Scales are half-precision values, and minima are half-precision values or
    half-integer multiples of their scale. `group_bits` is what one group stores beside its codes.
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    group: int
    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    group_bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def index_bits(self) -> int:
        """Bits of all codes, as the planes that an engine reads."""
        return self.codes.size * self.format.planes

    @property
    def total_bits(self) -> int:
        """Bits of all codes and of what their groups store beside them."""
        return self.index_bits + self.scale.size * self.group_bits

    def rows(self, rows: slice | NDArray[np.integer], dtype: type[np.floating]) -> NDArray:
        """The chosen rows dequantized, [rows, K]; exact in float64, rounded once in float32."""
        codes = self.codes[rows].astype(np.float64)
        spread = _spread(codes, self.scale[rows], self.minimum[rows], self.group)
        return spread.astype(dtype, copy=False)

    def dequantize(self) -> NDArray[np.float32]:
        """The whole matrix, float32[N, K]."""
        whole = np.empty(self.shape, np.float32)
        for start in range(0, len(whole), 4096):  # keeps the float64 intermediate small
            block = slice(start, start + 4096)
            whole[block] = self.rows(block, np.float32)
        return whole


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
        return SCALE_BITS * (2 if self.scheme is Scheme.FLOAT_MINIMUM else 1)


@dataclass(frozen=True)
class Weights:
    """A choice of weights by name; `rounding` is None for `native` and `float`."""

    name: str
    rounding: Rounding | None = None

    @property
    def method(self) -> str:
        """In words, how the weights came about."""
        if self.rounding:
            return f"round to nearest, {self.rounding.scheme.name.lower().replace('_', ' ')}"
        return "codes as shipped" if self == NATIVE else "float32 as shipped"


NATIVE = Weights("native")
"""The checkpoint's own codes, where it has codes; nothing is quantized twice."""
FLOAT = Weights("float")
"""The checkpoint as shipped, in float32 on the host."""

GRAMMAR = "native, float, w<1-8>[g<group>][s|a|f] or t[g<group>], such as w4g32, w2g128s, tg128"


def parse_weights(text: str) -> Weights:
    """The choice that `text` names.

    `native`; `float`; `w4g32` = 4 bits in groups of 32 along K, followed by `s` symmetric, `a`
    asymmetric with an integer zero point (the default) or `f` float minimum; `tg128` = ternary.
    Without a group, or with `g0`, each output channel has one grid. Raises `QuantError`.
    """
    for choice in (NATIVE, FLOAT):
        if text == choice.name:
            return choice
    match = re.fullmatch(r"(?:w([1-8])(?:g(\d{1,6}))?([saf])?)|(?:t(?:g(\d{1,6}))?)", text)
    if not match:
        raise QuantError(f"weights: must be {GRAMMAR}; got {text!r}")
    bits, group, scheme, ternary_group = match.groups()
    if bits is None:
        return Weights(text, Rounding(WeightCodes(2, True), _group(ternary_group), Scheme.ABSMEAN))
    return Weights(text, Rounding(WeightCodes(int(bits)), _group(group), Scheme(scheme or "a")))


def _group(text: str | None) -> int | None:
    return int(text or 0) or None


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


def _inverse(scale: NDArray[np.floating]) -> NDArray:
    """1 / scale, and 0 where a group is all zero."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


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
    zero = np.clip(np.rint(-low * _inverse(scale)), 0, (1 << bits) - 1)
    return _Grid(scale, -zero * scale, zero)


def _float_minimum(w: NDArray, starts: NDArray, _counts: NDArray, bits: int) -> _Grid:
    low = _half(np.minimum.reduceat(w, starts, axis=1))
    scale = _half((np.maximum.reduceat(w, starts, axis=1) - low) / ((1 << bits) - 1))
    return _Grid(scale, low, -low * _inverse(scale))


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
    grid = _GRIDS[rounding.scheme](w, starts, counts, codes.bits)
    steps = w * np.repeat(_inverse(grid.scale), counts, axis=1)
    steps += np.repeat(grid.origin, counts, axis=1)
    return QuantTensor(
        codes=np.clip(np.rint(steps), 0, codes.levels - 1).astype(np.uint8),
        format=codes,
        group=group,
        scale=grid.scale,
        minimum=grid.minimum,
        group_bits=rounding.group_bits,
    )


@dataclass(frozen=True, eq=False)
class QuantActivations:
    """Rows of activations a[m, k] = scale[m] * x[m, k]; x int32[M, K], scale float32[M]."""

    x: NDArray[np.int32]
    scale: NDArray[np.float32]


def quantize_activations(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Each row (token) of `a` [M, K] with its own scale, half to even, symmetric range.

    Raises `QuantError` where `a` is not finite.
    """
    scale = (np.abs(a).max(axis=1) / np.float32(activations.maximum)).astype(np.float32)
    if not np.isfinite(scale).all():
        raise QuantError("activations are not finite: the model's weights are broken")
    x = np.zeros_like(a)
    np.divide(a, scale[:, None], out=x, where=scale[:, None] != 0)
    np.clip(np.rint(x, out=x), -activations.maximum, activations.maximum, out=x)
    return QuantActivations(x.astype(np.int32), scale)


@dataclass(frozen=True, eq=False)
class ScaledTensor:
    """Weights as a core holds them, with integers for scales and one float per output:

    w[n, k] = unit[n] * (scale[n, g] * value(codes[n, k]) + offset[n, g] * 2^offset_shift)

    with g = k // group and `value` that of `WeightCodes`. `codes` is uint8[N, K], `scale` uint16
    [N, G], `offset` int16 [N, G], `unit` float32[N].
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    group: int
    scale: NDArray[np.uint16]
    offset: NDArray[np.int16]
    offset_shift: int
    unit: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    def integers(self, rows: slice) -> NDArray[np.float64]:
        """The chosen rows without their unit, [rows, K]: integers, exact in float64."""
        values = self.codes[rows].astype(np.float64)
        values *= 2
        values -= self.format.levels - 1
        offset = self.offset[rows].astype(np.float64) * (1 << self.offset_shift)
        return _spread(values, self.scale[rows], offset, self.group)

    def largest_sum(self, activations: Activations) -> int:
        """The largest magnitude that a sum over K, or over a part of it, can reach."""
        counts = np.minimum(self.group, self.shape[1] - np.arange(0, self.shape[1], self.group))
        offsets = np.abs(self.offset.astype(np.int64)) << self.offset_shift
        each = self.scale.astype(np.int64) * self.format.maximum + offsets
        return int((each @ counts).max(initial=0)) * activations.maximum


OFFSET_SHIFTS = range(16)
"""Shifts that a layer's offsets can have."""


class _Halves(NamedTuple):
    """What a tensor's groups ask for, float64 [N, G], and how much an error in them matters."""

    scale: NDArray[np.float64]
    """Weight of `value(code)`: half a step of the grid, as a magnitude."""
    offset: NDArray[np.float64]
    """Weight of the sum of a group's activations: the middle of the grid."""
    value_square: float
    """Mean square of `value` over all codes."""

    def rounded(self, unit: NDArray[np.float32], shift: int) -> tuple[NDArray, NDArray]:
        """The nearest integer scales and offsets in multiples of the outputs' units."""
        inverse = _inverse(unit.astype(np.float64))[:, None]
        return np.rint(self.scale * inverse), np.rint(self.offset * (inverse / (1 << shift)))

    def error(self, unit: NDArray[np.float32], shift: int) -> NDArray[np.float64]:
        """Mean squared error of each output, up to a factor common to the layer, [N]."""
        scale, offset = self.rounded(unit, shift)
        unit64 = unit.astype(np.float64)[:, None]
        scale_error = scale * unit64 - self.scale
        offset_error = offset * (unit64 * (1 << shift)) - self.offset
        return (self.value_square * scale_error**2 + offset_error**2).sum(axis=1)


def rescale(tensor: QuantTensor, scale_bits: int, offset_bits: int) -> ScaledTensor:
    """The tensor with unsigned scales and signed offsets of so many bits.

    An output's unit is the least with which its scales and offsets are in range (VS-Quant, Dai et
    al., MLSys 2021), for the shift that gives the layer the least squared error: an error of a
    scale counts by the mean square of `value`, one of an offset simply, as for codes used evenly
    and activations of zero mean. Then larger units that make the output's largest scale an integer
    are tried, all of them where it has up to four groups, and else every few: of one that is exact
    there is a multiple among them. Codes of a group with a negative scale are mirrored.
    """
    levels, k = tensor.format.levels, tensor.shape[1]
    scale = tensor.scale.astype(np.float64) / 2
    grid = _Halves(np.abs(scale), tensor.minimum + scale * (levels - 1), (levels**2 - 1) / 3)
    most_scale, most_offset = (1 << scale_bits) - 1, (1 << (offset_bits - 1)) - 1
    largest_scale, largest_offset = grid.scale.max(axis=1), np.abs(grid.offset).max(axis=1)

    def least(shift: int) -> NDArray[np.float32]:
        units = np.maximum(largest_scale / most_scale, largest_offset / (most_offset << shift))
        return units.astype(np.float32)

    shift = min(OFFSET_SHIFTS, key=lambda each: grid.error(least(each), each).sum())
    unit = least(shift)
    error, top = grid.error(unit, shift), np.rint(largest_scale * _inverse(unit))
    for step in range(0, most_scale // 2 + 1, -(-tensor.scale.shape[1] // 4)):
        whole = top - step
        tried = np.where(whole > 0, largest_scale / np.maximum(whole, 1), unit).astype(np.float32)
        tried = np.maximum(tried, least(shift))
        found = grid.error(tried, shift)
        unit, error = np.where(found < error, tried, unit), np.minimum(found, error)
    rounded_scale, rounded_offset = grid.rounded(unit, shift)
    mirrored = np.repeat(tensor.scale < 0, tensor.group, axis=1)[:, :k]
    return ScaledTensor(
        codes=np.where(mirrored, np.uint8(levels - 1) - tensor.codes, tensor.codes),
        format=tensor.format,
        group=tensor.group,
        scale=rounded_scale.astype(np.uint16),
        offset=rounded_offset.astype(np.int16),
        offset_shift=shift,
        unit=unit,
    )
