"""The embedded model as shipped, and the pieces of the script that makes it."""

# PyTorch is no dependency of this package, so it may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.language_model.model import ModelConfig

FOLDER = Path(__file__).resolve().parents[3] / "sw" / "checkpoints" / "models" / "evolute-tiny"


def test_is_small():
    size = sum((FOLDER / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    assert size <= 2_000_000
    assert 500_000 < open_model(FOLDER).params < 1_000_000


def test_loads_with_the_shape_it_is_meant_to_have():
    model = open_model(FOLDER)  # which refuses missing tensors, wrong shapes and non-finite weights
    config = model.config
    assert config.heads % config.kv_heads == 0 and config.kv_heads < config.heads
    assert config.ffn % 128, "ragged weight groups must occur in tests"
    assert "head" not in model.tensors
    assert model.tokenizer.library.get_vocab_size() == config.vocab


def test_weights_are_trained():
    """Training moves what begins small, and what begins as ones, by more than rounding does."""
    model = open_model(FOLDER)
    embedding = np.asarray(model.tensors["embedding"])
    (common,) = model.tokenizer.encode(" the")
    assert np.std(embedding[common]) > 2 * 0.02
    for layer in range(model.config.layers):
        assert np.std(np.asarray(model.tensors[f"{layer}.attention_norm"])) > 0.01


def test_tokenizer_returns_every_text():
    tokenizer = open_model(FOLDER).tokenizer
    for text in ("Once upon a time, there was a cat.", 'naïve  "ż"\n\t\x00 \U0001f600', ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.prefix == (0,) and tokenizer.stops == {0}


def test_held_out_text_is_whole_stories():
    tokenizer = open_model(FOLDER).tokenizer
    text = (FOLDER / "heldout.txt").read_text(encoding="utf-8")
    stories = text.split("<|story|>")
    assert len(stories) > 20 and all(story == story.strip() and story for story in stories)
    assert tokenizer.encode(text).count(0) == len(stories) - 1
    assert max(len(tokenizer.encode(story)) for story in stories) < 512


def test_readme_states_the_recorded_figures():
    record = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    held_out = record["held_out"]
    assert f"{held_out['perplexity']:.2f}" in readme
    assert f"{held_out['bits_per_character']:.2f}" in readme
    assert f"{held_out['teacher_bits_per_character']:.2f}" in readme
    assert f"{record['tokens']:,}" in readme and f"{record['steps']:,} steps" in readme
    assert held_out["teacher_bits_per_character"] < held_out["bits_per_character"]


SMALL = ModelConfig(
    hidden=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=24,
    vocab=280,
    context=32,
    rope_theta=1e4,
    norm_eps=1e-5,
    rope_pairs="halves",
)
TEXTS = [f"There were {count} cats and {count} hats on the mat." for count in range(40)]


@pytest.fixture
def made():
    """The modules that need PyTorch, which is not among this package's dependencies."""
    pytest.importorskip("torch").set_num_threads(1)  # as in the script, and faster at this size
    from evolute.sw.training import torch_llama, train_tiny

    return torch_llama, train_tiny


def encode(train_tiny, texts):
    tokenizer = train_tiny.train_tokenizer(texts, SMALL.vocab)
    return tokenizer, [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def test_training_is_reproducible_and_learns(made):
    torch_llama, train_tiny = made
    _, stories = encode(train_tiny, TEXTS)

    def trained(seed, steps):
        rng = np.random.default_rng(seed)
        return torch_llama.train_model(SMALL, stories, rng, steps=steps, batch=4)

    first, again, other = trained(1, 3), trained(1, 3), trained(2, 3)
    assert first.keys() == SMALL.shapes().keys() - {"head"}
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert any(bool((first[name] != other[name]).any()) for name in first)
    import torch

    ids = torch.tensor([stories[0]])

    def loss(weights):
        logits = torch_llama.forward(SMALL, weights, ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).item()

    start = torch_llama.initial_weights(SMALL, np.random.default_rng(1))
    assert loss(trained(1, 30)) < loss(start) - 0.5


def test_attention_equals_the_plain_formula(made):
    torch_llama, _ = made
    import torch

    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, heads, 300, 8, generator=generator) for heads in (4, 2, 2))
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(torch_llama.causal_attention(query, key, value), plain)


def test_sampling_follows_the_full_forward_pass(made):
    """Step by step with a cache and thinned batches, the same distribution as in one pass."""
    torch_llama, _ = made
    import torch

    config = ModelConfig(**{**vars(SMALL), "kv_heads": 4})
    weights = torch_llama.initial_weights(config, np.random.default_rng(4))
    weights["embedding"][7] *= 20  # a mark that is drawn often
    texts = torch_llama.sample_texts(config, weights, np.random.default_rng(5), 64, mark=7)
    assert texts and all(7 not in text and len(text) < config.context for text in texts)
    cache = torch_llama.empty_cache(config, 1)
    ids = torch.tensor([[7, *max(texts, key=len)]])
    whole = torch_llama.forward(config, weights, ids)
    for position in range(ids.shape[1]):
        step = torch_llama.forward(
            config, weights, ids[:, position : position + 1], cache, position
        )
        torch.testing.assert_close(step[:, 0], whole[:, position], rtol=1e-4, atol=1e-4)


def test_export_reads_back(made, tmp_path):
    """What `export` writes opens as the model that was trained, rounded to float16."""
    torch_llama, train_tiny = made
    import safetensors.torch

    weights = torch_llama.initial_weights(train_tiny.TINY, np.random.default_rng(6))
    tensors = train_tiny.hugging_face_tensors(weights)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    settings = train_tiny.hugging_face_config(train_tiny.TINY)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tokenizer = train_tiny.train_tokenizer(TEXTS, train_tiny.TINY.vocab)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    model = open_model(tmp_path)
    assert model.config == train_tiny.TINY
    for name, tensor in weights.items():
        assert np.array_equal(np.asarray(model.tensors[name]), tensor.half().float().numpy())


def test_split_stays_when_the_corpus_grows(made, tmp_path):
    _, train_tiny = made
    texts = [f"story {number}" for number in range(230)]
    (tmp_path / "stories-000.txt").write_text(train_tiny.STORY.join(texts[:120]))
    before = train_tiny.read_corpus(tmp_path)
    (tmp_path / "stories-001.txt").write_text(train_tiny.STORY.join(texts[120:]))
    after = train_tiny.read_corpus(tmp_path)
    assert sorted(after.trained + after.held_out) == sorted(texts)
    assert after.held_out[: len(before.held_out)] == before.held_out
    assert not set(after.trained) & set(after.held_out)


def test_refuses_a_folder_without_stories(made, tmp_path):
    from evolute.support.files import FileError

    _, train_tiny = made
    with pytest.raises(FileError, match="has no sampled stories"):
        train_tiny.read_corpus(tmp_path)
