"""What caches hold of keys and values, and perplexity in windows that overlap."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec import SpecError
from evolute.hw.spec.formats import FLOATS
from evolute.sw.checkpoints import zoo
from evolute.sw.commands import eval as cli
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.kv import FLOAT32, parse_kv, token_bytes
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.perplexity import Text, measure, strided, windows

TINY = zoo.load("evolute-tiny")
LINEAR = host_linears(TINY)


def vectors(seed: int) -> np.ndarray:
    """Vectors apart in size, but not so small that an FP16 scale would be subnormal."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(3, 5, 16)) * 2.0 ** rng.uniform(-4, 4, size=(3, 5, 1))).astype("f4")


def test_half_precision_is_that_of_numpy() -> None:
    x = vectors(0)
    assert np.array_equal(parse_kv("fp16").held(x), x.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", [*FLOATS, "int2", "int4", "int8"])
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_held_is_held_again(name: str, seed: int) -> None:
    """A format's own numbers stay as they are; zeros, too."""
    kv = parse_kv(name)
    once = kv.held(vectors(seed))
    assert np.array_equal(kv.held(once), once)
    assert not kv.held(np.zeros((2, 4), np.float32)).any()


@pytest.mark.parametrize("bits", range(2, 9))
@given(seed=st.integers(0, 2**32 - 1))
def test_integers_are_the_nearest(bits: int, seed: int) -> None:
    """Within half a step of the scale, which is half precision, and within its own rounding."""
    x, most = vectors(seed), 2 ** (bits - 1) - 1
    held = parse_kv(f"int{bits}").held(x)
    for row, found in zip(x.reshape(-1, 16), held.reshape(-1, 16), strict=True):
        scale = float(np.float16(np.abs(row).max() / np.float32(most)))
        steps = found / np.float32(scale)
        assert np.allclose(steps, np.rint(steps), rtol=0, atol=1e-4)
        assert np.abs(steps).max() <= most
        # Where the scale was rounded down, the largest values are cut.
        assert np.abs(found - row).max() <= scale / 2 + most * scale * 2.0**-11 + 1e-6 * scale


def test_an_unknown_format_is_refused() -> None:
    for name in ("int9", "int1", "fp8", "float16"):
        with pytest.raises(SpecError, match="kv: must be one of float32, fp16"):
            parse_kv(name)


def test_bytes_of_a_token() -> None:
    config = TINY.config
    vectors_of_token = 2 * config.layers * config.kv_heads
    assert token_bytes(FLOAT32, config) == vectors_of_token * config.head_dim * 4
    assert token_bytes(parse_kv("int4"), config) == vectors_of_token * (config.head_dim // 2 + 2)


def test_tokens_come_to_the_same_one_by_one() -> None:
    """A vector is held alike whether its token came alone or with others."""
    ids, kv = TINY.tokenizer.encode("One day, a girl went to the park."), parse_kv("int4")
    at_once = forward(TINY, LINEAR, ids, Cache(TINY.config, len(ids), kv))
    cache = Cache(TINY.config, len(ids), kv)
    apart = np.concatenate([forward(TINY, LINEAR, [each], cache) for each in ids])
    assert np.allclose(at_once, apart, rtol=0, atol=2e-3)
    exact = forward(TINY, LINEAR, ids, Cache(TINY.config, len(ids)))
    assert np.abs(at_once - exact).max() > 0.05


def test_fewer_bits_diverge_more() -> None:
    text = zoo.default_text("evolute-tiny")
    found = [
        measure(TINY, LINEAR, LINEAR, text, 200, 128, kv=parse_kv(name)).kl
        for name in ("float32", "fp16", "int8", "int4", "int2")
    ]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[1] < 1e-6 < found[2] < 1e-3 < found[4]


@given(
    length=st.integers(1, 200),
    tokens=st.integers(1, 250),
    step=st.integers(2, 40),
    part=st.floats(0, 1),
    prefix=st.booleans(),
)
def test_overlapping_windows_predict_each_token_once(length, tokens, step, part, prefix) -> None:
    """In order and with at least `context - stride` tokens before each, but for the first."""

    class Numbers:
        def __init__(self) -> None:
            self.prefix = (-1,) if prefix else ()

        def encode(self, text: str) -> list[int]:
            return list(range(length))

    model = replace(TINY, tokenizer=Numbers())
    context, stride = step + prefix, max(1, round(part * step))
    text = Text("numbers", "")
    if length < 2 and not prefix:
        return
    found = strided(model, text, tokens, context, stride)
    predicted = [each for ids, seen in found for each in ids[seen + 1 :]]
    wanted = [each for each in range(length) if prefix or each]
    if stride == step and not prefix:  # the first token of a window has none before it
        wanted = [each for each in wanted if each % step]
    assert predicted == wanted[:tokens]
    for number, (ids, seen) in enumerate(found):
        assert len(ids) <= context
        assert ids[0] == -1 or not prefix
        assert number == 0 or seen >= step - stride - 1
    if stride == step:
        assert [window.ids for window in found] == windows(model, text, tokens, context)


def test_overlap_is_the_sum_over_its_tokens() -> None:
    """Against each token predicted on its own, from as many tokens before it as a window gives."""
    content = zoo.default_text("evolute-tiny")
    found = measure(TINY, LINEAR, LINEAR, content, 30, 20, stride=1)
    ids = TINY.tokenizer.encode(content.content)
    loss = 0.0
    prefix = list(TINY.tokenizer.prefix)
    step, first = 20 - len(prefix), 0 if prefix else 1
    for at in range(first, first + 30):
        before = prefix + ids[max(0, at + 1 - step) : at]
        cache = Cache(TINY.config, len(before))
        logits = head(TINY, LINEAR, forward(TINY, LINEAR, before, cache))[-1].astype(np.float64)
        logits -= logits.max()
        loss -= logits[ids[at]] - np.log(np.exp(logits).sum())
    assert (found.tokens, found.stride) == (30, 1)
    assert found.perplexity == pytest.approx(np.exp(loss / 30), rel=1e-5)


def test_the_command_states_both(tmp_path) -> None:
    command = ["evolute-tiny", "--tokens", "40", "--context", "32", "--json"]
    command += ["--out", str(tmp_path), "--weights", "w4g32"]
    result = CliRunner().invoke(cli.eval, [*command, "--stride", "8", "--kv", "int4"])
    found = json.loads(result.stdout)
    assert (found["stride"], found["kv"], found["tokens"]) == (8, "int4", 40)
    assert found["kv_bytes_per_token"] == token_bytes(parse_kv("int4"), TINY.config)
    result = CliRunner().invoke(cli.eval, [*command, "--stride", "33"])
    assert isinstance(result.exception, SpecError)
    assert "stride: must be in 1..3" in str(result.exception)
