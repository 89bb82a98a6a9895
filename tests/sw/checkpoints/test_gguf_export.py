"""GGUF files that we write: read by the `gguf` package, by ourselves, and by llama.cpp."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer, models

from evolute import front
from evolute.hw.spec.formats import TERNARY
from evolute.sim.weights import Grid
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.gguf_blocks import CODES
from evolute.sw.checkpoints.gguf_export import TYPES, ExportError, write_gguf
from evolute.sw.language_model.decoder import Cache, forward, generate, greedy, head
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel, ModelConfig, dequantized
from evolute.sw.language_model.tokenizer import TextTokenizer, Vocabulary, byte_level_bpe, score_bpe
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.tensor import QuantTensor
from evolute.sw.tensors.weights import parse_weights

VOCAB = 320
PLAIN = ModelConfig(
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=96,
    vocab=VOCAB,
    context=64,
    rope_theta=1e4,
    norm_eps=1e-5,
    rope_pairs="halves",
)
LATER = {"embedding_scale": 8.0, "activation": "gelu_tanh", "window": 6, "layers": 7}
POST = ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm")
HEADS = ("attention_norm", "q_norm", "k_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm")
STRETCH = {"rope_factors": (1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_pairs": "interleaved"}),
    "llama in halves": ("llama", {}),
    "llama 3": ("llama", STRETCH),
    "llama with biases": ("llama", {"biases": ("q", "k", "v", "o")}),
    "qwen2": ("llama", {"biases": ("q", "k", "v")}),
    "all biases": ("llama", {"biases": ("q", "k", "v", "o", "gate", "up", "down")}),
    "qwen3": ("qwen3", {"norms": ("attention_norm", "q_norm", "k_norm", "ffn_norm")}),
    "a window as long as the context": ("llama", {"window": 64, "local_layers": (0, 1)}),
    "gemma": ("gemma", {"embedding_scale": 8.0, "activation": "gelu_tanh"}),
    "gemma2": (
        "gemma2",
        LATER
        | {
            "norms": POST,
            "score_cap": 50.0,
            "logit_cap": 30.0,
            "local_layers": (
                0,
                2,
                4,
                6,
            ),
            "query_divisor": 16.0,
        },
    ),
    "gemma3": (
        "gemma3",
        LATER
        | {
            "norms": HEADS,
            "rope_theta": 1e6,
            "local_rope_theta": 1e4,
            "local_layers": (
                0,
                1,
                2,
                3,
                4,
                6,
            ),
        },
    ),
    "gemma2 stretched": (
        "gemma2",
        LATER
        | {
            "norms": POST,
            "score_cap": 20.0,
            "logit_cap": 10.0,
            "rope_factors": (4.0,) * 8,
            "local_layers": (0, 2, 4, 6),
        },
    ),
    "gemma3 with a cap": (
        "gemma3",
        LATER
        | {
            "norms": HEADS,
            "logit_cap": 3.0,
            "local_rope_theta": 1e4,
            "local_layers": (0, 1, 2, 3, 4, 6),
        },
    ),
    "gemma3 stretched": (
        "gemma3",
        LATER
        | {
            "norms": HEADS,
            "rope_theta": 1e6,
            "local_rope_theta": 1e4,
            "rope_factors": (8.0,) * 8,
            "local_layers": (
                0,
                1,
                2,
                3,
                4,
                6,
            ),
        },
    ),
}


def tokenizer() -> TextTokenizer:
    """Byte-level, with one merge, and room to the vocabulary's end."""
    letters = sorted(gguf_bytes())
    tokens = ["<s>", "</s>", "<user>", *letters, "he", "hel"]
    vocabulary = Vocabulary(tokens, ("<s>", "</s>"), ("<user>",))
    library = byte_level_bpe(vocabulary, ["h e", "he l"], "qwen2")
    return TextTokenizer(library, prefix=(0,), stops=frozenset((1,)))


def gguf_bytes() -> set[str]:
    """The characters that stand for bytes in byte-level vocabularies."""
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())


def made(config: ModelConfig, seed: int = 0, tied: bool = True) -> LanguageModel:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(scale=0.3, size=shape).astype(np.float32)
        for name, shape in config.shapes().items()
        if not (tied and name == "head")
    }
    return LanguageModel("made", config, tensors, tokenizer())


def logits(model: LanguageModel, ids: list[int]) -> np.ndarray:
    linear = host_linears(model)
    return head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))


TIED_ONLY = ("gemma", "gemma2")
"""Architectures of which llama.cpp opens no file that holds a head."""
WRITTEN = [
    (family, tied)
    for family, (architecture, _) in FAMILIES.items()
    for tied in ((True,) if architecture in TIED_ONLY else (True, False))
]


@pytest.mark.parametrize(("family", "tied"), WRITTEN)
def test_families_read_back_as_they_were(family, tied, tmp_path):
    architecture, changes = FAMILIES[family]
    model = made(replace(PLAIN, **changes), tied=tied)
    written = write_gguf(model, tmp_path / "model.gguf", Kind.F32)
    assert written.architecture == architecture
    found = open_model(tmp_path / "model.gguf")
    assert found.params == model.params
    ids = np.random.default_rng(1).integers(0, VOCAB, 20).tolist()
    expected = logits(model, ids)
    # Rows are in another order at most, so only sums over a head's elements differ.
    allowed = 16 * model.config.layers * math.sqrt(96) * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(logits(found, ids), expected, rtol=0, atol=allowed)
    text = "hello <user> hehe 12 Ünï"
    assert found.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert (found.tokenizer.prefix, found.tokenizer.stops) == ((0,), {1})


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("q4_0", "w4g32s"),
        ("q4_0", "w3g64s"),
        ("q4_1", "w4g32f"),
        ("q8_0", "w8g32s"),
        ("q8_0", "w6g32"),
        ("q8_0", "w4g64"),
        ("tq1_0", "tg256"),
        ("tq2_0", "tg256"),
        ("tq2_0", "t"),
    ],
)
def test_codes_are_written_without_rounding(kind, weights, tmp_path):
    """A file's weights, read by the `gguf` package, are those of the codes, bit for bit."""
    config = replace(PLAIN, hidden=256, heads=16, ffn=512)
    model, rounding = made(config), parse_weights(weights).rounding
    assert rounding
    tensors = dict(model.tensors)
    names = [name for name in tensors if name.count(".") and len(tensors[name].shape) == 2]
    for name in names:
        tensors[name] = quantize(dequantized(tensors[name]), rounding)
    tensors["embedding"] = tensors["embedding"].astype(np.float16).astype(np.float32)
    model = replace(model, tensors=tensors)
    written = write_gguf(model, tmp_path / "model.gguf", TYPES[kind])
    assert sorted(written.exact) == sorted(names) and not written.rounded
    stored = {each.name: each for each in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for ours, theirs in (("down", "ffn_down"), ("up", "ffn_up"), ("o", "attn_output")):
        entry = stored[f"blk.1.{theirs}.weight"]
        assert entry.tensor_type == TYPES[kind]
        found = gguf.dequantize(entry.data, entry.tensor_type)
        assert np.array_equal(found, dequantized(tensors[f"1.{ours}"]))
    again = open_model(tmp_path / "model.gguf")
    ids = list(range(12))
    # The same numbers, of which those of queries and keys are in another order.
    expected = logits(model, ids)
    allowed = 16 * config.layers * math.sqrt(512) * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(logits(again, ids), expected, rtol=0, atol=allowed)


@pytest.mark.slow
def test_a_gguf_file_is_written_back_byte_for_byte(tmp_path):
    known = zoo.KNOWN["smollm2-135m"]
    if not known.path.exists():
        pytest.skip(f"{known.name} has not been fetched")
    write_gguf(zoo.load(known.name), tmp_path / "model.gguf", Kind.Q4_1)
    given, made = (
        {each.name: each for each in gguf.GGUFReader(path).tensors}
        for path in (known.path, tmp_path / "model.gguf")
    )
    assert set(made) == set(given)
    for name, tensor in given.items():
        assert made[name].tensor_type == tensor.tensor_type
        assert np.array_equal(made[name].data, tensor.data), name


@pytest.mark.parametrize("kind", list(CODES))
def test_blocks_have_an_inverse(kind):
    blocks = CODES[kind]
    rng = np.random.default_rng(3)
    codes = rng.integers(0, blocks.format.levels, (5, 4 * blocks.block)).astype(np.uint8)
    scale = rng.normal(size=(5, 4)).astype(np.float16).astype(np.float32)
    minimum = scale * np.float32(-blocks.zero) if blocks.zero is not None else scale[::-1]
    tensor = QuantTensor(
        Grid.plain(codes, blocks.format, blocks.block), scale, minimum, blocks.group_bits
    )
    joined = blocks.join(tensor)
    assert joined is not None
    found = blocks.split(joined.reshape(5, 4, -1))
    assert np.array_equal(found.codes, codes)
    assert np.array_equal(found.scale, scale) and np.array_equal(found.minimum, minimum)
    assert np.array_equal(gguf.dequantize(joined, kind), tensor.dequantize())
    # What no block holds exactly is not held.
    assert blocks.join(replace(tensor, scale=scale * np.float32(1 + 2**-20))) is None
    assert blocks.join(replace(tensor, minimum=minimum + np.float32(2**-20))) is None
    halved = replace(tensor.form, group=blocks.block // 2)
    assert blocks.join(replace(tensor, form=halved, scale=np.repeat(scale, 2, 1))) is None


def test_weights_that_no_type_holds_are_rounded_and_said_so(tmp_path):
    model = made(replace(PLAIN, ffn=256))
    written = write_gguf(model, tmp_path / "model.gguf", Kind.TQ2_0)
    assert set(written.rounded) == {"0.down", "1.down"}  # the others' rows are no whole blocks
    assert len(written.half) == 1 + 2 * 6 and not written.exact
    found = open_model(tmp_path / "model.gguf")
    assert isinstance(found.tensors["0.down"], QuantTensor)
    assert found.tensors["0.down"].format == TERNARY
    values = model.tensors["0.q"].astype(np.float16)
    assert sorted(dequantized(found.tensors["0.q"]).ravel()) == sorted(values.ravel())


@pytest.mark.parametrize("before", [True, False])
def test_sentencepiece_tokenizers_read_back(before, tmp_path):
    pieces = ["▁", "a", "b", "c", "ab", "▁ab", "abc", "▁a", "bc", "▁▁"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    scores = [0.0] * 259 + [-100.0, -101, -102, -103, -1, -5, -2, -3, -4, -6]
    vocabulary = Vocabulary(tokens, ("<unk>", "<s>", "</s>"))
    library = score_bpe(vocabulary, scores, range(259, len(tokens)), space_before=before)
    model = replace(made(PLAIN), tokenizer=TextTokenizer(library, (1,), frozenset((2,))))
    write_gguf(model, tmp_path / "model.gguf", Kind.F16)
    found = open_model(tmp_path / "model.gguf").tokenizer
    for text in ("abc ab  a", " abcabc", "cab é", "", "   "):
        assert found.encode(text) == library.encode(text, add_special_tokens=False).ids, text
        assert found.decode(found.encode(text)) == text
    first = tokens[found.encode("abc")[0]]
    assert first.startswith("▁") == before


UNSAID: dict[str, tuple[dict[str, Any], bool, str]] = {
    "OPT": ({"norm": "layer", "rope_pairs": None, "gated": False}, True, "is such a model"),
    "activation": ({"activation": "relu2"}, True, "is such a model"),
    "divisor": ({"query_divisor": 3.0}, True, "is such a model"),
    "embedding": ({"embedding_scale": 2.0}, True, "is such a model"),
    "window": ({"window": 4, "local_layers": (1,)}, True, "a window, here of 4 tokens, in Gemma"),
    "window of all": (
        {"window": 6, "local_layers": (0, 1)},
        True,
        "a window, here of 6 tokens, in Gemma 2 and 3 only",
    ),
    "head of Gemma": (FAMILIES["gemma"][1], False, "takes the embedding for the head in Gemma 1"),
    "head of Gemma 2": (FAMILIES["gemma2"][1], False, "takes the embedding for the head"),
    # Only a Llama has a tensor for them.
    "stretch of Qwen3": (FAMILIES["qwen3"][1] | STRETCH, True, "is such a model"),
    "biases of Qwen3": (FAMILIES["qwen3"][1] | {"biases": ("q", "k", "v", "o")}, True, "is such"),
}


@pytest.mark.parametrize("case", UNSAID)
def test_what_gguf_has_no_form_for(case, tmp_path):
    path, (changes, tied, message) = tmp_path / "model.gguf", UNSAID[case]
    with pytest.raises(ExportError, match="GGUF: none of llama, ") as refused:
        write_gguf(made(replace(PLAIN, **changes), tied=tied), path, Kind.F32)
    assert message in str(refused.value)
    assert not path.exists()


def test_a_tokenizer_that_gguf_has_no_form_for(tmp_path):
    path = tmp_path / "model.gguf"
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ExportError, match="its tokenizer must be BPE, got WordLevel"):
        write_gguf(replace(made(PLAIN), tokenizer=TextTokenizer(words)), path, Kind.F32)
    assert not path.exists()


def test_the_command(tmp_path):
    path = tmp_path / "tiny.gguf"
    run = partial(CliRunner().invoke, front.cli)
    done = run(["convert", "evolute-tiny", "--type", "q8_0", "-o", str(path), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["bytes"] == path.stat().st_size
    assert (len(record["exact"]), len(record["rounded"]), record["half"]) == (0, 28, ["embedding"])
    plain, found = zoo.load("evolute-tiny"), open_model(path)
    ids = plain.tokenizer.encode("Once upon a time")
    assert found.tokenizer.encode("Once upon a time") == ids
    assert np.abs(logits(found, ids) - logits(plain, ids)).max() < 0.5


def test_half_precision_of_most_of_a_model_is_said(tmp_path):
    """Rows of 128 and 320 are no whole number of blocks of 256, and are of blocks of 32."""
    run = partial(CliRunner().invoke, front.cli)
    asked = ["convert", "evolute-tiny", "-o", str(tmp_path / "a.gguf"), "--json", "--type"]
    done = run([*asked, "tq2_0"])
    record = json.loads(done.stdout)
    assert done.exit_code == 0 and record["half_part"] == 1 and len(record["half"]) == 29
    assert done.stderr.count("\n") == 1
    assert "100% of the layers' weights stay in half precision" in done.stderr
    assert "no whole number of the 256 weights" in done.stderr
    for kind in ("q4_0", "f16"):  # as it should be, and as asked for
        done = run([*asked, kind])
        assert json.loads(done.stdout)["half_part"] == 0 and done.stderr == ""


LLAMA_CPP = {
    "evolute-tiny": zoo.KNOWN["evolute-tiny"].path,
    "stories15m": zoo.KNOWN["stories15m"].path,
    "smollm2-135m": zoo.KNOWN["smollm2-135m"].path,
    "gemma-3-270m": zoo.KNOWN["gemma-3-270m"].path,
}


def llama_cpp_logits(path: Path, text: str, count: int) -> tuple[list[int], np.ndarray, list[int]]:
    """llama.cpp's tokens of a text, logits of each, and greedy tokens after it."""
    llama_cpp = pytest.importorskip("llama_cpp")
    context = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1)
    ids = context.tokenize(text.encode(), add_bos=True, special=False)
    context.eval(ids)
    found, more = np.array(context.scores[: len(ids)]), []
    for _ in range(count):
        more.append(int(np.argmax(context.scores[context.n_tokens - 1])))
        context.eval(more[-1:])
    return ids, found, more


@pytest.mark.slow
@pytest.mark.parametrize("name", LLAMA_CPP)
def test_llama_cpp_loads_and_generates(name, tmp_path):
    """Opt-in: needs llama-cpp-python. In half precision it computes what we do."""
    pytest.importorskip("llama_cpp")
    if not LLAMA_CPP[name].exists():
        pytest.skip(f"{name} has not been fetched")
    path, text = tmp_path / "model.gguf", "Once upon a time, there was a little girl"
    write_gguf(zoo.load(name), path, Kind.F16)
    ids, theirs, more = llama_cpp_logits(path, text, 8)
    model = open_model(path)
    assert [*model.tokenizer.prefix, *model.tokenizer.encode(text)] == ids
    ours = logits(model, ids)
    # Its cache is in half precision, and so are inputs of matrices; where the head's weights are
    # 8-bit codes its inputs are too, each rounded by up to 1/254 of its group's largest.
    assert np.abs(ours - theirs).max() < 2.0**-6 * np.abs(ours).max()
    endless = replace(model, tokenizer=replace(model.tokenizer, stops=frozenset()))
    assert list(generate(endless, host_linears(model), ids, 8, greedy)) == more


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), WRITTEN)
def test_llama_cpp_knows_the_families(family, tied, tmp_path):
    """Opt-in: needs llama-cpp-python. Its logits are ours, up to its half-precision cache, past
    the window too."""
    pytest.importorskip("llama_cpp")
    _, changes = FAMILIES[family]
    changes = {**changes, "context": 128}
    changes |= {"window": 128 if changes["window"] == 64 else 16} if "window" in changes else {}
    model, path = made(replace(PLAIN, **changes), tied=tied), tmp_path / "model.gguf"
    write_gguf(model, path, Kind.F32)
    ids, theirs, _ = llama_cpp_logits(path, "hello hehe, what is it? " * 3, 0)
    assert len(ids) > 48
    ours = logits(model, ids)
    assert np.abs(ours - theirs).max() < 2.0**-7 * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_knows_the_types(kind, tmp_path):
    """Opt-in: needs llama-cpp-python, which rounds inputs of matrices in codes to 8 bits, of up to
    256 in a group: a few hundredths of the logits after two layers. Codes in another order, or of
    another scale, would make logits as unlike as two models'."""
    pytest.importorskip("llama_cpp")
    model = made(replace(PLAIN, hidden=256, heads=16, ffn=512, context=128))
    path = tmp_path / "model.gguf"
    write_gguf(model, path, TYPES[kind])
    ids, theirs, _ = llama_cpp_logits(path, "hello hehe, what is it? " * 3, 0)
    ours = logits(open_model(path), ids)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 2.0**-3 * np.std(ours)
