"""Which weights of a layer are all zero, in blocks that a core's programs leave out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from evolute.hw.spec.base import require


@dataclass(frozen=True)
class SkipList:
    """For every column tile of a layer, of `outputs` outputs each, the blocks of `inputs` inputs in
    which some weight is not zero. The last tile and the last block of a layer may be smaller.

    Every tile keeps a block, because its sums have to be set: of a tile of zeros that is the first.
    """

    inputs: int
    outputs: int
    kept: tuple[tuple[int, ...], ...]
    """Of every column tile the numbers of its blocks, in order."""

    def __post_init__(self) -> None:
        require(all(self.kept), "kept", "a block at least of every column tile", self.kept)

    def blocks(self, k: int) -> int:
        """Blocks of a layer of `k` inputs."""
        return -(-k // self.inputs)

    @functools.cached_property
    def kept_blocks(self) -> int:
        """Blocks that are kept, of all column tiles."""
        return sum(map(len, self.kept))

    def bits(self, k: int) -> int:
        """What the list takes as one bit for every block of every column tile."""
        return len(self.kept) * self.blocks(k)

    def counted(self, n: int, k: int, per: int = 1) -> int:
        """Weights of the kept blocks of a layer N x K; or groups of `per` inputs of them, of which
        no block has a part."""
        last, ends = self.blocks(k) - 1, k - (self.blocks(k) - 1) * self.inputs
        total = 0
        for tile, kept in enumerate(self.kept):
            rows = min(self.outputs, n - tile * self.outputs)
            sizes = (ends if block == last else self.inputs for block in kept)
            total += rows * sum(-(-size // per) for size in sizes)
        return total
