"""Packs weights for bit-serial engines: planes of bits, or whole codes with the special values of
their groups. Also finds the steps that can be skipped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.bit_serial import BitSerial, float_code, float_terms
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sw.deploy.packers.bits import low_bits, multipliers


def _float_codes(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.int8]:
    """BitMoD's codes in the form of a weight beat, in the shape of `codes`."""
    coding = engine.coding_of(weight_format)
    specials = range(len(weight_format.specials))
    table = np.array(
        [
            [float_code(value) for value in coding.values(weight_format, special)]
            for special in specials
        ],
        np.int8,
    )
    return _of_groups(engine, table, codes, special)


def _of_groups(
    engine: BitSerial, table: NDArray, codes: NDArray[np.uint8], special: NDArray[np.uint8]
) -> NDArray:
    """The entries of a table [specials, levels] for codes with the special values of their
    slices."""
    of_code = np.repeat(special, engine.k, axis=1)
    return table.reshape(-1).take(of_code.astype(np.int16) * table.shape[1] + codes)


def weight_beats(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """The bits of the weight beats: two's complement as planes or whole numbers, or planes of
    codes."""
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.k
    if weight_format.kind is Kind.BITMOD:
        weights = _float_codes(engine, codes, special, weight_format).view(np.uint8)
    else:
        weights = codes if engine.has_pairs else multipliers(engine, codes, weight_format)
    columns = weights.reshape(tiles, engine.n, slices, engine.k).transpose(0, 2, 1, 3)
    if engine.has_planes:
        planes = weight_format.bits
        plane_bits = np.empty((tiles, slices, planes, engine.n, engine.k), np.uint8)
        for plane in range(planes):
            np.bitwise_and(np.right_shift(columns, plane), 1, out=plane_bits[:, :, plane])
        return plane_bits.reshape(tiles, slices * planes, -1)
    bits = _bits(columns, engine.weight_bits)
    if engine.has_floats:
        beside = special.reshape(tiles, engine.n, slices).transpose(0, 2, 1)
        bits = np.concatenate([bits, _bits(beside, 2)], axis=-1)
    if engine.skips:
        needed = needed_steps(engine, codes, special, weight_format)
        bits = np.concatenate([bits, _bits(needed[..., None], engine.digits)], axis=-1)
    return bits


def needed_steps(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """For each beat, the digits or planes that some weight has: uint8 [tiles, slices] with bit i
    for step i.

    `special` are the special values of slices, as in `PACKERS`.
    """
    coding = engine.coding_of(weight_format)
    if weight_format.kind is Kind.BITMOD:
        tables = [
            [_float_steps(value) for value in coding.values(weight_format, special)]
            for special in range(len(weight_format.specials))
        ]
        needed = _of_groups(engine, np.array(tables, np.uint8), codes, special)
    else:
        values = coding.values(weight_format)
        steps = _plane_steps if engine.terms == "planes" else _digit_steps
        table = np.array([steps(value, engine.beat_steps(coding.mode)) for value in values])
        needed = table.astype(np.uint8)[codes]
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.k
    of_slices = needed.reshape(tiles, engine.n, slices, engine.k)
    return np.bitwise_or.reduce(of_slices, axis=(1, 3))


def _float_steps(value: int) -> int:
    return sum(1 << i for i, term in enumerate(float_terms(value)) if term)


def _plane_steps(value: int, count: int) -> int:
    return value & (1 << count) - 1


def _digit_steps(value: int, count: int) -> int:
    # Of a digit that is zero, its own two bits and the one below are the same.
    windows = [value << 1 >> 2 * digit & 7 for digit in range(count)]
    return sum(1 << digit for digit, window in enumerate(windows) if window not in (0, 7))


def beat_steps(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.int64]:
    """The steps that each weight beat takes if steps are skipped, int64 [tiles, slices]."""
    needed = needed_steps(engine, codes, special, weight_format)
    return np.maximum(np.bitwise_count(needed), 1).astype(np.int64)


def _bits(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The low `width` bits of values [tiles, slices, ...], as [tiles, slices, count * width]."""
    return low_bits(values, width).reshape(*values.shape[:2], -1)
