"""Golden model of the LUT Tensor Core: the values it must produce, bit for bit.

The arithmetic of LUT Tensor Core (ISCA 2025, sections 3.1.1-3.1.3) and T-MAC (EuroSys 2025,
section 3): weights are split into bit-planes of signs, K activations become a table of their signed
sums, of which the half with a negative top sign is kept, and every plane of every output looks its
sum up. Rounded tables follow T-MAC: round(table / scale), halves to even, saturated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.sim.golden.sums import GroupSums, symmetric
from evolute.sim.weights import Form, group_bounds


def weight_planes(spec: LutTensorCore, codes: np.ndarray, weight_format: WeightCodes) -> np.ndarray:
    """Bits of every plane, uint8 [planes, N, K]; 1 stands for +1, 0 for -1 (or 0, where tables are
    not mirrored), or those of two's complement. In base 3 the one plane of digits, the codes
    themselves."""
    if spec.base == 3:
        return codes[None]
    if weight_format.kind is Kind.TERNARY and spec.planes_per_step == 1:
        return np.stack([codes >= 1, codes >= 2]).astype(np.uint8)
    values, planes = codes.astype(np.int64), weight_format.bits
    if spec.is_signed:
        values, planes = values - weight_format.levels // 2, spec.weight_bits
    return np.stack([values >> plane & 1 for plane in range(planes)]).astype(np.uint8)


def plane_weights(spec: LutTensorCore, weight_format: WeightCodes) -> np.ndarray:
    """What a bit, or a digit, of each plane counts, int64 [planes]."""
    if spec.base == 3:
        return np.ones(1, np.int64)
    if spec.is_signed:
        weights = 1 << np.arange(spec.weight_bits)
        weights[-1] *= -1
        return weights
    planes = np.arange(weight_format.bits)
    equal = weight_format.kind is Kind.TERNARY and spec.planes_per_step == 1
    return 1 << (np.zeros_like(planes) if equal else planes)


def table_codes(spec: LutTensorCore, digits: np.ndarray) -> np.ndarray:
    """Codes uint8 [...] of what k weights have in one plane, uint8 [..., k].

    Bits as they are, or folded; ternary digits 0 .. 2 as the sign and magnitude of a number to
    base 3 whose digits are one less (TL2's code).
    """
    if spec.base == 3:
        number = ((digits.astype(np.int64) - 1) * 3 ** np.arange(spec.k)).sum(axis=-1)
        negative = (number < 0).astype(np.int64) << (spec.code_bits - 1)
        return (np.abs(number) | negative).astype(np.uint8)
    if spec.mirrored:
        return fold_signs(digits)
    return (digits << np.arange(spec.k, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)


def fold_signs(bits: np.ndarray) -> np.ndarray:
    """Codes of k sign bits each: uint8 [..., k] -> uint8 [...].

    The top bit is the sign S of the last weight; the others are XORed with S, which is the
    complement of the index that mirrored lookup needs (Eq. 6), done once, offline.
    """
    sign = bits[..., -1:]
    folded = np.concatenate([bits[..., :-1] ^ sign, sign], axis=-1)
    return (folded << np.arange(bits.shape[-1], dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)


def half_tables(x: np.ndarray) -> np.ndarray:
    """Stored entries int64 [..., 2^(k-1)] of activations [..., k].

    Entry e is -x[k-1] + sum of (2*e_i - 1) * x[i] over i < k-1 (Eq. 5).
    """
    k = x.shape[-1]
    entries = np.arange(1 << (k - 1))[:, None] >> np.arange(k - 1) & 1
    signs = np.concatenate([2 * entries - 1, np.full((len(entries), 1), -1)], axis=1)
    return x.astype(np.int64) @ signs.T


def full_tables(spec: LutTensorCore, x: np.ndarray) -> np.ndarray:
    """What every code stands for, int64 [..., 2^code_bits], of activations [..., k]."""
    if spec.base == 2 and spec.mirrored:
        half = half_tables(x)
        # Sign bit on top of the index: a set sign reads the stored entry negated.
        return np.concatenate([half, -half], axis=-1)
    codes = np.arange(1 << spec.code_bits)
    if spec.base == 2:
        weights = codes[:, None] >> np.arange(spec.k) & 1
    else:
        places = 3 ** np.arange(spec.k)
        magnitudes = codes & (1 << spec.code_bits - 1) - 1
        digits = (magnitudes[:, None] + places.sum()) // places % 3 - 1
        weights = np.where(codes >> spec.code_bits - 1, -1, 1)[:, None] * digits
        weights[magnitudes > places.sum()] = 0  # codes that no weights have
    return x.astype(np.int64) @ weights.T


def round_tables(tables: np.ndarray, scale: np.ndarray, maximum: int) -> np.ndarray:
    """T-MAC's table quantization: round-half-even(table / scale), saturated; 0 where scale is 0."""
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, 0.0, 1.0 / scale)
    return np.clip(np.rint(tables * inverse), -maximum, maximum).astype(np.int64)


def tmac_scale(x: np.ndarray, k: int, maximum: int = 127) -> np.ndarray:
    """T-MAC's scale per row: the largest sum of k magnitudes, over `maximum`. [M, K] -> [M]."""
    sums = np.abs(x).reshape(len(x), -1, k).sum(axis=-1)
    return sums.max(axis=1) / maximum


def table_shift(spec: LutTensorCore, x: np.ndarray, group: int) -> np.ndarray:
    """Least right shift per row with which no entry of its tables saturates, int64 [M].

    The hardware's form of T-MAC's one scale per row: the next power of two at or above it. Every
    scale group of `group` activations along K begins a new table.
    """
    top = spec.activations.maximum
    x = np.clip(x.astype(np.int64), -top, top)
    starts = [
        start
        for group_start, end in group_bounds(x.shape[1], group)
        for start in range(group_start, end, spec.k)
    ]
    positive = np.add.reduceat(np.maximum(x, 0), starts, axis=1)
    negative = np.add.reduceat(np.maximum(-x, 0), starts, axis=1)
    # Of a signed sum all can be positive; a subset's sum has only one sign's at most.
    sums = positive + negative if spec.mirrored else np.maximum(positive, negative)
    largest = sums.max(axis=1)
    shifts = np.arange(spec.maximum_table_shift + 1)
    return (largest[:, None] > spec.entry_maximum << shifts).sum(axis=1)


@dataclass(frozen=True)
class EncodedIndices:
    """Weights as table indices, ready for many lookups.

    `indices[g]` is uint8 or uint16 [tables, planes, N] for scale group g: entries of full tables
    (sign and index together), `joint` neighbouring tables merged into one index.
    """

    weight_format: WeightCodes
    group: int
    k: int
    joint: int
    indices: tuple[np.ndarray, ...]


def encode(spec: LutTensorCore, weights: Form) -> EncodedIndices:
    """Fold weight codes into table indices for `spec`. Raises `SpecError`.

    No format that the engine runs has special values.
    """
    codes, weight_format, group = weights.codes, weights.format, weights.group
    spec.coding_of(weight_format)
    joint = 2 if spec.code_bits <= 4 else 1  # tables of two groups merge while that stays cheap
    indices = []
    for start, end in group_bounds(codes.shape[1], group):
        planes = weight_planes(spec, codes[:, start:end], weight_format)
        pad = -(end - start) % (spec.k * joint)
        planes = np.pad(planes, ((0, 0), (0, 0), (0, pad)))
        table_indices = table_codes(spec, planes.reshape(*planes.shape[:2], -1, spec.k))
        table_indices = table_indices.reshape(*table_indices.shape[:2], -1, joint)
        index = table_indices[..., 0]
        if joint == 2:
            index = index | table_indices[..., 1] << spec.code_bits
        indices.append(np.ascontiguousarray(index.transpose(2, 0, 1)))
    return EncodedIndices(weight_format, group, spec.k, joint, tuple(indices))


def group_sums(
    spec: LutTensorCore,
    x: np.ndarray,
    weights: EncodedIndices,
    shift: np.ndarray | None = None,
) -> GroupSums:
    """Multiply integer activations [M, K] by encoded weights through lookup tables.

    `shift` int [M] is each row's table shift and belongs to specs with rounded tables only; their
    psums count in units of 2^shift. Sums are int64. The leftover code -2^(bits-1) is read as the
    lowest activation, as the hardware does.
    """
    require((shift is None) == (spec.table_bits is None), "shift", "given iff tables round", shift)
    x = symmetric(x, spec.activations.maximum)
    bounds = group_bounds(x.shape[1], weights.group)
    columns = weights.indices[0].shape[2]
    psum = np.empty((len(x), len(bounds), columns), np.int64)
    row_sum = np.empty((len(x), len(bounds)), np.int64)
    counts = plane_weights(spec, weights.weight_format)[:, None]
    for g, (start, end) in enumerate(bounds):
        indices = weights.indices[g]
        part = np.pad(x[:, start:end], ((0, 0), (0, -(end - start) % (spec.k * weights.joint))))
        tables = full_tables(spec, part.reshape(len(x), -1, spec.k))
        if shift is not None:
            amount = np.minimum(shift, spec.maximum_table_shift)[:, None, None]
            tables = round_tables(tables, np.exp2(amount), spec.entry_maximum)
        tables = tables.astype(np.int32)
        if weights.joint == 2:
            tables = tables[:, 1::2, :, None] + tables[:, 0::2, None, :]
            tables = tables.reshape(len(x), len(indices), -1)
        slice_sum = np.empty(indices.shape[1:], np.int32)
        for row in range(len(x)):
            total = np.zeros(indices.shape[1:], np.int32)
            for table, index in zip(tables[row], indices, strict=True):
                np.take(table, index, out=slice_sum, mode="clip")
                total += slice_sum
            psum[row, g] = (total * counts).sum(axis=0)
        row_sum[:, g] = part.sum(axis=1)
    return GroupSums(psum, row_sum)


def slice_sums(
    spec: LutTensorCore, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats.

    `x` int64 [rows, slices, slice_k]. Only for exact tables.
    """
    rows, slices = x.shape[:2]
    # [kg, beats, planes of a beat, slices, n]: places in a row's tables, one after another.
    codes = fields["code"].reshape(slices, planes, spec.n, spec.planes_per_step, spec.kg)
    codes = codes.transpose(4, 1, 3, 0, 2)
    table = np.arange(slices * spec.kg).reshape(slices, spec.kg).T
    places = (table[:, None, None, :, None] << spec.code_bits) + codes
    beats = np.arange(planes)[:, None] * (spec.planes_per_step if mode != 1 else 0)
    counts = 1 << beats + np.arange(spec.planes_per_step)
    if spec.is_signed:
        counts[:, -1] *= -1
    tables = full_tables(spec, x.reshape(rows, slices, spec.kg, spec.k)).reshape(rows, -1)
    psums = np.empty((rows, slices, spec.n), np.int64)
    for row in range(rows):
        looked_up = tables[row].take(places).sum(axis=0)
        psums[row] = (looked_up * counts[:, :, None, None]).sum(axis=(0, 1))
    return psums
