"""Words of a stream, each described as fields of bits.

A beat is one word of a stream. Its fields are listed from the lowest bit upwards. A field may be an
array, whose last index runs fastest: element [i][j] of a field of [I][J] elements of b bits starts
(i*J + j)*b bits above the field's own offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Field:
    """An array of `shape` elements of `bits` bits each; signed ones are in two's complement. An
    empty shape is a single element."""

    name: str
    bits: int
    shape: tuple[int, ...] = ()
    signed: bool = False

    @property
    def count(self) -> int:
        """The number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def total_bits(self) -> int:
        """Width of all elements together."""
        return self.bits * self.count


@dataclass(frozen=True)
class Beat:
    """One word of a stream: its fields from bit 0 upwards, without gaps."""

    fields: tuple[Field, ...]
    meaning: str = ""
    """What the fields mean, in words, where that differs from engine to engine."""

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The lowest bit of every field, by the field's name."""
        offsets, position = {}, 0
        for field in self.fields:
            offsets[field.name] = position
            position += field.total_bits
        return offsets

    @cached_property
    def bits(self) -> int:
        """Width of the word."""
        return sum(field.total_bits for field in self.fields)

    def field(self, name: str) -> Field:
        """The field called `name`. Raises `StopIteration` if there is none."""
        return next(field for field in self.fields if field.name == name)
