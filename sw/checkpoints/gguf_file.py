"""Reads models in GGUF files. An engine can use their codes without rounding them again.

The container is read here, and not by the `gguf` package's reader, which trusts the lengths in a
file and takes seconds for a large vocabulary. Block formats that no engine multiplies directly are
dequantized by that package.
"""

from __future__ import annotations

import itertools
import math
import re
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

from evolute.sw.checkpoints.gguf_blocks import CODES
from evolute.sw.checkpoints.known_settings import KnownSettings
from evolute.sw.language_model.model import LanguageModel, ModelConfig, Parent, checked
from evolute.sw.language_model.tokenizer import (
    TextTokenizer,
    TokenizerError,
    Vocabulary,
    byte_level_bpe,
    score_bpe,
)
from evolute.sw.tensors.stored import CheckpointError, Stored, StoredTensors
from evolute.sw.tensors.tensor import QuantTensor

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
"""What divides the speed of each pair; in LongRoPE two of them, for short and long contexts."""
PARENT = "evolute.parent"
"""What metadata of our own begins with: `.name`, `.path` and `.digest` of the model's parent."""
_SHORT_FACTORS, _LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"


class BrokenError(Exception):
    """A problem with a file; the message does not contain the file's name."""


@dataclass(frozen=True)
class _Entry:
    """A tensor in the file's list; `shape` is [rows, columns]."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int


class _Cursor:
    """Reads the header. It refuses to read past the end of the file."""

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
    """The rows of the tensor `entry`, uint8 [rows, bytes]. `data` is the part of the file from the
    first tensor on."""
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
    """The tensor in some rows of `entry`; as codes if the format has them."""
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
    """The metadata, the list of tensors, and the position of the first tensor."""
    cursor = _Cursor(data)
    if cursor.take(4).tobytes() != MAGIC:
        raise BrokenError("is not a GGUF file")
    if (version := cursor.unpack("I")) not in (2, 3):
        raise BrokenError(f"GGUF version must be 2 or 3, got {version}")
    tensor_count, value_count = cursor.unpack("Q"), cursor.unpack("Q")
    values, entries = {}, []
    for _ in range(value_count):
        if (key := cursor.text()) in values:
            raise BrokenError(f"states {key!r:.80} twice")
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


_READ = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
)
"""Metadata that is read of every architecture, as llama.cpp reads it."""
_WINDOWS = ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa")
_READ_OF = {
    "phi3": ("attention.sliding_window",),
    "gemma2": (*_WINDOWS, "attn_logit_softcapping", "final_logit_softcapping"),
    "gemma3": (*_WINDOWS, "final_logit_softcapping"),
}
"""The same of some."""
_HARMLESS = ("rope.scaling.finetuned", "tensor_data_layout", "vocab_size")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
}
_ARCHITECTURES = frozenset(gguf.MODEL_ARCH_NAMES.values())


def _require_known(values: Mapping[str, Any], family: str) -> None:
    """Raise ValueError for metadata that is not read but may change what a model computes."""
    settings = KnownSettings((*_READ, *_READ_OF.get(family, ())), _HARMLESS, _NEUTRAL)
    for key, value in values.items():
        place, _, name = key.partition(".")
        if place in _ARCHITECTURES:  # what is said to another one is not known at all
            (settings if place == family else KnownSettings(())).require({name: value}, f"{place}.")
    for key, required in _WHOLE.items():
        if (value := values.get(key, required)) != required:
            raise ValueError(f"{key} must be {required!r}, got {value!r:.40}")
    if extra := [key for key in values if key.startswith("general.tensor_extra.")]:
        raise ValueError(f"{extra[0]:.80} is not supported")


_WHOLE = {
    "general.type": "model",
    "general.quantization_version": gguf.GGML_QUANT_VERSION,
    "split.count": 1,
}
"""What a file states that is a model, in the present block formats, and not one of several."""


class _Settings:
    """The metadata of a file's architecture, by keys without the architecture's name."""

    def __init__(self, values: Mapping[str, Any]):
        self.values, self.family = values, values["general.architecture"]

    def __getitem__(self, name: str) -> Any:
        return self.values[f"{self.family}.{name}"]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(f"{self.family}.{name}", default)

    def of_all(self, name: str, default: Any = None) -> Any:
        """A number that a file may state for each block, if it is the same for all of them."""
        stated = self[name] if default is None else self.get(name, default)
        if not isinstance(stated, list):
            return stated
        if len(stated) != self["block_count"] or len(set(stated)) != 1:
            raise BrokenError(f"{self.family}.{name} must be one number for all blocks")
        return stated[0]


def _local(settings: _Settings, window: int, every: int) -> dict[str, Any]:
    """All layers except every `every`-th one are local, or all if `every` is 0, unless the file
    names them."""
    layers = settings["block_count"]
    if not 0 < layers <= 1 << 16:
        raise BrokenError(f"block_count must be in 1..2^16, got {layers!r:.40}")
    pattern = settings.get("attention.sliding_window_pattern", every)
    if not isinstance(pattern, list):
        pattern = [not pattern or (layer + 1) % pattern != 0 for layer in range(layers)]
    if len(pattern) != layers:
        raise BrokenError(f"attention.sliding_window_pattern must be {layers} truth values")
    local = tuple(layer for layer, is_local in enumerate(pattern) if is_local)
    return {"window": window, "local_layers": local} if local else {}


def _gemma(settings: _Settings) -> dict[str, Any]:
    scale = float(np.float32(math.sqrt(settings["embedding_length"])))
    return {"embedding_scale": scale, "activation": "gelu_tanh"}


def _later_gemma(settings: _Settings, norms: tuple[str, ...], largest: int) -> dict[str, Any]:
    """Settings of Gemma 2 and 3. The divisor of queries is not stored. Only the largest model of
    each, which is recognized by its number of layers, has one that differs from the size of a
    head."""
    hidden, heads = settings["embedding_length"], settings.of_all("attention.head_count")
    divisor = {"query_divisor": hidden / heads} if settings["block_count"] == largest else {}
    return {**_gemma(settings), **divisor, "norms": norms}


def _gemma2(settings: _Settings) -> dict[str, Any]:
    norms = ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm")
    theta = settings.get("rope.freq_base", _THETA)
    if (local := settings.get("rope.freq_base_swa", theta)) != theta:
        raise BrokenError(f"rope.freq_base_swa must be {theta}, got {local!r:.40}")
    return {
        **_later_gemma(settings, norms, 46),
        **_local(settings, settings.get("attention.sliding_window", 4096), 2),
        "score_cap": settings.get("attn_logit_softcapping", 50.0),
        "logit_cap": settings.get("final_logit_softcapping", 30.0),
    }


def _gemma3(settings: _Settings) -> dict[str, Any]:
    norms = ("attention_norm", "q_norm", "k_norm", "attention_post_norm")
    window = settings.get("attention.sliding_window", 0)
    return {
        **_later_gemma(settings, (*norms, "ffn_norm", "ffn_post_norm"), 62),
        **(_local(settings, window, 6) if window else {}),
        "local_rope_theta": settings.get("rope.freq_base_swa", _THETA),
        "logit_cap": settings.get("final_logit_softcapping", 0.0) or None,
    }


def _phi3(settings: _Settings) -> dict[str, Any]:
    window = settings.get("attention.sliding_window", 0)
    return _local(settings, window, 0) if window else {}


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

_THETA = 10000.0


def config_of(
    values: Mapping[str, Any], names: Collection[str], factors: Sequence[float]
) -> ModelConfig:
    """The config in the metadata, the names of tensors, and the factors for the speeds of
    positions.

    Missing metadata has llama.cpp's defaults. Raises `BrokenError`, KeyError, TypeError or
    ValueError.
    """
    if (family := values["general.architecture"]) not in FAMILIES:
        raise BrokenError(f"architecture must be one of {', '.join(FAMILIES)}, got {family!r:.40}")
    _require_known(values, family)
    settings = _Settings(values)
    hidden, heads = settings["embedding_length"], settings.of_all("attention.head_count")
    turning = settings.get("rope.dimension_count")
    head_dim = settings.get("attention.key_length", hidden // heads)
    for name, stated in (
        ("rope.dimension_count", turning),
        ("attention.value_length", settings.get("attention.value_length")),
    ):
        if stated not in (None, head_dim):
            raise BrokenError(f"{name} must be {head_dim}, all of a head, got {stated!r:.40}")
    fields = {
        "hidden": hidden,
        "layers": settings["block_count"],
        "heads": heads,
        "kv_heads": settings.of_all("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": settings.of_all("feed_forward_length"),
        "vocab": len(values["tokenizer.ggml.tokens"]),
        "context": settings["context_length"],
        "rope_theta": settings.get("rope.freq_base", _THETA),
        "norm_eps": settings["attention.layer_norm_rms_epsilon"],
        "rope_pairs": "halves",
        "biases": _biases(names),
        **FAMILIES[family](settings),
    }
    divisor = fields.get("query_divisor", head_dim)
    return ModelConfig(**fields | _stretched(settings, head_dim, divisor, names, factors))


def _biases(names: Collection[str]) -> tuple[str, ...]:
    """The layers that have a bias in the first block."""
    has_bias = (f"blk.0.{stem}.bias" in names for stem in BLOCK_NAMES)
    pairs = zip(BLOCK_NAMES.values(), has_bias, strict=True)
    return tuple(role for (role,), has in pairs if has and "norm" not in role)


def _stretched(
    settings: _Settings,
    head_dim: int,
    divisor: float,
    names: Collection[str],
    factors: Sequence[float],
) -> dict[str, Any]:
    """How positions are stretched beyond the context with which a model was first trained."""
    kind = settings.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "longrope"):
        raise BrokenError(f"RoPE scaling {kind!r:.40} is not supported")
    # Without a type it is linear; the older of the two names of its factor comes second.
    factor = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 0.0))
    factor = 1.0 if kind == "none" or not factor else factor
    pairs = min(head_dim // 2, 1 << 16)
    slowed = tuple(pair_factor * factor for pair_factor in factors or (1.0,) * pairs)
    rope: dict[str, Any] = {"rope_factors": slowed if factors or factor != 1.0 else ()}
    # As in `sw.checkpoints.hugging_face`: the short factors hold in the first context, and scores
    # are scaled.
    if _LONG_FACTORS in names:
        first = settings.get("rope.scaling.original_context_length", settings["context_length"])
        rope["context"] = min(first, settings["context_length"])
    if (scale := settings.get("rope.scaling.attn_factor", 1.0)) != 1.0:
        rope["query_divisor"] = divisor / scale**4
    return rope


def _token_types(values: Mapping[str, Any]) -> list[TokenType]:
    """The kinds of tokens for a file that does not state them, such as an early one."""
    named = {
        values.get(f"tokenizer.ggml.{name}_token_id"): kind
        for name, kind in (
            ("bos", TokenType.CONTROL),
            ("eos", TokenType.CONTROL),
            ("eot", TokenType.CONTROL),
            ("padding", TokenType.CONTROL),
            ("unknown", TokenType.UNKNOWN),
        )
    }
    byte = re.compile("<0x[0-9A-F]{2}>")
    return [
        named.get(index, TokenType.BYTE if byte.fullmatch(token) else TokenType.NORMAL)
        for index, token in enumerate(values["tokenizer.ggml.tokens"])
    ]


def _tokenizer(values: dict[str, Any]) -> TextTokenizer:
    def get(name: str, default: Any = None) -> Any:
        return values.get(f"tokenizer.ggml.{name}", default)

    kind, tokens = values["tokenizer.ggml.model"], values["tokenizer.ggml.tokens"]
    types = list(zip(tokens, get("token_type") or _token_types(values), strict=True))
    unseen = (TokenType.CONTROL, TokenType.UNKNOWN) if kind == "llama" else (TokenType.CONTROL,)
    vocabulary = Vocabulary(
        tokens,
        specials=[token for token, type in types if type in unseen],
        added=[token for token, type in types if type == TokenType.USER_DEFINED],
    )
    if kind == "gpt2":
        split = get("pre", "default")
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
    stops = (get(f"{name}_token_id") for name in ("eos", "eot", "eom"))
    return TextTokenizer(
        library,
        prefix=(values["tokenizer.ggml.bos_token_id"],) if begins else (),
        stops=frozenset(stop for stop in stops if stop is not None),
    )


def _roles(entry: _Entry, family: str) -> tuple[str, ...]:
    """The names of a tensor in `ModelConfig.shapes`; several if it holds several matrices one after
    another."""
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


def stretches(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors that stretch positions in an architecture. The first one is for the context with
    which the model was first trained; only that context is ever run."""
    family = values["general.architecture"]
    long = values.get(f"{family}.rope.scaling.type") == "longrope"
    if family == "phi3" or (family == "llama" and long):
        return (_SHORT_FACTORS, _LONG_FACTORS)
    return (ROPE_FACTORS,) if family == "llama" else ()


def read_gguf(path: Path) -> LanguageModel:
    """The model in a GGUF file. Tensors are read when they are used. Raises `CheckpointError`."""
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        values, entries, start = _header(data)
        listed = {entry.name: entry for entry in entries}
        if len(listed) != len(entries):
            raise BrokenError("names a tensor twice")
        _require_apart(entries)
        family = values["general.architecture"]
        stretching = stretches(values)
        factors = next((listed[name] for name in stretching if name in listed), None)
        speeds = [] if factors is None else _floats(_raw(data[start:], factors), factors.kind)[0]
        config = config_of(values, listed.keys(), [float(speed) for speed in speeds])
        listed = {name: entry for name, entry in listed.items() if name not in stretching}
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
    """The model from which this one was converted; None if the file does not state it."""
    facts = {name: values.get(f"{PARENT}.{name}") for name in ("name", "path", "digest")}
    for name, fact in facts.items():
        if not (fact is None or isinstance(fact, str)):
            raise BrokenError(f"{PARENT}.{name} must be text, got {fact!r:.40}")
    name = facts.pop("name")
    return None if name is None else Parent(name, **facts)


def _require_apart(entries: Iterable[_Entry]) -> None:
    """Raise `BrokenError` if tensors overlap."""
    position = 0
    for entry in sorted(entries, key=lambda tensor: tensor.offset):
        if entry.offset < position:
            raise BrokenError(f"tensor {entry.name}: overlaps another")
        block, block_bytes = gguf.GGML_QUANT_SIZES[entry.kind]
        position = entry.offset + math.prod(entry.shape) // block * block_bytes
