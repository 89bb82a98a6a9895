"""BitMoD's own cycle model: what its authors count, to compare with what a machine takes.

The model of Chen et al. (HPCA 2025, section V; the authors' simulator and the totals plotted from
it) prices a layer as the longer of computing and moving bytes. An array of `height` x `width`
processing elements multiplies `lanes` weights each per step; a layer takes ceil(K / lanes) x
ceil(N / height) x ceil(rows / width) steps, each of as many cycles as a bit-serial weight needs.
Memory moves 256 bits a cycle. What exceeds both buffers of 512 KiB is fetched again.

Attention is priced as two layers more per block, and bytes are counted by that rule too: keys as
the inputs of a layer whose only output is the query, once for each head. The model leaves out
filling and draining, norms, softmax, rotary positions, writing the cache, and instructions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from evolute.sim.workload.shape import Attention, ModelShape

BUS_BITS = 256
"""Bits that memory moves in a cycle: 128 pins at both edges of the clock."""

BUFFER_BYTES = 512 * 1024
"""Of the buffer for weights, and of that for activations."""

ACTIVATION_BITS = 16


@dataclass(frozen=True)
class Array:
    """The array of one of the machines that BitMoD compares."""

    height: int
    width: int
    lanes: int
    weight_bits: Fraction
    """Stored per weight, scales included."""
    bit_serial: bool

    @property
    def step_cycles(self) -> int:
        """Two bits of a weight in a cycle; a machine that is not bit-serial takes one."""
        return round(math.floor(self.weight_bits) / 2) if self.bit_serial else 1


class _Layer(NamedTuple):
    """A layer as the model prices it: `n` outputs of `k` weights, for `rows` rows of `width`
    inputs."""

    n: int
    k: int
    width: int
    rows: int
    weight_bits: Fraction


def cycles(array: Array, shape: ModelShape, context: int, *, is_prompt: bool) -> int:
    """Cycles of a prompt of `context` tokens, or of one token after as many."""
    return sum(_layer_cycles(array, layer) for layer in _layers(array, shape, context, is_prompt))


def _layers(array: Array, shape: ModelShape, context: int, is_prompt: bool) -> Iterator[_Layer]:
    rows = context if is_prompt else 1
    for _, matrix in shape.matrices():
        yield _Layer(matrix.n, matrix.k, matrix.k, rows, array.weight_bits)
    bits = Fraction(ACTIVATION_BITS)
    for block in shape.blocks:
        attention = block.mixer
        assert isinstance(attention, Attention)
        heads, width = attention.heads, attention.key_heads * attention.key_dim
        queries = attention.heads * attention.key_dim
        yield _Layer(rows, queries, width, heads * rows, bits)  # scores
        yield _Layer(heads * rows, context, width, rows, bits)  # values


def _layer_cycles(array: Array, layer: _Layer) -> int:
    steps = (
        math.ceil(layer.k / array.lanes)
        * math.ceil(layer.n / array.height)
        * math.ceil(layer.rows / array.width)
    )
    weights = math.ceil(layer.k * layer.weight_bits / 8) * layer.n
    inputs = math.ceil(layer.width * ACTIVATION_BITS / 8) * layer.rows
    outputs = math.ceil(layer.n * ACTIVATION_BITS / 8) * layer.rows
    moved = Fraction(weights + inputs)
    if weights > BUFFER_BYTES and inputs > BUFFER_BYTES:
        moved = Fraction(
            min(
                math.ceil(inputs / BUFFER_BYTES) * weights + inputs,
                math.ceil(weights / BUFFER_BYTES) * inputs + weights,
            )
        )
    return max(steps * array.step_cycles, math.floor((moved + outputs) * 8 / BUS_BITS))
