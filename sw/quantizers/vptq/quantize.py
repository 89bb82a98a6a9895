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

import numpy as np
from numpy.typing import NDArray

from evolute.sw.quantizers.gptq import act_order, inverse_factor
from evolute.sw.quantizers.hessian import Moments, damped, proxy_error
from evolute.sw.quantizers.vptq.choice import Norm, Vptq, cut
from evolute.sw.quantizers.vptq.codebooks import add_codebook, fit_codebooks, round_codebooks
from evolute.sw.quantizers.vptq.indices import find_indices
from evolute.sw.quantizers.vptq.parts import VectorLayer, VectorPart
from evolute.sw.tensors.tensor import QuantError


def vptq(
    w: NDArray[np.float32],
    moments: Moments,
    choice: Vptq,
    rng: np.random.Generator,
) -> tuple[VectorLayer, dict[str, float]]:
    """Quantize `w` [N, K]; also the proxy error after each stage. Raises `QuantError`."""
    n, k = w.shape
    outliers = cut(choice, k).outliers
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
    parts = _learned_parts(target, np.diag(h), choice, rng)
    layer = VectorLayer(n, choice, parts, order, scale, bias)
    stages: dict[str, float] = {}

    def note(stage: str) -> None:
        stages[stage] = proxy_error(w, layer.dequantize(), moments.second)

    round_codebooks(parts, choice)
    note("codebook")
    wanted = find_indices(target, factor, parts)
    note("feedback")
    if choice.residual_entries:
        for part in parts[outliers > 0 :]:
            left = wanted[:, part.columns] - part.values(n)
            add_codebook(part, left, np.diag(h)[part.columns], choice.residual_entries, rng)
        round_codebooks(parts, choice)
        find_indices(target, factor, parts)
        note("residual")
    for step in range(choice.fits):
        stage, least = f"fit {step + 1}", min(stages.values())
        before = [(part.books, part.index, part.unit) for part in parts]
        if step:
            find_indices(target, factor, parts)
        fit_codebooks(target, h, parts)
        round_codebooks(parts, choice)
        note(stage)
        if stages[stage] >= least:
            for part, (books, index, unit) in zip(parts, before, strict=True):
                part.books, part.index, part.unit = books, index, unit
            del stages[stage]
            break
    return layer, stages


def _learned_parts(
    target: NDArray[np.float64],
    strength: NDArray[np.float64],
    choice: Vptq,
    rng: np.random.Generator,
) -> tuple[VectorPart, ...]:
    """The parts of `target` [N, K], outliers first, then the groups, each with one codebook; a
    vector counts as much as the strengths [K] of its columns."""
    k = target.shape[1]
    outliers, group = cut(choice, k)
    sizes = [
        (slice(start, start + group), choice.v, choice.entries)
        for start in range(outliers, k, group)
    ]
    if outliers:
        sizes.insert(0, (slice(0, outliers), choice.outlier_v, choice.outlier_entries))
    parts = []
    for columns, v, entries in sizes:
        part = VectorPart(columns, v, choice.along, [], [])
        add_codebook(part, target[:, columns], strength[columns], entries, rng)
        parts.append(part)
    return tuple(parts)


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
