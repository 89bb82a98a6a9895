"""`evolute sim` of models by their sizes: what it takes, prints and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evolute import front
from evolute.hw.spec.memories import MEMORIES
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.commands.sim import _stretched
from evolute.sw.language_model.model import ModelConfig
from tests.sw.commands.running import printed

QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
UNITS = ("--set", "vector_lanes=4", "--set", "attention_rows=4", "--kv", "int8")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def sim(*arguments: object) -> Any:
    return printed("sim", *arguments)


def folder(**changes: object) -> Path:
    path = Path("model")
    path.mkdir(exist_ok=True)
    settings = {name: value for name, value in (QWEN3 | changes).items() if value is not None}
    (path / "config.json").write_text(json.dumps(settings))
    return path


def test_a_folder_with_nothing_but_a_configuration() -> None:
    for given in (folder(), folder() / "config.json"):
        record = json.loads(sim(given, "--json"))
        assert (record["model"], record["perplexity"], record["bits_total"]) == (
            "model",
            None,
            None,
        )
        assert record["decode"]["scope"] == "linear layers"
        linear = [one for one in record["decode"]["operations"] if one["kind"] == "matmul"]
        config = ModelConfig(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=128,
                             vocab=256, context=512, rope_theta=1e4, norm_eps=1e-6,
                             rope_pairs="halves")  # fmt: skip
        macs = 2 * sum(n * k for n, k in config.layer_linears().values()) + 256 * 64
        assert sum(one["macs"] for one in linear) == 32 * macs


def test_whole_tokens_at_contexts_and_in_batches() -> None:
    record = json.loads(sim("smollm2-135m", "--weights", "w4g32", "--no-perplexity",
                            "--context", "64,4096", *UNITS, "--json"))  # fmt: skip
    assert record["decode"]["scope"] == "whole token"
    assert [point["context"] for point in record["curve"]] == [64, 4096]
    first, last = record["curve"]
    assert first["tokens_per_s"] > last["tokens_per_s"]
    assert record["decode"]["tokens_per_s"] == first["tokens_per_s"]
    assert record["labels"]["tokens_per_s"] == "modelled"
    assert record["serving"]["kv_bytes_per_token"] == 30 * 6 * 66
    out = sim("llama-3.2-1b", "--prefill", 2, "--context", 128, "--batch", 2, *UNITS)
    assert "2 sequences at once" in out and "tokens/s, whole token" in out
    assert "no weights were read" in out
    # The pages of a report take all of these.
    result = CliRunner().invoke(front.cli, ["report"])
    assert result.exit_code == 0, result.output


def test_what_tokens_per_second_count_is_in_their_name() -> None:
    plain = sim(folder(), "--prefill", 2, "--decode", 1)
    assert re.search(r"^tokens/s, linear layers", plain, re.M)
    assert "--host-gmacs" in plain
    timed = sim(folder(), "--prefill", 2, "--decode", 1, "--host-gmacs", 1, "--host-gbs", 1)
    assert re.search(r"^tokens/s, whole token", timed, re.M)
    left = sim(folder(), "--prefill", 2, "--decode", 1, "--head", "host")
    assert left.splitlines()[1].startswith("WITHOUT head, left to the host")


def test_a_memory_by_name_says_whether_all_fits() -> None:
    found = json.loads(sim("llama-3.2-1b", "--memory", "ulx3s", "--prefill", 1, "--decode", 1,
                           "--accel", "lut-decode", "--json"))  # fmt: skip
    assert found["platform"]["bandwidth_bytes_per_s"] == 286e6
    assert found["room"]["fits"] is False
    assert found["room"]["total_bytes"] == sum(
        found["room"][f"{name}_bytes"] for name in ("weights", "embedding", "cache")
    )
    assert "DOES NOT FIT" in sim("llama-3.2-1b", "--memory", "ulx3s", "--accel", "lut-decode")
    assert ", which fits" in sim(folder(), "--memory", "kv260", "--accel", "lut-decode")


def test_joules_of_a_memory_are_only_told_where_a_source_states_them() -> None:
    arguments = folder(), "--prefill", 3, "--decode", 2, "--accel", "lut-decode", "--memory"
    known, unknown = (
        json.loads(sim(*arguments, name, "--json")) for name in ("u280-hbm2", "kv260")
    )
    energy, bits = known["dram_energy"], 8 * known["decode"]["dram_bytes"]
    assert energy["label"] == "modelled" and energy["scope"] == "linear layers"
    assert "HBM2" in energy["source"]
    assert energy["decode_j"] == pytest.approx(bits * 3.97e-12)
    assert energy["decode_j_per_token"] == pytest.approx(energy["decode_j"] / 2)
    assert energy["prefill_j"] == pytest.approx(8 * known["prefill"]["dram_bytes"] * 3.97e-12)
    assert unknown["dram_energy"] is None and unknown["memory"]["energy_pj_per_bit"] is None
    assert "no source states it for kv260" in sim(*arguments, "kv260")
    for memory in MEMORIES.values():  # a figure always comes with who states it
        assert (memory.energy_pj_per_bit is None) == (memory.energy_source is None)


def test_experts_in_flash_need_less_memory_and_more_time() -> None:
    """A prompt visits more experts than a token: of the others decoding has no cycles."""
    arguments = "smallthinker-4b", "--prefill", 8, "--context", 64, *UNITS
    whole = json.loads(sim(*arguments, "--json"))
    part = json.loads(sim(*arguments, "--expert-slots", 8, "--flash-gbs", 2, "--json"))
    assert whole["experts"] is None
    found = part["experts"]
    assert (found["slots_per_layer"], found["label"]) == (8, "modelled")
    flash = 0.75 * (whole["room"]["weights_bytes"] - part["room"]["weights_bytes"]) / 6
    assert found["flash_bytes_per_token"] == pytest.approx(flash, rel=1e-6)
    assert found["flash_seconds_per_token"] == pytest.approx(flash / 2e9)
    slower = part["decode"]["seconds"] - whole["decode"]["seconds"]
    assert slower == pytest.approx(flash / 2e9, rel=1e-6)
    unvisited = [layer for layer in whole["layers"] if layer["decode_cycles"] is None]
    assert {layer["name"].partition("/")[0] for layer in unvisited} == {"gate", "up", "down"}
    assert "8 of each layer" in sim(*arguments, "--expert-slots", 8, "--flash-gbs", 2)


def test_idle_rows_are_counted_and_shorten_nothing() -> None:
    arguments = "opt-125m", "--prefill", 2, "--decode", 3
    plain = json.loads(sim(*arguments, "--json"))
    found = json.loads(sim(*arguments, "--idle-rows", 0.5, "--json"))
    idle = found["idle_rows"]
    assert plain["idle_rows"] is None and found["decode"] == plain["decode"]
    assert idle["decode"]["spared_macs"] == 3 * 12 * 768 * 3072 / 2
    assert idle["prefill"]["spared_macs"] == 2 * 12 * 768 * 3072 / 2
    left = plain["decode"]["dram_bytes"] - idle["decode"]["spared_bytes"]
    assert idle["decode"]["needed_bytes"] == left
    assert idle["decode"]["needed_memory_seconds"] == pytest.approx(left / 6.4e9)
    assert "not shortened" in sim(*arguments, "--idle-rows", 0.5)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--memory kv260 --bandwidth-gbs 2", "--memory and --bandwidth-gbs: only one of them"),
        ("--memory kv261", "unknown memory 'kv261'; did you mean kv260"),
        ("--host-gmacs 2", "--host-gmacs and --host-gbs: only together"),
        ("--expert-slots 2", "--expert-slots and --flash-gbs: only together"),
        ("--idle-rows 0.5", "idle_rows: must be of a model whose feed-forward halves"),
        ("--context 4 --decode 2", "--decode: only without --context"),
        ("--context 513", "--context: must be at most 512 tokens, the context of model, got 513"),
        ("--prefill 600", "--prefill: must be at most 512 tokens, the context of model, got 600"),
        ("--prefill 500 --decode 13", "--prefill and --decode together: must be at most 512"),
        ("--perplexity", "--perplexity: model has no weights to measure it with"),
        ("--window 8", "--window: only with weights, which model has not"),
        ("--text x", "--text: only with weights"),
        ("--weights native", "weights: a model without weights takes w<1-8>"),
        ("--kv int9", "kv: must be one of float32"),
        ("--set vector_lanes=4 --set attention_rows=2", "kv: must be at most 8 bits"),
        ("--accel core-bitmod --weights w8", "weights: "),
    ],
)  # fmt: skip
def test_one_line_for_what_cannot_be(arguments: str, line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        sim(folder(), *arguments.split())
    assert line in str(caught.value) or line == "weights: "
    assert "\n" not in str(caught.value)
    assert not Path("out/records.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden_size": None}, "has no hidden_size"),
        ({"model_type": "mamba2"}, "model_type must be one of llama"),
        ({"num_key_value_heads": 3}, "kv_heads must divide heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be below"),
        ({"rope_thetta": 1}, "rope_thetta"),
    ],
)
def test_a_configuration_that_is_none(changes: dict[str, object], line: str) -> None:
    with pytest.raises(RefusedError, match=line):
        sim(folder(**changes))


def test_models_without_weights_are_told_from_unknown_ones() -> None:
    with pytest.raises(RefusedError, match="is known by its sizes alone"):
        CliRunner().invoke(front.cli, ["eval", "llama-3.2-1b"], catch_exceptions=False)
    with pytest.raises(RefusedError, match=r"unknown model 'llama-3.2-1'; did you mean"):
        sim("llama-3.2-1")
    asked = ["require", "bert-base", "--tokens-per-s", "1"]
    with pytest.raises(RefusedError, match="is an encoder, which decodes no tokens"):
        CliRunner().invoke(front.cli, asked, catch_exceptions=False)
    with pytest.raises(RefusedError, match="--head: only for a model without weights"):
        sim("evolute-tiny", "--head", "w8")


def test_more_context_than_a_model_has_is_asked_for_by_name() -> None:
    out = sim(folder(), "--context", 100_000, "--extend-context", "--prefill", 1)
    assert "its accuracy there is unknown" in out
    assert "its accuracy there is unknown" not in sim(folder(), "--extend-context")


def test_how_far_long_factors_reach_is_told_where_a_configuration_states_them() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    changes = {
        "model_type": "phi3",
        "hidden_size": 64,
        "original_max_position_embeddings": 128,
        "rope_scaling": rope,
    }
    beyond = "--context", 400, "--extend-context", "--prefill", 1
    found = json.loads(sim(folder(**changes), *beyond, "--json"))
    assert (found["extended_context"], found["long_factors_reach"]) == (True, 512)
    assert "turn positions up to 512 tokens" in sim(folder(**changes), *beyond)
    assert "no long factors are stated" in sim(folder(), "--context", 600, *beyond[2:])
    short = folder(**changes | {"rope_scaling": rope | {"long_factor": [4.0] * 3}})
    assert json.loads(sim(short, *beyond, "--json"))["long_factors_reach"] is None


def test_a_window_beyond_the_first_context_takes_long_factors() -> None:
    model = zoo.load("evolute-tiny")
    beyond = replace(model.config, context=4096, rope_factors=(2.0,) * (model.config.head_dim // 2))
    assert _stretched(model, beyond, 4096).config == beyond
    with pytest.raises(RefusedError, match="--window: must be at most 4,096 tokens, as far as"):
        _stretched(model, beyond, 4097)
    own = model.config.context
    with pytest.raises(RefusedError, match=f"--window: must be at most {own:,} tokens, the conte"):
        sim("evolute-tiny", "--extend-context", "--window", own + 1)


def test_both_schedules_of_a_latent_cache_are_told() -> None:
    record = json.loads(sim("plm-1.8b", "--prefill", 1, "--context", 1000, "--json"))
    expand, absorb = record["latent_schedules"]
    assert (expand["schedule"], absorb["schedule"]) == ("expand", "absorb")
    assert expand["macs"] > absorb["macs"] and expand["read_bytes"] == absorb["read_bytes"]
    (attention,) = (one for one in record["decode"]["operations"] if one["kind"] == "attention")
    assert attention["macs"] == absorb["macs"]
    assert "latent attention of a token" in sim("plm-1.8b", "--prefill", 1, "--context", 1000)
    assert json.loads(sim(folder(), "--json"))["latent_schedules"] is None
