"""Weights as engines and cores count them: integers for scales, and what sums stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.engine import Coding, Engine
from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.sim.golden import GOLDEN
from evolute.sim.weights import Codebook
from evolute.sw.tensors.tensor import CodedWeights, QuantError, QuantTensor, inverse, spread

UNIT_BITS = 32
"""Stored width of an output's unit beside a core's integer scales."""


def _coded_values(codes: WeightCodes, coding: Coding) -> NDArray[np.float64]:
    """The integers by which an engine multiplies, [specials, levels]."""
    specials = range(max(1, len(codes.specials)))
    return np.array([coding.values(codes, special) for special in specials], np.float64)


@dataclass(frozen=True, eq=False)
class ScaledTensor(CodedWeights):
    """Weights as a core holds them, with integers for scales and one float per output:

    w[n, k] = unit[n] * (scale[n, g] * v + offset[n, g] * 2^offset_shift)

    with g = k // group and v the integer that the code of `form` for n and k counts as in `coding`.
    `scale` is uint16 [N, G], `offset` int16 [N, G], `unit` float32[N].
    """

    coding: Coding
    scale: NDArray[np.uint16]
    offset: NDArray[np.int16]
    offset_shift: int
    unit: NDArray[np.float32]

    @property
    def table(self) -> NDArray[np.float64]:
        """The integers that codes count as, [specials, levels]."""
        return _coded_values(self.format, self.coding)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """What groups add to each of their weights, without the unit, [N, G]."""
        return self.offset.astype(np.float64) * (1 << self.offset_shift)

    def integers(self, rows: slice) -> NDArray[np.float64]:
        """The chosen rows without their unit, [rows, K], or of tables all entries: integers, exact
        in float64."""
        values = self.form.counted(self.table, rows)
        return spread(values, self.scale[rows], self.offsets[rows], self.form.group_codes)

    def largest_sum(self, activations: Activations) -> int:
        """A magnitude that no sum over K, or over a part of it, exceeds; the least one where what
        codes count as is symmetric about 0."""
        counts = np.minimum(self.group, self.shape[1] - np.arange(0, self.shape[1], self.group))
        offsets = np.abs(self.offset.astype(np.int64)) << self.offset_shift
        largest_terms = self.scale.astype(np.int64) * self.coding.maximum(self.format) + offsets
        most = self.form.operand_bound(counts, activations)
        return int((largest_terms @ most).max(initial=0))


def golden_weights(engine: Engine, tensor: QuantTensor | ScaledTensor) -> Any:
    """A tensor's weights as the engine's golden model takes them."""
    return GOLDEN[type(engine)].encode(engine, tensor.form)


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
    form = tensor.form
    if isinstance(form, Codebook):
        raise QuantError("codewords cannot be counted down where a scale is negative")
    top = form.format.levels - 1
    mirrored = np.repeat(tensor.scale < 0, form.group_codes, axis=1)[:, : form.codes.shape[1]]
    return replace(
        tensor,
        form=replace(form, codes=np.where(mirrored, np.uint8(top) - form.codes, form.codes)),
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
        steps = inverse(unit.astype(np.float64))[:, None]
        return np.rint(self.scale * steps), np.rint(self.offset * (steps / (1 << shift)))

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

    shift = min(
        OFFSET_SHIFTS, key=lambda tried_shift: grid.error(least(tried_shift), tried_shift).sum()
    )
    unit = least(shift)
    error, top = grid.error(unit, shift), np.rint(largest_scale * inverse(unit))
    for step in range(0, most_scale // 2 + 1, -(-tensor.scale.shape[1] // 4)):
        whole = top - step
        tried = np.where(whole > 0, largest_scale / np.maximum(whole, 1), unit).astype(np.float32)
        tried = np.maximum(tried, least(shift))
        errors = grid.error(tried, shift)
        unit, error = np.where(errors < error, tried, unit), np.minimum(errors, error)
    rounded_scale, rounded_offset = grid.rounded(unit, shift)
    return ScaledTensor(
        form=tensor.form,
        coding=coding,
        scale=rounded_scale.astype(np.uint16),
        offset=rounded_offset.astype(np.int16),
        offset_shift=shift,
        unit=unit,
    )
