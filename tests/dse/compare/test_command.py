"""The command `evolute compare`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import evolute.dse.compare.rows
from evolute.dse.commands.compare import compare
from evolute.hw.spec import ENGINES, Spec, VqCodebook
from evolute.hw.spec.base import SpecError
from evolute.hw.synthesis.asic import AsicResult
from evolute.reports.page import build
from evolute.reports.records import load as load_records
from evolute.support import json_schema
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import read_records
from evolute.sw.tensors.tensor import QuantError

TINY = "evolute-tiny"


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_area) -> None:
    monkeypatch.setattr(evolute.dse.compare.rows, "synthesize", lambda spec, target: toy_area(spec))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    command = [TINY, "--shape", "1,4,8", "--workers", "1", *arguments]
    return CliRunner().invoke(compare, command, catch_exceptions=False)


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("bits", ["1", "2", "t"])
def test_rows_come_best_first_with_a_record_and_a_page(bits, tmp_path):
    rows = json.loads(run("--bits", bits, "--json").stdout)
    compared = [each for each in rows if each["refused"] is None]
    stems = {each["engine"] for each in compared}
    assert {"lut_tensor_core", "mac"} <= stems <= set(ENGINES)
    costs = [each["area_cycles_um2"] for each in compared]
    assert costs == sorted(costs)
    assert compared[0]["area_cycles_of_best"] == 1
    for each in compared:
        assert each["area_um2"] == each["engine_um2"] + each["scaling_um2"]
        sizes = [one["area_um2"] for one in each["scalings"]]
        assert sizes and min(sizes) == sizes[0] == each["scaling_um2"] > 0
    for each in rows:
        assert (each["model"], each["layer"], each["rows"]) == (TINY, "0.gate", 1)
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert record["kind"] == "compare"
    json_schema.require(record)
    assert [each["name"] for each in record["results"]] == [each["name"] for each in rows]
    page = build(load_records([tmp_path / "out" / "records.jsonl"]))
    assert all(each["name"] in page for each in rows)
    assert record["inside"] in page


def test_memories_without_area_are_named_and_not_ranked(monkeypatch, tmp_path, toy_area):
    def toy(spec: Spec, target: str) -> AsicResult:
        bits = 54321 if isinstance(spec, VqCodebook) else 0
        return replace(toy_area(spec), memory_bits=bits)

    monkeypatch.setattr(evolute.dse.compare.rows, "synthesize", toy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    shown = " ".join(run("--engines", "vq_codebook,lut_dla", "--presets").stdout.split())
    assert "vq-outputs (54,321)" in shown and "dla-l1 (" not in shown
    assert "Least area x cycles: vq" not in shown and "Least area x cycles: " in shown
    assert "refused" not in shown
    (record,) = load_records([tmp_path / "out" / "records.jsonl"])
    page = build([record])
    assert "The area of vq-outputs leaves out memories of 54,321 bits" in page
    alone = run("--engines", "vq_codebook").stdout
    assert "Least" not in alone and "54,321" in alone


@pytest.mark.usefixtures("_toy")
def test_floating_baselines_are_asked_for():
    rows = json.loads(run("--activations", "fp16", "--floating", "--json").stdout)
    assert {"float_mac", "float_lut"} < {each["engine"] for each in rows if not each["refused"]}
    refused = CliRunner().invoke(compare, [TINY, "--floating"])
    assert isinstance(refused.exception, SpecError)


@pytest.mark.usefixtures("_toy")
def test_the_table_fits_its_width_and_states_boundary_and_winner(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = run("--bits", "2").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100 and "…" not in shown
    text = " ".join(shown.split())
    for word in ("Inside the area", "table build", "Outside", "toy cells", "toy tool"):
        assert word in text
    inside, outside = text.split("Inside the area")[1].split("Outside")
    assert "scaling of groups" in inside and "scaling" not in outside.split(".")[0]
    assert "scaling: the smallest that never makes the engine wait" in text
    titles = [line.partition(":")[0] for line in lines if line.startswith("Least")]
    assert titles == ["Least area x cycles", "Least area x cycles x path"]


@pytest.mark.usefixtures("_toy")
def test_published_figures_stand_apart_and_only_beside_what_they_compare_with(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert "Published" not in run("--bits", "2").stdout
    shown = run("--bits", "2", "--activations", "fp16:12").stdout
    table, _, published = shown.partition("Least area x cycles")
    assert "459" in published and "ISCA 2025" in " ".join(published.split())
    assert "M2 N64 K4" not in table


@pytest.mark.usefixtures("_toy")
def test_what_is_refused_is_shown_with_the_reason():
    shown = run("--shape", "1,4,6").stdout
    assert "refused: lut_tensor_core K4: shape: must be of 16 multiply-accumulates" in shown
    assert "mac INT8xINT2" in shown


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize(
    ("arguments", "refusal", "says"),
    [
        (["--bits", "9"], QuantError, "bits: must be 1 to 8, t, b3 or b4"),
        (["--bits", "x"], QuantError, "bits: must be"),
        (["--bits", "2", "--weights", "w2g32"], QuantError, "one of the two"),
        (["--weights", "w2h32"], QuantError, "weights: must be"),
        (["--weights", "float"], SpecError, "no floats"),
        (["--weights", "native"], QuantError, "no codes"),
        (["--activations", "int"], SpecError, "activations: must be int4 to int16, or fp16"),
        (["--activations", "fp32"], SpecError, "activations: must be"),
        (["--activations", "fp16:17"], RefusedError, "in 4..16"),
        (["--activations", "int3"], RefusedError, "in 4..16"),
        (["--shape", "1,32"], SpecError, "of the form M,N,K"),
        (["--shape", "0,4,8"], RefusedError, "in 1..64"),
        (["--engines", "mack"], UnknownNameError, "mean mac"),
        (["--bits", "3", "--engines", "vq_codebook"], RefusedError, "none of vq_codebook for w3"),
        (["--layer", "0.gat"], UnknownNameError, "BLOCK.ROLE"),
        (["--layer", "gate"], UnknownNameError, "BLOCK.ROLE"),
        (
            ["--layer", "9.gate"],
            UnknownNameError,
            "it must be BLOCK.ROLE, a block in 0..3 and a role of q",
        ),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_one_line(arguments, refusal, says, tmp_path):
    with pytest.raises(refusal, match=says) as refused:
        run(*arguments)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_toy")
def test_a_comparison_is_the_same_every_time():
    assert run("--json").stdout == run("--json").stdout
