"""Words of a stream as fields of bits.

A beat is described by fields, lowest bit first; array indices run fastest in the last place, so
field [i][j] of [I][J] elements of b bits starts at (i*J + j)*b above the field's own offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


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
    meaning: str = ""
    """What the fields say, in words, where that differs from engine to engine."""

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
