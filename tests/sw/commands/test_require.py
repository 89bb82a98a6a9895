"""`evolute require`: lower bounds by hand, and cores that do what they are said to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evolute import front
from evolute.hw.spec.memories import MEMORIES
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.zoo import zoo_entry
from evolute.support import json_schema
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy import requirement
from evolute.sw.deploy.assignment import Assignment, assign
from evolute.sw.deploy.on_core import CoreModel, core_model
from evolute.sw.deploy.simulate import Request, simulate
from evolute.sw.tensors.weights import parse_weights
from tests.sw.commands.running import printed

SETTINGS = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def required(*arguments: object) -> dict[str, Any]:
    return json.loads(printed("require", *arguments, "--json"))


def folder() -> Path:
    path = Path("model")
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(SETTINGS))
    return path


ONE = ("--accel", "core-decode", "--memory", "kv260")


def test_bounds_by_hand() -> None:
    """Two blocks of 128 numbers: q 128, k and v 64, o 128 outputs; 256 of the feed-forward half.
    Weights have 4 bits and 16 for each group of 32, the head 8 and 16."""
    found = required(folder(), "--tokens-per-s", 100, "--context", 300, "--prefill", 20,
                     "--ttft-s", 0.5, "--weights", "w4g32", *ONE)  # fmt: skip
    weights = 2 * (128 * (128 + 64 + 64 + 128) + 3 * 128 * 256)
    head = 512 * 128
    weight_bytes = weights * (4 + 16 / 32) / 8 + head * (8 + 16 / 32) / 8
    token = 2 * 2 * 2 * (32 + 2)  # blocks; keys and values; heads; 32 codes and an FP16 scale
    embedding = 4 * 128
    # The token's own keys and values are written, and those of all before it and its own read.
    assert found["decode"]["bytes"] == weight_bytes + (301 + 1) * token + embedding
    attention = 2 * 4 * 301 * (32 + 32)
    assert found["decode"]["macs"] == weights + head + attention
    assert found["prefill"]["bytes"] == weight_bytes + (20 + 20) * token + 20 * embedding
    attention = 2 * 4 * (20 * 21 // 2) * (32 + 32)
    assert found["prefill"]["macs"] == 20 * weights + head + attention
    assert found["bandwidth_gbs"] == pytest.approx(100 * found["decode"]["bytes"] / 1e9)
    assert found["macs_per_cycle"] == pytest.approx(100 * found["decode"]["macs"] / 200e6)
    assert (found["bandwidth_from"], found["macs_from"]) == ("decode", "decode")
    assert found["buffer_bytes"] == -(-100 * found["decode"]["bytes"] * 60 // int(200e6))
    # In memory also a float for each output, and the embedding in float32.
    outputs = 2 * (128 + 64 + 64 + 128 + 256 + 256 + 128) + 512
    held = weight_bytes + 4 * outputs + 4 * 512 * 128 + 301 * token
    assert found["capacity_bytes"] == held


def test_a_prompt_that_may_take_no_time_decides() -> None:
    found = required(folder(), "--tokens-per-s", 1, "--ttft-s", 0.001, "--prefill", 64, *ONE)
    assert (found["bandwidth_from"], found["macs_from"]) == ("prefill", "prefill")
    assert found["macs_per_cycle"] == pytest.approx(found["prefill"]["macs"] / 0.001 / 200e6)


def test_more_is_met_by_fewer() -> None:
    last: dict[str, Any] | None = None
    pairs: set[tuple[str, str]] = set()
    sizes = []
    for speed in (10, 1000, 4000, 100_000_000):
        found = required(folder(), "--tokens-per-s", speed, "--context", 100)
        met = {(row["accelerator"], row["memory"]) for row in found["meets"]}
        everything = len(found["meets"]) + len(found["short"])
        assert everything == (len(CORES) - len({r["accelerator"] for r in found["refused"]})) * len(
            MEMORIES
        )
        if last is not None:
            assert met <= pairs
            for name in ("bandwidth_gbs", "macs_per_cycle", "buffer_bytes"):
                assert found[name] > last[name]
        last, pairs = found, met
        sizes.append(len(met))
        for row in found["meets"]:  # no lower bound is above what does it
            rate = MEMORIES[row["memory"]].bandwidth_bytes_per_s
            assert rate >= found["bandwidth_gbs"] * 1e9
    assert sizes[0] > sizes[-1] == 0
    assert last is not None
    text = printed("require", folder(), "--tokens-per-s", 100_000_000, "--context", 100)
    assert "None meets it; nearest are" in text and "bandwidth_gbs by" in text
    best = last["short"][0]
    assert best["short_of"][0]["factor"] == pytest.approx(1e8 / best["tokens_per_s"])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (None, ("--batch", 2)),
        (None, ("--kv", "int4", "--weights", "vptq-v8k256r256", "--head", "vptq-v8k256")),
        ("smollm2-135m", ("--weights", "w4g32")),
    ],
)
def test_what_is_said_to_meet_it_does_so_in_sim(model: str | None, options: Any) -> None:
    asked = (model or folder(), "--context", 100, "--prefill", 12, *options)
    speed, memories = 1, ("ulx3s", "arty-a7", "kv260")
    chosen = [part for name in memories for part in ("--memory", name)]
    if model:  # weights are read for each core
        chosen += ["--accel", "core-decode", "--accel", "core-prefill"]
    found = required(*asked, "--tokens-per-s", speed, "--ttft-s", 60, *chosen)
    assert found["meets"]
    kv = () if "--kv" in options else ("--kv", "int8")
    for row in found["meets"]:
        units = (f"vector_lanes={row['vector_lanes']}", f"attention_rows={row['attention_rows']}")
        said = [part for unit in units for part in ("--set", unit)]
        with_weights = ("--no-perplexity",) if model else ()
        simulated = json.loads(
            printed("sim", *asked, *kv, *with_weights, "--accel", row["accelerator"], *said,
                   "--memory", row["memory"], "--json")
        )  # fmt: skip
        assert simulated["decode"]["scope"] == simulated["prefill"]["scope"] == "whole token"
        assert simulated["decode"]["tokens_per_s"] == row["tokens_per_s"] >= speed
        assert simulated["prefill"]["seconds"] == row["ttft_s"] <= 60
        assert simulated["room"]["fits"] is row["fits"] is True
    assert {"arty-a7", "kv260"} <= {row["memory"] for row in found["meets"]}


def test_steps_that_depend_on_weights_are_a_bound_without_them() -> None:
    asked = (folder(), "--context", 20, "--prefill", 3, "--weights", "b4g112", "--head", "b4g112")
    cores = "--accel", "core-skip", "--accel", "core-bitmod"
    found = required(*asked, "--tokens-per-s", 1, *cores, "--memory", "kv260")
    json_schema.require(found)
    rows = {row["accelerator"]: row for row in found["meets"]}
    labels = {name: row["label"] for name, row in rows.items()}
    assert labels == {"core-skip": "bound", "core-bitmod": "modelled"}
    units = ("--set", "vector_lanes=4", "--set", "attention_rows=4", "--kv", "int8")
    simulated = json.loads(
        printed("sim", *asked, *units, "--accel", "core-skip", "--memory", "kv260", "--json")
    )
    assert simulated["labels"]["tokens_per_s"] == "bound"
    assert simulated["decode"]["tokens_per_s"] == rows["core-skip"]["tokens_per_s"]
    assert "bound" in printed("require", *asked, "--tokens-per-s", 1, *cores)


def test_steps_of_a_checkpoint_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    core, model, weights = CORES["core-skip"], zoo.load("evolute-tiny"), parse_weights("b4g112")
    assignment, measured = assign(model, weights, core), []

    def counted(assignment: Assignment) -> CoreModel:
        measured.append(assignment)
        return core_model(assignment)

    monkeypatch.setattr(requirement, "core_model", counted)
    candidate = requirement.model_candidate("core-skip", core, model, weights)
    for bandwidth in (1e9, 6.4e9):
        request = Request(Serving(4, 1), Platform(200e6, bandwidth))
        priced, wanted = candidate.price(request), simulate(assignment, request, None)
        assert priced.metrics == wanted.metrics and not priced.metrics.steps_are_bounds
    assert len(measured) == 1


def test_a_memory_too_small_is_short_by_how_much() -> None:
    found = required("llama-3.2-1b", "--tokens-per-s", 0.001, "--context", 16, "--prefill", 1,
                     "--accel", "core-decode", "--memory", "ulx3s")  # fmt: skip
    assert found["meets"] == []
    ((lack,),) = (row["short_of"] for row in found["short"])
    assert lack["what"] == "capacity_bytes" and lack["reached"] == 32 << 20
    assert lack["needed"] == found["capacity_bytes"] > zoo_entry("llama-3.2-1b").shape.params / 2
    assert lack["factor"] == pytest.approx(lack["needed"] / lack["reached"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--energy-per-token-j 0.1", "--energy-per-token-j: must be left out, since there are no"),
        ("--memory kv261", "unknown memory 'kv261'; did you mean kv260"),
        ("--accel core-decod", "unknown core 'core-decod'; did you mean core-decode"),
        ("--accel lut-decode", "--accel: must be a core, lut-decode is none"),
        ("--context 600", "--context: must be at most 512 tokens, the context of model, got 600"),
        ("--prefill 600", "--prefill: must be at most 512 tokens, the context of model, got 600"),
        ("--kv int9", "kv: must be one of float32"),
        ("--weights native", "weights: a model without weights takes w<1-8>"),
        ("--accel core-vq", "no core can be priced: core-vq: weights: must be one of short2"),
    ],
)
def test_one_line_for_what_cannot_be(arguments: str, line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        printed("require", folder(), "--tokens-per-s", 1, *arguments.split())
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "x"])
@pytest.mark.parametrize("option", ["--tokens-per-s", "--ttft-s"])
def test_rates_are_finite_and_above_0(option: str, value: str) -> None:
    other = () if option == "--tokens-per-s" else ("--tokens-per-s", "1")
    result = CliRunner().invoke(front.cli, ["require", str(folder()), *other, option, value])
    assert result.exit_code == 2
    assert "must be a number in" in result.output


def test_a_head_that_is_left_to_the_host_is_told() -> None:
    found = required("evolute-tiny", "--tokens-per-s", 1, *ONE)
    (why,) = (row for row in found["refused"] if row["memory"])
    assert why["reason"] == "leaves head to the host, whose speed is not known"


def test_units_that_take_no_wide_numbers_are_not_priced() -> None:
    found = required(folder(), "--tokens-per-s", 1, "--kv", "float32", *ONE)
    assert found["meets"] == found["short"] == []
    (why,) = (row for row in found["refused"] if row["memory"])
    assert "kv: must be at most 8 bits" in why["reason"]
