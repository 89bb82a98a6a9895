"""The command that generates text on a core: what it prints, what it finds, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evolute import front
from evolute.sim.timing.core import ProgramCycles, program_cycles
from evolute.sim.workload.linear import LayerName
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy import image
from evolute.sw.deploy.on_core import RunStage, integer_stage
from evolute.sw.language_model.decoder import generate, greedy
from evolute.sw.language_model.linear import host_linears, linear_names
from evolute.sw.tensors.stored import StoredTensors
from evolute.verif.core import run as core_run

BLOCKS = 4
LAYERS = BLOCKS * 7
"""Linear layers of evolute-tiny on the accelerator; the head is not."""


def run(*options: str, accel: str = "core-fpga") -> Result:
    arguments = ["run", "evolute-tiny", "--prompt", "One day", "--tokens", "3", "--accel", accel]
    return CliRunner().invoke(front.cli, [*arguments, *options])


def record(*options: str) -> dict[str, Any]:
    result = run(*options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_rtl_generates_what_the_models_do() -> None:
    rtl = record("--backend", "rtl")
    assert rtl["cycles"]["rtl"] == rtl["cycles"]["model"] > 0
    assert (rtl["layers"], rtl["mismatches"], rtl["differences"]) == (3 * LAYERS, 0, [])
    programs = {name: phase["programs"] for name, phase in rtl["phases"].items()}
    assert programs == {"prefill": BLOCKS, "decode": 2}
    assert sum(phase["cycles"] for phase in rtl["phases"].values()) == rtl["cycles"]["rtl"]
    for phase in rtl["phases"].values():
        assert 0 < phase["engine_utilization"] < 1
        assert 0 < phase["bus_utilization"] < 1
    for backend in ("integer", "golden"):
        modelled = record("--backend", backend)
        assert modelled["tokens"] == rtl["tokens"]
        assert (
            modelled["text"]
            == rtl["text"]
            == zoo.load("evolute-tiny").tokenizer.decode(rtl["tokens"])
        )
        assert modelled["cycles"] == {"rtl": None, "model": rtl["cycles"]["model"]}


def test_sim_prices_what_the_rtl_takes(tmp_path: Path) -> None:
    tokenizer = zoo.load("evolute-tiny").tokenizer
    prompt = [*tokenizer.prefix, *tokenizer.encode("One day")]
    asked = ["--prefill", str(len(prompt)), "--decode", "2", "--tokens", "4"]
    arguments = ["sim", "evolute-tiny", "--accel", "core-fpga", *asked, "--out", str(tmp_path)]
    result = CliRunner().invoke(front.cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    priced = json.loads(result.stdout)
    cycles = priced["prefill"]["cycles"] + priced["decode"]["cycles"]
    assert cycles == record("--backend", "rtl")["cycles"]["rtl"]


def test_steps_that_no_weight_needs_take_no_cycles() -> None:
    """BitMoD-3 with and without them: the same text, and on RTL the cycles that its weights say."""
    weights = ("--weights", "b3g128")
    found = json.loads(run("--backend", "rtl", *weights, "--json", accel="core-skip").stdout)
    assert (found["layers"], found["mismatches"], found["differences"]) == (3 * LAYERS, 0, [])
    assert found["cycles"]["rtl"] == found["cycles"]["model"] > 0
    every = run("--set", "engine.skips=false", *weights, "--json", accel="core-skip")
    fixed = json.loads(every.stdout)
    assert fixed["text"] == found["text"]
    assert found["cycles"]["rtl"] < 0.8 * fixed["cycles"]["model"]


def test_blocks_of_zeros_take_no_cycles(tmp_path: Path) -> None:
    """Pruned weights on RTL: bits and cycles as the models say, and what `sim` prices."""
    pruned = ("--prune", "tile-group:0.5/32")
    found, dense = record("--backend", "rtl", *pruned), record()
    assert (found["layers"], found["mismatches"], found["differences"]) == (3 * LAYERS, 0, [])
    assert found["cycles"]["rtl"] == found["cycles"]["model"] < dense["cycles"]["model"]
    assert found["pruned"] == "tile-group:0.5/32" and dense["pruned"] is None
    golden = record("--backend", "golden", *pruned)
    assert (golden["tokens"], golden["text"]) == (found["tokens"], found["text"])
    tokenizer = zoo.load("evolute-tiny").tokenizer
    prompt = [*tokenizer.prefix, *tokenizer.encode("One day")]
    asked = ["--prefill", str(len(prompt)), "--decode", "2", "--no-perplexity"]
    arguments = ["sim", "evolute-tiny", "--accel", "core-fpga", *asked, *pruned]
    result = CliRunner().invoke(front.cli, [*arguments, "--out", str(tmp_path), "--json"])
    priced = json.loads(result.stdout)
    assert priced["prefill"]["cycles"] + priced["decode"]["cycles"] == found["cycles"]["rtl"]


@pytest.mark.slow
def test_vptq_with_short_outliers_runs_on_rtl(tmp_path: Path) -> None:
    """Columns of vectors of 2 beside those of 8, as VPTQ publishes them, on one core."""
    method = ["--method", "vptq-v8k256r256o2v2k256", "--tokens", "512", "--workers", "1"]
    arguments = ["quantize", "evolute-tiny", *method, "--force", "--out", str(tmp_path)]
    assert CliRunner().invoke(front.cli, arguments).exit_code == 0
    asked = ["--prompt", "One day", "--tokens", "3", "--accel", "core-vq", "--json"]
    rtl, golden = (
        CliRunner().invoke(front.cli, ["run", str(tmp_path), *asked, "--backend", backend])
        for backend in ("rtl", "golden")
    )
    found = json.loads(rtl.stdout)
    assert (found["layers"], found["mismatches"]) == (3 * 2 * LAYERS, 0)  # two parts each
    assert found["cycles"]["rtl"] == found["cycles"]["model"] > 0
    assert json.loads(golden.stdout)["text"] == found["text"]


def test_vectors_of_inputs_run_on_rtl(tmp_path: Path) -> None:
    """From quantizing to text: pairs of inputs, whose products a table of the core has."""
    method = ["--method", "vptq-v2k16i", "--tokens", "512", "--workers", "1"]
    arguments = ["quantize", "evolute-tiny", *method, "--out", str(tmp_path)]
    assert CliRunner().invoke(front.cli, arguments).exit_code == 0
    asked = ["--prompt", "One day", "--tokens", "2", "--accel", "core-vq-inputs", "--json"]
    rtl, golden = (
        CliRunner().invoke(front.cli, ["run", str(tmp_path), *asked, "--backend", backend])
        for backend in ("rtl", "golden")
    )
    found, modelled = json.loads(rtl.stdout), json.loads(golden.stdout)
    assert (found["layers"], found["mismatches"], found["differences"]) == (2 * LAYERS, 0, [])
    assert found["cycles"]["rtl"] == found["cycles"]["model"] == modelled["cycles"]["model"] > 0
    assert modelled["text"] == found["text"]


@pytest.mark.parametrize("option", [["--backend", "float"], ["--weights", "float"]])
def test_the_reference_is_one_command(option: list[str]) -> None:
    """The model as shipped, in float32, whatever accelerator is named."""
    found, model = record(*option), zoo.load("evolute-tiny")
    prompt = [*model.tokenizer.prefix, *model.tokenizer.encode("One day")]
    assert found["tokens"] == list(generate(model, host_linears(model), prompt, 3, greedy))
    assert (found["accelerator"], found["weights"], found["backend"]) == (None, "float", "float")
    assert found["host"] == linear_names(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --prompt x --tokens 600", "context: must be at most 512"),
        ("run --prompt x --tokens 600 --backend rtl", "context: must be at most 512"),
        ("run --prompt x --weights float --backend golden", "must be float with --weights"),
        ("run --prompt x --backend integer --accel lut-int8-table", "must be golden"),
        ("run --prompt x --set weight_buffer_bytes=64", "too small"),
        ("run --prompt x --weights native", "stores no codes"),
        ("eval --context 513", "context: must be in 3..512"),
        ("eval --stride 600", "stride: must be in"),
        ("sim --window 513", "context: must be in 3..512"),
        ("sim --context 513", "--context: must be at most 512 tokens, the context of evolute-tiny"),
        ("sim --weights float", "leaves no layer"),
        ("compile -o x --weights float", "leaves no layer"),
        ("compile -o x --set weight_buffer_bytes=64", "too small"),
        ("quantize -o x --method gptq-w3g32 --context 513", "context: must be in 3..512"),
    ],
)
def test_what_the_header_forbids_is_refused_before_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, message: str
) -> None:
    def read(tensors: StoredTensors, name: str) -> None:
        raise AssertionError(f"reads {name}")

    monkeypatch.setattr(StoredTensors, "__getitem__", read)
    monkeypatch.chdir(tmp_path)
    command, *options = arguments.split()
    result = CliRunner().invoke(front.cli, [command, "evolute-tiny", *options])
    assert isinstance(result.exception, RefusedError)
    assert message in str(result.exception)


def test_text_comes_with_what_was_measured() -> None:
    result = run("--backend", "rtl")
    assert result.exit_code == 0
    assert result.stdout.startswith("One day, ")
    assert "the model says" in result.stdout
    assert f"{3 * LAYERS} layers equal plain integers bit for bit" in result.stdout


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_off(held: Any) -> RunStage:
        stage = integer_stage(held)

        def wrong(placed: Any, x: Any) -> Mapping[str, np.ndarray]:
            found = dict(stage(placed, x))
            if (name := LayerName(1, "up")) in found:
                found[name][0, 5] += 1
            return found

        return wrong

    monkeypatch.setattr(core_run, "fast_stage", one_off)
    result = run("--backend", "rtl", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["mismatches"] == len(found["differences"]) == 3
    assert f"spec {found['digest']} layer 1.up: row 0, column 5 is" in found["differences"][0]


def test_wrong_cycles_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(*arguments: Any) -> ProgramCycles:
        model = program_cycles(*arguments)
        return dataclasses.replace(model, cycles=model.cycles + 1)

    monkeypatch.setattr(image, "program_cycles", one_more)
    result = run("--backend", "rtl", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["cycles"]["model"] == found["cycles"]["rtl"] + BLOCKS + 2
    assert all("cycles is" in difference for difference in found["differences"])


@pytest.mark.parametrize(
    ("options", "accel", "message"),
    [
        (["--backend", "rtl"], "lut-decode", "choose core-decode, core-prefill, core-fpga"),
        (
            ["--backend", "rtl", "--weights", "float"],
            "core-fpga",
            "backend: must be float with --weights float, got rtl",
        ),
        (["--backend", "float", "--weights", "w4g32"], "core-fpga", "weights: must be float"),
        (["--backend", "rtl", "--set", "weight_buffer_bytes=64"], "core-fpga", "too small"),
    ],
)
def test_requests_that_are_refused(options: list[str], accel: str, message: str) -> None:
    result = run(*options, accel=accel)
    assert isinstance(result.exception, RefusedError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert result.stdout == ""
