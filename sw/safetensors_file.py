"""Llama models in a Hugging Face folder: config.json, model.safetensors and tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from sw.model import CheckpointError, LanguageModel, LlamaConfig, checked
from sw.tokenizer import TextTokenizer, TokenizerError, from_json

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"

# How a `LlamaForCausalLM` calls what `LlamaConfig.shapes` names: outside, and within, a block.
NAMES = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
}
BLOCK_NAMES = {
    "input_layernorm.weight": "attention_norm",
    "self_attn.q_proj.weight": "q",
    "self_attn.k_proj.weight": "k",
    "self_attn.v_proj.weight": "v",
    "self_attn.o_proj.weight": "o",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
}

_FLOATS = {"F16": "<f2", "F32": "<f4"}

# Settings that would change the forward pass, and the only value it implements.
_REQUIRED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(path, "is not a JSON document") from None
    if not isinstance(document, dict):
        raise CheckpointError(path, "is not a JSON object")
    return document


def _config(settings: dict[str, Any]) -> LlamaConfig:
    """Raises `ValueError` or `KeyError`, naming the setting."""
    for name, value in _REQUIRED.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} must be {value!r}, got {settings[name]!r}")
    # Newer writers keep theta with the kind of scaling, older ones at the top.
    rope = settings.get("rope_parameters") or {"rope_theta": settings.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type must be 'default', got {rope['rope_type']!r}")
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    return LlamaConfig(
        hidden=hidden,
        layers=settings["num_hidden_layers"],
        heads=heads,
        kv_heads=settings.get("num_key_value_heads", heads),
        head_dim=settings.get("head_dim") or hidden // heads,
        ffn=settings["intermediate_size"],
        vocab=settings["vocab_size"],
        context=settings["max_position_embeddings"],
        rope_theta=float(rope["rope_theta"]),
        norm_eps=float(settings["rms_norm_eps"]),
        rope_pairs="halves",
    )


def _floats(kind: str, data: bytes) -> NDArray[np.float32]:
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if kind not in _FLOATS:
        raise ValueError(f"tensors must be BF16, F16 or F32, got {kind}")
    return np.frombuffer(data, _FLOATS[kind]).astype(np.float32)


def _canonical(name: str) -> str:
    """The name in `LlamaConfig.shapes` of the tensor that the file calls `name`."""
    if name.startswith("model.layers."):
        layer, _, role = name.removeprefix("model.layers.").partition(".")
        return f"{layer}.{BLOCK_NAMES.get(role, role)}"
    return NAMES.get(name, name)


def _tokenizer(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    try:
        library = from_json(path.read_text(encoding="utf-8"))
        stops = settings.get("eos_token_id")
        return TextTokenizer(
            library,
            # What the file itself puts around a text; for a causal model that is in front.
            prefix=tuple(library.encode("", add_special_tokens=True).ids),
            stops=frozenset(stops if isinstance(stops, list) else [] if stops is None else [stops]),
        )
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
    except (TokenizerError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(path, str(error)) from None


def read_safetensors(folder: Path) -> LanguageModel:
    """The Llama model in a Hugging Face folder, as float32. Raises `CheckpointError`."""
    settings, weights = _json(folder / CONFIG), folder / WEIGHTS
    try:
        config = _config(settings)
    except KeyError as error:
        raise CheckpointError(folder / CONFIG, f"has no {error.args[0]}") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(folder / CONFIG, str(error)) from None
    tensors = {}
    try:
        for name, entry in safetensors.deserialize(weights.read_bytes()):
            values = _floats(entry["dtype"], entry["data"]).reshape(entry["shape"])
            tensors[_canonical(name)] = values
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(weights, str(error)) from None
    if settings.get("tie_word_embeddings", False):
        tensors.pop("head", None)
    tokenizer = _tokenizer(folder / TOKENIZER, settings)
    return checked(weights, LanguageModel(folder.resolve().name, config, tensors, tokenizer))
