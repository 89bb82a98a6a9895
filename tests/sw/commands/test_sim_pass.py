"""`evolute sim` of encoders and of networks of convolutions: one pass, by hand and by its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.support import json_schema
from evolute.support.errors import RefusedError
from evolute.sw.deploy.unweighted import network_workload, parse_format, shape_workload
from tests.sw.commands.running import printed

W4, CORE = parse_format("weights", "w4g32"), CORES["core-prefill"]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def sim(*arguments: object) -> str:
    return printed("sim", *arguments)


def record(*arguments: object) -> dict[str, Any]:
    found = json.loads(sim(*arguments, "--json"))
    json_schema.require(found)
    return found


def test_an_encoder_takes_the_cycles_of_its_layers_and_counts_the_rest() -> None:
    """BERT base: 12 blocks of 12 heads of 64 numbers, every token of 20 sees all 20."""
    found = record("bert-base", "--prefill", 20, "--accel", "core-prefill")
    shape = zoo_entry("bert-base").shape
    assert isinstance(shape, ModelShape)
    work = shape_workload(shape, W4, None, CORE, Pass(20, head_rows=0))
    alone = evaluate(CORE, work, Platform(), 20, 1).prefill
    assert found["phase"]["scope"] == "linear layers"
    assert found["phase"]["cycles"] == alone.cycles and found["labels"]["cycles"] == "exact"
    assert found["phase"]["macs"] == 20 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    (attention,) = (one for one in found["phase"]["operations"] if one["name"] == "attention")
    assert attention["macs"] == 12 * 12 * 20 * 20 * (64 + 64)
    assert "head" not in {one["name"] for one in found["phase"]["operations"]}
    assert found["room"]["cache_bytes"] == 0 and found["leaves_out"] is None


def test_an_encoder_on_a_core_with_units_is_whole() -> None:
    units = ("--set", "vector_lanes=4", "--set", "attention_rows=4", "--kv", "int8")
    arguments = "minilm-l6", "--prefill", 9, "--batch", 2, *units
    found = record(*arguments)
    assert found["phase"]["scope"] == "whole token" and found["phase"]["tokens"] == 18
    assert found["labels"]["seconds"] == "modelled"
    operations = found["phase"]["operations"]
    assert found["phase"]["seconds"] == pytest.approx(sum(one["seconds"] for one in operations))
    assert "2 sequences of 9 tokens" in sim(*arguments)


def test_a_network_takes_the_cycles_of_its_products() -> None:
    found = record("resnet-20", "--accel", "core-prefill", "--batch", 2)
    shape = zoo_entry("resnet-20").shape
    assert isinstance(shape, NetworkShape)
    work = network_workload(shape, W4, CORE, 2)
    assert work.macs() == 2 * shape.macs == found["phase"]["macs"]
    assert [linear.own_rows for linear in work.linears][:2] == [2 * 32 * 32] * 2
    assert found["phase"]["cycles"] == evaluate(CORE, work, Platform(), 1, 1).prefill.cycles
    assert found["phase"]["tokens"] == 2
    one = record("resnet-20", "--accel", "core-prefill")
    assert 1.5 < found["phase"]["cycles"] / one["phase"]["cycles"] < 2
    weights = sum(linear.total_bits for linear in work.linears)
    assert found["room"]["weights_bytes"] == -(-weights // 8)
    out = sim("resnet-20", "--accel", "lut-prefill", "--memory", "ulx3s")
    assert "not counted: normalization" in out and "which fits" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("minilm-l6 --prefill 513", "--prefill: must be at most 512 tokens, the context of mini"),
        ("minilm-l6 --decode 2", "--decode: not for an encoder, and minilm-l6 is one"),
        ("minilm-l6 --no-perplexity", "--perplexity: not for an encoder"),
        ("minilm-l6 --profile decode", "--profile: not for an encoder"),
        ("resnet-20 --prefill 2", "--prefill: not for a network of convolutions, and resnet-20"),
        ("resnet-20 --kv int8", "--kv: not for a network of convolutions"),
        ("resnet-20 --weights native", "weights: a model without weights takes w<1-8>"),
        ("resnet-20 --accel core-bitmod --weights w8", "weights: must be one of"),
    ],
)
def test_one_line_for_what_one_pass_has_no_use_for(arguments: str, line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        sim(*arguments.split())
    assert line in str(caught.value) and "\n" not in str(caught.value)
