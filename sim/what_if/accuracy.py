"""How far dot products of FP16 activations and integer weights are from exact ones, by how an
engine sums them: aligned to integers, or with a rounding after every addition in FP16.

What rounds does so as published: a multiplier with an FP16 accumulator, whose product is not
rounded; and the array of LUT Tensor Core (ISCA 2025), which adds a table's entry per bit-plane to
an FP16 sum, both of them in FP16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import FLOATS, Activations
from evolute.sim import numbers
from evolute.sim.golden import align

Floats = NDArray[np.float64]
Halves = NDArray[np.float16]

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "t3": lambda rng, size: rng.standard_t(3, size),
}
"""Activations of unit scale: even ones, and Student's t with its few that are far larger."""


@dataclass(frozen=True)
class Dots:
    """Pairs of vectors to multiply: activations [dots, K], and the codes of the weights,
    int [dots, K], of `weight_bits` bits each."""

    x: Halves
    codes: NDArray[np.integer]
    weight_bits: int

    @property
    def weights(self) -> NDArray[np.integer]:
        """The odd integers that codes stand for, symmetric about zero (LUT Tensor Core, Eq. 2)."""
        return 2 * self.codes - ((1 << self.weight_bits) - 1)

    @property
    def exact(self) -> Floats:
        """The dot products without any rounding, float64 [dots].

        A product has 15 bits at most, so that float64 holds any sum that occurs here exactly.
        """
        return (self.x.astype(np.float64) * self.weights).sum(axis=1)


def draw(rng: np.random.Generator, distribution: str, size: tuple[int, int], bits: int) -> Dots:
    """Random activations of the named distribution, and codes of which all are equally likely.

    `size` is [dots, K], `bits` the width of a weight's code.
    """
    x = DISTRIBUTIONS[distribution](rng, size).astype(np.float16)
    return Dots(x, rng.integers(0, 1 << bits, size), bits)


def aligned(dots: Dots, activation_bits: int, group: int) -> Floats:
    """Sums of integers, exact but for the rounding of activations.

    Every `group` activations share an exponent; what their sums count for is a power of two.
    """
    kind = FLOATS["fp16"]
    codes = dots.x.view(np.uint16)
    exponent = numbers.shared_exponents(codes, kind, group)
    of_code = np.repeat(exponent, group, axis=1)[:, : dots.x.shape[1]]
    x = align.align(codes, of_code, Activations(activation_bits, kind))
    starts = np.arange(0, x.shape[1], group)
    sums = np.add.reduceat(x * dots.weights, starts, axis=1)
    return np.ldexp(sums.astype(np.float64), exponent - kind.bias - (activation_bits - 2)).sum(1)


def multiplied(dots: Dots) -> Floats:
    """One fused multiplication and addition after another, each rounded to FP16."""
    x, weights = dots.x.astype(np.float64), dots.weights
    total = np.zeros(len(x), np.float16)
    for k in range(x.shape[1]):
        total = (total + x[:, k] * weights[:, k]).astype(np.float16)
    return total.astype(np.float64)


def looked_up(dots: Dots, table_k: int = 4) -> Floats:
    """Dot products from lookup tables of `table_k` activations, float64 [dots].

    The tables are used one after another, and each for one bit-plane of the weights after another.
    Every addition is rounded to FP16. A table's entry is the sum of its first half of activations
    plus the sum of its second half, and the halves are summed in the same way.
    """
    total = np.zeros(len(dots.x), np.float16)
    for start in range(0, dots.x.shape[1], table_k):
        for plane in range(dots.weight_bits):
            signs = 2 * (dots.codes[:, start : start + table_k] >> plane & 1) - 1
            entry = _halved_sum(dots.x[:, start : start + table_k] * signs.astype(np.float16))
            total = total + entry * np.float16(1 << plane)
    return total.astype(np.float64)


def _halved_sum(terms: Halves) -> Halves:
    """The sum of the terms of each row, half by half."""
    count = terms.shape[1]
    if count == 1:
        return terms[:, 0]
    return _halved_sum(terms[:, : count // 2]) + _halved_sum(terms[:, count // 2 :])


def relative_error(approximate: Floats, exact: Floats) -> float:
    """The root of the mean squared error, divided by the root of the mean square of `exact`."""
    return float(np.sqrt(np.mean((approximate - exact) ** 2) / np.mean(exact**2)))
