"""What a bench gives an engine, and reads from it, where engines differ.

`Operands` is the way of an engine that multiplies a grid of codes and gives exact sums. An engine
that needs more derives from it, in the file of its stem.
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
    """A command's weights as golden takes them."""
    return GOLDEN[type(spec)].encode(spec, matmul.weights)


class Operands(Generic[AnyEngine]):
    """Operands and results of an engine, by default of one that multiplies a grid of codes."""

    def completed(
        self, spec: AnyEngine, matmul: Matmul, x: np.ndarray, rng: np.random.Generator
    ) -> Matmul:
        """A random multiplication with what the engine needs beside codes; `x` are its activations
        as integers [M, K]."""
        return matmul

    def beat_steps(
        self,
        spec: AnyEngine,
        codes: np.ndarray,
        special: np.ndarray,
        weight_format: WeightCodes,
    ) -> np.ndarray | None:
        """The steps of every weight beat, [tiles, slices], of codes [tiles, n, slices, slice_k]
        with special values [tiles, n, slices]; None where they do not depend on weights."""
        return None

    def special_values(self, weight_format: WeightCodes) -> int:
        """How many there are to draw from for every group."""
        return max(1, len(weight_format.specials))

    def carried(
        self,
        spec: AnyEngine,
        matmul: Matmul,
        codes: np.ndarray,
        cut: Tiling,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """What weight beats are made of: codes [tiles, n, slices, codes of a slice]."""
        return codes

    def fill_words(
        self, spec: AnyEngine, matmul: Matmul, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The weight beats of the fills that come before the multiplication."""
        return []

    def numbers(self, fields: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the fields of result beats count as."""
        return fields

    def product(self, spec: AnyEngine, matmul: Matmul, x: np.ndarray) -> Matmul:
        """The same sums as a product of integers; `x` are the activations as integers [M, K]."""
        return dataclasses.replace(matmul, x=x, exponent=None)

    def expected(self, spec: AnyEngine, matmul: Matmul, x: np.ndarray, part: int) -> GroupSums:
        """What golden says; where it is exact, once plain integer multiplication has said the same.

        `x` are the activations as integers [M, K]; sums are read out after every `part` of them.
        """
        golden = GOLDEN[type(spec)]
        # Golden reads the leftover code of integers by itself.
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
