"""Planes of bits, or whole codes with the special values of their groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw.spec.bit_serial import RADIX_BITS, BitSerial, float_code
from hw.spec.formats import Kind, WeightCodes


def _float_codes(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.int8]:
    """BitMoD's codes as a weight beat has them, in the shape of `codes`."""
    coding = engine.coding_of(weight_format)
    specials = range(len(weight_format.specials))
    table = np.array(
        [[float_code(value) for value in coding.values(weight_format, each)] for each in specials],
        np.int8,
    )
    of_code = np.repeat(special, engine.k, axis=1)
    return table.reshape(-1).take(of_code.astype(np.int16) * weight_format.levels + codes)


def weight_beats(
    engine: BitSerial,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8] | None,
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """Bits of the weight beats: two's complement, by planes or whole; or planes of codes."""
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.k
    if weight_format.kind is Kind.BITMOD:
        assert special is not None
        weights = _float_codes(engine, codes, special, weight_format).view(np.uint8)
    else:
        origin = 0 if engine.has_pairs else engine.coding_of(weight_format).origin
        weights = codes + np.uint8(origin % 256)  # wraps, as two's complement does
    columns = weights.reshape(tiles, engine.n, slices, engine.k).transpose(0, 2, 1, 3)
    if engine.has_planes:
        planes = weight_format.bits
        found = np.empty((tiles, slices, planes, engine.n, engine.k), np.uint8)
        for plane in range(planes):
            np.bitwise_and(np.right_shift(columns, plane), 1, out=found[:, :, plane])
        return found.reshape(tiles, slices * planes, -1)
    bits = _bits(columns, engine.weight_bits)
    if engine.has_floats:
        if special is None:
            special = np.zeros((len(codes), slices), np.uint8)
        beside = special.reshape(tiles, engine.n, slices).transpose(0, 2, 1)
        bits = np.concatenate([bits, _bits(beside, 2)], axis=-1)
    if engine.skips:
        needed = needed_digits(engine, codes, weight_format)
        bits = np.concatenate([bits, _bits(needed[..., None], engine.digits)], axis=-1)
    return bits


def needed_digits(
    engine: BitSerial, codes: NDArray[np.uint8], weight_format: WeightCodes
) -> NDArray[np.uint8]:
    """Which digits some weight of a beat has, uint8 [tiles, slices], bit i for digit i; the lowest
    where none has any. A beat takes as many steps as bits are set."""
    values = np.array(engine.coding_of(weight_format).values(weight_format))
    table = np.zeros(len(values), np.uint8)
    for digit in range(engine.digits):
        # Of a digit that is zero, its own two bits and the one below are the same.
        window = values << 1 >> RADIX_BITS * digit & 7
        table |= ((window != 0) & (window != 7)).astype(np.uint8) << digit
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.k
    each = table[codes].reshape(tiles, engine.n, slices, engine.k)
    return np.maximum(np.bitwise_or.reduce(each, axis=(1, 3)), 1)


def _bits(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The low bits of values [tiles, slices, ...], [tiles, slices, count * width]."""
    each = np.ascontiguousarray(values)[..., None]
    bits = np.unpackbits(each, axis=-1, count=width, bitorder="little")
    return bits.reshape(*values.shape[:2], -1)
