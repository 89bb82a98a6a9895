"""Reads layers of BitNet b1.58, as Hugging Face packs them, to ternary codes.

Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764). A layer with K inputs and N outputs has a
`weight`, uint8 [N / 4, K]. Its row r holds the codes of the rows r, r + N/4, r + N/2 and r + 3N/4,
from the lowest two bits up. It also has one `weight_scale`, by which the class `autobitlinear`
multiplies and `bitlinear` divides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import TERNARY
from evolute.sim.weights import Grid
from evolute.sw.checkpoints.known_settings import KnownSettings
from evolute.sw.checkpoints.safetensors_file import Raw
from evolute.sw.tensors.stored import Stored
from evolute.sw.tensors.tensor import QuantTensor

SETTINGS = KnownSettings(
    read=("quant_method", "linear_class", "quantization_mode", "use_rms_norm"),
    harmless=("modules_to_not_convert", "rms_norm_eps"),  # the latter of a norm that is refused
)
"""Settings of BitNetQuantConfig in transformers."""

ROWS = 4
"""Rows of codes in one of bytes."""


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ternary codes 0..2 [N, K], N a multiple of 4, as bytes [N / 4, K]."""
    parts = codes.reshape(ROWS, -1, codes.shape[1])
    return np.bitwise_or.reduce(parts << np.arange(0, 8, 2, dtype=np.uint8)[:, None, None])


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `pack`."""
    parts = packed >> np.arange(0, 8, 2, dtype=np.uint8)[:, None, None] & np.uint8(3)
    return parts.reshape(-1, packed.shape[1])


def read_layer(parts: dict[str, Raw], settings: Mapping[str, Any], module: str) -> Stored | None:
    """The weights of the layer `module`; None if they are stored as floats. The tensors that are
    used are removed from `parts`.

    `settings` are those of the whole model. Raises ValueError or TypeError.
    """
    if "weight_scale" not in parts:
        return None
    kind = settings.get("linear_class", "bitlinear")
    if kind not in ("bitlinear", "autobitlinear"):
        raise ValueError(f"linear_class must be bitlinear or autobitlinear, got {kind!r:.40}")
    for name, value in (("quantization_mode", "offline"), ("use_rms_norm", False)):
        if settings.get(name, value) != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r:.40}")
    packed = parts.pop("weight").integers("U8")
    scales = parts.pop("weight_scale")
    if packed.ndim != 2 or scales.shape not in ((1,), ()):
        raise ValueError(f"weight {packed.shape} and weight_scale {scales.shape} are no matrix")
    shape = packed.shape[0] * ROWS, packed.shape[1]

    def read() -> QuantTensor:
        codes = unpack(packed)
        if (codes > 2).any():
            raise ValueError("holds the code 3, which is not ternary")
        with np.errstate(divide="ignore"):  # what comes of it is refused, not being finite
            stored_scale = scales.floats().reshape(())
            factor = np.float32(1) / stored_scale if kind == "bitlinear" else stored_scale
        scale = np.full((shape[0], 1), factor, np.float32)
        return QuantTensor(Grid.plain(codes, TERNARY, shape[1]), scale, -scale, group_bits=0)

    return Stored(shape, read, coded=True)
