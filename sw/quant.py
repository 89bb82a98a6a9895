"""Numbers with few bits: weight tensors of codes, round-to-nearest quantizers, activations.

Scales are kept in the half precision they are stored in. Together with integer activations that
makes every sum of a linear layer exact in float64 (`sw.linear`), whatever order it is added in.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import RefusedError
from hw.spec.engine import Coding, Engine
from hw.spec.formats import TERNARY, Activations, Kind, WeightCodes
from sim.golden import GOLDEN, align
from sim.golden.vq_codebook import Vectors

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


def _counted(
    values: NDArray[np.float64], codes: NDArray[np.uint8], special: NDArray | None, group: int
) -> NDArray[np.float64]:
    """What codes [N, K] count as: `values` [specials, levels] of their groups' special values."""
    if special is None:
        return values[0].take(codes)
    of_code = np.repeat(special, group, axis=1)[:, : codes.shape[1]]
    return values.reshape(-1).take(of_code.astype(np.int16) * values.shape[1] + codes)


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A weight matrix w[n, k] = scale[n, g] * v + minimum[n, g], with g = k // group.

    v is what codes[n, k] counts as in `format`. `codes` is uint8[N, K]; `scale` and `minimum` are
    float32[N, G], G = ceil(K / group), the last group may be short. Scales are half-precision
    values, and minima are half-precision values or half-integer multiples of their scale. `special`
    is uint8[N, G] for formats with special values. `group_bits` is what one group stores beside its
    codes. `vectors` are what codes of `Kind.VECTOR` come from.
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    group: int
    scale: NDArray[np.float32]
    minimum: NDArray[np.float32]
    group_bits: int
    special: NDArray[np.uint8] | None = None
    vectors: Vectors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def index_bits(self) -> int:
        """Bits of all codes, or of the indices and the codebooks that they come from."""
        if self.vectors is not None:
            return self.vectors.stored_bits(self.format.bits)
        return self.codes.size * self.format.bits

    @property
    def total_bits(self) -> int:
        """Bits of all codes and of what their groups store beside them."""
        return self.index_bits + self.scale.size * self.group_bits

    def rows(self, rows: slice | NDArray[np.integer], dtype: type[np.floating]) -> NDArray:
        """The chosen rows dequantized, [rows, K]; exact in float64, rounded once in float32."""
        if self.special is None:  # every code counts as itself
            values = self.codes[rows].astype(np.float64)
        else:
            specials = range(len(self.format.specials))
            table = np.array([self.format.values(each) for each in specials], np.float64)
            values = _counted(table, self.codes[rows], self.special[rows], self.group)
        spread = _spread(values, self.scale[rows], self.minimum[rows], self.group)
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

GRAMMAR = (
    "native, float, w<1-8>[g<group>][s|a|f], b<3|4>[g<group>] or t[g<group>], "
    "such as w4g32, w2g128s, b4g128, tg128"
)


def parse_weights(text: str) -> Weights:
    """The choice that `text` names.

    `native`; `float`; `w4g32` = 4 bits in groups of 32 along K, followed by `s` symmetric, `a`
    asymmetric with an integer zero point (the default) or `f` float minimum; `b4g128` = BitMoD's
    4-bit floating point with a special value per group; `tg128` = ternary. Without a group, or
    with `g0`, each output channel has one grid. Raises `QuantError`.
    """
    for choice in (NATIVE, FLOAT):
        if text == choice.name:
            return choice
    match = re.fullmatch(r"(?:(w[1-8])|(b[34]|t))(?:g(\d{1,6}))?((?(1)[saf]?))", text)
    if not match:
        raise QuantError(f"weights: must be {GRAMMAR}; got {text!r}")
    group, scheme = int(match[3] or 0) or None, match[4]
    if text[0] == "t":
        return Weights(text, Rounding(TERNARY, group, Scheme.ABSMEAN))
    bits = int(text[1])
    if text[0] == "b":
        codes = WeightCodes(bits, Kind.BITMOD)
        return Weights(text, Rounding(codes, group, Scheme.SPECIAL_VALUE))
    return Weights(text, Rounding(WeightCodes(bits), group, Scheme(scheme or "a")))


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
    if rounding.scheme is Scheme.SPECIAL_VALUE:
        return _with_special_values(w, rounding, group, starts, counts)
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


@dataclass(frozen=True, eq=False)
class QuantActivations:
    """Rows of activations a[m, k] = scale[m] * x[m, k]; x int32[M, K], scale float32[M].

    `codes` is what an engine is given: x itself, or floating codes, uint16, with the exponent that
    each row shares, int64 [M]. In the latter case it is their values that x stands for.
    """

    x: NDArray[np.int32]
    scale: NDArray[np.float32]
    codes: NDArray[np.integer]
    exponent: NDArray[np.int64] | None = None


def _floating(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Codes of a floating format, and each row with its highest exponent: scales are its power."""
    kind = activations.format
    assert kind is not None
    codes = align.encode(a, kind)
    exponent = align.shared_exponents(codes, kind, a.shape[1])
    x = align.align(codes, exponent, activations)
    scale = np.ldexp(np.float32(1), exponent[:, 0] - kind.bias - (activations.bits - 2))
    return QuantActivations(x.astype(np.int32), scale.astype(np.float32), codes, exponent[:, 0])


def quantize_activations(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Each row (token) of `a` [M, K] with its own scale, half to even, symmetric range.

    Floating activations are rounded to their format first, at most to its greatest finite number.
    Raises `QuantError` where `a` is not finite.
    """
    scale = (np.abs(a).max(axis=1) / np.float32(activations.maximum)).astype(np.float32)
    if not np.isfinite(scale).all():
        raise QuantError("activations are not finite: the model's weights are broken")
    if activations.format is not None:
        return _floating(a, activations)
    x = np.zeros_like(a)
    np.divide(a, scale[:, None], out=x, where=scale[:, None] != 0)
    np.clip(np.rint(x, out=x), -activations.maximum, activations.maximum, out=x)
    integers = x.astype(np.int32)
    return QuantActivations(integers, scale, integers)


def _coded_values(codes: WeightCodes, coding: Coding) -> NDArray[np.float64]:
    """The integers by which an engine multiplies, [specials, levels]."""
    specials = range(max(1, len(codes.specials)))
    return np.array([coding.values(codes, each) for each in specials], np.float64)


@dataclass(frozen=True, eq=False)
class ScaledTensor:
    """Weights as a core holds them, with integers for scales and one float per output:

    w[n, k] = unit[n] * (scale[n, g] * v + offset[n, g] * 2^offset_shift)

    with g = k // group and v the integer that codes[n, k] counts as in `coding`. `codes` is uint8
    [N, K], `scale` uint16 [N, G], `offset` int16 [N, G], `unit` float32[N], `special` uint8 [N, G]
    for formats with special values. `vectors` are as in `QuantTensor`.
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    coding: Coding
    group: int
    scale: NDArray[np.uint16]
    offset: NDArray[np.int16]
    offset_shift: int
    unit: NDArray[np.float32]
    special: NDArray[np.uint8] | None = None
    vectors: Vectors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    def integers(self, rows: slice) -> NDArray[np.float64]:
        """The chosen rows without their unit, [rows, K]: integers, exact in float64."""
        special = None if self.special is None else self.special[rows]
        table = _coded_values(self.format, self.coding)
        values = _counted(table, self.codes[rows], special, self.group)
        offset = self.offset[rows].astype(np.float64) * (1 << self.offset_shift)
        return _spread(values, self.scale[rows], offset, self.group)

    def largest_sum(self, activations: Activations) -> int:
        """A magnitude that no sum over K, or over a part of it, exceeds; the least one where what
        codes count as is symmetric about 0."""
        counts = np.minimum(self.group, self.shape[1] - np.arange(0, self.shape[1], self.group))
        offsets = np.abs(self.offset.astype(np.int64)) << self.offset_shift
        each = self.scale.astype(np.int64) * self.coding.maximum(self.format) + offsets
        return int((each @ counts).max(initial=0)) * activations.maximum


def golden_weights(engine: Engine, tensor: QuantTensor | ScaledTensor) -> Any:
    """A tensor's weights as the engine's golden model takes them."""
    operands = tensor.codes, tensor.format, tensor.group, tensor.special
    beside = {} if tensor.vectors is None else {"vectors": tensor.vectors}
    return GOLDEN[type(engine)].encode(engine, *operands, **beside)


OFFSET_SHIFTS = range(16)
"""Shifts that a layer's offsets can have."""


class CodedGrid(NamedTuple):
    """What an engine's sums of a tensor's groups count for, float64 [N, G]."""

    scale: NDArray[np.float64]
    """Weight of a psum."""
    offset: NDArray[np.float64]
    """Weight of the sum of a group's activations."""


def coded_grid(tensor: QuantTensor, coding: Coding) -> CodedGrid:
    """The weights with which an engine's sums make up the tensor's products, exactly."""
    scale = tensor.scale.astype(np.float64) / coding.scale
    return CodedGrid(scale, tensor.minimum - scale * coding.origin)


def _positive(tensor: QuantTensor) -> QuantTensor:
    """The same weights without negative scales: of such groups the codes are counted down."""
    if not (tensor.scale < 0).any():
        return tensor
    if tensor.vectors is not None:
        raise QuantError("codewords cannot be counted down where a scale is negative")
    top = tensor.format.levels - 1
    mirrored = np.repeat(tensor.scale < 0, tensor.group, axis=1)[:, : tensor.shape[1]]
    return replace(
        tensor,
        codes=np.where(mirrored, np.uint8(top) - tensor.codes, tensor.codes),
        scale=np.abs(tensor.scale),
        minimum=tensor.minimum + np.minimum(tensor.scale, 0).astype(np.float64) * top,
    )


class _Integers(NamedTuple):
    """What a tensor's groups ask for, float64 [N, G], and how much an error in them matters."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    value_square: float
    """Mean square over all codes of what they count as."""

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


def rescale(tensor: QuantTensor, coding: Coding, scale_bits: int, offset_bits: int) -> ScaledTensor:
    """The tensor with unsigned scales and signed offsets of so many bits, as `coding` counts codes.

    An output's unit is the least with which its scales and offsets are in range (VS-Quant, Dai et
    al., MLSys 2021), for the shift that gives the layer the least squared error: an error of a
    scale counts by the mean square of what codes count as, one of an offset simply, as for codes
    used evenly and activations of zero mean. Then larger units that make the output's largest scale
    an integer are tried, all of them where it has up to four groups, and else every few: of one
    that is exact there is a multiple among them. Codes of a group with a negative scale are counted
    down.
    """
    tensor = _positive(tensor)
    squares = _coded_values(tensor.format, coding) ** 2
    grid = _Integers(*coded_grid(tensor, coding), float(squares.mean()))
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
    return ScaledTensor(
        codes=tensor.codes,
        format=tensor.format,
        coding=coding,
        group=tensor.group,
        scale=rounded_scale.astype(np.uint16),
        offset=rounded_offset.astype(np.int16),
        offset_shift=shift,
        unit=unit,
        special=tensor.special,
        vectors=tensor.vectors,
    )
