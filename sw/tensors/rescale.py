"""Weights in the form of engines and cores, with integer scales, and what an engine's sums stand
for."""

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
    """The integers by which an engine multiplies, by code, float64 [specials, levels]."""
    specials = range(max(1, len(codes.specials)))
    return np.array([coding.values(codes, special) for special in specials], np.float64)


@dataclass(frozen=True, eq=False)
class ScaledTensor(CodedWeights):
    """Weights in the form of a core, with integer scales and offsets and one float per output:

        w[n, k] = unit[n] * (scale[n, g] * v + offset[n, g] * 2^offset_shift)

    where g = k // group, and v is the integer that `coding` gives for the code of `form` at n and
    k. `scale` is uint16 [N, G], `offset` int16 [N, G], `unit` float32 [N].
    """

    coding: Coding
    scale: NDArray[np.uint16]
    offset: NDArray[np.int16]
    offset_shift: int
    unit: NDArray[np.float32]

    @property
    def table(self) -> NDArray[np.float64]:
        """The integer that each code stands for, float64 [specials, levels]."""
        return _coded_values(self.format, self.coding)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """What each group adds to every one of its weights, without the unit, float64 [N, G]."""
        return self.offset.astype(np.float64) * (1 << self.offset_shift)

    def integers(self, rows: slice) -> NDArray[np.float64]:
        """The selected rows without their unit, float64 [rows, K], or all entries of tables. They
        are exact integers."""
        values = self.form.counted(self.table, rows)
        return spread(values, self.scale[rows], self.offsets[rows], self.form.group_codes)

    def largest_sum(self, activations: Activations) -> int:
        """An upper bound of the magnitude of every sum over K or a part of it. It is reached if the
        values of codes are symmetric about 0."""
        counts = np.minimum(self.group, self.shape[1] - np.arange(0, self.shape[1], self.group))
        offsets = np.abs(self.offset.astype(np.int64)) << self.offset_shift
        largest_terms = self.scale.astype(np.int64) * self.coding.maximum(self.format) + offsets
        operand_bounds = self.form.operand_bound(counts, activations)
        return int((largest_terms @ operand_bounds).max(initial=0))


def golden_weights(engine: Engine, tensor: QuantTensor | ScaledTensor) -> Any:
    """A tensor's weights in the form of the engine's golden model."""
    return GOLDEN[type(engine)].encode(engine, tensor.form)


OFFSET_SHIFTS = range(16)
"""The shifts that the offsets of a layer can have."""


class CodedGrid(NamedTuple):
    """The factors that turn an engine's sums for each group into the tensor's product, float64 [N,
    G]."""

    scale: NDArray[np.float64]
    """Factor of the psum."""
    offset: NDArray[np.float64]
    """Factor of the sum of the group's activations."""


def coded_grid(tensor: QuantTensor, coding: Coding) -> CodedGrid:
    """The factors with which an engine's sums give the tensor's products exactly."""
    scale = tensor.scale.astype(np.float64) / coding.scale
    return CodedGrid(scale, tensor.minimum - scale * coding.origin)


def _positive(tensor: QuantTensor) -> QuantTensor:
    """The same weights without negative scales. In a group with a negative scale, codes are
    replaced by the highest code minus the code."""
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
    """The exact scale and offset of each group, float64 [N, G], and the weight of errors in
    them."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    value_square: float
    """Mean square of the values that codes stand for, over all codes."""

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
    """The tensor with unsigned scales of `scale_bits` and signed offsets of `offset_bits`, for
    codes with the meaning `coding`.

    An output's first unit is the smallest one with which its scales and offsets are in range
    (VS-Quant, Dai et al., MLSys 2021). The shift is the one with which this gives the layer the
    least squared error. In that error, scales count with the mean square of the values of codes and
    offsets with 1; this is right for codes that are used evenly and activations of zero mean.

    Then larger units are tried that make the output's largest scale an integer: all of them if
    there are up to four groups, else every few, so that for any exact unit a multiple is among
    them. In groups with a negative scale, codes are mirrored.
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
        largest_integer = top - step
        tried = np.where(
            largest_integer > 0, largest_scale / np.maximum(largest_integer, 1), unit
        ).astype(np.float32)
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
