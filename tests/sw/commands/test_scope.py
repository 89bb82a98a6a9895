"""How much of a model a speed is of: checkpoints of mixed codes, and what is left to the host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf import GGMLQuantizationType as Kind

from evolute import front
from evolute.hw.spec import LutTensorCore, Mac
from evolute.hw.spec.formats import Kind as Codes
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.presets import CORES, ENGINE_PRESETS
from evolute.sim.workload.linear import HEAD, HostLayer, LayerName, Linear, Workload
from evolute.sw.checkpoints.zoo import load
from evolute.sw.deploy.assignment import assign, recoding_for
from evolute.sw.language_model.model import dequantized
from evolute.sw.tensors.tensor import QuantError, QuantTensor
from evolute.sw.tensors.weights import NATIVE
from evolute.verif.engines.vq_codebook import near

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


RECODED = sum(n * k for role, (n, k) in SHAPES.items() if role != "attn_v") * LAYERS
WHOLE = sum(n * k for n, k in SHAPES.values()) * LAYERS + VOCAB * HIDDEN


@pytest.mark.parametrize("accel", ["core-decode", "lut-decode"])
def test_a_mixed_checkpoint_is_planned_whole(accel, mixed, tmp_path):
    """Its own codes where the engine runs them, and 8 bits for K-quants, at a loss that is said."""
    place = ("--text", text(tmp_path), "--out", tmp_path)
    options = ("--prefill", 4, "--decode", 2, "--tokens", 8, "--accel", accel)
    result = command("sim", mixed, *options, *place, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["weights"], record["host_layers"]) == ("native", [])
    assert record["prefill"]["mac_share"] == record["decode"]["mac_share"] == 1
    recoded = record["recoded"]
    assert recoded["weights"] == "w8g32" and len(recoded["layers"]) == 12
    assert recoded["mac_share"] == RECODED / WHOLE
    assert 0 < recoded["relative_error"] < 0.01
    assert record["method"].startswith("codes as shipped, else w8g32: round to nearest")
    said = " ".join(command("sim", mixed, *options, *place).output.split())
    assert "all linear layers on the accelerator; 12 linear layers (" in said
    assert (
        f"coded to w8g32, relative error of their weights {recoded['relative_error']:.2g}" in said
    )
    assert "share of MACs 100.0%" in said


def test_the_loss_is_that_of_the_codes_that_run(mixed):
    """Against the weights as shipped, dequantized, of the tensors that the engine is given."""
    model = load(str(mixed))
    for spec in (CORES["core-decode"], Mac(weight_bits=8)):
        found = assign(model, NATIVE, spec)
        error = square = 0.0
        for name in found.recoded_names:
            (part,) = found.codes(name).parts
            shipped = dequantized(model.matrix(str(name))).astype(np.float64)
            assert part.format == WeightCodes(8)
            error += np.square(part.dequantize() - shipped).sum()
            square += np.square(shipped).sum()
        record = found.recoding_record()
        assert record is not None
        assert record["relative_error"] == pytest.approx(np.sqrt(error / square), rel=1e-6)
        assert found.recoding_record() == record


def test_all_commands_follow_one_plan(mixed, tmp_path):
    """`run`, `compile` and `eval` code the same layers."""
    result = command("run", mixed, "--prompt", PROMPT, "--tokens", 2, "--json")
    assert result.exit_code == 0, result.output
    ran = json.loads(result.stdout)
    assert (ran["host"], ran["mac_share"]) == ([], 1)
    result = command("compile", mixed, "-o", tmp_path / "image", "--json")
    assert result.exit_code == 0, result.output
    compiled = json.loads(result.stdout)
    assert compiled["recoded"] == ran["recoded"]
    assert compiled["recoded"]["mac_share"] == RECODED / WHOLE
    result = command("eval", mixed, "--tokens", 8, "--text", text(tmp_path), "--out", tmp_path)
    assert "12 linear layers" in result.output and result.exit_code == 0


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        (LutTensorCore(weight_bits=8), "w8g32"),
        (LutTensorCore(weight_bits=3), "w3g32"),
        (Mac(weight_bits=2), "w2g32"),
        (ENGINE_PRESETS["bs-skip"], "w4g35"),  # slices of 7
        (ENGINE_PRESETS["lut-ternary"], "tg32"),
        (ENGINE_PRESETS["vq-residual"], None),
        (ENGINE_PRESETS["dla-l1"], None),
    ],
)
def test_what_has_no_codes_is_coded_to_the_widest_grid(spec, weights):
    found = recoding_for(spec)
    assert (None if found is None else found.name) == weights
    if found is not None and found.rounding is not None:
        assert spec.accepts(found.rounding.format)
        assert found.rounding.group is not None and found.rounding.group % spec.slice_k == 0


def test_an_engine_without_grids_refuses_what_it_has_no_codes_for(mixed):
    """Codewords of some layers, and nothing to code the others to."""
    model, engine, rng = load(str(mixed)), ENGINE_PRESETS["vq-residual"], np.random.default_rng(0)
    w = dequantized(model.matrix("0.q"))
    codes = WeightCodes(engine.weight_bits, Codes.VECTOR)
    codewords = near(engine, np.zeros(w.shape, int), codes, w.shape[1], rng)
    scale = np.ones((len(w), 1), np.float32)
    tensor = QuantTensor(codewords, scale, 0 * scale, 16)
    mixture = replace(model, tensors={**model.tensors, "0.q": tensor})
    rule = r"native leaves 13 of 15 linear layers .* \(0\.k is the first\), .* another accelerator"
    with pytest.raises(QuantError, match=rule):
        assign(mixture, NATIVE, engine)


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
    linears = (Linear(LayerName(None, "q"), 8, 16, WeightCodes(4), 32, 16, count=3),)
    return Workload("toy", "native", linears, left)


def test_shares_are_of_the_rows_that_each_layer_computes():
    one = work(HostLayer(HEAD, 40, 16, last_token_only=True))
    assert (one.macs(), one.host_macs(), one.host_bytes) == (384, 640, 4 * 640)
    assert one.mac_share() == 384 / 1024
    assert one.mac_share(10) == 3840 / (3840 + 640)
    assert work().mac_share(10) == 1
