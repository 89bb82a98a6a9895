"""Tables by centroid for a model's layers, made from samples of their inputs without training
(LUT-DLA, HPCA 2025, arXiv 2501.10658). `sw.quantizers.lut_boost` trains them further.

k-means finds the centroids of every subspace of the integer activations, so a token's scale affects
neither centroids nor tables. A table entry is more than the product of its centroid with the
weights: all tables of a layer are fitted together, by least squares, to the layer's outputs for all
samples. A ridge draws the entries towards the products of the weights with the mean of the samples
that each centroid takes.
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
    """How tables are made: `v` inputs per subspace, `centroids` of each subspace, entries of
    `bits`, and one scale per output and `group` inputs; for integer activations of
    `activation_bits`."""

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
    """The choice that a name such as dla-v2c16 describes, see `GRAMMAR`; None for names of other
    methods.

    Raises `QuantError` if the name cannot be read, and `SpecError` for impossible tables.
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
    """The inputs of a model's layers over windows of tokens, float32 [tokens, K], computed in
    float32.

    They are named after the first of the layers that share each, as in `inputs_of`.
    """
    linear, names_of_inputs = host_linears(model), set(inputs_of(model))
    collected: dict[str, list[NDArray[np.float32]]] = {}
    steps, done = len(parts) * (len(linear_names(model)) - 1), 0

    def watched(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        nonlocal done
        if names[0] in names_of_inputs:
            collected.setdefault(names[0], []).append(x.copy())
        done += len(names)
        progress(done / steps)
        return linear(names, x)

    for part in parts:
        forward(model, watched, part, Cache(model.config, len(part)))
    return {name: np.concatenate(rows) for name, rows in collected.items()}


def learn_centroids(
    x: NDArray[np.integer], choice: Tables, rng: np.random.Generator
) -> tuple[Centroids, NDArray[np.float64]]:
    """Returns the centroids for integer activations x [samples, K], and the means of the samples
    that each of them takes, [subspaces, c, v] (0 where it takes none).

    Lloyd's algorithm in every subspace, starting from samples that are far from each other
    (k-means++). A centroid moves to the point with the least sum of distances to its samples: their
    mean, or in L1 their median; in the Chebyshev metric it moves to the middle of their range. A
    centroid without samples moves to the sample that is farthest from its own centroid.
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
    """Samples of every subspace, each drawn with a probability proportional to its squared distance
    from those drawn before."""
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
    """Move the centroids [c, v] of one subspace to the centres of their samples, in place."""
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
    """Table entries [N, subspaces * c] for weights [N, K] and samples [M, K].

    They are a least-squares fit to the outputs of the samples, with a ridge towards the products of
    weights and means. Entries that the samples do not determine stay at these products.
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
    """Weights [N, K] as coded tables of `centroids`, fitted to samples [M, K]."""
    tables = fitted_tables(w, x, centroids, means, min(choice.group, w.shape[1]))
    return coded_tables(tables.astype(np.float32), centroids, choice)


def coded_tables(tables: NDArray[np.float32], centroids: Centroids, choice: Tables) -> QuantTensor:
    """Tables [N, subspaces * c] in symmetric codes, with one scale per output and group.

    All of it is computed in float32, in a fixed order of operations that training follows too.
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
    """Inputs [tokens, K] in the integers that an engine takes; at most `SAMPLES` of them."""
    return quantize_activations(x[:: -(-len(x) // SAMPLES)], choice.activations).x


def output_error(tensor: QuantTensor, w: NDArray[np.float32], x: NDArray[np.integer]) -> float:
    """The squared error of a layer's outputs over integer samples [M, K], relative to the mean
    square of the outputs."""
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    looked_up = tensor.form.operand(x) @ tensor.rows(slice(None), np.float64).T
    return float(((looked_up - exact) ** 2).sum() / max((exact**2).sum(), 1e-30))


def tables_of_input(
    model: LanguageModel,
    choice: Tables,
    names: Sequence[str],
    inputs: NDArray[np.float32],
    seed: int,
) -> dict[str, tuple[QuantTensor, float]]:
    """The tables of the layers that share the input `inputs` [tokens, K], and thus its centroids,
    each with its `output_error`.

    Random numbers do not depend on which other layers are made, or when.
    """
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
    """For each of `inputs_of`, the names of the layers that share it, without the head."""
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
    """Returns the model with tables instead of its linear layers, except the head; and for each
    layer the `output_error` over the samples.

    `inputs` is the result of `seen_inputs`. Layers that share an input share its centroids.
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
