"""A code for every weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights.form import EntryPerWeight, Rows, StoredBits


@dataclass(frozen=True, eq=False)
class Grid(EntryPerWeight):
    """A code for every weight, `codes` uint8 [N, K], as rounding to nearest or GPTQ leave them.

    `special` is uint8 [N, groups]: which special value of the format a scale group has; zeros
    where the format has none.
    """

    codes: NDArray[np.uint8]
    format: WeightCodes
    group: int
    special: NDArray[np.uint8]

    @classmethod
    def plain(cls, codes: NDArray[np.uint8], format: WeightCodes, group: int) -> Grid:
        """The grid of codes of which every group has the format's first special value, or none."""
        groups = -(-codes.shape[1] // group)
        return cls(codes, format, group, np.broadcast_to(np.uint8(0), (len(codes), groups)))

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        n, k = self.codes.shape
        return n, k

    @property
    def stored(self) -> StoredBits:
        """The codes; special values count with the scales of their groups."""
        return StoredBits(codes=self.codes.size * self.format.bits)

    def counted(self, values: NDArray[Any], rows: Rows = slice(None)) -> NDArray[Any]:
        """What the codes of some outputs stand for, [rows, K], by the table of their groups'
        special values, [specials, levels]."""
        codes = self.codes[rows]
        if len(values) == 1:
            return values[0].take(codes)
        of_code = np.repeat(self.special[rows], self.group, axis=1)[:, : codes.shape[1]]
        return values.reshape(-1).take(of_code.astype(np.int16) * values.shape[1] + codes)

    def of_outputs(self, rows: Rows) -> Grid:
        """The grid of some outputs."""
        return replace(self, codes=self.codes[rows], special=self.special[rows])
