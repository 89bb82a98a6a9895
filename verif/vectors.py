"""Operands and stall patterns: seeded random ones, and the corners that random ones miss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hw.spec.formats import Activations, WeightCodes


@dataclass(frozen=True)
class Shape:
    """Rows, columns and length of a matrix multiplication, and the length of a scale group."""

    m: int
    n: int
    k: int
    group: int


@dataclass(frozen=True)
class Matmul:
    """The operands of one command: activations int [M, K], weight codes uint8 [N, K].

    `group` weights along K share a scale; the last group may be shorter. `shift` int [M] holds
    each row's table shift for engines with rounded tables, and is None for the others.
    """

    x: np.ndarray
    codes: np.ndarray
    weight_format: WeightCodes
    group: int
    shift: np.ndarray | None = None

    @property
    def shape(self) -> Shape:
        return Shape(len(self.x), len(self.codes), self.x.shape[1], self.group)


def formats(weight_bits: int) -> list[WeightCodes]:
    """Every weight format that `weight_bits` planes can run."""
    binary = [WeightCodes(bits) for bits in range(1, weight_bits + 1)]
    return binary + ([WeightCodes(2, ternary=True)] if weight_bits >= 2 else [])


def random_activations(rng: np.random.Generator, kind: Activations, size: tuple) -> np.ndarray:
    """Uniform over all codes, the leftover one included."""
    return rng.integers(-kind.maximum - 1, kind.maximum + 1, size)


CORNERS: dict[str, Callable[[np.random.Generator, Activations, tuple], np.ndarray]] = {
    "maximum": lambda _rng, kind, size: np.full(size, kind.maximum),
    "minimum": lambda _rng, kind, size: np.full(size, -kind.maximum),
    "leftover": lambda _rng, kind, size: np.full(size, -kind.maximum - 1),
    "extremes": lambda rng, kind, size: rng.choice([-kind.maximum, kind.maximum], size),
    "sparse": lambda rng, kind, size: (
        random_activations(rng, kind, size) * (rng.random(size) < 0.1)
    ),
}
"""Activations that random ones rarely are: int arrays of a size, by name."""


def corner_matmul(
    rng: np.random.Generator,
    kind: Activations,
    weight_format: WeightCodes,
    shape: Shape,
    corner: str,
) -> Matmul:
    """A corner of the activations against columns of lowest, highest and extreme weight codes.

    Every third column is all lowest, the next all highest, the third a random mix of both, so that
    sums of the greatest magnitude of either sign occur.
    """
    highest = weight_format.levels - 1
    codes = rng.choice([0, highest], (shape.n, shape.k)).astype(np.uint8)
    codes[0::3], codes[1::3] = 0, highest
    x = CORNERS[corner](rng, kind, (shape.m, shape.k))
    return Matmul(x, codes, weight_format, shape.group)


def random_matmul(
    rng: np.random.Generator, kind: Activations, weight_format: WeightCodes, shape: Shape
) -> Matmul:
    """Uniform activations and weight codes."""
    codes = rng.integers(0, weight_format.levels, (shape.n, shape.k), dtype=np.uint8)
    return Matmul(
        random_activations(rng, kind, (shape.m, shape.k)), codes, weight_format, shape.group
    )


def scattered(rng: np.random.Generator, cycles: int) -> np.ndarray:
    """Pauses in single cycles, at a rate drawn between a tenth and nine tenths."""
    return rng.random(cycles) < rng.uniform(0.1, 0.9)


def bursts(rng: np.random.Generator, cycles: int) -> np.ndarray:
    """Runs of pause and of flow, each 1 to 24 cycles long."""
    lengths = rng.integers(1, 25, cycles + 1)
    return np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)[:cycles]


def alternating(_rng: np.random.Generator, cycles: int) -> np.ndarray:
    """Every other cycle."""
    return np.arange(cycles) % 2 == 0


PAUSES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "scattered": scattered,
    "bursts": bursts,
    "alternating": alternating,
}
"""Stall patterns by name: booleans per cycle."""
