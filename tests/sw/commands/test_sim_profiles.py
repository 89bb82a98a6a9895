"""`evolute sim --profile`: its record, what it refuses, and that docs/serving.md is true."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from evolute import front
from evolute.sim.workload.profiles import PROFILES
from evolute.support.errors import RefusedError
from tests.sw.commands.running import printed
from tests.sw.commands.test_sim_sizes import QWEN3

PAGE = (Path(front.__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
UNITS = "--set vector_lanes=4 --set attention_rows=4 --kv int8"


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, vocab in (("model", 256), ("other", 300)):
        Path(name).mkdir()
        settings = json.dumps(QWEN3 | {"vocab_size": vocab})
        (Path(name) / "config.json").write_text(settings)


def sim(arguments: str) -> str:
    return printed("sim", *shlex.split(arguments))


def record(arguments: str) -> dict[str, Any]:
    return json.loads(sim(f"{arguments} --json"))


@pytest.mark.parametrize(
    ("command", "shown"),
    re.findall(r"^```\nevolute sim (.*?)\n```\n.*?\n```\n(.*?)\n```", PAGE, re.M | re.S),
)
def test_the_page_shows_what_commands_print(command: str, shown: str) -> None:
    out = sim(command.replace("\\\n", " "))
    part = re.search(r"^profile .*?(?=\n\n)", out, re.M | re.S)
    assert part is not None
    assert [line.rstrip() for line in part[0].splitlines()] == shown.splitlines()


def test_the_page_shows_every_profile_and_its_keys() -> None:
    for name, profile in PROFILES.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*?)\|", PAGE, re.M)
        assert set(re.findall(r"`(\w+)`", row)) == {one.name for one in dataclasses.fields(profile)}
    assert len(re.findall(r"^profile ", PAGE, re.M)) == 5


def test_profiles_of_plain_serving_are_what_the_record_has_beside_them() -> None:
    for name, phase in (
        ("prefill", "prefill"),
        ("decode", "decode"),
        ("recursion:depths=1", "decode"),
    ):
        found = record(f"model --prefill 9 --decode 4 --batch 2 {UNITS} --profile {name}")
        profile, plain = found["profile"], found[phase]
        assert profile["seconds"] == plain["seconds"]
        assert profile["bytes"] == plain["dram_bytes"]
        assert profile["tokens"] == plain["tokens"]
        assert profile["tokens_per_s"] == plain["tokens_per_s"]
        assert profile["scope"] == plain["scope"] == "whole token"
        assert profile["energy_j"] is None
    assert record("model --prefill 2 --decode 1")["profile"] is None


def test_a_record_of_a_profile() -> None:
    text = "speculative:gamma=3,acceptance=0.5/0.4/0.3,draft=model"
    found = record(f"model --prefill 8 --decode 4 {UNITS} --profile {text}")["profile"]
    assert found["name"] == "speculative"
    assert found["parameters"]["acceptance"] == [0.5, 0.4, 0.3]
    assert found["label"] == "modelled"
    assert [stage["name"] for stage in found["stages"]] == ["guess", "verify"]
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["facts"]["tokens_per_pass"] == pytest.approx(1 + 0.5 + 0.2 + 0.06)
    assert found["solved"] is None
    alone = record("model --prefill 8 --decode 4 --profile decode")["profile"]
    assert alone["scope"] == "linear layers"
    assert "linear layers only" in sim("model --prefill 8 --decode 4 --profile decode")
    solved = record("model --prefill 8 --decode 4 --profile sampling:k=4,a=-1,b=-0.5")["profile"]
    assert solved["solved"]["seconds"] == pytest.approx(solved["seconds"] / 0.6065306597126334)
    assert solved["solved"]["energy_j"] is None


def test_a_measured_acceptance() -> None:
    base = "evolute-tiny --accel lut-decode --no-perplexity --prefill 8 --decode 4 --tokens 100"
    text = "--profile speculative:gamma=2,acceptance=measured,draft=evolute-tiny"
    assert record(f"{base} --weights w4g32 {text}")["profile"]["parameters"]["acceptance"] == [1]
    (other,) = record(f"{base} --weights w2g32 {text}")["profile"]["parameters"]["acceptance"]
    assert 0 < other < 1
    assert other * 100 == pytest.approx(round(other * 100), abs=1e-9)  # of 100 tokens


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("speculatve", "unknown profile 'speculatve'; did you mean speculative"),
        ("decode:x=1", "--profile decode: a key must be left out: it has no parameters, got 'x'"),
        ("prefill:chunks=1", "--profile prefill: a key must be one of chunk, got 'chunks'"),
        ("prefill:chunk", "--profile prefill: must be written KEY=VALUE,..., got 'chunk'"),
        ("prefill:chunk=x", "--profile prefill: chunk: must be a whole number, got 'x'"),
        ("prefill:chunk=1,chunk=2", "--profile prefill: chunk: must be given once, got 'chunk=2'"),
        ("prefill:chunk=0", "--profile prefill: chunk: must be at least 1, got 0"),
        ("sampling:shared=1", "--profile sampling: shared: must be yes or no, got '1'"),
        ("sampling:k=2,a=nan,b=-1", "--profile sampling: a: must be below 0, got nan"),
        ("speculative:gamma=2,acceptance=x", "acceptance: must be a number or measured, got 'x'"),
        ("speculative:gamma=2,acceptance=2,cost=0", "acceptance: must be in 0..1, or measured, "
         "got 2.0"),
        ("speculative:gamma=2,acceptance=.5,draft=nothing", "unknown model 'nothing'"),
        ("speculative:gamma=2,acceptance=.5,draft=other", "--profile speculative: draft: must be a "
         "model of the same 256 tokens, got 'other of 300'"),
        ("speculative:gamma=2,acceptance=measured,draft=model", "--profile speculative: "
         "acceptance: must be stated, since it is measured on weights of both models, got "
         "'measured; model"),
        ("search:step=100", "--profile search: depth and step: must be of at most 512 tokens with "
         "the prompt, the context of model, got 628"),
        ("search:checker=nothing,step=1", "unknown model 'nothing'"),
        ("recursion:depths=3", "--profile recursion: depths: must be a divisor of 2"),
        ("early-exit:after=2,leave=0.5", "--profile early-exit: after: must be below 2"),
    ],
)  # fmt: skip
def test_one_line_for_what_cannot_be(text: str, line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        sim(f"model --prefill 128 --decode 2 --profile {text}")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("out/records.jsonl").exists()


def test_samples_are_limited_by_the_memory() -> None:
    with pytest.raises(
        RefusedError, match="--profile sampling: memory: must be at least"
    ) as caught:
        sim("llama-3.2-1b --memory arty-a7 --decode 2 --prefill 2 --accel lut-decode "
            "--profile sampling:k=2")  # fmt: skip
    assert "for one sequence" in str(caught.value)
