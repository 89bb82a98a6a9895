"""The forward pass of a decoder-only language model, in NumPy float32. The caller chooses who
computes the linear layers, and the format of the cache of keys and values.

Sources: LLaMA (arXiv 2302.13971) with RMSNorm before each half of a block, rotary positions and
SwiGLU; grouped-query attention (arXiv 2305.13245). `ModelConfig` describes how other families
differ, such as OPT (arXiv 2205.01068) and Gemma (2403.08295, 2408.00118, 2503.19786).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.sw.language_model.kv import FLOAT32, KvFormat
from evolute.sw.language_model.linear import Linears
from evolute.sw.language_model.model import Activation, LanguageModel, ModelConfig, dequantized
from evolute.sw.tensors.tensor import Coded

Floats = NDArray[np.float32]

_QUERY_BLOCK = 256
"""Queries that attend at once; bounds the score matrix of a long prompt."""


class Cache:
    """Keys and values of the tokens so far, float32 [layers, kv_heads, capacity, head_dim], rounded
    to the format `kv`.

    Raises `SpecError` if `capacity`, in tokens, exceeds the model's context.
    """

    def __init__(self, config: ModelConfig, capacity: int, kv: KvFormat = FLOAT32):
        self.kv = kv
        _require_capacity(config, capacity)
        shape = (config.layers, config.kv_heads, capacity, config.head_dim)
        self.keys, self.values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0


def forward(
    model: LanguageModel, linear: Linears, tokens: Sequence[int], cache: Cache
) -> NDArray[np.float32]:
    """Run `tokens` after those in `cache`, and add them to it. Returns the normalized output of the
    last layer, float32 [tokens, hidden], from which `head` makes logits."""
    config, past = model.config, cache.length
    end = past + len(tokens)
    x = _embedding(model, tokens, past)
    turns = _angles(config, past, len(tokens), config.rope_theta, config.rope_factors)
    local_turns = turns
    if config.local_rope_theta is not None:
        local_turns = _angles(config, past, len(tokens), config.local_rope_theta)
    for layer in range(config.layers):
        local = layer in config.local_layers
        angles = local_turns if local else turns

        def apply(a: Floats, *roles: str, layer: int = layer) -> list[Floats]:
            outputs = linear([f"{layer}.{role}" for role in roles], a)
            return [
                out + _vector(model, f"{layer}.{role}_bias") if role in config.biases else out
                for role, out in zip(roles, outputs, strict=True)
            ]

        def normed(name: str, a: Floats, layer: int = layer) -> Floats:
            return _normalized(model, f"{layer}.{name}", a) if name in config.norms else a

        queries, keys, values = apply(normed("attention_norm", x), "q", "k", "v")
        queries = normed("q_norm", _heads(queries, config.heads))
        keys = normed("k_norm", _heads(keys, config.kv_heads))
        queries = _turned(config, queries, angles)
        cache.keys[layer, :, past:end] = cache.kv.held(_turned(config, keys, angles))
        cache.values[layer, :, past:end] = cache.kv.held(_heads(values, config.kv_heads))
        cached = cache.keys[layer, :, :end], cache.values[layer, :, :end]
        mixed = _attention(config, queries, *cached, config.window if local else None)
        (attention_output,) = apply(normed("o_norm", mixed), "o")
        x = x + normed("attention_post_norm", attention_output)
        gate, *up = apply(normed("ffn_norm", x), *config.shared_inputs[2])
        inner = _ACTIVATIONS[config.activation](gate)
        if up:
            inner = inner * up[0]
        (down,) = apply(normed("down_norm", inner), "down")
        x = x + normed("ffn_post_norm", down)
    cache.length += len(tokens)
    return _normalized(model, "norm", x)


def head(model: LanguageModel, linear: Linears, hidden: Floats) -> Floats:
    """The logits, float32 [tokens, vocab], for the result of `forward`."""
    (logits,) = linear(["head"], hidden)
    return _capped(logits, model.config.logit_cap)


def require_room(config: ModelConfig, prompt: Sequence[int], count: int) -> None:
    """Raise `SpecError` if the prompt is empty or leaves no room for `count` tokens after it."""
    require(len(prompt) > 0, "prompt", "at least one token", list(prompt))
    _require_capacity(config, len(prompt) + count)


def _require_capacity(config: ModelConfig, tokens: int) -> None:
    require(tokens <= config.context, "context", f"at most {config.context}", tokens)


def generate(
    model: LanguageModel,
    linear: Linears,
    prompt: Sequence[int],
    count: int,
    choose: Callable[[Floats], int],
    kv: KvFormat = FLOAT32,
) -> Iterator[int]:
    """Up to `count` tokens after `prompt`. `choose` picks each of them from its logits, float32
    [vocab].

    Ends early at one of the tokenizer's stop tokens, which is not returned. Raises `SpecError` if
    the prompt is empty or leaves no room in the context.
    """
    require_room(model.config, prompt, count)
    cache, step = Cache(model.config, len(prompt) + count, kv), list(prompt)
    for _ in range(count):
        hidden = forward(model, linear, step, cache)[-1:]
        token = choose(head(model, linear, hidden)[0])
        if token in model.tokenizer.stops:
            return
        yield token
        step = [token]


def greedy(logits: Floats) -> int:
    """The most likely token; the first one if several are equally likely."""
    return int(np.argmax(logits))


def sampler(temperature: float, rng: np.random.Generator) -> Callable[[Floats], int]:
    """A function that draws tokens with probabilities proportional to exp(logit / temperature)."""

    def sample(logits: Floats) -> int:
        scaled = logits.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    return sample


def _embedding(model: LanguageModel, tokens: Sequence[int], start: int) -> Floats:
    config, table, rows = model.config, model.tensors["embedding"], np.asarray(tokens)
    embedded = table.rows(rows, np.float32) if isinstance(table, Coded) else table[rows]
    embedded = embedded * np.float32(config.embedding_scale)
    if config.rope_pairs is None:
        embedded = embedded + dequantized(model.tensors["positions"])[start : start + len(tokens)]
    return embedded


def _normalized(model: LanguageModel, name: str, x: Floats) -> Floats:
    """RMSNorm (arXiv 1910.07467), or LayerNorm (arXiv 1607.06450)."""
    eps, weight = np.float32(model.config.norm_eps), _vector(model, name)
    if model.config.norm == "layer":
        x = x - np.mean(x, axis=-1, keepdims=True)
    mean = np.mean(x * x, axis=-1, keepdims=True)
    normalized = x / np.sqrt(mean + eps) * weight
    return (
        normalized + _vector(model, f"{name}_bias") if model.config.norm == "layer" else normalized
    )


def _vector(model: LanguageModel, name: str) -> Floats:
    return dequantized(model.tensors[name])


def _heads(x: Floats, heads: int) -> Floats:
    """[tokens, heads * head_dim] -> [heads, tokens, head_dim]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _angles(
    config: ModelConfig, start: int, count: int, theta: float, factors: Sequence[float] = ()
) -> NDArray[np.complex64]:
    """Rotations of rotary positions as unit complex numbers [count, head_dim / 2] (arXiv
    2104.09864, Eq. 15)."""
    pair = np.arange(config.head_dim // 2)
    speed = theta ** (-2.0 * pair / config.head_dim)
    if factors:
        speed = speed / np.array(factors)
    return np.exp(1j * np.outer(np.arange(start, start + count), speed)).astype(np.complex64)


def _turned(config: ModelConfig, x: Floats, angles: NDArray[np.complex64]) -> Floats:
    """Rotate each pair of elements by its angle."""
    turned: NDArray[np.complex64]
    if config.rope_pairs is None:
        return x
    if config.rope_pairs == "halves":
        first, second = np.split(x, 2, axis=-1)
        turned = np.multiply(first + 1j * second, angles, dtype=np.complex64)
        return np.concatenate([turned.real, turned.imag], axis=-1, dtype=np.float32)
    turned = np.multiply(np.ascontiguousarray(x).view(np.complex64), angles, dtype=np.complex64)
    return turned.view(np.float32)


def _attention(
    config: ModelConfig, queries: Floats, keys: Floats, values: Floats, window: int | None
) -> Floats:
    """Causal attention of the last M of T tokens over all of them: [heads, M, d] and [kv_heads, T,
    d] give [M, heads * d].

    With a window, each token attends to that many tokens, itself included.
    """
    heads, count, dim = queries.shape
    kv_heads, total, _ = keys.shape
    shared = heads // kv_heads
    divisor = np.float32(np.sqrt(config.query_divisor or dim))
    mixed = np.empty((count, heads, dim), np.float32)
    for start in range(0, count, _QUERY_BLOCK):
        block = queries[:, start : start + _QUERY_BLOCK]
        size = block.shape[1]
        end = total - count + start + size  # later keys are in nobody's past
        first_key = 0 if window is None else max(0, end - size - window + 1)
        rows = block.reshape(kv_heads, shared * size, dim) / divisor
        scores = _capped(rows @ keys[:, first_key:end].transpose(0, 2, 1), config.score_cap)
        by_query = scores.reshape(kv_heads, shared, size, end - first_key)
        latest = by_query[..., end - first_key - size :]
        np.copyto(latest, -np.inf, where=np.triu(np.ones((size, size), bool), 1))
        if window is not None:
            age = np.arange(end - size, end)[:, None] - np.arange(first_key, end)
            np.copyto(by_query, -np.inf, where=age >= window)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        output = scores @ values[:, first_key:end] / scores.sum(axis=-1, keepdims=True)
        mixed[start : start + size] = output.reshape(heads, size, dim).transpose(1, 0, 2)
    return mixed.reshape(count, heads * dim)


def _capped(x: NDArray[Any], cap: float | None) -> Floats:
    return x if cap is None else np.float32(cap) * np.tanh(x / np.float32(cap))


def _silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp may reach infinity; x over it is then 0
        return x / (np.float32(1) + np.exp(-x))


def _gelu_tanh(x: Floats) -> Floats:
    """GELU (arXiv 1606.08415) by its approximation with tanh."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * (x * x * x))
    return np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _relu2(x: Floats) -> Floats:
    return np.square(_relu(x))


_ACTIVATIONS: dict[Activation, Callable[[Floats], Floats]] = {
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "relu2": _relu2,
}
