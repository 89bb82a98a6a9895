"""`--prune`: its record, what it refuses, and that docs/sparsity.md is true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evolute import front
from evolute.support import json_schema
from tests.sw.commands.running import printed

PAGE = (Path(front.__file__).parents[1] / "docs" / "sparsity.md").read_text(encoding="utf-8")
TINY = "sim evolute-tiny --accel core-fpga --tokens 40 --prefill 3 --decode 2"


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def evolute(arguments: str) -> str:
    return printed(*shlex.split(arguments))


def record(arguments: str) -> dict[str, Any]:
    return json.loads(evolute(f"{arguments} --json"))


def refusal(arguments: str) -> str:
    result = CliRunner().invoke(front.cli, shlex.split(arguments))
    assert result.exception is not None and not isinstance(result.exception, SystemExit)
    return str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    re.findall(r"^```\nevolute (.*?)\n```\n.*?\n```\n(.*?)\n```", PAGE, re.M | re.S),
)
def test_the_page_shows_what_commands_print(arguments: str, shown: str) -> None:
    found = [line.rstrip() for line in evolute(arguments.replace("\\\n", " ")).splitlines()]
    for line in shown.splitlines():
        assert line == "..." or line in found


def test_the_page_shows_every_kind() -> None:
    shown = re.findall(r"--prune (\S+)", PAGE)
    assert {"tile-group", "group", "2", "hidden", "tokens"} <= {
        text.partition(":")[0] for text in shown
    }


def test_the_table_of_blocks_is_what_the_models_say() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.M)
    assert len(rows) == 4
    for inputs, decode, prefill, index in rows:
        asked = f"sim llama-3.2-1b --context 1024 --prune tile-group:0.5/{inputs}"
        found = record(asked)
        assert f"{found['decode']['cycles']:,}" == decode
        assert f"{found['prefill']['cycles']:,}" == prefill
        assert f"{found['pruning']['index_bytes']:,}" == index


def test_a_record_of_blocks_left_out() -> None:
    dense = record(f"{TINY} --no-perplexity")
    found = record(f"{TINY} --prune tile-group:0.5/32")
    assert dense["pruning"] is None
    pruning = found["pruning"]
    assert (pruning["time"], pruning["basis"]) == ("skipped", "weights")
    assert pruning["weights"] == pruning["dense_macs_per_token"] == dense["decode"]["macs"] / 2
    assert pruning["macs_per_token"] == pruning["kept_weights"] == found["decode"]["macs"] / 2
    assert pruning["index_bytes"] == -(-(4 * (4 * (16 + 8 + 8 + 16 + 80) + 16 * 10)) // 8)
    for phase in ("prefill", "decode"):
        assert found[phase]["cycles"] < dense[phase]["cycles"]
        assert found[phase]["dram_bytes"] < dense[phase]["dram_bytes"]
    assert found["room"]["weights_bytes"] < dense["room"]["weights_bytes"]
    assert found["bits_held"] < dense["bits_held"]
    assert found["method"].endswith("then pruned: tile-group:0.5/32")
    assert found["perplexity"]["tables_equal"] is True
    assert found["perplexity"]["quantized"] > found["perplexity"]["float"]
    json_schema.require(found)


def test_a_share_of_nothing_changes_nothing_but_the_cut() -> None:
    dense = record(TINY)
    found = record(f"{TINY} --prune tile-group:0/32")
    assert found["perplexity"] == dense["perplexity"]
    assert found["room"] == dense["room"]
    assert found["pruning"]["kept_weights"] == found["pruning"]["weights"]


def test_steps_of_weights_are_those_of_kept_blocks() -> None:
    """On a core that skips steps, too: of those it takes as large a share is for weights that there
    are, rows of tiles and padding aside, with blocks left out as without."""
    asked = "sim evolute-tiny --accel core-skip --weights b3g32 --no-perplexity --prefill 1"
    dense, found = record(asked), record(f"{asked} --prune tile-group:0.5/32")
    shares = [
        one["decode"]["utilization"] / one["decode"]["engine_utilization"] for one in (dense, found)
    ]
    assert shares[0] == pytest.approx(shares[1])
    steps = [
        one["decode"]["engine_utilization"] * one["decode"]["cycles"] for one in (dense, found)
    ]
    assert 0.4 * steps[0] < steps[1] < 0.7 * steps[0]


def test_lists_without_weights_say_so() -> None:
    found = record("sim llama-3.2-1b --context 64 --prune tile-group:0.25/128")
    assert found["pruning"]["basis"] == "sizes"
    assert found["pruning"]["kept_weights"] == 0.75 * found["pruning"]["weights"]
    out = evolute("sim llama-3.2-1b --context 64 --prune tile-group:0.25/128")
    assert "here spread evenly: no weights were read" in out


def test_an_image_without_blocks_of_zeros(tmp_path: Path) -> None:
    sizes = []
    for share in ("0", "0.5"):
        folder = tmp_path / share
        asked = f"compile evolute-tiny --accel core-fpga --prune tile-group:{share}/32 -o {folder}"
        assert record(asked)["pruned"] == f"tile-group:{share}/32"
        sizes.append((folder / "image.bin").stat().st_size)
    assert sizes[0] - sizes[1] > 150_000  # of 396,800 bytes of weights


@pytest.mark.parametrize("pattern", ["2:4", "group:0.5/16"])
@pytest.mark.parametrize("accel", ["core-fpga", "lut-decode"])
def test_what_no_engine_decodes_takes_as_long_as_dense_weights(pattern: str, accel: str) -> None:
    asked = f"sim evolute-tiny --accel {accel} --tokens 40 --prefill 3 --decode 2"
    dense, found = record(asked), record(f"{asked} --prune {pattern}")
    for phase in ("prefill", "decode", "room", "bits_held", "labels"):
        assert found[phase] == dense[phase]
    pruning = found["pruning"]
    assert (pruning["time"], pruning["basis"]) == ("dense", "weights")
    assert pruning["kept_weights"] == pruning["weights"] / 2 == pruning["macs_per_token"]
    assert found["perplexity"]["quantized"] > dense["perplexity"]["quantized"]
    json_schema.require(found)
    alone = record(f"{asked} --no-perplexity --prune {pattern}")
    assert alone["pruning"] == pruning


def test_a_pruned_size_is_a_model_of_that_size() -> None:
    """Minitron-4B is Minitron-8B pruned, as its authors did it."""
    asked = "--context 512 --kv int8 --set vector_lanes=4 --set attention_rows=4"
    found = record(f"sim minitron-8b --prune hidden:0.25,heads:24,ffn:9216 {asked}")
    published = record(f"sim minitron-4b {asked}")
    for phase in ("prefill", "decode", "room", "serving", "labels"):
        assert found[phase] == published[phase]
    pruned = found["pruned_sizes"]
    assert published["pruned_sizes"] is None
    assert pruned["pattern"] == "heads:24,ffn:9216,hidden:0.25"
    assert pruned["sizes"] == {"heads": [48, 24], "ffn": [16384, 9216], "hidden": [4096, 3072]}
    assert (pruned["params"], pruned["dense_params"]) == (4_190_509_056, 8_271_699_968)
    json_schema.require(found)


def test_sizes_and_zeros_go_together() -> None:
    found = record("sim llama-3.2-1b --context 64 --prune layers:0.25,tile-group:0.5/128")
    assert found["pruned_sizes"]["sizes"] == {"layers": [16, 12]}
    assert found["pruning"]["kept_weights"] == found["pruning"]["weights"] / 2
    assert sum(layer["count"] for layer in found["layers"] if layer["name"] == "down") == 12


@pytest.mark.parametrize("accel", ["core-decode", "lut-decode"])
def test_layers_take_what_they_take_for_fewer_tokens(accel: str) -> None:
    """Of 16 equal blocks 4 see all tokens of the prompt, and 12 a quarter of them."""
    asked = f"sim llama-3.2-1b --accel {accel} --decode 2 --prefill"
    whole, short = record(f"{asked} 64"), record(f"{asked} 16")
    found = record(f"{asked} 64 --prune tokens:0.75@4")
    for figure in ("cycles", "dram_bytes", "macs"):
        wanted = (4 * whole["prefill"][figure] + 12 * short["prefill"][figure]) / 16
        assert found["prefill"][figure] == wanted
    assert found["decode"]["cycles"] == whole["decode"]["cycles"]
    pruned = found["pruned_tokens"]
    assert pruned["pattern"] == "tokens:0.75@4"
    assert pruned["prompt_tokens"] == pruned["cached_tokens"] == [64] * 4 + [16] * 12
    assert whole["pruned_tokens"] is None
    json_schema.require(found)


def test_with_a_context_all_that_is_in_the_cache_is_pruned() -> None:
    units = "--kv int8 --set vector_lanes=4 --set attention_rows=4"
    asked = f"sim llama-3.2-1b {units} --context 1000"
    whole, found = record(asked), record(f"{asked} --prune tokens:0.5@8")
    assert found["pruned_tokens"]["cached_tokens"] == [1000] * 8 + [500] * 8
    cache = [
        sum(one["macs"] for one in run["decode"]["operations"] if one["kind"] == "attention")
        for run in (whole, found)
    ]
    assert cache[1] / cache[0] == (8 * 1001 + 8 * 501) / (16 * 1001)
    assert found["room"]["cache_bytes"] < 0.76 * whole["room"]["cache_bytes"]
    assert found["decode"]["seconds"] < whole["decode"]["seconds"]


def test_no_tokens_gone_is_the_same() -> None:
    asked = "sim llama-3.2-1b --prefill 16 --decode 2"
    whole, found = record(asked), record(f"{asked} --prune tokens:0@1")
    for figure in ("prefill", "decode", "room", "layers"):
        assert found[figure] == whole[figure]


def test_a_prompt_may_visit_more_experts_than_a_token() -> None:
    found = record("sim smallthinker-4b --prefill 8 --context 64")
    cycles = {one["name"]: (one["prefill_cycles"], one["decode_cycles"]) for one in found["layers"]}
    assert all(cycles["gate/0"]) and cycles["gate/20"][0] > 0 and cycles["gate/20"][1] is None
    assert "gate/20" in evolute("sim smallthinker-4b --prefill 8 --context 64")


def test_text_of_pruned_weights_is_the_same_on_tables_and_integers() -> None:
    asked = "run evolute-tiny --prompt Once --tokens 4 --prune 2:4"
    for accel in ("core-decode", "lut-decode"):
        golden, integer = (
            record(f"{asked} --accel {accel} --backend {backend}")
            for backend in ("golden", "integer")
        )
        assert golden["text"] == integer["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sim evolute-tiny --prune tile-group", "--prune: must be tile-group:SHARE[/INPUTS]"),
        ("sim evolute-tiny --prune tile-group:1", "share: must be at least 0 and below 1, got 1"),
        (
            "sim llama-3.2-1b --prune heads:0.3",
            "heads: must be a multiple of 8 after pruning, such as 16 or 24 of 32, got 23",
        ),
        (
            "sim llama-3.2-1b --prune ffn:0.3",
            "ffn: must be a multiple of 32 after pruning, such as 5728 or 5760 of 8192, got 5735",
        ),
        ("sim llama-3.2-1b --prune layers:40", "layers: must be at most the 16 of the model"),
        ("sim llama-3.2-1b --prune ffn:x", "must be a share to take away, or a whole number to"),
        ("sim llama-3.2-1b --prune ffn:0.5,ffn:4096", "--prune ffn: must be given once"),
        ("sim llama-3.2-1b --prune 2:4,1:4", "--prune: must be one pattern of zeros"),
        ("sim mamba-130m --prune heads:0.5", "heads: must be of a model that has attention"),
        ("sim llama-3.2-1b --prune tokens:0.5", "must be tokens:SHARE@LAYER[/SHARE@LAYER...]"),
        ("sim llama-3.2-1b --prune tokens:0.5@16", "layer: must be in 1..15, got 16"),
        ("sim llama-3.2-1b --prune tokens:0.5@4/0.4@8", "share: must be above 0.5"),
        ("sim llama-3.2-1b --prune tokens:0.5@4 --profile decode", "must be without --profile"),
        ("sim evolute-tiny --prune tokens:0.5@2", "tokens:0.5@2: must be of a model without"),
        ("sim evolute-tiny --prune layers:2", "--prune layers:2: must be of a model without"),
        ("compile evolute-tiny --prune layers:2 -o x", "--prune layers:2: must be of a model"),
        ("sim evolute-tiny --prune 4:4", "--prune 4:4: N: must be in 1..3, got 4"),
        ("sim evolute-tiny --prune 1:300", "--prune 1:300: M: must be in 2..256, got 300"),
        (
            "sim evolute-tiny --prune group:0.5/48",
            "prune: inputs: must be a divisor of the 128 inputs of 0.q, got 48",
        ),
        (
            "sim llama-3.2-1b --weights vptq-v8k256r256 --accel core-vq --prune 2:4",
            "prune: 2:4 must be of weights with a code each, 0.q is in codewords",
        ),
        (
            "sim evolute-tiny --accel core-fpga --weights w1g32s --prune 2:4",
            "prune: must be of weights with a code for zero, w1 has none",
        ),
        ("sim evolute-tiny --prune tile-group:0.5/0", "inputs: must be in 1..65536, got 0"),
        (
            "sim evolute-tiny --accel lut-decode --prune tile-group:0.5",
            "prune: tile-group:0.5 must be on a core, whose programs leave blocks out",
        ),
        (
            "sim evolute-tiny --prune tile-group:0.5/48",
            "a block of 0.q must be whole scale groups of 32 inputs",
        ),
        (
            "sim llama-3.2-1b --weights vptq-v8k256r256 --accel core-vq --prune tile-group:0.5",
            "prune: tile-group:0.5 must be of weights with a code each, 0.q is in codewords",
        ),
        (
            "sim evolute-tiny --accel core-fpga --weights w4f --prune tile-group:0.5/64",
            "prune: must be of weights with a code for zero, w4 has none",
        ),
        (
            "run evolute-tiny --prompt x --backend float --prune tile-group:0.5",
            "--prune: must be of weights in codes, got tile-group:0.5 of floats",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: str, message: str) -> None:
    assert message in refusal(arguments)
