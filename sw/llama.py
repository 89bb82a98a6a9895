"""The Llama forward pass in NumPy float32; who multiplies the linear layers is the caller's choice.

Touvron et al., "LLaMA" (arXiv 2302.13971): RMSNorm before each half of a block, rotary positions,
SwiGLU; with grouped-query attention (arXiv 2305.13245).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import require
from sw.linear import Linears
from sw.model import LanguageModel, LlamaConfig
from sw.tensor import Coded

Floats = NDArray[np.float32]

_QUERY_BLOCK = 256
"""Queries that attend at once; bounds the score matrix of a long prompt."""


class Cache:
    """Keys and values of the tokens so far, float32 [layers, kv_heads, capacity, head_dim].

    Raises `SpecError` if `capacity`, in tokens, exceeds the model's context.
    """

    def __init__(self, config: LlamaConfig, capacity: int):
        require(capacity <= config.context, "context", f"at most {config.context}", capacity)
        shape = (config.layers, config.kv_heads, capacity, config.head_dim)
        self.keys, self.values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0


def forward(
    model: LanguageModel, linear: Linears, tokens: Sequence[int], cache: Cache
) -> NDArray[np.float32]:
    """Run `tokens` after those in `cache`, which grows; float32 [tokens, hidden].

    The result is the normalized last layer, of which `head` makes logits.
    """
    config = model.config
    x = _embedding(model, tokens)
    angles = _angles(config, cache.length, len(tokens))
    for layer in range(config.layers):

        def apply(a: Floats, *roles: str, layer: int = layer) -> list[Floats]:
            return linear([f"{layer}.{role}" for role in roles], a)

        a = _normalized(model, f"{layer}.attention_norm", x)
        queries, keys, values = apply(a, "q", "k", "v")
        queries = _turned(config, _heads(queries, config.heads), angles)
        past, end = cache.length, cache.length + len(tokens)
        cache.keys[layer, :, past:end] = _turned(config, _heads(keys, config.kv_heads), angles)
        cache.values[layer, :, past:end] = _heads(values, config.kv_heads)
        mixed = _attention(queries, cache.keys[layer, :, :end], cache.values[layer, :, :end])
        (o,) = apply(mixed, "o")
        x = x + o
        gate, up = apply(_normalized(model, f"{layer}.ffn_norm", x), "gate", "up")
        (down,) = apply(_silu(gate) * up, "down")
        x = x + down
    cache.length += len(tokens)
    return _normalized(model, "norm", x)


def head(linear: Linears, hidden: Floats) -> Floats:
    """The logits, float32 [tokens, vocab], of what `forward` gave."""
    (logits,) = linear(["head"], hidden)
    return logits


def generate(
    model: LanguageModel,
    linear: Linears,
    prompt: Sequence[int],
    count: int,
    choose: Callable[[Floats], int],
) -> Iterator[int]:
    """Up to `count` tokens after `prompt`, each chosen from the logits, float32 [vocab].

    Ends early at one of the tokenizer's stop tokens, which is not given back. Raises `SpecError`
    if the prompt is empty or leaves no room in the context.
    """
    require(len(prompt) > 0, "prompt", "at least one token", list(prompt))
    cache, step = Cache(model.config, len(prompt) + count), list(prompt)
    for _ in range(count):
        last = forward(model, linear, step, cache)[-1:]
        token = choose(head(linear, last)[0])
        if token in model.tokenizer.stops:
            return
        yield token
        step = [token]


def greedy(logits: Floats) -> int:
    """The most likely token, the first of equals."""
    return int(np.argmax(logits))


def sampler(temperature: float, rng: np.random.Generator) -> Callable[[Floats], int]:
    """Draws tokens in proportion to exp(logit / temperature)."""

    def sample(logits: Floats) -> int:
        scaled = logits.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    return sample


def _embedding(model: LanguageModel, tokens: Sequence[int]) -> Floats:
    table, rows = model.tensors["embedding"], np.asarray(tokens)
    return table.rows(rows, np.float32) if isinstance(table, Coded) else table[rows]


def _normalized(model: LanguageModel, name: str, x: Floats) -> Floats:
    """RMSNorm (arXiv 1910.07467)."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean + np.float32(model.config.norm_eps)) * model.tensors[name]


def _heads(x: Floats, heads: int) -> Floats:
    """[tokens, heads * head_dim] -> [heads, tokens, head_dim]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _angles(config: LlamaConfig, start: int, count: int) -> NDArray[np.complex64]:
    """Rotary turns as unit complex numbers [count, head_dim / 2] (arXiv 2104.09864, Eq. 15)."""
    pair = np.arange(config.head_dim // 2)
    speed = config.rope_theta ** (-2.0 * pair / config.head_dim)
    return np.exp(1j * np.outer(np.arange(start, start + count), speed)).astype(np.complex64)


def _turned(config: LlamaConfig, x: Floats, angles: NDArray[np.complex64]) -> Floats:
    """Each pair of elements turned by its angle, as one complex number."""
    turned: NDArray[np.complex64]
    if config.rope_pairs == "halves":
        first, second = np.split(x, 2, axis=-1)
        turned = np.multiply(first + 1j * second, angles, dtype=np.complex64)
        return np.concatenate([turned.real, turned.imag], axis=-1, dtype=np.float32)
    turned = np.multiply(np.ascontiguousarray(x).view(np.complex64), angles, dtype=np.complex64)
    return turned.view(np.float32)


def _attention(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Causal attention of the last tokens over all: [heads, M, d], [kv_heads, T, d] -> [M, h*d]."""
    heads, count, dim = queries.shape
    kv_heads, total, _ = keys.shape
    shared = heads // kv_heads
    mixed = np.empty((count, heads, dim), np.float32)
    for start in range(0, count, _QUERY_BLOCK):
        block = queries[:, start : start + _QUERY_BLOCK]
        size = block.shape[1]
        seen = total - count + start + size  # later keys are in nobody's past
        rows = block.reshape(kv_heads, shared * size, dim) / np.float32(np.sqrt(dim))
        scores = rows @ keys[:, :seen].transpose(0, 2, 1)
        latest = scores.reshape(kv_heads, shared, size, seen)[..., seen - size :]
        np.copyto(latest, -np.inf, where=np.triu(np.ones((size, size), bool), 1))
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        out = scores @ values[:, :seen] / scores.sum(axis=-1, keepdims=True)
        mixed[start : start + size] = out.reshape(heads, size, dim).transpose(1, 0, 2)
    return mixed.reshape(count, heads * dim)


def _silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp may reach infinity; x over it is then 0
        return x / (np.float32(1) + np.exp(-x))
