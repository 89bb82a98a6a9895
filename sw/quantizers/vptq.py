"""VPTQ: vectors of v outputs in one column become indices into codebooks; or of v inputs in a row.

Liu et al., EMNLP 2024 (arXiv 2409.17066), section 3: k-means weighted by diag(H), a loop over
columns in which later ones make up for the error of earlier ones ("channel-independent
second-order"), a residual codebook for what that loop leaves, outlier columns with a codebook of
their own, and groups of columns with codebooks of their own. After each loop codebooks are fitted
once more, to the least squared error of the outputs with the indices found; where the paper
descends by gradient, the problem is a linear one and solved.

Vectors of inputs are found in the same way, all at once that lie in the same v columns, as GPTVQ
does it (van Baalen et al., arXiv 2402.15319): the nearest codeword is then the one that leaves the
least error when later columns have made up for it (`column_loop`).

Columns may be normalized: w = scale * v + bias. The objective in v is then that of S H S, with S
the scales; the released quantizer keeps H, which serves to compare.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy  # whose parts are loaded where they are used first
from numpy.typing import NDArray

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.weights import Book, Codebook
from evolute.sw.checkpoints.vptq_file import Indices, pack_indices
from evolute.sw.quantizers.gptq import act_order, column_loop, inverse_factor
from evolute.sw.quantizers.hessian import Moments, damped, proxy_error
from evolute.sw.quantizers.kmeans import kmeans, nearest
from evolute.sw.tensors.tensor import (
    ORDER_BITS,
    SCALE_BITS,
    Coded,
    PartedTensor,
    QuantError,
    QuantTensor,
)

Norm = Literal["none", "consistent", "released"]
Along = Literal["outputs", "inputs"]

WEIGHT_BITS = 8
"""Width of a weight that codewords add up to."""

_CANDIDATES = 8
"""Codewords of which each is tried with its best residual; the paper tries the nearest alone."""

HALF_BITS = 16
"""Width of a component in the published form."""


@dataclass(frozen=True)
class Vptq:
    """Choices of VPTQ."""

    v: int = 8
    along: Along = "outputs"
    """What a vector lies along: outputs of one column, or neighbouring columns of one output."""
    entries: int = 256
    residual_entries: int = 0
    """0 for no residual codebook."""
    groups: int = 1
    outliers: float = 0.0
    """Percent of columns, those of the strongest inputs, with a codebook of their own."""
    outlier_v: int = 2
    outlier_entries: int = 256
    norm: Norm = "none"
    fits: int = 2
    """How often codebooks are fitted to indices after the loop, and indices found again."""
    half: bool = False
    """Whether codewords are half-precision numbers, as published, and not integers."""

    @property
    def component_bits(self) -> int:
        """Width of a codeword's component."""
        return HALF_BITS if self.half else WEIGHT_BITS - bool(self.residual_entries)

    def indices(self, n: int, k: int, v: int) -> int:
        """How many vectors of v a matrix [N, K] is cut into."""
        return -(-n // v) * k if self.along == "outputs" else n * -(-k // v)


class Cut(NamedTuple):
    """Columns of a layer: the outliers and the size of a group."""

    outliers: int
    group: int


def cut(choice: Vptq, k: int) -> Cut:
    """How K columns are cut; outliers are rounded up so that groups are equal.

    Raises `QuantError` where groups have no columns, or end within a vector.
    """
    outliers = -int(-k * choice.outliers // 100)
    outliers += (k - outliers) % choice.groups
    group = (k - outliers) // choice.groups
    if not group:
        raise QuantError(f"method: {choice.groups} groups of {k} columns leave no column to each")
    if choice.along == "inputs" and choice.groups > 1 and group % choice.v:
        raise QuantError(
            f"method: groups must be of whole vectors of {choice.v} inputs, got {group}"
        )
    return Cut(outliers, group)


def stored_bits(choice: Vptq, n: int, k: int) -> dict[str, int]:
    """Bits of a layer [N, K]: `indices` with padding, `codebooks`, the `scales` that their integers
    have, `columns` (order and norm).

    As published, every column has an order, a scale and a bias: 48 bits.
    """
    outliers, group = cut(choice, k)
    main = _index_bits(choice.entries) + _index_bits(choice.residual_entries)
    indices = choice.groups * choice.indices(n, group, choice.v) * main
    books = choice.groups * choice.v * (choice.entries + choice.residual_entries)
    codebooks = books * choice.component_bits
    if outliers:
        short = choice.indices(n, outliers, choice.outlier_v)
        indices += short * _index_bits(choice.outlier_entries)
        codebooks += (
            choice.outlier_v * choice.outlier_entries * (HALF_BITS if choice.half else WEIGHT_BITS)
        )
    columns = 0
    if choice.half or choice.norm != "none":
        columns += 2 * SCALE_BITS
    if choice.half or outliers or choice.groups > 1:
        columns += ORDER_BITS
    parts = choice.groups + (outliers > 0)
    return {
        "indices": indices,
        "codebooks": codebooks,
        "scales": 0 if choice.half else parts * SCALE_BITS,
        "columns": k * columns,
    }


def _index_bits(entries: int) -> int:
    return max(0, entries - 1).bit_length()


def require_useful(choice: Vptq, n: int, k: int) -> None:
    """Raise `QuantError` where the codebooks of a layer [N, K] exceed their indices."""
    bits = stored_bits(choice, n, k)
    if bits["codebooks"] > bits["indices"]:
        raise QuantError(
            f"method: codebooks of {bits['codebooks']:,} bits for indices of {bits['indices']:,} "
            f"bits in a layer of {n} x {k}; choose fewer entries, or force it"
        )


@dataclass(eq=False)
class _Part:
    """Columns `columns` of the stored order with their codebooks, which change as they are fitted.

    `index` is [rows, columns] along outputs, [N, vectors] along inputs; `books` are float64
    [entries, v] as they are stored.
    """

    columns: slice
    v: int
    along: Along
    books: list[NDArray[np.float64]]
    index: list[NDArray[np.int64]]
    unit: float = 1.0
    """The scale of integer components."""

    @property
    def width(self) -> int:
        """Columns of one vector."""
        return self.v if self.along == "inputs" else 1

    @property
    def ends(self) -> list[int]:
        """Where the columns of each vector end; the last may be short."""
        first, last, _ = self.columns.indices(self.columns.stop)
        return [min(start + self.width, last) for start in range(first, last, self.width)]

    def cut(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns [N, columns] in vectors [..., v] as `index` has them, the last filled with
        zeros."""
        n, k = w.shape
        if self.along == "inputs":
            return np.pad(w, ((0, 0), (0, -k % self.v))).reshape(n, -1, self.v)
        padded = np.pad(w, ((0, -n % self.v), (0, 0)))
        return padded.reshape(-1, self.v, k).transpose(0, 2, 1)

    def values(self, n: int, places: slice = slice(None)) -> NDArray[np.float64]:
        """The weights [N, columns], or those of some places of `index`."""
        vectors = sum(book[i[:, places]] for book, i in zip(self.books, self.index, strict=True))
        assert isinstance(vectors, np.ndarray)
        if self.along == "outputs":
            return vectors.transpose(0, 2, 1).reshape(-1, vectors.shape[1])[:n]
        return vectors.reshape(n, -1)[:, : self.columns.stop - self.columns.start]


@dataclass(frozen=True, eq=False)
class VectorLayer:
    """A quantized layer [N, K] in stored order, outliers first, and what is done to its columns.

    w[n, order[c]] = scale[order[c]] * v[n, c] + bias[order[c]]; `scale` and `bias` are None where
    columns are not normalized.
    """

    n: int
    choice: Vptq
    parts: tuple[_Part, ...]
    order: NDArray[np.int64]
    scale: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None

    def dequantize(self) -> NDArray[np.float32]:
        """The weights, float32 [N, K]."""
        stored = np.concatenate([part.values(self.n) for part in self.parts], axis=1)
        whole = np.empty(stored.shape, np.float32)
        whole[:, self.order] = stored
        if self.scale is not None and self.bias is not None:
            whole = whole * self.scale + self.bias
        return whole


def vptq(
    w: NDArray[np.float32],
    moments: Moments,
    choice: Vptq,
    rng: np.random.Generator,
) -> tuple[VectorLayer, dict[str, float]]:
    """Quantize `w` [N, K]; also the proxy error after each stage. Raises `QuantError`."""
    n, k = w.shape
    outliers, group = cut(choice, k)
    scale = bias = None
    normal, second = w.astype(np.float64), moments.second.astype(np.float64)
    if choice.norm != "none":
        scale, bias = _norm(w, choice.norm)
        normal = (normal - bias) / scale
        if choice.norm == "consistent":
            second = second * scale * scale[:, None].astype(np.float64)
    first = act_order(moments.second)[:outliers]
    rest = np.delete(np.arange(k), first)
    width = choice.v if choice.along == "inputs" else 1
    order = np.concatenate([first, _strongest(np.diag(second), rest, width)])
    h = damped(second[np.ix_(order, order)], moments.tokens)
    target, factor = normal[:, order], inverse_factor(h)
    edges = [slice(0, outliers)] if outliers else []
    edges += [slice(start, start + group) for start in range(outliers, k, group)]
    parts = []
    for columns in edges:
        outlying = columns.start < outliers
        v = choice.outlier_v if outlying else choice.v
        entries = choice.outlier_entries if outlying else choice.entries
        parts.append(_Part(columns, v, choice.along, [], []))
        _add_codebook(parts[-1], target[:, columns], np.diag(h)[columns], entries, rng)
    layer = VectorLayer(n, choice, tuple(parts), order, scale, bias)
    stages: dict[str, float] = {}

    def note(stage: str) -> None:
        stages[stage] = proxy_error(w, layer.dequantize(), moments.second)

    _round(parts, choice)
    note("codebook")
    wanted = _loop(target, factor, parts)
    note("feedback")
    if choice.residual_entries:
        for part in parts[outliers > 0 :]:
            left = wanted[:, part.columns] - part.values(n)
            _add_codebook(part, left, np.diag(h)[part.columns], choice.residual_entries, rng)
        _round(parts, choice)
        _loop(target, factor, parts)
        note("residual")
    for step in range(choice.fits):
        before = [(part.books, part.index, part.unit) for part in parts]
        if step:
            _loop(target, factor, parts)
        _fit(target, h, parts)
        _round(parts, choice)
        least = min(stages.values())
        note(f"fit {step + 1}")
        if stages[f"fit {step + 1}"] >= least:
            for part, (books, index, unit) in zip(parts, before, strict=True):
                part.books, part.index, part.unit = books, index, unit
            del stages[f"fit {step + 1}"]
            break
    return layer, stages


def _norm(w: NDArray[np.float32], norm: Norm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and bias of columns in half precision: spread and mean, or range and minimum."""
    if norm == "released":
        bias, scale = w.min(axis=0), w.max(axis=0) - w.min(axis=0)
    else:
        bias, scale = w.mean(axis=0), w.std(axis=0)
    scale, bias = (
        column_values.astype(np.float16).astype(np.float32) for column_values in (scale, bias)
    )
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        raise QuantError("a weight column is not finite or too large for a half-precision scale")
    return np.where(scale > 0, scale, np.float32(1)), bias


def _strongest(
    strength: NDArray[np.floating], columns: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """`columns` in blocks of `width` neighbours, by the sum of their strengths [K], the greatest
    first, of equals the first. What is left over comes last."""
    whole = len(columns) // width * width
    blocks = columns[:whole].reshape(-1, width)
    order = np.argsort(-strength[blocks].sum(axis=1), kind="stable")
    return np.concatenate([blocks[order].ravel(), columns[whole:]])


def _add_codebook(
    part: _Part,
    w: NDArray[np.float64],
    strength: NDArray[np.float64],
    entries: int,
    rng: np.random.Generator,
) -> None:
    """Give a part one codebook more, for `w` [N, columns]; a vector counts as much as the strengths
    of its columns [columns]."""
    vectors = part.cut(w)
    starts = np.arange(vectors.shape[1]) * part.width
    mass = np.add.reduceat(strength, starts)
    points = vectors.reshape(-1, part.v).astype(np.float32)
    clusters = kmeans(points, np.tile(mass, len(vectors)), entries, rng)
    part.books.append(clusters.codebook.astype(np.float64))
    part.index.append(clusters.index.reshape(vectors.shape[:2]))


def _round(parts: Sequence[_Part], choice: Vptq) -> None:
    """Bring codebooks to the numbers in which they are stored.

    Integers have a half-precision scale for the codebooks of a part together. That which loses
    least of them is taken; it may cut off the outermost components. Those of outliers are as wide
    as the others, since an engine keeps either in the same memories.
    """
    width = WEIGHT_BITS - any(len(part.books) > 1 for part in parts)
    for part in parts:
        if choice.half:
            part.books = [book.astype(np.float16).astype(np.float64) for book in part.books]
            continue
        most = (1 << (width - 1)) - 1
        values = np.concatenate([book.ravel() for book in part.books])
        counts = np.concatenate(
            [
                np.repeat(np.bincount(index.ravel(), minlength=len(book)), part.v)
                for book, index in zip(part.books, part.index, strict=True)
            ]
        )
        largest = np.abs(values).max()
        units = np.linspace(1, 0.4, 25) * largest / most
        units = units.astype(np.float16).astype(np.float64)
        units[units == 0] = np.finfo(np.float16).smallest_subnormal
        if not np.isfinite(units).all():
            raise QuantError("weights are not finite or too large for a half-precision scale")
        errors = [
            (counts * (_integers(values, unit, most) * unit - values) ** 2).sum() for unit in units
        ]
        part.unit = float(units[int(np.argmin(errors))])
        part.books = [_integers(book, part.unit, most) * part.unit for book in part.books]


def _integers(values: NDArray[np.float64], unit: float, most: int) -> NDArray[np.float64]:
    return np.clip(np.rint(values / unit), -most, most)


def _loop(
    target: NDArray[np.float64], factor: NDArray[np.floating], parts: Sequence[_Part]
) -> NDArray[np.float64]:
    """Find all indices again, column by column with feedback, or as many columns at a time as a
    vector has; what columns should have been, [N, K]."""
    ends = [end for part in parts for end in part.ends]
    owners = [(part, place) for part in parts for place in range(len(part.ends))]
    places = dict(zip([0, *ends], owners, strict=False))
    books = {id(part): [book.astype(np.float32) for book in part.books] for part in parts}
    for part in parts:
        part.index = [np.zeros_like(index) for index in part.index]
    met = np.empty_like(target)

    def choose(first: int, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        part, place = places[first]
        columns = slice(first, first + len(wanted))
        met[:, columns] = wanted.T
        vectors, tried = part.cut(wanted.T)[:, 0], books[id(part)]
        if part.along == "inputs":
            metric = _metric(factor[columns, columns], part.v)
            vectors = vectors @ metric
            tried = [(book @ metric).astype(np.float32) for book in part.books]
        for index, chosen in zip(part.index, _search(vectors, *tried), strict=True):
            index[:, place] = chosen
        return part.values(len(target), slice(place, place + 1)).T[: len(wanted)]

    column_loop(target, factor, ends, choose)
    return met


def _metric(factor: NDArray[np.floating], v: int) -> NDArray[np.floating]:
    """The V^-1 of `column_loop` up to a factor, [v, v]: 1 for one column, and 0 for components
    beyond the columns of a short vector."""
    metric = np.zeros((v, v))
    inverse, _ = scipy.linalg.lapack.dtrtri(factor / factor[0, 0])
    metric[: len(factor), : len(factor)] = inverse
    return metric


def _search(
    vectors: NDArray[np.float64],
    book: NDArray[np.float32],
    residual: NDArray[np.float32] | None = None,
) -> list[NDArray[np.int64]]:
    """The indices nearest to vectors [R, v]: with a residual codebook the best of what the
    `_CANDIDATES` nearest codewords of the first allow."""
    if residual is None:
        return [nearest(vectors, book)]
    wanted = vectors.astype(np.float32)
    scores = wanted @ book.T - np.square(book).sum(axis=1) / 2
    tried = min(_CANDIDATES, len(book))
    main = np.argpartition(-scores, tried - 1, axis=1)[:, :tried]
    main.sort(axis=1)  # of equals the first
    left = wanted[:, None] - book[main]
    added = nearest(left.reshape(-1, left.shape[2]), residual).reshape(main.shape)
    errors = np.square(left - residual[added]).sum(axis=2)
    rows, best = np.arange(len(main)), errors.argmin(axis=1)
    return [main[rows, best], added[rows, best]]


def _fit(target: NDArray[np.float64], h: NDArray[np.float64], parts: Sequence[_Part]) -> None:
    """Move codebooks to the least tr(E H E^T), E being the weights' error with these indices, part
    by part."""
    n = len(target)
    for part in parts:
        others = np.concatenate([other.values(n) for other in parts], axis=1)
        others[:, part.columns] = 0
        pull = ((target - others) @ h)[:, part.columns]
        within = np.ascontiguousarray(h[part.columns, part.columns])
        solve = _solved if part.along == "outputs" else _descended
        part.books = solve(part, pull, within)


_RIDGE = 1e-6
"""What keeps codewords without vectors where they are, as a part of the mean diagonal."""


def _solved(
    part: _Part, pull: NDArray[np.float64], h: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The best codebooks along outputs for weights W with W H = `pull` [N, columns].

    With P [entries, columns] the one-hot rows of a row of vectors, of both codebooks one below the
    other, E is W - C^T P there: C solves (sum P H P^T) C = sum P H W^T.
    """
    pulls, within = part.cut(pull), h.astype(np.float32)
    starts = np.cumsum([0, *(len(book) for book in part.books)])
    normal, right = np.zeros((starts[-1], starts[-1])), np.zeros((starts[-1], part.v))
    for row in range(len(pulls)):
        runs = [_runs(index[row], start) for index, start in zip(part.index, starts, strict=False)]
        for run in runs:
            right[run.codewords] += run.sums(pulls[row])
            summed = np.ascontiguousarray(run.sums(within).T)
            for other in runs:
                normal[np.ix_(other.codewords, run.codewords)] += other.sums(summed)
    books = np.concatenate(part.books)
    ridge = _RIDGE * np.diag(normal).mean() + np.finfo(np.float64).tiny
    normal[np.diag_indices(len(normal))] += ridge
    # Two codebooks can trade a constant, so that the system is close to singular: a factorization
    # for positive definite systems, though twice as fast, gives other codebooks than this one.
    fitted = np.linalg.solve(normal, right + ridge * books)
    return [fitted[start:end] for start, end in itertools.pairwise(starts)]


_SLOPE = 1e-3
"""The gradient at which a descent ends, as a part of the first."""

_STEPS = 100
"""Steps after which a descent ends anyhow; layers take some ten."""


def _descended(
    part: _Part, pull: NDArray[np.float64], h: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The best codebooks along inputs, as `_solved` has them, by conjugate gradients.

    Every component is an unknown of its own here, and rows have no system in common; but the
    gradient is W H - Q H, summed for every codeword, with Q [N, columns] what codebooks stand for.
    What its diagonal has of a codeword's own vectors preconditions the system. Codewords without
    vectors have no gradient and stay where they are.
    """
    n = len(pull)

    def sums(of: NDArray[np.float64]) -> NDArray[np.float64]:
        vectors = part.cut(of).reshape(-1, part.v)
        component_sums = [
            np.bincount(index.ravel(), component, len(book))
            for index, book in zip(part.index, part.books, strict=True)
            for component in vectors.T
        ]
        return np.concatenate(component_sums, dtype=np.float64)

    def books(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        ends = np.cumsum([book.size for book in part.books])[:-1]
        return [book.reshape(part.v, -1).T for book in np.split(flat, ends)]

    def curved(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums(replace(part, books=books(flat)).values(n) @ h)

    fitted = np.concatenate([book.T.ravel() for book in part.books])
    left = sums(pull) - curved(fitted)
    mass = sums(np.broadcast_to(np.diag(h), (n, len(h)))) + np.finfo(np.float64).tiny
    step = left / mass
    slope = first = left @ step
    for _ in range(_STEPS):
        if slope <= _SLOPE**2 * first:
            break
        change = curved(step)
        length = slope / (step @ change)
        fitted += length * step
        left -= length * change
        before, slope = slope, left @ (left / mass)
        step = left / mass + slope / before * step
    return books(fitted)


class _Runs(NamedTuple):
    """A row of indices in the order of their codewords."""

    codewords: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def sums(self, rows: NDArray) -> NDArray:
        """Of rows that belong to the indices, the sum for every codeword."""
        return np.add.reduceat(rows[self.order], self.starts, axis=0)


def _runs(index: NDArray[np.int64], first: int) -> _Runs:
    order = np.argsort(index, kind="stable")
    codewords, starts = np.unique(index[order], return_index=True)
    return _Runs(codewords + first, order, starts)


def to_tensor(layer: VectorLayer) -> Coded:
    """A layer of integer codewords as engines take it; where it has one part, indices go in the
    order of the inputs, and no order is stored."""
    order = layer.order if len(layer.parts) > 1 else None
    tensors = []
    for part in layer.parts:
        books = [np.rint(book / part.unit).astype(np.int8) for book in part.books]
        places = np.arange(part.index[0].shape[1])
        if order is None:
            places = np.argsort(layer.order[:: part.width])
        stored = tuple(
            Book(index[:, places], book) for index, book in zip(part.index, books, strict=True)
        )
        scale = np.full((layer.n, 1), part.unit, np.float32)
        k = part.columns.stop - part.columns.start
        zero = 1 << (WEIGHT_BITS - 1)
        codes = WeightCodes(WEIGHT_BITS, Kind.VECTOR)
        form = Codebook((layer.n, k), codes, k, part.along, stored)
        # One scale for the whole codebook.
        tensors.append(QuantTensor(form, scale, minimum=-zero * scale, group_bits=0))
    if order is None and layer.scale is None:
        return tensors[0]
    return PartedTensor(tuple(tensors), order, layer.scale, layer.bias)


def published(layer: VectorLayer) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """A layer of half-precision codewords as the `vptq` package 0.0.5.post1 stores it: its entry of
    `config_for_layers`, and its tensors without the module's name (see `sw.checkpoints.vptq_file`).

    Raises `QuantError` where codewords are integers, or where the package would misread them.
    """
    choice, k = layer.choice, len(layer.order)
    if not choice.half:
        raise QuantError("only layers of half-precision codewords have a published form")
    if choice.along != "outputs":
        raise QuantError(f"along: must be outputs in the published form, got {choice.along}")
    if choice.residual_entries > choice.entries:
        raise QuantError("the vptq package reads no more residual codewords than main ones")
    outliers, group = cut(choice, k)
    rest = layer.parts[bool(outliers) :]
    books = list(zip(*(part.books for part in rest), strict=True))
    main, *residual = (
        np.stack(indices) for indices in zip(*(part.index for part in rest), strict=True)
    )
    bits = _index_bits(choice.entries), _index_bits(choice.residual_entries)
    tensors: dict[str, NDArray] = {
        "indices": pack_indices(Indices(main, residual[0] if residual else None), *bits),
        "perm": layer.order.astype(np.uint16).view(np.int16),
    }
    for name, group_books in zip(("centroids.weight", "res_centroids.weight"), books, strict=False):
        tensors[name] = np.stack(group_books).astype(np.float16).reshape(choice.groups, -1)
    if outliers:
        (book,), (index,) = layer.parts[0].books, layer.parts[0].index
        tensors["outlier_indices"] = index[None].astype(np.uint16).view(np.int16)
        tensors["outlier_centroids.weight"] = book.astype(np.float16).reshape(1, -1)
    if layer.scale is not None and layer.bias is not None:
        tensors["weight_scale"] = layer.scale.astype(np.float16)
        tensors["weight_bias"] = layer.bias.astype(np.float16)
    off = -1
    settings = {
        "in_features": k,
        "out_features": layer.n,
        "vector_lens": [choice.outlier_v if outliers else off, choice.v],
        "num_centroids": [choice.outlier_entries if outliers else off, choice.entries],
        "num_res_centroids": [off, choice.residual_entries or off],
        "group_num": choice.groups,
        "group_size": group,
        "outlier_size": outliers,
        "enable_norm": layer.scale is not None,
        "norm_dim": 0,
        "enable_perm": True,
        "bias": False,
        "is_indice_packed": True,
        "indices_as_float": False,
        "vector_quant_dim": "out",
    }
    return settings, tensors
