"""Model files: what is read from each format, and that broken files end in one clear line."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer, models

from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.gguf_file import read_gguf
from evolute.sw.language_model.model import ModelConfig, dequantized
from evolute.sw.tensors.stored import CheckpointError
from evolute.sw.tensors.tensor import QuantTensor

CONFIG = ModelConfig(
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    ffn=64,
    vocab=300,
    context=64,
    rope_theta=10000.0,
    norm_eps=1e-5,
    rope_pairs="interleaved",
)
GGUF_BLOCK = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
GGUF_NAMES = {"embedding": "token_embd", "norm": "output_norm"}
KINDS = {"q": Kind.Q4_1, "gate": Kind.Q4_0, "up": Kind.Q8_0, "down": Kind.Q5_0, "o": Kind.F16}


def weights(name: str, config: ModelConfig = CONFIG) -> np.ndarray:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).normal(size=config.shapes()[name]).astype(np.float32)


def names() -> list[str]:
    return [name for name in CONFIG.shapes() if name != "head"]


def write_gguf(
    path: Path,
    config: ModelConfig = CONFIG,
    down: tuple[Kind, np.ndarray] | None = None,
    **metadata,
) -> None:
    """`down` are blocks in the place of the tensors of that role."""
    writer = gguf.GGUFWriter(path, metadata.pop("arch", "llama"))
    writer.add_block_count(metadata.pop("layers", CONFIG.layers))
    writer.add_context_length(CONFIG.context)
    writer.add_embedding_length(CONFIG.hidden)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(CONFIG.heads)
    writer.add_head_count_kv(CONFIG.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [chr(c) for c in range(0x100, 0x100 + CONFIG.vocab - 2)]
    writer.add_token_list(["<|end|>", *letters, "ĀĀ"])
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (CONFIG.vocab - 1))
    writer.add_token_merges(["Ā Ā"])
    writer.add_eos_token_id(0)
    for key, value in metadata.items():
        kind = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        kind(key.replace("__", "."), value)
    for name in names():
        layer, _, role = name.rpartition(".")
        stem = f"blk.{layer}.{GGUF_BLOCK[role]}" if layer else GGUF_NAMES[name]
        kind = KINDS.get(role, Kind.F32)
        data = gguf.quantize(weights(name, config), kind)
        if role == "down" and down is not None:
            kind, data = down
        writer.add_tensor(f"{stem}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


def test_gguf_codes_are_the_files_own(tmp_path, gguf_bytes):
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes)
    model = open_model(tmp_path / "tiny.gguf")
    assert replace(model.config, norm_eps=1e-5) == CONFIG  # the file keeps it as a float32
    assert model.has_codes
    assert model.params == sum(weights(name).size for name in names())
    assert model.tokenizer.encode("") == []
    assert model.tokenizer.stops == {0}
    for name in names():
        kind = KINDS.get(name.rpartition(".")[2], Kind.F32)
        tensor = model.tensors[name]
        assert isinstance(tensor, QuantTensor) == (kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q8_0))
        # The gguf package's own dequantizer is the independent reading of the same blocks.
        expected = gguf.dequantize(gguf.quantize(weights(name), kind), kind)
        found = dequantized(tensor)
        assert np.array_equal(found, expected.reshape(found.shape)), name


READABLE = (Kind.F32, Kind.F16, *gguf.quants._type_traits)


def row_of_blocks(kind: Kind) -> np.ndarray:
    """A row of 256 weights in bytes that no quantizer need have written, if they are numbers."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        if kind is Kind.TQ2_0:  # of which not all bytes are ternary
            return gguf.quantize(rng.normal(size=(1, 256)).astype(np.float32), kind)
        blocks = rng.integers(0, 256, (1, 256 // block * size), np.uint8)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks, kind)
        if np.isfinite(values).all() and np.abs(values).max() > 0:
            return blocks
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_every_type_that_the_gguf_package_dequantizes_is_read(kind, tmp_path):
    config, row = replace(CONFIG, ffn=256), row_of_blocks(kind)
    blocks = np.repeat(row, config.hidden, axis=0)
    path = tmp_path / "one.gguf"
    write_gguf(path, config=config, down=(kind, blocks))
    found = dequantized(open_model(path).tensors["1.down"])
    assert np.array_equal(found, gguf.dequantize(blocks, kind))


def refusal(path: Path) -> str:
    """The one line with which `path` is refused; it names the file."""
    with pytest.raises(CheckpointError) as refused:
        dict(open_model(path).tensors)  # values are checked as they are read
    line = str(refused.value)
    assert str(path) in line or path.name in line
    assert "\n" not in line
    return line


def test_gguf_names_every_token_that_ends_a_text(tmp_path):
    ends = {"tokenizer__ggml__eot_token_id": 4, "tokenizer__ggml__eom_token_id": 5}
    write_gguf(tmp_path / "ends.gguf", tokenizer__ggml__add_eos_token=True, **ends)
    tokenizer = open_model(tmp_path / "ends.gguf").tokenizer
    assert tokenizer.stops == {0, 4, 5}
    assert tokenizer.prefix == ()  # what is put behind a text is not put before it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "mamba"}, "architecture must be one of llama, "),
        ({"layers": 3}, "tensor 2.attention_norm is missing"),
        ({"layers": 1}, "tensor 1.attention_norm is not part"),
        ({"layers": 2**31}, "layers"),
        ({"llama__rope__scaling__type": "yarn"}, "RoPE scaling 'yarn'"),
        ({"tokenizer__ggml__eot_token_id": "2"}, "token"),
    ],
)
def test_gguf_models_that_are_not_supported(tmp_path, changes, message):
    write_gguf(tmp_path / "other.gguf", **changes)
    assert message in refusal(tmp_path / "other.gguf")


def test_truncated_gguf_is_refused_at_any_length(tmp_path, gguf_bytes):
    path = tmp_path / "cut.gguf"
    rng = np.random.default_rng(0)
    for length in [0, 1, 4, 8, 23, *rng.integers(24, len(gguf_bytes) - 64, 60).tolist()]:
        path.write_bytes(gguf_bytes[:length])
        refusal(path)


def test_gguf_with_flipped_header_bytes_loads_or_is_refused(tmp_path, gguf_bytes):
    """No crash, no traceback of another kind, no allocation by a length that the file states."""
    path = tmp_path / "flipped.gguf"
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        broken = bytearray(gguf_bytes)
        # Counts and lengths sit in the first bytes; tensor descriptions end the header.
        for position in rng.integers(4, rng.choice([64, 1200, 9000]), rng.integers(1, 4)):
            broken[position] = rng.integers(256)
        path.write_bytes(broken)
        try:
            dict(read_gguf(path).tensors)
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("count", [2**32, 2**60, 2**64 - 1])
def test_a_huge_stated_count_costs_nothing(tmp_path, count):
    key = b"general.file_type"
    for kind, element in ((9, 4), (9, 8), (8, None)):
        value = struct.pack("<IQ", element, count) if element else struct.pack("<Q", count)
        header = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<I", kind)
        (tmp_path / "huge.gguf").write_bytes(header + value + bytes(64))
        refusal(tmp_path / "huge.gguf")


@pytest.mark.parametrize("value", [0x7C00, 0xFC00, 0x7E00])  # half-precision inf, -inf, nan
def test_scales_that_are_not_finite_are_refused(tmp_path, gguf_bytes, value):
    reader_path = tmp_path / "tiny.gguf"
    reader_path.write_bytes(gguf_bytes)
    tensor = next(
        t for t in gguf.GGUFReader(reader_path).tensors if t.name == "blk.1.attn_q.weight"
    )
    broken = bytearray(gguf_bytes)
    struct.pack_into("<H", broken, int(tensor.data_offset) + 20, value)  # second block's scale
    reader_path.write_bytes(broken)
    assert "1.q: holds a number that is not finite" in refusal(reader_path)


HF_BLOCK = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
HF_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": [2, 3],
}


def hf_name(name: str) -> str:
    layer, _, role = name.rpartition(".")
    if layer:
        return f"model.layers.{layer}.{HF_BLOCK[role]}.weight"
    return "model.embed_tokens.weight" if name == "embedding" else "model.norm.weight"


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    tensors = {hf_name(name): weights(name).astype(np.float16) for name in names()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    vocab = {f"t{index}": index for index in range(300)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))
    return folder


def test_hugging_face_folder(hf_folder):
    for path in (hf_folder, hf_folder / "model.safetensors"):
        model = open_model(path)
        assert model.name == "tiny-llama"
        assert model.config.rope_pairs == "halves"
        assert model.tokenizer.stops == {2, 3}
        assert not model.has_codes
        for name in names():
            assert np.array_equal(
                dequantized(model.tensors[name]), weights(name).astype(np.float16)
            )


def test_bfloat16_is_the_upper_half_of_a_float32(hf_folder):
    data = (hf_folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].replace(b'"F16"', b'"BF16"')
    header = header.rstrip(b" ") + b" " * (-len(header.rstrip(b" ")) % 8)
    (hf_folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + data[8 + length :]
    )
    found = dequantized(open_model(hf_folder).tensors["0.q"])
    bits = weights("0.q").astype(np.float16).view(np.uint16).astype(np.uint32) << 16
    assert np.array_equal(found, bits.view(np.float32))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model_type", "mamba", "model_type must be one of llama, "),
        ("rope_scaling", {"rope_type": "llama3"}, "has no factor"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}, "rope_type"),
        ("rope_parameters", 7, "config.json"),
        ("hidden_size", 48, "tensor embedding: must be (300, 48), got (300, 32)"),
        ("hidden_size", "32", "config.json"),
        ("hidden_size", -32, "hidden must be in 1..2^24"),
        ("num_attention_heads", 0, "config.json"),
        ("num_attention_heads", True, "config.json"),
        ("num_key_value_heads", 3, "kv_heads must divide heads"),
        ("num_hidden_layers", 1 << 24, "layers but"),
        ("rms_norm_eps", "1e-5x", "config.json"),
        ("rms_norm_eps", float("nan"), "norm_eps must be"),
        ("eos_token_id", {"a": 1}, "eos_token_id must be a token's id"),
        ("intermediate_size", None, "config.json"),
    ],
)
def test_hugging_face_settings_that_are_wrong(hf_folder, setting, value, message):
    settings = HF_CONFIG | {setting: value}
    (hf_folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError) as refused:
        open_model(hf_folder)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "noise"])
def test_hugging_face_files_that_are_broken(hf_folder, name, damage):
    path = hf_folder / name
    data = path.read_bytes()
    path.unlink()
    if damage != "absent":
        noise = np.random.default_rng(2).bytes(len(data))
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": noise}[damage])
    with pytest.raises(CheckpointError) as refused:
        open_model(hf_folder)
    assert "\n" not in str(refused.value)


def test_safetensors_that_hold_no_number_are_refused(hf_folder):
    tensors = safetensors.numpy.load_file(hf_folder / "model.safetensors")
    tensors[hf_name("1.down")][3, 5] = np.nan
    safetensors.numpy.save_file(tensors, hf_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1\.down: holds a number that is not finite"):
        dict(open_model(hf_folder).tensors)


def write_llama2c(folder: Path, tied: bool = True) -> Path:
    """As llama2.c's export writes version 0; the tokenizer stores bytes as raw characters."""
    vocab = CONFIG.vocab if tied else -CONFIG.vocab
    header = (CONFIG.hidden, CONFIG.ffn, CONFIG.layers, CONFIG.heads, CONFIG.kv_heads, vocab, 64)
    roles = ("attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up")
    order = ["embedding", *(f"{i}.{role}" for role in roles for i in range(2)), "norm"]
    parts = [struct.pack("<7i", *header), *(weights(name).tobytes() for name in order)]
    parts.append(np.zeros(CONFIG.context * CONFIG.head_dim, np.float32).tobytes())
    if not tied:
        parts.append(weights("head").tobytes())
    path = folder / "tiny.bin"
    path.write_bytes(b"".join(parts))
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(bytes([n]) for n in range(256))]
    pieces += [b" ", b"a", b"b", b"ab", b" a", b" ab", *(b"x%d" % n for n in range(35))]
    tokenizer = struct.pack("<i", 8) + b"".join(
        struct.pack("<fi", -float(index), len(piece)) + piece for index, piece in enumerate(pieces)
    )
    (folder / "tokenizer.bin").write_bytes(tokenizer)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_llama2c(tmp_path, tied):
    model = open_model(write_llama2c(tmp_path, tied))
    assert model.config == CONFIG
    for name in names() if tied else CONFIG.shapes():
        assert np.array_equal(dequantized(model.tensors[name]), weights(name)), name
    assert model.tokenizer.prefix == (1,)
    # " ab" is one piece, "z" has none and falls back to its byte, and no byte merges with a piece.
    ids = model.tokenizer.encode("abz")
    assert ids == [264, 3 + ord("z")]
    assert model.tokenizer.decode(ids) == "abz"


def test_llama2c_that_is_broken(tmp_path):
    path = write_llama2c(tmp_path)
    data, tokenizer = path.read_bytes(), (tmp_path / "tokenizer.bin").read_bytes()
    for broken in (data[:-4], data + bytes(4), data[:20], b"", b"hello, this is no model" * 9):
        path.write_bytes(broken)
        refusal(path)
    path.write_bytes(data)
    for broken in (tokenizer[:-1], tokenizer[:200], b"", struct.pack("<ifi", 8, 0, -5)):
        (tmp_path / "tokenizer.bin").write_bytes(broken)
        assert "tokenizer.bin" in refusal_of_neighbour(path)
    (tmp_path / "tokenizer.bin").unlink()
    assert "no tokenizer.bin or tok300.bin beside it" in refusal(path)


def refusal_of_neighbour(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        open_model(path)
    return str(refused.value)


def test_paths_without_a_model(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "absent.gguf")
    assert "has no config.json" in refusal(tmp_path)
    assert issubclass(CheckpointError, RefusedError)
