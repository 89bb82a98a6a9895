"""Floating numbers as data: what the codes of a `FloatFormat` count as, and back.

Written from what the codes count as, in float64, which holds all of these numbers, and the powers
of two between them, exactly.
"""

from __future__ import annotations

import numpy as np

from evolute.hw.spec.formats import FloatFormat


def split(codes: np.ndarray, kind: FloatFormat) -> tuple[np.ndarray, np.ndarray]:
    """Returns significands with their sign, float64, and the exponents that they count with."""
    codes = codes.astype(np.int64)
    exponent = codes >> kind.mantissa_bits & (1 << kind.exponent_bits) - 1
    mantissa = codes & (1 << kind.mantissa_bits) - 1
    significand = mantissa + ((exponent > 0) << kind.mantissa_bits)
    sign = np.where(codes >> kind.bits - 1 & 1, -1.0, 1.0)
    return sign * significand, np.maximum(exponent, 1)


def is_finite(codes: np.ndarray, kind: FloatFormat) -> np.ndarray:
    """Whether codes stand for numbers, not for infinities or NaN."""
    return codes.astype(np.int64) & (1 << kind.bits - 1) - 1 <= kind.largest_code


def decode(codes: np.ndarray, kind: FloatFormat) -> np.ndarray:
    """What finite codes count as, float64; what is not finite is NaN."""
    significand, exponent = split(codes, kind)
    values = np.ldexp(significand, exponent - kind.bias - kind.mantissa_bits)
    return np.where(is_finite(codes, kind), values, np.nan)


def encode(values: np.ndarray, kind: FloatFormat) -> np.ndarray:
    """The codes, uint16, nearest to finite `values`, halves to even; at most `largest_code`."""
    magnitudes = np.abs(values.astype(np.float64))
    exponent = np.where(magnitudes > 0, np.frexp(magnitudes)[1] - 1 + kind.bias, 1)
    exponent = np.maximum(exponent, 1)
    significand = np.rint(np.ldexp(magnitudes, kind.bias + kind.mantissa_bits - exponent))
    # A leading one adds to the exponent's field, and so does a carry out of the significand.
    codes = ((exponent - 1) << kind.mantissa_bits) + significand.astype(np.int64)
    codes = np.minimum(codes, kind.largest_code)
    return (codes | np.signbit(values).astype(np.int64) << kind.bits - 1).astype(np.uint16)


def shared_exponents(codes: np.ndarray, kind: FloatFormat, group: int) -> np.ndarray:
    """The highest exponent of every `group` codes along the last axis, int64 [..., groups]."""
    exponent = np.minimum(split(codes, kind)[1], kind.top_exponent)
    return np.maximum.reduceat(exponent, np.arange(0, codes.shape[-1], group), axis=-1)
