"""Packers of weight beats, one for each kind of engine; `PACKERS` maps the class of a spec to its
packer.

A packer gets the codes of whole column tiles, uint8 [tiles * n, slices * slice_codes], the values
that belong to slices, and the format of the codes. For a grid, these values are the special values
of every output, uint8 [tiles * n, slices]; for a table, they are the centroids that all outputs
share, int [slices, c, v]. Instead of codes from codebooks it gets the stored indices of codewords,
without further values, see `vq_codebook`.

It returns the bits of the weight beats, one per byte, [tiles, slices * planes, bits of a beat], in
the places that `hw.spec.layout` defines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook
from evolute.hw.spec.formats import WeightCodes
from evolute.sw.deploy.packers import bit_serial, lut_dla, lut_tensor_core, mac, vq_codebook

Bits = NDArray[np.uint8]


class Packer(Protocol):
    """A function that packs codes for an engine, as this module describes it."""

    def __call__(
        self, engine: Any, codes: NDArray[Any], beside: Any, weight_format: WeightCodes, /
    ) -> Bits: ...


PACKERS: dict[type[Engine], Packer] = {
    LutTensorCore: lut_tensor_core.weight_beats,
    Mac: mac.weight_beats,
    BitSerial: bit_serial.weight_beats,
    VqCodebook: vq_codebook.weight_beats,
    LutDla: lut_dla.weight_beats,
}

STEPS: dict[
    type[Engine],
    Callable[[Any, NDArray[np.uint8], NDArray[np.uint8], WeightCodes], NDArray[np.int64]],
] = {BitSerial: bit_serial.beat_steps}
"""Of engines whose steps depend on weights: the steps of every weight beat of whole column tiles,
int64 [tiles, beats], from what a packer takes."""

FILLS: dict[type[Engine], Callable[[Any, Any], Bits]] = {VqCodebook: vq_codebook.fill_beats}
"""Of engines with fills: bits of the beats of a fill, [beats, bits of a beat], from what the codes
of a layer come from."""

INDICES: dict[type[Engine], Callable[[Any, Any, NDArray[np.int64], slice], NDArray[np.uint32]]] = {
    VqCodebook: vq_codebook.tile_indices
}
"""Of engines whose codes come from codebooks: what stands for the codewords of column tiles, of
what the codes of a layer come from, at the places along K of the activations of all slices."""
