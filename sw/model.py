"""A language model as data: its shape, named tensors and tokenizer, whatever file held them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hw.spec.base import RefusedError
from sw.tensor import Coded, parted
from sw.tokenizer import TextTokenizer

Tensor: TypeAlias = NDArray[np.float32] | Coded

SHARED_INPUTS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""The linear layers of a block in the order they run, those together that have one input."""


def dequantized(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's weights as float32."""
    return tensor.dequantize() if isinstance(tensor, Coded) else tensor


class CheckpointError(RefusedError):
    """A model file that is broken or of a kind not supported; names the file and what is wrong."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of a Llama-family model. Raises `ValueError` where it is impossible."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rope_theta: float
    norm_eps: float
    rope_pairs: Literal["interleaved", "halves"]
    """Which elements of a head turn together: (2i, 2i+1), or (i, i + head_dim/2)."""

    def __post_init__(self) -> None:
        for name in (
            "hidden",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "ffn",
            "vocab",
            "context",
        ):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 1 << 24:
                raise ValueError(f"{name} must be in 1..2^24, got {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads ({self.heads}), got {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if type(value) is not float or not 0 < value < 1e12:
                raise ValueError(f"{name} must be a positive number, got {value!r}")

    def layer_linears(self) -> dict[str, tuple[int, int]]:
        """Shape (N, K) of the linear layers of one block, in the order they run."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            "gate": (self.ffn, self.hidden),
            "up": (self.ffn, self.hidden),
            "down": (self.hidden, self.ffn),
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape; `head` may be absent, then it is the embedding."""
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            shapes[f"{layer}.attention_norm"] = shapes[f"{layer}.ffn_norm"] = (self.hidden,)
            for role, shape in self.layer_linears().items():
                shapes[f"{layer}.{role}"] = shape
        return shapes | {"norm": (self.hidden,), "head": (self.vocab, self.hidden)}


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A loaded checkpoint; `check` holds for it.

    A tensor is a float32 array, or `Coded` where the file stores codes that an engine can multiply
    as they are. Names are those of `LlamaConfig.shapes`.
    """

    name: str
    config: LlamaConfig
    tensors: Mapping[str, Tensor]
    tokenizer: TextTokenizer

    @property
    def params(self) -> int:
        """Stored weights; a tied head counts once."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def has_codes(self) -> bool:
        """Whether any tensor comes as codes, so that `native` weights exist."""
        return any(isinstance(tensor, Coded) for tensor in self.tensors.values())

    @property
    def head(self) -> Tensor:
        """The output matrix, which may be the embedding."""
        return self.tensors.get("head", self.tensors["embedding"])


def _numbers(tensor: Tensor) -> Iterator[NDArray[np.floating]]:
    """What must be finite."""
    if not isinstance(tensor, Coded):
        yield tensor
        return
    whole = parted(tensor)
    yield from (each for each in (whole.scale, whole.bias) if each is not None)
    for part in whole.parts:
        yield part.scale
        yield part.minimum


def checked(path: Path, model: LanguageModel) -> LanguageModel:
    """`model`, if tensors and tokens fit its config and all weights are finite.

    Raises `CheckpointError` naming the first tensor or token that is wrong.
    """
    # The count bounds the list of expected names before a hostile `layers` can blow it up.
    if model.config.layers > len(model.tensors):
        raise CheckpointError(
            path, f"{model.config.layers} layers but {len(model.tensors)} tensors"
        )
    shapes = model.config.shapes()
    for name, shape in shapes.items():
        if name not in model.tensors:
            if name == "head":
                continue
            raise CheckpointError(path, f"tensor {name} is missing")
        tensor = model.tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(path, f"tensor {name}: must be {shape}, got {tensor.shape}")
        if not all(np.isfinite(array).all() for array in _numbers(tensor)):
            raise CheckpointError(path, f"tensor {name}: holds a number that is not finite")
    if unknown := sorted(set(model.tensors) - set(shapes)):
        raise CheckpointError(path, f"tensor {unknown[0]} is not part of a plain Llama model")
    tokenizer, vocab = model.tokenizer, range(model.config.vocab)
    ids = (*tokenizer.library.get_vocab().values(), *tokenizer.prefix, *tokenizer.stops)
    if strays := [token for token in ids if token not in vocab]:
        raise CheckpointError(path, f"token {strays[0]!r} is not in 0..{len(vocab) - 1}")
    return model
