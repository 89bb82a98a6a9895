"""How vectors fill the beats of a VQ codebook engine, by `hw.spec.layout` alone; random specs and
vectors."""

from __future__ import annotations

import dataclasses

import numpy as np

from evolute.hw.spec import SpecError
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.vq_codebook import ALONG, FORMS, VqCodebook
from evolute.sim.weights import Book, Codebook, Grid, group_bounds
from evolute.verif.harness import words
from evolute.verif.harness.operands import Operands
from evolute.verif.harness.vectors import Matmul


def weight_fields(
    spec: VqCodebook, index: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of indices [tiles, lanes of n, planes, slices, lanes
    of k]."""
    return {"index": index.transpose(0, 3, 2, 1, 4)}


def fill_words(spec: VqCodebook, weights: Codebook, rng: np.random.Generator) -> np.ndarray:
    """The weight words of a fill. Unused entries and bits are random, except for a residual
    codebook that the weights do not have, which is zero."""
    beat, beats = spec.codewords, []
    books = [book.codewords for book in weights.books]
    books += [np.zeros((size, weights.v), int) for size in spec.codebooks[len(books) :]]
    for size, book in zip(spec.codebooks, books, strict=True):
        whole = rng.integers(-(1 << spec.entry_bits - 1), 1 << spec.entry_bits - 1, (size, spec.v))
        for start in range(0, spec.v, weights.v):
            whole[: len(book), start : start + weights.v] = book
        beats.append(words.pack(beat, component=whole.reshape(-1, *beat.fields[0].shape)))
    used = np.concatenate(beats)
    bits = np.unpackbits(used, axis=1, count=beat.bits, bitorder="little")
    whole = rng.integers(0, 2, (len(bits), spec.beat_bits), dtype=np.uint8)
    whole[:, : beat.bits] = bits
    return np.packbits(whole, axis=1, bitorder="little")


def index_table(
    spec: VqCodebook, weights: Codebook, tiles: int, positions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The indices of each codeword of whole tiles, [tiles, lanes of n, planes, slices, lanes of
    k].

    `positions` are the places of the padded K; what stands for no codeword is random.
    """
    columns, depth = spec.index_shape
    planes = spec.v // weights.v
    inside = positions.reshape(-1, spec.slice_k // depth)[:, 0] >= 0
    indices = np.zeros((tiles * columns * planes, len(inside)), np.int64)
    low = 0
    for i, size in enumerate(spec.codebooks):
        whole = rng.integers(0, size, indices.shape)
        index = weights.books[i].indices if i < len(weights.books) else 0 * weights.indices
        whole[: len(index), inside] = index
        indices |= whole << low
        low += size.bit_length() - 1
    return indices.reshape(tiles, columns, planes, -1, depth)


def cut(along: str, v: int, values: np.ndarray, group: int) -> np.ndarray:
    """A matrix [N, K] in vectors [..., v] as an index has them, padded with zeros."""
    n, k = values.shape
    if along == "outputs":
        padded = np.pad(values, ((0, -n % v), (0, 0)))
        return padded.reshape(-1, v, k).transpose(0, 2, 1)
    parts = [
        np.pad(values[:, start:end], ((0, 0), (0, (start - end) % v)))
        for start, end in group_bounds(k, group)
    ]
    return np.concatenate(parts, axis=1).reshape(n, -1, v)


def joined(along: str, parts: np.ndarray, shape: tuple[int, int], group: int) -> np.ndarray:
    """The matrix [N, K] of vectors [..., v]: undoes `cut`."""
    n, k = shape
    if along == "outputs":
        return parts.transpose(0, 2, 1).reshape(-1, k)[:n]
    v, tiles, first = parts.shape[2], [], 0
    flat = parts.reshape(n, -1)
    for start, end in group_bounds(k, group):
        tiles.append(flat[:, first : first + end - start])
        first += -(-(end - start) // v) * v
    return np.concatenate(tiles, axis=1)


def near(
    spec: VqCodebook,
    values: np.ndarray,
    weight_format: WeightCodes,
    group: int,
    rng: np.random.Generator,
    v: int | None = None,
) -> Codebook:
    """Codewords of v, or of the engine's own, near the integers [N, K]: some of theirs, in random
    places of the codebooks.

    The codebooks hold components of any size that the format's bits allow; the first and the last
    of all vectors in order are among those taken, so that what consists of extremes stays it.
    """
    v = spec.v if v is None else v
    wanted, bits = cut(spec.along, v, values, group), weight_format.bits
    books, rest = [], wanted
    for i, size in enumerate(spec.codebooks):
        bound = 1 << bits - bool(spec.residual_entries) - 1
        # Of two codebooks each takes a half, the first rounded down, so that both are in range.
        last = i == len(spec.codebooks) - 1
        aimed = np.clip(rest if last else rest >> 1, -bound, bound - 1)
        book = rng.integers(-bound, bound, (size, v))
        codewords = np.unique(aimed.reshape(-1, v), axis=0)
        inner = rng.permutation(np.arange(1, max(1, len(codewords) - 1)))
        taken = np.unique([0, len(codewords) - 1, *inner[: size - 2]])[:size]
        book[rng.permutation(size)[: len(taken)]] = codewords[taken]
        flat = aimed.reshape(-1, 1, v)
        distance = np.concatenate(
            [((part - book) ** 2).sum(axis=2) for part in np.array_split(flat, 1 + len(flat) // 64)]
        )
        index = distance.argmin(axis=1).reshape(aimed.shape[:2])
        books.append(Book(index, book))
        rest = rest - book[index]
    n, k = values.shape
    return Codebook((n, k), weight_format, group, spec.along, tuple(books))


def codes_of(weights: Codebook) -> np.ndarray:
    """The codes, uint8 [N, K], that codewords stand for; not as golden looks them up."""
    parts = sum(codewords[index] for index, codewords in weights.books)
    values = joined(weights.along, np.asarray(parts), weights.shape, weights.group)
    return (values + weights.format.levels // 2).astype(np.uint8)


def random_spec(rng: np.random.Generator) -> VqCodebook:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        residual = int(rng.choice([0, 0, 2, 4, 8, 16]))
        along, v = ALONG[rng.integers(2)], int(rng.choice([1, 2, 3, 4, 6, 8]))
        across, deep = int(rng.integers(1, 9)), int(rng.integers(1, 9))
        try:
            spec = VqCodebook(
                m=int(rng.integers(1, 4)),
                n=across * v if along == "outputs" else across,
                k=deep * v if along == "inputs" else deep,
                v=v,
                along=along,
                entries=1 << int(rng.integers(1, 8)),
                residual_entries=residual,
                form=FORMS[rng.integers(2)],
                activation_bits=int(rng.integers(4, 17)),
                weight_bits=int(rng.integers(3 if residual else 2, 9)),
                group_size=int(rng.integers(1, 97)),
            )
            if spec.form == "gather" and along == "outputs" and v > 1 and rng.random() < 0.5:
                shorter = [size for size in range(1, v) if v % size == 0]
                spec = spec.evolve(short_v=int(rng.choice(shorter)))
        except SpecError:
            continue
        if spec.form == "gather":
            products = spec.macs_per_step
        else:
            products = spec.m * spec.k * spec.table_values * sum(spec.codebooks)
            lookups = spec.m * spec.lanes * sum(spec.codebooks) * spec.table_values
            products += lookups // 4
        if products * spec.weight_bits <= 2000 and sum(spec.codebooks) * spec.lanes <= 2000:
            return spec


class Codewords(Operands[VqCodebook]):
    """The operands of an engine whose weights are codewords of codebooks, which a fill brings."""

    def completed(self, spec, matmul, x, rng):
        """`matmul` with codewords near its codes, most often also from the residual codebook, if
        the engine has one."""
        grid = matmul.weights
        values = grid.codes.astype(int) - grid.format.levels // 2
        v = spec.short_v if grid.format.kind is Kind.SHORT else spec.v
        weights = near(spec, values, grid.format, grid.group, rng, v)
        if rng.random() < 0.2:
            weights = dataclasses.replace(weights, books=weights.books[:1])
        return dataclasses.replace(matmul, weights=weights, fill=True)

    def carried(self, spec, matmul, codes, cut, rng):
        """The indices of codewords, which weight beats carry in place of codes."""
        assert isinstance(matmul.weights, Codebook)
        return index_table(spec, matmul.weights, cut.column_tiles, cut.positions, rng)

    def fill_words(self, spec, matmul, rng):
        assert isinstance(matmul.weights, Codebook)
        return [fill_words(spec, matmul.weights, rng)] * matmul.fill

    def product(self, spec, matmul, x):
        weights = matmul.weights
        assert isinstance(weights, Codebook)
        return Matmul(x, Grid.plain(codes_of(weights), weights.format, weights.group))
