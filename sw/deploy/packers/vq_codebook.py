"""Packs indices of codewords, and the codebooks for a fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.vq_codebook import VqCodebook
from evolute.sim.weights import Codebook
from evolute.sw.deploy.packers.bits import gathered, low_bits


def stored_index(engine: VqCodebook, weights: Codebook) -> NDArray[np.uint32]:
    """The stored index of each codeword: that of the main codebook, and above it that of the
    residual codebook, or 0 if there is none."""
    joined, low = np.zeros(weights.indices.shape, np.uint32), 0
    for size, book in zip(engine.codebooks, weights.books, strict=False):
        joined |= book.indices.astype(np.uint32) << np.uint32(low)
        low += size.bit_length() - 1
    return joined


def tile_indices(
    engine: VqCodebook, weights: Codebook, at: NDArray[np.int64], tiles: slice
) -> NDArray[np.uint32]:
    """The stored indices of codewords of column tiles, 0 for padding.

    `at` are the indices along K of the activations of all slices, -1 for padding.
    """
    columns, depth = engine.index_shape
    columns *= engine.v // weights.v
    inside = at[:: engine.slice_k // depth] >= 0  # where a codeword begins
    which = np.where(inside, np.cumsum(inside) - 1, -1)
    rows = slice(tiles.start * columns, tiles.stop * columns)
    padded = (tiles.stop - tiles.start) * columns
    return gathered(stored_index(engine, weights)[rows], which, padded)


def weight_beats(
    engine: VqCodebook,
    index: NDArray[np.uint32],
    beside: None,
    weight_format: WeightCodes,
) -> NDArray[np.uint8]:
    """The bits of the weight beats for stored indices, which take the place of codes."""
    columns, depth = engine.index_shape
    planes = engine.coding_of(weight_format).planes
    tiles, slices = len(index) // (columns * planes), index.shape[1] // depth
    ordered = index.astype("<u4").reshape(tiles, columns, planes, slices, depth)
    ordered = ordered.transpose(0, 3, 2, 1, 4).reshape(tiles, slices * planes, columns, depth)
    return low_bits(ordered, engine.index_bits).reshape(tiles, slices * planes, -1)


def fill_beats(engine: VqCodebook, weights: Codebook) -> NDArray[np.uint8]:
    """The bits of the beats of a fill, [beats, bits of a beat]. Entries without an index are zero,
    and so is a residual codebook that the weights do not have.

    Raises `SpecError` if the codebooks do not fit into the engine.
    """
    books = [book.codewords for book in weights.books]
    sizes = [len(book) for book in books]
    require(len(sizes) <= len(engine.codebooks), "residual_entries", f"at least {sizes[-1]}", 0)
    rule = f"{weights.v} for these vectors"
    require(weights.v in (engine.v, engine.short_v), "v", rule, engine.v)
    books += [np.zeros((0, weights.v), np.int8)] * (len(engine.codebooks) - len(books))
    parts = []
    for size, book in zip(engine.codebooks, books, strict=True):
        require(len(book) <= size, "entries", f"at least {len(book)}", size)
        low, high = book.min(initial=0), book.max(initial=0)
        fits = -1 << engine.entry_bits - 1 <= low and high < 1 << engine.entry_bits - 1
        require(bool(fits), "entry_bits", "wide enough for every component", engine.entry_bits)
        padded = np.zeros((size, engine.v), np.uint8)
        codewords = np.tile(book.astype(np.int8), engine.v // weights.v)
        padded[: len(book)] = codewords.view(np.uint8)
        bits = low_bits(padded, engine.entry_bits)
        (fill,) = engine.fills
        parts.append(bits.reshape(size * fill.planes // engine.fill_codewords, -1))
    carried = np.concatenate(parts)
    beats = np.zeros((len(carried), engine.beat_bits), np.uint8)
    beats[:, : carried.shape[1]] = carried
    return beats
