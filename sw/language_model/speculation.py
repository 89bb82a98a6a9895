"""Speculative decoding in NumPy: a small draft model guesses tokens, and the target model verifies
all guesses at once (Leviathan et al., arXiv 2211.17192). Both models choose their most likely
token.

The generated text is the same as that of the target model alone, because a guess of the draft model
is accepted only if it is the token that the target model finds most likely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evolute.hw.spec.base import require
from evolute.sw.language_model.decoder import Cache, forward, head, require_room
from evolute.sw.language_model.kv import FLOAT32, KvFormat
from evolute.sw.language_model.linear import Linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import Window


class Runner(NamedTuple):
    """A model, and who computes its linear layers."""

    model: LanguageModel
    linear: Linears

    def best(self, tokens: Sequence[int], cache: Cache) -> list[int]:
        """The most likely token after each of `tokens`, which follow those in `cache`."""
        hidden = forward(self.model, self.linear, tokens, cache)
        return [int(token) for token in np.argmax(head(self.model, self.linear, hidden), axis=1)]


def require_same_tokens(draft: str, vocab: int, draft_vocab: int) -> None:
    """Raise `SpecError` unless a model and its draft have equally many tokens."""
    rule = f"a model of the same {vocab:,} tokens"
    require(draft_vocab == vocab, "draft", rule, f"{draft} of {draft_vocab:,}")


def _require_same_tokens(target: Runner, draft: Runner) -> None:
    target_model, draft_model = target.model, draft.model
    require_same_tokens(draft_model.name, target_model.config.vocab, draft_model.config.vocab)


def speculate(
    target: Runner,
    draft: Runner,
    prompt: Sequence[int],
    count: int,
    gamma: int,
    kv: KvFormat = FLOAT32,
) -> Iterator[list[int]]:
    """`count` tokens after `prompt`, yielded in lists, one list per verifying pass. Each pass
    verifies `gamma` guesses, or fewer at the end.

    Ends early at a stop token, which is not returned. Raises `SpecError` as `generate` does, and if
    the models have different tokens.
    """
    _require_same_tokens(target, draft)
    for model in (target.model, draft.model):
        require_room(model.config, prompt, count)
    caches = [Cache(runner.model.config, len(prompt) + count, kv) for runner in (target, draft)]
    ids, end = list(prompt), len(prompt) + count
    while len(ids) < end:
        guesses: list[int] = []
        for _ in range(min(gamma, end - len(ids) - 1)):
            context = [*ids, *guesses]
            guesses.append(draft.best(context[caches[1].length :], caches[1])[-1])
        rows = [*ids, *guesses][caches[0].length :]
        best = target.best(rows, caches[0])[-1 - len(guesses) :]
        right = _agreeing(guesses, best)
        accepted = best[: right + 1]
        ids += accepted
        for cache in caches:  # what was guessed wrong is overwritten
            cache.length = min(cache.length, len(ids) - 1)
        stops = [
            place for place, token in enumerate(accepted) if token in target.model.tokenizer.stops
        ]
        yield accepted[: stops[0]] if stops else accepted
        if stops:
            return


def _agreeing(guesses: Sequence[int], best: Sequence[int]) -> int:
    """The number of guesses that are right before the first wrong one."""
    for place, guess in enumerate(guesses):
        if guess != best[place]:
            return place
    return len(guesses)


def agreement(target: Runner, draft: Runner, windows: Sequence[Window]) -> float:
    """How often both models have the same most likely next token in a text, 0 to 1. This is the
    chance that a guess is accepted, if it is the same at every position."""
    _require_same_tokens(target, draft)
    agreements, total = 0, 0
    for ids, seen in windows:
        best = [
            runner.best(ids[:-1], Cache(runner.model.config, len(ids)))
            for runner in (target, draft)
        ]
        agreed = [
            target_token == draft_token for target_token, draft_token in zip(*best, strict=True)
        ][seen:]
        agreements, total = agreements + sum(agreed), total + len(agreed)
    return agreements / total
