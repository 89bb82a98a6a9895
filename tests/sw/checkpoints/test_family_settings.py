"""What config.json means where it leaves settings out, against Hugging Face transformers.

`tests/data/transformers_settings.json`, which `tests/oracle/make_settings.py` writes, holds what
transformers builds of each family's configuration after one setting after another is taken away,
and of settings in the words of older and newer writers. The last test, which needs the `oracle`
extra, computes logits of every one of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.hugging_face import _FAMILIES
from evolute.sw.checkpoints.hugging_face_config import CONFIGS, Stated, stated, stretched
from evolute.sw.checkpoints.hugging_face_settings import DEFAULTS, known_settings
from evolute.sw.language_model.decoder import _ACTIVATIONS, Cache, forward, head
from evolute.sw.language_model.linear import host_linears

REFERENCE = json.loads(
    (Path(__file__).parents[2] / "data" / "transformers_settings.json").read_text()
)
CASES = {f"{case['settings']['model_type']}: {case['case']}": case for case in REFERENCE["cases"]}
COMPUTED = [name for name, case in CASES.items() if "computes" in case]
REFUSED = {
    "gemma2: gelu": "activation must be one of",  # the exact one, which is not implemented
    "phi3: partial": "partial_rotary_factor must be 1.0",
    # It warns there, and leaves the factor out.
    "llama: untyped": "rope_type default: factor is not a setting that is known here",
    # It fails there when it runs.
    "qwen2: without use_sliding_window": "layer 0 is a sliding_attention layer, but there is no",
    "qwen3: without use_sliding_window": "layer 0 is a sliding_attention layer, but there is no",
    **{
        f"{family}: without intermediate_size": "intermediate_size"
        for family in DEFAULTS
        if family != "opt"
    },
    "opt: without ffn_dim": "ffn_dim",
}
"""What transformers computes and is refused here, and why. The sizes of a feed-forward network have
a default there, too, which is no model's but the first."""
ROLES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "out_proj": "o"} | {
    **{"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "fc1": "up", "fc2": "down"}
}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
INPUTS = np.array([-3.0, -0.5, 0.7, 2.0], np.float32)


def described(found: Stated) -> dict[str, Any]:
    """The same facts as the reference's of a configuration as it is read here."""
    config, pairs = found.config, np.arange(found.config.head_dim // 2)
    layers = []
    for layer in range(config.layers):
        local = layer in config.local_layers
        theta, factors = config.rope_theta, config.rope_factors
        if local and config.local_rope_theta is not None:
            theta, factors = config.local_rope_theta, ()
        speeds = theta ** (-2.0 * pairs / config.head_dim) / (factors or 1.0)
        layers.append(
            {
                "window": config.window if local else None,
                "score_scale": 1 / math.sqrt(config.query_divisor or config.head_dim),
                "speeds": speeds if config.rope_pairs else np.array([]),
            }
        )
    return {
        "hidden": config.hidden,
        "vocab": config.vocab,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "ffn": config.ffn,
        "context": config.context,
        "norm_eps": config.norm_eps,
        "tied": found.tied,
        "biases": set(config.biases),
        "activation": _ACTIVATIONS[config.activation](INPUTS),
        "score_cap": config.score_cap,
        "logit_cap": config.logit_cap,
        "layers": layers,
    }


@pytest.mark.parametrize("name", sorted(set(COMPUTED) - set(REFUSED)))
def test_settings_mean_what_they_mean_to_transformers(name):
    settings, expected = CASES[name]["settings"], CASES[name]["computes"]
    found = described(stated(settings))
    if "longrope" in json.dumps(
        settings
    ):  # run in the first context only, where short factors hold
        assert found.pop("context") == settings.get("original_max_position_embeddings", 4096)
    for each, theirs in zip(found.pop("layers"), expected["layers"], strict=True):
        speeds = expected["speeds"][theirs["speeds"]]
        assert each["window"] == theirs["window"]
        np.testing.assert_allclose(each["score_scale"], theirs["score_scale"], rtol=1e-6)
        np.testing.assert_allclose(each["speeds"], speeds, rtol=1e-6)
    activation = found.pop("activation")
    np.testing.assert_allclose(activation, expected["activation"], rtol=1e-5, atol=1e-7)
    assert found.pop("biases") == {ROLES[each] for each in expected["biases"]}
    assert found == {name: expected[name] for name in found}


FAILING = {
    "llama: null epsilon": "rms_norm_eps must not be null",
    "phi3: linear": "rope_type must be default or longrope, got 'linear'",
}
"""What transformers refuses."""
OLDER = {
    "mistral: null key-value heads": {"kv_heads": 8},
    "phi3: su": {"rope_factors": (1.0, 1.1, 1.3, 2.0), "context": 48},
}
"""What transformers 5 refuses and 4 reads, and some fields of what it is."""


def test_the_reference_refuses_what_is_listed():
    assert set(CASES) - set(COMPUTED) == {*FAILING, *OLDER}


@pytest.mark.parametrize("name", [*FAILING, *REFUSED])
def test_what_is_refused(name):
    with pytest.raises((KeyError, ValueError)) as refused:
        stated(CASES[name]["settings"])
    assert (FAILING | REFUSED)[name] in str(refused.value)


@pytest.mark.parametrize("name", OLDER)
def test_what_older_versions_wrote(name):
    config = stated(CASES[name]["settings"]).config
    assert {field: getattr(config, field) for field in OLDER[name]} == OLDER[name]


def test_every_family_has_defaults_a_config_and_names():
    assert list(DEFAULTS) == list(CONFIGS) == list(_FAMILIES)


@pytest.mark.parametrize("family", DEFAULTS)
def test_every_setting_that_is_read_is_taken_away(family):
    """Each is given, and is absent, in some case that is compared."""
    given = [CASES[name]["settings"] for name in CASES if name.startswith(f"{family}: ")]
    sizes = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}
    for name in DEFAULTS[family].keys() - sizes - {"partial_rotary_factor"}:
        assert any(name not in settings for settings in given), name
        if DEFAULTS[family][name] is not None:
            assert any(name in settings for settings in given), name


@pytest.mark.parametrize("family", DEFAULTS)
def test_what_transformers_writes_is_known(family):
    known = known_settings(family)
    known.require(dict.fromkeys(set(REFERENCE["keys_written"][family]) - set(known.neutral), 1))


def published(kind: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("intermediate_size", "vocab_size", "max_position_embeddings")
    common = {"transformers_version": "4.44.0", "use_cache": True, "initializer_range": 0.02}
    common |= {"attention_dropout": 0.0, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5}
    return {"model_type": kind, **common, **dict(zip(names, sizes, strict=True)), **more}


GELU = "gelu_pytorch_tanh"
PUBLISHED: dict[str, tuple[dict[str, Any], tuple[int, int | None]]] = {
    "SmolLM2": (
        published(
            "llama",
            (576, 30, 9, 3, 1536, 49152, 8192),
            attention_bias=False,
            is_llama_config=True,
            mlp_bias=False,
            pretraining_tp=1,
            rope_interleaved=False,
            rope_theta=100000,
            tie_word_embeddings=True,
        ),
        (64, None),
    ),
    "Llama 3.2": (
        published(
            "llama",
            (2048, 16, 32, 8, 8192, 128256, 131072),
            head_dim=64,
            rope_scaling={**LLAMA3, "original_max_position_embeddings": 8192},
            rope_theta=500000.0,
        ),
        (64, None),
    ),
    "Qwen2.5": (
        published(
            "qwen2",
            (896, 24, 14, 2, 4864, 151936, 32768),
            max_window_layers=21,
            rope_theta=1e6,
            sliding_window=32768,
            use_mrope=False,
            use_sliding_window=False,
        ),
        (64, None),
    ),
    "Phi-3.5": (
        published(
            "phi3",
            (3072, 32, 32, 32, 8192, 32064, 131072),
            attention_bias=False,
            auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
            embd_pdrop=0.0,
            original_max_position_embeddings=4096,
            resid_pdrop=0.0,
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0]},
            sliding_window=262144,
        ),
        (96, 262144),
    ),
    "Gemma": (
        published(
            "gemma",
            (2048, 18, 8, 1, 16384, 256000, 8192),
            head_dim=256,
            hidden_act="gelu",
            hidden_activation=GELU,
        ),
        (256, None),
    ),
    "Gemma 2": (
        published(
            "gemma2",
            (2304, 26, 8, 4, 9216, 256000, 8192),
            cache_implementation="hybrid",
            hidden_act=GELU,
            hidden_activation=GELU,
            sliding_window=4096,
            sliding_window_size=4096,
        ),
        (256, 4096),
    ),
    "Gemma 3": (
        published(
            "gemma3_text",
            (640, 18, 4, 1, 2048, 262144, 32768),
            _sliding_window_pattern=6,
            attn_logit_softcapping=None,
            layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
            rope_local_base_freq=10000.0,
            rope_theta=1e6,
            sliding_window=512,
            use_bidirectional_attention=False,
        ),
        (256, 512),
    ),
    "BitNet": (
        published(
            "bitnet",
            (2560, 30, 20, 5, 6912, 128256, 4096),
            hidden_act="relu2",
            quantization_config={"quant_method": "bitnet"},
            rope_theta=500000.0,
        ),
        (128, None),
    ),
    "OPT": (
        {
            "model_type": "opt",
            "_remove_final_layer_norm": False,
            "activation_dropout": 0.0,
            "attention_dropout": 0.0,
            "dropout": 0.1,
            "ffn_dim": 3072,
            "hidden_size": 768,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "prefix": "</s>",
            "vocab_size": 50272,
            "word_embed_proj_dim": 768,
        },
        (64, None),
    ),
}
"""Configurations as models of the families are published with, and their size of a head and
window."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_configurations_of_published_models_are_read(model):
    settings, expected = PUBLISHED[model]
    config = stated(settings).config
    assert (config.head_dim, config.window) == expected


@pytest.mark.parametrize("name", sorted(set(COMPUTED) - set(REFUSED)))
def test_logits_are_those_of_transformers(name, tmp_path):
    """Opt-in: needs the `oracle` extra."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = CASES[name]["settings"]
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(
        json.loads(json.dumps(settings | {"pad_token_id": 0}))
    )
    torch.manual_seed(sum(map(ord, name)))
    other = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter, tensor in other.named_parameters():
            small = "norm" in parameter or tensor.ndim < 2
            tensor.normal_(0.0, 0.5 if small else 1.5 / math.sqrt(tensor.shape[-1]))
    other.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))  # as it was, not as it is written
    vocab = {f"t{index}": index for index in range(settings["vocab_size"])}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(tmp_path / "tokenizer.json"))
    model = open_model(tmp_path)
    count = min(40, model.config.context)
    ids = np.random.default_rng(1).integers(0, settings["vocab_size"], count).tolist()
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    linear, cache = host_linears(model), Cache(model.config, count)
    found = head(model, linear, forward(model, linear, ids, cache))
    terms = max(model.config.ffn, model.config.hidden)
    allowed = 16 * model.config.layers * math.sqrt(terms) * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


def test_beyond_its_first_context_a_model_has_long_factors() -> None:
    """As within it, with the other factors, the same scale of scores, and the longer context."""
    rope = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 9.0]}
    settings = {
        "model_type": "phi3", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 32,
        "max_position_embeddings": 64, "original_max_position_embeddings": 16,
        "rope_scaling": rope,
    }  # fmt: skip
    first, beyond = stated(settings).config, stretched(settings)
    assert first.rope_factors == (1.0, 1.5) and first.context == 16
    swapped = settings | {"rope_scaling": rope | {"short_factor": rope["long_factor"]}}
    assert beyond == replace(stated(swapped).config, context=64)
    assert beyond is not None and beyond.query_divisor == first.query_divisor != 4
    for nothing in (
        {"max_position_embeddings": 16},
        {"rope_scaling": None},
        {"rope_scaling": rope | {"long_factor": [2.0]}},
    ):
        assert stretched(settings | nothing) is None
    with pytest.raises(ValueError, match="rope_factors must be positive numbers"):
        stretched(settings | {"rope_scaling": rope | {"long_factor": [2.0, -1.0]}})
