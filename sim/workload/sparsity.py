"""Patterns of weights that are zero, what is stored of such weights, and where the rest lies.

A pattern is a choice by name, such as `tile-group:0.5` or `2:4`. Which weights it makes zero, their
magnitudes decide (`sw.tensors.pruning`); how many, and what an index to the others takes, follows
from a layer's size alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from evolute.hw.spec.base import require
from evolute.sim.workload.linear import HEAD, Linear
from evolute.sim.workload.skip_list import SkipList

ROW_BLOCK_INPUTS = 128
"""Inputs of a block where weights have one scale for a whole row, and none are asked for."""


def dropped(share: float, count: int) -> int:
    """How many of `count` a share means, rounded down; of decimal shares what they say."""
    return math.floor(share * count + 1e-9)


def require_share(share: float) -> None:
    """Raise `SpecError` for a share that would leave nothing."""
    require(0 <= share < 1, "share", "at least 0 and below 1", share)


@dataclass(frozen=True)
class _Blocks:
    """A share of the blocks of `inputs` inputs is zero; None for as many as share a scale."""

    share: float
    inputs: int | None = None

    def __post_init__(self) -> None:
        require_share(self.share)
        if self.inputs is not None:
            require(1 <= self.inputs <= 1 << 16, "inputs", "in 1..65536", self.inputs)

    def block_inputs(self, k: int, group: int) -> int:
        """Inputs of a block of a layer of `k` inputs, of which `group` share a scale."""
        return min(k, self.inputs or (group if group < k else ROW_BLOCK_INPUTS))

    def dropped(self, blocks: int) -> int:
        """How many of `blocks` blocks the pattern makes zero."""
        return dropped(self.share, blocks)

    def _text(self, name: str) -> str:
        return f"{name}:{self.share:g}" + ("" if self.inputs is None else f"/{self.inputs}")


@dataclass(frozen=True)
class TileGroup(_Blocks):
    """Blocks of a core's column tile: the same inputs of all its outputs. The program of a core
    leaves such blocks out."""

    index: ClassVar[str] = "one bit for every block of a column tile"

    @property
    def name(self) -> str:
        return self._text("tile-group")


@dataclass(frozen=True)
class RowGroup(_Blocks):
    """Blocks of single outputs, of each output equally many (GQSA, arXiv 2412.17560)."""

    index: ClassVar[str] = "one bit for every block of an output"

    @property
    def name(self) -> str:
        return self._text("group")

    def blocks(self, linear: Linear) -> int:
        """Blocks of an output. Raises `SpecError` where they are not all of one size."""
        inputs = self.block_inputs(linear.k, linear.group)
        rule = f"a divisor of the {linear.k} inputs of {linear.name}"
        require(linear.k % inputs == 0, "prune: inputs", rule, inputs)
        return linear.k // inputs


@dataclass(frozen=True)
class NOfM:
    """Of every `m` inputs in a row of an output, `n` weights are kept; of fewer at the end, as many
    of them."""

    n: int
    m: int
    index: ClassVar[str] = "for every kept weight its place among M, ceil(log2 M) bits"

    def __post_init__(self) -> None:
        require(2 <= self.m <= 256, "M", "in 2..256", self.m)
        require(1 <= self.n < self.m, "N", f"in 1..{self.m - 1}", self.n)

    @property
    def name(self) -> str:
        return f"{self.n}:{self.m}"

    def kept(self, k: int) -> int:
        """Weights that an output of `k` inputs keeps."""
        return k // self.m * self.n + min(self.n, k % self.m)


Sparsity = TileGroup | RowGroup | NOfM
"""A pattern of weights that are zero."""


def evenly_pruned(pattern: TileGroup, linear: Linear, outputs: int) -> Linear:
    """The layer with a made-up skip list, for a model whose weights are not known; the output head
    is returned unchanged. A column tile has `outputs` outputs.

    Every column tile loses the same number of blocks and keeps at least one. The kept blocks are
    spread evenly over K, and each tile's are shifted by one block against those of the tile before.
    """
    if linear.name == HEAD:
        return linear
    inputs = pattern.block_inputs(linear.k, linear.group)
    blocks = -(-linear.k // inputs)
    count = max(1, blocks - pattern.dropped(blocks))
    kept = (
        tuple(sorted((blocks * i // count + tile) % blocks for i in range(count)))
        for tile in range(-(-linear.n // outputs))
    )
    return replace(linear, skips=SkipList(inputs, outputs, tuple(kept)))


@dataclass(frozen=True)
class SparsityFigures:
    """What a pattern does to the linear layers of a pass, the output head aside, which is never
    pruned. Bytes are of what is stored, with one scale group's bits as the accelerator has them."""

    pattern: str
    weights: int
    kept_weights: int
    macs_per_token: int
    """Multiply-accumulates by weights that are kept."""
    dense_macs_per_token: int
    value_bytes: int
    """Codes of kept weights, and what groups, outputs and inputs store beside them."""
    index_bytes: int
    index: str
    """What the index consists of."""
    dense_bytes: int
    """What is stored without a pattern."""
    time: Literal["skipped", "dense"]
    """Whether the accelerator leaves zeros out, or takes as long and moves as much as if dense."""
    basis: Literal["weights", "sizes"]
    """What says which weights are zero: their magnitudes; or nothing but how many there are, and
    blocks that a program leaves out are spread evenly."""

    @property
    def stored_share(self) -> float:
        """What is stored, of what would be."""
        return (self.value_bytes + self.index_bytes) / self.dense_bytes


def sparsity_figures(
    pattern: Sparsity, linears: Sequence[Linear], *, has_weights: bool
) -> SparsityFigures:
    """What `pattern` does to layers, of which those of a tile-group pattern must have their skip
    lists. Raises `SpecError` where an output's blocks are not all of one size."""
    layers = [linear for linear in linears if linear.name != HEAD]
    weights = kept = macs = dense_macs = value_bits = index_bits = dense_bits = 0
    for linear in layers:
        dense = replace(linear, skips=None)
        rows = 1 if linear.own_rows is None else linear.own_rows
        layer_kept, layer_index, layer_bits = _stored(pattern, linear)
        weights += linear.count * linear.n * linear.k
        kept += linear.count * layer_kept
        macs += linear.count * layer_kept * rows
        dense_macs += linear.count * linear.n * linear.k * rows
        value_bits += layer_bits
        index_bits += linear.count * layer_index
        dense_bits += dense.total_bits
    return SparsityFigures(
        pattern=pattern.name,
        weights=weights,
        kept_weights=kept,
        macs_per_token=macs,
        dense_macs_per_token=dense_macs,
        value_bytes=-(-value_bits // 8),
        index_bytes=-(-index_bits // 8),
        index=pattern.index,
        dense_bytes=-(-dense_bits // 8),
        time="skipped" if isinstance(pattern, TileGroup) else "dense",
        basis="weights" if has_weights else "sizes",
    )


def _stored(pattern: Sparsity, linear: Linear) -> tuple[int, int, int]:
    """Weights of one layer that are kept, bits of the index to them, and bits of all `count` layers
    stored beside that index."""
    if isinstance(pattern, TileGroup):
        assert linear.skips is not None
        return linear.multiplied, linear.skips.bits(linear.k), linear.total_bits
    if isinstance(pattern, NOfM):
        kept = linear.n * pattern.kept(linear.k)
        index = kept * (pattern.m - 1).bit_length()
        gone = linear.n * linear.k - kept
        return kept, index, linear.total_bits - linear.count * gone * linear.format.bits
    blocks = pattern.blocks(linear)
    inputs = linear.k // blocks
    gone = linear.n * pattern.dropped(blocks) * inputs
    bits = gone * linear.format.bits
    if inputs % linear.group == 0:
        bits += gone // linear.group * linear.group_bits
    return linear.n * linear.k - gone, linear.n * blocks, linear.total_bits - linear.count * bits
