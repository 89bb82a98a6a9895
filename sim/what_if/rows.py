"""What tables by centroid would cost a memory that is asked for chosen rows alone.

The engine takes whole tables, each once for all rows of a tile: right for prompts, but of one token
it uses one table row in c. Indices depend on a layer's input only. So all of them could be found
first, from centroids that stay on the chip, and only the table rows that they name be fetched, of
all outputs at once; rows that several tokens of a small batch choose alike, once. How many those
are depends on the indices, so it is counted, from indices of real inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.lut_dla import LutDla
from evolute.sim.workload.linear import Linear


@dataclass(frozen=True)
class TableBytes:
    """Bytes of one layer's tables that cross the bus for some tokens, by the way they are read."""

    streamed: int
    """Whole tables, for every tile of m tokens."""
    gathered: int
    """A row for every index."""
    unique: int
    """A row for every index that no token before has."""
    centroids: int
    """Of all subspaces: with every stream of tables, or resident, for gathers."""

    @property
    def least(self) -> int:
        """The least of all ways, centroids resident."""
        return min(self.streamed, self.unique)


def unique_rows(index: np.ndarray) -> np.ndarray:
    """Distinct indices of every subspace among tokens, int [subspaces], of [tokens, subspaces]."""
    ordered = np.sort(index, axis=0)
    return 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)


def expected_rows(centroids: int, tokens: int) -> float:
    """Distinct indices of a subspace where tokens choose evenly and apart from each other."""
    return centroids * (1 - (1 - 1 / centroids) ** tokens)


def table_bytes(spec: LutDla, linear: Linear, index: np.ndarray) -> TableBytes:
    """Bytes of a layer's tables for tokens of these indices, int [tokens, subspaces].

    A row has an entry of the layer's own format for each of its N outputs, in whole bytes. Raises
    `SpecError` where indices are not those of the layer's subspaces.
    """
    full, rest = divmod(linear.k, linear.group)
    spaces = full * -(-linear.group // spec.v) + -(-rest // spec.v)
    require(index.shape[1] == spaces, "index", f"of {spaces} subspaces", index.shape[1])
    inside = 0 <= index.min() <= index.max() < spec.centroids
    require(bool(inside), "index", f"in 0..{spec.centroids - 1}", int(index.max()))
    row = -(-linear.n * linear.format.bits // 8)
    tables = spaces * spec.centroids * row
    return TableBytes(
        streamed=-(-len(index) // spec.m) * tables,
        gathered=index.size * row,
        unique=int(unique_rows(index).sum()) * row,
        centroids=spaces * -(-spec.centroids * spec.v * spec.activation_bits // 8),
    )
