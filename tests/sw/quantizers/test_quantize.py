"""A whole model quantized, written, opened again, and run through golden engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evolute.front import cli
from evolute.hw.spec import VqCodebook, presets
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.commands import accuracy
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import on_accelerator
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import Parent
from evolute.sw.language_model.perplexity import Text, measure, windows
from evolute.sw.language_model.text_kinds import check_text, second_half
from evolute.sw.quantizers import quantize as quantizing
from evolute.sw.quantizers import whole_model as module
from evolute.sw.quantizers.finished import UNFINISHED
from evolute.sw.quantizers.hessian import Calibration, calibrate, inputs_of
from evolute.sw.quantizers.methods import parse_method
from evolute.sw.quantizers.whole_model import quantize_model
from evolute.sw.tensors.bits import bits_of
from evolute.sw.tensors.stored import CheckpointError
from evolute.sw.tensors.tensor import PartedTensor, QuantError
from evolute.sw.tensors.weights import NATIVE

MODEL = zoo.load("evolute-tiny")
TEXT = zoo.default_text("evolute-tiny")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setattr("evolute.sw.quantizers.hessian.cache_directory", lambda: cache)
    found = calibrate(MODEL, windows(MODEL, second_half(TEXT), 2000, 512))
    patch.undo()
    return found


def test_moments_are_those_of_the_layers_inputs(calibration: Calibration) -> None:
    """Against the inputs themselves, kept one by one; the default text is not the measured one."""
    text, linear = second_half(TEXT), host_linears(MODEL)
    assert TEXT.content.endswith(text.content)
    assert 0.4 < len(text.content) / len(TEXT.content) < 0.5
    assert second_half(Text("line", "abcd")).content == "cd"
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


LUT = presets.ENGINE_PRESETS["lut-decode"]
VQ = presets.ENGINE_PRESETS["vq-outputs"].evolve(v=4, entries=64)
VQ_INPUTS = VqCodebook(n=8, k=6, v=3, along="inputs", entries=16, residual_entries=16)
CORE = presets.CORES["core-decode"]


@pytest.mark.parametrize(
    ("method", "spec", "bits"),
    [
        ("gptq-w2g32o2", LUT, 2.96),
        ("gptq-b3g32", presets.ENGINE_PRESETS["bs-bitmod"], 3.56),
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

    run = on_accelerator(assign(model, NATIVE, spec))
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
    real = module.finished_layers

    def watched(path: Path, key: str):
        found = real(path, key)
        if found is None:
            again.append(path.stem)
        return found

    monkeypatch.setattr(module, "finished_layers", watched)
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


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def record_of(*arguments: object) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolute.sw.quantizers.hessian.cache_directory", lambda: tmp_path / "cache")


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    command = ["quantize", "evolute-tiny", "--method", "gptq-tg32", "--tokens", "3000"]
    record = record_of(*command, "-o", folder)
    assert record["method"] == "gptq-tg32" and record["bits_total"] == 2.5
    text = record["calibration"]["text"].split(", ")
    assert text[0] == "second half of heldout.txt" and len(text) == 4
    assert len(record["layers"]) == 28
    assert 0 < record["proxy_error"] < 1
    assert all(layer["bits"]["total"] for layer in record["layers"])
    tensor = open_model(folder).tensors["3.down"]
    assert not isinstance(tensor, np.ndarray | PartedTensor)
    # A second run takes the model, and what checked it, as they are.
    again = record_of(*command, "-o", folder)
    assert again | {"seconds": 0} == record | {"seconds": 0}


def test_rounding_does_not_calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its proxy error is asked for, which changes nothing else."""

    def forbidden(*_: object) -> None:
        raise AssertionError("rounding calibrates")

    names = ["rtn-w3g32", "rtn-b3g32"]
    with monkeypatch.context() as patch:
        patch.setattr(quantizing, "calibrate", forbidden)
        for name in names:
            command = ["quantize", "evolute-tiny", "--method", name, "--no-check"]
            record = record_of(*command, "-o", tmp_path / name)
            assert (record["proxy_error"], record["calibration"], record["check"]) == (None,) * 3
            assert all(layer["proxy_error"] is None for layer in record["layers"])
    for name in names:
        command = ["quantize", "evolute-tiny", "--method", name, "--no-check", "--proxy-error"]
        record = record_of(*command, "--tokens", "600", "-o", tmp_path / "error")
        assert 0 < record["proxy_error"] < 1 and record["calibration"]["tokens"] >= 600
        written = [tmp_path / each / "weights.safetensors" for each in (name, "error")]
        assert written[0].read_bytes() == written[1].read_bytes()


def test_the_check_is_what_the_models_are_worth(tmp_path: Path) -> None:
    """Of the one that was made, and of the one that rounding makes, measured as folders."""
    asked = ["--tokens", "600", "--workers", "1"]
    made = record_of(
        *("quantize", "evolute-tiny", "--method", "gptq-w3g32c", "-o", tmp_path / "gptq", *asked)
    )
    worse = made["check"]["quantized"] > made["check"]["rounded"]
    assert made["check"]["is_worse"] is worse
    command = ["quantize", "evolute-tiny", "--method", "rtn-w3g32c", "-o", tmp_path / "rtn"]
    rounded = record_of(*command, *asked)
    assert rounded["check"]["rounded"] is rounded["check"]["is_worse"] is None
    assert made["check"]["rounded"] == pytest.approx(rounded["check"]["quantized"], rel=1e-6)
    for folder, record in (("gptq", made), ("rtn", rounded)):
        model = open_model(tmp_path / folder)
        linear, shipped = host_linears(model), host_linears(MODEL)
        found = measure(model, linear, shipped, check_text(), 511, 512, original=MODEL)
        assert record["check"]["quantized"] == pytest.approx(found.perplexity, rel=1e-6)
        assert record["check"]["as_shipped"] == pytest.approx(found.reference_perplexity, rel=1e-6)
        assert record["check"]["kl"] == pytest.approx(found.kl, rel=1e-5)
        assert record["check"]["tokens"] == found.tokens == 511


def test_a_method_that_harms_is_called_so(tmp_path: Path) -> None:
    """Scales of inputs that were learned from one word, over and over, are worse than none."""
    text, made = tmp_path / "text", tmp_path / "made"
    text.write_text("once " * 200)
    command = ["quantize", "evolute-tiny", "--method", "smooth-w2g32", "--text", text]
    result = invoke(*command, "--tokens", "60", "--workers", "1", "-o", made)
    assert result.exit_code == 0
    assert "on text of another kind smooth-w2g32 is worse than rounding" in result.stderr
    assert "61 tokens to calibrate with are fewer than the 320 inputs" in result.stderr
    found = json.loads((made / "evolute.json").read_text())["quantization"]["check"]
    assert found["quantized"] > found["rounded"] > found["as_shipped"]


# What was made remembers what it was made of.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "tiny-w3"
    record_of("quantize", "evolute-tiny", "--method", "rtn-w3g32", "--no-check", "-o", made)
    return made


def test_bits_mean_one_thing(folder: Path, tmp_path: Path) -> None:
    """Whatever counts them: the quantizer, an engine, a core, the host, or a name of weights."""
    document = json.loads((folder / "evolute.json").read_text())["quantization"]
    wanted = document["bits_index"], document["bits_total"]
    assert wanted == (3, 3 + (16 + 3) / 32)
    asked = ["--tokens", "8", "--out", tmp_path]
    for model, weights in ((folder, "native"), (folder, "float"), ("evolute-tiny", "w3g32")):
        for accel in ("lut-decode", "core-decode"):
            found = record_of("eval", model, "--weights", weights, "--accel", accel, *asked)
            assert (found["bits_index"], found["bits_total"]) == wanted
    found = record_of("sim", folder, "--prefill", 2, "--decode", 1, *asked)
    assert (found["bits_index"], found["bits_total"]) == wanted
    assert found["bits_held"] != found["bits_total"]


def test_indices_alone_are_index_bits(calibration: Calibration, tmp_path: Path) -> None:
    """64 codewords for vectors of 4 are 6 bits for 4 weights; codebooks come on top, once."""
    _, document = quantize_model(MODEL, parse_method("vptq-v4k64"), calibration, tmp_path)
    assert document["bits_index"] == 6 / 4
    assert document["bits_total"] == pytest.approx(1.584, abs=1e-3)


def test_what_was_made_is_compared_with_its_parent(folder: Path, tmp_path: Path) -> None:
    """Also as a file for llama.cpp, and of that one made anew; and predicts its parent's text."""
    asked = ["--weights", "float", "--tokens", "100", "--out", tmp_path]
    found = record_of("eval", folder, *asked)
    assert found["against"] == "evolute-tiny" and found["kl"] > 0 and found["text"] == "heldout.txt"
    assert found["perplexity"] > found["reference_perplexity"]
    itself = record_of("eval", folder, *asked, "--against", folder)
    assert itself["kl"] == 0 and itself["perplexity"] == found["perplexity"]
    record_of("convert", folder, "--type", "q8_0", "-o", tmp_path / "tiny.gguf")
    file = record_of("eval", tmp_path / "tiny.gguf", *asked)
    assert file["reference_perplexity"] == found["reference_perplexity"]
    assert file["text"] == "heldout.txt" and file["kl"] == pytest.approx(found["kl"], rel=0.05)
    record_of("convert", "evolute-tiny", "--type", "q4_0", "-o", tmp_path / "direct.gguf")
    direct = record_of("eval", tmp_path / "direct.gguf", *asked)
    assert direct["against"] == "evolute-tiny" and 0 < direct["kl"] < found["kl"]
    assert direct["reference_perplexity"] == found["reference_perplexity"]
    priced = record_of(
        *("sim", folder, "--prefill", 2, "--decode", 1, "--tokens", "100", "--out", tmp_path)
    )
    assert priced["perplexity"]["float"] == found["reference_perplexity"]


def test_without_its_parent_nothing_is_compared(folder: Path, tmp_path: Path) -> None:
    """One line says why; and what was made keeps the text that it is measured with."""
    copy, made = tmp_path / "copy", tmp_path / "made"
    shutil.copytree(folder, copy)
    record_of("quantize", copy, "--method", "rtn-w2g32", "--no-check", "-o", made)
    asked = ["eval", made, "--weights", "float", "--tokens", "40", "--out", tmp_path, "--json"]
    assert json.loads(invoke(*asked).stdout)["against"] == "copy"
    for broken, reason in ((True, "is another model by now"), (False, "is not there")):
        if broken:
            shutil.rmtree(copy)
            record_of("quantize", "evolute-tiny", "--method", "rtn-w8", "--no-check", "-o", copy)
        else:
            shutil.rmtree(copy)
        result = invoke(*asked)
        assert result.exit_code == 0 and result.stderr.count("\n") == 1
        assert "nothing to compare made with" in result.stderr and reason in result.stderr
        found = json.loads(result.stdout)
        missing = ("reference_perplexity", "kl", "top1", "against")
        assert [found[name] for name in missing] == [None] * 4
        assert found["text"] == "heldout.txt" and found["perplexity"] > 1
    result = invoke(*asked[:-1])
    assert result.exit_code == 0 and "divergence" not in result.stdout
    sizes = ["--prefill", 2, "--decode", 1, "--tokens", 8, "--out", tmp_path]
    assert "nothing is known" in invoke("sim", made, *sizes).stdout
    records = tmp_path / "records.jsonl"
    page = invoke("report", "--records", records, "-o", tmp_path / "report")
    assert page.exit_code == 0, page.output


def test_folders_of_before_know_their_parents_name(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    document = json.loads((old / "evolute.json").read_text())
    del document["parent"]
    (old / "evolute.json").write_text(json.dumps(document))
    assert open_model(old).parent == Parent("evolute-tiny")
    (old / "heldout.txt").unlink()
    assert zoo.default_text(str(old)) == TEXT
    document["parent"] = {"name": "evolute-tiny", "digest": 3}
    (old / "evolute.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="parent must have a name"):
        open_model(old)


def test_models_that_name_each_other_have_no_text(folder: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    shutil.copytree(folder, loop)
    (loop / "heldout.txt").unlink()
    document = json.loads((loop / "evolute.json").read_text())
    document["parent"] = {"name": "loop", "path": str(loop), "digest": None}
    (loop / "evolute.json").write_text(json.dumps(document))
    assert zoo.held_out(str(loop)) is None


def test_the_table_of_quantizers_has_text_of_another_kind(tmp_path: Path) -> None:
    asked = ["--model", "evolute-tiny", "--method", "rtn-w3g32", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(accuracy.main, asked)
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert (record["bits_index"], record["bits_total"]) == (3, 3 + 19 / 32)
    assert record["calibration_text"] is record["proxy_error"] is None
    assert record["other_text"] == check_text().name and record["other_tokens"] == 2046
    assert 1 < record["perplexity"] < record["other_perplexity"]
    linear = host_linears(MODEL)
    shipped = measure(MODEL, linear, linear, check_text(), 2046, MODEL.config.context)
    assert record["other_reference_perplexity"] == pytest.approx(shipped.perplexity)


def test_the_documented_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands print what it shows, as far as floating numbers are the same everywhere."""
    text = (Path(__file__).parents[3] / "docs" / "quantizers.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("```console\n")
    commands, shown = [], []
    for line in rest.partition("```")[0].splitlines():
        (commands if line.startswith("$ evolute ") else shown).append(line)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = invoke(*command.split()[2:])
        assert result.exit_code == 0, result.output
    printed = result.stdout.splitlines()
    assert len(commands) == 2 and shown.pop() == "..." and len(shown) == 6
    for wanted, found in zip(shown, printed, strict=False):
        words = wanted.split(), found.split()
        assert len(words[0]) == len(words[1])
        for one, other in zip(*words, strict=True):
            try:
                assert float(one.rstrip("%")) == pytest.approx(float(other.rstrip("%")), rel=0.02)
            except ValueError:
                assert one == other
