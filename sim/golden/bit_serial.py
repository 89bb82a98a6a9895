"""Golden model of bit-serial weights: every weight as signed powers of two, one for each step.

Terms come from definitions: bits and Booth's digits from the two's complement code, BitMoD's from
the magnitude of a value in halves (HPCA 2025, section III-B): the leading one, if it counts a whole
or more, and the one that is left. Where steps are skipped, a value that is a power of two is one
term, in the first step if it is at most 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.bit_serial import RADIX_BITS, BitSerial, float_code
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.golden import integer
from evolute.sim.golden.sums import GroupSums, symmetric
from evolute.sim.weights import Form


@dataclass(frozen=True)
class EncodedTerms:
    """Weights as terms, int8 [terms, N, K], in groups of `group` along K: a weight is the sum of
    its terms, each times 2^shift; half of that of planes of -1 and 1."""

    group: int
    terms: np.ndarray
    shifts: tuple[int, ...]


def _bits(values: np.ndarray, bits: int) -> list[np.ndarray]:
    """Bit-planes of values in two's complement of `bits` bits; the top one counts negatively."""
    planes = [values >> plane & 1 for plane in range(bits)]
    return [*planes[:-1], -planes[-1]]


def _booth_digits(values: np.ndarray, bits: int) -> list[np.ndarray]:
    """Digits of 4^i: from the bits b, each is b[2i - 1] + b[2i] - 2 * b[2i + 1]."""
    doubled = values << 1  # with the bit below the lowest, which is 0
    return [
        (doubled >> i & 1) + (doubled >> i + 1 & 1) - 2 * (doubled >> i + 2 & 1)
        for i in range(0, bits, 2)
    ]


def _two_terms(halves: np.ndarray) -> list[np.ndarray]:
    """The lower and the upper of the one or two ones of each magnitude, with their value's sign."""
    magnitude = np.abs(halves)
    leading = np.where(magnitude, 1 << np.maximum(0, np.frexp(magnitude)[1] - 1), 0)
    upper = np.where(leading > 1, leading, 0)
    return [np.sign(halves) * (magnitude - upper), np.sign(halves) * upper]


def _skippable_terms(halves: np.ndarray) -> list[np.ndarray]:
    """Of each value the term of the first step, 1, 2 or 4, and a quarter of that of the second."""
    magnitude, sign = np.abs(halves), np.sign(halves)
    leading = np.where(magnitude, 1 << np.maximum(0, np.frexp(magnitude)[1] - 1), 0)
    leading = np.where(magnitude == 3, 4, leading)  # and 1 less
    upper = np.where((magnitude > 4) | (magnitude == 3), leading, 0)
    return [sign * (magnitude - upper), sign * (upper >> 2)]


def encode(spec: BitSerial, weights: Form) -> EncodedTerms:
    """The terms of weight codes. Raises `SpecError`."""
    codes, weight_format = weights.codes, weights.format
    values = integer.weights(spec, weights)
    if spec.has_pairs:
        terms = [codes >> plane & 1 for plane in range(weight_format.bits)]
        if spec.terms == "xnor":
            terms = [2 * term.astype(np.int8) - 1 for term in terms]
        shifts = tuple(range(len(terms)))
    elif weight_format.kind is Kind.BITMOD and spec.skips:
        terms, shifts = _skippable_terms(values), (0, RADIX_BITS)
    elif weight_format.kind is Kind.BITMOD:
        terms, shifts = _two_terms(values), (0, 0)
    elif spec.terms == "planes":
        terms = _bits(values, weight_format.bits)
        shifts = tuple(range(len(terms)))
    else:
        terms = _booth_digits(values, weight_format.bits)
        shifts = tuple(range(0, 2 * len(terms), 2))
    return EncodedTerms(weights.group, np.stack(terms).astype(np.int8), shifts)


def group_sums(
    spec: BitSerial, x: np.ndarray, weights: EncodedTerms, shift: np.ndarray | None = None
) -> GroupSums:
    """Multiply integer activations [M, K] by encoded weights; sums are int64.

    The leftover code -2^(bits-1) is read as the lowest activation, as the hardware does.
    """
    x = symmetric(x, spec.activations.maximum)
    if spec.has_pairs:
        total = np.zeros((), np.int64)
        for by_x, plane in _activation_planes(spec, x):
            for by, terms in zip(weights.shifts, weights.terms, strict=True):
                total = total + (integer.group_sums(plane, terms, weights.group).psum << by + by_x)
        whole = integer.group_sums(x, weights.terms[0], weights.group)
        return GroupSums(total, whole.row_sum)
    sums = [integer.group_sums(x, terms, weights.group) for terms in weights.terms]
    psum = sum(plane_sum.psum << by for plane_sum, by in zip(sums, weights.shifts, strict=True))
    return GroupSums(np.asarray(psum), sums[0].row_sum)


def _activation_planes(spec: BitSerial, x: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Planes of activations with their shifts: bits of two's complement, or -1 and 1."""
    bits = spec.activation_bits
    if spec.terms == "and":
        return list(enumerate(_bits(x, bits)))
    above = x + (1 << bits - 1)
    return [(0, -np.ones_like(x)), *((i, 2 * (above >> i & 1) - 1) for i in range(bits))]


def _float_values(special: int) -> np.ndarray:
    """What the weight codes -8 .. 7 count as in floating mode, as index plus 8."""
    values = np.zeros(16, np.int64)
    for value in WeightCodes(4, Kind.BITMOD).values(special):
        values[float_code(value) + 8] = value
    return values


def slice_sums(
    spec: BitSerial, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats.

    Of a code the low bits count that belong to the digits of `mode`; where steps are skipped, of
    all its terms those that the beat says are needed.
    """
    codes = fields["code"].astype(np.int64)
    if spec.has_planes:
        bits = codes.reshape(-1, planes, spec.n, spec.k)
        counts = 1 << np.arange(planes)
        if spec.terms == "xnor":
            bits, counts = 2 * bits - 1, 2 * counts
        elif not spec.has_pairs:
            counts[-1] *= -1
        weights = np.einsum("p,spnk->snk", counts, bits)
        return np.einsum("rsk,snk->rsn", x, weights)
    codes = codes.reshape(-1, spec.n, spec.k)
    is_float = spec.has_floats and mode & spec.float_mode
    if is_float:
        table = np.stack([_float_values(special) for special in range(4)])
        special = fields["special"].reshape(-1, spec.n)
        codes = table[special[:, :, None], (codes + 8 & 15)]
    if spec.skips:
        if is_float:
            terms = _skippable_terms(codes)
        elif spec.terms == "planes":
            terms = [codes >> plane & 1 for plane in range(spec.weight_bits)]
            terms[mode] *= -1
        else:
            terms = _booth_digits(codes, spec.weight_bits)
        needed = fields["needed"].reshape(-1, 1, 1)
        weights = sum(
            (needed >> i & 1) * term << spec.radix_bits * i for i, term in enumerate(terms)
        )
    elif is_float:
        weights = codes
    else:
        half = 1 << min(spec.weight_bits, RADIX_BITS * spec.beat_steps(mode)) - 1
        weights = (codes + half & 2 * half - 1) - half
    return np.einsum("rsk,snk->rsn", x, weights)
