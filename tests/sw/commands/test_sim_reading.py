"""What `evolute sim` adds on demand: what would help, and a timeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolute.support.errors import RefusedError
from tests.sw.commands.test_sim_sizes import UNITS, sim

MODEL = ("smollm2-135m", "--weights", "w4g32", "--no-perplexity")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def decoded(*arguments: object) -> float:
    return json.loads(sim(*arguments, "--json"))["decode"]["tokens_per_s"]


@pytest.mark.parametrize("model", [MODEL, ("llama-3.2-1b",)])
def test_what_would_help_is_what_sim_says_of_more(model: tuple[str, ...]) -> None:
    asked = (*model, "--context", 256, "--prefill", 4, "--kv", "int8", "--bandwidth-gbs", 4)
    units = ("--set", "vector_lanes=4", "--set", "attention_rows=4")
    record = json.loads(sim(*asked, *units, "--what-would-help", "--json"))
    gains = {one["resource"]: one for one in record["what_would_help"]}
    more = {
        "bandwidth": (*asked[:-1], 5, *units),
        "clock": (*asked, *units, "--frequency-mhz", 250),
        "vector_lanes": (*asked, "--set", "vector_lanes=8", "--set", "attention_rows=4"),
        "attention_rows": (*asked, "--set", "vector_lanes=4", "--set", "attention_rows=8"),
        "weight_buffer": (*asked, *units, "--set", "weight_buffer_bytes=131072"),
    }
    assert gains.keys() == more.keys()
    before = record["decode"]["tokens_per_s"]
    for resource, arguments in more.items():
        assert gains[resource]["tokens_per_s"] == decoded(*arguments), resource
        assert gains[resource]["gain"] == gains[resource]["tokens_per_s"] / before - 1
    assert gains["bandwidth"]["gain"] > 0.1
    assert "what would help decoding" in sim(*asked, *units, "--what-would-help")


def test_what_is_not_there_cannot_be_more() -> None:
    record = json.loads(sim(*MODEL, "--prefill", 2, "--decode", 1, "--what-would-help", "--json"))
    gains = {one["resource"]: one for one in record["what_would_help"]}
    for name in ("vector_lanes", "attention_rows"):
        assert (gains[name]["gain"], gains[name]["why_not"]) == (None, "there are none")
    assert gains["clock"]["gain"] is not None
    engine = json.loads(
        sim(*MODEL, "--prefill", 2, "--decode", 1, "--accel", "lut-decode",
            "--weight-buffer-kib", 0, "--what-would-help", "--json")
    )  # fmt: skip
    gains = {one["resource"]: one for one in engine["what_would_help"]}
    assert gains["weight_buffer"]["why_not"] == "there is none"
    assert gains["bandwidth"]["gain"] > 0
    lanes = json.loads(sim(*MODEL, "--prefill", 2, "--decode", 1, "--set", "vector_lanes=8",
                           "--what-would-help", "--json"))  # fmt: skip
    (most,) = (one for one in lanes["what_would_help"] if one["resource"] == "vector_lanes")
    assert most["gain"] is None and "vector_lanes: must be 0, 1, 2, 4 or 8" in most["why_not"]


def test_a_trace_ends_with_the_tokens_cycles() -> None:
    record = json.loads(sim(*MODEL, "--context", 100, "--prefill", 2, *UNITS, "--trace",
                            "token.json", "--json"))  # fmt: skip
    assert record["what_would_help"] is None
    document = json.loads(Path("token.json").read_text())
    events = [one for one in document["traceEvents"] if one["ph"] == "X"]
    assert max(one["args"]["end_cycle"] for one in events) == record["decode"]["cycles"]
    assert {one["name"] for one in events} >= {"0.q", "29.down", "head", "0.attention"}


def test_an_engine_alone_has_no_trace() -> None:
    with pytest.raises(RefusedError, match="--trace: must be of a core, lut-decode is an engine"):
        sim("evolute-tiny", "--accel", "lut-decode", "--trace", "token.json")
    assert not Path("token.json").exists()
