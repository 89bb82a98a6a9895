"""A whole model quantized, written, opened again, and run through golden engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evolute import cli
from hw.spec import VqCodebook, presets
from sw import quantize as module
from sw import zoo
from sw.checkpoint import open_model
from sw.core import on_accelerator
from sw.decoder import Cache, forward, head
from sw.linear import host_linears
from sw.perplexity import Text, windows
from sw.quantize import UNFINISHED, bits_of, quantize_model
from sw.quantizers.hessian import Calibration, calibrate, default_calibration, inputs_of
from sw.quantizers.methods import parse_method
from sw.tensor import PartedTensor, QuantError
from sw.weights import NATIVE

MODEL = zoo.load("evolute-tiny")
TEXT = zoo.default_text("evolute-tiny")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setattr("sw.quantizers.hessian.cache_directory", lambda: cache)
    found = calibrate(MODEL, default_calibration(TEXT), 2000, 512)
    patch.undo()
    return found


def test_moments_are_those_of_the_layers_inputs(calibration: Calibration) -> None:
    """Against the inputs themselves, kept one by one; the default text is not the measured one."""
    text, linear = default_calibration(TEXT), host_linears(MODEL)
    assert TEXT.content.endswith(text.content)
    assert 0.4 < len(text.content) / len(TEXT.content) < 0.5
    assert default_calibration(Text("line", "abcd")).content == "cd"
    parts = windows(MODEL, text, 2000, 512)
    assert calibration.tokens == sum(map(len, parts))
    seen: dict[str, list[np.ndarray]] = {}

    def watched(names: Sequence[str], x: np.ndarray) -> list[np.ndarray]:
        seen.setdefault(names[0], []).append(x.astype(np.float64))
        return linear(names, x)

    for part in parts:
        forward(MODEL, watched, part, Cache(MODEL.config, len(part)))
    for name in inputs_of(MODEL):
        x = np.concatenate(seen[name])
        moments = calibration[name]
        np.testing.assert_allclose(moments.second, x.T @ x / len(x), rtol=0, atol=1e-4)
        assert np.array_equal(moments.peak, np.abs(x).max(axis=0).astype(np.float32))


LUT = presets.ENGINES["lut-decode"]
VQ = presets.ENGINES["vq-outputs"].evolve(v=4, entries=64)
VQ_INPUTS = VqCodebook(n=8, k=6, v=3, along="inputs", entries=16, residual_entries=16)
CORE = presets.CORES["core-decode"]


@pytest.mark.parametrize(
    ("method", "spec", "bits"),
    [
        ("gptq-w2g32o2", LUT, 2.96),
        ("gptq-b3g32", presets.ENGINES["bs-bitmod"], 3.56),
        ("gptq-w3g64c", CORE, 3.30),
        ("vptq-v4k64", VQ, 1.58),
        ("vptq-v2k16i", presets.CORES["core-vq-inputs"], 2.01),
        ("vptq-v3k16r16i", VQ_INPUTS, 2.70),  # short last vectors
    ],
)
def test_from_quantizing_to_the_engines_integers(
    calibration: Calibration, tmp_path: Path, method: str, spec, bits: float
) -> None:
    """The model that was written gives the same logits through the engine's golden model as
    through integer products, near to those of its weights in float32."""
    made, document = quantize_model(MODEL, parse_method(method), calibration, tmp_path)
    assert document["bits_total"] == pytest.approx(bits, abs=0.03)
    assert not (tmp_path / UNFINISHED).exists()
    model = open_model(tmp_path)
    for name, tensor in made.tensors.items():
        found = model.tensors[name]
        if isinstance(tensor, np.ndarray):
            assert np.array_equal(found, tensor)
        else:
            assert not isinstance(found, np.ndarray)
            assert np.array_equal(found.dequantize(), tensor.dequantize())
            assert bits_of(found).total == found.total_bits == tensor.total_bits
    tokens = MODEL.tokenizer.encode("Once upon a time, there was a")

    def logits(linear):
        return head(model, linear, forward(model, linear, tokens, Cache(model.config, len(tokens))))

    run = on_accelerator(model, NATIVE, spec)
    golden = logits(run("golden"))
    assert np.array_equal(golden, logits(run("integer")))
    assert np.abs(golden - logits(host_linears(model))).max() < 0.1 * np.abs(golden).max()


def test_an_interrupted_run_goes_on(
    calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that were finished are taken, if they are whole and of the same run, and only then."""
    method, stop = parse_method("rtn-w3g32"), 5

    def interrupt(done: float) -> None:
        if done * 16 >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(MODEL, method, calibration, tmp_path, progress=interrupt)
    kept = sorted((tmp_path / UNFINISHED).rglob("*.safetensors"))
    assert len(kept) >= stop
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    again: list[str] = []
    real = module._finished

    def watched(path: Path, key: str):
        found = real(path, key)
        if found is None:
            again.append(path.stem)
        return found

    monkeypatch.setattr(module, "_finished", watched)
    _, document = quantize_model(MODEL, method, calibration, tmp_path)
    assert len(again) == 16 - len(kept) + 1 and kept[0].stem in again
    whole = (tmp_path / "weights.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "processes", None)  # a finished model is opened, not made again
        assert quantize_model(MODEL, method, calibration, tmp_path)[1] == document
    _, fresh = quantize_model(MODEL, method, calibration, tmp_path / "fresh")
    assert fresh == document
    assert (tmp_path / "fresh" / "weights.safetensors").read_bytes() == whole


def test_what_cannot_be_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(QuantError, match="codebooks of"):
        quantize_model(MODEL, parse_method("vptq-v8k256"), calibration, tmp_path)
    result = CliRunner().invoke(cli, ["quantize", "evolute-tiny", "--method", "x", "-o", "y"])
    assert isinstance(result.exception, QuantError) and "method: must be" in str(result.exception)


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    command = ["quantize", "evolute-tiny", "--method", "rtn-tg32", "--tokens", "300"]
    result = CliRunner().invoke(cli, [*command, "-o", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["method"] == "rtn-tg32" and record["bits_total"] == 2.5
    assert record["calibration"]["text"] == "second half of heldout.txt"
    assert len(record["layers"]) == 28
    assert 0 < record["proxy_error"] < 1
    assert all(layer["bits"]["total"] for layer in record["layers"])
    tensor = open_model(folder).tensors["3.down"]
    assert not isinstance(tensor, np.ndarray | PartedTensor)
    # Measured as the model that it was made of is, and against it.
    assert zoo.default_text(str(folder)) == TEXT
    command = ["eval", str(folder), "--weights", "float", "--tokens", "100", "--json"]
    command += ["--against", "evolute-tiny", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["against"] == "evolute-tiny" and record["kl"] > 0
    assert record["perplexity"] > record["reference_perplexity"]
