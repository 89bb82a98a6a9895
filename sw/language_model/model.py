"""A language model as data: its shape, named tensors and tokenizer, independent of the file
format."""

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
    """The shape of a decoder-only language model, and how its family differs from others.

    The defaults are those of Llama. Raises `ValueError` for an impossible shape.
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
    """Which elements of a head rotate together: (2i, 2i+1), or (i, i + head_dim/2). None: positions
    are learned, and the tensor `positions` is added to embeddings."""
    rope_factors: tuple[float, ...] = ()
    """Divisors of the rotation speed of each pair, where positions are stretched for a longer
    context."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm, whose tensors include a bias."""
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
    """Attention scores are divided by its square root; None: by the square root of `head_dim`."""
    score_cap: float | None = None
    """With a cap, an attention score s becomes cap * tanh(s / cap)."""
    logit_cap: float | None = None
    """The same for logits."""
    window: int | None = None
    """The number of tokens that a local layer attends to, the current one included."""
    local_layers: tuple[int, ...] = ()
    local_rope_theta: float | None = None
    """Theta in local layers, where `rope_factors` do not apply; None: theta and factors as in other
    layers."""

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
        """Shape (N, K) of each linear layer of a block, in the order in which they run."""
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
        """The linear layers of a block in the order in which they run; layers with the same input
        are together."""
        return (("q", "k", "v"), ("o",), ("gate", "up") if self.gated else ("up",), ("down",))

    def norm_sizes(self) -> dict[str, int]:
        """Size of every norm of a block."""
        sizes = {"q_norm": self.head_dim, "k_norm": self.head_dim}
        sizes |= {"o_norm": self.heads * self.head_dim, "down_norm": self.ffn}
        return {name: sizes.get(name, self.hidden) for name in self.norms}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape. `head` may be missing from a model; then the embedding is
        used."""
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
    """The model from which another one was made."""

    name: str
    path: str | None = None
    """Of its file or folder; None for one of the named models."""
    digest: str | None = None
    """Its `model_digest`; None where nobody took it."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A loaded checkpoint that `checked` has accepted.

    A tensor is a float32 array, or `Coded` if the file stores codes that an engine can multiply
    directly. The names are those of `ModelConfig.shapes`.
    """

    name: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    tokenizer: TextTokenizer
    parent: Parent | None = None
    """What it was quantized or converted from, if the file says so."""

    @property
    def params(self) -> int:
        """The number of stored weights; a head that is tied to the embedding counts once."""
        return sum(math.prod(shape_of(self.tensors, name)) for name in self.tensors)

    @property
    def has_codes(self) -> bool:
        """Whether any tensor is stored as codes, so that `native` weights exist."""
        return any(is_coded(self.tensors, name) for name in self.tensors)

    def matrix(self, name: str) -> Tensor:
        """The weights of the linear layer `name`. For `head`, this may be the embedding."""
        return self.tensors[self._stored(name)]

    def codes(self, name: str) -> Coded | None:
        """The weights of the linear layer `name` if they are stored as codes, else None. Float
        weights are not read."""
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
    """Raise `CheckpointError` for a tensor that is not part of such a model, unless it is a bias of
    zeros, which some tools write for every layer."""
    weight_name = name.removesuffix("_bias")
    if weight_name == name or shape_of(tensors, name) != shapes.get(weight_name, ())[:1]:
        raise CheckpointError(path, f"tensor {name} is not part of such a model")
    if dequantized(tensors[name]).any():
        raise CheckpointError(path, f"tensor {name}: such a model has no bias there, and it adds")


def model_digest(model: LanguageModel) -> str:
    """Hex digits that differ between models whose config or weights differ.

    Config fields with Llama's values do not count, so that existing models keep their digests when
    new fields are added.
    """
    plain = {field.name: field.default for field in fields(ModelConfig)}
    differing = {name: value for name, value in vars(model.config).items() if value != plain[name]}
    digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode())

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
    """The parts of a tensor that `model_digest` includes: those common to all forms of weights,
    then one place for each form, so that two forms never give the same digest."""
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
    """Returns `model` if its tensors and tokens fit its config, without biases of zeros that such a
    model does not have.

    Raises `CheckpointError` naming the first tensor or token that is wrong. Values are checked when
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
