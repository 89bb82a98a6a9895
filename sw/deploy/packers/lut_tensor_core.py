"""Packs weights for lookup tables: bit-planes, converted to table codes in advance, or ternary
digits as TL2's codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.sw.deploy.packers.bits import low_bits, multipliers


def _planes(
    engine: LutTensorCore, codes: NDArray[np.uint8], weight_format: WeightCodes
) -> list[NDArray[np.uint8]]:
    """The bits of every plane, where 1 stands for +1."""
    if engine.has_equal_planes(weight_format):
        return [(codes > level).view(np.uint8) for level in range(2)]
    planes = weight_format.bits
    if engine.is_signed:
        planes = engine.weight_bits
        codes = multipliers(engine, codes, weight_format)
    shifted = (np.right_shift(codes, plane) for plane in range(planes))
    return [np.bitwise_and(plane, 1, dtype=np.uint8) for plane in shifted]


def _digits(engine: LutTensorCore, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bits of codes of k ternary digits each: a magnitude, with its sign on top."""
    number = np.zeros(codes.size // engine.k, np.int8)
    for place, digits in enumerate(codes.reshape(-1, engine.k).T):
        number += (digits.astype(np.int8) - 1) * np.int8(3**place)
    signed = np.abs(number) + (number < 0) * np.int8(1 << engine.code_bits - 1)
    return low_bits(signed.astype(np.uint8), engine.code_bits)


def weight_beats(
    engine: LutTensorCore,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """The bits of the weight beats.

    The code for a mirrored table is made of k sign bits: the highest one is kept, and the others
    are XORed with it (LUT Tensor Core, Eq. 6).
    """
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.slice_k
    if engine.base == 3:
        bits = _digits(engine, codes).reshape(tiles, engine.n, slices, -1)
        return np.ascontiguousarray(bits.transpose(0, 2, 1, 3)).reshape(tiles, slices, -1)
    step, beats = engine.planes_per_step, engine.coding_of(weight_format).planes
    plane_bits = np.empty((tiles, slices, beats, engine.n, step, engine.slice_k), np.uint8)
    for plane, signs in enumerate(_planes(engine, codes, weight_format)):
        tables = signs.reshape(-1, engine.k)
        for place in range(engine.k - 1 if engine.mirrored else 0):
            tables[:, place] ^= tables[:, -1]
        columns = tables.reshape(tiles, engine.n, slices, engine.slice_k)
        plane_bits[:, :, plane // step, :, plane % step] = columns.transpose(0, 2, 1, 3)
    return plane_bits.reshape(tiles, slices * beats, -1)
