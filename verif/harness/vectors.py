"""Operands and stall patterns: random ones from a seed, and corner cases that these seldom hit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.sim import numbers
from evolute.sim.weights import Form, Grid


@dataclass(frozen=True)
class MatmulShape:
    """The shape of a matrix multiplication."""

    m: int
    """Rows of activations."""
    n: int
    """Outputs."""
    k: int
    """Depth: activations of one row."""
    group: int
    """Activations in a scale group."""


@dataclass(frozen=True)
class Matmul:
    """The operands of one command: activations int [M, K], and weights in any form.

    `shift` int [M] holds each row's table shift for engines with rounded tables, and is None for
    the others. For floating activations `x` holds codes, and `exponent` int [M, groups] the
    exponent that a row's activations share in a group. `fill` says whether codebooks are filled
    first.
    """

    x: np.ndarray
    weights: Form
    shift: np.ndarray | None = None
    exponent: np.ndarray | None = None
    fill: bool = False

    @property
    def codes(self) -> np.ndarray:
        """The code of every entry of the weights, uint8 [N, entries]."""
        return self.weights.codes

    @property
    def weight_format(self) -> WeightCodes:
        """The format of the codes."""
        return self.weights.format

    @property
    def group(self) -> int:
        """Activations of a row that share a scale."""
        return self.weights.group

    @property
    def shape(self) -> MatmulShape:
        return MatmulShape(len(self.x), len(self.codes), self.x.shape[1], self.group)


def random_activations(rng: np.random.Generator, kind: Activations, size: tuple) -> np.ndarray:
    """Random activations, uniform over all codes, also the integer below the symmetric range.

    Half of the time the numbers of a floating format have exponents so close to one another that
    most of them are not rounded to 0 when they are aligned to a shared exponent.
    """
    if kind.format is None:
        return rng.integers(-kind.maximum - 1, kind.maximum + 1, size)
    codes = rng.integers(0, 1 << kind.format.bits, size)
    if rng.random() < 0.5:
        return codes
    top = int(rng.integers(0, 1 << kind.format.exponent_bits))
    exponent = np.maximum(top - rng.integers(0, kind.bits + 1, size), 0)
    mantissa_bits = kind.format.mantissa_bits
    return codes & ~((1 << kind.format.bits - 1) - (1 << mantissa_bits)) | exponent << mantissa_bits


def random_exponents(
    rng: np.random.Generator, kind: Activations, x: np.ndarray, group: int
) -> np.ndarray | None:
    """The exponents that the rows of floating activations share, int [M, groups], or None for
    integers: the highest exponent of the group, that of the row, or a random one."""
    if kind.format is None:
        return None
    highest = numbers.shared_exponents(x, kind.format, group)
    choice = rng.integers(3)
    if choice == 1:
        highest[:] = highest.max(axis=1, keepdims=True)
    elif choice == 2:
        highest[:] = rng.integers(0, 1 << kind.format.exponent_bits, highest.shape)
    return highest


def near_halves(rng: np.random.Generator, kind: Activations, exponent: np.ndarray) -> np.ndarray:
    """Floating codes whose aligned values, before rounding, lie half-way between two integers, or
    one lower bit above that. `exponent` holds the shared exponent of each; the result has its
    shape."""
    assert kind.format is not None
    size, mantissa_bits = exponent.shape, kind.format.mantissa_bits
    distance = rng.integers(0, kind.bits + 1, size)
    own = np.maximum(exponent - distance, 0)
    # Bits of the significand that lie below the integer, of which the highest is the half.
    below = np.maximum(exponent - np.maximum(own, 1) - kind.guard_bits, 1)
    lower = np.where(rng.random(size) < 0.5, 1 << rng.integers(0, np.maximum(below - 1, 1)), 0)
    mantissa = rng.integers(0, 1 << mantissa_bits, size) >> below << below
    mantissa |= 1 << below - 1 | np.where(below > 1, lower, 0)
    sign = rng.integers(0, 2, size) << kind.format.bits - 1
    return sign | own << mantissa_bits | mantissa & (1 << mantissa_bits) - 1


Corner = Callable[[np.random.Generator, Activations, tuple], np.ndarray]

CORNERS: dict[str, Corner] = {
    "maximum": lambda _rng, kind, size: np.full(size, kind.maximum),
    "minimum": lambda _rng, kind, size: np.full(size, -kind.maximum),
    "leftover": lambda _rng, kind, size: np.full(size, -kind.maximum - 1),
    "extremes": lambda rng, kind, size: rng.choice([-kind.maximum, kind.maximum], size),
    "sparse": lambda rng, kind, size: (
        random_activations(rng, kind, size) * (rng.random(size) < 0.1)
    ),
}
"""Corner cases of integer activations, by name: functions that give an int array of a size."""


def _signed(rng: np.random.Generator, kind: Activations, magnitudes: np.ndarray) -> np.ndarray:
    """Codes of these magnitudes and any signs."""
    assert kind.format is not None
    return magnitudes | rng.integers(0, 2, magnitudes.shape) << kind.format.bits - 1


def _top(kind: Activations, size: tuple) -> np.ndarray:
    assert kind.format is not None
    return np.full(size, kind.format.largest_code)


def _beyond(rng: np.random.Generator, kind: Activations, size: tuple) -> np.ndarray:
    assert kind.format is not None
    return rng.integers(kind.format.largest_code + 1, 1 << kind.format.bits - 1, size)


def _subnormal(rng: np.random.Generator, kind: Activations, size: tuple) -> np.ndarray:
    """Among them zeros, and the least of the normal numbers."""
    assert kind.format is not None
    return rng.integers(0, 2 << kind.format.mantissa_bits, size) * (rng.random(size) < 0.8)


FLOAT_CORNERS: dict[str, Corner] = {
    "maximum": lambda _rng, kind, size: _top(kind, size),
    "minimum": lambda _rng, kind, size: _top(kind, size) | 1 << kind.code_bits - 1,
    "not finite": lambda rng, kind, size: _signed(rng, kind, _beyond(rng, kind, size)),
    "extremes": lambda rng, kind, size: _signed(rng, kind, _top(kind, size)),
    "subnormal": lambda rng, kind, size: _signed(rng, kind, _subnormal(rng, kind, size)),
    "sparse": CORNERS["sparse"],
    "least": lambda rng, kind, size: _signed(rng, kind, rng.integers(0, 4, size)),
}
"""The same for codes of floating activations."""


def corners(kind: Activations) -> dict[str, Corner]:
    """The corners that such activations have."""
    return CORNERS if kind.format is None else FLOAT_CORNERS


def corner_matmul(
    rng: np.random.Generator,
    kind: Activations,
    weight_format: WeightCodes,
    shape: MatmulShape,
    corner: str,
) -> Matmul:
    """A corner of the activations against columns of lowest, highest and extreme weight codes.

    Every third column is all lowest, the next all highest, the third a random mix of both, so that
    sums of the greatest magnitude of either sign occur. To that end every other row of floating
    activations shares an exponent that is one too low.
    """
    special = random_special(rng, weight_format, shape)
    count = max(1, len(weight_format.specials))
    values = np.array([weight_format.values(special) for special in range(count)])
    extremes = np.stack([values.argmin(axis=1), values.argmax(axis=1)], axis=1).astype(np.uint8)
    side = rng.integers(0, 2, (shape.n, shape.k))
    side[0::3], side[1::3] = 0, 1
    of_code = np.repeat(special, shape.group, axis=1)[:, : shape.k]
    x = corners(kind)[corner](rng, kind, (shape.m, shape.k))
    exponent = None
    if kind.format is not None:
        exponent = numbers.shared_exponents(x, kind.format, shape.group)
        exponent[::2] -= 1
    codes = extremes[of_code, side]
    return Matmul(x, Grid(codes, weight_format, shape.group, special), exponent=exponent)


def random_special(
    rng: np.random.Generator, weight_format: WeightCodes, shape: MatmulShape
) -> np.ndarray:
    """A special value for every group, uint8 [N, groups]; zeros where the format has none."""
    size = shape.n, -(-shape.k // shape.group)
    if not weight_format.specials:
        return np.zeros(size, np.uint8)
    return rng.integers(0, len(weight_format.specials), size, dtype=np.uint8)


def random_matmul(
    rng: np.random.Generator, kind: Activations, weight_format: WeightCodes, shape: MatmulShape
) -> Matmul:
    """Uniform activations and weight codes."""
    codes = rng.integers(0, weight_format.levels, (shape.n, shape.k), dtype=np.uint8)
    x = random_activations(rng, kind, (shape.m, shape.k))
    special = random_special(rng, weight_format, shape)
    exponent = random_exponents(rng, kind, x, shape.group)
    return Matmul(x, Grid(codes, weight_format, shape.group, special), exponent=exponent)


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
