"""Already quantized models: codes are the file's own, and mean what their formats say.

Expected weights are computed here from the formats' descriptions, field by field in Python's
integers; `transformers` and `vptq` are asked as well where they are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer, models

from evolute.hw.spec import LutTensorCore
from evolute.hw.spec.formats import Kind as Codes
from evolute.sw.checkpoints import bitnet_file, gptq_file
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.gguf_blocks import CODES
from evolute.sw.checkpoints.vptq_file import Indices, VptqTensor, pack_indices
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.model import dequantized
from evolute.sw.tensors.stored import CheckpointError
from evolute.sw.tensors.tensor import PartedTensor, QuantTensor
from evolute.sw.tensors.weights import NATIVE

HIDDEN, FFN, VOCAB = 32, 64, 300
SETTINGS = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
LINEARS = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
ROLES = dict(zip(LINEARS, ("q", "k", "v", "o", "gate", "up", "down"), strict=True))
BLOCK = "model.layers.0"


def write(folder: Path, layers: dict[str, dict[str, np.ndarray]], **settings: Any) -> Path:
    """A folder with those parts of modules of its block, the other layers in floats."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.3, size=shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN), "model.norm.weight": normal(32)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{BLOCK}.{name}.weight"] = normal(HIDDEN)
    for name, shape in LINEARS.items():
        parts = layers.get(name, {"weight": normal(*shape)})
        tensors |= {f"{BLOCK}.{name}.{part}": values for part, values in parts.items()}
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    vocab = {f"t{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))
    return folder


def field(words: list[int], place: int, bits: int) -> int:
    """A field of a stream of 32-bit words, lowest bits first."""
    stream = sum((word & 0xFFFFFFFF) << 32 * index for index, word in enumerate(words))
    return stream >> place * bits & (1 << bits) - 1


def gptq_layer(
    rng: np.random.Generator, n: int, k: int, bits: int, group: int, ordered: bool
) -> dict[str, np.ndarray]:
    groups = k // group
    places = np.arange(k) // group
    words = rng.integers(-(2**31), 2**31, (k * bits // 32, n)).astype(np.int32)
    zeros = rng.integers(-(2**31), 2**31, (groups, -(-n * bits // 32))).astype(np.int32)
    return {
        "qweight": words,
        "qzeros": zeros,
        "scales": rng.uniform(0.001, 0.1, (groups, n)).astype(np.float16),
        "g_idx": (rng.permutation(places) if ordered else places).astype(np.int32),
    }


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits, ordered, version, tmp_path):
    rng = np.random.default_rng(bits)
    layers = {name: gptq_layer(rng, *shape, bits, 16, ordered) for name, shape in LINEARS.items()}
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 16}
    if version == "gptq_v2":  # the other is what a file without the setting is
        settings["checkpoint_format"] = version
    model = open_model(write(tmp_path, layers, quantization_config=settings))
    assert model.has_codes
    for name, parts in layers.items():
        tensor = model.tensors[f"0.{ROLES[name]}"]
        assert isinstance(tensor, PartedTensor if ordered else QuantTensor)
        found = dequantized(tensor)
        for n in (0, 5, found.shape[0] - 1):
            for k in range(found.shape[1]):
                group = int(parts["g_idx"][k])
                code = field(parts["qweight"][:, n].tolist(), k, bits)
                zero = field(parts["qzeros"][group].tolist(), n, bits)
                zero = zero + (version == "gptq") & (1 << bits) - 1
                assert found[n, k] == np.float32(parts["scales"][group, n]) * (code - zero)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_words_have_an_inverse(bits):
    fields = np.random.default_rng(bits).integers(0, 1 << bits, (5, 64)).astype(np.uint8)
    words = gptq_file.pack_words(fields, bits)
    assert words.shape == (5, 64 * bits // 32)
    assert np.array_equal(gptq_file.unpack_words(words, bits, 64), fields)


def test_gptq_runs_on_an_engine_as_its_weights_say(tmp_path):
    rng = np.random.default_rng(9)
    layers = {name: gptq_layer(rng, *shape, 4, 16, True) for name, shape in LINEARS.items()}
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 16}
    model = open_model(write(tmp_path, layers, quantization_config=settings))
    ids = list(range(10))
    found = []
    for backend in ("integer", "golden"):
        linear = engine_linears(assign(model, NATIVE, LutTensorCore(weight_bits=4)), backend)
        found.append(head(model, linear, forward(model, linear, ids, Cache(model.config, 10))))
    assert np.array_equal(*found)


def test_bitnet_bytes_are_the_published_example():
    """The example in the documentation of transformers' `unpack_weights`."""
    packed = np.array([[0b10100001, 0b00011000], [0b10010000, 0b00001010]], np.uint8)
    expected = [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]
    codes = bitnet_file.unpack(packed)
    assert (codes.astype(int) - 1).tolist() == expected
    assert np.array_equal(bitnet_file.pack(codes), packed)


def bitnet_layers(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    return {
        name: {
            "weight": bitnet_file.pack(rng.integers(0, 3, shape).astype(np.uint8)),
            "weight_scale": rng.uniform(0.5, 4, 1).astype(np.float32),
        }
        for name, shape in LINEARS.items()
    }


@pytest.mark.parametrize("kind", ["bitlinear", "autobitlinear"])
def test_bitnet(kind, tmp_path):
    layers = bitnet_layers(np.random.default_rng(1))
    settings = {"quant_method": "bitnet", "linear_class": kind}
    model = open_model(write(tmp_path, layers, quantization_config=settings))
    for name, parts in layers.items():
        tensor = model.tensors[f"0.{ROLES[name]}"]
        assert isinstance(tensor, QuantTensor) and tensor.format.kind is Codes.TERNARY
        codes = bitnet_file.unpack(parts["weight"]).astype(np.float32) - 1
        scale = parts["weight_scale"][0]
        expected = codes / scale if kind == "bitlinear" else codes * scale
        np.testing.assert_allclose(dequantized(tensor), expected, rtol=2.0**-23)
        assert len(np.unique(dequantized(tensor))) == 3


def test_bitnet_same_as_transformers(tmp_path, monkeypatch):
    """Its layers quantize activations to 8 bits, as an engine does, so logits agree."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layers = bitnet_layers(np.random.default_rng(2))
    settings = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    folder = write(tmp_path, layers, quantization_config=settings)
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = np.random.default_rng(3).integers(0, VOCAB, 30).tolist()
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    model = open_model(folder)
    linear = engine_linears(assign(model, NATIVE, LutTensorCore(weight_bits=2, activation_bits=8)))
    found = head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))
    # An activation half way between integers may be rounded differently: one step of 127 of few.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.median(np.abs(found - expected)) < 1e-5 * np.abs(expected).max()


VPTQ = {
    "plain": {"v": 8, "k": 16},
    "residual": {"v": 6, "k": 16, "k2": 4},
    "whole": {"v": 6, "k": 64, "k2": 8, "groups": 2, "outliers": 4, "norm": True, "perm": True},
}


def vptq_layer(
    rng: np.random.Generator, n: int, k: int, choice: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Settings, parts and expected weights of a layer."""
    v, entries, more = choice["v"], choice["k"], choice.get("k2", -1)
    groups, outliers = choice.get("groups", 1), choice.get("outliers", 0)
    size, rows, v0, k0 = (k - outliers) // groups, -(-n // v), 4, 8
    bits, more_bits = entries.bit_length() - 1, max(0, more.bit_length() - 1)
    main = rng.integers(0, entries, (groups, rows, size))
    extra = rng.integers(0, more, (groups, rows, size)) if more > 0 else None
    books = rng.normal(size=(groups, entries, v)).astype(np.float16)
    parts = {
        "indices": pack_indices(Indices(main, extra), bits, more_bits),
        "centroids.weight": books.reshape(groups, -1),
    }
    stored = np.zeros((n, k), np.float32)
    if extra is not None:
        fine = (rng.normal(size=(groups, more, v)) / 4).astype(np.float16)
        parts["res_centroids.weight"] = fine.reshape(groups, -1)
    for row in range(n):
        for column in range(k - outliers):
            group, place = divmod(column, size)
            weight = np.float32(books[group, main[group, row // v, place], row % v])
            if extra is not None:
                weight += np.float32(fine[group, extra[group, row // v, place], row % v])
            stored[row, outliers + column] = weight
    if outliers:
        index = rng.integers(0, k0, (1, -(-n // v0), outliers))
        book = rng.normal(size=(k0, v0)).astype(np.float16)
        parts["outlier_indices"] = index.astype(np.uint16).view(np.int16)
        parts["outlier_centroids.weight"] = book.reshape(1, -1)
        for row in range(n):
            for column in range(outliers):
                stored[row, column] = book[index[0, row // v0, column], row % v0]
    weights = stored
    if choice.get("perm"):
        order = rng.permutation(k)
        parts["perm"] = order.astype(np.uint16).view(np.int16)
        weights = np.zeros_like(stored)
        for column in range(k):
            weights[:, order[column]] = stored[:, column]
    if choice.get("norm"):
        parts["weight_scale"] = rng.uniform(0.5, 2, k).astype(np.float16)
        parts["weight_bias"] = rng.normal(size=k).astype(np.float16)
        weights = weights * parts["weight_scale"].astype(np.float32)
        weights = weights + parts["weight_bias"].astype(np.float32)
    settings = {
        "in_features": k,
        "out_features": n,
        "vector_lens": [v0 if outliers else -1, v],
        "num_centroids": [k0 if outliers else -1, entries],
        "num_res_centroids": [-1, more],
        "group_num": groups,
        "group_size": size,
        "outlier_size": outliers,
        "enable_norm": bool(choice.get("norm")),
        "enable_perm": bool(choice.get("perm")),
        "is_indice_packed": True,
        "indices_as_float": False,
        "bias": False,
        "vector_quant_dim": "out",
    }
    return settings, parts, weights


@pytest.mark.parametrize("form", VPTQ)
def test_vptq(form, tmp_path):
    rng = np.random.default_rng(len(form))
    made = {name: vptq_layer(rng, *shape, VPTQ[form]) for name, shape in LINEARS.items()}
    layers = {name: parts for name, (_, parts, _) in made.items()}
    named = {f"{BLOCK}.{name}": settings for name, (settings, _, _) in made.items()}
    settings = {"quant_method": "vptq", "config_for_layers": named}
    model = open_model(write(tmp_path, layers, quantization_config=settings))
    for name, (_, _, expected) in made.items():
        tensor = model.tensors[f"0.{ROLES[name]}"]
        assert isinstance(tensor, VptqTensor) and tensor.shape == LINEARS[name]
        assert np.array_equal(tensor.dequantize(), expected)
        assert np.array_equal(tensor.rows(slice(3, 7), np.float32), expected[3:7])
        # What engines run is the same up to half a step of each codebook's components.
        rounded = PartedTensor(tensor.parts, tensor.order, tensor.scale, tensor.bias)
        steps = max(part.scale.max() for part in tensor.parts)
        scale = 1 if tensor.scale is None else tensor.scale.max()
        books = 1 + ("k2" in VPTQ[form])
        assert np.abs(rounded.dequantize() - expected).max() <= 0.51 * books * steps * scale
        assert all(part.format.kind is Codes.VECTOR for part in tensor.parts)


@pytest.mark.parametrize("form", VPTQ)
def test_vptq_same_as_the_published_package(form, tmp_path):
    torch = pytest.importorskip("torch")
    vptq = pytest.importorskip("vptq.layers.vqlinear")
    settings, parts, _ = vptq_layer(np.random.default_rng(5), 32, 32, VPTQ[form])
    del settings["indices_as_float"]
    layer = vptq.VQuantLinear(
        **settings, indices_as_float=False, dtype=torch.float32, enable_proxy_error=False
    )
    state = {name: torch.from_numpy(np.array(values)) for name, values in parts.items()}
    layer.load_state_dict(
        {name: v.float() if v.dtype == torch.float16 else v for name, v in state.items()}
    )
    with torch.no_grad():  # sums of one term, and zeros
        expected = layer(torch.eye(32)[None])[0].numpy().T
    named = {"shared_layer_config": {"o_proj": settings}, "quant_method": "vptq"}
    model = open_model(write(tmp_path, {"self_attn.o_proj": parts}, quantization_config=named))
    assert np.array_equal(dequantized(model.tensors["0.o"]), expected)


@pytest.mark.parametrize("kind", [Kind.TQ1_0, Kind.TQ2_0])
def test_ternary_blocks_are_read_to_codes(kind):
    values = np.random.default_rng(4).integers(-1, 2, (6, 512)) * 0.25
    blocks = gguf.quantize(values.astype(np.float32), kind)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    tensor = CODES[kind].split(blocks.reshape(6, -1, size))
    assert np.array_equal(tensor.codes, values * 4 + 1)
    assert np.array_equal(tensor.dequantize(), gguf.dequantize(blocks, kind))
    assert np.array_equal(CODES[kind].join(tensor), blocks)
    # Bytes that no quantizer writes mean the same to both, where they are ternary at all.
    noise = np.random.default_rng(5).integers(0, 256, (64, size), np.uint8)
    noise[:, -2:] = np.array([0, 0x3C], np.uint8)  # a scale of 1
    found = CODES[kind].split(noise[:, None]).dequantize()
    assert np.array_equal(found, gguf.dequantize(noise, kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "awq"}, "quant_method must be one of gptq, bitnet, vptq, got 'awq'"),
        ({"bits": 5}, "bits must be one of"),
        ({"bits": "4"}, "bits must be one of"),
        ({"group_size": 0}, "group_size must be -1 or at least 1"),
        ({"group_size": 8}, "scales: must be (4, 32), got (2, 32)"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format must be gptq or gptq_v2"),
        ({"bits": 8}, "scales: must be (1, 32), got (2, 32)"),
    ],
)
def test_gptq_settings_that_are_wrong(change, message, tmp_path):
    layers = {"self_attn.q_proj": gptq_layer(np.random.default_rng(0), 32, 32, 4, 16, False)}
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 16} | change
    with pytest.raises(CheckpointError) as refused:
        open_model(write(tmp_path, layers, quantization_config=settings))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def broken_parts() -> list[tuple[str, str, np.ndarray | None, str]]:
    nan = np.full((2, 32), np.nan, np.float16)
    return [
        ("gptq", "scales", nan, "0.q: holds a number that is not finite"),
        ("gptq", "scales", np.full((2, 32), 1e-9, np.float32), "must be half-precision"),
        ("gptq", "g_idx", np.ones(32, np.int32), "g_idx: must place 16 inputs in each group"),
        ("gptq", "g_idx", np.full(32, -5, np.int32), "g_idx: must place 16 inputs in each group"),
        ("gptq", "qzeros", None, "has no qzeros"),
        ("gptq", "qweight", np.zeros((4, 32), np.int64), "must be of I32, got I64"),
        ("gptq", "stray", np.zeros(3, np.float32), "stray is not part of such a model"),
        ("bitnet", "weight_scale", np.zeros(1, np.float32), "not finite"),
        ("bitnet", "weight_scale", np.full(1, np.nan, np.float32), "not finite"),
        ("bitnet", "weight", np.full((8, 32), 255, np.uint8), "holds the code 3"),
        ("bitnet", "weight", np.zeros((9, 32), np.uint8), "0.q: must be (32, 32), got (36, 32)"),
        ("vptq", "centroids.weight", np.full((1, 128), np.inf, np.float16), "not finite"),
        ("vptq", "centroids.weight", np.zeros((1, 64), np.float16), "must be (1, 128), got"),
        ("vptq", "indices", np.zeros((1, 4, 3), np.int32), "indices: must be (1, 4, 4), got"),
        ("vptq", "perm", np.zeros(32, np.int16), "permutation: must be an order"),
    ]


@pytest.mark.parametrize(("method", "part", "values", "message"), broken_parts())
def test_parts_that_are_wrong(method, part, values, message, tmp_path):
    rng, settings = np.random.default_rng(0), {"quant_method": method}
    if method == "gptq":
        parts = gptq_layer(rng, 32, 32, 4, 16, False)
        settings |= {"bits": 4, "group_size": 16}
    elif method == "bitnet":
        parts = bitnet_layers(rng)["self_attn.q_proj"]
    else:
        layer, parts, _ = vptq_layer(rng, 32, 32, VPTQ["plain"])
        layer["enable_perm"] = part == "perm"
        settings |= {"shared_layer_config": {"q_proj": layer}}
    parts = {name: each for name, each in parts.items() if name != part}
    if values is not None:
        parts[part] = values
    folder = write(tmp_path, {"self_attn.q_proj": parts}, quantization_config=settings)
    with pytest.raises(CheckpointError) as refused:
        dict(open_model(folder).tensors)
    assert message in str(refused.value) and "\n" not in str(refused.value)
