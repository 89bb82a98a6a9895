"""LLM-Viewer's count of a layer: operations, bytes, and the rate that a roofline allows.

The tool of Yuan et al. (arXiv 2402.16363; its `model_analyzer.py`) lists the layers of one block. A
multiply-accumulate is two operations. Every layer reads its weights and inputs and writes its
outputs, scores and softmax weights too, as if nothing stayed on the chip. Its rate is the lesser of
the machine's peak and of operations per byte times bandwidth. Attention of a prompt is counted for
all pairs of tokens, those that a causal mask leaves out included, and the scores of a prompt read
keys' bytes twice in the place of keys and queries.
"""

from __future__ import annotations

from typing import NamedTuple

from evolute.sim.workload.shape import Attention, ModelShape

NUMBER_BYTES = 2
"""Of weights, activations and the cache: all in half precision."""


class Counted(NamedTuple):
    """One layer of a block."""

    operations: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    def rate(self, peak: float, bytes_per_s: float) -> float:
        """Operations per second at most."""
        return min(peak, self.intensity * bytes_per_s)


def layers(shape: ModelShape, tokens: int, *, is_prompt: bool) -> dict[str, Counted]:
    """The layers of the first block, counted for a prompt of `tokens` tokens if `is_prompt`, else
    for one token that is decoded with `tokens` tokens in the cache.

    The block must have plain attention and one feed-forward half.
    """
    block, rows = shape.blocks[0], tokens if is_prompt else 1
    attention, half = block.mixer, block.feed_forward
    assert isinstance(attention, Attention) and half is not None
    found = {
        matrix.role: Counted(
            2 * rows * matrix.n * matrix.k,
            NUMBER_BYTES * (matrix.n * matrix.k + rows * (matrix.n + matrix.k)),
        )
        for part in (attention, half)
        for matrix in part.matrices(shape.hidden)
    }
    queries = rows * attention.heads * attention.key_dim
    keys = tokens * attention.key_heads * attention.key_dim
    scores = rows * attention.heads * tokens
    operations, beside = 2 * queries * tokens, keys if is_prompt else queries
    return found | {
        "scores": Counted(operations, NUMBER_BYTES * (scores + keys + beside)),
        "values": Counted(operations, NUMBER_BYTES * (scores + keys + queries)),
        "softmax": Counted(5 * scores, NUMBER_BYTES * 2 * scores),
        "norm": Counted(7 * rows * shape.hidden, NUMBER_BYTES * 2 * rows * shape.hidden),
        "add": Counted(rows * shape.hidden, NUMBER_BYTES * 2 * rows * shape.hidden),
    }
