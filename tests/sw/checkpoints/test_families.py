"""Every family's forward pass against Hugging Face transformers, on small random models.

Needs the `oracle` extra; the same formulas are checked without it in `test_family_formulas.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel

VOCAB, TOKENS = 96, 40
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GATED = {"intermediate_size": 80, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GATED),
    "llama-biases": ("Llama", GATED | {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama-3": ("Llama", GATED | {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "Llama",
        GATED | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "mistral": ("Mistral", GATED | {"sliding_window": 7}),
    "qwen2": ("Qwen2", GATED | {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        GATED | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", GATED | {"head_dim": 16}),
    "phi3": ("Phi3", GATED | {"sliding_window": 11}),
    "phi3-long": (
        "Phi3",
        GATED | {"original_max_position_embeddings": 48, "rope_parameters": LONG},
    ),
    "gemma": ("Gemma", GATED | {"head_dim": 16}),
    "gemma2": (
        "Gemma2",
        GATED | {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24},
    ),
    "gemma3": (
        "Gemma3Text",
        GATED
        | {
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "opt": ("OPT", {"ffn_dim": 80, "word_embed_proj_dim": 32}),
    "opt-plain": ("OPT", {"ffn_dim": 80, "word_embed_proj_dim": 32, "enable_bias": False}),
    "bitnet": ("BitNet", GATED),
}


def write_tokenizer(folder: Path) -> None:
    vocab = {f"t{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))


def logits(model: LanguageModel, ids: list[int]) -> np.ndarray:
    """In two steps, so that a cache takes part."""
    linear, cache = host_linears(model), Cache(model.config, len(ids))
    parts = [forward(model, linear, ids[:23], cache), forward(model, linear, ids[23:], cache)]
    return head(model, linear, np.concatenate(parts))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_same_as_transformers(case, sharded, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, settings = CASES[case]
    config = getattr(transformers, f"{family}Config")(**SHAPE | settings)
    torch.manual_seed(sum(map(ord, case)))
    other = (
        getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).float().eval()
    )
    with torch.no_grad():  # larger than a fresh model's, so that no part of it is idle
        for name, tensor in other.named_parameters():
            tensor.normal_(0.0, 0.5 if "norm" in name or tensor.ndim < 2 else 0.25)
    other.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if sharded else {}))
    assert (tmp_path / "model.safetensors").exists() != sharded
    write_tokenizer(tmp_path)
    model = open_model(tmp_path)
    ids = np.random.default_rng(1).integers(0, VOCAB, TOKENS).tolist()
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    found = logits(model, ids)
    # As in test_decoder: each layer's sums of up to K terms, in another order, and functions that
    # differ in a last bit. Norms divide by numbers that may be small: a factor of 16 in all.
    terms = max(model.config.ffn, model.config.hidden)
    allowed = 16 * model.config.layers * math.sqrt(terms) * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
    assert np.std(expected) > 0.1
