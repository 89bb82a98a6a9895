"""Evolute's own form of a quantized model: a folder with evolute.json, weights.safetensors and
tokenizer.json.

The JSON document describes how each tensor is stored; arrays have names that start with the
tensor's. Codes and indices are rows of little-endian bit streams: field j of a row occupies the
bits [j*b, (j+1)*b), and every row begins at a byte. What is the same for a whole tensor, such as
the scale of a codebook, is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

from evolute.hw.spec.formats import FLOATS, Activations, Kind, WeightCodes
from evolute.hw.spec.lut_dla import METRICS
from evolute.sim.weights import Book, Centroids, Codebook, Form, Grid, Table, group_bounds
from evolute.support.errors import RefusedError
from evolute.support.files import replacing, write_text
from evolute.sw.language_model.model import LanguageModel, ModelConfig, Parent, checked
from evolute.sw.language_model.tokenizer import TextTokenizer, TokenizerError, from_json
from evolute.sw.tensors.stored import CheckpointError, Tensor, require_finite
from evolute.sw.tensors.tensor import Coded, PartedTensor, QuantTensor

DOCUMENT, WEIGHTS, TOKENIZER = "evolute.json", "weights.safetensors", "tokenizer.json"
FILES = DOCUMENT, WEIGHTS, TOKENIZER

FORMAT, VERSION = "evolute-quantized", 1

_DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8, "I16": np.int16}
_MOST_SIDE = 1 << 24
_ALONG = ("outputs", "inputs")


class _Broken(Exception):
    """A problem with a file; readers add the file's name."""


# Bit streams.


_BLOCK_FIELDS = 1 << 20
"""Fields that are taken apart into bits at once; keeps intermediates small."""


def _row_blocks(rows: int, fields: int) -> Iterator[slice]:
    step = max(1, _BLOCK_FIELDS // max(1, fields))
    return (slice(start, start + step) for start in range(0, rows, step))


def pack_rows(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Fields of up to 16 bits, [rows, fields], as one bit stream per row, uint8 [rows, bytes]."""
    rows, fields = values.shape
    packed = np.empty((rows, -(-fields * bits // 8)), np.uint8)
    for block in _row_blocks(rows, fields):
        wide = np.ascontiguousarray(values[block], "<u2").view(np.uint8)
        stream = np.unpackbits(wide.reshape(-1, fields, 2), axis=2, bitorder="little")[:, :, :bits]
        packed[block] = np.packbits(stream.reshape(len(wide), -1), axis=1, bitorder="little")
    return packed


def unpack_rows(packed: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint16]:
    """The first `count` fields of every row, uint16 [rows, count]."""
    codes = np.empty((len(packed), count), np.uint16)
    for block in _row_blocks(len(packed), count):
        stream = np.unpackbits(packed[block], axis=1, count=count * bits, bitorder="little")
        wide = np.zeros((len(stream), count, 16), np.uint8)
        wide[:, :, :bits] = stream.reshape(len(stream), count, bits)
        codes[block] = np.packbits(wide, axis=2, bitorder="little").view("<u2")[:, :, 0]
    return codes


# Writing.


def _once(values: NDArray) -> NDArray:
    """`values` [N, G], reduced to [1, 1] if all of them are equal."""
    return values[:1, :1] if values.size and (values == values[0, 0]).all() else values


def _half(values: NDArray[np.float32]) -> NDArray[np.floating]:
    """`values` in half precision if that is exact, else unchanged."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values


def _part(name: str, part: QuantTensor, arrays: dict[str, NDArray]) -> dict[str, Any]:
    arrays[f"{name}.scale"] = _once(_half(part.scale))
    # Where the grid is zero, in half codes; a minimum that this cannot give is stored itself.
    origin = np.divide(
        -2 * part.minimum, part.scale, out=np.zeros_like(part.scale), where=part.scale != 0
    )
    origin = np.clip(np.rint(origin), 0, 511).astype(np.int16)
    if np.array_equal(origin * part.scale * np.float32(-0.5), part.minimum):
        small = origin.astype(np.uint8) if origin.max(initial=0) < 256 else origin
        arrays[f"{name}.origin"] = _once(small)
    else:
        arrays[f"{name}.minimum"] = _once(_half(part.minimum))
    return {
        "shape": list(part.shape),
        "kind": part.format.kind.name.lower(),
        "bits": part.format.bits,
        "group": part.group,
        "group_bits": part.group_bits,
        **_form(name, part.form, arrays),
    }


def _form(name: str, form: Form, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """The document's entries for a form of weights, apart from its codes. Its arrays are added to
    `arrays`."""
    match form:
        case Grid():
            if form.format.specials:
                arrays[f"{name}.special"] = pack_rows(form.special, form.format.special_bits)
            arrays[f"{name}.codes"] = pack_rows(form.codes, form.format.bits)
            return {}
        case Table(centroids=centroids):
            arrays[f"{name}.codes"] = pack_rows(form.codes, form.format.bits)
            arrays[f"{name}.centroids"] = centroids.points.astype(np.int16)
            kind = centroids.activations
            return {
                "metric": centroids.metric,
                "activation_bits": kind.bits,
                "activation_format": kind.format.name if kind.format else "int",
            }
        case Codebook(books=books):
            for number, book in enumerate(books):
                arrays[f"{name}.codebook{number}"] = book.codewords.astype(np.int8)
                arrays[f"{name}.index{number}"] = pack_rows(book.indices, book.index_bits)
            return {
                "along": form.along,
                "indices": form.indices.shape[1],
                "codebooks": len(books),
            }


def stored(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Returns documents that describe how tensors are stored, by name, and the arrays."""
    documents: dict[str, Any] = {}
    arrays: dict[str, NDArray] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantTensor):
            documents[name] = _part(name, tensor, arrays)
        elif isinstance(tensor, PartedTensor):
            column_vectors = {"scale": tensor.scale, "bias": tensor.bias}
            for vector_name, values in column_vectors.items():
                if values is not None:
                    arrays[f"{name}.column_{vector_name}"] = _half(values)
            if tensor.order is not None:
                # As it is counted: 16 bits a column, and then some only where these do not do.
                kind = np.int16 if len(tensor.order) <= 1 << 15 else np.int32
                arrays[f"{name}.order"] = tensor.order.astype(kind)
            parts = (_part(f"{name}/{i}", part, arrays) for i, part in enumerate(tensor.parts))
            documents[name] = {"parts": list(parts)}
        else:
            arrays[name] = _half(tensor)
            documents[name] = {}
    return documents, arrays


def write_arrays(path: Path, arrays: Mapping[str, NDArray], metadata: dict[str, str]) -> None:
    """Write a safetensors file, completely or not at all."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata)


def write_quantized(folder: Path, model: LanguageModel, quantization: dict[str, Any]) -> None:
    """Write `model` to `folder`, with the document `quantization` about how it was made. Raises
    `FileError`.

    The document is written last, so that an incomplete folder cannot be opened.
    """
    documents, arrays = stored(model.tensors)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "config": asdict(model.config),
        "tokenizer": {
            "prefix": list(model.tokenizer.prefix),
            "stops": sorted(model.tokenizer.stops),
        },
        "parent": None if model.parent is None else asdict(model.parent),
        "quantization": quantization,
        "tensors": documents,
    }
    (folder / DOCUMENT).unlink(missing_ok=True)
    write_arrays(folder / WEIGHTS, arrays, {"format": FORMAT})
    write_text(folder / TOKENIZER, model.tokenizer.library.to_str())
    write_text(folder / DOCUMENT, json.dumps(document, indent=1, allow_nan=False) + "\n")


# Reading.


class _Arrays:
    """The arrays of a file. Each is requested with the types and shapes that it may have."""

    def __init__(self, file: Any):
        self._file, self._left = file, set(file.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def __call__(
        self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]
    ) -> NDArray[Any]:
        if name not in self._left:
            raise _Broken(f"has no array {name}")
        self._left.remove(name)
        entry = self._file.get_slice(name)
        stored_type = entry.get_dtype()
        if stored_type not in dtypes:
            raise _Broken(f"array {name}: must be {' or '.join(dtypes)}, got {stored_type}")
        shape = tuple(entry.get_shape())
        if shapes and shape not in shapes:
            raise _Broken(f"array {name}: must be {shapes[-1]}, got {shape}")
        return self._file.get_tensor(name)

    def finish(self) -> None:
        """Raise `_Broken` if there are arrays that nothing has used."""
        if self._left:
            raise _Broken(f"array {min(self._left)} belongs to no tensor")


def _whole(document: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = document.get(name)
    if type(value) is not int or not least <= value <= most:
        raise _Broken(f"{name} must be an integer in {least}..{most}, got {value!r}")
    return value


def _spread(values: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.broadcast_to(values.astype(np.float32), shape))


class _Stated(NamedTuple):
    """What a document states for every form of weights."""

    shape: tuple[int, int]
    codes: WeightCodes
    group: int

    @property
    def groups(self) -> int:
        return -(-self.shape[1] // self.group)


def _read_codes(name: str, stated: _Stated, entries: int, arrays: _Arrays) -> NDArray[np.uint8]:
    """The codes of `entries` entries of every output, uint8 [N, entries]."""
    bits = stated.codes.bits
    packed = arrays(f"{name}.codes", ("U8",), (stated.shape[0], -(-entries * bits // 8)))
    codes = unpack_rows(packed, entries, bits)
    if codes.max() >= stated.codes.levels:
        raise _beyond(name, stated)
    return codes.astype(np.uint8)


def _beyond(name: str, stated: _Stated) -> _Broken:
    return _Broken(f"tensor {name}: holds a code beyond {stated.codes.levels - 1}")


def _read_grid(document: Mapping[str, Any], name: str, stated: _Stated, arrays: _Arrays) -> Grid:
    n, k = stated.shape
    special = np.zeros((n, stated.groups), np.uint8)
    if stated.codes.specials:
        bits = stated.codes.special_bits
        packed = arrays(f"{name}.special", ("U8",), (n, -(-stated.groups * bits // 8)))
        special = unpack_rows(packed, stated.groups, bits).astype(np.uint8)
    return Grid(_read_codes(name, stated, k, arrays), stated.codes, stated.group, special)


def _read_codebook(
    document: Mapping[str, Any], name: str, stated: _Stated, arrays: _Arrays
) -> Codebook:
    (n, k), group = stated.shape, stated.group
    along = document["along"]
    if along not in _ALONG:
        raise _Broken(f"along must be one of {', '.join(_ALONG)}, got {along!r}")
    indices = _whole(document, "indices", 1, _MOST_SIDE)
    books: list[Book] = []
    for number in range(_whole(document, "codebooks", 1, 2)):
        book = arrays(f"{name}.codebook{number}", ("I8",))
        if book.ndim != 2 or not 2 <= len(book) <= 1 << 16 or not 1 <= book.shape[1] <= 16:
            raise _Broken(f"array {name}.codebook{number}: impossible shape {book.shape}")
        if books and book.shape[1] != books[0].codewords.shape[1]:
            raise _Broken(f"array {name}.codebook{number}: its codewords have another length")
        rows = -(-n // book.shape[1]) if along == "outputs" else n
        bits = (len(book) - 1).bit_length()
        packed = arrays(f"{name}.index{number}", ("U8",), (rows, -(-indices * bits // 8)))
        index = unpack_rows(packed, indices, bits)
        if index.max(initial=0) >= len(book):
            raise _Broken(f"array {name}.index{number}: beyond the codebook")
        books.append(Book(index, book))
    limit = stated.codes.levels // 2
    if sum(int(np.abs(book.codewords.astype(int)).max()) for book in books) > limit:
        raise _Broken(f"tensor {name}: codewords exceed the bits of a weight")
    form = Codebook(stated.shape, stated.codes, group, along, tuple(books))
    expected = k
    if along == "inputs":
        expected = sum(-(-(end - start) // form.v) for start, end in group_bounds(k, group))
    if indices != expected:
        raise _Broken(f"tensor {name}: {indices} indices in a row, must be {expected}")
    try:
        codes = form.codes  # decoded here, and kept
    except ValueError:
        raise _beyond(name, stated) from None
    assert codes.shape == (n, k)
    return form


def _read_table(document: Mapping[str, Any], name: str, stated: _Stated, arrays: _Arrays) -> Table:
    centroids = _read_centroids(document, name, stated.shape[1], stated.group, arrays)
    entries = centroids.points.shape[0] * centroids.points.shape[1]
    codes = _read_codes(name, stated, entries, arrays)
    return Table(codes, stated.codes, stated.group, centroids)


def _read_centroids(
    document: Mapping[str, Any], name: str, k: int, group: int, arrays: _Arrays
) -> Centroids:
    metric, format_ = document["metric"], document["activation_format"]
    if metric not in METRICS:
        raise _Broken(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if format_ not in ("int", *FLOATS):
        raise _Broken(f"activation_format must be int or floating, got {format_!r}")
    kind = Activations(_whole(document, "activation_bits", 4, 16), FLOATS.get(format_))
    points = arrays(f"{name}.centroids", ("I16",))
    if points.ndim != 3 or not (2 <= points.shape[1] <= 64 and 1 <= points.shape[2] <= 16):
        raise _Broken(f"array {name}.centroids: impossible shape {points.shape}")
    centroids = Centroids(k, kind, metric, points.astype(np.int64))
    spaces = sum(centroids.subspaces(min(group, k - start)) for start in range(0, k, group))
    if len(points) != spaces:
        raise _Broken(f"array {name}.centroids: of {len(points)} subspaces, must be of {spaces}")
    if not -(1 << kind.bits - 1) <= points.min() <= points.max() < 1 << kind.bits - 1:
        raise _Broken(f"array {name}.centroids: beyond {kind.bits} bits")
    return centroids


_READERS: dict[Kind, Callable[[Mapping[str, Any], str, _Stated, _Arrays], Form]] = {
    Kind.INTEGER: _read_grid,
    Kind.TERNARY: _read_grid,
    Kind.BITMOD: _read_grid,
    Kind.VECTOR: _read_codebook,
    Kind.TABLE: _read_table,
}
"""By the kind of codes, how the form of weights that has them is read."""


def _read_part(document: Any, name: str, arrays: _Arrays) -> QuantTensor:
    shape = tuple(document["shape"])
    if len(shape) != 2 or not all(type(n) is int and 1 <= n <= _MOST_SIDE for n in shape):
        raise _Broken(f"tensor {name}: impossible shape {shape}")
    n, k = shape
    group = _whole(document, "group", 1, k)
    groups = -(-k // group)
    codes = WeightCodes(_whole(document, "bits", 1, 8), Kind[str(document["kind"]).upper()])
    if codes.kind not in _READERS:
        kind = codes.kind.name.lower()
        raise _Broken(f"tensor {name}: {kind} is no kind of codes in a file")
    once = (1, 1), (n, groups)
    scale = _spread(arrays(f"{name}.scale", ("F16", "F32"), *once), (n, groups))
    if f"{name}.origin" in arrays:
        origin = arrays(f"{name}.origin", ("U8", "I16"), *once).astype(np.float32)
        minimum = _spread(origin, (n, groups)) * scale * np.float32(-0.5)
    else:
        minimum = _spread(arrays(f"{name}.minimum", ("F16", "F32"), *once), (n, groups))
    bits = _whole(document, "group_bits", 0, 64)
    form = _READERS[codes.kind](document, name, _Stated((n, k), codes, group), arrays)
    return QuantTensor(form, scale, minimum, bits)


def _read_coded(document: Mapping[str, Any], name: str, arrays: _Arrays) -> Coded:
    if "parts" not in document:
        return _read_part(document, name, arrays)
    parts = tuple(
        _read_part(part, f"{name}/{i}", arrays) for i, part in enumerate(document["parts"])
    )
    if not parts or len({part.shape[0] for part in parts}) > 1:
        raise _Broken(f"tensor {name}: its parts do not fit together")
    tensor = PartedTensor(parts)
    columns = tensor.shape[1]
    order = scale = bias = None
    if f"{name}.order" in arrays:
        order = arrays(f"{name}.order", ("I16", "I32"), (columns,)).astype(np.int64)
        if not np.array_equal(np.sort(order), np.arange(columns)):
            raise _Broken(f"array {name}.order: is no order of {columns} columns")
    if f"{name}.column_scale" in arrays:
        scale = arrays(f"{name}.column_scale", ("F16", "F32"), (columns,)).astype(np.float32)
    if f"{name}.column_bias" in arrays:
        bias = arrays(f"{name}.column_bias", ("F16", "F32"), (columns,)).astype(np.float32)
    return PartedTensor(parts, order, scale, bias)


def read_stored(path: Path, documents: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, described by the documents that `stored` made. Raises
    `CheckpointError`."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = _Arrays(file)
            for name, document in documents.items():
                if document:
                    yield name, _read_coded(document, name, arrays)
                else:
                    yield name, arrays(name, ("F16", "F32")).astype(np.float32)
            arrays.finish()
    except (OSError, safetensors.SafetensorError, RefusedError, _Broken) as error:
        raise CheckpointError(path, str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(path, f"its document is broken: {error!r}") from None


def read_document(folder: Path) -> dict[str, Any]:
    """The document of `folder`. Raises `CheckpointError`."""
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(path, "is not a JSON document") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(path, f"format must be {FORMAT!r}")
    if document.get("version") != VERSION:
        raise CheckpointError(path, f"version must be {VERSION}, got {document.get('version')!r}")
    return document


def parent_of(document: Mapping[str, Any]) -> Parent | None:
    """The model from which a folder's model was made, as its document states; None if it names
    none. Raises ValueError."""
    stated = document.get("parent")
    if stated is None:  # folders did not always say more than a name
        quantization = document.get("quantization")
        name = quantization.get("model") if isinstance(quantization, dict) else None
        return Parent(name) if isinstance(name, str) else None
    if not isinstance(stated, dict):
        raise ValueError(f"parent must be an object, got {stated!r:.40}")
    parent = Parent(**stated)
    if not isinstance(parent.name, str) or not all(
        text is None or isinstance(text, str) for text in (parent.path, parent.digest)
    ):
        raise ValueError("parent must have a name, and may have a path and a digest, as text")
    return parent


def add_to_document(folder: Path, **facts: Any) -> None:
    """Add facts to the document about how the model in `folder` was quantized. Raises
    `CheckpointError` and `FileError`."""
    document = read_document(folder)
    document["quantization"] = {**document["quantization"], **facts}
    write_text(folder / DOCUMENT, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _config(settings: Mapping[str, Any]) -> ModelConfig:
    names = {field.name for field in fields(ModelConfig)}
    if strange := sorted(set(settings) - names):
        raise ValueError(f"unknown setting {strange[0]}")
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return ModelConfig(**plain)


def read_quantized(folder: Path) -> LanguageModel:
    """The quantized model in `folder`. Raises `CheckpointError`."""
    document = read_document(folder)
    try:
        config, documents = _config(document["config"]), document["tensors"]
        parent = parent_of(document)
        marks = document["tokenizer"]
        text = (folder / TOKENIZER).read_text(encoding="utf-8")
        tokenizer = TextTokenizer(
            from_json(text), tuple(marks["prefix"]), frozenset(marks["stops"])
        )
        if not isinstance(documents, dict):
            raise ValueError("tensors must be an object")
    except OSError as error:
        raise CheckpointError(folder / TOKENIZER, f"cannot be read: {error.strerror}") from None
    except (TokenizerError, UnicodeDecodeError) as error:
        raise CheckpointError(folder / TOKENIZER, str(error)) from None
    except KeyError as error:
        raise CheckpointError(folder / DOCUMENT, f"has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(folder / DOCUMENT, str(error)) from None
    weights = folder / WEIGHTS
    tensors = dict(read_stored(weights, documents))
    for name, tensor in tensors.items():
        require_finite(weights, name, tensor)
    return checked(
        weights, LanguageModel(folder.resolve().name, config, tensors, tokenizer, parent)
    )
