"""Packs tables by centroid: centroids, and with each of them a row of its table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.lut_dla import LutDla
from evolute.sw.deploy.packers.bits import low_bits, multipliers


def weight_beats(
    engine: LutDla,
    codes: NDArray[np.uint8],
    centroids: NDArray[np.integer],
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """The bits of the weight beats: as many centroids as a beat has lanes, then the entry of each
    for every output.

    `codes` are those of tables, [tiles * n, slices * c]; `centroids` is [slices, c, v].
    """
    tiles, beats = len(codes) // engine.n, codes.shape[1] // engine.lanes
    entries = multipliers(engine, codes, weight_format)
    rows = entries.reshape(tiles, engine.n, beats, engine.lanes).transpose(0, 2, 3, 1)

    def bits(values: NDArray, width: int) -> NDArray[np.uint8]:
        return low_bits(values, width).reshape(len(values), beats, -1)

    centroid_bits = bits(centroids.astype("<i2")[None], engine.activation_bits)
    centroid_bits = np.broadcast_to(centroid_bits, (tiles, *centroid_bits.shape[1:]))
    return np.concatenate([centroid_bits, bits(rows, engine.weight_bits)], axis=-1)
