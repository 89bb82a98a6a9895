"""A language model as data: its shape, named tensors and tokenizer, whatever file held them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evolute.sim.weights import Codebook, Grid, Table
from evolute.sw.language_model.tokenizer import TextTokenizer
from evolute.sw.tensors.stored import CheckpointError, Tensor, is_coded, shape_of, without
from evolute.sw.tensors.tensor import Coded, QuantTensor

Activation = Literal["silu", "gelu_tanh", "relu", "relu2"]

_COUNTS = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context")
_POSITIVE = ("rope_theta", "norm_eps", "embedding_scale", "query_divisor", "local_rope_theta")


def dequantized(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's weights as float32."""
    return tensor.dequantize() if isinstance(tensor, Coded) else tensor


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only language model: its shape, and how families differ, as data.

    What has a default is so in Llama. Raises `ValueError` where it is impossible.
    """

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
    rope_pairs: Literal["interleaved", "halves"] | None
    """Which elements of a head turn together: (2i, 2i+1), or (i, i + head_dim/2). None: positions
    are learned and added to embeddings, the tensor `positions`."""
    rope_factors: tuple[float, ...] = ()
    """What divides the speed of each pair, where positions are stretched for a longer context."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm, whose norms have a bias."""
    norms: tuple[str, ...] = ("attention_norm", "ffn_norm")
    """The norms of a block: before each half, after it (`attention_post_norm`, `ffn_post_norm`), of
    each head's queries and keys (`q_norm`, `k_norm`), and of the inputs of `o` and `down`
    (`o_norm`, `down_norm`)."""
    biases: tuple[str, ...] = ()
    """The linear layers of a block that add a bias."""
    activation: Activation = "silu"
    gated: bool = True
    """Whether `up` is multiplied by the activation of `gate`, or is itself activated."""
    embedding_scale: float = 1.0
    query_divisor: float | None = None
    """Scores are divided by its square root; None: by that of `head_dim`."""
    score_cap: float | None = None
    """Scores s become cap * tanh(s / cap)."""
    logit_cap: float | None = None
    """The same of logits."""
    window: int | None = None
    """How many tokens a local layer attends to, the present one included."""
    local_layers: tuple[int, ...] = ()
    local_rope_theta: float | None = None
    """Theta in local layers, without `rope_factors`; None: as in the others."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 1 << 24:
                raise ValueError(f"{name} must be in 1..2^24, got {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads ({self.heads}), got {self.kv_heads}")
        if self.rope_pairs and self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        for name in _POSITIVE:
            value = getattr(self, name)
            optional = value is None and name in ("query_divisor", "local_rope_theta")
            if not optional and (type(value) is not float or not 0 < value < 1e12):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        for name in ("score_cap", "logit_cap"):
            value = getattr(self, name)
            if value is not None and (type(value) is not float or not 0 < value < 1e12):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.rope_factors and len(self.rope_factors) != self.head_dim // 2:
            rule = f"one for each of {self.head_dim // 2} pairs"
            raise ValueError(f"rope_factors must be {rule}, got {len(self.rope_factors)}")
        for factor in self.rope_factors:
            if type(factor) is not float or not 0 < factor < 1e12:
                raise ValueError(f"rope_factors must be positive numbers, got {factor!r}")
        if self.local_layers and (type(self.window) is not int or self.window < 1):
            raise ValueError(f"window must be at least 1, got {self.window!r}")

    def layer_linears(self) -> dict[str, tuple[int, int]]:
        """Shape (N, K) of the linear layers of one block, in the order they run."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        gate = {"gate": (self.ffn, self.hidden)} if self.gated else {}
        return {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            **gate,
            "up": (self.ffn, self.hidden),
            "down": (self.hidden, self.ffn),
        }

    @property
    def shared_inputs(self) -> tuple[tuple[str, ...], ...]:
        """The linear layers of a block in the order they run, those together with one input."""
        return (("q", "k", "v"), ("o",), ("gate", "up") if self.gated else ("up",), ("down",))

    def norm_sizes(self) -> dict[str, int]:
        """Size of every norm of a block."""
        sizes = {"q_norm": self.head_dim, "k_norm": self.head_dim}
        sizes |= {"o_norm": self.heads * self.head_dim, "down_norm": self.ffn}
        return {name: sizes.get(name, self.hidden) for name in self.norms}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape; `head` may be absent, then it is the embedding."""
        linears, norms = self.layer_linears(), self.norm_sizes()
        block: dict[str, tuple[int, ...]] = {name: (size,) for name, size in norms.items()}
        if self.norm == "layer":
            block |= {f"{name}_bias": (size,) for name, size in norms.items()}
        block |= linears
        block |= {f"{role}_bias": (linears[role][0],) for role in self.biases}
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocab, self.hidden)}
        if self.rope_pairs is None:
            shapes["positions"] = (self.context, self.hidden)
        for layer in range(self.layers):
            shapes |= {f"{layer}.{name}": shape for name, shape in block.items()}
        shapes["norm"] = (self.hidden,)
        if self.norm == "layer":
            shapes["norm_bias"] = (self.hidden,)
        return shapes | {"head": (self.vocab, self.hidden)}


@dataclass(frozen=True)
class Parent:
    """The model that another one was made of."""

    name: str
    path: str | None = None
    """Of its file or folder; None for one of the named models."""
    digest: str | None = None
    """Its `model_digest`; None where nobody took it."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A loaded checkpoint; `checked` holds for it.

    A tensor is a float32 array, or `Coded` where the file stores codes that an engine can multiply
    as they are. Names are those of `ModelConfig.shapes`.
    """

    name: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    tokenizer: TextTokenizer
    parent: Parent | None = None
    """What it was quantized or converted from, if the file says so."""

    @property
    def params(self) -> int:
        """Stored weights; a tied head counts once."""
        return sum(math.prod(shape_of(self.tensors, name)) for name in self.tensors)

    @property
    def has_codes(self) -> bool:
        """Whether any tensor comes as codes, so that `native` weights exist."""
        return any(is_coded(self.tensors, name) for name in self.tensors)

    def matrix(self, name: str) -> Tensor:
        """The weights of the linear layer `name`; those of `head` may be the embedding."""
        return self.tensors[self._stored(name)]

    def codes(self, name: str) -> Coded | None:
        """The same if they are in codes; floats are not read only to find that they are none."""
        tensor = self.matrix(name) if is_coded(self.tensors, self._stored(name)) else None
        return tensor if isinstance(tensor, Coded) else None

    @property
    def head(self) -> Tensor:
        """The output matrix, which may be the embedding."""
        return self.matrix("head")

    def _stored(self, name: str) -> str:
        return "embedding" if name == "head" and name not in self.tensors else name


def _require_idle(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], name: str
) -> None:
    """Raise `CheckpointError` unless a tensor that such a model has not is a bias that adds zeros,
    which some tools write for every layer."""
    of = name.removesuffix("_bias")
    if of == name or shape_of(tensors, name) != shapes.get(of, ())[:1]:
        raise CheckpointError(path, f"tensor {name} is not part of such a model")
    if dequantized(tensors[name]).any():
        raise CheckpointError(path, f"tensor {name}: such a model has no bias there, and it adds")


def model_digest(model: LanguageModel) -> str:
    """Hex digits that differ for models that differ in their config or in any weight.

    What of the config is as in Llama does not count, so that models keep their digests when configs
    learn to say more.
    """
    plain = {field.name: field.default for field in fields(ModelConfig)}
    own = {name: value for name, value in vars(model.config).items() if value != plain[name]}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, tuple):
            for item in value:
                add(item)
        elif isinstance(value, QuantTensor):
            add(_identity(value))
        elif is_dataclass(value):
            for field in fields(value):
                add(getattr(value, field.name))
        else:
            digest.update(repr(value).encode())

    for name in sorted(model.tensors):
        add(name)
        add(model.tensors[name])
    return digest.hexdigest()


def _identity(tensor: QuantTensor) -> tuple[Any, ...]:
    """What `model_digest` takes of a tensor: the same for all forms of weights, then for each form
    what it has of its own in a place of its own, so that no two forms are alike."""
    special = books = centroids = None
    match form := tensor.form:
        case Grid():
            special = form.special if form.format.specials else None
        case Codebook(books=(first, *others)):
            books = (form.along, *first, others[0] if others else None)
        case Table():
            centroids = form.centroids
    grid = tensor.codes, tensor.format, tensor.group, tensor.scale, tensor.minimum
    return (*grid, tensor.group_bits, special, books, centroids)


def checked(path: Path, model: LanguageModel) -> LanguageModel:
    """`model`, if tensors and tokens fit its config, without biases that it has not and that are
    zeros.

    Raises `CheckpointError` naming the first tensor or token that is wrong. Values are checked as
    they are read, see `sw.tensors.stored`.
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
        if (actual := shape_of(model.tensors, name)) != shape:
            raise CheckpointError(path, f"tensor {name}: must be {shape}, got {actual}")
    unknown = sorted(set(model.tensors) - set(shapes))
    for name in unknown:
        _require_idle(path, model.tensors, shapes, name)
    model = replace(model, tensors=without(model.tensors, unknown)) if unknown else model
    tokenizer, vocab = model.tokenizer, range(model.config.vocab)
    ids = (*tokenizer.library.get_vocab().values(), *tokenizer.prefix, *tokenizer.stops)
    if strays := [token for token in ids if token not in vocab]:
        raise CheckpointError(path, f"token {strays[0]!r} is not in 0..{len(vocab) - 1}")
    return model
