"""Speculative decoding writes what the model alone writes, token by token."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.presets import PRESETS
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.language_model.decoder import generate, greedy
from evolute.sw.language_model.perplexity import strided
from evolute.sw.language_model.speculation import Runner, agreement, require_same_tokens, speculate
from evolute.sw.tensors.weights import parse_weights


@functools.cache
def runner(weights: str) -> Runner:
    model = zoo.load("evolute-tiny")
    assignment = assign(model, parse_weights(weights), PRESETS["lut-decode"].spec)
    return Runner(model, engine_linears(assignment, "integer"))


@settings(max_examples=25)
@given(
    st.sampled_from(["w4g32", "w2g32"]),
    st.sampled_from(["w4g32", "w2g32", "w1g32"]),
    st.text("abcdefgh .,ABC", min_size=1, max_size=20),
    st.integers(0, 6),
    st.integers(1, 40),
)
def test_verified_text_is_plain_text(
    weights: str, draft: str, text: str, gamma: int, count: int
) -> None:
    target = runner(weights)
    prompt = target.model.tokenizer.encode(text)
    plain = list(generate(*target, prompt, count, greedy))
    passes = list(speculate(target, runner(draft), prompt, count, gamma))
    assert [token for made in passes for token in made] == plain
    assert all(len(made) <= gamma + 1 for made in passes)
    if draft == weights and len(plain) == count:  # its own guesses are all right
        assert len(passes) == -(-count // (gamma + 1))


def test_agreement_is_what_share_of_best_tokens_is_the_same() -> None:
    target, draft = runner("w4g32"), runner("w2g32")
    windows = strided(target.model, zoo.default_text("evolute-tiny"), 200, 64, 32)
    assert agreement(target, target, windows) == 1
    found = agreement(target, draft, windows)
    assert 0.2 < found < 0.9
    same = total = 0
    for ids, seen in windows:  # token by token, from texts cut short
        for end in range(seen + 1, len(ids)):
            next_tokens = [
                next(iter(generate(*one, ids[:end], 1, greedy)), None) for one in (target, draft)
            ]
            same, total = same + (next_tokens[0] == next_tokens[1]), total + 1
    assert found == pytest.approx(same / total, abs=2 / total)


def test_models_of_different_tokens_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"draft: must be a model of the same 4 tokens, got 'x of 5'"
    ):
        require_same_tokens("x", 4, 5)
