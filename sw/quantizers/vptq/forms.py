"""Forms of a layer in vectors: a tensor for engines, and files that the `vptq` package reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.weights import Book, Codebook
from evolute.sw.checkpoints.vptq_file import Indices, pack_indices
from evolute.sw.quantizers.vptq.choice import WEIGHT_BITS, cut, index_bits
from evolute.sw.quantizers.vptq.parts import VectorLayer
from evolute.sw.tensors.tensor import Coded, PartedTensor, QuantError, QuantTensor


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
    bits = index_bits(choice.entries), index_bits(choice.residual_entries)
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
