"""How long the two units of a core take that complete a token: vectors, and attention.

Neither has RTL yet, so that these times are a model. It assumes:

* The vector unit takes a pass over a vector in as many cycles as its lanes need, and
  `VECTOR_LATENCY_CYCLES` more. Norms take two passes, in which the engine waits. Residuals are
  added as results leave the engine, gates and all but the last head's rotation run behind the
  engine's next tiles, and the best token is kept as logits come: these take no time of their own.
* The attention unit takes one word of the bus a cycle: `bus_bytes` numbers of keys, then of values,
  whatever their width, for all its rows at once. Where more heads share keys than it has rows, a
  word is held for several cycles; where fewer do, several tokens of a prompt share a stream.
* Keys and values are read in chunks, between which the unit waits `GAP_CYCLES`.
"""

from __future__ import annotations

from typing import NamedTuple

from evolute.sim.workload.operations import Advance, Attend, Elementwise

VECTOR_LATENCY_CYCLES = 12
"""Stages of a lane, from a number's way in to its way out."""

CHUNK_TOKENS = 512
"""Tokens whose scores the attention unit holds at once."""

GAP_CYCLES = 24
"""Between a chunk's scores and its values, and between a chunk and the next, together."""


class Stream(NamedTuple):
    """What an attention unit reads of the cache, and how long its rows work on it."""

    bytes: int
    cycles: int
    """Computing alone, with the gaps; moving the bytes takes time of its own."""


def attention_stream(attend: Attend, rows: int, bus_bytes: int) -> Stream:
    """Attention of one layer on a unit of `rows` rows behind a bus of `bus_bytes` bytes.

    A latent cache is one head of keys that all heads share.
    """
    attention = attend.attention
    key_heads = 1 if attention.latent is not None else attention.key_heads
    sharing = attention.heads // key_heads
    streams = attend.streams(max(1, rows // sharing))
    widths = attend.key_width + attend.value_width, attend.summary_width
    words = sum(
        int((-(-counts * width // bus_bytes)).sum())
        for counts, width in zip(streams, widths, strict=True)
    )
    gaps = int((-(-streams.tokens // CHUNK_TOKENS)).sum())
    hold = -(-sharing // rows)
    return Stream(
        bytes=attend.batch * attend.held_bytes(*(int(counts.sum()) for counts in streams)),
        cycles=attend.batch * key_heads * (words * hold + gaps * GAP_CYCLES),
    )


def vector_cycles(operation: Elementwise | Advance, lanes: int) -> int:
    """Cycles in which the engine waits for a vector operation on `lanes` lanes."""
    if isinstance(operation, Advance):
        work = operation.macs + operation.elements
        return -(-work // lanes) + VECTOR_LATENCY_CYCLES
    one_pass = -(-operation.width // lanes) + VECTOR_LATENCY_CYCLES
    match operation.function:
        case "norm":
            return 2 * one_pass * operation.vectors * operation.tokens
        case "quantize" | "route":
            return one_pass * operation.tokens
        case "rotary":
            return one_pass * operation.tokens
        case "activation" | "residual" | "sample":
            return 0
