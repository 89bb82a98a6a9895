"""Writes what Hugging Face transformers makes of configurations that leave settings out.

Each family has one configuration whose settings are unlike the family's defaults. One after another
is taken away, and some are given in other ways, as older writers, newer ones and hands do. What
becomes of it is read off the model that transformers builds. Shares no code with this project.
Needs the `oracle` extra:

    python tests/oracle/make_settings.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parents[1] / "data" / "transformers_settings.json"

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED = {
    **SIZES,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "rms_norm_eps": 0.001,
    "rope_theta": 30000.0,
    "tie_word_embeddings": True,
}
QWEN = {
    **GATED,
    "use_sliding_window": True,
    "sliding_window": 7,
    "max_window_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
GEMMA = {**GATED, "attention_bias": True, "tie_word_embeddings": False}
LATER_GEMMA = {
    **{name: value for name, value in GEMMA.items() if name != "hidden_act"},
    "hidden_activation": "silu",
    "query_pre_attn_scalar": 24,
    "sliding_window": 6,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "final_logit_softcapping": 2.0,
    "attn_logit_softcapping": 1.0,
}
BASES: dict[str, dict[str, Any]] = {
    "llama": {**GATED, "attention_bias": True, "mlp_bias": True},
    # As many heads as a default number of key-value heads divides.
    "mistral": {**GATED, "num_attention_heads": 8, "sliding_window": 7},
    "qwen2": {**QWEN, "num_attention_heads": 32, "hidden_size": 64},
    "qwen3": {**QWEN, "num_attention_heads": 32, "hidden_size": 64, "attention_bias": True},
    "phi3": {
        **{name: value for name, value in GATED.items() if name != "head_dim"},
        "sliding_window": 7,
        "original_max_position_embeddings": 48,
    },
    "gemma": {**GEMMA, "num_attention_heads": 16, "hidden_act": "silu"},
    "gemma2": LATER_GEMMA,
    "gemma3_text": {
        **{name: v for name, v in LATER_GEMMA.items() if name != "attn_logit_softcapping"},
        "rope_local_base_freq": 500.0,
        "sliding_window_pattern": 2,
    },
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "enable_bias": False}
    | {"activation_function": "silu", "tie_word_embeddings": False, "do_layer_norm_before": True}
    | {"_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
    "bitnet": {
        **{name: value for name, value in GATED.items() if name != "head_dim"},
        "attention_bias": True,
        "num_attention_heads": 10,
        "hidden_size": 40,
    },
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT, LONG = [1.0, 1.1, 1.3, 2.0], [1.0, 2.0, 4.0, 8.0]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
FULL = ["full_attention"] * 3
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 70000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 800.0},
}
GONE = "this setting is taken away"
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "old linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
        "new linear": {"rope_parameters": {**LINEAR, "rope_theta": 700.0}},
        "new linear without theta": {"rope_parameters": LINEAR},
        "new default beside theta": {"rope_parameters": {"rope_type": "default"}},
        "untyped": {"rope_scaling": {"factor": 4.0}},
        "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}},
        "llama3 without its first context": {"rope_scaling": LLAMA3},
        "llama3 with the first context outside": {
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16},
            "original_max_position_embeddings": 24,
        },
        "null head_dim and key-value heads": {"head_dim": None, "num_key_value_heads": None},
        "null epsilon": {"rms_norm_eps": None},
        "swish": {"hidden_act": "swish"},
        "null rope_scaling": {"rope_scaling": None},
    },
    "mistral": {
        "null window": {"sliding_window": None},
        "null key-value heads": {"num_key_value_heads": None, "head_dim": None},
        "null head_dim": {"head_dim": None},
    },
    "qwen2": {
        "pattern": {"layer_types": GONE},
        "pattern and its default": {"layer_types": GONE, "max_window_layers": GONE},
        "pattern and the default switch": {"layer_types": GONE, "use_sliding_window": GONE},
        "pattern without a window": {"layer_types": GONE, "sliding_window": None},
        "switched off": {"layer_types": GONE, "use_sliding_window": False},
        "full": {"layer_types": FULL},
        "attention_bias": {"attention_bias": False},
    },
    "qwen3": {
        "pattern": {"layer_types": GONE},
        "pattern and its default": {"layer_types": GONE, "max_window_layers": GONE},
        "pattern and the default switch": {"layer_types": GONE, "use_sliding_window": GONE},
        "switched off": {"layer_types": None, "use_sliding_window": False},
        "null key-value heads": {"num_key_value_heads": None},
    },
    "phi3": {
        "no window": {"sliding_window": None},
        "longrope": {"rope_scaling": LONGROPE},
        "su": {"rope_scaling": {**LONGROPE, "rope_type": "su"}},
        "longrope of the class's first context": {
            "rope_scaling": LONGROPE,
            "original_max_position_embeddings": GONE,
        },
        "longrope with a first context inside": {
            "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16},
        },
        "longrope with a factor": {"rope_scaling": {**LONGROPE, "factor": 3.0}},
        "longrope with an attention factor": {
            "rope_scaling": {**LONGROPE, "attention_factor": 1.5},
        },
        "new": {"rope_parameters": {**LONGROPE, "rope_theta": 700.0}},
        "linear": {"rope_scaling": LINEAR},
        "partial": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    },
    "gemma": {
        "gelu": {"hidden_act": "gelu"},
        "both names": {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
        "null activation": {"hidden_act": "gelu", "hidden_activation": None},
    },
    "gemma2": {
        "pattern": {"layer_types": GONE},
        "pattern and defaults": {"layer_types": GONE, "sliding_window": GONE},
        "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "gelu": {"hidden_activation": "gelu"},
    },
    "gemma3_text": {
        "pattern": {"layer_types": GONE},
        "pattern and defaults": {"layer_types": GONE, "sliding_window_pattern": GONE},
        "no pattern": {"layer_types": GONE, "sliding_window_pattern": 1},
        "nested": {"rope_parameters": NESTED},
        "nested, only wide": {"rope_parameters": {"full_attention": NESTED["full_attention"]}},
        "old": {"rope_scaling": LINEAR},
        "underscored pattern": {
            "layer_types": GONE,
            "sliding_window_pattern": GONE,
            "_sliding_window_pattern": 2,
        },
        "full": {"layer_types": FULL},
    },
    "opt": {"null projection": {"word_embed_proj_dim": None}},
    "bitnet": {
        "default theta in an object": {"rope_parameters": {"rope_type": "default"}}
        | {"rope_theta": GONE},
        "null key-value heads": {"num_key_value_heads": None},
    },
}


def cases(kind: str) -> dict[str, dict[str, Any]]:
    """Configurations of a family by name."""
    base = {"model_type": kind, **BASES[kind]}
    found = {"as it is": base}
    for name in BASES[kind]:
        if name not in SIZES or name == "max_position_embeddings":
            found[f"without {name}"] = {key: v for key, v in base.items() if key != name}
    for name, changes in VARIANTS[kind].items():
        whole = base | changes
        found[name] = {key: value for key, value in whole.items() if value is not GONE}
    return found


def built(settings: dict[str, Any]) -> Any:
    """The model that transformers builds of a configuration, as it reads one from a file."""
    import transformers

    # The padding token is no part of what a model computes, but must be in its vocabulary.
    own = json.loads(json.dumps(settings | {"pad_token_id": 0}))
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(own)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval()


def read_off(model: Any) -> dict[str, Any]:
    """What the modules of a model compute, as numbers."""
    import torch

    config, inner = model.config, getattr(model.model, "decoder", model.model)
    first = inner.layers[0]
    attention, mlp = first.self_attn, getattr(first, "mlp", first)
    act = getattr(mlp, "act_fn", None) or mlp.activation_fn
    norm = getattr(first, "input_layernorm", None) or first.self_attn_layer_norm
    opt = config.model_type == "opt"
    last = mlp.fc2 if opt else mlp.down_proj
    layers: list[dict[str, Any]] = []
    every_speeds: list[list[float]] = []
    for index, layer in enumerate(inner.layers):
        window = getattr(layer.self_attn, "sliding_window", None)
        if config.model_type in ("mistral", "phi3"):
            window = config.sliding_window
        speeds, factor = [], 1.0
        if not opt:
            prefix = f"{config.layer_types[index]}_" if config.model_type == "gemma3_text" else ""
            rotary = inner.rotary_emb
            speeds = [float(f"{v:.8g}") for v in getattr(rotary, f"{prefix}inv_freq").tolist()]
            factor = float(getattr(rotary, f"{prefix}attention_scaling"))
        scale = float(layer.self_attn.scaling) * factor**2
        if speeds not in every_speeds:
            every_speeds.append(speeds)
        place = every_speeds.index(speeds)
        layers.append({"window": window, "score_scale": scale, "speeds": place})
    head_dim = attention.head_dim
    with torch.no_grad():
        activation = act(torch.tensor([-3.0, -0.5, 0.7, 2.0])).double().tolist()
    biased = {name for name, m in first.named_modules() if getattr(m, "bias", None) is not None}
    return {
        "hidden": inner.embed_tokens.weight.shape[1],
        "vocab": inner.embed_tokens.weight.shape[0],
        "heads": config.num_attention_heads,
        "kv_heads": config.num_attention_heads if opt else config.num_key_value_heads,
        "head_dim": head_dim,
        "ffn": last.in_features,
        "context": config.max_position_embeddings,
        "norm_eps": float(getattr(norm, "variance_epsilon", None) or norm.eps),
        "tied": model.lm_head.weight is inner.embed_tokens.weight,
        "biases": sorted(name.rpartition(".")[2] for name in biased if "norm" not in name),
        "activation": activation,
        "score_cap": getattr(config, "attn_logit_softcapping", None),
        "logit_cap": getattr(config, "final_logit_softcapping", None),
        "layers": layers,
        "speeds": every_speeds,
    }


def main() -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    found = []
    for kind in BASES:
        for name, settings in cases(kind).items():
            try:
                result: dict[str, Any] = {"computes": read_off(built(settings))}
            except (
                Exception
            ) as error:  # whatever is wrong with a configuration is told in many ways
                result = {"fails": type(error).__name__}
            found.append({"case": name, "settings": settings, **result})
    keys = {
        kind: sorted(transformers.CONFIG_MAPPING[kind](**BASES[kind]).to_dict()) for kind in BASES
    }
    document = {
        "tools": {"transformers": transformers.__version__, "torch": torch.__version__},
        "keys_written": keys,
        "cases": found,
    }
    OUTPUT.write_text(json.dumps(document, separators=(",", ":")).replace('{"case"', '\n{"case"'))


if __name__ == "__main__":
    main()
