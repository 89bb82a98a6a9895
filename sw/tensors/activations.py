"""Activations as engines take them: rows of codes, each with a scale of its own."""

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
    """Rows of activations a[m, k] = scale[m] * x[m, k]; x int32[M, K], scale float32[M].

    `codes` is what an engine is given: x itself, or floating codes, uint16, with the exponent that
    each row shares, int64 [M]. In the latter case it is their values that x stands for.
    """

    x: NDArray[np.int32]
    scale: NDArray[np.float32]
    codes: NDArray[np.integer]
    exponent: NDArray[np.int64] | None = None

    def columns(self, which: slice) -> QuantActivations:
        """Some columns of the rows, with the rows' scales."""
        return replace(self, x=self.x[:, which], codes=self.codes[:, which])


def _floating(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Codes of a floating format, and each row with its highest exponent: scales are its power."""
    kind = activations.format
    assert kind is not None
    codes = numbers.encode(a, kind)
    exponent = numbers.shared_exponents(codes, kind, a.shape[1])
    x = align.align(codes, exponent, activations)
    scale = np.ldexp(np.float32(1), exponent[:, 0] - kind.bias - (activations.bits - 2))
    return QuantActivations(x.astype(np.int32), scale.astype(np.float32), codes, exponent[:, 0])


def quantize_activations(a: NDArray[np.float32], activations: Activations) -> QuantActivations:
    """Each row (token) of `a` [M, K] with its own scale, half to even, symmetric range.

    Floating activations are rounded to their format first, at most to its greatest finite number.
    Raises `QuantError` where `a` is not finite.
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
