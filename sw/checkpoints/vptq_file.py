"""The published form of VPTQ layers: packed index streams, and what folds into activations.

Layout after the `vptq` package 0.0.5.post1 (microsoft/VPTQ, MIT), whose layers hold `indices` int32
[groups, rows of codewords, words]. A row is one little-endian stream: field j occupies bits
[j*T, (j+1)*T) with T = log2 k + log2 k2; its low log2 k bits are the index of the codeword, the
others that of the residual's. Words have 32 bits, lowest bit first, and a field may straddle two.

Columns are stored in an order of their own, and have a scale and a bias:

    w[m, perm[c]] = scale[perm[c]] * v[m, c] + bias[perm[c]]

so that y = v @ (scale * x)[perm] + sum(bias * x), the last term being the same for every output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import SpecError, require
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.weights import Book, Codebook
from evolute.sw.checkpoints.known_settings import ARITHMETIC, KnownSettings
from evolute.sw.checkpoints.safetensors_file import Raw
from evolute.sw.tensors.stored import Stored
from evolute.sw.tensors.tensor import PartedTensor, QuantTensor

SETTINGS = KnownSettings(
    read=("quant_method", "shared_layer_config", "config_for_layers"),
    harmless=("modules_to_not_convert",),
)
"""Settings of VptqConfig in transformers, of the whole model."""
_LAYER_SETTINGS = KnownSettings(
    read=(
        "in_features",
        "out_features",
        "vector_lens",
        "num_centroids",
        "num_res_centroids",
        "group_num",
        "group_size",
        "outlier_size",
        "enable_norm",
        "enable_perm",
        "bias",
        "is_indice_packed",
        "indices_as_float",
        "vector_quant_dim",
    ),
    harmless=("enable_proxy_error",),
    neutral={"norm_dim": (0,)},
    words=(*ARITHMETIC, "bit", "centroid", "group", "indice", "outlier", "perm", "vector"),
)
"""The same of a layer."""

WORD_BITS = 32
_WORD = np.dtype("<u4")


class Indices(NamedTuple):
    """Indices of codewords and, if there is a residual codebook, of the codewords that are added to
    them."""

    main: NDArray[np.int64]
    residual: NDArray[np.int64] | None = None


def pack_indices(indices: Indices, main_bits: int, residual_bits: int = 0) -> NDArray[np.int32]:
    """Rows of indices [..., columns] as bit streams in words, int32 [..., words]."""
    fields = indices.main.astype(np.int64)
    require(_fits(fields, main_bits), "main", f"below 2^{main_bits}", int(fields.max(initial=0)))
    if indices.residual is not None:
        residual = indices.residual.astype(np.int64)
        rule = f"below 2^{residual_bits}"
        require(_fits(residual, residual_bits), "residual", rule, int(residual.max(initial=0)))
        fields = fields | residual << main_bits
    bits = fields[..., None] >> np.arange(main_bits + residual_bits) & 1
    stream = bits.astype(np.uint8).reshape(*fields.shape[:-1], -1)
    padding = [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % WORD_BITS)]
    packed = np.packbits(np.pad(stream, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(_WORD).astype(np.uint32).view(np.int32)


def unpack_indices(
    words: NDArray[np.int32], columns: int, main_bits: int, residual_bits: int = 0
) -> Indices:
    """The indices, each [..., columns], in rows of words [..., words]."""
    width = main_bits + residual_bits
    limit = words.shape[-1] * WORD_BITS // width
    require(columns <= limit, "columns", f"at most {limit} in {words.shape[-1]} words", columns)
    # A field lies in a word and the next one, of which the last word has none.
    stored = np.ascontiguousarray(words).view(np.uint32)
    first, shift = np.divmod(np.arange(columns) * width, WORD_BITS)
    second = np.minimum(first + 1, words.shape[-1] - 1)
    word_pairs = stored[..., first].astype(np.uint64)
    word_pairs |= stored[..., second].astype(np.uint64) << np.uint64(WORD_BITS)
    word_pairs >>= shift.astype(np.uint64)
    fields = (word_pairs & np.uint64((1 << width) - 1)).view(np.int64)
    main = fields & (1 << main_bits) - 1
    return Indices(main, fields >> main_bits if residual_bits else None)


def _fits(values: NDArray[np.int64], bits: int) -> bool:
    return bool(((values >= 0) & (values < 1 << bits)).all())


def join_groups(parts: NDArray, outputs: int) -> NDArray:
    """Weights [outputs, groups * columns] from decoded codewords [groups, rows, columns, v].

    Codewords lie along outputs; components of the last row beyond `outputs` are padding.
    """
    groups, rows, columns, v = parts.shape
    weights = parts.transpose(1, 3, 0, 2).reshape(rows * v, groups * columns)
    return weights[:outputs]


def with_outliers(outliers: NDArray, rest: NDArray) -> NDArray:
    """Weights in the order in which they are stored: first the outlier columns, which have a
    codebook of their own, then the others.

    Both are [outputs, columns].
    """
    return np.concatenate([outliers, rest], axis=1)


class Folded(NamedTuple):
    """Activations in the order of the stored weights, and what is added to every output of a
    row."""

    x: NDArray[np.float64]
    bias: NDArray[np.float64]


def fold_columns(
    x: NDArray[np.floating],
    permutation: NDArray[np.integer] | None = None,
    scale: NDArray[np.floating] | None = None,
    bias: NDArray[np.floating] | None = None,
) -> Folded:
    """Apply the order, scale and bias of columns to activations x [M, K].

    With v the stored weights [N, K] and x' the result, the layer's output is x' @ v.T + bias[:,
    None]. The stored column c belongs to the input `permutation[c]`; int16 values stand for uint16.
    """
    inputs = x.astype(np.float64)
    added = np.zeros(len(x)) if bias is None else inputs @ bias.astype(np.float64)
    scaled = inputs if scale is None else inputs * scale.astype(np.float64)
    if permutation is not None:
        scaled = scaled[:, column_order(permutation)]
    return Folded(scaled, added)


def column_order(permutation: NDArray[np.integer]) -> NDArray[np.int64]:
    """A stored permutation (int16 that stands for uint16, or wider) as int64 indices."""
    if permutation.dtype == np.int16:
        permutation = permutation.view(np.uint16)
    order = permutation.astype(np.int64)
    is_permutation = np.array_equal(np.sort(order), np.arange(len(order)))
    require(is_permutation, "permutation", f"an order of {len(order)} columns", order.tolist()[:8])
    return order


@dataclass(frozen=True, eq=False)
class FloatVectors:
    """Columns with codebooks of their own: indices [rows, columns] and a codebook, float32 [k, v];
    and the same for a residual codebook, if there is one."""

    books: tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]

    def decoded(self, outputs: int) -> NDArray[np.float32]:
        """The weights, float32 [outputs, columns]. Codewords are added in float32."""
        first, *added = (book[index] for index, book in self.books)
        for addend in added:
            first = first + addend
        return join_groups(first[None], outputs)

    def rounded(self, outputs: int) -> QuantTensor:
        """The form that an engine runs: components as integers of 8 bits, or of 7 bits if two are
        added, with one half-precision scale."""
        largest = 127 if len(self.books) == 1 else 63
        largest_component = max(float(np.abs(book).max(initial=0)) for _, book in self.books)
        scale = np.float16(max(largest_component / largest, 2.0**-14))  # a normal half
        books = tuple(
            Book(index, _components(book, np.float32(scale), largest)) for index, book in self.books
        )
        columns = books[0].indices.shape[1]
        scales = np.full((outputs, 1), scale, np.float32)
        form = Codebook((outputs, columns), _CODES, columns, "outputs", books)
        return QuantTensor(form, scales, -128 * scales, group_bits=0)


def _components(book: NDArray[np.float32], scale: np.float32, largest: int) -> NDArray[np.int16]:
    return np.clip(np.rint(book / scale), -largest, largest).astype(np.int16)


_CODES = WeightCodes(8, Kind.VECTOR)


@dataclass(frozen=True, eq=False, kw_only=True)
class VptqTensor(PartedTensor):
    """A published VPTQ layer. Its weights are those of its float codebooks, `vectors`. Its `parts`
    are the same with components rounded to integers, which an engine can run."""

    vectors: tuple[FloatVectors, ...]

    def rows(self, rows: slice | NDArray[np.integer], dtype: type[np.floating]) -> NDArray:
        """The selected rows of `dequantize`."""
        return self.dequantize()[rows].astype(dtype, copy=False)

    def dequantize(self) -> NDArray[np.float32]:
        """The whole matrix, float32 [N, K], equal to what the `vptq` package computes in
        float32."""
        outputs = self.shape[0]
        return self._in_place(np.concatenate([part.decoded(outputs) for part in self.vectors], 1))


class _Pair(NamedTuple):
    """A setting with separate values for the outlier columns and the others."""

    outliers: int
    rest: int


@dataclass(frozen=True)
class _Layer:
    """The settings that describe how a layer is stored; -1 stands for an absent one."""

    inputs: int
    outputs: int
    lengths: _Pair
    centroids: _Pair
    residuals: _Pair
    groups: int
    group_size: int
    outliers: int

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of an index, and of the index of a residual."""
        return _bits(self.centroids.rest), _bits(self.residuals.rest)


def _bits(entries: int) -> int:
    return (entries - 1).bit_length() if entries > 0 else 0


def _layer(settings: Mapping[str, Any]) -> _Layer:
    """Raises KeyError, TypeError or ValueError."""
    _LAYER_SETTINGS.require(settings)
    required = {"is_indice_packed": True, "indices_as_float": False, "vector_quant_dim": "out"}
    for name, value in required.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r:.40}")

    def number(name: str, value: Any, least: int) -> int:
        if type(value) is not int or not least <= value <= 1 << 24:
            raise ValueError(f"{name} must be in {least}..2^24, got {value!r:.40}")
        return value

    def pair(name: str) -> _Pair:
        value = settings[name]
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r:.40}")
        return _Pair(*(number(name, item, -1) for item in value))

    layer = _Layer(
        inputs=number("in_features", settings["in_features"], 1),
        outputs=number("out_features", settings["out_features"], 1),
        lengths=pair("vector_lens"),
        centroids=pair("num_centroids"),
        residuals=pair("num_res_centroids"),
        groups=number("group_num", settings["group_num"], 1),
        group_size=number("group_size", settings["group_size"], 1),
        outliers=number("outlier_size", settings["outlier_size"], 0),
    )
    columns = layer.outliers + layer.groups * layer.group_size
    if columns != layer.inputs:
        raise ValueError(f"outliers and groups have {columns} columns, in_features {layer.inputs}")
    if layer.lengths.rest < 1 or layer.centroids.rest < 2 or sum(layer.bits) > WORD_BITS:
        raise ValueError("vector_lens, num_centroids: there must be codewords")
    if layer.outliers and (layer.lengths.outliers < 1 or layer.centroids.outliers < 1):
        raise ValueError("vector_lens, num_centroids: there must be codewords of outliers")
    return layer


def read_layer(parts: dict[str, Raw], settings: Mapping[str, Any], module: str) -> Stored | None:
    """The weights of the layer `module`; None if they are stored as floats. The tensors that are
    used are removed from `parts`.

    `settings` are those of the whole model. Raises ValueError, KeyError or TypeError.
    """
    if "indices" not in parts:
        return None
    shared = settings.get("shared_layer_config") or {}
    layers = settings.get("config_for_layers") or {}
    said = layers.get(module) or shared[module.rpartition(".")[2]]
    layer = _layer(said)
    for name, part in (("enable_perm", "perm"), ("enable_norm", "weight_scale")):
        if (wanted := said.get(name)) is not None and bool(wanted) != (part in parts):
            raise ValueError(f"{name} is {wanted!r:.40}, which {part} contradicts")
    rows = -(-layer.outputs // layer.lengths.rest)
    words = -(-layer.group_size * sum(layer.bits) // WORD_BITS)
    groups, v, taken = layer.groups, layer.lengths.rest, {}
    wanted = {
        "indices": (groups, rows, words),
        "centroids.weight": (groups, layer.centroids.rest * v),
    }
    if layer.bits[1]:
        wanted["res_centroids.weight"] = (groups, layer.residuals.rest * v)
    if layer.outliers:
        v0 = layer.lengths.outliers
        wanted["outlier_indices"] = (1, -(-layer.outputs // v0), layer.outliers)
        wanted["outlier_centroids.weight"] = (1, layer.centroids.outliers * v0)
    optional = dict.fromkeys(("perm", "weight_scale", "weight_bias"), (layer.inputs,))
    for name, shape in (wanted | optional).items():
        if name not in parts and name in optional:
            continue
        taken[name] = parts.pop(name)
        if taken[name].shape != shape:
            raise ValueError(f"{name}: must be {shape}, got {taken[name].shape}")

    def read() -> VptqTensor:
        try:
            return _read(layer, taken)
        except SpecError as error:
            raise ValueError(str(error)) from None

    return Stored((layer.outputs, layer.inputs), read, coded=True)


def _read(layer: _Layer, parts: Mapping[str, Raw]) -> VptqTensor:
    """Raises ValueError or `SpecError`."""
    main_bits, residual_bits = layer.bits
    packed = parts["indices"].integers("I32")
    indices = unpack_indices(packed, layer.group_size, main_bits, residual_bits)
    books = [(indices.main, parts["centroids.weight"].floats())]
    if indices.residual is not None:
        books.append((indices.residual, parts["res_centroids.weight"].floats()))
    v, vectors = layer.lengths.rest, []
    if layer.outliers:
        stored = parts["outlier_indices"].integers("I16", "U16").view(np.uint16)[0]
        book = parts["outlier_centroids.weight"].floats()[0].reshape(-1, layer.lengths.outliers)
        vectors.append(FloatVectors(((stored.astype(np.int64), book),)))
    for group in range(layer.groups):
        chosen = tuple((index[group], book[group].reshape(-1, v)) for index, book in books)
        vectors.append(FloatVectors(chosen))
    for index, book in (pair for part in vectors for pair in part.books):
        if (highest := int(index.max(initial=0))) >= len(book):
            raise ValueError(f"indices: must be below {len(book)}, got {highest}")
        if not np.isfinite(book).all():
            raise ValueError("a codebook holds a number that is not finite")
    order = None
    if "perm" in parts:
        order = column_order(parts["perm"].integers("I16", "U16", "I32", "I64"))
    return VptqTensor(
        parts=tuple(part.rounded(layer.outputs) for part in vectors),
        order=order,
        scale=parts["weight_scale"].floats() if "weight_scale" in parts else None,
        bias=parts["weight_bias"].floats() if "weight_bias" in parts else None,
        vectors=tuple(vectors),
    )
