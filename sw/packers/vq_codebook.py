"""Indices of codewords, and the codebooks that a fill brings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import require
from hw.spec.formats import WeightCodes
from hw.spec.vq_codebook import VqCodebook
from sim.golden.vq_codebook import Vectors


def stored_index(engine: VqCodebook, vectors: Vectors) -> NDArray[np.uint32]:
    """What stands for each codeword: its index, and above it the residual's."""
    found, low = np.zeros(vectors.index.shape, np.uint32), 0
    for size, (index, _) in zip(engine.codebooks, vectors.books, strict=True):
        found |= index.astype(np.uint32) << np.uint32(low)
        low += size.bit_length() - 1
    return found


def weight_beats(
    engine: VqCodebook,
    index: NDArray[np.uint32],
    special: NDArray[np.uint8] | None,
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """Bits of the weight beats, of what stands for codewords in the place of codes."""
    columns, depth = engine.index_shape
    tiles, slices = len(index) // columns, index.shape[1] // depth
    whole = index.astype("<u4").reshape(tiles, columns, slices, depth).transpose(0, 2, 1, 3)
    each = np.ascontiguousarray(whole)[..., None].view(np.uint8)
    bits = np.unpackbits(each, axis=-1, count=engine.index_bits, bitorder="little")
    return bits.reshape(tiles, slices, -1)


def fill_beats(engine: VqCodebook, vectors: Vectors) -> NDArray[np.uint8]:
    """Bits of the beats of a fill, [beats, bits of a beat]; entries that no index names are zero.

    Raises `SpecError` where the engine's codebooks have no room for these.
    """
    parts = []
    for size, (_, book) in zip(engine.codebooks, vectors.books, strict=True):
        require(len(book) <= size, "entries", f"at least {len(book)}", size)
        whole = np.zeros((size, engine.v), np.uint8)
        whole[: len(book)] = book.astype(np.int8).view(np.uint8)
        bits = np.unpackbits(whole[..., None], axis=-1, count=engine.entry_bits, bitorder="little")
        (fill,) = engine.fills
        parts.append(bits.reshape(size * fill.planes // engine.fill_codewords, -1))
    carried = np.concatenate(parts)
    found = np.zeros((len(carried), engine.beat_bits), np.uint8)
    found[:, : carried.shape[1]] = carried
    return found
