"""The shape of a model: what its blocks consist of and how large each part is, without weights.

A shape says enough to list every operation of a token (`sim.workload.operations`) and to count a
model's parameters. Sizes may differ from block to block. A shape is read from a checkpoint's
configuration, or from an entry of the zoo (`sim.workload.zoo`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from evolute.hw.spec.base import require
from evolute.sim.workload.linear import HEAD, LayerName
from evolute.sim.workload.sparsity import dropped


class Matrix(NamedTuple):
    """A linear layer's weights: N outputs by K inputs, and whether it adds a bias."""

    role: str
    n: int
    k: int
    bias: bool = False

    @property
    def params(self) -> int:
        return self.n * self.k + (self.n if self.bias else 0)


def _require_positive(record: object, *names: str) -> None:
    """Raise `SpecError` unless the fields of these names are at least 1."""
    for name in names:
        require(getattr(record, name) >= 1, name, "at least 1", getattr(record, name))


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): the cache holds one
    vector per token for all heads, from which keys and values are made."""

    rank: int
    """Numbers of the vector that keys and values are made of."""
    rotary: int
    """Numbers beside it that hold the position, the same for all heads."""

    def __post_init__(self) -> None:
        _require_positive(self, "rank")


@dataclass(frozen=True, kw_only=True)
class ChosenBlocks:
    """Attention to some blocks of the cache only, chosen anew for every token (SeerAttention, arXiv
    2410.13276; InfLLM v2, arXiv 2509.24663).

    For each `summary_stride` tokens of the cache a vector of `summary_dim` numbers is kept per head
    of keys. All of them are read and scored first; then the best blocks are visited.
    """

    block: int
    """Tokens of a block."""
    budget: int
    """Tokens visited at most, those always visited included."""
    summary_stride: int
    summary_dim: int
    dense: int = 0
    """Up to how many tokens in the cache all are visited."""

    def __post_init__(self) -> None:
        _require_positive(self, "block", "budget", "summary_stride", "summary_dim")


@dataclass(frozen=True, kw_only=True)
class StridedBlocks:
    """Attention to a fixed pattern of blocks of the cache (Phi-3-small, arXiv 2404.14219, section
    2): the last ones, and of those before them every `stride`-th. Which ones these are differs from
    head to head in turn."""

    block: int
    """Tokens of a block."""
    local: int
    """Blocks at the end that every head visits, that of the token itself included."""
    stride: int

    def __post_init__(self) -> None:
        _require_positive(self, "block", "local", "stride")


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention with separate numbers of heads and separate widths of keys and values."""

    heads: int
    key_heads: int
    value_heads: int
    key_dim: int
    """Numbers of one head's query and key."""
    value_dim: int
    """Numbers of one head's value."""
    query_rank: int | None = None
    """Width between the two matrices that queries are made with; None where it is one matrix."""
    latent: Latent | None = None
    rotary: bool = True
    """Whether positions turn queries and keys."""
    window: int | None = None
    """Tokens that a token attends to at most, itself included; None for all before it."""
    chosen: ChosenBlocks | None = None
    strided: StridedBlocks | None = None
    causal: bool = True
    """Whether a token attends only to those before it; an encoder's attends to all."""
    biases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_positive(self, "heads", "key_heads", "value_heads", "key_dim", "value_dim")
        for name in ("key_heads", "value_heads"):
            rule = f"a divisor of {self.heads} heads"
            require(self.heads % getattr(self, name) == 0, name, rule, getattr(self, name))
        if self.window is not None:
            require(self.window >= 1, "window", "at least 1", self.window)

    def matrices(self, hidden: int) -> tuple[Matrix, ...]:
        """The linear layers, in the order they run."""
        queries, biases = self.heads * self.key_dim, self.biases
        if self.query_rank is None:
            query = (Matrix("q", queries, hidden, "q" in biases),)
        else:
            query = (
                Matrix("q_down", self.query_rank, hidden),
                Matrix("q", queries, self.query_rank, "q" in biases),
            )
        out = Matrix("o", hidden, self.heads * self.value_dim, "o" in biases)
        if self.latent is not None:
            own_key = self.key_dim - self.latent.rotary
            made = self.heads * (own_key + self.value_dim)
            return (
                *query,
                Matrix("kv_down", self.latent.rank + self.latent.rotary, hidden),
                Matrix("kv_up", made, self.latent.rank),
                out,
            )
        return (
            *query,
            Matrix("k", self.key_heads * self.key_dim, hidden, "k" in biases),
            Matrix("v", self.value_heads * self.value_dim, hidden, "v" in biases),
            out,
        )

    @property
    def token_numbers(self) -> tuple[int, int]:
        """Numbers of keys and of values that the cache holds per token; a latent vector counts as
        keys."""
        if self.latent is not None:
            return self.latent.rank + self.latent.rotary, 0
        return self.key_heads * self.key_dim, self.value_heads * self.value_dim

    @property
    def token_vectors(self) -> int:
        """Vectors that the cache holds per token; where it holds codes, each has a scale."""
        return 1 if self.latent is not None else self.key_heads + self.value_heads


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A selective state space in the place of attention (Mamba, arXiv 2312.00752, section 3)."""

    inner: int
    state: int
    taps: int
    """Tokens that the convolution before the scan sees."""
    rank: int
    """Width between the two matrices that the step sizes are made with."""

    def __post_init__(self) -> None:
        _require_positive(self, "inner", "state", "taps", "rank")

    def matrices(self, hidden: int) -> tuple[Matrix, ...]:
        return (
            Matrix("in", 2 * self.inner, hidden),
            Matrix("x", self.rank + 2 * self.state, self.inner),
            Matrix("dt", self.inner, self.rank, bias=True),
            Matrix("out", hidden, self.inner),
        )

    @property
    def other_params(self) -> int:
        """The convolution with its bias, and what the state decays and passes by with."""
        return self.inner * (self.taps + 1) + self.inner * self.state + self.inner

    @property
    def state_numbers(self) -> int:
        """Numbers that a sequence keeps from token to token."""
        return self.inner * (self.state + self.taps)


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """A linear gated recurrence in the place of attention (MatMul-free LM, arXiv 2406.02528,
    section 3.3): the state of a channel is a forget gate times itself plus an input."""

    width: int

    def __post_init__(self) -> None:
        _require_positive(self, "width")

    def matrices(self, hidden: int) -> tuple[Matrix, ...]:
        gates = tuple(Matrix(role, self.width, hidden) for role in ("i", "f", "g"))
        return (*gates, Matrix("o", hidden, self.width))

    @property
    def state_numbers(self) -> int:
        return self.width


Mixer = Attention | Scan | Recurrence
"""What lets tokens see each other."""


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """The second half of a block: `down(activation(gate x) * up x)`, or without a gate.

    With `experts`, each token is sent to `active` of them, and a router chooses; `width` is then
    that of one expert.
    """

    width: int
    gated: bool = True
    activation: str = "silu"
    experts: int = 1
    active: int = 1
    biases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_positive(self, "width")
        require(1 <= self.active <= self.experts, "active", f"in 1..{self.experts}", self.active)

    def matrices(self, hidden: int) -> tuple[Matrix, ...]:
        """The linear layers of one expert, in the order they run."""
        gate = (Matrix("gate", self.width, hidden, "gate" in self.biases),) if self.gated else ()
        return (
            *gate,
            Matrix("up", self.width, hidden, "up" in self.biases),
            Matrix("down", hidden, self.width, "down" in self.biases),
        )

    @property
    def is_routed(self) -> bool:
        return self.experts > 1


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """A block sees a part of the tokens: of the first `prompt` of a sequence all but a share, and
    all later ones; where that is None, of all that there are."""

    share: float
    prompt: int | None = None

    def of(self, tokens: int) -> int:
        """How many of the first `tokens` of a sequence are seen; one at least."""
        first = tokens if self.prompt is None else min(tokens, self.prompt)
        return tokens - dropped(self.share, first)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a model. Either half may be missing."""

    mixer: Mixer | None
    feed_forward: FeedForward | None
    norms: tuple[str, ...] = ("attention_norm", "ffn_norm")
    """As `ModelConfig.norms`: before and after the halves, and of heads and inner vectors."""
    tokens: KeptTokens | None = None
    """Which tokens it sees; None for all."""

    def seen(self, tokens: int) -> int:
        """How many of the first `tokens` of a sequence it sees."""
        return tokens if self.tokens is None else self.tokens.of(tokens)

    def norm_size(self, name: str, hidden: int) -> int:
        """Numbers that a norm of this name has weights for."""
        match name, self.mixer, self.feed_forward:
            case "q_norm" | "k_norm", Attention() as attention, _:
                return attention.key_dim
            case "o_norm", Attention() as attention, _:
                return attention.heads * attention.value_dim
            case "o_norm", Recurrence() as recurrence, _:
                return recurrence.width
            case "kv_norm", Attention(latent=Latent() as latent), _:
                return latent.rank
            case "down_norm", _, FeedForward() as feed_forward:
                return feed_forward.width
            case _:
                return hidden

    def params(self, hidden: int, norm_vectors: int) -> int:
        """Parameters of the block; a norm has `norm_vectors` vectors of them."""
        total = norm_vectors * sum(self.norm_size(name, hidden) for name in self.norms)
        if self.mixer is not None:
            total += sum(matrix.params for matrix in self.mixer.matrices(hidden))
            total += getattr(self.mixer, "other_params", 0)
        if (half := self.feed_forward) is not None:
            total += half.experts * sum(matrix.params for matrix in half.matrices(hidden))
            total += half.experts * hidden if half.is_routed else 0
        return total


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model without weights. Raises `SpecError` where a size is impossible."""

    name: str
    family: str
    hidden: int
    vocab: int
    context: int
    """Tokens that it was made for at most."""
    tied: bool
    """Whether the output head has the weights of the embedding."""
    blocks: tuple[Block, ...] = field(repr=False)
    norm: Literal["rms", "layer"] = "rms"
    learned_positions: int = 0
    """Positions that have a vector of their own, which is added to the embedding."""
    has_head: bool = True
    """Whether it predicts tokens; an encoder does not."""
    final_norm: bool = True
    other_params: int = 0
    """Parameters that take no part in the operations of a token, such as an encoder's pooler."""

    def __post_init__(self) -> None:
        for name in ("hidden", "vocab", "context"):
            value = getattr(self, name)
            require(1 <= value <= 1 << 24, name, "in 1..2^24", value)
        require(1 <= len(self.blocks) <= 1 << 12, "layers", "in 1..4096", len(self.blocks))

    @functools.cached_property
    def params(self) -> int:
        """Stored weights; a tied head counts once."""
        norm_vectors = 2 if self.norm == "layer" else 1
        embeddings = (self.vocab + self.learned_positions) * self.hidden
        head = self.vocab * self.hidden if self.has_head and not self.tied else 0
        final = norm_vectors * self.hidden if self.final_norm else 0
        blocks = sum(block.params(self.hidden, norm_vectors) for block in self.blocks)
        return embeddings + head + final + blocks + self.other_params

    def matrices(self) -> tuple[tuple[LayerName, Matrix], ...]:
        """Every linear layer of a token, in the order they run, the head last; of experts the
        layers of one."""
        named = [
            (LayerName(number, matrix.role), matrix)
            for number, block in enumerate(self.blocks)
            for half in (block.mixer, block.feed_forward)
            if half is not None
            for matrix in half.matrices(self.hidden)
        ]
        if self.has_head:
            named.append((HEAD, Matrix("head", self.vocab, self.hidden)))
        return tuple(named)

    @property
    def layers(self) -> int:
        return len(self.blocks)


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution as the matrix product that im2col makes of it: the weights of N = `outputs`
    filters, each with K = `inputs` * `side`^2 weights, times one column per position. A fully
    connected layer is one of side 1 at one position."""

    name: str
    inputs: int
    outputs: int
    side: int
    """Height and width of a filter."""
    positions: int
    """Places of one image that have outputs: their height times their width."""
    count: int = 1
    """Layers in a row that are alike."""
    bias: bool = False

    def __post_init__(self) -> None:
        _require_positive(self, "inputs", "outputs", "side", "positions", "count")

    @property
    def matrix(self) -> Matrix:
        return Matrix(self.name, self.outputs, self.inputs * self.side**2, self.bias)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, of all `count` layers; biases are not counted."""
        return self.count * self.matrix.n * self.matrix.k * self.positions


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """A convolutional network without weights, which sees an image at a time."""

    name: str
    family: str
    convolutions: tuple[Convolution, ...] = field(repr=False)
    """In the order they run."""
    other_params: int = 0
    """Parameters of normalizations."""

    def __post_init__(self) -> None:
        require(bool(self.convolutions), "convolutions", "at least one", 0)

    @property
    def params(self) -> int:
        """Stored weights."""
        layers = sum(layer.count * layer.matrix.params for layer in self.convolutions)
        return layers + self.other_params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.convolutions)
