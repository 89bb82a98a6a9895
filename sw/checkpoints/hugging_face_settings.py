"""The settings of config.json and their defaults.

Settings and defaults of a family are those of its configuration class in Hugging Face transformers
5, which is the reference: a missing setting is not switched off, it has the family's default.
`tests/data/transformers_settings.json` has what transformers makes of configurations from which one
setting after another was removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.sw.checkpoints.known_settings import KnownSettings

Settings = Mapping[str, Any]


class _Required:
    """Stands in place of a default for sizes that a file must state because they differ between
    models."""


_REQUIRED = _Required()

_SIZES = {
    "hidden_size": _REQUIRED,
    "num_hidden_layers": _REQUIRED,
    "num_attention_heads": _REQUIRED,
    "vocab_size": _REQUIRED,
}
_ROPE = {
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
}
_GATED = {
    **_SIZES,
    **_ROPE,
    "intermediate_size": _REQUIRED,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_QWEN_WINDOWS = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA = {
    **_GATED,
    "head_dim": 256,
    "attention_bias": False,
    "use_bidirectional_attention": None,
    "hidden_activation": None,
    "tie_word_embeddings": True,
}
_GEMMA_SCORES = {
    "num_key_value_heads": 4,
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    # LlamaConfig
    "llama": {
        **_GATED,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    # MistralConfig, whose layers are all local where there is a window
    "mistral": {
        **_GATED,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "layer_types": None,
    },
    # Qwen2Config
    "qwen2": {
        **_GATED,
        **_QWEN_WINDOWS,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    # Qwen3Config
    "qwen3": {
        **_GATED,
        **_QWEN_WINDOWS,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "attention_bias": False,
    },
    # Phi3Config, whose layers are all local where there is a window
    "phi3": {
        **_GATED,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "layer_types": None,
    },
    # GemmaConfig
    "gemma": {
        **_GEMMA,
        "num_key_value_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
    },
    # Gemma2Config
    "gemma2": {
        **_GEMMA,
        **_GEMMA_SCORES,
        "max_position_embeddings": 8192,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    # Gemma3TextConfig
    "gemma3_text": {
        **_GEMMA,
        **_GEMMA_SCORES,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    # OPTConfig
    "opt": {
        **_SIZES,
        "ffn_dim": _REQUIRED,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "activation_function": "relu",
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    # BitNetConfig
    "bitnet": {
        **_GATED,
        "num_key_value_heads": 5,
        "hidden_act": "relu2",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
    },
}
"""By `model_type`, every setting that is read and what it is where a file does not say."""

_NULLABLE = (
    "num_key_value_heads",
    "sliding_window",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
"""Settings that may be null although their default is not."""

_BESIDE = ("quantization_config",)
"""Settings of every family that others read."""
_HARMLESS = (
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "mask_token_id",
    "output_attentions",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "embedding_multiplier": (1,),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
    "is_causal": (True,),
    "lm_head_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "output_router_logits": (False,),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "qkv_bias": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "use_alibi": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}
_FAMILY_HARMLESS = {
    # Which its configuration class does not know: queries, keys and values always have biases.
    "qwen2": ("attention_bias", "qkv_bias"),
    # Which transformers writes beside `layer_types` and does not read again.
    "gemma3_text": ("_sliding_window_pattern",),
}
_FAMILY_NEUTRAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "qwen2": {"use_mrope": (False,)},
    "qwen3": {"use_mrope": (False,)},
    # A name of the window in the first release of Gemma 2, beside the present one.
    "gemma2": {"sliding_window_size": (4096,)},
}


def known_settings(kind: str) -> KnownSettings:
    """What is known about the settings of the model type `kind`, which is a key of `DEFAULTS`."""
    return KnownSettings(
        read=(*DEFAULTS[kind], *_BESIDE),
        harmless=(*_HARMLESS, *_FAMILY_HARMLESS.get(kind, ())),
        neutral=_NEUTRAL | _FAMILY_NEUTRAL.get(kind, {}),
    )


def settled(settings: Settings, kind: str) -> dict[str, Any]:
    """Every setting that is read for the model type `kind`, with its default if it is missing.

    Raises KeyError for a missing size, and ValueError for a setting that is null or no truth value
    although it must not be, or that is unknown and may change what the model computes.
    """
    known_settings(kind).require(settings)
    complete: dict[str, Any] = {}
    for name, default in DEFAULTS[kind].items():
        value = settings.get(name, default)
        if value is _REQUIRED:
            raise KeyError(name)
        if value is None and default is not None and name not in _NULLABLE:
            raise ValueError(f"{name} must not be null")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r:.40}")
        complete[name] = value
    return complete
