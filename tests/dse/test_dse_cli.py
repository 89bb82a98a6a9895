"""`evolute dse` and `evolute dse pick`, with toy measurements in place of synthesis."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Collection
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import evolute.dse.commands.search
import evolute.dse.objectives
from evolute.dse.metrics import METRICS
from evolute.dse.objectives import Benchmark
from evolute.dse.space import SPACE, Candidate
from evolute.dse.study import StudyError, only_search, open_storage
from evolute.hw.commands.specs import spec_from
from evolute.hw.spec import ENGINES, Spec
from evolute.hw.spec.base import SpecError
from evolute.reports.page import build
from evolute.reports.records import load
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import FileError, read_records


def toy_measure(
    benchmark: Benchmark, names: Collection[str], candidate: Candidate
) -> dict[str, float]:
    spec = candidate.spec
    lanes = spec.m * spec.n * getattr(spec, "kg", 1)
    return {
        "area_ge": 90.0 * lanes * spec.k,
        "delay_ns": 2.0,
        "clock_mhz": 200.0,
        "mac_share": 0.84,
        "tokens_per_s": 50.0 * lanes,
        "prefill_tokens_per_s": 80.0 * lanes,
        "perplexity": 10 + 40 / spec.weight_bits**2,
    }


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evolute.dse.objectives, "measure", toy_measure)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(
        evolute.dse.commands.search.dse, list(arguments), catch_exceptions=False
    )


def test_a_search_leaves_a_front_a_record_and_a_page_and_can_be_picked_from(tmp_path: Path) -> None:
    shown = json.loads(run("--trials", "6", "--study", "s", "--json").stdout)
    assert shown["study"] == "s" and shown["trials"] == 6 and shown["hypervolume"] >= 0
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert record["front"] == sorted(each["number"] for each in shown["front"])
    assert (tmp_path / "out" / "front.csv").read_text().count("\n") == len(shown["front"]) + 1
    page = build(load([tmp_path / "out" / "records.jsonl"]))
    assert "Study s" in page
    # Every speed stands beside the share of the model that it is of.
    assert "speeds are of all linear layers but head" in page and "84.0%" in page
    assert "mac_share" in (tmp_path / "out" / "front.csv").read_text().splitlines()[0]
    assert "84.0%" in run("pick").stdout

    picked = json.loads(run("pick", "--json").stdout)
    chosen = picked["candidate"]
    assert chosen["number"] in record["front"]
    assert named(picked["commands"]["export"]).digest == chosen["digest"]


def named(command: str) -> Spec:
    """The spec that a printed command names, as `evolute` reads it."""
    words = shlex.split(command)
    changes = [after for before, after in itertools.pairwise(words) if before == "--set"]
    name = words[words.index("--accel") + 1] if "--accel" in words else words[2]
    return spec_from(name, tuple(changes))


@pytest.mark.parametrize("space", [stem for stem, kind in ENGINES.items() if kind in SPACE])
def test_a_candidate_of_every_space_can_be_picked_and_made(space: str) -> None:
    run(space, "--trials", "2", "--study", "s", "--bandwidth-gbs", "3.2", "--json")
    picked = json.loads(run("pick", "--json").stdout)
    chosen = picked["candidate"]
    for command in picked["commands"].values():
        spec = named(command)
        assert spec.to_dict() == chosen["spec"] and spec.digest == chosen["digest"]
    assert "--bandwidth-gbs 3.2" in picked["commands"]["sim"]
    assert picked["commands"]["export"] in run("pick").stdout


def test_where_nothing_is_feasible_pick_says_which_constraint_and_by_how_much() -> None:
    bounds = ("--constraint", "area_ge<=1", "--constraint", "tokens_per_s>=1")
    run("--trials", "2", "--study", "s", "--json", *bounds)
    with pytest.raises(RefusedError) as refusal:
        run("pick")
    (record,) = read_records(Path("out/records.jsonl"))
    area = min(each["metrics"]["area_ge"] for each in record["trials"] if "metrics" in each)
    assert "none of 2 measured candidates keeps every constraint" in str(refusal.value)
    assert f"breaks area_ge<=1 by {area - 1:.1%} ({area:.6g})" in str(refusal.value)
    assert "tokens_per_s" not in str(refusal.value)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), FileError("no space left")])
def test_what_was_measured_before_a_search_ended_early_is_in_the_records(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()

    def failing(
        benchmark: Benchmark, names: Collection[str], candidate: Candidate
    ) -> dict[str, float]:
        if next(calls) == 2:
            raise failure
        return toy_measure(benchmark, names, candidate)

    with monkeypatch.context() as patch:
        patch.setattr(evolute.dse.objectives, "measure", failing)
        with pytest.raises((KeyboardInterrupt, click.Abort, FileError)):
            search = evolute.dse.commands.search.dse.commands["search"]
            search.main(["--trials", "3", "--study", "s"], standalone_mode=False)
    (early,) = read_records(Path("out/records.jsonl"))
    assert [each["state"] for each in early["trials"]].count("complete") == 2
    told = capsys.readouterr().err
    assert "measured so far: 2, in" in told and "--resume continues" in told
    run("--trials", "3", "--study", "s", "--resume", "--json")
    _, whole = read_records(Path("out/records.jsonl"))
    kept = [[t for t in each["trials"] if t["state"] == "complete"] for each in (early, whole)]
    assert len(kept[1]) == 3 and kept[0] == kept[1][:2]


def test_a_second_search_of_a_study_is_told_that_there_is_a_first() -> None:
    storage = Path("out/dse.db")
    with only_search(storage, "s"):
        assert open_storage(storage)  # which must not end the lock
        with pytest.raises(StudyError, match="being searched by another process"):
            run("--trials", "1", "--study", "s", "--resume")
        run("--trials", "1", "--study", "other", "--json")
    found = json.loads(run("--trials", "1", "--study", "s", "--resume", "--json").stdout)
    assert found["trials"] == 1


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
