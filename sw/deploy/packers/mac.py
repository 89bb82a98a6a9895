"""Packs whole codes in two's complement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.mac import Mac
from evolute.sw.deploy.packers.bits import low_bits, multipliers


def weight_beats(
    engine: Mac,
    codes: NDArray[np.uint8],
    special: NDArray[np.uint8],
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """The bits of the weight beats: the integer by which each code multiplies, modulo
    2^weight_bits."""
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.k
    weights = multipliers(engine, codes, weight_format)
    columns = weights.reshape(tiles, engine.n, slices, engine.k).transpose(0, 2, 1, 3)
    return low_bits(columns, engine.weight_bits).reshape(tiles, slices, -1)
