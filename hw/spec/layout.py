"""The one definition of the words on an engine's streams.

RTL, packers and benches take every bit position from here. A beat is described by fields, lowest
bit first; array indices run fastest in the last place, so field [i][j] of [I][J] elements of b bits
starts at (i*J + j)*b above the field's own offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from hw.spec.base import Spec
from hw.spec.lut_tensor_core import LutTensorCore

COUNT_BITS = 16
"""Width of the loop counts in a command: up to 65,536 tiles of up to 65,536 slices."""


@dataclass(frozen=True)
class Field:
    """`shape` elements of `bits` bits; signed ones are two's complement."""

    name: str
    bits: int
    shape: tuple[int, ...] = ()
    signed: bool = False

    @property
    def count(self) -> int:
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def total_bits(self) -> int:
        return self.bits * self.count


@dataclass(frozen=True)
class Beat:
    """One word of a stream: its fields from bit 0 upwards, without gaps."""

    fields: tuple[Field, ...]

    @cached_property
    def offsets(self) -> dict[str, int]:
        offsets, position = {}, 0
        for field in self.fields:
            offsets[field.name] = position
            position += field.total_bits
        return offsets

    @cached_property
    def bits(self) -> int:
        return sum(field.total_bits for field in self.fields)

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


@dataclass(frozen=True)
class EngineStreams:
    """The streams of an engine: what it takes and what it gives."""

    command: Beat
    activation: Beat
    weight: Beat
    result: Beat


@lru_cache(maxsize=64)
def lut_tensor_core(spec: LutTensorCore) -> EngineStreams:
    """Streams of a LUT Tensor Core.

    - `command`, one per matrix multiplication: planes - 1; ternary (planes of equal weight);
      K-slices per group - 1; K-slices per tile - 1 (the last group of a tile may be shorter);
      tiles - 1.
    - `activation`, one per K-slice: x[m][kg][k]; and, for rounded tables, the right shift of each
      row's entries, which must stay the same within a group.
    - `weight`, one per K-slice and plane: code[n][kg]. Bit k-1 of a code is the sign S of the top
      weight; bits 0..k-2 are the other signs, each XORed with S (Eq. 6).
    - `result`, one per group: psum[m][n] = sum of value(q)*x, and row_sum[m] = sum of x.
    """
    activation = [Field("x", spec.activation_bits, (spec.m, spec.kg, spec.k), signed=True)]
    if spec.table_shift_bits:
        activation.append(Field("table_shift", spec.table_shift_bits, (spec.m,)))
    return EngineStreams(
        command=Beat(
            (
                Field("planes_minus_1", 3),
                Field("ternary", 1),
                Field("group_slices_minus_1", COUNT_BITS),
                Field("slices_minus_1", COUNT_BITS),
                Field("tiles_minus_1", COUNT_BITS),
            )
        ),
        activation=Beat(tuple(activation)),
        weight=Beat((Field("code", spec.k, (spec.n, spec.kg)),)),
        result=Beat(
            (
                Field("psum", spec.acc_bits, (spec.m, spec.n), signed=True),
                Field("row_sum", spec.row_sum_bits, (spec.m,), signed=True),
            )
        ),
    )


STREAMS: dict[type[Spec], Callable[[Any], EngineStreams]] = {LutTensorCore: lut_tensor_core}
"""The streams of a spec's engine."""


def streams(spec: Spec) -> EngineStreams:
    """The streams of the engine that `spec` describes."""
    return STREAMS[type(spec)](spec)
