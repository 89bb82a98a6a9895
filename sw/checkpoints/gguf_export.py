"""Writes a model as a GGUF file that llama.cpp loads, without rounding its codes again.

A GGUF file states less than `ModelConfig`: the rest follows from its architecture. So an
architecture is chosen for which `sw.checkpoints.gguf_file` reads back the same config, and for
which llama.cpp is known to compute the same. Features that llama.cpp ignores for an architecture,
such as windows, are refused.
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

from evolute.support.errors import RefusedError
from evolute.support.files import replacing
from evolute.sw.checkpoints.gguf_blocks import CODES
from evolute.sw.checkpoints.gguf_file import (
    BLOCK_NAMES,
    NAMES,
    PARENT,
    ROPE_FACTORS,
    BrokenError,
    config_of,
    stretches,
)
from evolute.sw.language_model.linear import linear_names
from evolute.sw.language_model.model import (
    LanguageModel,
    ModelConfig,
    Parent,
    dequantized,
    model_digest,
)
from evolute.sw.language_model.tokenizer import SPACE, TextTokenizer, split_name
from evolute.sw.tensors.stored import Tensor, shape_of
from evolute.sw.tensors.tensor import Coded, QuantTensor, rows_of

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
    """A model that cannot be stored in GGUF."""


@dataclass(frozen=True)
class Written:
    """The architecture of the file, and how the model's matrices were stored, by name."""

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
    """Write the model to a GGUF file, completely or not at all.

    `progress` is called with the share that is done, 0 to 1. The file states the model from which
    this one was made, or else `source`, where this one can be found. Raises `ExportError` if GGUF
    has no form for the model or its tokenizer, and `FileError`.
    """
    tokens = _tokens(model.tokenizer, model.config.vocab)
    model = replace(model, config=_without_idle_window(model.config))
    tied = "head" not in model.tensors
    architecture, values = _architecture(model.config, tokens["tokens"], tied)
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
        for entry in entries:
            size = math.prod(entry.shape)
            writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.uint8), size, entry.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, entry in enumerate(entries):
            writer.write_tensor_data(entry.bytes())
            progress((index + 1) / len(entries))
        writer.close()
    matrices = [entry for entry in entries if len(entry.shape) == 2]
    half = [matrix for matrix in matrices if matrix.kind == Kind.F16]
    layers = [name for name in linear_names(model) if name != "head"]
    sizes = {name: math.prod(shape_of(model.tensors, name)) for name in layers}
    left = 0 if kind == Kind.F16 else sum(sizes.get(name, 0) for name in _names(half))
    exact = [matrix for matrix in matrices if matrix.exact]
    rest = [matrix for matrix in matrices if matrix not in half and matrix not in exact]
    part = left / sum(sizes.values())
    return Written(architecture, _names(exact), _names(rest), _names(half), part)


def _names(entries: list[_Entry]) -> tuple[str, ...]:
    return tuple(entry.source for entry in entries if entry.source is not None)


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


_ANY_BIAS = ("q", "k", "v", "o", "gate", "up", "down")
_BIASES_OF = {"llama": _ANY_BIAS}
"""The layers whose biases llama.cpp adds in an architecture; in the others those of q, k and v."""
_TIED_ONLY = ("gemma", "gemma2")
"""Architectures of which llama.cpp refuses files that hold a head."""
_WRITTEN = ("llama", "qwen3", "gemma", "gemma2", "gemma3")
"""Architectures that are written. A Qwen2 is a Llama with biases, and so is a Phi-3 without a
window; llama.cpp leaves out the window of one that has it."""


def _without_idle_window(config: ModelConfig) -> ModelConfig:
    """The same model without a window as long as its context, which has no effect."""
    idle = config.window is not None and config.window >= config.context
    if not idle or config.local_rope_theta is not None:
        return config
    return replace(config, window=None, local_layers=())


def _architecture(config: ModelConfig, tokens: list[str], tied: bool) -> tuple[str, dict[str, Any]]:
    """An architecture and metadata that read back as the config, and for which llama.cpp computes
    the same. Raises `ExportError`."""
    factors = [float(np.float32(factor)) for factor in config.rope_factors]
    divisor = None if config.query_divisor == config.head_dim else config.query_divisor
    single: dict[str, Any] = {
        name: float(np.float32(value))
        for name, value in vars(config).items()
        if isinstance(value, float)
    }
    written = replace(config, **single | {"rope_factors": tuple(factors), "query_divisor": divisor})
    for architecture in _WRITTEN:
        if _known_to_llama_cpp(config, architecture, tied):
            values = _metadata(config, architecture)
            if _reads_back(written, architecture, values, tokens, factors):
                return architecture, values
    reason = ""
    if not tied and config.embedding_scale != 1:
        reason = "; llama.cpp takes the embedding for the head in Gemma 1 and 2"
    elif config.window is not None:
        reason = f"; llama.cpp has a window, here of {config.window} tokens, in Gemma 2 and 3 only"
    raise ExportError(f"GGUF: none of {', '.join(_WRITTEN)} is such a model{reason}")


def _known_to_llama_cpp(config: ModelConfig, architecture: str, tied: bool) -> bool:
    """Whether llama.cpp supports everything in the model for this architecture."""
    biases = _BIASES_OF.get(architecture, ("q", "k", "v"))
    return set(config.biases) <= set(biases) and (tied or architecture not in _TIED_ONLY)


def _reads_back(
    config: ModelConfig,
    architecture: str,
    values: Mapping[str, Any],
    tokens: list[str],
    factors: list[float],
) -> bool:
    """Whether metadata reads back as the config; only the order of the pairs in heads may
    differ."""
    stored = {
        name: float(np.float32(value)) if isinstance(value, float) else value
        for name, value in values.items()
    }
    stored |= {"general.architecture": architecture, "tokenizer.ggml.tokens": tokens}
    names = [f"blk.0.{_stem(role)}.bias" for role in config.biases]
    stored_factors = factors if ROPE_FACTORS in stretches(stored) else ()
    try:
        read_config = config_of(stored, names, stored_factors)
    except (BrokenError, KeyError, ValueError):
        return False
    return replace(config, rope_pairs=config.rope_pairs and read_config.rope_pairs) == read_config


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
    """A tensor of the file and the name of the model's tensor in it. `source` is None for the
    factors that stretch positions."""

    name: str
    source: str | None
    turn: Callable[[int], NDArray[np.int64]] | None = None
    """Gives, for a number of rows, the order in which the file has them; None for the same order.
    It is for rows whose pairs, which rotary positions turn together, lie elsewhere in the file."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """A tensor of the file. The last axis of `shape` counts bytes; `bytes` makes the data,
    uint8."""

    name: str
    source: str | None
    kind: Kind
    shape: tuple[int, ...]
    exact: bool
    bytes: Callable[[], NDArray[np.uint8]]


def _plans(model: LanguageModel, architecture: str) -> Iterator[_Plan]:
    config = model.config
    pairs = "interleaved" if architecture == "llama" else "halves"
    turn = None if config.rope_pairs == pairs else partial(_turned, config.head_dim, pairs)
    if config.rope_factors and architecture == "llama":
        yield _Plan(ROPE_FACTORS, None)
    for stem, name in NAMES.items():
        if name in model.tensors:
            yield _Plan(f"{stem}.weight", name)
    for layer in range(config.layers):
        for stem, (role,) in BLOCK_NAMES.items():
            turning = turn if role in ("q", "k", "q_norm", "k_norm") else None
            for suffix, kind in (("", "weight"), ("_bias", "bias")):
                name = f"{layer}.{role}{suffix}"
                if name in model.tensors:
                    yield _Plan(f"blk.{layer}.{stem}.{kind}", name, turning)


def _turned(head_dim: int, pairs: str, rows: int) -> NDArray[np.int64]:
    """The order of the rows of heads that gives the pairs `pairs`, from rows with the pairs of the
    other kind."""
    pair_shape = (2, head_dim // 2) if pairs == "interleaved" else (head_dim // 2, 2)
    return np.arange(rows).reshape(-1, *pair_shape).swapaxes(1, 2).reshape(-1)


def _entry(model: LanguageModel, plan: _Plan, kind: Kind) -> _Entry:
    """How a tensor is written, see `_Entry`."""
    source = plan.source
    if source is None:
        factors = np.array(model.config.rope_factors, np.float32).view(np.uint8)
        return _Entry(plan.name, None, Kind.F32, factors.shape, True, lambda: factors)
    rows, *columns = shape_of(model.tensors, source)
    chosen, exact = Kind.F32, True
    if columns:
        table = source in ("embedding", "head")
        chosen, exact = _chosen(model.codes(source), columns[0], kind, table)
    block, size = gguf.GGML_QUANT_SIZES[chosen]
    shape = (rows, columns[0] // block * size) if columns else (rows * size,)

    def made() -> NDArray[np.uint8]:
        return _bytes(_ordered(model, source, plan.turn), chosen, exact).reshape(shape)

    return _Entry(plan.name, source, chosen, shape, exact, made)


def _chosen(codes: Coded | None, columns: int, kind: Kind, table: bool) -> tuple[Kind, bool]:
    """The GGUF type of a matrix, and whether it stores the same numbers. A table, from which a pass
    only reads rows, may have any type that holds its codes."""
    for candidate in (kind, *CODES) if table else (kind,):
        if candidate in CODES and _fits(codes, candidate):
            return candidate, True
    if kind == Kind.F32:
        return kind, True
    whole_blocks = columns % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return (kind if whole_blocks and not table else Kind.F16), False


def _fits(tensor: Coded | None, kind: Kind) -> bool:
    return isinstance(tensor, QuantTensor) and CODES[kind].join(tensor) is not None


def _ordered(
    model: LanguageModel, name: str, turn: Callable[[int], NDArray[np.int64]] | None
) -> Tensor:
    """A tensor of the model with its rows in the order of the file."""
    tensor = model.tensors[name]
    if not isinstance(tensor, QuantTensor):
        tensor = dequantized(tensor)
    if turn is None:
        return tensor
    rows = turn(tensor.shape[0])
    return rows_of(tensor, rows) if isinstance(tensor, QuantTensor) else tensor[rows]


def _bytes(tensor: Tensor, kind: Kind, exact: bool) -> NDArray[np.uint8]:
    if exact and isinstance(tensor, QuantTensor) and kind in CODES:
        blocks = CODES[kind].join(tensor)
        assert blocks is not None  # `_fits` says so
        return blocks
    values = dequantized(tensor)
    return np.ascontiguousarray(gguf.quantize(values, kind)).view(np.uint8)


# What a tokenizer is in the file.


def _tokens(tokenizer: TextTokenizer, vocab: int) -> dict[str, Any]:
    """The metadata `tokenizer.ggml.*`. Raises `ExportError`."""
    document = json.loads(tokenizer.library.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise ExportError(f"GGUF: its tokenizer must be BPE, got {model['type']}")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    added = {token["content"]: bool(token["special"]) for token in document["added_tokens"]}
    tokens = [f"[PAD{index}]" for index in range(vocab)]
    types = [TokenType.UNUSED] * vocab
    pieces = model.get("byte_fallback", False) or document["pre_tokenizer"] is None
    for token, index in tokenizer.library.get_vocab(with_added_tokens=True).items():
        tokens[index], types[index] = token, _type(token, added, pieces)
    settings: dict[str, Any] = {
        "tokens": tokens,
        "token_type": [int(token_type) for token_type in types],
    }
    if pieces:
        settings |= _score_pieces(document, merges, tokens)
    else:
        split = split_name(tokenizer.library)
        if split is None:
            raise ExportError("GGUF: how its tokenizer splits text has no name there")
        joined = [" ".join(pair) for pair in merges]
        settings |= {"model": "gpt2", "pre": split, "merges": joined}
    return settings | _ends(tokenizer)


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
    """The vocabulary in SentencePiece's form: instead of ranked merges each token has a score,
    which is higher for tokens that are made earlier. Spaces in `tokens` become SentencePiece's."""
    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    scores = [-float(rank.get(token, len(merges))) for token in tokens]
    tokens[:] = [token.replace(" ", SPACE) for token in tokens]
    steps, split = document["normalizer"] or {}, document["pre_tokenizer"]
    named = [step["type"] for step in steps.get("normalizers", [steps] if steps else [])]
    if not set(named) <= {"Prepend", "Replace"} or (split and split["type"] != "Metaspace"):
        raise ExportError("GGUF: how its tokenizer prepares text has no form there")
    before = "Prepend" in named or bool(split and split.get("prepend_scheme") != "never")
    return {"model": "llama", "scores": scores, "add_space_prefix": before}


def _ends(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The metadata about tokens that begin and end a text."""
    prefix = tokenizer.prefix
    # A token that also begins a text is the less likely one to be meant by the end.
    stops = sorted(tokenizer.stops, key=lambda token: (token in prefix, token))
    if len(prefix) > 1 or len(stops) > 3:
        raise ExportError("GGUF: texts begin with one token and end with one of three, at most")
    settings: dict[str, Any] = {"add_bos_token": bool(prefix)}
    settings |= {"bos_token_id": prefix[0]} if prefix else {}
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    return settings | dict(zip(names, stops, strict=False))
