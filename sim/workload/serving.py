"""How a model is asked: the passes of a prompt and of the tokens that follow."""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.base import require
from evolute.sim.workload.operations import CacheFormat, Pass

FLOAT32 = CacheFormat("float32", 32)


@dataclass(frozen=True)
class Serving:
    """`batch` sequences at once: a prompt each, and then tokens one by one.

    Prompts always start with an empty cache. Without `contexts`, decoding begins with the prompt
    in the cache, and each token finds one more; with them, decoding is one token with exactly as
    many in the cache as the first of them says, and the others give points of a curve.
    """

    prefill_tokens: int = 128
    decode_tokens: int = 32
    contexts: tuple[int, ...] = ()
    batch: int = 1
    cache: CacheFormat = FLOAT32

    def __post_init__(self) -> None:
        require(self.prefill_tokens >= 1, "prefill", "at least 1", self.prefill_tokens)
        require(self.decode_tokens >= 1, "decode", "at least 1", self.decode_tokens)
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        for context in self.contexts:
            require(context >= 0, "context", "0 or more", context)

    @property
    def prefill(self) -> Pass:
        return Pass(self.prefill_tokens, batch=self.batch)

    @property
    def decode(self) -> tuple[Pass, ...]:
        """One pass for each token."""
        if self.contexts:
            return (self.at(self.contexts[0]),)
        first = self.prefill_tokens
        return tuple(self.at(first + step) for step in range(self.decode_tokens))

    def at(self, context: int) -> Pass:
        """One token with `context` tokens in the cache."""
        return Pass(1, context, self.batch)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, the one that is being made included."""
        cached = (*self.contexts, self.decode[-1].cached)
        return max(self.prefill_tokens, max(cached) + 1)
