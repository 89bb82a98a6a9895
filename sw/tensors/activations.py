"""Activations in the form that engines take: rows of codes, each row with its own scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import Activations
from evolute.sim import numbers
from evolute.sim.golden import align
from evolute.sw.tensors.tensor import QuantError


@dataclass(frozen=True, eq=False)
class QuantActivations:
    """Rows of activations a[m, k] = scale[m] * x[m, k]; x is int32 [M, K], scale float32 [M].

    `codes` is what the engine receives. It is x itself, or floating codes (uint16 [M, K]) together
    with the exponent that each row shares (int64 [M]); x then has the values of these codes.
    """

    x: NDArray[np.int32]
    scale: NDArray[np.float32]
    codes: NDArray[np.integer]
    exponent: NDArray[np.int64] | None = None

    def columns(self, selected: slice) -> QuantActivations:
        """Some columns of all rows, with the rows' scales."""
        return replace(self, x=self.x[:, selected], codes=self.codes[:, selected])


def _floating(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Codes of a floating format. Each row shares its highest exponent, and its scale is a power of
    two for it."""
    kind = activations.format
    assert kind is not None
    codes = numbers.encode(a, kind)
    exponent = numbers.shared_exponents(codes, kind, a.shape[1])
    x = align.align(codes, exponent, activations)
    scale = np.ldexp(np.float32(1), exponent[:, 0] - kind.bias - (activations.bits - 2))
    return QuantActivations(x.astype(np.int32), scale.astype(np.float32), codes, exponent[:, 0])


def quantize_activations(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Quantize each row (token) of a [M, K] with its own scale, rounding to nearest, halves to
    even, to a symmetric range.

    Floating activations are first rounded to their format, whose greatest finite number is the
    limit. Raises `QuantError` if `a` has values that are not finite.
    """
    scale = (np.abs(a).max(axis=1) / np.float32(activations.maximum)).astype(np.float32)
    if not np.isfinite(scale).all():
        raise QuantError("activations are not finite: the model's weights are broken")
    if activations.format is not None:
        return _floating(a, activations)
    x = np.zeros_like(a)
    np.divide(a, scale[:, None], out=x, where=scale[:, None] != 0)
    np.clip(np.rint(x, out=x), -activations.maximum, activations.maximum, out=x)
    integers = x.astype(np.int32)
    return QuantActivations(integers, scale, integers)
