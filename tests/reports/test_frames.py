"""Records as tables, and the files of tables that `evolute report` writes."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pandas
import pytest
from click.testing import CliRunner

from evolute.front import cli
from evolute.reports import frames
from evolute.reports.commands.report import COMMITTED
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import read_records

FILES = sorted(COMMITTED.glob("*.jsonl"))
OBJECTIVES = [
    {"name": name, "title": name, "direction": "minimize", "unit": "", "how": "synthesized"}
    for name in ("area_ge", "delay_ns")
]
STUDY = {
    "kind": "dse",
    "study": "s",
    "model": "toy",
    "constraints": [],
    "front": [0],
    "hypervolume": 0.0,
    "objectives": OBJECTIVES,
    "trials": [
        {
            "number": 0,
            "state": "complete",
            "feasible": True,
            "weights": "w4g32",
            "metrics": {"area_ge": 5.5, "delay_ns": 2.0, "clock_mhz": 200.0},
            "spec": {"m": 1, "n": 8, "k": 4},
        },
        {"number": 1, "state": "pruned", "refused": "too large, by far"},
    ],
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(STUDY) + "\n")
    return path


def test_every_committed_record_is_a_row_and_keeps_its_facts() -> None:
    table = frames.records(FILES, "accuracy")
    written = [each for path in FILES for each in read_records(path) if each["kind"] == "accuracy"]
    assert len(table) == len(written) > 50
    for (_, row), record in zip(table.iterrows(), written, strict=True):
        assert row["perplexity"] == record["perplexity"]
        assert row["provenance.revision"] == record["provenance"]["revision"]
        assert record.get("kl") is not None or pandas.isna(row["kl"])


def test_trials_of_a_study_are_rows(study: Path) -> None:
    table = frames.records([study])
    assert list(table["number"]) == [0, 1] and set(table["study"]) == {"s"}
    assert table["metrics.area_ge"][0] == 5.5 and pandas.isna(table["metrics.area_ge"][1])
    assert table["origin"][0] == f"{study}:1"
    with pytest.raises(UnknownNameError, match="kind of record"):
        frames.records([study], "sim")


def test_tables_are_written_and_read_back(study: Path, tmp_path: Path) -> None:
    names = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "parquet")}
    options = [word for kind, path in names.items() for word in (f"--{kind}", str(path))]
    command = ["report", "--records", str(study), "-o", str(tmp_path), "--json", *options]
    document = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert document["tables"] == [str(path) for path in names.values()]
    rows = list(csv.DictReader(io.StringIO(names["csv"].read_text())))
    assert [row["refused"] for row in rows] == ["", "too large, by far"]
    assert json.loads(rows[0]["objectives"]) == OBJECTIVES
    read = pandas.read_parquet(names["parquet"])
    assert list(read.columns) == list(rows[0]) and list(read["number"]) == [0, 1]
    assert read["metrics.area_ge"][0] == 5.5


def test_without_pyarrow_one_line_says_what_to_install(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else find(name)
    )
    report = cli.get_command(click.Context(cli), "report")
    assert report is not None
    with pytest.raises(RefusedError, match=r"^--parquet: needs PyArrow; pip install evolute"):
        report.main(
            ["--records", str(study), "--parquet", str(tmp_path / "t.parquet")],
            standalone_mode=False,
        )
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["dse", "--help"]])
def test_help_waits_for_neither_pandas_nor_scipy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom evolute.front import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('pandas', 'scipy', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0
