"""The dataclasses of cost are the schema of what commands print and reports read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evolute import front
from evolute.hw.spec.platform import Platform
from evolute.reports.records import Record, check, labels
from evolute.sim.cost.metrics import LayerMetrics, PhaseMetrics
from evolute.support.files import FileError
from evolute.support.labels import MEANINGS, Kind, figures, labels_of, numbers, to_record


@pytest.fixture(scope="module", params=["core-decode", "lut-decode"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `evolute sim --json` prints of a small model."""
    out: Path = tmp_path_factory.mktemp("out")
    arguments = ["sim", "evolute-tiny", "--accel", request.param, "--prefill", "4", "--decode", "2"]
    result = CliRunner().invoke(
        front.cli, [*arguments, "--tokens", "8", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def kind_of(run: dict[str, Any]) -> Kind:
    return "core" if run["accelerator"].startswith("core") else "engine"


def shown(schema: type, kind: Kind) -> list[str]:
    """The names of a schema's fields, in order, but those that are absent for a kind."""
    absent = {name for name, label in labels_of(schema, kind).items() if label == "absent"}
    return [each.name for each in dataclasses.fields(schema) if each.name not in absent]


def test_what_is_printed_are_the_fields_of_the_dataclasses(run: dict[str, Any]) -> None:
    kind = kind_of(run)
    memory = ["memory"] if kind == "core" else []
    assert list(run["platform"]) == shown(Platform, kind) + memory
    for phase in ("prefill", "decode"):
        assert list(run[phase]) == shown(PhaseMetrics, kind)
        for layer in run[phase]["layers"]:
            assert list(layer) == shown(LayerMetrics, kind)


def test_every_figure_has_a_label_that_means_something(run: dict[str, Any]) -> None:
    kind = kind_of(run)
    assert run["labels"] == labels_of(PhaseMetrics, kind) | {"perplexity": "measured"}
    assert labels(Record("here", run)) == run["labels"]
    for schema in (PhaseMetrics, LayerMetrics):
        held = {each.name for each in dataclasses.fields(schema)}
        assert held - set(figures(schema)) <= {"name", "weights", "layers", "scope", "operations"}
        assert set(labels_of(schema, kind).values()) <= {*MEANINGS, "absent"}


def test_reports_miss_every_number_that_a_record_must_have(run: dict[str, Any]) -> None:
    kind = kind_of(run)
    check(Record("here", run))
    for name in numbers(PhaseMetrics, kind, optional=False):
        changed = {**run, "decode": {**run["decode"], name: "fast"}}
        with pytest.raises(FileError, match=f"decode.{name} must be a number"):
            check(Record("here", changed))
    for name in numbers(LayerMetrics, kind, optional=False):
        first, *others = run["decode"]["layers"]
        cut = {key: value for key, value in first.items() if key != name}
        changed = {**run, "decode": {**run["decode"], "layers": [cut, *others]}}
        with pytest.raises(FileError, match=f"record without {name}"):
            check(Record("here", changed))
    for name in numbers(PhaseMetrics, kind, optional=True):  # records of earlier versions
        cut = {key: value for key, value in run["decode"].items() if key != name}
        check(Record("here", {**run, "decode": cut}))


def test_a_bound_is_said_of_what_follows_from_steps_and_of_nothing_else() -> None:
    known, bound = (labels_of(PhaseMetrics, "core", is_bound=each) for each in (False, True))
    changed = {name for name in known if known[name] != bound[name]}
    assert {bound[name] for name in changed} == {"bound"}
    assert "cycles" in changed and not changed & {"tokens", "macs", "mac_share", "dram_bytes"}


def test_a_platform_is_recorded_as_far_as_it_concerns_the_accelerator() -> None:
    platform = Platform(1e6, 2e6, 3, 4, True)
    common = {"frequency_hz": 1e6, "bandwidth_bytes_per_s": 2e6}
    assert to_record(platform, "engine") == common | {"weight_buffer_bytes": 3}
    assert to_record(platform, "core") == common | {"latency_cycles": 4, "refresh": True}
