"""What model files say that may change numbers: read, or refused by name, never passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from gguf import TokenType
from tokenizers import Tokenizer, models, pre_tokenizers

from evolute import front
from evolute.sw.checkpoints import gptq_file
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.tensors.stored import CheckpointError
from evolute.sw.tensors.tensor import PartedTensor

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCAB, CONTEXT = 32, 2, 4, 2, 48, 264, 64
HEAD_DIM = HIDDEN // HEADS
SETTINGS = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FFN, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
BLOCK = "model.layers.{}"
Q, EMBEDDING, HEAD = (
    "model.layers.1.self_attn.q_proj",
    "model.embed_tokens.weight",
    "lm_head.weight",
)
Tensors = Mapping[str, np.ndarray]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a Llama, head included, by the names that Hugging Face has."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.0) -> np.ndarray:
        return rng.normal(mean, 0.3, shape).astype(np.float32)

    found = {EMBEDDING: normal(VOCAB, HIDDEN), "model.norm.weight": normal(HIDDEN, mean=1)}
    for layer in range(LAYERS):
        for name, shape in LINEARS.items():
            found[f"{BLOCK.format(layer)}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{BLOCK.format(layer)}.{name}.weight"] = normal(HIDDEN, mean=1)
    return found | {HEAD: normal(VOCAB, HIDDEN)}


def folder(path: Path, tensors: Tensors | None = None, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    held = {name: np.ascontiguousarray(each) for name, each in (tensors or weights()).items()}
    safetensors.numpy.save_file(held, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(SETTINGS | settings))
    vocab = {f"t{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(path / "tokenizer.json"))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        dict(open_model(path).tensors)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def logits(model: LanguageModel) -> np.ndarray:
    ids = list(range(3, 43))
    linear = host_linears(model)
    return head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))


def assert_same(found: LanguageModel, expected: LanguageModel) -> None:
    """As far as sums in another order allow."""
    theirs = logits(expected)
    np.testing.assert_allclose(logits(found), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# config.json


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_fraction", 0.5),
        ("rotary_dim", 4),
        ("attention_multiplier", 0.1),
        ("embedding_scale", 2.0),
        ("window_size", 8),
        ("attn_softcap", 30.0),
        ("qk_norm", True),
        ("o_proj_bias", True),
        ("mlp_activation", "relu"),
        ("residual_multiplier", 0.5),
        ("quantization", {"bits": 4}),
        ("compression_config", {}),
        ("sparse_attention", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("num_experts", 8),
        ("sliding_window", 8),
        ("is_causal", False),
        ("position_embedding_type", "alibi"),
    ],
)
def test_unknown_settings_of_the_arithmetic_are_refused_by_name(name, value, tmp_path):
    assert name in refusal(folder(tmp_path / "model", **{name: value}))


def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    path = folder(tmp_path / "model", logit_multiplier=2.0)
    monkeypatch.setattr("sys.argv", ["evolute", "eval", str(path)])
    with pytest.raises(SystemExit) as ended:
        front.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "logit_multiplier is not a setting that is known here" in err and err.count("\n") == 1


HARMLESS: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "_flash_attn_2_enabled": True,
    "_name_or_path": "somewhere/else",
    "architectures": ["LlamaForCausalLM"],
    "attention_dropout": 0.1,
    "auto_map": {"AutoConfig": "configuration.Config"},
    "bos_token_id": 1,
    "initializer_range": 0.02,
    "is_llama_config": True,
    "output_attentions": False,
    "pretraining_tp": 2,
    "pruned_heads": {},
    "quantization_config": None,
    "resid_pdrop": 0.1,
    "rope_interleaved": False,
    "rope_scaling": None,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"dtype": "q4"},
    "transformers_version": "4.40.1",
    "unsloth_fixed": True,
    "use_cache": True,
    "use_sliding_window": False,
}


def test_settings_of_ordinary_files_are_not_refused(tmp_path):
    plain = logits(open_model(folder(tmp_path / "plain")))
    assert np.array_equal(logits(open_model(folder(tmp_path / "more", **HARMLESS))), plain)


LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "factor": 2.0}},
            "rope_scaling and rope_parameters must not say different things",
        ),
        ({"rope_scaling": {**LINEAR, "mscale": 2.0}}, "rope_type linear: mscale"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_type default: factor"),
        ({"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object, got 'linear'"),
        ({"rope_parameters": [4.0]}, "rope_parameters must be an object, got [4.0]"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"full_attention": 1e6}},
            "full_attention must be an object",
        ),
        (
            {"model_type": "gemma3_text", "sliding_window_pattern": 0},
            "sliding_window_pattern must be at least 1, got 0",
        ),
        ({"model_type": "qwen3", "layer_types": 7}, "layer_types must be 2 of"),
        ({"model_type": "mistral", "layer_types": {}}, "layer_types must all be"),
        ({"rms_norm_eps": None}, "rms_norm_eps must not be null"),
        ({"attention_bias": "no"}, "attention_bias must be true or false, got 'no'"),
        (
            {"model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types must all be sliding_attention with sliding_window 4096",
        ),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]},
            "layer 1 is a sliding_attention layer, but there is no sliding_window",
        ),
        (
            {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": "relu"},
            "hidden_act and hidden_activation must not say different things",
        ),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "must be false, got true"),
        (
            {"model_type": "gemma3_text", "rope_parameters": LINEAR},
            "rope_parameters: rope_type is not",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "dynamic": {"a": {}}}}, "dyn"),
    ],
)
def test_settings_that_contradict_each_other_or_are_wrong(settings, message, tmp_path):
    assert message in refusal(folder(tmp_path / "model", **settings))


def test_equal_statements_in_old_and_new_words_are_one(tmp_path):
    both = folder(tmp_path / "both", rope_scaling=LINEAR, rope_parameters=LINEAR)
    one = folder(tmp_path / "one", rope_scaling={"type": "linear", "factor": 4.0})
    assert open_model(both).config == open_model(one).config


# tensors that contradict config.json


def test_another_head_than_the_embedding_is_used_whatever_settings_say(tmp_path):
    tensors = weights()
    model = open_model(folder(tmp_path / "other", tensors, tie_word_embeddings=True))
    assert np.array_equal(np.asarray(model.head), tensors[HEAD])
    assert_same(model, open_model(folder(tmp_path / "untied", tensors)))
    # The same matrix twice is one.
    twice = open_model(
        folder(tmp_path / "twice", {**tensors, HEAD: tensors[EMBEDDING]}, tie_word_embeddings=True)
    )
    del tensors[HEAD]
    once = open_model(folder(tmp_path / "once", tensors, tie_word_embeddings=True))
    assert "head" not in twice.tensors and twice.params == once.params
    # Not tied, it is a head of its own that happens to be equal, and none is not.
    assert "there is no lm_head.weight" in refusal(folder(tmp_path / "none", tensors))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (f"{Q}.bias", (HIDDEN,), "1.q_bias: such a model has no bias there, and it adds"),
        ("lm_head.bias", (VOCAB,), "head_bias: such a model has no bias there"),
        (
            f"{BLOCK.format(0)}.input_layernorm.bias",
            (HIDDEN,),
            "0.attention_norm_bias: such a model has no bias",
        ),
    ],
)
def test_biases_that_a_model_has_not(name, shape, message, tmp_path):
    """Zeros add nothing; others do, and so does a bias of another size, whatever it holds."""
    plain = open_model(folder(tmp_path / "plain"))
    zeros = {**weights(), name: np.zeros(shape, np.float16)}
    model = open_model(folder(tmp_path / "zeros", zeros))
    assert np.array_equal(logits(model), logits(plain)) and model.params == plain.params
    one = np.zeros(shape, np.float32)
    one[-1] = 2.0**-20
    assert message in refusal(folder(tmp_path / "one", {**weights(), name: one}))
    long = np.zeros(shape[0] + 1, np.float32)
    line = refusal(folder(tmp_path / "long", {**weights(), name: long}))
    assert "is not part of such a model" in line


@pytest.mark.parametrize(
    "name",
    [
        f"{BLOCK.format(0)}.self_attn.q_norm.weight",
        f"{BLOCK.format(0)}.self_attn.sinks",
        f"{BLOCK.format(LAYERS)}.self_attn.q_proj.weight",
        f"{BLOCK.format(0)}.mlp.experts.0.gate_proj.weight",
        "model.rotary_emb.scale",
        "model.inv_freq",
    ],
)
def test_tensors_that_nothing_uses_are_refused(name, tmp_path):
    held = {**weights(), name: np.zeros(HEAD_DIM // 2, np.float32)}
    assert "is not part of such a model" in refusal(folder(tmp_path / "model", held))


def test_stored_speeds_must_be_those_of_the_settings(tmp_path):
    """Older writers store the speeds at which positions turn; the reference computes its own."""
    speeds = 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    plain = logits(open_model(folder(tmp_path / "plain")))
    for name in ("model.rotary_emb", f"{BLOCK.format(1)}.self_attn.rotary_emb"):
        held = {**weights(), f"{name}.inv_freq": speeds.astype(np.float16)}
        assert np.array_equal(logits(open_model(folder(tmp_path / "same", held))), plain)
        held[f"{name}.inv_freq"] = (speeds / 2).astype(np.float32)
        line = refusal(folder(tmp_path / "slower", held))
        assert "inv_freq: positions turn at other speeds" in line
        assert open_model(folder(tmp_path / "slower", held, rope_scaling={**LINEAR, "factor": 2.0}))


# GPTQ


def gptq(
    path: Path, stored_zero: int | None = 7, places: np.ndarray | None = None, **settings: Any
) -> Path:
    """A folder whose layer q is in 4-bit codes, with groups of 16 inputs; zero points that are all
    `stored_zero`, or any."""
    rng, held = np.random.default_rng(1), weights()
    codes = rng.integers(0, 16, (HIDDEN, HIDDEN)).astype(np.uint8)
    zeros = rng.integers(0, 16, (2, HIDDEN)) if stored_zero is None else stored_zero
    zeros = np.broadcast_to(zeros, (2, HIDDEN)).astype(np.uint8)
    del held[f"{Q}.weight"]
    held[f"{Q}.qweight"] = gptq_file.pack_words(codes.T, 4).T
    held[f"{Q}.qzeros"] = gptq_file.pack_words(zeros, 4)
    held[f"{Q}.scales"] = rng.uniform(0.01, 0.1, (2, HIDDEN)).astype(np.float16)
    if places is not None:
        held[f"{Q}.g_idx"] = places.astype(np.int32)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 16, **settings}
    return folder(path, held, quantization_config=config)


def q_of(path: Path) -> np.ndarray:
    return dequantized(open_model(path).tensors["1.q"])


@pytest.mark.parametrize("sym", [{"sym": True}, {}])
def test_symmetric_zero_points_that_contradict_the_version(sym, tmp_path):
    right = q_of(gptq(tmp_path / "one", 7, **sym))
    for name in ("checkpoint_format", "format"):
        path = gptq(tmp_path / name, 8, **{name: "gptq_v2"}, **sym)
        assert np.array_equal(q_of(path), right)
        line = refusal(gptq(tmp_path / "swapped", 7, **{name: "gptq_v2"}, **sym))
        assert "zero points must be 8 in a symmetric layer, got 7" in line
    line = refusal(gptq(tmp_path / "two", 8, **sym))
    assert "zero points must be 8 in a symmetric layer, got 9" in line


def test_zero_points_that_differ(tmp_path):
    assert q_of(gptq(tmp_path / "any", None, sym=False)).any()
    assert q_of(gptq(tmp_path / "unsaid", None)).any()
    assert "in a symmetric layer" in refusal(gptq(tmp_path / "sym", None, sym=True))
    # Stated not to be symmetric, all of them may be any number.
    assert q_of(gptq(tmp_path / "all", 8, sym=False)).any()


@pytest.mark.parametrize(
    "places", [np.zeros(HIDDEN), np.arange(HIDDEN), np.arange(HIDDEN) // 16], ids=str
)
def test_group_indices_that_say_nothing(places, tmp_path):
    plain = q_of(gptq(tmp_path / "plain"))
    for settings in ({}, {"desc_act": False}, {"desc_act": True}):
        path = gptq(tmp_path / "model", places=places, **settings)
        assert np.array_equal(q_of(path), plain)


def test_group_indices_that_contradict_the_settings(tmp_path):
    order = np.arange(HIDDEN)[::-1] // 16
    for settings in ({}, {"desc_act": True}):
        model = open_model(gptq(tmp_path / "model", places=order, **settings))
        assert isinstance(model.tensors["1.q"], PartedTensor)
    line = refusal(gptq(tmp_path / "model", places=order, desc_act=False))
    assert "g_idx: takes inputs in another order, but desc_act is false" in line
    line = refusal(gptq(tmp_path / "model", desc_act=True))
    assert "desc_act is true, but there is no g_idx" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint_format": "gptq", "format": "gptq_v2"}, "must not say different things"),
        ({"format": "marlin"}, "format must be gptq or gptq_v2, got 'marlin'"),
        ({"rotation": "hadamard"}, "quantization_config: rotation must be ''"),
        ({"pack_dtype": "int8"}, "pack_dtype must be 'int32'"),
        ({"dynamic": {"-:lm_head": {}}}, "dynamic must be"),
        ({"zero_scale_bits": 3}, "zero_scale_bits is not a setting that is known"),
        ({"sym": "yes"}, "sym must be true or false"),
    ],
)
def test_gptq_settings(settings, message, tmp_path):
    assert message in refusal(gptq(tmp_path / "model", **settings))


def test_gptq_settings_of_ordinary_files(tmp_path):
    plain = q_of(gptq(tmp_path / "plain"))
    more = {
        "batch_size": 1,
        "block_name_to_quantize": "model.layers",
        "cache_block_outputs": True,
        "damp_percent": 0.01,
        "dataset": "c4",
        "desc_act": False,
        "dynamic": None,
        "exllama_config": {"version": 1},
        "lm_head": False,
        "meta": {"quantizer": ["gptqmodel:1.4.0"], "mse": 0.0},
        "model_file_base_name": "model",
        "model_name_or_path": None,
        "model_seqlen": 2048,
        "modules_in_block_to_quantize": None,
        "pack_dtype": "int32",
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "use_cuda_fp16": False,
        "use_exllama": True,
    }
    assert np.array_equal(q_of(gptq(tmp_path / "more", **more)), plain)


# GGUF

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {EMBEDDING: "token_embd", "model.norm.weight": "output_norm", HEAD: "output"}
TEXT = "Hello 1234567, it's [[x]] <= 3!  Two  spaces"


def gguf_tensors(architecture: str) -> dict[str, np.ndarray]:
    """Tensors of a model as the architecture names them, those of `weights` where it has them."""
    found = {}
    for name, tensor in weights().items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        part = rest.removesuffix(".weight")
        if name in OUTSIDE:
            found[f"{OUTSIDE[name]}.weight"] = tensor
        else:
            if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                pairs = tensor.reshape(-1, 2, HEAD_DIM // 2, HIDDEN)
                tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
            found[f"blk.{layer}.{NAMES[part]}.weight"] = tensor
    rng = np.random.default_rng(5)
    for layer in range(LAYERS):
        norms = {
            "gemma2": ("post_attention_norm", "post_ffw_norm"),
            "gemma3": ("post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"),
        }
        for name in norms.get(architecture, ()):
            size = HEAD_DIM if name in ("attn_q_norm", "attn_k_norm") else HIDDEN
            found[f"blk.{layer}.{name}.weight"] = rng.normal(1, 0.2, size).astype(np.float32)
        if architecture == "phi3":
            for whole, parts in (
                ("attn_qkv", ("attn_q", "attn_k", "attn_v")),
                ("ffn_up", ("ffn_gate", "ffn_up")),
            ):
                pieces = [found.pop(f"blk.{layer}.{part}.weight") for part in parts]
                found[f"blk.{layer}.{whole}.weight"] = np.concatenate(pieces)
    if architecture in ("gemma", "gemma2"):
        del found["output.weight"]
    return found


def values(architecture: str, **changes: Any) -> dict[str, Any]:
    """Metadata of such a file; changes may have `__` for dots, and None takes a key away."""
    own = {
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *letters, "HE", "\u0120\u0120", "12", "123", "67"]
    tokens += [f"[PAD{index}]" for index in range(VOCAB - len(tokens))]
    types = [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (VOCAB - 2)
    found = {f"{architecture}.{name}": value for name, value in own.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(each) for each in types],
        "tokenizer.ggml.merges": ["H E", "\u0120 \u0120", "1 2", "12 3", "6 7"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    for name, value in changes.items():
        key = name.replace("__", ".")
        known = ("tokenizer.", "general.", "split.", "llama.", "quantize.")
        found[key if key.startswith(known) else f"{architecture}.{key}"] = value
    return {key: value for key, value in found.items() if value is not None}


def gguf_file(
    path: Path, architecture: str = "llama", tensors: Tensors | None = None, **changes: Any
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values(architecture, **changes).items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, tensor in (tensors or gguf_tensors(architecture)).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_that_is_stated_twice(tmp_path):
    for second in (5e5, 1e4):
        path = gguf_file(tmp_path / "model.gguf", rope__freq_base=1e4, rope__frequency=second)
        # A key of the same length, so that nothing else moves.
        data = path.read_bytes().replace(b"llama.rope.frequency", b"llama.rope.freq_base")
        path.write_bytes(data)
        assert "states 'llama.rope.freq_base' twice" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scale_linear": 4.0}, 4.0),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scaling__factor": 4.0, "rope__scale_linear": 2.0}, 4.0),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, 1.0),
        ({"rope__scaling__type": "linear"}, 1.0),
        ({"rope__scaling__factor": 0.0}, 1.0),
    ],
)
def test_positions_that_are_stretched(changes, factor, tmp_path):
    """As llama.cpp reads them: linear without a type, by the older name too."""
    found = open_model(gguf_file(tmp_path / "model.gguf", **changes))
    scaling = {"rope_scaling": {**LINEAR, "factor": factor}} if factor != 1 else {}
    assert_same(found, open_model(folder(tmp_path / "same", **scaling)))


def test_a_stretch_by_pairs_comes_on_top_of_one_by_all(tmp_path):
    held = gguf_tensors("llama") | {"rope_freqs.weight": np.array([1, 2, 4, 8], np.float32)}
    path = gguf_file(tmp_path / "model.gguf", "llama", held, rope__scaling__factor=2.0)
    assert open_model(path).config.rope_factors == (2.0, 4.0, 8.0, 16.0)
    # Of other architectures llama.cpp knows no such tensor.
    held = gguf_tensors("qwen3") | {"rope_freqs.weight": np.ones(4, np.float32)}
    path = gguf_file(tmp_path / "qwen3.gguf", "qwen2", held)
    assert "rope_freqs.weight is not part of such a model" in refusal(path)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("llama", {"rope__scaling__yarn_ext_factor": 1.0}, "llama.rope.scaling.yarn_ext_factor"),
        ("llama", {"rope__scaling__type": "yarn"}, "RoPE scaling 'yarn' is not supported"),
        ("llama", {"rope__dimension_count": 4}, "rope.dimension_count must be 8"),
        ("llama", {"attention__value_length": 4}, "attention.value_length must be 8"),
        ("llama", {"attention__scale": 0.5}, "llama.attention.scale"),
        ("llama", {"attention__causal": False}, "llama.attention.causal must be True, got False"),
        ("llama", {"attention__sliding_window": 8}, "llama.attention.sliding_window must be 0"),
        ("llama", {"expert_count": 8}, "llama.expert_count must be 0, got 8"),
        ("llama", {"logit_scale": 2.0}, "llama.logit_scale"),
        ("llama", {"residual_scale": 2.0}, "llama.residual_scale"),
        ("llama", {"final_logit_softcapping": 30.0}, "llama.final_logit_softcapping must be 0.0"),
        ("llama", {"attention__head_count_kv": [2, 1]}, "must be one number for all blocks"),
        ("llama", {"attention__head_count_kv": [2]}, "must be one number for all blocks"),
        ("llama", {"split__count": 3}, "split.count must be 1, got 3"),
        ("llama", {"general__type": "adapter"}, "general.type must be 'model', got 'adapter'"),
        ("llama", {"general__quantization_version": 1}, "general.quantization_version must be 2"),
        ("qwen2", {"llama__rope__freq_base": 5e5}, "llama.rope.freq_base is not a setting"),
        ("gemma2", {"rope__freq_base_swa": 1e6}, "rope.freq_base_swa must be 10000.0"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "gemma3.attn_logit_softcapping must be 0.0"),
        ("gemma3", {"rope__local__freq_base": 1e4}, "gemma3.rope.local.freq_base is not"),
        (
            "gemma3",
            {"attention__sliding_window": 4, "attention__sliding_window_pattern": [True]},
            "attention.sliding_window_pattern must be 2 truth values",
        ),
    ],
)
def test_metadata_that_is_not_implemented(architecture, changes, message, tmp_path):
    assert message in refusal(gguf_file(tmp_path / "model.gguf", architecture, **changes))


SAME: dict[str, dict[str, Any]] = {
    "lists of equal numbers": {
        "attention__head_count_kv": [2, 2],
        "attention__head_count": [4, 4],
        "feed_forward_length": [FFN, FFN],
    },
    "of early converters": {
        "tensor_data_layout": "Meta AI original pth",
        "rope__dimension_count": HEAD_DIM,
        "rope__scaling__finetuned": False,
        "general__file_type": 0,
        "expert_count": 0,
        "expert_used_count": 0,
        "vocab_size": VOCAB,
    },
    "of present ones": {
        "attention__key_length": HEAD_DIM,
        "attention__value_length": HEAD_DIM,
        "attention__causal": True,
        "general__type": "model",
        "general__quantization_version": 2,
        "general__quantized_by": "somebody",
        "quantize__imatrix__file": "imatrix.gguf",
        "tokenizer__chat_template": "{{ messages }}",
    },
}


@pytest.mark.parametrize("case", SAME)
def test_metadata_of_ordinary_files_is_not_refused(case, tmp_path):
    plain = logits(open_model(gguf_file(tmp_path / "plain.gguf")))
    assert np.array_equal(
        logits(open_model(gguf_file(tmp_path / "more.gguf", **SAME[case]))), plain
    )


def test_phi3_is_the_model_in_its_folder(tmp_path):
    tensors = {name: tensor for name, tensor in weights().items() if "_proj" not in name}
    for layer in range(LAYERS):
        block = f"{BLOCK.format(layer)}."
        for whole, parts in (
            ("self_attn.qkv_proj", [f"self_attn.{each}_proj" for each in "qkv"]),
            ("mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"]),
            ("self_attn.o_proj", ["self_attn.o_proj"]),
            ("mlp.down_proj", ["mlp.down_proj"]),
        ):
            pieces = [weights()[f"{block}{part}.weight"] for part in parts]
            tensors[f"{block}{whole}.weight"] = np.concatenate(pieces)
    short, long = [1.0, 1.25, 2.0, 4.0], [2.0, 4.0, 8.0, 16.0]
    scale = 1.0625
    rope = {"type": "longrope", "short_factor": short, "long_factor": long}
    same = folder(
        tmp_path / "phi3",
        tensors,
        model_type="phi3",
        sliding_window=9,
        original_max_position_embeddings=48,
        rope_scaling={**rope, "attention_factor": scale},
    )
    held = gguf_tensors("phi3") | {
        "rope_factors_short.weight": np.array(short, np.float32),
        "rope_factors_long.weight": np.array(long, np.float32),
    }
    changes = {"attention__sliding_window": 9, "rope__scaling__original_context_length": 48}
    path = gguf_file(
        tmp_path / "phi3.gguf", "phi3", held, rope__scaling__attn_factor=scale, **changes
    )
    found, expected = open_model(path), open_model(same)
    assert found.config.context == expected.config.context == 48
    assert_same(found, expected)
    # The long factors hold beyond that context also where scores are not scaled.
    assert open_model(gguf_file(path, "phi3", held, **changes)).config.context == 48


def test_what_is_absent_is_what_llama_cpp_has(tmp_path):
    gemma2 = open_model(gguf_file(tmp_path / "2.gguf", "gemma2")).config
    assert (gemma2.window, gemma2.local_layers) == (4096, (0,))
    assert (gemma2.score_cap, gemma2.logit_cap) == (50.0, 30.0)
    gemma3 = open_model(gguf_file(tmp_path / "3.gguf", "gemma3")).config
    assert (gemma3.window, gemma3.local_layers, gemma3.rope_theta) == (None, (), 1e4)
    windowed = {"attention__sliding_window": 4, "final_logit_softcapping": 3.0}
    gemma3 = open_model(gguf_file(tmp_path / "3.gguf", "gemma3", **windowed)).config
    assert (gemma3.window, gemma3.local_layers, gemma3.logit_cap) == (4, (0, 1), 3.0)
    assert gemma3.local_rope_theta == 1e4
    windowed |= {"rope__freq_base_swa": 5e3, "attention__sliding_window_pattern": [False, True]}
    gemma3 = open_model(gguf_file(tmp_path / "3.gguf", "gemma3", **windowed)).config
    assert (gemma3.local_layers, gemma3.local_rope_theta) == ((1,), 5e3)
    windowed["attention__sliding_window_pattern"] = 2
    gemma3 = open_model(gguf_file(tmp_path / "3.gguf", "gemma3", **windowed)).config
    assert gemma3.local_layers == (0,)


def test_a_tokenizer_that_does_not_say_how_it_splits_or_what_its_tokens_are(tmp_path):
    plain = open_model(gguf_file(tmp_path / "plain.gguf")).tokenizer
    path = gguf_file(tmp_path / "early.gguf", tokenizer__ggml__token_type=None)
    found = open_model(path).tokenizer
    assert found.encode(TEXT) == plain.encode(TEXT)
    assert found.decode([0, *found.encode(TEXT), 1]) == TEXT  # tokens that end a text have none
    # llama.cpp splits off punctuation then, and numbers in threes.
    found = open_model(gguf_file(tmp_path / "early.gguf", tokenizer__ggml__pre=None)).tokenizer
    tokens = values("llama")["tokenizer.ggml.tokens"]
    pieces = [tokens[index] for index in found.encode(TEXT)]
    assert "123" in pieces and "67" not in pieces
    assert "67" in [tokens[index] for index in plain.encode(TEXT)]
    assert found.decode(found.encode(TEXT)) == TEXT


def test_early_sentencepiece_files_do_not_say_what_their_tokens_are(tmp_path):
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, "a", "b", "ab", "\u2581a", "\u2581"]
    scores = [0.0] * 259 + [-5.0, -6.0, -1.0, -2.0, -7.0]
    types = [2, 3, 3] + [6] * 256 + [1] * 5
    said = {
        "tokenizer__ggml__model": "llama",
        "tokenizer__ggml__tokens": tokens,
        "tokenizer__ggml__scores": scores,
        "tokenizer__ggml__unknown_token_id": 0,
        "tokenizer__ggml__bos_token_id": 1,
        "tokenizer__ggml__eos_token_id": 2,
        "tokenizer__ggml__pre": None,
    }
    found = [
        open_model(
            gguf_file(tmp_path / "model.gguf", tokenizer__ggml__token_type=each, **said)
        ).tokenizer
        for each in (types, None)
    ]
    for text in ("ab a", "\u00e9b", "<s>a"):
        assert found[1].encode(text) == found[0].encode(text)
    assert found[1].decode([1, *found[1].encode("ab"), 2]) == "ab"


LLAMA_CPP: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "untyped stretch": ("llama", {"rope__scaling__factor": 4.0}),
    "old stretch": ("llama", {"rope__scale_linear": 4.0}),
    "two stretches": ("llama", {"rope__scaling__factor": 4.0, "rope__scale_linear": 2.0}),
    "stretch of type none": (
        "llama",
        {"rope__scaling__type": "none", "rope__scaling__factor": 4.0},
    ),
    "scaled scores": ("llama", {"rope__scaling__attn_factor": 1.25}),
    "lists": ("llama", SAME["lists of equal numbers"]),
    "early": ("llama", SAME["of early converters"]),
    "no pre": ("llama", {"tokenizer__ggml__pre": None}),
    "no token types": ("llama", {"tokenizer__ggml__token_type": None}),
    "phi3": ("phi3", {}),
    "gemma2": ("gemma2", {}),
    "gemma2 windowed": ("gemma2", {"attention__sliding_window": 5}),
    "gemma2 pattern": (
        "gemma2",
        {
            "attention__sliding_window": 5,
            "attention__sliding_window_pattern": [False, True],
            "rope__scaling__factor": 4.0,
        },
    ),
    "gemma3": ("gemma3", {}),
    "gemma3 windowed": (
        "gemma3",
        {
            "attention__sliding_window": 5,
            "final_logit_softcapping": 3.0,
            "rope__scaling__factor": 8.0,
            "rope__freq_base": 1e6,
        },
    ),
    "gemma3 pattern": (
        "gemma3",
        {
            "attention__sliding_window": 5,
            "rope__freq_base_swa": 500.0,
            "attention__sliding_window_pattern": [False, True],
        },
    ),
    "gemma3 counted pattern": (
        "gemma3",
        {"attention__sliding_window": 5, "attention__sliding_window_pattern": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LLAMA_CPP)
def test_llama_cpp_reads_the_same(case, tmp_path):
    """Opt-in: needs llama-cpp-python, whose cache is in half precision."""
    llama_cpp = pytest.importorskip("llama_cpp")
    architecture, changes = LLAMA_CPP[case]
    path = gguf_file(tmp_path / "model.gguf", architecture, **changes)
    context = llama_cpp.Llama(str(path), n_ctx=CONTEXT, logits_all=True, verbose=False, n_threads=1)
    ids = context.tokenize(TEXT.encode(), add_bos=False, special=False)
    context.eval(ids)
    theirs, model = np.array(context.scores[: len(ids)]), open_model(path)
    assert model.tokenizer.encode(TEXT) == ids
    linear = host_linears(model)
    ours = head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))
    assert np.abs(ours - theirs).max() < 2.0**-7 * np.abs(ours).max()
