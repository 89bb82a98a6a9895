"""Tables by centroid for a model's layers, made from samples of their inputs (LUT-DLA, HPCA 2025,
arXiv 2501.10658), without training; `sw.quantizers.lut_boost` goes on from there.

Centroids are found by k-means in every subspace of the integers that an engine is given, so that a
token's own scale is in neither centroids nor tables. What a centroid counts for is not its product
with the weights alone: the tables of a layer are fitted together, by least squares, to the outputs
for all samples, towards the products with the means of what each centroid takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # whose parts are loaded where they are used first
from numpy.typing import NDArray

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.formats import Activations, Kind, WeightCodes
from evolute.hw.spec.lut_dla import METRICS
from evolute.sim.weights import Centroids, Table, nearest, subspaces
from evolute.sw.language_model.decoder import Cache, forward
from evolute.sw.language_model.linear import host_linears, linear_names
from evolute.sw.language_model.model import LanguageModel, Tensor, dequantized
from evolute.sw.quantizers.hessian import inputs_of
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import SCALE_BITS, QuantError, QuantTensor, inverse

SAMPLES = 8192
"""Tokens whose inputs are looked at, at most."""

_BLOCK_SAMPLES = 1024
"""Samples that one-hot rows are held of at once."""

ITERATIONS = 8
"""Rounds of k-means at most; it ends as soon as no sample changes its centroid."""

RIDGE = 0.1
"""How much tables are held to the products with means, in samples per centroid."""


@dataclass(frozen=True)
class Tables:
    """How tables are made: v inputs a subspace, so many centroids of it, entries of `bits`, and one
    scale per output and `group` inputs; for integer activations of `activation_bits`."""

    v: int = 4
    centroids: int = 16
    metric: str = "l1"
    bits: int = 8
    group: int = 128
    activation_bits: int = 8
    steps: int = 0
    """Of training, after which tables are as `sw.quantizers.lut_boost` leaves them."""

    def __post_init__(self) -> None:
        require_range("v", self.v, 1, 16)
        require_range("centroids", self.centroids, 2, 64)
        require(self.metric in METRICS, "metric", f"one of {', '.join(METRICS)}", self.metric)
        require_range("bits", self.bits, 2, 8)
        require_range("group", self.group, 1, 16384)
        require_range("activation_bits", self.activation_bits, 4, 16)
        require_range("steps", self.steps, 0, 99_999)

    @property
    def activations(self) -> Activations:
        return Activations(self.activation_bits)


GRAMMAR = """\
dla-v<inputs>c<centroids>[METRIC][b<bits>][g<group>][t<steps>]
               tables by centroid, METRIC is l1, l2 or chebyshev; t trains them
               for so many steps, which needs PyTorch (the extra `train`)
"""

_NAME = re.compile(
    r"dla-v(\d{1,2})c(\d{1,2})(l1|l2|chebyshev)?(?:b([2-8]))?(?:g(\d{1,5}))?(?:t(\d{1,5}))?"
)


def parse_tables(text: str) -> Tables | None:
    """What a name such as dla-v2c16 says, as `GRAMMAR` has it; None if it names something else.

    Raises `QuantError` where it cannot be read, and `SpecError` for what no table can be.
    """
    if not text.startswith("dla-"):
        return None
    match = _NAME.fullmatch(text)
    if match is None:
        raise QuantError(f"method: must be {GRAMMAR.split()[0]}, such as dla-v2c16; got {text!r}")
    v, centroids, metric, bits, group, steps = match.groups()
    plain = Tables()
    return Tables(
        v=int(v),
        centroids=int(centroids),
        metric=metric or plain.metric,
        bits=int(bits or plain.bits),
        group=int(group or plain.group),
        steps=int(steps or plain.steps),
    )


def seen_inputs(
    model: LanguageModel,
    parts: Sequence[Sequence[int]],
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, NDArray[np.float32]]:
    """The inputs of a model's layers, float32 [tokens, K], over windows of tokens in float32.

    They are by the first layer of those that share each, as `inputs_of` names it.
    """
    linear, wanted = host_linears(model), set(inputs_of(model))
    seen: dict[str, list[NDArray[np.float32]]] = {}
    steps, done = len(parts) * (len(linear_names(model)) - 1), 0

    def watched(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        nonlocal done
        if names[0] in wanted:
            seen.setdefault(names[0], []).append(x.copy())
        done += len(names)
        progress(done / steps)
        return linear(names, x)

    for part in parts:
        forward(model, watched, part, Cache(model.config, len(part)))
    return {name: np.concatenate(rows) for name, rows in seen.items()}


def learn_centroids(
    x: NDArray[np.integer], choice: Tables, rng: np.random.Generator
) -> tuple[Centroids, NDArray[np.float64]]:
    """Centroids for integer activations [samples, K], and the means of what each of them takes,
    [subspaces, c, v], 0 for what takes nothing.

    Lloyd's algorithm in every subspace at once, from samples that are drawn far from each other
    (k-means++). A centroid moves to where its samples' sum of distances is least, their means or,
    in L1, their medians; in the Chebyshev metric to the middle of their range. One that has no
    samples moves to that which is farthest from its own.
    """
    parts = subspaces(x.astype(np.int64), min(choice.group, x.shape[1]), choice.v)
    points = _first_points(parts, choice, rng)
    last: NDArray[np.int64] | None = None
    for _ in range(ITERATIONS):
        index = nearest(choice.metric, parts, points)
        if last is not None and np.array_equal(index, last):
            break
        last = index
        for s in range(parts.shape[1]):
            _move(points[s], parts[:, s], index[:, s], choice.metric)
    index, means = nearest(choice.metric, parts, points), np.zeros(points.shape)
    for s in range(parts.shape[1]):
        counts = np.bincount(index[:, s], minlength=choice.centroids)
        np.add.at(means[s], index[:, s], parts[:, s])
        means[s] *= inverse(counts.astype(np.float64))[:, None]
    return Centroids(x.shape[1], choice.activations, choice.metric, points), means


def _first_points(
    parts: NDArray[np.int64], choice: Tables, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Samples of every subspace, each drawn by its squared distance from those before it."""
    count, spaces, v = parts.shape
    points = np.zeros((spaces, choice.centroids, v), np.int64)
    for s in range(spaces):
        points[s, 0] = parts[rng.integers(count), s]
        left = ((parts[:, s] - points[s, 0]) ** 2).sum(axis=1)
        for j in range(1, choice.centroids):
            total = left.sum()
            at = rng.choice(count, p=left / total) if total else rng.integers(count)
            points[s, j] = parts[at, s]
            np.minimum(left, ((parts[:, s] - points[s, j]) ** 2).sum(axis=1), out=left)
    return points


def _move(
    points: NDArray[np.int64], x: NDArray[np.int64], index: NDArray[np.int64], metric: str
) -> None:
    """Move the centroids [c, v] of one subspace to the middles of their samples, in place."""
    order = np.argsort(index, kind="stable")
    groups = np.split(x[order], np.searchsorted(index[order], np.arange(1, len(points))))
    far = np.abs(x - points[index]).sum(axis=1)
    for j, group in enumerate(groups):
        if not len(group):
            farthest = int(far.argmax())
            points[j], far[farthest] = x[farthest], 0
        elif metric == "l1":
            points[j] = np.rint(np.median(group, axis=0))
        elif metric == "l2":
            points[j] = np.rint(group.mean(axis=0))
        else:
            points[j] = (group.min(axis=0) + group.max(axis=0)) // 2


def fitted_tables(
    w: NDArray[np.floating],
    x: NDArray[np.integer],
    centroids: Centroids,
    means: NDArray[np.float64],
    group: int,
) -> NDArray[np.float64]:
    """What every centroid counts for, [N, subspaces * c], for weights [N, K] and samples [M, K].

    It is least squares over the samples' outputs, drawn to the products of weights and means by a
    ridge, so that what no sample tells apart stays such a product.
    """
    count = centroids.points.shape[1]
    pieces = subspaces(w, group, centroids.v)  # [N, subspaces, v]
    products = np.einsum("nsv,scv->nsc", pieces, means).reshape(len(w), -1)
    square = np.zeros((products.shape[1], products.shape[1]))
    missed = np.zeros((products.shape[1], len(w)))
    for start in range(0, len(x), _BLOCK_SAMPLES):
        part = x[start : start + _BLOCK_SAMPLES]
        meets = centroids.one_hot(part, group).astype(np.float32)
        square += meets.T @ meets  # counts, exact
        outputs = part.astype(np.float64) @ w.astype(np.float64).T
        missed += meets.T @ (outputs - meets @ products.T)
    square[np.diag_indices(len(square))] += RIDGE * len(x) / count
    return products + scipy.linalg.solve(square, missed, assume_a="pos").T


def tables_of(
    w: NDArray[np.float32],
    x: NDArray[np.integer],
    centroids: Centroids,
    means: NDArray[np.float64],
    choice: Tables,
) -> QuantTensor:
    """Weights [N, K] as tables of `centroids`, fitted to samples [M, K], in codes."""
    tables = fitted_tables(w, x, centroids, means, min(choice.group, w.shape[1]))
    return coded_tables(tables.astype(np.float32), centroids, choice)


def coded_tables(tables: NDArray[np.float32], centroids: Centroids, choice: Tables) -> QuantTensor:
    """Tables [N, subspaces * c] in symmetric codes, a scale per output and group.

    All is done in float32, one operation after the other, so that training can do the same.
    """
    codes, group = WeightCodes(choice.bits, Kind.TABLE), min(choice.group, centroids.k)
    size = centroids.group_codes(group)
    starts = np.arange(0, tables.shape[1], size)
    zero = codes.levels // 2
    largest = np.maximum.reduceat(np.abs(tables), starts, axis=1)
    scale = (largest / np.float32(zero - 1)).astype(np.float16).astype(np.float32)
    steps = np.repeat(inverse(scale), size, axis=1)[:, : tables.shape[1]]
    counted = np.clip(np.rint(tables * steps) + zero, 0, codes.levels - 1)
    form = Table(counted.astype(np.uint8), codes, group, centroids)
    return QuantTensor(form, scale, minimum=-zero * scale, group_bits=SCALE_BITS)


def samples_of(x: NDArray[np.float32], choice: Tables) -> NDArray[np.int32]:
    """Inputs [tokens, K] as an engine takes them, at most `SAMPLES` of them."""
    return quantize_activations(x[:: -(-len(x) // SAMPLES)], choice.activations).x


def output_error(tensor: QuantTensor, w: NDArray[np.float32], x: NDArray[np.integer]) -> float:
    """The squared error of a layer's outputs over integer samples [M, K], as a part of their mean
    square."""
    wanted = x.astype(np.float64) @ w.astype(np.float64).T
    looked_up = tensor.form.operand(x) @ tensor.rows(slice(None), np.float64).T
    return float(((looked_up - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-30))


def tables_of_input(
    model: LanguageModel,
    choice: Tables,
    names: Sequence[str],
    inputs: NDArray[np.float32],
    seed: int,
) -> dict[str, tuple[QuantTensor, float]]:
    """The tables of layers that share an input, [tokens, K], and so its centroids; and of each the
    `output_error`. Numbers do not depend on which other layers are made, or when."""
    rng = np.random.default_rng((seed, linear_names(model).index(names[0])))
    x = samples_of(inputs, choice)
    centroids, means = learn_centroids(x, choice, rng)
    tables = {}
    for name in names:
        w = dequantized(model.tensors[name])
        tensor = tables_of(w, x, centroids, means, choice)
        tables[name] = tensor, output_error(tensor, w, x)
    return tables


def layers_by_input(model: LanguageModel) -> dict[str, tuple[str, ...]]:
    """The layers of each of `inputs_of`, without the head."""
    together = [roles for _ in range(model.config.layers) for roles in model.config.shared_inputs]
    return {
        first: tuple(f"{first.partition('.')[0]}.{role}" for role in roles)
        for first, roles in zip(inputs_of(model), together, strict=True)
    }


def tabulated(
    model: LanguageModel,
    choice: Tables,
    inputs: Mapping[str, NDArray[np.float32]],
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[LanguageModel, dict[str, float]]:
    """The model with tables in the place of its linear layers, all but the head; and of each layer
    the squared error of its outputs over the samples, as a part of their mean square.

    `inputs` are those of `seen_inputs`. Layers that share an input share its centroids.
    """
    tensors: dict[str, Tensor] = dict(model.tensors)
    errors: dict[str, float] = {}
    shared = layers_by_input(model)
    for done, (first, names) in enumerate(shared.items()):
        tables = tables_of_input(model, choice, names, inputs[first], seed)
        for name, (tensor, error) in tables.items():
            tensors[name], errors[name] = tensor, error
        progress((done + 1) / len(shared))
    return replace(model, tensors=tensors), errors
