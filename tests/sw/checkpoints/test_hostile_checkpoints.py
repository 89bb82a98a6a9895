"""Model files that are broken on purpose: one clear refusal each, no crash, no great memory.

`make fuzz` runs the last test for ten minutes.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from evolute.hw.spec.formats import Activations, WeightCodes
from evolute.hw.spec.formats import Kind as Coded
from evolute.sim.weights import Book, Centroids, Codebook, Table
from evolute.sw.checkpoints import quantized_file
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.quantized_file import write_quantized
from evolute.sw.language_model.model import dequantized
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.stored import CheckpointError
from evolute.sw.tensors.tensor import PartedTensor, QuantTensor
from evolute.sw.tensors.weights import parse_weights

VOCAB, HIDDEN = 270, 32
SETTINGS = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": HIDDEN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
BLOCK = "model.layers.0"
SHAPES = {
    "model.embed_tokens.weight": (VOCAB, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    **{
        f"model.layers.0.{each}_layernorm.weight": (HIDDEN,) for each in ("input", "post_attention")
    },
    **{f"model.layers.0.self_attn.{each}_proj.weight": (HIDDEN, HIDDEN) for each in "qkvo"},
    **{
        f"model.layers.0.mlp.{each}_proj.weight": (HIDDEN, HIDDEN)
        for each in ("gate", "up", "down")
    },
}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "o_proj": "attn_output",
    **{f"{each}_proj": f"attn_{each}" for each in "qkv"},
    **{f"{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")},
}
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def write_folder(folder: Path, shards: int = 1, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS | changes))
    vocab = {f"t{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))
    if shards == 1:
        safetensors.numpy.save_file(tensors(), folder / WEIGHTS)
        return folder
    places = {name: f"part-{index % shards}.safetensors" for index, name in enumerate(SHAPES)}
    for shard in set(places.values()):
        part = {name: array for name, array in tensors().items() if places[name] == shard}
        safetensors.numpy.save_file(part, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def write_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    text = [chr(0x61 + index) for index in range(VOCAB - 259)]
    writer.add_token_list(["<unk>", "<s>", "</s>", *bytes_, *text])
    writer.add_token_scores([0.0] * 259 + [-float(index) for index in range(len(text))])
    types = [2, 3, 3, *[6] * 256, *[1] * len(text)]
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in tensors().items():
        stem = name.removesuffix(".weight")
        key = stem if stem in GGUF_NAMES else stem.rpartition(".")[2]
        target = GGUF_NAMES[key] if stem in GGUF_NAMES else f"blk.0.{GGUF_NAMES[key]}"
        kind = Kind.Q4_0 if "mlp" in name else Kind.F32
        writer.add_tensor(f"{target}.weight", gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama2c(path: Path) -> Path:
    order = [
        "model.embed_tokens.weight",
        *(n for n in SHAPES if "layers" in n),
        "model.norm.weight",
    ]
    found = tensors()
    body = b"".join(found[name].tobytes() for name in order)
    header = struct.pack("<7i", HIDDEN, HIDDEN, 1, 2, 2, VOCAB, 16)
    path.write_bytes(header + body + bytes(4 * 16 * 16))
    pieces = [b"x"] * 259 + [bytes([0x61 + index]) for index in range(VOCAB - 259)]
    words = (struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    path.with_name("tokenizer.bin").write_bytes(struct.pack("<i", 4) + b"".join(words))
    return path


def write_quantized_folder(folder: Path, source: Path) -> Path:
    """The model in the folder `source` with a layer of every kind of codes."""
    model, rng = open_model(source), np.random.default_rng(0)

    def rounded(name: str, columns: int = HIDDEN) -> QuantTensor:
        rounding = parse_weights(name).rounding
        assert rounding is not None
        return quantize(rng.normal(size=(HIDDEN, columns)).astype(np.float32), rounding)

    books = tuple(
        Book(rng.integers(0, 8, (8, HIDDEN)), rng.integers(-60, 60, (8, 4))) for _ in range(2)
    )
    shape, scale = (HIDDEN, HIDDEN), np.full((HIDDEN, 1), 0.25, np.float32)
    held = Codebook(shape, WeightCodes(8, Coded.VECTOR), HIDDEN, "outputs", books)
    vectors = QuantTensor(held, scale, -128 * scale, 0)
    points = rng.integers(-128, 128, (HIDDEN // 4, 8, 4))
    centroids = Centroids(HIDDEN, Activations(8), "l1", points)
    entries = rng.integers(0, 256, (HIDDEN, HIDDEN // 4 * 8)).astype(np.uint8)
    table = Table(entries, WeightCodes(8, Coded.TABLE), HIDDEN, centroids)
    tables = QuantTensor(table, scale, -128 * scale, 16)
    parts = PartedTensor((rounded("w8", 5), rounded("w2g8", HIDDEN - 5)), rng.permutation(HIDDEN))
    layers = {"0.q": rounded("w3g16"), "0.k": rounded("b3g16"), "0.v": parts}
    changed = {**dict(model.tensors), **layers, "0.o": vectors, "0.up": tables}
    folder.mkdir(exist_ok=True)
    write_quantized(folder, replace(model, tensors=changed), {"method": "several"})
    return folder


def read_all(path: Path) -> None:
    dict(open_model(path).tensors)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_all(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_not_broken_is_read(tmp_path):
    read_all(write_folder(tmp_path / "one"))
    shards = write_folder(tmp_path / "three", 3)
    read_all(shards)
    read_all(shards / INDEX)
    read_all(write_gguf(tmp_path / "model.gguf"))
    read_all(write_llama2c(tmp_path / "model.bin"))
    found = open_model(shards).tensors
    for name, array in open_model(tmp_path / "one").tensors.items():
        assert np.array_equal(np.asarray(array), np.asarray(found[name])), name


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


NORM = "model.norm.weight"


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    """The same file with another entry for one tensor; None takes a part of it away."""

    def edit(data: bytes) -> bytes:
        header, body = header_of(data)
        entry = {**header[NORM], **changes}
        header[NORM] = {name: value for name, value in entry.items() if value is not None}
        return with_header(header, body)

    return edit


def moved(by: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        header, body = header_of(data)
        header[NORM]["data_offsets"] = [each + by for each in header[NORM]["data_offsets"]]
        return with_header(header, body)

    return edit


def twice(data: bytes) -> bytes:
    header, body = header_of(data)
    text = json.dumps(header)
    return with_header(f'{text[:-1]}, "{NORM}": {json.dumps(header[NORM])}}}'.encode(), body)


HEADERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "cannot be read"),
    "seven bytes": (lambda data: data[:7], "ends within its header"),
    "endless": (lambda data: b"\xff" * 8 + data[8:], "its header must have at most"),
    "long": (lambda data: struct.pack("<Q", len(data)) + data[8:], "its header must have at most"),
    "cut": (lambda data: data[:-1], "ends beyond the file"),
    "more": (lambda data: data + b"\0", "its tensors end at byte"),
    "no JSON": (lambda data: with_header(b"{", header_of(data)[1]), "is not a JSON document"),
    "a list": (lambda data: with_header([1], header_of(data)[1]), "is not a JSON object"),
    "deep": (lambda data: with_header(b"[" * 10**6, b""), "is not a JSON document"),
    "digits": (lambda data: with_header(b'{"a": ' + b"9" * 10**5 + b"}", b""), "is not a JSON"),
    "twice": (twice, "names 'model.norm.weight' twice"),
    "no object": (lambda data: with_header({"a": 1}, b""), "must be described by an object"),
    "overlap": (moved(-4), "overlaps another"),
    "beyond": (moved(1 << 40), "ends beyond the file"),
    "type": (edited(dtype="F8_E4M3"), "type 'F8_E4M3' is not supported"),
    "type of type": (edited(dtype=["F32"]), "is not supported"),
    "no type": (edited(dtype=None), "has no 'dtype'"),
    "shape": (edited(shape=[HIDDEN + 1]), "its shape takes"),
    "negative": (edited(shape=[-HIDDEN]), "must be short lists of sizes"),
    "huge": (edited(shape=[1 << 62, 1 << 62]), "its shape takes"),
    "true": (edited(shape=[True, HIDDEN]), "must be short lists of sizes"),
    "many": (edited(shape=[1] * 10**5), "must be short lists of sizes"),
    "one offset": (edited(data_offsets=[0]), "data_offsets must be two"),
    "fraction": (edited(data_offsets=[0.0, 128.0]), "must be short lists of sizes"),
    "backwards": (edited(data_offsets=[128, 0]), "its shape takes"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers(case, tmp_path):
    folder = write_folder(tmp_path / "model")
    edit, message = HEADERS[case]
    (folder / WEIGHTS).write_bytes(edit((folder / WEIGHTS).read_bytes()))
    assert message in refusal(folder)


def test_claims_cost_no_memory(tmp_path):
    """What files claim is refused before anything of that size is made."""
    folder = write_folder(tmp_path / "model")
    data = (folder / WEIGHTS).read_bytes()
    for edit in (edited(shape=[1 << 36], data_offsets=[0, 1 << 38]), moved(1 << 38)):
        (folder / WEIGHTS).write_bytes(edit(data))
        tracemalloc.start()
        refusal(folder)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20
    for name in ("num_hidden_layers", "head_dim", "vocab_size", "intermediate_size"):
        for kind, more in (("llama", {}), ("gemma3_text", {"sliding_window": 8})):
            (folder / "config.json").write_text(
                json.dumps({**SETTINGS, **more, "model_type": kind, name: 1 << 24})
            )
            tracemalloc.start()
            refusal(folder)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 16 << 20, name


def test_a_large_model_is_not_read_to_open_it(tmp_path):
    """1.5 billion weights, in a file that is empty on the disk: a matrix is read when asked for."""
    hidden, layers, ffn, vocab = 1536, 28, 8960, 151_936
    block = {
        **{f"self_attn.{each}_proj": (hidden, hidden) for each in "qo"},
        **{f"self_attn.{each}_proj": (256, hidden) for each in "kv"},
        **{f"mlp.{each}_proj": (ffn, hidden) for each in ("gate", "up")},
        "mlp.down_proj": (hidden, ffn),
        **{f"{each}_layernorm": (hidden,) for each in ("input", "post_attention")},
    }
    shapes = {"model.embed_tokens.weight": (vocab, hidden), NORM: (hidden,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{n}.weight": shape for n, shape in block.items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    folder = write_folder(
        tmp_path / "large",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        intermediate_size=ffn,
        vocab_size=vocab,
    )
    with (folder / WEIGHTS).open("wb") as file:
        file.write(with_header(header, b""))
        file.truncate(file.tell() + end)
    tracemalloc.start()
    model = open_model(folder)
    _, opened = tracemalloc.get_traced_memory()
    matrix = dequantized(model.tensors["3.gate"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.params == end // 2 > 1_500_000_000
    assert opened < 16 << 20
    assert peak < 2 * matrix.nbytes  # itself, and a mask of what is finite


def test_large_documents_are_refused_unread(tmp_path):
    folder = write_folder(tmp_path / "model")
    with (folder / "config.json").open("ab") as file:
        file.truncate(1 << 33)  # sparse: the file takes no room
    assert "must be at most" in refusal(folder)


def test_shards_stay_in_their_folder(tmp_path):
    folder = write_folder(tmp_path / "model", 2)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder / "part-0.safetensors").read_bytes())
    index = json.loads((folder / INDEX).read_text())
    (folder / "inside").mkdir()
    for name in (
        "../outside.safetensors",
        str(outside),
        "inside/../../outside.safetensors",
        "..",
        ".",
        "",
        "a\0b.safetensors",
        "..\\outside.safetensors",
        7,
        None,
        ["part-0.safetensors"],
    ):
        places = {
            tensor: name if shard == "part-0.safetensors" else shard
            for tensor, shard in index["weight_map"].items()
        }
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))
        line = refusal(folder)
        assert "not a file name in this folder" in line or "cannot be followed" in line, name
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "part-0.safetensors").unlink()
    (folder / "part-0.safetensors").symlink_to(outside)
    assert "is a link that leads out of its folder" in refusal(folder)
    (folder / "part-0.safetensors").unlink()
    (folder / "part-0.safetensors").symlink_to("part-0.safetensors")
    refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_no_file_of_a_folder_is_a_link_out_of_it(name, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert "is a link that leads out of its folder" in refusal(folder)


def test_the_hugging_face_cache_links_to_its_own_blobs(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    write_folder(snapshot)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for index, file in enumerate(list(snapshot.iterdir())):
        file.rename(blobs / f"blob{index}")
        file.symlink_to(Path("..", "..", "blobs", f"blob{index}"))
    read_all(snapshot)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda index: {}, "has no weight_map"),
        (lambda index: {"weight_map": {}}, "has no weight_map"),
        (lambda index: {"weight_map": [1]}, "has no weight_map"),
        (
            lambda index: {"weight_map": {**index["weight_map"], "a": "part-0.safetensors"}},
            "has no tensor 'a'",
        ),
        (
            lambda index: {
                "weight_map": {n: s for n, s in index["weight_map"].items() if n != NORM}
            },
            "does not place 'model.norm.weight'",
        ),
        (
            lambda index: {"weight_map": {**index["weight_map"], NORM: "config.json"}},
            "must be a .safetensors file",
        ),
        (
            lambda index: {"weight_map": {**index["weight_map"], NORM: "none.safetensors"}},
            "cannot be read",
        ),
    ],
)
def test_shard_indexes_that_are_wrong(edit, message, tmp_path):
    folder = write_folder(tmp_path / "model", 2)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(edit(index)))
    assert message in refusal(folder)


def test_a_tensor_in_two_shards(tmp_path):
    """Which of the two is meant, nobody knows; the index names one of them."""
    folder = write_folder(tmp_path / "model", 2)
    index = json.loads((folder / INDEX).read_text())
    other = {"part-0.safetensors": "part-1.safetensors"}.get(
        index["weight_map"][NORM], "part-0.safetensors"
    )
    part = safetensors.numpy.load_file(folder / other)
    safetensors.numpy.save_file({**part, NORM: tensors()[NORM] + 1}, folder / other)
    assert f"does not place '{NORM}' in {other}" in refusal(folder)


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "a.ckpt", "b.pkl"]
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_refused_and_never_loaded(name, protocol, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    trace = tmp_path / "trace"
    (folder / name).write_bytes(pickle.dumps(Bomb(trace), protocol))
    for path in (folder, folder / name):
        assert "is a pickle, which may run code and is never loaded" in refusal(path)
    (folder / name).write_bytes(b"PK\x03\x04" + bytes(100))
    assert "is a pickle" in refusal(folder / name)
    assert not trace.exists()


def test_gguf_tensors_that_overlap(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    data = path.read_bytes()
    place = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight")
    offset = place + 4 + 2 * 8 + 4
    path.write_bytes(data[:offset] + struct.pack("<Q", 0) + data[offset + 8 :])
    assert "overlaps another" in refusal(path)


FILES = ("model.gguf", "model.bin", "tokenizer.bin")
FOLDER = (WEIGHTS, "config.json", "tokenizer.json")
SHARDED = (INDEX, "part-0.safetensors")
QUANTIZED = quantized_file.FILES[:2]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    write_gguf(root / "model.gguf")
    write_llama2c(root / "model.bin")
    write_folder(root / "one")
    write_folder(root / "two", 2)
    write_quantized_folder(root / "quantized", root / "one")
    return root


def target(root: Path, name: str) -> tuple[Path, Path]:
    """The file that is damaged, and the model that it is part of."""
    if name in FILES:
        return root / name, root / ("model.bin" if name == "tokenizer.bin" else name)
    folders = {"two": SHARDED, "quantized": QUANTIZED, "one": FOLDER}
    folder = root / next(each for each, names in folders.items() if name in names)
    return folder / name, folder


def survives(root: Path, name: str, damage: Callable[[bytearray], bytearray]) -> bool:
    """Whether the damaged model is read nevertheless; else it is refused by `CheckpointError`."""
    file, model = target(root, name)
    whole = file.read_bytes()
    try:
        file.write_bytes(damage(bytearray(whole)))
        read_all(model)
        return True
    except CheckpointError as error:
        assert "\n" not in str(error)
        return False
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", [*FILES, *FOLDER, *SHARDED, *QUANTIZED])
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_damage_is_refused_or_harmless(originals, name, data):
    size = target(originals, name)[0].stat().st_size
    end = data.draw(st.one_of(st.just(size), st.integers(0, size)), "end")
    place = st.one_of(st.integers(0, min(size, 4096) - 1), st.integers(0, size - 1))
    flips = data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6), "flips")

    def damage(content: bytearray) -> bytearray:
        for position, value in flips:
            content[position] = value
        return content[:end]

    survives(originals, name, damage)


@pytest.mark.slow
def test_fuzz(originals):
    """Bytes set, runs moved, cut out, doubled; until the seconds asked for are over."""
    seconds = float(os.environ.get("EVOLUTE_FUZZ_SECONDS", "60"))
    seed = int(os.environ.get("EVOLUTE_FUZZ_SEED", str(time.time_ns())))
    rng, end, tries, read = np.random.default_rng(seed), time.monotonic() + seconds, 0, 0
    names = [*FILES, *FOLDER, *SHARDED, *QUANTIZED]

    def damage(content: bytearray) -> bytearray:
        for _ in range(rng.integers(1, 6)):
            reach = max(1, min(len(content), int(rng.choice([64, 1024, 1 << 20]))))
            at, length = int(rng.integers(reach)), int(rng.integers(1, 64))
            match rng.integers(5):
                case 0:
                    content[at : at + 1] = bytes([rng.integers(256)])
                case 1:
                    content[at : at + 1] = (
                        bytes([content[at] ^ 1 << rng.integers(8)]) if content else b""
                    )
                case 2:
                    del content[at : at + length]
                case 3:
                    content[at:at] = content[at : at + length]
                case _:
                    width = int(rng.choice([2, 4, 8]))
                    content[at : at + width] = int(rng.integers(1 << 8 * width - 1)).to_bytes(width)
        return content

    while time.monotonic() < end:
        tries += 1
        name = names[rng.integers(len(names))]
        try:
            read += survives(originals, name, damage)
        except BaseException as error:
            raise AssertionError(f"EVOLUTE_FUZZ_SEED={seed}, try {tries}, {name}") from error
    print(f"seed {seed}: {tries} tries, {read} read nevertheless")
