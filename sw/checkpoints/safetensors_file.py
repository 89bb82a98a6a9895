"""Reads safetensors files and folders of them, memory-mapped, without trusting their content.

The header is read here, and not by the `safetensors` package, which reads whole files.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.sw.tensors.stored import CheckpointError, Stored

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_LENGTH = struct.Struct("<Q")
_LARGEST_JSON = 64 << 20
"""Bytes of a header or document, twice the largest tokenizer; parsed it takes many times that."""
_DIMENSIONS = 8

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor in a file: the name of its type, and its values, which are not read yet."""

    type: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def floats(self) -> NDArray[np.float32]:
        """The values as float32. Raises ValueError unless they have a floating type."""
        if self.type == "BF16":  # the upper half of a float32
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        if self.type not in _FLOATS:
            raise ValueError(f"must be of {', '.join(_FLOATS)}, got {self.type}")
        return self.values.astype(np.float32, copy=False)

    def integers(self, *types: str) -> NDArray[Any]:
        """The values. Raises ValueError unless they have one of these types."""
        if self.type not in types:
            raise ValueError(f"must be of {' or '.join(types)}, got {self.type}")
        return self.values

    def stored(self) -> Stored:
        """The tensor as one of floats."""
        return Stored(self.shape, self.floats)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `CheckpointError`; also for a name that occurs twice."""
    try:
        if (size := path.stat().st_size) > _LARGEST_JSON:
            raise CheckpointError(path, f"must be at most {_LARGEST_JSON} bytes, has {size}")
        return json_object(path, path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None


def json_object(path: Path, text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, the content of the file `path`. Raises `CheckpointError`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in pairs:
            if name in members:
                raise CheckpointError(path, f"names {name!r:.80} twice")
            members[name] = value
        return members

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise CheckpointError(path, "is not a JSON document") from None
    if not isinstance(document, dict):
        raise CheckpointError(path, "is not a JSON object")
    return document


def member(folder: Path, name: object) -> Path:
    """The file `name` in a model's folder.

    Raises `CheckpointError` if a name or a link leads out of the folder, except into the blobs that
    the Hugging Face cache keeps beside its snapshots.
    """
    plain = isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
    if not isinstance(name, str) or not plain or "\\" in name:
        raise CheckpointError(folder, f"{name!r:.80} is not a file name in this folder")
    path = folder / name
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError):
        raise CheckpointError(folder, f"{name!r:.80} cannot be followed") from None
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if target.parent not in homes:
        raise CheckpointError(path, "is a link that leads out of its folder")
    return path


def read_file(path: Path) -> dict[str, Raw]:
    """The tensors of a safetensors file by name, memory-mapped.

    Raises `CheckpointError` for an invalid header, and for tensors that overlap, leave gaps, or do
    not have the size of their shape.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(path, f"cannot be read: {error}") from None
    if len(data) < _LENGTH.size:
        raise CheckpointError(path, f"ends within its header, after {len(data)} bytes")
    (length,) = _LENGTH.unpack(data[: _LENGTH.size].tobytes())
    limit = min(_LARGEST_JSON, len(data) - _LENGTH.size)
    if length > limit:
        raise CheckpointError(path, f"its header must have at most {limit} bytes, has {length}")
    start = _LENGTH.size + length
    header = json_object(path, data[_LENGTH.size : start].tobytes())
    header.pop("__metadata__", None)
    body, tensors, spans = data[start:], {}, []
    for name, entry in header.items():
        try:
            begin, raw = _entry(body, entry)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(path, f"tensor {name!r:.80}: {problem}") from None
        spans.append((begin, begin + raw.values.nbytes, name))
        tensors[name] = raw
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps another" if begin < position else "does not follow the one before"
            raise CheckpointError(path, f"tensor {name!r:.80}: {problem}")
        position = end
    if position != len(body):
        raise CheckpointError(path, f"its tensors end at byte {position} of {len(body)}")
    return tensors


def _entry(body: NDArray[np.uint8], entry: Any) -> tuple[int, Raw]:
    """The position of a tensor, and the tensor. Raises KeyError, TypeError or ValueError."""
    if not isinstance(entry, dict):
        raise TypeError("must be described by an object")
    kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"type {kind!r:.40} is not supported")
    sizes = [*shape, *span] if isinstance(shape, list) and isinstance(span, list) else [None]
    if len(sizes) > _DIMENSIONS + 2 or any(type(n) is not int or n < 0 for n in sizes):
        raise ValueError("shape and data_offsets must be short lists of sizes")
    if len(span) != 2:
        raise ValueError(f"data_offsets must be two, got {len(span)}")
    begin, end = span
    dtype = np.dtype(_TYPES[kind])
    if (size := math.prod(shape) * dtype.itemsize) != end - begin:
        raise ValueError(f"its shape takes {size} bytes, its place has {end - begin}")
    if end > len(body):
        raise ValueError("ends beyond the file")
    return begin, Raw(kind, body[begin:end].view(dtype).reshape(shape))


def read_folder(folder: Path) -> dict[str, Raw]:
    """The tensors of a model in one file, or in the shards that its index names.

    Raises `CheckpointError`; also if the folder only holds pickles, which are never loaded.
    """
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return _read_shards(folder, read_json(member(folder, INDEX)))
    if not (folder / WEIGHTS).exists() and (pickles := sorted(_pickles(folder.iterdir()))):
        raise CheckpointError(folder / pickles[0], PICKLE)
    return read_file(member(folder, WEIGHTS))


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a file of weights, whether it can be read or not."""
    files = list(folder.iterdir())
    is_named = any(path.name == INDEX or path.suffix == ".safetensors" for path in files)
    return is_named or bool(_pickles(files))


PICKLE = "is a pickle, which may run code and is never loaded; convert it to safetensors"


def _pickles(paths: Iterable[Path]) -> list[str]:
    suffixes = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
    return [path.name for path in paths if path.suffix in suffixes]


def _read_shards(folder: Path, index: Mapping[str, Any]) -> dict[str, Raw]:
    places, path = index.get("weight_map"), folder / INDEX
    if not isinstance(places, dict) or not places:
        raise CheckpointError(path, "has no weight_map")
    shards: dict[str, dict[str, Raw]] = {}
    for shard in places.values():
        if not isinstance(shard, str) or shard not in shards:
            file = member(folder, shard)
            if file.suffix != ".safetensors":
                raise CheckpointError(file, "must be a .safetensors file")
            shards[str(shard)] = read_file(file)
    for shard, tensors in shards.items():
        if strays := sorted(name for name in tensors if places.get(name) != shard):
            raise CheckpointError(path, f"does not place {strays[0]!r:.80} in {shard}")
    merged = {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}
    if missing := sorted(set(places) - set(merged)):
        raise CheckpointError(folder / places[missing[0]], f"has no tensor {missing[0]!r:.80}")
    return merged
