"""The dataclasses of records against what commands write, what readers take, and the page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner

from evolute.dse.metrics import Metric
from evolute.dse.study_record import of_study
from evolute.hw.spec import LutTensorCore
from evolute.hw.synthesis.asic import AsicResult
from evolute.hw.synthesis.synth import FpgaResult
from evolute.reports.commands.report import COMMITTED
from evolute.support import json_schema, schema
from evolute.support.files import provenance, read_records
from evolute.support.json_schema import SchemaError
from evolute.support.schema import KINDS
from evolute.sw.commands.quantize import quantize
from evolute.sw.commands.sim import sim
from evolute.sw.language_model.perplexity import MeasuredAccuracy
from evolute.verif.commands.mutants import _Campaign, _record
from evolute.verif.harness.verify import Report
from evolute.verif.mutation.netlist_faults import DESIGNS, Mutation, Outcome

RECORDS = [
    record
    for path in sorted(COMMITTED.glob("*.jsonl"))
    for record in read_records(path)
    if record["kind"] in KINDS
]


def test_every_committed_record_is_as_its_kind_says() -> None:
    assert {"accuracy", "mutants", "synth"} <= {record["kind"] for record in RECORDS}
    for record in RECORDS:
        json_schema.require(record)


def test_what_verify_writes_is_as_its_kind_says() -> None:
    report = Report(
        *("", LutTensorCore(), "verilator", 1, 2, 3, 4, 5, 6, ("one",), {"stalls": 1}, 0.5, 1.5)
    )
    json_schema.require(report.to_record(provenance("simulated", ("numpy",), 1)))


def test_what_mutants_writes_is_as_its_kind_says() -> None:
    campaign = _Campaign(count=2, seed=1, workers=1)
    for line, verdict in ((3, "killed"), (4, "survived")):
        mutation = Mutation(next(iter(DESIGNS)), "core/load.py", line, "-mode inv")
        campaign.outcomes[mutation] = Outcome(mutation, verdict, "a difference", 0.123)
    campaign.tried = 2
    record = json.loads(json.dumps(_record(campaign)))
    assert record["by_file"] == {
        "core/load.py": {"tried": 2, "killed": 1, "equivalent": 0, "survived": 1}
    }
    assert (record["killed_share"], record["complete"]) == (0.5, True)
    json_schema.require(record)


def test_what_quantize_prints_is_as_its_kind_says(tmp_path: Path) -> None:
    arguments = ["evolute-tiny", "--method", "rtn-w3g64", "-o", str(tmp_path / "w3"), "--json"]
    printed = CliRunner().invoke(quantize, arguments, catch_exceptions=False)
    record = json.loads(printed.stdout)
    json_schema.require(record)
    assert record["check"]["is_worse"] is None and record["calibration"] is None
    with pytest.raises(SchemaError, match=r"layers\[0\]\.bits: is missing"):
        cut = {name: value for name, value in record["layers"][0].items() if name != "bits"}
        json_schema.require(record | {"layers": [cut]})


def test_what_sim_writes_is_as_its_kind_says(tmp_path: Path) -> None:
    arguments = ["evolute-tiny", "--accel", "lut-decode", "--prefill", "4", "--decode", "2"]
    arguments += ["--tokens", "8", "--out", str(tmp_path), "--json"]
    printed = CliRunner().invoke(sim, arguments, catch_exceptions=False)
    (record,) = read_records(tmp_path / "records.jsonl")
    assert json.loads(printed.stdout) == record
    json_schema.require(record)
    assert set(record) == set(json_schema.of_kind("sim")["properties"])


def test_what_is_absent_is_not_written() -> None:
    refused = schema.Compared("engine", "too wide")
    assert schema.to_record(refused) == {"name": "engine", "refused": "too wide"}


def test_what_dse_writes_is_as_its_kind_says() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    texts = dict.fromkeys(("engine", "model", "text", "scope"), "x")
    objectives = ["area_ge", "tokens_per_s"]
    setup = {**texts, "tokens": 5, "context": 4, "seed": 1, "constraints": []}
    study.set_user_attr("setup", setup | {"objectives": objectives})
    done, refused = study.ask(), study.ask()
    candidate = {"spec": LutTensorCore().to_dict(), "digest": "d", "weights": "w4g32"}
    candidate |= {"frequency_hz": 2e8, "bandwidth_bytes_per_s": 6.4e9}
    done.set_user_attr("candidate", candidate)
    done.set_user_attr("metrics", dict(zip(objectives, (2.0, 3.0), strict=True)))
    study.tell(done, [2.0, 3.0])
    refused.set_user_attr("refused", "too large")
    study.tell(refused, state=optuna.trial.TrialState.PRUNED)
    record = json.loads(json.dumps(schema.to_record(of_study(study))))
    assert [each["state"] for each in record["trials"]] == ["complete", "pruned"]
    json_schema.require(record)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (schema.Synthesis, AsicResult),
        (schema.Synthesis, FpgaResult),
        (schema.Accuracy, MeasuredAccuracy),
        (schema.Objective, Metric),
    ],
)
def test_a_record_has_a_field_for_everything_that_is_written(kind: type, part: type) -> None:
    held = {field.name for field in dataclasses.fields(kind)}
    assert {field.name for field in dataclasses.fields(part)} <= held


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"perplexity": "low"}, "perplexity: must be a number, got 'low'"),
        ({"tokens": True}, "tokens: must be a whole number, got True"),
        ({"ppl": 1.0}, "ppl: is no field of Accuracy"),
        ({"provenance": {"how": "so"}}, "provenance.tools: is missing"),
        ({"host": "head"}, "host: must be a list, got 'head'"),
    ],
)
def test_what_is_wrong_is_named(changes: dict, complaint: str) -> None:
    record = next(each for each in RECORDS if each["kind"] == "accuracy")
    with pytest.raises(SchemaError) as refusal:
        json_schema.require(record | changes)
    assert str(refusal.value) == complaint


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "records.md"
    assert page.read_text(encoding="utf-8") == json_schema.page(), "run `make docs`"
    for kind, of in KINDS.items():
        listed = json_schema.of_kind(kind)["properties"]
        assert set(listed) == {"kind", *(field.name for field in dataclasses.fields(of))}
