"""The meaning of config.json: the fields of `ModelConfig` for each family.

Each function gets all settings that are read, with the defaults of
`sw.checkpoints.hugging_face_settings` for missing ones, and returns fields of `ModelConfig`. It
raises KeyError, ValueError, TypeError, ArithmeticError or AttributeError for wrong settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evolute.sw.checkpoints.hugging_face_settings import Settings, settled
from evolute.sw.checkpoints.known_settings import KnownSettings
from evolute.sw.language_model.model import Activation, ModelConfig

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "swish": "silu",
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_MOST_LAYERS = 1 << 16


def _activation(name: Any) -> Activation:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r:.40}")
    return _ACTIVATIONS[name]


def _same(settings: Settings, **required: Any) -> None:
    """Raise `ValueError` if a setting differs from the only value that the forward pass
    implements."""
    for name, value in required.items():
        if settings[name] != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r:.40}")


_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor"),
}
"""What is read of an object that describes rotary positions, by its type."""
_ROPE_KEYS_OF_ALL = (
    "type",
    "rope_type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)


def _rope_object(settings: Settings) -> Settings:
    """The object that describes the rotation of positions, if there is one: `rope_parameters`,
    formerly `rope_scaling`."""
    newer, older = (_object(settings, name) for name in ("rope_parameters", "rope_scaling"))
    if newer and older and newer != older:
        raise ValueError("rope_scaling and rope_parameters must not say different things")
    return older or newer


def _object(settings: Settings, name: str) -> Settings:
    """A setting that is an object; an empty one if it is null or missing."""
    value = settings.get(name)
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} must be an object, got {value!r:.40}")
    return value or {}


def _rope(settings: Settings) -> dict[str, Any]:
    """The fields about the rotation of positions, for newer and older writers."""
    return _rope_of(settings, _rope_object(settings), settings["rope_theta"])


def _rope_of(settings: Settings, rope: Settings, theta: float) -> dict[str, Any]:
    """The same for the object `rope`; `theta` is the default."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = "longrope" if kind == "su" else kind
    if kind not in _ROPE_KEYS:
        raise ValueError(f"rope_type must be one of {', '.join(_ROPE_KEYS)}, got {kind!r:.40}")
    rope_settings = KnownSettings((*_ROPE_KEYS_OF_ALL, *_ROPE_KEYS[kind]), words=("",))
    rope_settings.require(rope, f"rope_type {kind}: ")
    for part in (rope.get("partial_rotary_factor"), settings["partial_rotary_factor"]):
        if part not in (None, 1.0):
            raise ValueError(f"partial_rotary_factor must be 1.0, got {part!r:.40}")
    theta, head_dim = float(rope.get("rope_theta", theta)), settings["head_dim"]
    if head_dim is None:
        head_dim = settings["hidden_size"] // settings["num_attention_heads"]
    common = {"rope_theta": theta, "rope_pairs": "halves", "head_dim": head_dim}
    pairs = range(min(head_dim, 1 << 16) // 2)
    if kind == "linear":
        return common | {"rope_factors": (float(rope["factor"]),) * len(pairs)}
    if kind == "llama3":
        speeds = [theta ** (-2.0 * pair / head_dim) for pair in pairs]
        first = _first_context(settings, rope)
        return common | {"rope_factors": tuple(_llama3_factors(speeds, rope, first))}
    if kind == "longrope":
        return common | _longrope(settings, rope, head_dim)
    return common


def _first_context(settings: Settings, rope: Settings) -> int:
    """The context with which a model whose positions are stretched was first trained."""
    for stated in (settings, rope):
        if (tokens := stated.get("original_max_position_embeddings")) is not None:
            return tokens
    return settings["max_position_embeddings"]


def _llama3_factors(speeds: Sequence[float], rope: Settings, context: int) -> Iterator[float]:
    """Slow pairs are slowed down by `factor`, fast ones not at all, and those in between in
    part."""
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (float(rope[name]) for name in names)
    for speed in speeds:
        turns = context * speed / (2 * math.pi)  # in the context that it was trained with
        part = min(1.0, max(0.0, (turns - low) / (high - low)))
        yield 1 / ((1 - part) / factor + part)


def _longrope(settings: Settings, rope: Settings, head_dim: int) -> dict[str, Any]:
    """LongRoPE (arXiv 2402.13753), within the context with which a model was first trained.

    There the short factors apply. Queries and keys are both scaled, so scores are scaled by the
    square; here this is part of their divisor.
    """
    first = _first_context(settings, rope)
    stretch, scale = rope.get("factor"), rope.get("attention_factor")
    if stretch is None:
        stretch = settings["max_position_embeddings"] / first
    if scale is None:
        scale = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(first))
    return {
        "rope_factors": tuple(map(float, rope["short_factor"])),
        "query_divisor": head_dim / float(scale) ** 4,
        "context": first,
    }


def _layers(settings: Settings) -> range:
    layers = settings["num_hidden_layers"]
    if type(layers) is not int or not 0 < layers < _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers must be below {_MOST_LAYERS}, got {layers!r:.40}")
    return range(layers)


def _are_layer_types(types: Any) -> bool:
    return isinstance(types, list) and all(kind in (_LOCAL, _GLOBAL) for kind in types)


def _windows(
    settings: Settings, window: int | None, pattern: Callable[[int], bool]
) -> dict[str, Any]:
    """Returns the fields of a model's configuration that describe sliding windows: the width of the
    window and the numbers of the layers that have one; no fields if no layer has one.

    Layers with a window are those that the setting `layer_types` lists as such. Without that
    setting they are the layers for whose numbers `pattern` is true. Raises ValueError for
    `layer_types` of another length or other words, and where the width is missing.
    """
    layers, types = _layers(settings), settings["layer_types"]
    if types is None:
        types = [_LOCAL if pattern(layer) else _GLOBAL for layer in layers]
    if not _are_layer_types(types) or len(types) != len(layers):
        raise ValueError(f"layer_types must be {len(layers)} of {_LOCAL} and {_GLOBAL}")
    local = tuple(layer for layer, kind in enumerate(types) if kind == _LOCAL)
    if local and window is None:
        raise ValueError(f"layer {local[0]} is a {_LOCAL} layer, but there is no sliding_window")
    return {"window": window, "local_layers": local} if local else {}


def _window_of_all(settings: Settings) -> dict[str, Any]:
    """A window for all layers; the reference does not use `layer_types` here."""
    window, types = settings["sliding_window"], settings["layer_types"]
    kind = _GLOBAL if window is None else _LOCAL
    if types is not None and (not _are_layer_types(types) or set(types) != {kind}):
        raise ValueError(f"layer_types must all be {kind} with sliding_window {window!r:.40}")
    return _windows({**settings, "layer_types": None}, window, lambda layer: window is not None)


def _shape(settings: Settings) -> dict[str, Any]:
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    return {
        "hidden": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "ffn": settings["intermediate_size"],
        "vocab": settings["vocab_size"],
        "context": settings["max_position_embeddings"],
        "norm_eps": float(settings["rms_norm_eps"]),
    }


_ATTENTION, _MLP = ("q", "k", "v", "o"), ("gate", "up", "down")


def _plain(settings: Settings) -> dict[str, Any]:
    """The fields that most families have in common."""
    activation = _activation(settings["hidden_act"])
    return {**_shape(settings), **_rope(settings), "activation": activation}


def _llama(settings: Settings) -> dict[str, Any]:
    attention = _ATTENTION if settings["attention_bias"] else ()
    mlp = _MLP if settings["mlp_bias"] else ()
    return {**_plain(settings), "biases": attention + mlp}


def _mistral(settings: Settings) -> dict[str, Any]:
    return {**_plain(settings), **_window_of_all(settings)}


def _qwen_windows(settings: Settings) -> dict[str, Any]:
    window = settings["sliding_window"] if settings["use_sliding_window"] else None
    first = settings["max_window_layers"]
    return _windows(settings, window, lambda layer: window is not None and layer >= first)


def _qwen2(settings: Settings) -> dict[str, Any]:
    return {**_plain(settings), **_qwen_windows(settings), "biases": ("q", "k", "v")}


def _qwen3(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "q_norm", "k_norm", "ffn_norm")
    biases = _ATTENTION if settings["attention_bias"] else ()
    return {**_plain(settings), **_qwen_windows(settings), "biases": biases, "norms": norms}


def _phi3(settings: Settings) -> dict[str, Any]:
    rope = _rope_object(settings)
    if (kind := rope.get("rope_type", rope.get("type", "default"))) in ("linear", "llama3"):
        raise ValueError(f"rope_type must be default or longrope, got {kind!r:.40}")
    return _mistral(settings)


def _gemma_block(settings: Settings, activation: Activation) -> dict[str, Any]:
    """The fields that the blocks of all Gemma models have in common."""
    if settings["use_bidirectional_attention"]:
        raise ValueError("use_bidirectional_attention must be false, got true")
    return {
        **_shape(settings),
        "activation": activation,
        "biases": _ATTENTION if settings["attention_bias"] else (),
        "embedding_scale": float(np.float32(math.sqrt(settings["hidden_size"]))),
    }


def _gemma(settings: Settings) -> dict[str, Any]:
    # The first release says "gelu" and means its approximation, which it was trained with. Beside
    # it stands a later name of the setting, which the reference does not read.
    names = [settings["hidden_act"], settings["hidden_activation"] or settings["hidden_act"]]
    meant: set[Activation] = {
        _activation("gelu_pytorch_tanh" if name == "gelu" else name) for name in names
    }
    if len(meant) > 1:
        raise ValueError("hidden_act and hidden_activation must not say different things")
    return {**_gemma_block(settings, meant.pop()), **_rope(settings)}


def _later_gemma(settings: Settings) -> dict[str, Any]:
    """The fields that later Gemma models have in common: caps of scores and logits."""
    name, older_name = settings["hidden_activation"], settings["hidden_act"]
    if older_name not in (None, name):
        raise ValueError("hidden_act and hidden_activation must not say different things")
    return {
        **_gemma_block(settings, _activation(name)),
        "query_divisor": float(settings["query_pre_attn_scalar"]),
        "score_cap": _optional_float(settings["attn_logit_softcapping"]),
        "logit_cap": _optional_float(settings["final_logit_softcapping"]),
    }


def _gemma2(settings: Settings) -> dict[str, Any]:
    return {
        **_later_gemma(settings),
        **_rope(settings),
        **_windows(settings, settings["sliding_window"], lambda layer: layer % 2 == 0),
        "norms": ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm"),
    }


def _gemma3(settings: Settings) -> dict[str, Any]:
    ropes, older = (_object(settings, name) for name in ("rope_parameters", "rope_scaling"))
    KnownSettings((_LOCAL, _GLOBAL), words=("",)).require(ropes, "rope_parameters: ")
    wide, local = (_object(ropes, kind) for kind in (_GLOBAL, _LOCAL))
    if wide and older and wide != older:
        raise ValueError("rope_scaling and rope_parameters must not say different things")
    near = _rope_of(settings, local, settings["rope_local_base_freq"])
    if near.keys() & {"rope_factors", "query_divisor"}:
        raise ValueError(f"rope_type of {_LOCAL} must be default")
    if type(every := settings["sliding_window_pattern"]) is not int or every < 1:
        raise ValueError(f"sliding_window_pattern must be at least 1, got {every!r:.40}")
    norms = ("attention_norm", "q_norm", "k_norm", "attention_post_norm")
    return {
        **_later_gemma(settings),
        **_rope_of(settings, older or wide, settings["rope_theta"]),
        **_windows(settings, settings["sliding_window"], lambda layer: (layer + 1) % every != 0),
        "norms": (*norms, "ffn_norm", "ffn_post_norm"),
        "local_rope_theta": near["rope_theta"],
    }


def _bitnet(settings: Settings) -> dict[str, Any]:
    norms = ("attention_norm", "o_norm", "ffn_norm", "down_norm")
    biases = _ATTENTION if settings["attention_bias"] else ()
    return {**_plain(settings), "biases": biases, "norms": norms}


def _opt(settings: Settings) -> dict[str, Any]:
    _same(settings, do_layer_norm_before=True, _remove_final_layer_norm=False)
    _same(settings, layer_norm_elementwise_affine=True)
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    if settings["word_embed_proj_dim"] is not None:
        _same(settings, word_embed_proj_dim=hidden)
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
        "biases": ("q", "k", "v", "o", "up", "down") if settings["enable_bias"] else (),
        "activation": _activation(settings["activation_function"]),
        "gated": False,
    }


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


CONFIGS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "opt": _opt,
    "bitnet": _bitnet,
}
"""By model type: every setting that is read -> fields of `ModelConfig`."""


@dataclass(frozen=True)
class Stated:
    """What a config.json states about a model."""

    kind: str
    """The model type."""
    config: ModelConfig
    tied: bool
    """Whether the head is the embedding, where the file holds no other."""


def stated(settings: Settings) -> Stated:
    """The meaning of the settings in a config.json, including missing ones.

    Raises KeyError, ValueError, TypeError, ArithmeticError or AttributeError for settings that are
    wrong or that the forward pass does not implement.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ValueError(f"model_type must be one of {', '.join(CONFIGS)}, got {kind!r:.40}")
    complete = settled(settings, kind)
    config = ModelConfig(**CONFIGS[kind](complete))
    return Stated(kind, config, complete["tie_word_embeddings"])


def stretched(settings: Settings) -> ModelConfig | None:
    """The model beyond the context that it was first trained with, where its own long factors hold
    (LongRoPE, arXiv 2402.13753) for all tokens of a text; None where the file states none, one for
    each pair. Raises what `stated` raises."""
    said = stated(settings)
    complete = settled(settings, said.kind)
    factors = _rope_object(complete).get("long_factor")
    reach, pairs = complete["max_position_embeddings"], said.config.head_dim // 2
    if not isinstance(factors, list) or len(factors) != pairs or reach <= said.config.context:
        return None
    return replace(said.config, rope_factors=tuple(map(float, factors)), context=reach)
