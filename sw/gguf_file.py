"""Models in GGUF files, whose codes feed an engine without a second rounding.

The container is read here rather than by the `gguf` package's reader, which trusts the lengths a
file states and takes seconds for a large vocabulary; the block formats that no engine multiplies
directly are dequantized by that package.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as ValueKind
from gguf import TokenType
from numpy.typing import NDArray

from sw.gguf_blocks import CODES
from sw.model import LanguageModel, ModelConfig, Parent, checked
from sw.stored import CheckpointError, Stored, StoredTensors
from sw.tensor import QuantTensor
from sw.tokenizer import TextTokenizer, TokenizerError, Vocabulary, byte_level_bpe, score_bpe

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

NAMES = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}
BLOCK_NAMES = {
    "attn_norm": ("attention_norm",),
    "attn_q": ("q",),
    "attn_k": ("k",),
    "attn_v": ("v",),
    "attn_q_norm": ("q_norm",),
    "attn_k_norm": ("k_norm",),
    "attn_output": ("o",),
    "post_attention_norm": ("attention_post_norm",),
    "ffn_norm": ("ffn_norm",),
    "ffn_gate": ("gate",),
    "ffn_up": ("up",),
    "ffn_down": ("down",),
    "post_ffw_norm": ("ffn_post_norm",),
}
FUSED_NAMES = {"attn_qkv": ("q", "k", "v"), "ffn_up": ("gate", "up")}
ROPE_FACTORS = "rope_freqs.weight"
"""What divides the speed of each pair; in Phi-3 two of them, for short and long contexts."""
PARENT = "evolute.parent"
"""What metadata of our own begins with: `.name`, `.path` and `.digest` of the model's parent."""
_SHORT_FACTORS, _LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"


class BrokenError(Exception):
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
            raise BrokenError(
                f"ends within its header, at byte {self.position} of {len(self.data)}"
            )
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
            raise BrokenError(f"an array of {count} strings does not fit into the file")
        return [self.text() for _ in range(count)]

    def scalars(self, kind: int, count: int) -> NDArray:
        if kind not in _SCALARS:
            raise BrokenError(f"metadata of type {kind} is not supported")
        dtype = np.dtype(_SCALARS[ValueKind(kind)])
        return self.take(count * dtype.itemsize).view(dtype)


def _raw(data: NDArray[np.uint8], entry: _Entry) -> NDArray[np.uint8]:
    """The rows of the tensor at `entry`, uint8 [rows, bytes]. `data` begins at the tensors."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[entry.kind]
    *rows, columns = entry.shape
    count = math.prod(rows)
    size = count * (columns // block) * block_bytes
    if columns % block or not columns:
        raise BrokenError(f"tensor {entry.name}: rows of {columns} are not whole blocks of {block}")
    if entry.offset + size > len(data):
        raise BrokenError(f"tensor {entry.name}: ends beyond the file")
    return data[entry.offset : entry.offset + size].reshape(count, size // max(1, count))


def _stored(raw: NDArray[np.uint8], entry: _Entry, shape: tuple[int, ...]) -> Stored:
    """The tensor in some rows of `entry`, as codes if the format has them."""
    blocks = CODES.get(entry.kind)
    if blocks is None or len(shape) != 2:
        return Stored(shape, lambda: _floats(raw, entry.kind).reshape(shape))
    block_bytes = gguf.GGML_QUANT_SIZES[entry.kind][1]

    def read() -> QuantTensor:
        tensor = blocks.split(raw.reshape(len(raw), -1, block_bytes))
        if int(tensor.codes.max(initial=0)) >= blocks.format.levels:
            raise ValueError(f"holds a code that is not {blocks.format.name}")
        return tensor

    return Stored(shape, read, coded=True)


def _floats(raw: NDArray[np.uint8], kind: Kind) -> NDArray[np.float32]:
    if kind == Kind.F32:
        return raw.view("<f4").astype(np.float32, copy=False)
    try:
        return np.array(gguf.dequantize(raw, kind), np.float32)
    except NotImplementedError:
        raise ValueError(f"type {kind.name} is not supported") from None


def _header(data: NDArray[np.uint8]) -> tuple[dict[str, Any], list[_Entry], int]:
    """Metadata, tensor list, and where the tensors begin."""
    cursor = _Cursor(data)
    if cursor.take(4).tobytes() != MAGIC:
        raise BrokenError("is not a GGUF file")
    if (version := cursor.unpack("I")) not in (2, 3):
        raise BrokenError(f"GGUF version must be 2 or 3, got {version}")
    tensor_count, value_count = cursor.unpack("Q"), cursor.unpack("Q")
    values, entries = {}, []
    for _ in range(value_count):
        key = cursor.text()
        values[key] = cursor.value(cursor.unpack("I"))
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.unpack("I")
        if not 1 <= dimensions <= 4:
            raise BrokenError(f"tensor {name}: must have 1..4 dimensions, got {dimensions}")
        shape = tuple(reversed([cursor.unpack("Q") for _ in range(dimensions)]))
        kind, offset = cursor.unpack("I"), cursor.unpack("Q")
        if kind not in gguf.GGML_QUANT_SIZES:
            raise BrokenError(f"tensor {name}: unknown type {kind}")
        entries.append(_Entry(name, shape, Kind(kind), offset))
    alignment = values.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise BrokenError(f"general.alignment must be a positive integer, got {alignment!r}")
    return values, entries, -(-cursor.position // alignment) * alignment


class _Settings:
    """The metadata of a file's architecture, whose keys begin with its name."""

    def __init__(self, values: Mapping[str, Any]):
        self.values, self.family = values, values["general.architecture"]

    def __getitem__(self, name: str) -> Any:
        return self.values[f"{self.family}.{name}"]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(f"{self.family}.{name}", default)


def _local(settings: _Settings, every: int) -> dict[str, Any]:
    """All layers but each `every`-th are local, if there is a window; all, where it is 0."""
    window, layers = settings.get("attention.sliding_window"), settings["block_count"]
    if not window or not 0 < layers <= 1 << 16:
        return {}
    local = (layer for layer in range(layers) if not every or (layer + 1) % every)
    return {"window": window, "local_layers": tuple(local)}


def _gemma(settings: _Settings) -> dict[str, Any]:
    scale = float(np.float32(math.sqrt(settings["embedding_length"])))
    return {"embedding_scale": scale, "activation": "gelu_tanh"}


def _later_gemma(settings: _Settings, norms: tuple[str, ...], largest: int) -> dict[str, Any]:
    """Gemma 2 or 3. What queries are divided by is not stored; only the largest of each, known by
    its number of layers, does not divide by the size of a head."""
    hidden, heads = settings["embedding_length"], settings["attention.head_count"]
    other = {"query_divisor": hidden / heads} if settings["block_count"] == largest else {}
    return {**_gemma(settings), **other, "norms": norms}


def _gemma2(settings: _Settings) -> dict[str, Any]:
    norms = ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm")
    return {
        **_later_gemma(settings, norms, 46),
        **_local(settings, 2),
        "score_cap": settings.get("attn_logit_softcapping", 50.0),
        "logit_cap": settings.get("final_logit_softcapping", 30.0),
    }


def _gemma3(settings: _Settings) -> dict[str, Any]:
    norms = ("attention_norm", "q_norm", "k_norm", "attention_post_norm")
    return {
        **_later_gemma(settings, (*norms, "ffn_norm", "ffn_post_norm"), 62),
        **_local(settings, 6),
        "local_rope_theta": 10000.0,
        "rope_theta": settings.get("rope.freq_base", 1e6),
    }


def _phi3(settings: _Settings) -> dict[str, Any]:
    return _local(settings, 0)


def _qwen3(settings: _Settings) -> dict[str, Any]:
    return {"norms": ("attention_norm", "q_norm", "k_norm", "ffn_norm")}


FAMILIES: dict[str, Callable[[_Settings], dict[str, Any]]] = {
    "llama": lambda settings: {"rope_pairs": "interleaved"},  # the converter permutes q's, k's rows
    "qwen2": lambda settings: {},
    "qwen3": _qwen3,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}
"""What of `ModelConfig` an architecture has unlike a Llama whose heads turn in halves."""


def config_of(
    values: Mapping[str, Any], names: Collection[str], factors: Sequence[float]
) -> ModelConfig:
    """The config that metadata, tensors' names and factors of positions' speeds stand for.

    Raises `BrokenError`, KeyError, TypeError or ValueError.
    """
    if (family := values["general.architecture"]) not in FAMILIES:
        raise BrokenError(f"architecture must be one of {', '.join(FAMILIES)}, got {family!r:.40}")
    settings = _Settings(values)
    hidden, heads = settings["embedding_length"], settings["attention.head_count"]
    turning = settings.get("rope.dimension_count")
    head_dim = settings.get("attention.key_length", turning or hidden // heads)
    if turning not in (None, head_dim):
        raise BrokenError(
            f"rope.dimension_count must be {head_dim}, all of a head, got {turning!r:.40}"
        )
    fields = {
        "hidden": hidden,
        "layers": settings["block_count"],
        "heads": heads,
        "kv_heads": settings.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": settings["feed_forward_length"],
        "vocab": len(values["tokenizer.ggml.tokens"]),
        "context": settings["context_length"],
        "rope_theta": settings.get("rope.freq_base", 10000.0),
        "norm_eps": settings["attention.layer_norm_rms_epsilon"],
        "rope_pairs": "halves",
        "rope_factors": tuple(factors),
        "biases": _biases(names),
        **FAMILIES[family](settings),
    }
    return ModelConfig(**fields | _stretched(settings, head_dim))


def _biases(names: Collection[str]) -> tuple[str, ...]:
    """The layers that have a bias, to judge by the first block."""
    found = (f"blk.0.{stem}.bias" in names for stem in BLOCK_NAMES)
    pairs = zip(BLOCK_NAMES.values(), found, strict=True)
    return tuple(role for (role,), has in pairs if has and "norm" not in role)


def _stretched(settings: _Settings, head_dim: int) -> dict[str, Any]:
    """How positions are stretched beyond the context that a model was first trained with."""
    scaling = settings.get("rope.scaling.type", "none")
    if scaling == "linear":
        factor = settings["rope.scaling.factor"]
        return {"rope_factors": (factor,) * min(head_dim // 2, 1 << 16)}
    if scaling not in ("none", "longrope"):
        raise BrokenError(f"RoPE scaling {scaling!r:.40} is not supported")
    if (scale := settings.get("rope.scaling.attn_factor", 1.0)) == 1.0:
        return {}
    # As in `sw.hugging_face`: the short factors hold in the first context, and scores are scaled.
    return {
        "context": settings["rope.scaling.original_context_length"],
        "query_divisor": head_dim / scale**4,
    }


def _tokenizer(values: dict[str, Any]) -> TextTokenizer:
    def get(name: str, default: Any = None) -> Any:
        return values.get(f"tokenizer.ggml.{name}", default)

    kind, tokens = values["tokenizer.ggml.model"], values["tokenizer.ggml.tokens"]
    types = list(zip(tokens, values["tokenizer.ggml.token_type"], strict=True))
    unseen = (TokenType.CONTROL, TokenType.UNKNOWN) if kind == "llama" else (TokenType.CONTROL,)
    vocabulary = Vocabulary(
        tokens,
        specials=[token for token, type in types if type in unseen],
        added=[token for token, type in types if type == TokenType.USER_DEFINED],
    )
    if kind == "gpt2":
        split = values["tokenizer.ggml.pre"]
        library = byte_level_bpe(vocabulary, values["tokenizer.ggml.merges"], split)
        begins = get("add_bos_token", split == "llama-bpe")
    elif kind == "llama":
        text = (TokenType.NORMAL, TokenType.USER_DEFINED)
        pieces = [index for index, (_, type) in enumerate(types) if type in text]
        scores = values["tokenizer.ggml.scores"]
        if len(scores) != len(tokens):
            raise BrokenError(f"{len(tokens)} tokens but {len(scores)} scores")
        before = get("add_space_prefix", True)
        library = score_bpe(vocabulary, scores, pieces, space_before=before)
        begins = get("add_bos_token", True)
    else:
        raise BrokenError(f"tokenizer model must be gpt2 or llama, got {kind!r:.40}")
    stops = (get(f"{name}_token_id") for name in ("eos", "eot"))
    return TextTokenizer(
        library,
        prefix=(values["tokenizer.ggml.bos_token_id"],) if begins else (),
        stops=frozenset(stop for stop in stops if stop is not None),
    )


def _roles(entry: _Entry, family: str) -> tuple[str, ...]:
    """What the tensor is in `ModelConfig.shapes`; several, if it holds them one after another."""
    stem, _, kind = entry.name.rpartition(".")
    if kind in ("weight", "bias"):
        suffix = "_bias" if kind == "bias" else ""
        if stem.startswith("blk.") and stem.count(".") == 2:
            _, layer, name = stem.split(".")
            fused = FUSED_NAMES if family == "phi3" else {}
            roles = fused.get(name) or BLOCK_NAMES.get(name, (name,))
            return tuple(f"{layer}.{role}{suffix}" for role in roles)
        if stem in NAMES:
            return (f"{NAMES[stem]}{suffix}",)
    return (entry.name,)


def _tensors(
    data: NDArray[np.uint8], entries: Iterable[_Entry], config: ModelConfig, family: str
) -> Iterator[tuple[str, Stored]]:
    rows = {role: shape[0] for role, shape in config.layer_linears().items()}
    for entry in entries:
        raw, roles = _raw(data, entry), _roles(entry, family)
        cuts = itertools.accumulate(rows[role.rpartition(".")[2]] for role in roles[:-1])
        for role, part in zip(roles, np.split(raw, list(cuts)), strict=True):
            shape = entry.shape if len(roles) == 1 else (len(part), *entry.shape[1:])
            yield role, _stored(part, entry, shape)


def read_gguf(path: Path) -> LanguageModel:
    """The model in a GGUF file, its tensors not yet read. Raises `CheckpointError`."""
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        values, entries, start = _header(data)
        listed = {entry.name: entry for entry in entries}
        if len(listed) != len(entries):
            raise BrokenError("names a tensor twice")
        _require_apart(entries)
        factors = listed.pop(ROPE_FACTORS, None) or listed.pop(_SHORT_FACTORS, None)
        listed.pop(_LONG_FACTORS, None)
        speeds = [] if factors is None else _floats(_raw(data[start:], factors), factors.kind)[0]
        config = config_of(values, listed.keys(), [float(speed) for speed in speeds])
        family = values["general.architecture"]
        stored = dict(_tensors(data[start:], listed.values(), config, family))
        name = values.get("general.basename", path.stem)
        tensors, parent = StoredTensors(path, stored), _parent(values)
        return checked(path, LanguageModel(name, config, tensors, _tokenizer(values), parent))
    except KeyError as error:
        raise CheckpointError(path, f"has no {error.args[0]}") from None
    except UnicodeDecodeError:
        raise CheckpointError(path, "a string in its header is not UTF-8") from None
    except (BrokenError, TokenizerError, OSError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(path, str(error)) from None


def _parent(values: Mapping[str, Any]) -> Parent | None:
    """What the model was converted from; None where the file does not say."""
    facts = {name: values.get(f"{PARENT}.{name}") for name in ("name", "path", "digest")}
    for name, fact in facts.items():
        if not (fact is None or isinstance(fact, str)):
            raise BrokenError(f"{PARENT}.{name} must be text, got {fact!r:.40}")
    name = facts.pop("name")
    return None if name is None else Parent(name, **facts)


def _require_apart(entries: Iterable[_Entry]) -> None:
    """Raise `BrokenError` where tensors overlap."""
    position = 0
    for entry in sorted(entries, key=lambda each: each.offset):
        if entry.offset < position:
            raise BrokenError(f"tensor {entry.name}: overlaps another")
        block, block_bytes = gguf.GGML_QUANT_SIZES[entry.kind]
        position = entry.offset + math.prod(entry.shape) // block * block_bytes
