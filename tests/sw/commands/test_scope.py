"""How much of a model a speed is of: checkpoints of mixed codes, and what is left to the host."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf import GGMLQuantizationType as Kind

from evolute import front
from evolute.hw.spec import LutTensorCore, Mac, VqCodebook
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.workload.linear import HostLayer, Linear, Workload
from evolute.sw.language_model.linear import require_whole
from evolute.sw.tensors.tensor import QuantError

HIDDEN, FFN, HEADS, VOCAB, LAYERS, CONTEXT = 256, 512, 4, 300, 2, 64
SHAPES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN, HIDDEN),
    "attn_v": (HIDDEN, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
}
MIXED = {"attn_v": Kind.Q8_0, "ffn_down": Kind.Q6_K, "attn_k": Kind.Q5_0, "token_embd": Kind.Q8_0}
"""As llama.cpp mixes types in a Q4_K_M file; everything else is Q4_K."""

PROMPT = "\n \t "
"""Of bytes whose names in a vocabulary are the letters from U+0100 on."""


def blocks(rng: np.random.Generator, kind: Kind, shape: tuple[int, int]) -> np.ndarray:
    """A tensor's bytes; of types that the gguf package does not write, random codes under scales
    that keep the weights small."""
    if kind not in (Kind.Q4_K, Kind.Q6_K):
        return gguf.quantize(rng.normal(0, 0.05, shape).astype(np.float32), kind)
    n, k = shape
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    found = rng.integers(0, 256, (n, k // weights, size), np.uint8)
    scales = np.full((n, k // weights), 1e-4, np.float16).view(np.uint8).reshape(n, -1, 2)
    places = (0, 2) if kind is Kind.Q4_K else (size - 2,)
    for place in places:
        found[:, :, place : place + 2] = scales
    return found.reshape(n, -1)


def write_mixed(path: Path) -> Path:
    """A random Llama with tied embeddings whose layers are stored in four types."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [chr(c) for c in range(0x100, 0x100 + VOCAB - 2)]
    writer.add_token_list(["<|end|>", *letters, "ĀĀ"])
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (VOCAB - 1))
    writer.add_token_merges(["Ā Ā"])
    writer.add_eos_token_id(0)

    def add(stem: str, shape: tuple[int, int]) -> None:
        kind = MIXED.get(stem.rpartition(".")[2], Kind.Q4_K)
        writer.add_tensor(f"{stem}.weight", blocks(rng, kind, shape), raw_dtype=kind)

    add("token_embd", (VOCAB, HIDDEN))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for role, shape in SHAPES.items():
            add(f"blk.{layer}.{role}", shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("mixed") / "mixed-q4-k-m.gguf")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(front.cli, [str(each) for each in arguments])


def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(PROMPT * 25, encoding="utf-8")
    return path


@pytest.mark.parametrize("accel", ["core-decode", "lut-decode"])
@pytest.mark.parametrize("name", ["sim", "run", "compile"])
def test_a_part_of_a_mixed_checkpoint_is_no_headline(name, accel, mixed, tmp_path):
    """One layer in seven would have been on the accelerator, and a speed stated of it."""
    options = {
        "sim": ("--prefill", 4, "--decode", 2, "--out", tmp_path),
        "run": ("--prompt", PROMPT, "--tokens", 2),
        "compile": ("-o", tmp_path / "image"),
    }
    if name == "compile" and accel == "lut-decode":
        pytest.skip("only cores are compiled for")
    result = command(name, mixed, "--accel", accel, *options[name])
    assert isinstance(result.exception, QuantError)
    assert not list(tmp_path.iterdir())
    left = sum(n * k for role, (n, k) in SHAPES.items() if role != "attn_v") * LAYERS
    whole = sum(n * k for n, k in SHAPES.values()) * LAYERS + VOCAB * HIDDEN
    message = str(result.exception)
    assert message.startswith(f"weights: native leaves 12 of 15 linear layers of {mixed.stem}, ")
    assert f" {left / whole:.0%} of their multiply-accumulates, to the host" in message
    assert "choose --weights w4g32 or the like" in message


def test_all_of_a_mixed_checkpoint_is_one(mixed, tmp_path):
    """Rounded, its layers are all on the core, and the head with its own 8 bits as well."""
    options = ("--weights", "w4g32", "--prefill", 4, "--decode", 2, "--tokens", 8)
    place = ("--text", text(tmp_path), "--out", tmp_path)
    result = command("sim", mixed, *options, *place, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["host_layers"], record["host_macs_per_token"]) == ([], 0)
    assert record["prefill"]["mac_share"] == record["decode"]["mac_share"] == 1
    result = command("sim", mixed, *options, *place)
    assert result.output.splitlines()[1] == "all linear layers on the accelerator"


def test_a_head_that_a_core_cannot_hold_is_named_not_refused(mixed, tmp_path):
    """A core of 4 bits, which the head's 8 do not fit."""
    arguments = ("run", mixed, "--prompt", PROMPT, "--tokens", 2, "--weights", "w4g32")
    arguments += ("--accel", "core-fpga", "--backend", "rtl")
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["host"] == ["head"] and record["mismatches"] == 0
    assert record["layers"] == 2 * 14  # two passes through all layers but the head
    whole = sum(n * k for n, k in SHAPES.values()) * LAYERS
    assert record["mac_share"] == whole / (whole + VOCAB * HIDDEN)
    # Beside the seconds that it takes.
    said = f"WITHOUT head, left to the host in float32: {VOCAB * HIDDEN:,} MACs ("
    assert f" s at 50 MHz, {said}" in " ".join(command(*arguments).output.split())


def work(*left: HostLayer) -> Workload:
    linears = (Linear("q", 8, 16, WeightCodes(4), 32, 16, count=3),)
    return Workload("toy", "native", linears, left)


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        (LutTensorCore(weight_bits=4), "--weights w4g32 or"),
        (Mac(weight_bits=2), "--weights w2g32 or"),
        (VqCodebook(), "another accelerator"),
    ],
)
def test_the_advice_is_one_that_the_engine_runs(spec, advice):
    head = HostLayer("head", 40, 16, last_token_only=True)
    require_whole(work(head), spec)  # may be left
    with pytest.raises(QuantError, match=rf"leaves 1 of 5 .* 14% of .* \(0\.k .* choose {advice}"):
        require_whole(work(HostLayer("0.k", 10, 16), head), spec)


def test_shares_are_of_the_rows_that_each_layer_computes():
    one = work(HostLayer("head", 40, 16, last_token_only=True))
    assert (one.macs(), one.host_macs(), one.host_bytes) == (384, 640, 4 * 640)
    assert one.mac_share() == 384 / 1024
    assert one.mac_share(10) == 3840 / (3840 + 640)
    assert work().mac_share(10) == 1
