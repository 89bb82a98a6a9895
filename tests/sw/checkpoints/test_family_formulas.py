"""The forward pass of families against their formulas, written out in float64, token by token.

It reads Hugging Face's names and settings by itself, and shares no code with the readers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, models

from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linears

VOCAB, HIDDEN, LAYERS, HEADS, TOKENS = 40, 16, 3, 4, 14
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
}
GATED = {"intermediate_size": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {**COMMON, **GATED, "hidden_act": "silu", "rope_theta": 1e6},
    "phi3": {**COMMON, **GATED, "hidden_act": "silu", "sliding_window": 5},
    "gemma": {**COMMON, **GATED, "hidden_act": "gelu", "head_dim": 8},
    "gemma3_text": {
        **COMMON,
        **GATED,
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 8,
        "sliding_window": 4,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 12,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    "opt": {**COMMON, "ffn_dim": 24, "activation_function": "relu", "word_embed_proj_dim": HIDDEN},
}


def head_dim(settings: dict[str, Any]) -> int:
    return settings.get("head_dim", HIDDEN // HEADS)


def tensor_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """What such a checkpoint holds, as its family names it."""
    settings, block = FAMILIES[family], {}
    d, queries, keys = HIDDEN, HEADS * head_dim(settings), 2 * head_dim(settings)
    if family == "opt":
        for name, n, k in (
            *((f"self_attn.{each}_proj", d, d) for each in "qkv"),
            ("self_attn.out_proj", d, d),
            ("fc1", 24, d),
            ("fc2", d, 24),
        ):
            block |= {f"{name}.weight": (n, k), f"{name}.bias": (n,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            block |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
        whole = {
            "model.decoder.embed_tokens.weight": (VOCAB, d),
            "model.decoder.embed_positions.weight": (34, d),
            "model.decoder.final_layer_norm.weight": (d,),
            "model.decoder.final_layer_norm.bias": (d,),
        }
        prefix = "model.decoder.layers"
    else:
        if family == "phi3":
            block["self_attn.qkv_proj.weight"] = (queries + 2 * keys, d)
            block["mlp.gate_up_proj.weight"] = (48, d)
        else:
            for name, n in (("q", queries), ("k", keys), ("v", keys)):
                block[f"self_attn.{name}_proj.weight"] = (n, d)
                if family == "qwen2":
                    block[f"self_attn.{name}_proj.bias"] = (n,)
            block |= {"mlp.gate_proj.weight": (24, d), "mlp.up_proj.weight": (24, d)}
        block |= {"self_attn.o_proj.weight": (d, queries), "mlp.down_proj.weight": (d, 24)}
        norms = ["input_layernorm", "post_attention_layernorm"]
        if family == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
            block |= {f"self_attn.{each}_norm.weight": (head_dim(settings),) for each in "qk"}
        block |= {f"{name}.weight": (d,) for name in norms}
        whole = {"model.embed_tokens.weight": (VOCAB, d), "model.norm.weight": (d,)}
        whole |= {} if "gemma" in family else {"lm_head.weight": (VOCAB, d)}
        prefix = "model.layers"
    layers = range(LAYERS)
    return whole | {f"{prefix}.{i}.{name}": shape for i in layers for name, shape in block.items()}


def rotated(vector: np.ndarray, position: int, theta: float) -> np.ndarray:
    """Elements i and i + d/2 are turned by position * theta^(-2i/d)."""
    half, out = len(vector) // 2, np.empty_like(vector)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def rms(x: np.ndarray, weight: np.ndarray, eps: float, offset: float) -> np.ndarray:
    return x / math.sqrt(float(np.mean(x**2)) + eps) * (weight + offset)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / math.sqrt(float(x.var()) + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(
    query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray], divisor: float
) -> np.ndarray:
    """One head of one token over the keys it sees."""
    scores = np.array([query @ key for key in keys]) / math.sqrt(divisor)
    weights = np.exp(scores - scores.max())
    return sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True))


def opt(w: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    past: dict[tuple[int, int], tuple[list, list]] = {}
    logits, root, dim = [], "model.decoder", HIDDEN // HEADS
    for position, token in enumerate(ids):
        x = (
            w[f"{root}.embed_tokens.weight"][token]
            + w[f"{root}.embed_positions.weight"][position + 2]
        )
        for i in range(LAYERS):
            p = f"{root}.layers.{i}"

            def affine(name: str, a: np.ndarray, p: str = p) -> np.ndarray:
                return w[f"{p}.{name}.weight"] @ a + w[f"{p}.{name}.bias"]

            def normed(name: str, a: np.ndarray, p: str = p) -> np.ndarray:
                return layer_norm(a, w[f"{p}.{name}.weight"], w[f"{p}.{name}.bias"])

            a = normed("self_attn_layer_norm", x)
            q, k, v = (affine(f"self_attn.{each}_proj", a).reshape(HEADS, dim) for each in "qkv")
            mixed = []
            for h in range(HEADS):
                keys, values = past.setdefault((i, h), ([], []))
                keys.append(k[h])
                values.append(v[h])
                mixed.append(attend(q[h], keys, values, dim))
            x = x + affine("self_attn.out_proj", np.concatenate(mixed))
            a = normed("final_layer_norm", x)
            x = x + affine("fc2", np.maximum(affine("fc1", a), 0))
        name = f"{root}.final_layer_norm"
        last = layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])
        logits.append(w[f"{root}.embed_tokens.weight"] @ last)
    return np.array(logits)


def gated(family: str, w: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    settings, dim = FAMILIES[family], head_dim(FAMILIES[family])
    gemma, gemma3 = family.startswith("gemma"), family == "gemma3_text"
    eps, queries, keys_size = 1e-6, HEADS * dim, 2 * dim
    window, divisor = settings.get("sliding_window"), settings.get("query_pre_attn_scalar", dim)
    past: dict[tuple[int, int], tuple[list, list]] = {}
    embedding, logits = w["model.embed_tokens.weight"], []
    for position, token in enumerate(ids):
        x = embedding[token] * (math.sqrt(HIDDEN) if gemma else 1)
        for i in range(LAYERS):
            p = f"model.layers.{i}"
            local = i % 2 == 0 if gemma3 else window is not None
            theta = 1e4 if gemma3 and local else settings.get("rope_theta", 1e4)

            def normed(name: str, a: np.ndarray, p: str = p) -> np.ndarray:
                return rms(a, w[f"{p}.{name}.weight"], eps, float(gemma))

            a = normed("input_layernorm", x)
            if family == "phi3":
                fused = w[f"{p}.self_attn.qkv_proj.weight"] @ a
                q, k, v = np.split(fused, [queries, queries + keys_size])
            else:
                q, k, v = (w[f"{p}.self_attn.{each}_proj.weight"] @ a for each in "qkv")
            if family == "qwen2":
                q, k, v = (
                    out + w[f"{p}.self_attn.{each}_proj.bias"]
                    for each, out in zip("qkv", (q, k, v), strict=True)
                )
            q, k, v = q.reshape(HEADS, dim), k.reshape(2, dim), v.reshape(2, dim)
            if gemma3:
                q = np.array([normed("self_attn.q_norm", each) for each in q])
                k = np.array([normed("self_attn.k_norm", each) for each in k])
            for h in range(2):
                keys, values = past.setdefault((i, h), ([], []))
                keys.append(rotated(k[h], position, theta))
                values.append(v[h])
            seen = window if local and window else len(ids)
            mixed = [
                attend(rotated(q[h], position, theta), keys[-seen:], values[-seen:], divisor)
                for h in range(HEADS)
                for keys, values in [past[i, h // 2]]
            ]
            o = w[f"{p}.self_attn.o_proj.weight"] @ np.concatenate(mixed)
            x = x + (normed("post_attention_layernorm", o) if gemma3 else o)
            before = "pre_feedforward_layernorm" if gemma3 else "post_attention_layernorm"
            a = normed(before, x)
            if family == "phi3":
                gate, up = np.split(w[f"{p}.mlp.gate_up_proj.weight"] @ a, 2)
            else:
                gate, up = (w[f"{p}.mlp.{each}_proj.weight"] @ a for each in ("gate", "up"))
            inner = (gelu(gate) if gemma else gate / (1 + np.exp(-gate))) * up
            down = w[f"{p}.mlp.down_proj.weight"] @ inner
            x = x + (normed("post_feedforward_layernorm", down) if gemma3 else down)
        last = rms(x, w["model.norm.weight"], eps, float(gemma))
        logits.append(w.get("lm_head.weight", embedding) @ last)
    return np.array(logits)


def write(folder: Path, family: str) -> dict[str, np.ndarray]:
    """A folder of the family with random weights, which are given back."""
    rng = np.random.default_rng(len(family))
    weights = {
        name: rng.normal(scale=0.4, size=shape).astype(np.float32)
        for name, shape in tensor_shapes(family).items()
    }
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    settings = {"model_type": family, **FAMILIES[family]}
    (folder / "config.json").write_text(json.dumps(settings))
    vocab = {f"t{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))
    return weights


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_formulas(family, tmp_path):
    weights = {name: w.astype(np.float64) for name, w in write(tmp_path, family).items()}
    ids = np.random.default_rng(7).integers(0, VOCAB, TOKENS).tolist()
    expected = opt(weights, ids) if family == "opt" else gated(family, weights, ids)
    model = open_model(tmp_path)
    linear, cache = host_linears(model), Cache(model.config, TOKENS)
    hidden = [forward(model, linear, part, cache) for part in (ids[:9], ids[9:])]
    found = head(model, linear, np.concatenate(hidden))
    # Each layer's sums of up to 24 terms in float32, 16 for norms that divide by small numbers.
    allowed = 16 * LAYERS * math.sqrt(24) * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
