"""Hugging Face folders: config.json, safetensors in one file or in shards, and tokenizer.json.

What a family calls its settings and tensors, and how it differs from Llama, is said here once; the
forward pass knows no families.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sw import bitnet_file, gptq_file, vptq_file
from sw.model import Activation, LanguageModel, ModelConfig, checked
from sw.safetensors_file import Raw, member, read_folder, read_json
from sw.stored import CheckpointError, Stored, StoredTensors, Tensor
from sw.tensor import Coded, rows_of
from sw.tokenizer_folder import read_tokenizer

CONFIG = "config.json"

MODULES = {
    "input_layernorm": ("attention_norm",),
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.o_proj": ("o",),
    "post_attention_layernorm": ("ffn_norm",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.down_proj": ("down",),
}
"""What the modules of a Llama block are in `ModelConfig.shapes`."""
OUTSIDE = {"model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head"}
"""The same of modules outside the blocks."""
BLOCKS = "model.layers."

_HEAD_NORMS = {"self_attn.q_norm": ("q_norm",), "self_attn.k_norm": ("k_norm",)}
_SUB_NORMS = {"self_attn.attn_sub_norm": ("o_norm",), "mlp.ffn_sub_norm": ("down_norm",)}
_POST_NORMS = {
    "post_attention_layernorm": ("attention_post_norm",),
    "pre_feedforward_layernorm": ("ffn_norm",),
    "post_feedforward_layernorm": ("ffn_post_norm",),
}
_FUSED = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
_OPT_MODULES = {
    "self_attn_layer_norm": ("attention_norm",),
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.out_proj": ("o",),
    "final_layer_norm": ("ffn_norm",),
    "fc1": ("up",),
    "fc2": ("down",),
}
_OPT_OUTSIDE = {
    "model.decoder.embed_tokens": "embedding",
    "model.decoder.embed_positions": "positions",
    "model.decoder.final_layer_norm": "norm",
    "lm_head": "head",
}
_OPT_UNUSED_POSITIONS = 2
"""Rows of the table of positions before that of the first token."""

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_MOST_LAYERS = 1 << 16

Settings = Mapping[str, Any]


def _activation(name: Any) -> Activation:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r:.40}")
    return _ACTIVATIONS[name]


def _same(settings: Settings, **required: Any) -> None:
    """Raise `ValueError` where a setting is not the only value that the forward pass implements."""
    for name, value in required.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r:.40}")


def _rope(settings: Settings, theta: float = 10000.0) -> dict[str, Any]:
    """How tokens' positions turn queries and keys, as newer or older writers state it."""
    rope = settings.get("rope_parameters") or {
        "rope_theta": settings.get("rope_theta", theta),
        **(settings.get("rope_scaling") or {}),
    }
    theta = float(rope.get("rope_theta", settings.get("rope_theta", theta)))
    _same(rope, partial_rotary_factor=1.0)
    _same(settings, partial_rotary_factor=1.0)
    heads = settings["num_attention_heads"]
    head_dim = settings.get("head_dim") or settings["hidden_size"] // heads
    common = {"rope_theta": theta, "rope_pairs": "halves", "head_dim": head_dim}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return common
    pairs = range(min(head_dim, 1 << 16) // 2)
    if kind == "linear":
        return common | {"rope_factors": (float(rope["factor"]),) * len(pairs)}
    if kind == "llama3":
        speeds = [theta ** (-2.0 * pair / head_dim) for pair in pairs]
        return common | {"rope_factors": tuple(_llama3_factors(speeds, rope))}
    if kind in ("longrope", "su"):
        return common | _longrope(settings, rope, head_dim)
    raise ValueError(f"rope_type must be default, linear, llama3 or longrope, got {kind!r:.40}")


def _llama3_factors(speeds: Sequence[float], rope: Settings) -> Iterator[float]:
    """Slow pairs are slowed by `factor`, fast ones not, those between in part."""
    factor, low, high, context = (
        float(rope[name])
        for name in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    for speed in speeds:
        turns = context * speed / (2 * math.pi)  # in the context that it was trained with
        part = min(1.0, max(0.0, (turns - low) / (high - low)))
        yield 1 / ((1 - part) / factor + part)


def _longrope(settings: Settings, rope: Settings, head_dim: int) -> dict[str, Any]:
    """LongRoPE (arXiv 2402.13753) within the context that a model was first trained with.

    There the short factors hold. Both queries and keys are scaled, so that the scores are scaled by
    the square, which here is part of what they are divided by.
    """
    short = rope.get(
        "original_max_position_embeddings", settings.get("original_max_position_embeddings")
    )
    if short is None:
        raise KeyError("original_max_position_embeddings")
    stretch = float(rope.get("factor") or settings["max_position_embeddings"] / short)
    scale = rope.get("attention_factor")
    if scale is None:
        scale = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(short))
    return {
        "rope_factors": tuple(map(float, rope["short_factor"])),
        "query_divisor": head_dim / float(scale) ** 4,
        "context": short,
    }


def _windows(settings: Settings, pattern: Callable[[int], bool]) -> dict[str, Any]:
    """Which layers are local: those that `layer_types` names, else where `pattern` holds."""
    window, layers = settings.get("sliding_window"), settings["num_hidden_layers"]
    if window is None:
        return {}
    if type(layers) is not int or not 0 < layers < _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers must be below {_MOST_LAYERS}, got {layers!r:.40}")
    types = settings.get("layer_types") or [
        _LOCAL if pattern(layer) else _GLOBAL for layer in range(layers)
    ]
    if len(types) != layers or not set(types) <= {_LOCAL, _GLOBAL}:
        raise ValueError(f"layer_types must be {layers} of {_LOCAL} and {_GLOBAL}")
    local = tuple(layer for layer, kind in enumerate(types) if kind == _LOCAL)
    return {"window": window, "local_layers": local} if local else {}


def _shape(settings: Settings) -> dict[str, Any]:
    heads = settings["num_attention_heads"]
    return {
        "hidden": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "heads": heads,
        "kv_heads": settings.get("num_key_value_heads") or heads,
        "ffn": settings["intermediate_size"],
        "vocab": settings["vocab_size"],
        "context": settings["max_position_embeddings"],
        "norm_eps": float(settings["rms_norm_eps"]),
    }


def _llama(settings: Settings) -> dict[str, Any]:
    attention = ("q", "k", "v", "o") if settings.get("attention_bias", False) else ()
    mlp = ("gate", "up", "down") if settings.get("mlp_bias", False) else ()
    return {
        **_shape(settings),
        **_rope(settings),
        "activation": _activation(settings.get("hidden_act", "silu")),
        "biases": attention + mlp,
    }


def _mistral(settings: Settings) -> dict[str, Any]:
    return {**_llama(settings), **_windows(settings, lambda layer: True)}


def _qwen2(settings: Settings) -> dict[str, Any]:
    first = settings.get("max_window_layers", 0)
    local = _windows(settings, lambda layer: layer >= first)
    used = local if settings.get("use_sliding_window", False) else {}
    return {**_llama(settings), "biases": ("q", "k", "v"), **used}


def _qwen3(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "q_norm", "k_norm", "ffn_norm")
    biases = _llama(settings)["biases"]
    return {**_qwen2(settings), "biases": biases, "norms": norms}


def _phi3(settings: Settings) -> dict[str, Any]:
    plain = {**settings, "attention_bias": False, "mlp_bias": False}  # which it knows nothing of
    return _mistral(plain)


def _gemma(settings: Settings) -> dict[str, Any]:
    # The first release says "gelu" and means its approximation, which it was trained with.
    name = settings.get("hidden_activation") or settings.get("hidden_act", "gelu")
    _same(settings, attention_bias=False)
    return {
        **_shape(settings),
        **_rope(settings),
        "activation": _activation("gelu_pytorch_tanh" if name == "gelu" else name),
        "embedding_scale": float(np.float32(math.sqrt(settings["hidden_size"]))),
    }


def _gemma_scores(settings: Settings) -> dict[str, Any]:
    """What later Gemmas do to scores and logits."""
    if settings.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention must be false, got true")
    return {
        "query_divisor": float(settings.get("query_pre_attn_scalar", 256)),
        "score_cap": _optional_float(settings.get("attn_logit_softcapping")),
        "logit_cap": _optional_float(settings.get("final_logit_softcapping")),
    }


def _gemma2(settings: Settings) -> dict[str, Any]:
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return {
        **_gemma(settings),
        **_gemma_scores({**caps, **settings}),
        **_windows(settings, lambda layer: layer % 2 == 0),
        "norms": ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm"),
    }


def _gemma3(settings: Settings) -> dict[str, Any]:
    ropes = settings.get("rope_parameters") or {}
    local = ropes.get(_LOCAL) or {"rope_theta": settings.get("rope_local_base_freq", 10000.0)}
    _same(local, rope_type="default")
    every = settings.get("sliding_window_pattern", 6)
    norms = ("attention_norm", "q_norm", "k_norm", "attention_post_norm")
    return {
        **_gemma({"rope_theta": 1e6, **settings, "rope_parameters": ropes.get(_GLOBAL)}),
        **_gemma_scores(settings),
        **_windows(settings, lambda layer: (layer + 1) % every != 0),
        "norms": (*norms, "ffn_norm", "ffn_post_norm"),
        "local_rope_theta": float(local.get("rope_theta", 10000.0)),
    }


def _bitnet(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "o_norm", "ffn_norm", "down_norm")
    usual = {"hidden_act": "relu2", "rope_theta": 500000.0}
    return {**_llama({**usual, **settings, "mlp_bias": False}), "norms": norms}


def _opt(settings: Settings) -> dict[str, Any]:
    _same(settings, do_layer_norm_before=True, _remove_final_layer_norm=False)
    _same(settings, layer_norm_elementwise_affine=True)
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    _same(settings, word_embed_proj_dim=hidden)
    biased = settings.get("enable_bias", True)
    return {
        "hidden": hidden,
        "layers": settings["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "ffn": settings["ffn_dim"],
        "vocab": settings["vocab_size"],
        "context": settings["max_position_embeddings"],
        "norm_eps": 1e-5,
        "norm": "layer",
        "rope_theta": 10000.0,
        "rope_pairs": None,
        "biases": ("q", "k", "v", "o", "up", "down") if biased else (),
        "activation": _activation(settings.get("activation_function", "relu")),
        "gated": False,
    }


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class _Family:
    """How the folders of a model type are read."""

    config: Callable[[Settings], dict[str, Any]]
    """Settings -> fields of `ModelConfig`. Raises KeyError, ValueError or TypeError."""
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MODULES)
    outside: Mapping[str, str] = field(default_factory=lambda: OUTSIDE)
    blocks: str = BLOCKS
    tied: bool = False
    """Whether the head is the embedding where settings do not say."""
    norm_offset: float = 0.0
    """What is added to the weights of norms."""


_FAMILIES = {
    "llama": _Family(_llama),
    "mistral": _Family(_mistral),
    "qwen2": _Family(_qwen2),
    "qwen3": _Family(_qwen3, MODULES | _HEAD_NORMS),
    "phi3": _Family(_phi3, MODULES | _FUSED),
    "gemma": _Family(_gemma, tied=True, norm_offset=1.0),
    "gemma2": _Family(_gemma2, MODULES | _POST_NORMS, tied=True, norm_offset=1.0),
    "gemma3_text": _Family(
        _gemma3, MODULES | _HEAD_NORMS | _POST_NORMS, tied=True, norm_offset=1.0
    ),
    "opt": _Family(_opt, _OPT_MODULES, _OPT_OUTSIDE, "model.decoder.layers.", tied=True),
    "bitnet": _Family(_bitnet, MODULES | _SUB_NORMS),
}


def _family(settings: Settings) -> _Family:
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise ValueError(f"model_type must be one of {', '.join(_FAMILIES)}, got {kind!r:.40}")
    return _FAMILIES[kind]


def _roles(family: _Family, module: str) -> tuple[str, ...]:
    """What a module is in `ModelConfig.shapes`; itself, if it is no part of such a model."""
    if module.startswith(family.blocks):
        layer, _, name = module.removeprefix(family.blocks).partition(".")
        return tuple(f"{layer}.{role}" for role in family.modules.get(name, (name,)))
    return (family.outside.get(module, module),)


_METHODS: dict[str, Callable[[dict[str, Raw], Settings, str], Stored | None]] = {
    "gptq": gptq_file.read_layer,
    "bitnet": bitnet_file.read_layer,
    "vptq": vptq_file.read_layer,
}
"""How the layers of an already quantized model are read."""
_LONG_PARTS = (".centroids.weight", ".res_centroids.weight", ".outlier_centroids.weight")
"""What parts of a module are called whose names have a dot."""


def _by_module(raw: Mapping[str, Raw]) -> dict[str, dict[str, Raw]]:
    """The parts of each module."""
    found: dict[str, dict[str, Raw]] = {}
    for name, tensor in raw.items():
        part = next((each for each in _LONG_PARTS if name.endswith(each)), None)
        part = part or f".{name.rpartition('.')[2]}"
        found.setdefault(name.removesuffix(part), {})[part[1:]] = tensor
    return found


def _tensors(
    folder: Path, family: _Family, config: ModelConfig, settings: Settings, raw: Mapping[str, Raw]
) -> Iterator[tuple[str, Stored]]:
    """The tensors of a file by their names in `ModelConfig.shapes`. Raises `CheckpointError`."""
    rows = {role: shape[0] for role, shape in config.layer_linears().items()}
    read = _method(folder, settings)
    for module, parts in _by_module(raw).items():
        *first, role = _roles(family, module)
        parts.pop("inv_freq", None)  # which older writers store, and which theta says as well
        try:
            found = {} if (codes := read(parts, module)) is None else {"": codes}
        except (KeyError, ValueError, TypeError) as error:
            problem = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(folder, f"module {module:.80}: {problem}") from None
        for suffix, part in (("", "weight"), ("_bias", "bias")):
            if part in parts:
                found[suffix] = _floats(family, f"{role}{suffix}", parts.pop(part))
        for suffix, stored in found.items():
            counts = [rows[each.rpartition(".")[2]] for each in first]
            for each, piece in zip([*first, role], _split(stored, counts), strict=True):
                yield f"{each}{suffix}", piece
        for part, tensor in parts.items():  # not known, and so refused by name
            yield f"{module}.{part}", tensor.stored()


def _method(folder: Path, settings: Settings) -> Callable[[dict[str, Raw], str], Stored | None]:
    """What reads the weights of a module that is in codes. Raises `CheckpointError`."""
    quantization = settings.get("quantization_config")
    if quantization is None:
        return lambda parts, module: None
    kind = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if not isinstance(kind, str) or kind not in _METHODS:
        rule = f"quant_method must be one of {', '.join(_METHODS)}"
        raise CheckpointError(folder / CONFIG, f"{rule}, got {kind!r:.40}")
    return lambda parts, module: _METHODS[kind](parts, quantization, module)


def _floats(family: _Family, name: str, tensor: Raw) -> Stored:
    if name == "positions":
        return Raw(tensor.type, tensor.values[_OPT_UNUSED_POSITIONS:]).stored()
    if name.endswith("norm") and family.norm_offset:
        return _shifted(tensor, family.norm_offset)
    return tensor.stored()


def _split(stored: Stored, counts: Sequence[int]) -> Iterator[Stored]:
    """So many rows each, and at last those that are left."""
    if not counts:
        yield stored
        return
    cuts = [*itertools.accumulate(counts, initial=0), stored.shape[0] if stored.shape else 0]
    for start, end in itertools.pairwise(cuts):
        shape = (max(0, end - start), *stored.shape[1:])
        yield replace(stored, shape=shape, read=partial(_some_rows, stored, slice(start, end)))


def _some_rows(stored: Stored, rows: slice) -> Tensor:
    whole = stored.read()
    return rows_of(whole, rows) if isinstance(whole, Coded) else whole[rows].copy()


def _shifted(tensor: Raw, offset: float) -> Stored:
    return Stored(tensor.shape, lambda: tensor.floats() + np.float32(offset))


def read_hugging_face(folder: Path) -> LanguageModel:
    """The model in a Hugging Face folder, its tensors not yet read. Raises `CheckpointError`."""
    place = member(folder, CONFIG)
    settings = read_json(place)
    try:
        family = _family(settings)
        config = ModelConfig(**family.config(settings))
        tied = settings.get("tie_word_embeddings", family.tied)
    except KeyError as error:
        raise CheckpointError(place, f"has no {error.args[0]}") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(place, str(error)) from None
    raw = read_folder(folder)
    stored = dict(_tensors(folder, family, config, settings, raw))
    if tied:
        stored.pop("head", None)
    tensors = StoredTensors(folder, stored)
    tokenizer = read_tokenizer(folder, settings)
    return checked(folder, LanguageModel(folder.resolve().name, config, tensors, tokenizer))
