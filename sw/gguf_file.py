"""Llama models in GGUF files, whose 4- and 8-bit codes feed an engine without a second rounding.

The container is read here rather than by the `gguf` package's reader, which trusts the lengths a
file states and takes seconds for a large vocabulary; the block formats that no engine multiplies
directly are dequantized by that package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as ValueKind
from numpy.typing import NDArray

from hw.spec.formats import WeightCodes
from sw.model import CheckpointError, LanguageModel, LlamaConfig, Tensor, checked
from sw.tensor import SCALE_BITS, QuantTensor
from sw.tokenizer import TextTokenizer, TokenizerError, byte_level_bpe

MAGIC = b"GGUF"

_SCALARS = {
    ValueKind.UINT8: "u1",
    ValueKind.INT8: "i1",
    ValueKind.UINT16: "<u2",
    ValueKind.INT16: "<i2",
    ValueKind.UINT32: "<u4",
    ValueKind.INT32: "<i4",
    ValueKind.FLOAT32: "<f4",
    ValueKind.BOOL: "?",
    ValueKind.UINT64: "<u8",
    ValueKind.INT64: "<i8",
    ValueKind.FLOAT64: "<f8",
}

_NAMES = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}
_BLOCK_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


class _Broken(Exception):
    """What is wrong with the file, without its name."""


@dataclass(frozen=True)
class _Entry:
    """A tensor as the file lists it; `shape` is [rows, columns]."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int


class _Cursor:
    """Reads the header; refuses to look beyond the end of the file."""

    def __init__(self, data: NDArray[np.uint8]):
        self.data, self.position = data, 0

    def take(self, count: int) -> NDArray[np.uint8]:
        if count > len(self.data) - self.position:
            raise _Broken(f"ends within its header, at byte {self.position} of {len(self.data)}")
        self.position += count
        return self.data[self.position - count : self.position]

    def unpack(self, layout: str) -> Any:
        (value,) = struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)).tobytes())
        return value

    def text(self) -> str:
        return self.take(self.unpack("Q")).tobytes().decode()

    def value(self, kind: int) -> Any:
        """A metadata value: a scalar, a string, or a list of one of them."""
        if kind == ValueKind.STRING:
            return self.text()
        if kind != ValueKind.ARRAY:
            return self.scalars(kind, 1)[0].item()
        kind, count = self.unpack("I"), self.unpack("Q")
        if kind != ValueKind.STRING:
            return self.scalars(kind, count).tolist()
        if count > (len(self.data) - self.position) // 8:
            raise _Broken(f"an array of {count} strings does not fit into the file")
        return [self.text() for _ in range(count)]

    def scalars(self, kind: int, count: int) -> NDArray:
        if kind not in _SCALARS:
            raise _Broken(f"metadata of type {kind} is not supported")
        dtype = np.dtype(_SCALARS[ValueKind(kind)])
        return self.take(count * dtype.itemsize).view(dtype)


def _q4_0(blocks: NDArray[np.uint8]) -> tuple[NDArray, NDArray, NDArray]:
    scale = _halves(blocks[..., :2])
    return _nibbles(blocks[..., 2:]), scale, -8 * scale


def _q4_1(blocks: NDArray[np.uint8]) -> tuple[NDArray, NDArray, NDArray]:
    return _nibbles(blocks[..., 4:]), _halves(blocks[..., :2]), _halves(blocks[..., 2:4])


def _q8_0(blocks: NDArray[np.uint8]) -> tuple[NDArray, NDArray, NDArray]:
    scale = _halves(blocks[..., :2])
    codes = np.bitwise_xor(blocks[..., 2:], 128, dtype=np.uint8)  # two's complement to offset
    return codes, scale, -128 * scale


def _halves(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(pairs).view("<f2")[..., 0].astype(np.float32)


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, high = np.bitwise_and(packed, 15), np.right_shift(packed, 4)
    return np.concatenate([low, high], axis=-1, dtype=np.uint8)


# Block formats whose codes an engine multiplies: bits per code, bits beside the codes of a block,
# and blocks uint8[N, G, bytes] -> (codes [N, G, 32], scale [N, G], minimum [N, G]).
_CODES: dict[Kind, tuple[int, int, Callable[[NDArray[np.uint8]], tuple]]] = {
    Kind.Q4_0: (4, SCALE_BITS, _q4_0),
    Kind.Q4_1: (4, 2 * SCALE_BITS, _q4_1),
    Kind.Q8_0: (8, SCALE_BITS, _q8_0),
}


def _tensor(data: NDArray[np.uint8], entry: _Entry) -> Tensor:
    """The tensor at `entry`, as codes if the format has them. `data` begins at the tensors."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[entry.kind]
    *rows, columns = entry.shape
    count = math.prod(rows)
    size = count * (columns // block) * block_bytes
    if columns % block:
        raise _Broken(f"tensor {entry.name}: rows of {columns} are not whole blocks of {block}")
    if entry.offset + size > len(data):
        raise _Broken(f"tensor {entry.name}: ends beyond the file")
    raw = data[entry.offset : entry.offset + size]
    if entry.kind not in _CODES or len(entry.shape) != 2:
        try:
            return np.array(gguf.dequantize(raw.reshape(count, -1), entry.kind)).reshape(
                entry.shape
            )
        except NotImplementedError:
            raise _Broken(f"tensor {entry.name}: type {entry.kind.name} unsupported") from None
    bits, group_bits, split = _CODES[entry.kind]
    codes, scale, minimum = split(raw.reshape(count, columns // block, block_bytes))
    codes = codes.reshape(entry.shape)
    return QuantTensor(codes, WeightCodes(bits), block, scale, minimum, group_bits)


def _header(data: NDArray[np.uint8]) -> tuple[dict[str, Any], list[_Entry], int]:
    """Metadata, tensor list, and where the tensors begin."""
    cursor = _Cursor(data)
    if cursor.take(4).tobytes() != MAGIC:
        raise _Broken("is not a GGUF file")
    if (version := cursor.unpack("I")) not in (2, 3):
        raise _Broken(f"GGUF version must be 2 or 3, got {version}")
    tensor_count, value_count = cursor.unpack("Q"), cursor.unpack("Q")
    values, entries = {}, []
    for _ in range(value_count):
        key = cursor.text()
        values[key] = cursor.value(cursor.unpack("I"))
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.unpack("I")
        if not 1 <= dimensions <= 4:
            raise _Broken(f"tensor {name}: must have 1..4 dimensions, got {dimensions}")
        shape = tuple(reversed([cursor.unpack("Q") for _ in range(dimensions)]))
        kind, offset = cursor.unpack("I"), cursor.unpack("Q")
        if kind not in gguf.GGML_QUANT_SIZES:
            raise _Broken(f"tensor {name}: unknown type {kind}")
        entries.append(_Entry(name, shape, Kind(kind), offset))
    alignment = values.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise _Broken(f"general.alignment must be a positive integer, got {alignment!r}")
    return values, entries, -(-cursor.position // alignment) * alignment


def _config(values: dict[str, Any]) -> LlamaConfig:
    if (family := values["general.architecture"]) != "llama":
        raise _Broken(f"architecture must be llama, got {family!r}")
    if (scaling := values.get("llama.rope.scaling.type", "none")) != "none":
        raise _Broken(f"RoPE scaling {scaling!r} is not supported")
    hidden, heads = values["llama.embedding_length"], values["llama.attention.head_count"]
    return LlamaConfig(
        hidden=hidden,
        layers=values["llama.block_count"],
        heads=heads,
        kv_heads=values.get("llama.attention.head_count_kv", heads),
        head_dim=values.get("llama.rope.dimension_count", hidden // heads),
        ffn=values["llama.feed_forward_length"],
        vocab=len(values["tokenizer.ggml.tokens"]),
        context=values["llama.context_length"],
        rope_theta=values.get("llama.rope.freq_base", 10000.0),
        norm_eps=values["llama.attention.layer_norm_rms_epsilon"],
        rope_pairs="interleaved",  # the converter permutes the rows of q and k to this
    )


def _tokenizer(values: dict[str, Any]) -> TextTokenizer:
    if (kind := values["tokenizer.ggml.model"]) != "gpt2":
        raise _Broken(f"tokenizer model must be gpt2, got {kind!r}")
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    control = gguf.TokenType.CONTROL
    library = byte_level_bpe(
        tokens,
        values["tokenizer.ggml.merges"],
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == control],
        values["tokenizer.ggml.pre"],
    )
    begins = values.get("tokenizer.ggml.add_bos_token", False)
    stops = (values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    return TextTokenizer(
        library,
        prefix=(values["tokenizer.ggml.bos_token_id"],) if begins else (),
        stops=frozenset(stop for stop in stops if stop is not None),
    )


def _canonical(name: str) -> str:
    """The name in `LlamaConfig.shapes` of the tensor that GGUF calls `name`."""
    stem, _, kind = name.rpartition(".")
    if kind == "weight":
        if stem.startswith("blk.") and stem.count(".") == 2:
            _, layer, role = stem.split(".")
            return f"{layer}.{_BLOCK_NAMES.get(role, role)}"
        if stem in _NAMES:
            return _NAMES[stem]
    return name


def read_gguf(path: Path) -> LanguageModel:
    """The Llama model in a GGUF file. Raises `CheckpointError`."""
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        values, entries, start = _header(data)
        config = _config(values)
        tensors = {_canonical(entry.name): _tensor(data[start:], entry) for entry in entries}
        name = values.get("general.basename", path.stem)
        return checked(path, LanguageModel(name, config, tensors, _tokenizer(values)))
    except KeyError as error:
        raise CheckpointError(path, f"has no {error.args[0]}") from None
    except UnicodeDecodeError:
        raise CheckpointError(path, "a string in its header is not UTF-8") from None
    except (_Broken, TokenizerError, OSError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(path, str(error)) from None
