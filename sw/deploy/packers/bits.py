"""What packers have in common: codes in two's complement, and integers as bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import WeightCodes


def multipliers(
    engine: Engine, codes: NDArray[np.uint8], weight_format: WeightCodes
) -> NDArray[np.uint8]:
    """The integer by which each code multiplies, modulo 256."""
    origin = engine.coding_of(weight_format).origin
    return codes + np.uint8(origin % 256)  # wraps, as two's complement does


def low_bits(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """The low bits of little-endian integers, one per byte, lowest first, [..., width]."""
    value_bytes = np.ascontiguousarray(values)[..., None].view(np.uint8)
    return np.unpackbits(value_bytes, axis=-1, count=width, bitorder="little")


def gathered(values: NDArray, at: NDArray[np.int64], rows: int, blank: int = 0) -> NDArray:
    """The columns of `values` with the indices `at`, with `blank` for padding (index -1) and for
    additional rows up to `rows`."""
    laid_out = np.full((rows, len(at)), blank, values.dtype)
    if np.array_equal(at, np.arange(values.shape[1])):
        laid_out[: len(values)] = values
    else:
        laid_out[: len(values), at >= 0] = values[:, at[at >= 0]]
    return laid_out
