"""Writes a model as a GGUF file that llama.cpp loads, its codes without a second rounding.

A file says less than `ModelConfig` does: the rest follows from its architecture. So that of the
architectures is written of which `sw.gguf_file` reads back the same config.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import TokenType
from numpy.typing import NDArray

from hw.files import replacing
from hw.spec.base import RefusedError
from sw.gguf_blocks import CODES
from sw.gguf_file import (
    BLOCK_NAMES,
    FAMILIES,
    FUSED_NAMES,
    NAMES,
    PARENT,
    ROPE_FACTORS,
    BrokenError,
    config_of,
)
from sw.linear import linear_names
from sw.model import LanguageModel, ModelConfig, Parent, dequantized, model_digest
from sw.stored import Tensor, shape_of
from sw.tensor import Coded, QuantTensor, rows_of
from sw.tokenizer import SPACE, TextTokenizer, split_name

TYPES = {
    "q4_0": Kind.Q4_0,
    "q4_1": Kind.Q4_1,
    "q8_0": Kind.Q8_0,
    "tq1_0": Kind.TQ1_0,
    "tq2_0": Kind.TQ2_0,
    "f16": Kind.F16,
    "f32": Kind.F32,
}
"""What linear layers can be written as. The embedding and the head are too, if their codes fit;
else they are half-precision numbers."""


class ExportError(RefusedError):
    """A model that GGUF has no form for."""


@dataclass(frozen=True)
class Written:
    """The file's architecture, and what became of the model's matrices, by name."""

    architecture: str
    exact: tuple[str, ...]
    """Those whose weights are the same numbers as before."""
    rounded: tuple[str, ...]
    """Those rounded to the type asked for."""
    half: tuple[str, ...]
    """Those in half precision: asked for, tables whose codes have no form, and layers whose rows
    are no whole number of blocks."""
    half_part: float
    """Of the weights of linear layers, the head not counted, those in half precision that were to
    be of another type, 0..1."""


def write_gguf(
    model: LanguageModel,
    path: Path,
    kind: Kind,
    progress: Callable[[float], None] = lambda done: None,
    source: Parent | None = None,
) -> Written:
    """Write the model to a GGUF file, whole or not at all. `progress` is told the part done, 0..1.

    The file remembers what the model was made of, or else `source`, where the model is to be found.

    Raises `ExportError` where GGUF has no form for the model or its tokenizer, and `FileError`.
    """
    tokens = _tokens(model.tokenizer, model.config.vocab)
    architecture, values = _architecture(model.config, tokens["tokens"])
    entries = [_entry(model, plan, kind) for plan in _plans(model, architecture)]
    parent = model.parent
    if parent is None and source is not None:
        parent = replace(source, digest=model_digest(model))
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        writer.add_name(model.name)
        for key, value in values.items():
            _add(writer, key, value)
        for key, value in vars(parent).items() if parent else ():
            if value is not None:
                _add(writer, f"{PARENT}.{key}", value)
        for key, value in tokens.items():
            _add(writer, f"tokenizer.ggml.{key}", value)
        for each in entries:
            size = math.prod(each.shape)
            writer.add_tensor_info(each.name, each.shape, np.dtype(np.uint8), size, each.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, each in enumerate(entries):
            writer.write_tensor_data(each.bytes())
            progress((index + 1) / len(entries))
        writer.close()
    matrices = [each for each in entries if len(each.shape) == 2]
    half = [each for each in matrices if each.kind == Kind.F16]
    layers = [name for name in linear_names(model) if name != "head"]
    sizes = {name: math.prod(shape_of(model.tensors, name)) for name in layers}
    left = 0 if kind == Kind.F16 else sum(sizes.get(name, 0) for name in _names(half))
    exact = [each for each in matrices if each.exact]
    rest = [each for each in matrices if each not in half and each not in exact]
    part = left / sum(sizes.values())
    return Written(architecture, _names(exact), _names(rest), _names(half), part)


def _names(entries: list[_Entry]) -> tuple[str, ...]:
    return tuple(name for entry in entries for name in entry.sources)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


# What a model's config is as metadata.


def _architecture(config: ModelConfig, tokens: list[str]) -> tuple[str, dict[str, Any]]:
    """An architecture, and metadata, that read back as the config. Raises `ExportError`."""
    factors = [float(np.float32(each)) for each in config.rope_factors]
    own = None if config.query_divisor == config.head_dim else config.query_divisor
    single: dict[str, Any] = {
        name: float(np.float32(value))
        for name, value in vars(config).items()
        if isinstance(value, float)
    }
    wanted = replace(config, **single | {"rope_factors": tuple(factors), "query_divisor": own})
    names = [f"blk.0.{_stem(role)}.bias" for role in config.biases]
    for architecture in FAMILIES:
        values = _metadata(config, architecture)
        stored = {
            name: float(np.float32(value)) if isinstance(value, float) else value
            for name, value in values.items()
        }
        stored |= {"general.architecture": architecture, "tokenizer.ggml.tokens": tokens}
        linear = f"{architecture}.rope.scaling.factor" in values
        try:
            found = config_of(stored, names, () if linear else factors)
        except (BrokenError, KeyError, ValueError):
            continue
        if replace(wanted, rope_pairs=wanted.rope_pairs and found.rope_pairs) == found:
            return architecture, values
    raise ExportError(f"GGUF: none of {', '.join(FAMILIES)} is such a model")


def _stem(role: str) -> str:
    return next(stem for stem, roles in BLOCK_NAMES.items() if roles == (role,))


def _metadata(config: ModelConfig, architecture: str) -> dict[str, Any]:
    values = {
        "context_length": config.context,
        "embedding_length": config.hidden,
        "block_count": config.layers,
        "feed_forward_length": config.ffn,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "attention.sliding_window": config.window,
        "attn_logit_softcapping": config.score_cap,
        "final_logit_softcapping": config.logit_cap,
    }
    if architecture != "llama" and len(set(config.rope_factors)) == 1:
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factors[0]}
    return {f"{architecture}.{key}": value for key, value in values.items() if value is not None}


# What a model's tensors are in the file.


@dataclass(frozen=True)
class _Plan:
    """A tensor of the file: the model's tensors that it holds, one below another."""

    name: str
    sources: tuple[str, ...]
    turn: Callable[[int], NDArray[np.int64]] | None = None
    """The order of so many rows, where heads' pairs are to be elsewhere."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """A tensor of the file. `shape` counts bytes along rows; `bytes` makes it, uint8."""

    name: str
    sources: tuple[str, ...]
    kind: Kind
    shape: tuple[int, ...]
    exact: bool
    bytes: Callable[[], NDArray[np.uint8]]


def _plans(model: LanguageModel, architecture: str) -> Iterator[_Plan]:
    config = model.config
    wanted = "interleaved" if architecture == "llama" else "halves"
    turn = None if config.rope_pairs == wanted else partial(_turned, config.head_dim, wanted)
    if config.rope_factors and architecture == "llama":
        yield _Plan(ROPE_FACTORS, ())
    for stem, name in NAMES.items():
        if name in model.tensors:
            yield _Plan(f"{stem}.weight", (name,))
    fused = FUSED_NAMES if architecture == "phi3" else {}
    together = {role for roles in fused.values() for role in roles}
    alone = {stem: roles for stem, roles in BLOCK_NAMES.items() if roles[0] not in together}
    for layer in range(config.layers):
        for stem, roles in (alone | fused).items():
            turning = turn if set(roles) & {"q", "k", "q_norm", "k_norm"} else None
            for suffix, kind in (("", "weight"), ("_bias", "bias")):
                names = tuple(f"{layer}.{role}{suffix}" for role in roles)
                if names[0] in model.tensors:
                    yield _Plan(f"blk.{layer}.{stem}.{kind}", names, turning)


def _turned(head_dim: int, wanted: str, rows: int) -> NDArray[np.int64]:
    """Rows of heads whose pairs are as wanted, given those whose pairs are the other way."""
    pairs = (2, head_dim // 2) if wanted == "interleaved" else (head_dim // 2, 2)
    return np.arange(rows).reshape(-1, *pairs).swapaxes(1, 2).reshape(-1)


def _entry(model: LanguageModel, plan: _Plan, kind: Kind) -> _Entry:
    """How a tensor is written."""
    if not plan.sources:
        factors = np.array(model.config.rope_factors, np.float32).view(np.uint8)
        return _Entry(plan.name, (), Kind.F32, factors.shape, True, lambda: factors)
    shapes = [shape_of(model.tensors, name) for name in plan.sources]
    codes = [model.codes(name) for name in plan.sources]
    table = plan.sources[0] in ("embedding", "head")
    chosen, exact = Kind.F32, True
    if len(shapes[0]) == 2:
        chosen, exact = _chosen(codes, shapes[0][1], kind, table)
    block, size = gguf.GGML_QUANT_SIZES[chosen]
    rows, *columns = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    shape = (rows, columns[0] // block * size) if columns else (rows * size,)

    def made() -> NDArray[np.uint8]:
        tensors = (_source(model, plan, name) for name in plan.sources)
        parts = [_bytes(tensor, chosen, exact) for tensor in tensors]
        return np.concatenate(parts).reshape(shape)

    return _Entry(plan.name, plan.sources, chosen, shape, exact, made)


def _chosen(
    codes: Sequence[Coded | None], columns: int, kind: Kind, table: bool
) -> tuple[Kind, bool]:
    """The type of a matrix, and whether it holds the same numbers. A table, of which a pass reads
    rows, may be of any type that holds its codes."""
    for each in (kind, *CODES) if table else (kind,):
        if each in CODES and all(_fits(tensor, each) for tensor in codes):
            return each, True
    if kind == Kind.F32:
        return kind, True
    whole = columns % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return (kind if whole and not table else Kind.F16), False


def _fits(tensor: Coded | None, kind: Kind) -> bool:
    return isinstance(tensor, QuantTensor) and CODES[kind].join(tensor) is not None


def _source(model: LanguageModel, plan: _Plan, name: str) -> Tensor:
    """A tensor of the model as the file orders its rows."""
    tensor = model.tensors[name]
    if not isinstance(tensor, QuantTensor):
        tensor = dequantized(tensor)
    if plan.turn is None or name.endswith((".v", ".v_bias")):
        return tensor
    rows = plan.turn(tensor.shape[0])
    return rows_of(tensor, rows) if isinstance(tensor, QuantTensor) else tensor[rows]


def _bytes(tensor: Tensor, kind: Kind, exact: bool) -> NDArray[np.uint8]:
    if exact and isinstance(tensor, QuantTensor) and kind in CODES:
        found = CODES[kind].join(tensor)
        assert found is not None  # `_fits` says so
        return found
    values = dequantized(tensor)
    return np.ascontiguousarray(gguf.quantize(values, kind)).view(np.uint8)


# What a tokenizer is in the file.


def _tokens(tokenizer: TextTokenizer, vocab: int) -> dict[str, Any]:
    """The metadata below `tokenizer.ggml`. Raises `ExportError`."""
    document = json.loads(tokenizer.library.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise ExportError(f"GGUF: its tokenizer must be BPE, got {model['type']}")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    added = {each["content"]: bool(each["special"]) for each in document["added_tokens"]}
    tokens = [f"[PAD{index}]" for index in range(vocab)]
    types = [TokenType.UNUSED] * vocab
    pieces = model.get("byte_fallback", False) or document["pre_tokenizer"] is None
    for token, index in tokenizer.library.get_vocab(with_added_tokens=True).items():
        tokens[index], types[index] = token, _type(token, added, pieces)
    found: dict[str, Any] = {"tokens": tokens, "token_type": [int(each) for each in types]}
    if pieces:
        found |= _score_pieces(document, merges, tokens)
    else:
        split = split_name(tokenizer.library)
        if split is None:
            raise ExportError("GGUF: how its tokenizer splits text has no name there")
        joined = [" ".join(pair) for pair in merges]
        found |= {"model": "gpt2", "pre": split, "merges": joined}
    return found | _ends(tokenizer)


def _type(token: str, added: Mapping[str, bool], pieces: bool) -> TokenType:
    if pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return TokenType.BYTE
    if pieces and token == "<unk>":
        return TokenType.UNKNOWN
    if token in added:
        return TokenType.CONTROL if added[token] else TokenType.USER_DEFINED
    return TokenType.NORMAL


def _score_pieces(
    document: Mapping[str, Any], merges: Sequence[tuple[str, ...]], tokens: list[str]
) -> dict[str, Any]:
    """SentencePiece's form: in place of ranked merges each token has a score, the higher the
    earlier it is made. Spaces in `tokens` become SentencePiece's."""
    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    scores = [-float(rank.get(token, len(merges))) for token in tokens]
    tokens[:] = [token.replace(" ", SPACE) for token in tokens]
    steps, split = document["normalizer"] or {}, document["pre_tokenizer"]
    named = [each["type"] for each in steps.get("normalizers", [steps] if steps else [])]
    if not set(named) <= {"Prepend", "Replace"} or (split and split["type"] != "Metaspace"):
        raise ExportError("GGUF: how its tokenizer prepares text has no form there")
    before = "Prepend" in named or bool(split and split.get("prepend_scheme") != "never")
    return {"model": "llama", "scores": scores, "add_space_prefix": before}


def _ends(tokenizer: TextTokenizer) -> dict[str, Any]:
    """What begins and ends texts."""
    prefix = tokenizer.prefix
    # A token that also begins a text is the less likely one to be meant by the end.
    stops = sorted(tokenizer.stops, key=lambda token: (token in prefix, token))
    if len(prefix) > 1 or len(stops) > 2:
        raise ExportError("GGUF: texts begin with one token and end with one of two, at most")
    found: dict[str, Any] = {"add_bos_token": bool(prefix)}
    found |= {"bos_token_id": prefix[0]} if prefix else {}
    names = ("eos_token_id", "eot_token_id")
    return found | dict(zip(names, stops, strict=False))
