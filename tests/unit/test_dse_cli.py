"""`evolute dse` and `evolute dse pick`, with toy measurements in place of synthesis."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dse.cli
from dse.objectives import METRICS, Bench
from dse.space import Candidate
from hw.files import read_records
from hw.spec import LutTensorCore
from hw.spec.base import RefusedError, SpecError
from hw.spec.presets import UnknownNameError, preset
from reports.page import build
from reports.records import load


def toy_measure(bench: Bench, names: Collection[str], candidate: Candidate) -> dict[str, float]:
    spec = candidate.spec
    lanes = spec.m * spec.n * spec.kg
    return {
        "area_ge": 90.0 * lanes * spec.k,
        "delay_ns": 2.0,
        "clock_mhz": 200.0,
        "tokens_per_s": 50.0 * lanes,
        "prefill_tokens_per_s": 80.0 * lanes,
        "perplexity": 10 + 40 / spec.weight_bits**2,
    }


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dse.cli, "measure", toy_measure)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(dse.cli.dse, list(arguments), catch_exceptions=False)


def test_a_search_leaves_a_front_a_record_and_a_page_and_can_be_picked_from(tmp_path: Path) -> None:
    shown = json.loads(run("--trials", "6", "--study", "s", "--json").stdout)
    assert shown["study"] == "s" and shown["trials"] == 6 and shown["hypervolume"] >= 0
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert record["front"] == sorted(each["number"] for each in shown["front"])
    assert (tmp_path / "out" / "front.csv").read_text().count("\n") == len(shown["front"]) + 1
    assert "Study s" in build(load([tmp_path / "out" / "records.jsonl"]))

    picked = json.loads(run("pick", "--json").stdout)
    chosen = picked["candidate"]
    assert chosen["number"] in record["front"]
    settings = [
        part.partition(" ")[0] for part in picked["commands"]["export"].split(" --set ")[1:]
    ]
    spec = preset(dse.cli.DEFAULT_ENGINE).spec.evolve_text(settings)
    assert spec.to_dict() == chosen["spec"] and spec.digest == chosen["digest"]
    assert LutTensorCore(**{k: v for k, v in chosen["spec"].items() if k != "kind"}) == spec


def test_a_weight_moves_the_pick() -> None:
    run("--trials", "12", "--study", "s", "--json")
    small = json.loads(run("pick", "s", "--weight", "area_ge=50", "--json").stdout)
    fast = json.loads(run("pick", "s", "--weight", "tokens_per_s=50", "--json").stdout)
    areas = [each["candidate"]["metrics"]["area_ge"] for each in (small, fast)]
    assert areas[0] < areas[1]


def test_resuming_adds_only_what_is_missing() -> None:
    run("--trials", "3", "--study", "s", "--json")
    with pytest.raises(RefusedError, match="--resume"):
        run("--trials", "5", "--study", "s")
    resumed = json.loads(run("--trials", "5", "--study", "s", "--resume", "--json").stdout)
    straight = json.loads(run("--trials", "5", "--study", "other", "--json").stdout)
    assert resumed["trials"] == 5
    assert resumed["front"] == straight["front"]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["lut_tensor_cor"], UnknownNameError),
        (["--objectives", "area_ge,speed"], UnknownNameError),
        (["--objectives", "area_ge"], SpecError),
        (["--constraint", "area_ge<4"], SpecError),
        (["--constraint", "area_ge<=-4"], SpecError),
        (["--constraint", "size<=4"], UnknownNameError),
        (["--context", "100000"], SpecError),
        (["--model", "evolute-tny"], UnknownNameError),
        (["pick", "nothing"], RefusedError),
    ],
)
def test_requests_that_make_no_sense_are_refused_before_anything_is_written(
    arguments: list[str], refusal: type[RefusedError], tmp_path: Path
) -> None:
    with pytest.raises(refusal):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_metric_and_both_commands() -> None:
    text = " ".join(run("--help").stdout.split())
    assert all(name in text for name in METRICS)
    assert "evolute dse pick" in text
