"""A Llama in PyTorch, for training `evolute-tiny` and tables by centroid."""

# PyTorch is no dependency of this package, so it may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress, TextColumn, track

from evolute.support.files import FileError
from evolute.sw.language_model.model import LanguageModel, ModelConfig, dequantized

LEARNING_RATE = 1.2e-2  # of both optimizers, whose steps have the same root mean square
PROGRESS = Console(stderr=True)

Weights: TypeAlias = Mapping[str, torch.Tensor]
"""Tensors by the names of `ModelConfig.shapes`, the head being the embedding."""

Linears: TypeAlias = Callable[[Sequence[str], torch.Tensor], list[torch.Tensor]]
"""Linear layers by name, those together that share an input: [batch, position, K] -> of each
[batch, position, N]."""


def torch_weights(model: LanguageModel) -> Weights:
    """A model's tensors in float32. Rows of query and key weights are in half-split order, see
    `half_split`."""
    weights = {}
    for name, tensor in model.tensors.items():
        array = dequantized(tensor)
        weights[name] = torch.from_numpy(
            np.array(array[half_split(model.config, name, len(array))])
        )
    return weights


def half_split(config: ModelConfig, name: str, rows: int) -> np.ndarray:
    """The order of a tensor's rows with which the elements i and i + head_dim/2 of a head rotate
    together."""
    order = np.arange(rows)
    if config.rope_pairs == "interleaved" and name.endswith((".q", ".k")):
        order = order.reshape(-1, config.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
    return order


@dataclass(frozen=True)
class TorchCache:
    """Keys and values of earlier positions, each [layer, batch, kv head, position, head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor

    def rows(self, index: torch.Tensor) -> TorchCache:
        """The cache of some rows of the batch."""
        return TorchCache(self.keys[:, index], self.values[:, index])


def empty_cache(config: ModelConfig, batch: int) -> TorchCache:
    """A cache for `batch` sequences of the model's whole context, float32."""
    size = (config.layers, batch, config.kv_heads, config.context, config.head_dim)
    return TorchCache(torch.zeros(size), torch.zeros(size))


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention: each position attends to itself and earlier ones. All tensors are [batch,
    head, position, dim].

    It works in blocks of queries, which skips most of the masked part. PyTorch's own kernel takes
    twice as long on a CPU, most of it in the backward pass.
    """
    batch, heads, length, dim = query.shape
    query, key, value = (
        x.repeat_interleave(heads // x.shape[1], 1).flatten(0, 1) for x in (query, key, value)
    )
    parts = []
    for start in range(0, length, 128):
        end = min(start + 128, length)
        later = torch.full((end - start, end), -torch.inf, dtype=query.dtype).triu(start + 1)
        keys = key[:, :end].transpose(1, 2)
        scores = torch.baddbmm(later, query[:, start:end], keys, alpha=dim**-0.5)
        parts.append(scores.softmax(-1) @ value[:, :end])
    return torch.cat(parts, 1).view(batch, heads, length, dim)


def forward(
    config: ModelConfig,
    weights: Weights,
    ids: torch.Tensor,
    cache: TorchCache | None = None,
    start: int = 0,
    linear: Linears | None = None,
) -> torch.Tensor:
    """Logits, float32 [batch, position, vocab], for token ids [batch, position].

    The elements i and i + head_dim/2 of a head rotate together. Matrix products are computed in the
    dtype of the weights, norms and the residual stream in float32. With a cache, `ids` is the
    single position `start`, whose keys and values are added to the cache; query heads must equal
    key heads.
    """
    batch, length = ids.shape
    exponent = torch.arange(0, config.head_dim, 2) / config.head_dim
    angle = torch.outer(torch.arange(start, start + length), config.rope_theta**-exponent)
    cosine, sine = angle.cos(), angle.sin()

    def plain(names: Sequence[str], x: torch.Tensor) -> list[torch.Tensor]:
        return [F.linear(x, weights[name]) for name in names]

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, length, -1, config.head_dim).transpose(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().chunk(2, dim=-1)
        turned = torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
        return turned.to(x.dtype)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps)
        return (scaled * weights[name]).to(table.dtype)

    apply = linear or plain
    table = weights["embedding"]
    x = F.embedding(ids, table).float()
    for layer in range(config.layers):
        h = norm(x, f"{layer}.attention_norm")
        query, key, value = map(heads, apply([f"{layer}.{role}" for role in "qkv"], h))
        query, key = rotate(query), rotate(key)
        if cache is not None:
            cache.keys[layer, :, :, start : start + 1] = key
            cache.values[layer, :, :, start : start + 1] = value
            key = cache.keys[layer, :, :, : start + 1]
            value = cache.values[layer, :, :, : start + 1]
            mixed = F.scaled_dot_product_attention(query.float(), key, value).to(h.dtype)
        else:
            mixed = causal_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
        x = x + apply([f"{layer}.o"], mixed)[0]
        h = norm(x, f"{layer}.ffn_norm")
        gate, up = apply([f"{layer}.gate", f"{layer}.up"], h)
        x = x + apply([f"{layer}.down"], F.silu(gate) * up)[0]
    return F.linear(norm(x, "norm"), table).float()


@torch.inference_mode()
def sample_texts(
    config: ModelConfig, weights: Weights, rng: np.random.Generator, attempts: int, mark: int
) -> list[list[int]]:
    """Token ids of sampled texts that end within the context, without the mark before and after.

    Samples at temperature 1. Weights in bfloat16 are several times faster than in float32.
    """
    tokens = np.zeros((attempts, config.context), np.int64)
    lengths = np.full(attempts, -1)
    alive = np.arange(attempts)
    cache = empty_cache(config, attempts)
    ids = torch.full((attempts, 1), mark)
    for position in range(config.context):
        logits = forward(config, weights, ids, cache, position)[:, 0]
        below = logits.softmax(-1).cumsum(-1)
        draw = torch.from_numpy(rng.random((len(alive), 1), np.float32)) * below[:, -1:]
        ids = torch.searchsorted(below, draw, right=True).clamp_(max=config.vocab - 1)
        drawn = ids[:, 0].numpy()
        tokens[alive, position] = drawn
        lengths[alive[(drawn == mark) & (lengths[alive] < 0)]] = position
        if position % 16 == 15:  # thinning out the batch copies the cache, so not at every step
            keep = np.flatnonzero(lengths[alive] < 0)
            if not len(keep):
                break
            alive, index = alive[keep], torch.from_numpy(keep)
            cache, ids = cache.rows(index), ids[index]
    return [tokens[row, : lengths[row]].tolist() for row in np.flatnonzero(lengths > 0)]


def initial_weights(config: ModelConfig, rng: np.random.Generator) -> Weights:
    """Random float32 weights: norms are 1, and matrices keep the magnitude of their inputs."""
    weights = {}
    for name, shape in config.shapes().items():
        if name == "head":
            continue
        deviation = 0.02 if name == "embedding" else shape[-1] ** -0.5
        if name.endswith((".o", ".down")):  # what adds to the residual stream
            deviation /= math.sqrt(2 * config.layers)
        array = np.ones(shape) if len(shape) == 1 else rng.normal(0, deviation, shape)
        weights[name] = torch.from_numpy(array.astype(np.float32))
    return weights


def train_model(
    config: ModelConfig,
    stories: Sequence[Sequence[int]],
    rng: np.random.Generator,
    steps: int,
    batch: int,
) -> Weights:
    """Train float32 weights that predict the next token of stories, each of which begins with its
    mark.

    A sample is a window of the whole context that begins at a story and continues into the next
    ones. Matrices of the layers are optimized by Muon, the rest by AdamW; both have a short warm-up
    and a cosine schedule to zero. Products are computed in bfloat16. Raises `FileError` if all
    stories together do not fill one window.
    """
    stream = np.concatenate([np.asarray(story, np.int64) for story in stories])
    starts = np.cumsum([0, *(len(story) for story in stories)])
    starts = starts[starts + config.context < len(stream)]
    if not len(starts):
        raise FileError(f"corpus: must exceed {config.context} tokens, got {len(stream)}")
    weights = initial_weights(config, rng)
    for tensor in weights.values():
        tensor.requires_grad_()
    layers = [tensor for name, tensor in weights.items() if name != "embedding" and tensor.ndim > 1]
    others = [tensor for name, tensor in weights.items() if name == "embedding" or tensor.ndim == 1]
    optimizers = [
        torch.optim.Muon(
            layers, lr=LEARNING_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    columns = (*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, console=PROGRESS) as progress:
        task = progress.add_task("training", total=steps, loss=math.log(config.vocab))
        for _ in range(steps):
            picked = rng.choice(starts, batch)
            window = torch.from_numpy(stream[picked[:, None] + np.arange(config.context + 1)])
            half = {name: tensor.bfloat16() for name, tensor in weights.items()}
            logits = forward(config, half, window[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            progress.update(task, advance=1, loss=loss.item())
    return {name: tensor.detach() for name, tensor in weights.items()}


@dataclass(frozen=True)
class Score:
    """How well a model predicts stories, including their ends."""

    nats: float
    tokens: int
    characters: int

    @property
    def perplexity(self) -> float:
        """Perplexity per token of the model's own vocabulary."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_character(self) -> float:
        """Bits per character, which can be compared between vocabularies."""
        return self.nats / math.log(2) / self.characters


@torch.inference_mode()
def score(model: LanguageModel, texts: Sequence[str]) -> Score:
    """Score a model on texts, each one separately between two of the marks that begin a text."""
    weights, (mark,) = torch_weights(model), model.tokenizer.prefix
    nats, tokens = 0.0, 0
    for text in track(texts, "scoring", console=PROGRESS):
        story = model.tokenizer.encode(text)
        ids = torch.tensor([[mark, *story, mark]])
        logits = forward(model.config, weights, ids[:, :-1])
        nats += F.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += len(story) + 1
    return Score(nats, tokens, sum(map(len, texts)))
