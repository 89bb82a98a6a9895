"""Operands that a bench gives to an engine and results that it reads, as far as engines differ.

`Operands` serves an engine that multiplies a grid of codes and gives exact sums. For an engine that
needs more, the module in `verif.engines` that has its name derives a class from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.golden import GOLDEN, integer
from evolute.sim.golden.sums import GroupSums
from evolute.verif.harness.vectors import Matmul

AnyEngine = TypeVar("AnyEngine", bound=Engine)


@dataclass(frozen=True)
class Tiling:
    """How a matrix multiplication is cut into tiles, slices and groups."""

    row_tiles: int
    column_tiles: int
    positions: np.ndarray
    """For every activation of the padded K, its place in the unpadded K; -1 for padding."""
    slice_groups: np.ndarray
    """For every slice, its scale group."""
    read_outs: np.ndarray
    """For every result beat of a tile, its scale group."""


def encoded(spec: Engine, matmul: Matmul) -> Any:
    """A command's weights in the form in which the engine's golden model takes them."""
    return GOLDEN[type(spec)].encode(spec, matmul.weights)


class Operands(Generic[AnyEngine]):
    """Operands and results of an engine; as they stand here, of one that multiplies a grid of
    codes and gives exact sums."""

    def completed(
        self, spec: AnyEngine, matmul: Matmul, x: np.ndarray, rng: np.random.Generator
    ) -> Matmul:
        """`matmul` with what the engine needs beside codes; `x` are its activations as integers
        [M, K]."""
        return matmul

    def beat_steps(
        self,
        spec: AnyEngine,
        codes: np.ndarray,
        special: np.ndarray,
        weight_format: WeightCodes,
    ) -> np.ndarray | None:
        """The steps of every weight beat, int [tiles, slices], or None if they do not depend on the
        weights. `codes` are [tiles, n, slices, slice_k], `special` values [tiles, n, slices]."""
        return None

    def special_values(self, weight_format: WeightCodes) -> int:
        """The number of special values of which every group has one; 1 if there are none."""
        return max(1, len(weight_format.specials))

    def carried(
        self,
        spec: AnyEngine,
        matmul: Matmul,
        codes: np.ndarray,
        cut: Tiling,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The numbers that weight beats carry, [tiles, n, slices, codes of a slice]: the padded
        `codes`, unless the engine takes something else in their place."""
        return codes

    def fill_words(
        self, spec: AnyEngine, matmul: Matmul, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The words of the fills before the multiplication: uint8 arrays [beats, bytes]."""
        return []

    def numbers(self, fields: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The numbers that the fields of result beats stand for, by the fields' names."""
        return fields

    def product(self, spec: AnyEngine, matmul: Matmul, x: np.ndarray) -> Matmul:
        """A multiplication of integers that has the same sums; `x` are the activations as integers
        [M, K]."""
        return dataclasses.replace(matmul, x=x, exponent=None)

    def expected(self, spec: AnyEngine, matmul: Matmul, x: np.ndarray, part: int) -> GroupSums:
        """The sums of the golden model. If it is exact, raises `AssertionError` unless a plain
        integer multiplication gives the same sums.

        `x` are the activations as integers [M, K]; sums are read out after every `part` of them.
        """
        golden = GOLDEN[type(spec)]
        # The golden model must itself read the code below the symmetric range as the lowest value.
        taken = x if spec.activations.format else matmul.x
        sums = golden.group_sums(spec, taken, encoded(spec, matmul), matmul.shift)
        if spec.exact:
            product = self.product(spec, matmul, x)
            values = integer.weights(spec, product.weights)
            plain = integer.group_sums(product.x, values, product.group)
            same = np.array_equal(plain.psum, sums.psum)
            if not (same and np.array_equal(plain.row_sum, sums.row_sum)):
                raise AssertionError(f"golden differs from integer multiplication: {spec}")
        return sums
