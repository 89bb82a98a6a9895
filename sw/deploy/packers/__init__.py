"""Weight beats by engine: codes as they are streamed. `PACKERS` finds the packer of a spec.

A packer takes codes, uint8 [tiles * n, slices * slice_codes], what slices have beside them, and
their format. Beside the codes of a grid are the special values of every output, uint8 [tiles * n,
slices], beside those of a table the centroids that all outputs share, int [slices, c, v]. It gives
the bits of the weight beats of whole column tiles, one a byte, [tiles, slices * planes, bits of a
beat], as `hw.spec.layout` places them. In the place of codes that come from codebooks it takes what
stands for codewords, with nothing beside, see `vq_codebook`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook
from evolute.hw.spec.formats import WeightCodes
from evolute.sw.deploy.packers import bit_serial, lut_dla, lut_tensor_core, mac, vq_codebook

Bits = NDArray[np.uint8]

PACKERS: dict[type[Engine], Callable[[Any, NDArray[Any], Any, WeightCodes], Bits]] = {
    LutTensorCore: lut_tensor_core.weight_beats,
    Mac: mac.weight_beats,
    BitSerial: bit_serial.weight_beats,
    VqCodebook: vq_codebook.weight_beats,
    LutDla: lut_dla.weight_beats,
}
