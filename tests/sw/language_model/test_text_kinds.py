"""Texts that calibrate where none is named, and the one that checks what came of it."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.hugging_face import read_hugging_face
from evolute.sw.language_model.model import model_digest
from evolute.sw.language_model.perplexity import Text, windows
from evolute.sw.language_model.text_kinds import (
    calibration_texts,
    check_text,
    mixed_windows,
    python_code,
)
from evolute.sw.quantizers import hessian

MODEL = zoo.load("evolute-tiny")
OWN = zoo.default_text("evolute-tiny")


def test_what_measures_does_not_calibrate() -> None:
    """The first half of a model's text, and the text that checks, are not among what calibrates."""
    texts = calibration_texts(OWN)
    assert len({each.name for each in texts}) == 4
    assert OWN.content.endswith(texts[0].content) and len(texts[0].content) < len(OWN.content) / 2
    lines = set(check_text().content.split("\n")) - {""}
    assert len(lines) > 20
    for text in texts:
        assert len(text.content) > 10_000 and text.content.isprintable() is False
        assert not lines & set(text.content.split("\n"))
    assert "def " in python_code().content


def test_kinds_take_turns_until_they_end() -> None:
    texts = [Text("long", "once upon a time " * 90), Text("short", "the end of it " * 20)]
    alone = [windows(MODEL, text, 10_000, 32) for text in texts]
    assert len(alone[1]) < len(alone[0])
    together = mixed_windows(MODEL, texts, 10_000, 32)
    pairs = len(alone[1])
    assert together[: 2 * pairs : 2] == alone[0][:pairs] and together[1 : 2 * pairs : 2] == alone[1]
    assert together[2 * pairs :] == alone[0][pairs:]
    for tokens in (1, 31, 32, 75):
        cut = mixed_windows(MODEL, texts, tokens, 32)
        assert sum(len(each) - 1 for each in cut) == tokens
        assert all(one == whole[: len(one)] for one, whole in zip(cut, together, strict=False))
    assert mixed_windows(MODEL, texts[:1], 100, 32) == windows(MODEL, texts[0], 100, 32)


def test_every_kind_is_seen_by_default() -> None:
    texts = calibration_texts(OWN)
    tokens = hessian.default_tokens(MODEL)
    found = mixed_windows(MODEL, texts, tokens, MODEL.config.context)
    assert sum(len(each) - 1 for each in found) == tokens
    firsts = [windows(MODEL, text, tokens, MODEL.config.context)[0] for text in texts]
    assert found[:4] == firsts


def test_no_fewer_tokens_than_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hessian.widest_input(MODEL) == max(k for _, k in MODEL.config.layer_linears().values())
    assert hessian.default_tokens(MODEL) == hessian.TOKENS
    monkeypatch.setattr(hessian, "TOKENS", 8)
    assert hessian.default_tokens(MODEL) == hessian.widest_input(MODEL)


def test_calibrations_differ_by_model_and_windows(tmp_path, monkeypatch) -> None:
    """What is kept is that of the same windows of the same model, and of no others."""
    monkeypatch.setattr(hessian, "cache_directory", lambda: tmp_path)
    parts = windows(MODEL, OWN, 60, 32)
    first = hessian.calibrate(MODEL, parts)
    assert hessian.calibrate(MODEL, parts).digest == first.digest
    assert first["0.q"].tokens == first.tokens == sum(map(len, parts))
    assert hessian.calibrate(MODEL, parts[:-1]).digest != first.digest
    kept = first["1.down"].second
    first.path("1.down").unlink()
    assert np.array_equal(hessian.calibrate(MODEL, parts)["1.down"].second, kept)


def test_a_model_has_one_digest_however_it_is_opened() -> None:
    again = read_hugging_face(zoo.KNOWN["evolute-tiny"].path)
    assert model_digest(again) == model_digest(MODEL)
