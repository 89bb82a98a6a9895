"""Golden model of the floating baselines: numbers in float64, every rounding by its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evolute.hw.spec.floating import FP16, FloatEngine, FloatLut, FloatMac
from evolute.hw.spec.formats import FloatFormat
from evolute.sim.numbers import decode
from evolute.sim.weights import group_bounds

Floats = np.ndarray


def numbers(codes: np.ndarray, kind: FloatFormat) -> Floats:
    """What codes count as, float64; what is not finite as the greatest number of its sign."""
    magnitude = codes.astype(np.int64) & (1 << kind.bits - 1) - 1
    sign = codes.astype(np.int64) & 1 << kind.bits - 1
    return decode(np.minimum(magnitude, kind.largest_code) | sign, kind)


def nearest(values: Floats, precision: int) -> Floats:
    """The values rounded to `precision` significand bits, halves to even, exponents unbounded."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, precision)), exponent - precision)


def add(a: Floats, b: Floats, precision: int) -> Floats:
    """Sums, rounded once, to at most 51 bits.

    float64 may have to round, too. Where it does, the neighbour with an odd significand is taken,
    which later rounding to fewer bits treats as the exact sum (Boldo and Melquiond 2008); what was
    lost is found exactly (Knuth's two-sum).
    """
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    if not lost.any():
        return nearest(total, precision)
    even = np.ldexp(np.frexp(total)[0], 53).astype(np.int64) % 2 == 0
    odd = np.nextafter(total, np.copysign(np.inf, lost))
    return nearest(np.where((lost != 0) & even, odd, total), precision)


def tree(terms: Floats, precision: int) -> Floats:
    """The sum over the last axis, of 2^i terms: pairs of neighbours, pairs of their sums, ..."""
    while terms.shape[-1] > 1:
        terms = add(terms[..., ::2], terms[..., 1::2], precision)
    return terms[..., 0]


def halved(terms: Floats, precision: int) -> Floats:
    """The sum over the last axis: of the first half's sum and the other's."""
    count = terms.shape[-1]
    if count == 1:
        return terms[..., 0]
    first, second = terms[..., : count // 2], terms[..., count // 2 :]
    return add(halved(first, precision), halved(second, precision), precision)


def _padded(values: np.ndarray, spec: FloatEngine) -> np.ndarray:
    """[rows, K] -> [rows, slices, slice_k], zeros behind."""
    short = -values.shape[1] % spec.slice_k
    return np.pad(values, ((0, 0), (0, short))).reshape(len(values), -1, spec.slice_k)


def _accumulated(
    spec: FloatEngine, steps: int, leaves: Callable[[int], Floats], shape: tuple[int, ...]
) -> Floats:
    """Adds the tree of every step's leaves [*shape, leaves] to a sum."""
    total = np.zeros(shape)
    for step in range(steps):
        total = add(total, tree(leaves(step), spec.significand_bits), spec.significand_bits)
    return total


def dequantized(values: np.ndarray, scales: np.ndarray) -> Floats:
    """Integers [N, K] times the FP16 codes of their scales, broadcast, as FP16 holds them."""
    return nearest(values * numbers(scales, FP16), FP16.mantissa_bits + 1)


def mac_sums(spec: FloatMac, x: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The sums of one group, [M, N] and [M], of activations [M, K] and weights [N, K]."""
    x, w = _padded(x, spec), _padded(weights, spec)
    psum = _accumulated(spec, x.shape[1], lambda i: x[:, None, i] * w[None, :, i], (len(x), len(w)))
    return psum, _accumulated(spec, x.shape[1], lambda i: x[:, i], (len(x),))


def lut_sums(spec: FloatLut, x: Floats, codes: np.ndarray, planes: int) -> tuple[Floats, Floats]:
    """The same for weight codes [N, K] of `planes` bit-planes."""
    bits = spec.significand_bits
    tables = _padded(x, spec).reshape(len(x), -1, spec.kg, spec.k)
    bit = _padded(codes, spec).reshape(len(codes), -1, spec.kg, spec.k)

    def plane_entries(step: int) -> Floats:
        at, plane = divmod(step, planes)
        signs = 2.0 * (bit[None, :, at] >> plane & 1) - 1
        return halved(tables[:, None, at] * signs, bits) * (1 << plane)

    slices = tables.shape[1]
    psum = _accumulated(spec, slices * planes, plane_entries, (len(x), len(codes)))
    ones = _accumulated(spec, slices, lambda i: halved(tables[:, i], bits), (len(x),))
    return psum, ones


def group_by_group(
    sums: Callable[[Floats, np.ndarray], tuple[Floats, Floats]],
    x: Floats,
    weights: np.ndarray,
    group: int,
) -> tuple[Floats, Floats]:
    """`sums` of every group of [M, K] and [N, K]: [M, groups, N] and [M, groups]."""
    group_sums = [sums(x[:, a:b], weights[:, a:b]) for a, b in group_bounds(x.shape[1], group)]
    psums, row_sums = zip(*group_sums, strict=True)
    return np.stack(psums, axis=1), np.stack(row_sums, axis=1)


def scaled_sums(
    psum: Floats,
    row_sum: Floats,
    scale: Floats | None,
    offset: Floats | None,
    precision: int,
) -> Floats:
    """The sums over all groups, [M, N], of psum [M, G, N] times scale and of row_sum [M, G] times
    offset, both [N, G], group by group; every product and every sum is rounded.

    Factors that are None are left out (`hw.spec.scaling.FloatScaling`).
    """
    total = np.zeros((psum.shape[0], psum.shape[2]))
    for g in range(psum.shape[1]):
        term = psum[:, g]
        if scale is not None:
            term = nearest(term * scale[:, g], precision)
        if offset is not None:
            product = nearest(row_sum[:, g, None] * offset[:, g], precision)
            term = add(term, product, precision)
        total = add(total, term, precision)
    return total
