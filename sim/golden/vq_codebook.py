"""Golden model of vector-quantized weights: codewords gathered, added, and multiplied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.formats import Kind
from evolute.hw.spec.vq_codebook import SHORT_MODE, VqCodebook
from evolute.sim.golden import integer
from evolute.sim.weights import Codebook, Form


def encode(spec: VqCodebook, weights: Form) -> integer.EncodedIntegers:
    """What codewords multiply by.

    Raises `SpecError` where the engine has no room for them, and ValueError for weights that do not
    come from codebooks.
    """
    spec.coding_of(weights.format)
    if not isinstance(weights, Codebook):
        raise ValueError("codes without the vectors that they come from")
    require(weights.along == spec.along, "along", f"{weights.along} for these vectors", spec.along)
    short = weights.format.kind is Kind.SHORT
    own, v = ("short_v", spec.short_v) if short else ("v", spec.v)
    require(weights.v == v, own, f"{weights.v} for these vectors", v)
    sizes = tuple(len(book.codewords) for book in weights.books)
    fits = len(sizes) <= len(spec.codebooks) and all(
        size <= most for size, most in zip(sizes, spec.codebooks, strict=False)
    )
    require(fits, "entries", f"at least {sizes} in its codebooks", spec.codebooks)
    most = max(int(np.abs(2 * book.codewords.astype(int) + 1).max()) for book in weights.books)
    rule = "wide enough for every component"
    require(most < 1 << spec.entry_bits, "entry_bits", rule, spec.entry_bits)
    return integer.EncodedIntegers(weights.group, weights.decoded())


group_sums = integer.encoded_sums


def slice_sums(
    spec: VqCodebook, fields: Mapping[str, np.ndarray], x: np.ndarray, planes: int, mode: int
) -> np.ndarray:
    """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats and the
    codebooks of the fill before them, `book0` and `book1`, int [entries, v]."""
    index, low = fields["index"].reshape(-1, planes, *spec.index_shape), 0
    weights = np.zeros((*index.shape, spec.v), np.int64)
    for i, size in enumerate(spec.codebooks):
        weights += fields[f"book{i}"][index >> low & size - 1]
        low += size.bit_length() - 1
    if mode == SHORT_MODE:  # each component by the plane whose turn it is
        turn = np.arange(spec.v) // spec.short_v
        weights = weights[:, turn, :, :, np.arange(spec.v)].transpose(1, 2, 3, 0)
    else:
        weights = weights.sum(axis=1)
    if spec.along == "outputs":
        weights = weights.transpose(0, 1, 3, 2)
    return np.einsum("rsk,snk->rsn", x, weights.reshape(-1, spec.n, spec.k))


def contents(spec: VqCodebook, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """What codebooks hold before any fill, zeros or noise, as `slice_sums` takes them."""
    half = 1 << spec.entry_bits - 1
    shapes = {f"book{i}": (size, spec.v) for i, size in enumerate(spec.codebooks)}
    if rng is None:
        return {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    return {name: rng.integers(-half, half, shape) for name, shape in shapes.items()}


def fill(
    spec: VqCodebook, fields: Mapping[str, np.ndarray], contents: dict[str, np.ndarray]
) -> None:
    """Put the beats of a fill, whose components are int [beats, codewords, components], in
    codebooks, which change.

    They begin with the first codeword; those that no beat brings stay.
    """
    rows = fields["component"].reshape(-1, spec.v)
    first = 0
    for book in contents.values():
        part = rows[first : first + len(book)]
        book[: len(part)] = part
        first += len(book)
