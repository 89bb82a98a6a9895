"""What a pass through a model asks for: a list of operations, each with the origin of its operands.

Products with weights are only named here with their shapes; what weights take in memory depends on
their format, and what products cost on the accelerator (`sim.cost`). Everything else that a token
needs is counted whole: attention over the cache, vector operations, states, and rows that are
looked up. Counts are exact for the sizes that a shape states; bytes are those that must cross the
memory's port if every number is moved once.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.sim.workload.linear import HEAD, LayerName
from evolute.sim.workload.shape import (
    Attention,
    Block,
    FeedForward,
    ModelShape,
    Recurrence,
    Scan,
)

Origin = Literal["weights", "expert", "cache", "state", "activations", "embedding"]
"""Where the operand comes from that is not the token's own vector: weights of every token, weights
of the experts that a token is sent to, keys and values of earlier tokens, a recurrent state, only
the token itself, or the table of embeddings."""

STATE_BYTES = 4
"""Bytes of a number of a recurrent state, which is held in float32."""

VECTOR_BYTES = 4
"""Bytes of a number of an embedding's row, which the host holds in float32."""


@dataclass(frozen=True)
class CacheFormat:
    """What the cache holds a number in, and what it holds beside each vector."""

    name: str
    bits: int
    scale_bits: int = 0

    def vector_bytes(self, width: int) -> int:
        """Bytes of a vector of `width` numbers with its scale, in whole bytes."""
        return -(-(width * self.bits + self.scale_bits) // 8) if width else 0


@dataclass(frozen=True)
class Pass:
    """One pass through the model: every one of `batch` sequences has `cached` tokens and adds
    `rows` more. `head_rows` of these want the output head: the last one, or all where several
    guesses are verified at once."""

    rows: int
    cached: int = 0
    batch: int = 1
    head_rows: int = 1

    def __post_init__(self) -> None:
        require(self.rows >= 1, "rows", "at least 1", self.rows)
        require(self.cached >= 0, "cached", "0 or more", self.cached)
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        require(0 <= self.head_rows <= self.rows, "head_rows", f"in 0..{self.rows}", self.head_rows)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.batch * self.rows


@dataclass(frozen=True)
class Product:
    """A linear layer: `rows` vectors of K inputs, in all, by N x K weights. Of routed experts
    `copies` are visited, which share the rows."""

    name: LayerName
    n: int
    k: int
    rows: int
    copies: int = 1
    origin: Origin = "weights"

    @property
    def macs(self) -> int:
        return self.rows * self.n * self.k

    elements = read_bytes = write_bytes = 0


Schedule = Literal["plain", "expand", "absorb"]
"""How queries meet the cache: keys and values are held as they are (`plain`); or of a latent cache
each vector is expanded to keys and values (`expand`), or else the matrix that would expand it is
applied to the query and to the result (`absorb`)."""


class Visible(NamedTuple):
    """What each new row of a sequence sees, int64 [rows]."""

    tokens: NDArray[np.int64]
    """Tokens that it attends to, itself included."""
    summaries: NDArray[np.int64]
    """Summaries of blocks that it scores to choose from."""


@dataclass(frozen=True)
class Attend:
    """Attention of one layer over the cache, for all sequences of a pass, each of which has
    `cached` tokens before and adds `rows`. Multiply-accumulates and bytes are of all sequences."""

    name: LayerName
    attention: Attention
    batch: int
    rows: int
    cached: int
    cache: CacheFormat
    schedule: Schedule = "plain"
    origin: Origin = "cache"

    @functools.cached_property
    def visible(self) -> Visible:
        """What each new row sees. A window bounds it, and so do chosen blocks and a pattern of
        blocks; of a pattern it is what heads that share keys see together, on average."""
        attention = self.attention
        if not attention.causal:
            tokens = np.full(self.rows, self.rows)
        else:
            tokens = np.arange(self.cached + 1, self.cached + self.rows + 1)
        if attention.window is not None:
            tokens = np.minimum(tokens, attention.window)
        if (strided := attention.strided) is not None:
            far = np.maximum(0, (tokens - 1) // strided.block - strided.local + 1) * strided.block
            sharing = min(strided.stride, attention.heads // attention.key_heads)
            tokens = tokens - far - (-far * sharing // strided.stride)
        summaries = np.zeros_like(tokens)
        if (chosen := attention.chosen) is not None:
            sparse = tokens > chosen.dense
            summaries = np.where(sparse, -(-tokens // chosen.summary_stride), 0)
            tokens = np.where(sparse, np.minimum(tokens, chosen.budget), tokens)
        return Visible(tokens, summaries)

    def streams(self, rows: int) -> Visible:
        """What streams of one sequence's cache cover where `rows` rows share each; int64
        [streams]."""
        ends = np.minimum(np.arange(rows, self.rows + rows, rows), self.rows) - 1
        tokens, summaries = (seen[ends] for seen in self.visible)
        if (window := self.attention.window) is not None:
            tokens = np.minimum(self.cached + ends + 1, window + rows - 1)
        return Visible(tokens, summaries)

    @property
    def read(self) -> int:
        """Tokens of one sequence whose keys and values are read, each once. Rows that choose blocks
        of their own are taken to choose different ones, as long as there are."""
        reach = self.cached + self.rows
        if self.attention.window is not None:
            reach = min(reach, self.attention.window + self.rows - 1)
        return min(reach, int(self.visible.tokens.sum()))

    @property
    def key_width(self) -> int:
        """Numbers of a query that meet one token."""
        latent = self.attention.latent
        if latent is not None and self.schedule == "absorb":
            return latent.rank + latent.rotary
        return self.attention.key_dim

    @property
    def value_width(self) -> int:
        """Numbers that one softmax weight multiplies."""
        latent = self.attention.latent
        if latent is not None and self.schedule == "absorb":
            return latent.rank
        return self.attention.value_dim

    @property
    def expanding_macs(self) -> int:
        """Multiply-accumulates that make keys and values of what was in one sequence's cache."""
        latent = self.attention.latent
        if latent is None or self.schedule != "expand":
            return 0
        numbers = self.attention.key_dim - latent.rotary + self.attention.value_dim
        return (self.read - self.rows) * latent.rank * self.attention.heads * numbers

    @property
    def summary_width(self) -> int:
        """Numbers of a query that meet a summary of blocks."""
        chosen = self.attention.chosen
        return 0 if chosen is None else chosen.summary_dim

    @property
    def macs(self) -> int:
        tokens, summaries = (int(counts.sum()) for counts in self.visible)
        meeting = tokens * (self.key_width + self.value_width) + summaries * self.summary_width
        return self.batch * (self.attention.heads * meeting + self.expanding_macs)

    @property
    def elements(self) -> int:
        """Exponentials of softmaxes."""
        return self.batch * self.attention.heads * sum(int(counts.sum()) for counts in self.visible)

    def held_bytes(self, tokens: int, summaries: int) -> int:
        """Bytes of the cache that keys and values of tokens, and summaries per head of keys, take
        in this layer."""
        summary = self.attention.key_heads * self.cache.vector_bytes(self.summary_width)
        return tokens * token_bytes(self.attention, self.cache) + summaries * summary

    @property
    def read_bytes(self) -> int:
        return self.batch * self.held_bytes(self.read, int(self.visible.summaries.max()))

    @property
    def write_bytes(self) -> int:
        return self.batch * self.rows * token_bytes(self.attention, self.cache)


@dataclass(frozen=True)
class Advance:
    """A step of a layer's recurrent state per token, for all sequences of a pass."""

    name: LayerName
    macs: int
    elements: int
    """Exponentials, and elements of gates."""
    state_bytes: int
    """Of all sequences; read once and written once in a pass."""
    origin: Origin = "state"

    @property
    def read_bytes(self) -> int:
        return self.state_bytes

    @property
    def write_bytes(self) -> int:
        return self.state_bytes


Function = Literal["norm", "rotary", "activation", "residual", "quantize", "route", "sample"]


@dataclass(frozen=True)
class Elementwise:
    """A vector operation on `vectors` vectors of `width` numbers for each of `tokens` tokens."""

    name: LayerName
    function: Function
    width: int
    tokens: int
    vectors: int = 1
    origin: Origin = "activations"

    @property
    def elements(self) -> int:
        return self.tokens * self.vectors * self.width

    macs = read_bytes = write_bytes = 0


@dataclass(frozen=True)
class Gather:
    """Rows that are looked up in a table in memory, such as those of the embedding."""

    name: LayerName
    read_bytes: int
    origin: Origin = "embedding"

    macs = elements = write_bytes = 0


Operation = Product | Attend | Advance | Elementwise | Gather


def token_bytes(attention: Attention, cache: CacheFormat) -> int:
    """Bytes that a token takes in the cache of one layer. Each vector is in whole bytes."""
    if attention.latent is not None:
        return cache.vector_bytes(attention.latent.rank + attention.latent.rotary)
    keys = attention.key_heads * cache.vector_bytes(attention.key_dim)
    return keys + attention.value_heads * cache.vector_bytes(attention.value_dim)


def cache_bytes(shape: ModelShape, tokens: int, cache: CacheFormat) -> int:
    """Bytes that one sequence of `tokens` tokens holds: keys and values, of a layer with a window
    those within it, summaries of blocks, and recurrent states. An encoder holds nothing."""
    total = 0
    for block in shape.blocks:
        match block.mixer:
            case Attention(causal=False):
                pass
            case Attention() as attention:
                held = tokens if attention.window is None else min(tokens, attention.window)
                total += held * token_bytes(attention, cache)
                if (chosen := attention.chosen) is not None:
                    summaries = attention.key_heads * -(-held // chosen.summary_stride)
                    total += summaries * cache.vector_bytes(chosen.summary_dim)
            case Scan() | Recurrence() as mixer:
                total += mixer.state_numbers * STATE_BYTES
            case None:
                pass
    return total


def operations(shape: ModelShape, work: Pass, cache: CacheFormat) -> tuple[Operation, ...]:
    """Every operation of a pass, in the order they run.

    Raises `SpecError` for an encoder with tokens in a cache, which it does not have.
    """
    blocks = (
        operation
        for number, block in enumerate(shape.blocks)
        for operation in _block(shape, number, block, work, cache)
    )
    return (_embedding(shape, work), *blocks, *_ending(shape, work))


def counted_operations(
    shape: ModelShape, work: Pass, cache: CacheFormat
) -> tuple[tuple[Operation, int], ...]:
    """The same with equal operations of equal blocks counted together, their names without a
    block's number; so that blocks that are all equal cost as much time as one."""
    blocks = collections.Counter(shape.blocks)
    return (
        (_embedding(shape, work), 1),
        *(
            (operation, count)
            for block, count in blocks.items()
            for operation in _block(shape, None, block, work, cache)
        ),
        *((operation, 1) for operation in _ending(shape, work)),
    )


def _embedding(shape: ModelShape, work: Pass) -> Gather:
    return Gather(LayerName(None, "embedding"), work.tokens * shape.hidden * VECTOR_BYTES)


def _ending(shape: ModelShape, work: Pass) -> Iterator[Operation]:
    """What follows the blocks."""
    rows = work.batch * work.head_rows
    if shape.final_norm:
        yield _norm(LayerName(None, "norm"), shape.hidden, rows)
    if shape.has_head:
        yield Product(HEAD, shape.vocab, shape.hidden, rows)
        yield Elementwise(LayerName(None, "sample"), "sample", shape.vocab, rows)


def _norm(name: LayerName, width: int, tokens: int, vectors: int = 1) -> Elementwise:
    return Elementwise(name, "norm", width, tokens, vectors)


def _block(
    shape: ModelShape, number: int | None, block: Block, work: Pass, cache: CacheFormat
) -> Iterator[Operation]:
    """The operations of one block."""

    def own(role: str) -> LayerName:
        return LayerName(number, role)

    def norms(*names: str) -> Iterator[Operation]:
        for name in names:
            if name in block.norms:
                yield _norm(own(name), block.norm_size(name, shape.hidden), work.tokens)

    def products(half: Attention | Scan | Recurrence | FeedForward) -> Iterator[Product]:
        for matrix in half.matrices(shape.hidden):
            yield Product(own(matrix.role), matrix.n, matrix.k, work.tokens)

    mixer, feed_forward = block.mixer, block.feed_forward
    if mixer is not None:
        yield from norms("attention_norm", "i_norm", "f_norm", "g_norm")
        *before, last = products(mixer)
        yield from before
        match mixer:
            case Attention():
                yield from norms("kv_norm")
                if "q_norm" in block.norms:
                    yield _norm(own("q_norm"), mixer.key_dim, work.tokens, mixer.heads)
                    yield _norm(own("k_norm"), mixer.key_dim, work.tokens, mixer.key_heads)
                if mixer.rotary:
                    yield _rotary(own("rotary"), mixer, work)
                yield attend(own("attention"), mixer, work, cache)
            case Scan():
                yield _scan(own("scan"), mixer, work)
            case Recurrence():
                yield _recurrence(own("recurrence"), mixer, work)
        yield from norms("mixed_norm", "o_norm")
        yield Elementwise(own("o_input"), "quantize", last.k, work.tokens)
        yield last
        yield from norms("attention_post_norm")
        yield Elementwise(own("o_residual"), "residual", shape.hidden, work.tokens)
    if feed_forward is not None:
        yield from norms("ffn_norm", "gate_norm")
        if feed_forward.is_routed:
            yield Product(own("router"), feed_forward.experts, shape.hidden, work.tokens)
            yield Elementwise(own("route"), "route", feed_forward.experts, work.tokens)
            yield from _experts(own, shape, block, feed_forward, work)
        else:
            *before, last = products(feed_forward)
            yield from before
            yield Elementwise(own("activation"), "activation", feed_forward.width, work.tokens)
            yield from norms("down_norm")
            yield Elementwise(own("down_input"), "quantize", feed_forward.width, work.tokens)
            yield last
        yield from norms("ffn_post_norm")
        yield Elementwise(own("down_residual"), "residual", shape.hidden, work.tokens)


def _rotary(name: LayerName, attention: Attention, work: Pass) -> Elementwise:
    latent = attention.latent
    if latent is not None:  # one turned key for all heads, and the turned part of each query
        return Elementwise(name, "rotary", latent.rotary, work.tokens, attention.heads + 1)
    heads = attention.heads + attention.key_heads
    return Elementwise(name, "rotary", attention.key_dim, work.tokens, heads)


def distinct_experts(feed_forward: FeedForward, tokens: int) -> float:
    """How many experts `tokens` tokens visit in the mean if each chooses at random: of E experts,
    a of them by each token, E (1 - (1 - a/E)^tokens)."""
    share = feed_forward.active / feed_forward.experts
    return feed_forward.experts * (1 - (1 - share) ** tokens)


def _experts(
    own: Callable[[str], LayerName],
    shape: ModelShape,
    block: Block,
    feed_forward: FeedForward,
    work: Pass,
) -> Iterator[Operation]:
    """The layers of the experts that a pass visits, to whole experts."""
    copies = min(feed_forward.experts, math.ceil(distinct_experts(feed_forward, work.tokens)))
    rows = work.tokens * feed_forward.active
    *before, last = (
        Product(own(matrix.role), matrix.n, matrix.k, rows, copies, "expert")
        for matrix in feed_forward.matrices(shape.hidden)
    )
    yield from before
    yield Elementwise(own("activation"), "activation", feed_forward.width, rows)
    if "down_norm" in block.norms:
        yield _norm(own("down_norm"), feed_forward.width, rows)
    yield Elementwise(own("down_input"), "quantize", feed_forward.width, rows)
    yield last


def attend(name: LayerName, attention: Attention, work: Pass, cache: CacheFormat) -> Attend:
    """Attention of one layer in a pass. Of a latent cache the schedule with fewer
    multiply-accumulates is taken; its bytes are the same in both, see `latent_schedules`."""
    return min(latent_schedules(name, attention, work, cache), key=lambda one: one.macs)


def latent_schedules(
    name: LayerName, attention: Attention, work: Pass, cache: CacheFormat
) -> tuple[Attend, ...]:
    """Attention of one layer in every schedule that it can run in; one where keys and values are
    held as they are. Raises `SpecError` for an encoder with tokens in a cache."""
    if not attention.causal:
        require(work.cached == 0, "cached", "0 for an encoder, which has no cache", work.cached)
    schedules: tuple[Schedule, ...] = ("plain",)
    if attention.latent is not None:
        schedules = ("expand", "absorb")
    return tuple(
        Attend(name, attention, work.batch, work.rows, work.cached, cache, schedule)
        for schedule in schedules
    )


def _scan(name: LayerName, scan: Scan, work: Pass) -> Advance:
    """Per token and channel: the convolution's taps, and per number of state the decay times the
    state, plus the input, and the output (Mamba, section 3.2)."""
    per_token = scan.inner * (scan.taps + 3 * scan.state)
    return Advance(
        name,
        macs=work.tokens * per_token,
        elements=work.tokens * scan.inner * (scan.state + 3),  # decays, step size, two gates
        state_bytes=work.batch * scan.state_numbers * STATE_BYTES,
    )


def _recurrence(name: LayerName, recurrence: Recurrence, work: Pass) -> Advance:
    """Per token and channel: two multiplications for the state and its input, two for gates, and
    three gates' functions (MatMul-free LM, section 3.3)."""
    return Advance(
        name,
        macs=work.tokens * 2 * recurrence.width,
        elements=work.tokens * 3 * recurrence.width,
        state_bytes=work.batch * recurrence.state_numbers * STATE_BYTES,
    )
