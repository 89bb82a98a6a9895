"""The forward pass against independent implementations, and engines against each other.

`tests/data/transformers.json` holds what Hugging Face transformers computes
(`tests/oracle/make_reference.py`); where transformers is installed it is also asked live.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evolute.hw.spec import LutTensorCore, SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.presets import ENGINE_PRESETS
from evolute.sim.golden import integer
from evolute.support.files import sha256
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.language_model.decoder import Cache, forward, generate, greedy, head, sampler
from evolute.sw.language_model.linear import host_linears, linear_names
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.language_model.perplexity import Text, measure, windows
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import QuantError, QuantTensor
from evolute.sw.tensors.weights import FLOAT, NATIVE, parse_weights

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / "shared" / "data"
REFERENCE = json.loads((ROOT / "tests/data/transformers.json").read_text(encoding="utf-8"))
TINY = zoo.KNOWN["evolute-tiny"]
STORY = "Once upon a time, there was a little girl named Lily."

DOCUMENTED = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. \
She said, "I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." \
Her mom said, "Don't worry, Lily. We can help you.\
"""

SPEC = LutTensorCore(weight_bits=8)
W4G32 = Rounding(WeightCodes(4), 32, Scheme.ASYMMETRIC)

needs_stories = pytest.mark.skipif(
    not (DATA / "stories260K.bin").exists(), reason="stories260K.bin is not beside the repository"
)


@cache
def model(name: str) -> LanguageModel:
    if name in zoo.KNOWN and not zoo.KNOWN[name].path.exists():
        pytest.skip(f"{name} has not been fetched")
    return open_model(DATA / "stories260K.bin") if name == "stories260K" else zoo.load(name)


def logits(subject: LanguageModel, ids: list[int]) -> np.ndarray:
    linear = host_linears(subject)
    return head(subject, linear, forward(subject, linear, ids, Cache(subject.config, len(ids))))


def tolerance(subject: LanguageModel, largest: float) -> float:
    """How far two float32 forward passes may differ in logits of magnitude `largest`.

    Two orders of a sum of K terms differ by about sqrt(K) roundings of 2^-24; the layers' errors
    add up. Four times that leaves room for functions, such as exp, that differ in their last bit.
    """
    config = subject.config
    return 4 * config.layers * math.sqrt(max(config.ffn, config.hidden)) * 2.0**-24 * largest


@pytest.mark.parametrize(
    "name", ["evolute-tiny", "smollm2-135m", pytest.param("gemma-3-270m", marks=pytest.mark.slow)]
)
def test_same_as_transformers(name):
    subject, expected = model(name), REFERENCE[name]
    path = TINY.path / "model.safetensors" if name == TINY.name else zoo.KNOWN[name].path
    assert sha256(path) == expected["sha256"], "the reference is of another file; make it again"
    tokenizer, linear = subject.tokenizer, host_linears(subject)
    for case in expected["cases"]:
        ids = [*tokenizer.prefix, *tokenizer.encode(case["prompt"])]
        assert ids == case["ids"]
        found = logits(subject, ids)[-1]
        allowed = tolerance(subject, max(map(abs, case["top_logits"])))
        np.testing.assert_allclose(found[case["top_tokens"]], case["top_logits"], atol=allowed)
        # Without its stop tokens a model goes on, as the reference does.
        endless = replace(subject, tokenizer=replace(tokenizer, stops=frozenset()))
        tokens = list(generate(endless, linear, ids, len(case["greedy"]), greedy))
        assert tokens == case["greedy"]
        assert tokenizer.decode(tokens) == case["text"]
    passage = expected["passage"]
    text = Text("passage", passage["text"])
    accuracy = measure(subject, linear, linear, text, len(passage["ids"]) - 1, 512)
    assert accuracy.tokens == len(passage["ids"]) - 1
    assert math.log(accuracy.perplexity) == pytest.approx(passage["loss"], abs=1e-5)


def test_live_transformers():
    """The same on new random ids, where transformers is installed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(TINY.path, dtype=torch.float32)
    subject = model("evolute-tiny")
    ids = np.random.default_rng(3).integers(0, subject.config.vocab, 300).tolist()
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    allowed = tolerance(subject, float(np.abs(expected).max()))
    np.testing.assert_allclose(logits(subject, ids), expected, atol=allowed)


@needs_stories
def test_stories260k_tells_the_documented_story():
    """Greedy sample as llama2.c documents it (doc/stories260K.md)."""
    subject = model("stories260K")
    tokens = list(generate(subject, host_linears(subject), [1], 256, greedy))
    assert subject.tokenizer.decode(tokens) == DOCUMENTED


def test_a_prompt_at_once_equals_token_by_token():
    subject = model("evolute-tiny")
    linear, ids = host_linears(subject), subject.tokenizer.encode(STORY * 12)
    assert len(ids) > 100
    cache = Cache(subject.config, len(ids))
    steps = [forward(subject, linear, [token], cache)[0] for token in ids]
    cache = Cache(subject.config, len(ids))
    parts = [forward(subject, linear, ids[:37], cache), forward(subject, linear, ids[37:], cache)]
    at_once = forward(subject, linear, ids, Cache(subject.config, len(ids)))
    np.testing.assert_allclose(steps, at_once, atol=2e-4)
    np.testing.assert_allclose(np.concatenate(parts), at_once, atol=2e-4)


def exact_on(accel, weights):
    """Rounded tables are no integer product."""
    spec = ENGINE_PRESETS[accel]
    return spec.exact and spec.accepts(parse_weights(weights).rounding.format)


@pytest.mark.parametrize(
    ("accel", "weights"),
    [
        (accel, weights)
        for accel in ENGINE_PRESETS
        for weights in ("w1g32s", "w2g128", "w4g32", "w3s", "tg64")
        if exact_on(accel, weights)
    ],
)
def test_golden_models_and_integers_give_identical_logits(accel, weights):
    spec = ENGINE_PRESETS[accel]
    subject, choice = model("evolute-tiny"), parse_weights(weights)
    ids = subject.tokenizer.encode(STORY)
    found = []
    for backend in ("golden", "integer"):
        linear = engine_linears(assign(subject, choice, spec), backend)
        hidden = forward(subject, linear, ids, Cache(subject.config, len(ids)))
        found.append(head(subject, linear, hidden))
    assert np.array_equal(*found)


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_engine_layer_is_the_formula(bits):
    """Against the arithmetic contract written out, group by group, in Python's exact fractions."""
    from fractions import Fraction

    rng = np.random.default_rng(bits)
    spec = LutTensorCore(activation_bits=bits, weight_bits=4, group_size=32)
    subject = model("evolute-tiny")
    choice = parse_weights("w4g48f")  # 128 = 48 + 48 + 32
    assert choice.rounding
    tensor = quantize(dequantized(subject.tensors["0.q"]), choice.rounding)
    x = rng.normal(size=(2, 128)).astype(np.float32)
    a = quantize_activations(x, spec.activations)
    weights = integer.weights(spec, tensor.form)
    sums = integer.group_sums(a.x, weights, tensor.group)
    (found,) = engine_linears(assign(subject, choice, spec))(["0.q"], x)
    for m, n in ((0, 0), (1, 17), (1, 127)):
        total = Fraction(0)
        for g in range(3):
            scale, minimum = (
                Fraction(float(tensor.scale[n, g])),
                Fraction(float(tensor.minimum[n, g])),
            )
            total += scale / 2 * int(sums.psum[m, g, n])
            total += (minimum + scale * 15 / 2) * int(sums.row_sum[m, g])
        assert found[m, n] == np.float32(float(total * Fraction(float(a.scale[m]))))


def test_rounded_tables_move_little_and_need_golden():
    subject = model("evolute-tiny")
    spec = ENGINE_PRESETS["lut-int8-table"]
    choice, text = parse_weights("w4g32"), Text("story", STORY * 3)
    with pytest.raises(QuantError, match="golden"):
        engine_linears(assign(subject, choice, spec), "integer")
    exact = engine_linears(assign(subject, choice, spec.evolve(table_bits=None)))
    rounded = engine_linears(assign(subject, choice, spec), "golden")
    accuracy = measure(subject, rounded, exact, text, 40, 256)
    assert accuracy.perplexity == pytest.approx(accuracy.reference_perplexity, rel=0.1)
    assert accuracy.kl > 0


@pytest.mark.parametrize("backend", ["integer", "golden"])
@pytest.mark.slow
def test_smollm2_tells_the_capital_through_the_engine(backend):
    subject = model("smollm2-135m")
    linear = engine_linears(assign(subject, NATIVE, LutTensorCore(weight_bits=8)), backend)
    ids = subject.tokenizer.encode("The capital of France is")
    tokens = list(generate(subject, linear, ids, 2, greedy))
    assert subject.tokenizer.decode(tokens) == " Paris."


def test_workload_counts_every_layer_once():
    subject = model("evolute-tiny")
    work = assign(subject, parse_weights("w2g64"), LutTensorCore(weight_bits=4)).workload
    assert sum(each.count for each in work.linears) + len(work.host) == len(linear_names(subject))
    assert work.host == ("head",)
    for each in work.kinds:
        assert (each.n, each.k) == subject.config.shapes()[f"0.{each.name}"]
        assert each.groups == -(-each.k // 64)
        choice = parse_weights("w2g64").rounding
        assert choice
        tensors = [
            quantize(dequantized(subject.tensors[f"{i}.{each.name}"]), choice) for i in range(4)
        ]
        assert each.index_bits == sum(tensor.code_bits for tensor in tensors)
        assert each.total_bits == sum(tensor.total_bits for tensor in tensors)


def test_choices_that_cannot_run_are_refused():
    subject = model("evolute-tiny")
    with pytest.raises(QuantError, match="stores no codes"):
        assign(subject, NATIVE, LutTensorCore())
    with pytest.raises(SpecError, match=r"weights: must be one of w1, .* on this engine, got 'w8'"):
        assign(subject, parse_weights("w8g32"), LutTensorCore(weight_bits=4))
    assert not assign(subject, FLOAT, LutTensorCore()).workload.linears


def test_weights_too_large_for_exact_sums_are_refused():
    subject = model("evolute-tiny")
    tensor = quantize(dequantized(subject.tensors["2.up"]) * np.float32(1e5), W4G32)
    with pytest.raises(QuantError, match=r"layer 2\.up: weights too large for exact sums"):
        engine_linears(
            assign(replace(subject, tensors={**subject.tensors, "2.up": tensor}), NATIVE, SPEC)
        )


def test_native_codes_go_to_the_engine_as_far_as_they_fit():
    """Native 8-bit codes: an 8-bit engine takes the head, a 4-bit engine leaves it to the host."""
    subject = model("evolute-tiny")
    rounding = parse_weights("w4g32").rounding
    head_rounding = parse_weights("w8g32s").rounding
    assert rounding and head_rounding
    tensors = dict(subject.tensors)
    for name in linear_names(subject)[:-1]:
        tensors[name] = quantize(dequantized(tensors[name]), rounding)
    tensors["embedding"] = quantize(dequantized(tensors["embedding"]), head_rounding)
    coded = replace(subject, tensors=tensors)
    assert isinstance(coded.head, QuantTensor)
    assert assign(coded, NATIVE, LutTensorCore(weight_bits=4)).workload.host == ("head",)
    assert assign(coded, NATIVE, LutTensorCore(weight_bits=8)).workload.host == ()
    ids = coded.tokenizer.encode(STORY)
    for bits in (4, 8):
        linear = engine_linears(assign(coded, NATIVE, LutTensorCore(weight_bits=bits)))
        tokens = list(generate(coded, linear, ids, 8, greedy))
        assert len(tokens) == 8


def test_windows_cover_the_text_once():
    subject = model("evolute-tiny")
    text = Text("story", STORY * 10)
    ids, prefix = subject.tokenizer.encode(text.content), list(subject.tokenizer.prefix)
    found = windows(subject, text, 10**6, 50)
    assert [token for window in found for token in window[len(prefix) :]] == ids
    assert all(window[: len(prefix)] == prefix and len(window) <= 50 for window in found)
    assert sum(len(window) - 1 for window in windows(subject, text, 77, 50)) == 77


def test_sampling_is_seeded_and_sharpens_with_cold():
    scores = np.array([1.0, 3.0, 2.0], np.float32)
    draws = [sampler(1.0, np.random.default_rng(5))(scores) for _ in range(3)]
    assert len(set(draws)) == 1
    rng = np.random.default_rng(0)
    sample = sampler(1.0, rng)
    counts = np.bincount([sample(scores) for _ in range(4000)], minlength=3) / 4000
    expected = np.exp(scores) / np.exp(scores).sum()
    # Four standard deviations of a frequency over 4000 draws.
    assert np.abs(counts - expected).max() < 4 * 0.5 / math.sqrt(4000)
    assert {sampler(0.01, rng)(scores) for _ in range(50)} == {1}
