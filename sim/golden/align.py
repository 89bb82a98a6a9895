"""Golden model of floating activations: the integers that an engine aligns them to.

Written from what the codes count as (`sim.numbers`), in float64, which holds all of these numbers,
and the powers of two between them, exactly.
"""

from __future__ import annotations

import numpy as np

from evolute.hw.spec.formats import Activations
from evolute.sim.golden.sums import symmetric
from evolute.sim.numbers import is_finite, split


def align(codes: np.ndarray, exponent: np.ndarray, activations: Activations) -> np.ndarray:
    """The integers, int64, to which an engine aligns codes that share `exponent`, broadcast."""
    kind = activations.format
    assert kind is not None
    significand, own = split(codes, kind)
    shared = np.clip(exponent.astype(np.int64), 1, kind.top_exponent)
    places = activations.bits - 2 - kind.mantissa_bits - (shared - own)
    top = activations.maximum
    nearest = np.clip(np.rint(np.ldexp(significand, places)), -top, top)
    aligned = np.where(is_finite(codes, kind), nearest, np.copysign(top, significand))
    return aligned.astype(np.int64)


def integers(
    codes: np.ndarray, exponent: np.ndarray | None, activations: Activations
) -> np.ndarray:
    """The integers, int64, that an engine multiplies: aligned, or the codes of integers.

    The leftover code of integers, -2^(bits-1), is read as the lowest one.
    """
    if activations.format is None:
        return symmetric(codes, activations.maximum)
    assert exponent is not None
    return align(codes, exponent, activations)
