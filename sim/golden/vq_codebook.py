"""Golden model of vector-quantized weights: codewords gathered, added, and multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.spec.base import require
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.vq_codebook import SHORT_MODE, VqCodebook
from evolute.sim.golden import integer
from evolute.sim.golden.sums import group_bounds


@dataclass(frozen=True, eq=False)
class Vectors:
    """What codes of `Kind.VECTOR` come from: indices of codewords, and the codebooks.

    `codebook` is int [entries, v]. `index` is int [ceil(N / v), K] where codewords lie along
    outputs; along inputs it is [N, vectors], where every scale group along K begins a codeword. A
    last codeword may exceed N, or its scale group. `residual` are index and codebook of what is
    added, of the same shapes.
    """

    along: str
    index: np.ndarray
    codebook: np.ndarray
    residual: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def books(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Index and codebook, of all codebooks."""
        first = self.index, self.codebook
        return (first,) if self.residual is None else (first, self.residual)

    def stored_bits(self, bits: int) -> int:
        """Bits of all indices, and of codebooks that add up to weights of so many bits."""
        indices = sum(i.size * (len(book) - 1).bit_length() for i, book in self.books)
        components = sum(book.size for _, book in self.books)
        return indices + components * (bits - (self.residual is not None))

    @property
    def v(self) -> int:
        """Weights of one codeword."""
        return self.codebook.shape[1]


def decode(vectors: Vectors, shape: tuple[int, int], group: int) -> np.ndarray:
    """The integers by which vectors multiply, int16 [N, K], in scale groups of `group`."""
    found = np.zeros((), np.int16)
    for index, book in vectors.books:
        gathered = book.astype(np.int16)[index]  # [..., v]
        if vectors.along == "outputs":
            gathered = gathered.transpose(0, 2, 1).reshape(-1, index.shape[1])
        else:
            gathered = gathered.reshape(len(index), -1)
        found = found + gathered
    n, k = shape
    if vectors.along == "inputs":
        bounds = group_bounds(k, group)
        counts = [end - start for start, end in bounds]
        padded = [-(-count // vectors.v) * vectors.v for count in counts]
        inside = np.concatenate([np.arange(p) < c for p, c in zip(padded, counts, strict=True)])
        found = found[:, inside]
    return found[:n]


def encode(
    spec: VqCodebook,
    codes: np.ndarray,
    weight_format: WeightCodes,
    group: int,
    special: np.ndarray | None = None,
    vectors: Vectors | None = None,
) -> integer.EncodedWeights:
    """What the vectors behind the codes, uint8 [N, K], multiply by.

    Raises `SpecError` where the engine has no room for them, ValueError where they are not codes'.
    """
    spec.coding_of(weight_format)
    if vectors is None:
        raise ValueError("codes without the vectors that they come from")
    require(vectors.along == spec.along, "along", f"{vectors.along} for these vectors", spec.along)
    short = weight_format.kind is Kind.SHORT
    own, v = ("short_v", spec.short_v) if short else ("v", spec.v)
    require(vectors.v == v, own, f"{vectors.v} for these vectors", v)
    sizes = tuple(len(book) for _, book in vectors.books)
    fits = len(sizes) <= len(spec.codebooks) and all(
        size <= most for size, most in zip(sizes, spec.codebooks, strict=False)
    )
    require(fits, "entries", f"at least {sizes} in its codebooks", spec.codebooks)
    most = max(int(np.abs(2 * book.astype(int) + 1).max()) for _, book in vectors.books)
    rule = "wide enough for every component"
    require(most < 1 << spec.entry_bits, "entry_bits", rule, spec.entry_bits)
    values = decode(vectors, (codes.shape[0], codes.shape[1]), group)
    origin = weight_format.levels // 2
    if not np.array_equal(values + origin, codes):
        raise ValueError("codes are not what their vectors stand for")
    return integer.EncodedWeights(group, values)


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
