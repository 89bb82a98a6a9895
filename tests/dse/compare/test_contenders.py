"""Who is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.dse.compare.contenders import (
    CONTENDERS,
    activations_name,
    contenders,
    parse_activations,
    require_any,
)
from evolute.dse.compare.exactness import exactness
from evolute.dse.compare.layer import LEARNING_TOKENS, TOKENS, layer_of
from evolute.dse.compare.own_forms import in_own_forms
from evolute.hw.spec import ENGINES, FloatLut, FloatMac, LutDla, VqCodebook
from evolute.hw.spec.base import SpecError
from evolute.hw.spec.formats import FORMATS, Kind, WeightCodes
from evolute.hw.spec.presets import ENGINE_PRESETS
from evolute.sim.weights import Codebook, Table
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.zoo import default_text
from evolute.sw.checkpoints.zoo import load as load_model
from evolute.sw.tensors.weights import parse_weights

TINY = "evolute-tiny"


@pytest.mark.parametrize("codes", FORMATS, ids=lambda codes: codes.name)
def test_contenders_have_one_size_and_run_the_weights(codes, task):
    task = replace(task, codes=codes)
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
        assert spec.activations == task.activations
    assert all(each.refused for each in found if each.spec is None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_multipliers_come_in_the_weights_width_and_in_the_activations(bits, task):
    found = contenders(replace(task, codes=WeightCodes(bits)), ["mac"])
    widths = [each.spec.weight_bits for each in found if each.spec]
    assert sorted(set(widths)) == sorted({bits, 8})
    plain = [each.name for each in found if "INT8xINT8" in each.name and " " not in each.name[4:]]
    assert len(plain) == 1


def test_a_shape_that_an_engine_cannot_have_is_refused_for_it_alone(task):
    found = contenders(replace(task, slice_k=6), ["lut_tensor_core", "mac"])
    refused = [each.name for each in found if each.spec is None]
    assert refused and all(name.startswith("lut_tensor_core") for name in refused)
    assert any(each.spec for each in found)


@pytest.mark.parametrize(("bits", "activations"), [(1, "int8"), (2, "fp16:13"), (8, "int8")])
def test_presets_of_the_engines_are_compared_or_say_why_not(task, bits, activations):
    task = replace(task, codes=WeightCodes(bits), activations=parse_activations(activations))
    for stem, kind in ENGINES.items():
        found = {each.name: each for each in contenders(task, [stem], named=True)}
        named = [name for name in found if " " not in name]
        of_kind = [name for name, spec in ENGINE_PRESETS.items() if type(spec) is kind]
        assert of_kind and named == (of_kind if kind in CONTENDERS else [])
        for name in named:
            spec = ENGINE_PRESETS[name]
            fits = spec.activations == task.activations and spec.accepts(task.codes)
            assert found[name].spec == (spec if fits else None)
            assert bool(found[name].refused) != fits


def test_presets_of_other_forms_have_the_layer_learned_for_them(task, layer):
    found = {each.name: each for each in in_own_forms(task, ENGINES, layer, named=True)}
    named = {name: spec for name, spec in ENGINE_PRESETS.items() if type(spec) not in CONTENDERS}
    assert [name for name in found if name in ENGINE_PRESETS] == list(named)
    for name, spec in named.items():
        own = found[name].layer
        assert own is not None and found[name].spec == spec
        assert exactness(spec, own).max_abs_difference == 0
        form = own.tensor.form
        if isinstance(spec, LutDla):
            assert isinstance(form, Table)
            assert form.centroids.points.shape[1:] == (spec.centroids, spec.v)
        else:
            assert isinstance(spec, VqCodebook) and isinstance(form, Codebook)
            assert form.books[0].codewords.shape == (spec.entries, spec.v)
            assert form.along == spec.along
            assert len(form.books) == 1 + (spec.residual_entries > 0)
    floating = replace(task, activations=parse_activations("fp16"))
    refused = in_own_forms(floating, ["lut_dla"], layer, named=True)
    assert all("activations: must be int8 for this preset" in str(each.refused) for each in refused)


@pytest.mark.parametrize("text", ["int8", "int16", "fp16:13", "bf16:16", "fp8e4m3:8"])
def test_activations_have_a_name(text):
    assert activations_name(parse_activations(text)) == text


@pytest.mark.parametrize(("bits", "v"), [(1, 4), (2, 2), (3, None), (4, None)])
def test_engines_without_codes_of_weights_take_the_layer_in_forms_of_their_own(bits, v, task):
    layer = layer_of(load_model(TINY), "1.down", parse_weights(f"w{bits}g32s"), default_text(TINY))
    task = replace(task, codes=layer.linear.format, group=32)
    found = {each.name: each for each in in_own_forms(task, ENGINES, layer)}
    tables = found.pop("lut_dla v4 c16 l1")
    assert list(found) == [f"vq_codebook v{v} k16{along}" for along in ("", " inputs") if v]
    for each in (*found.values(), tables):
        assert each.spec is not None and each.layer is not None
        assert each.spec.macs_per_step == 32
        form = each.layer.tensor
        assert form.shape == layer.tensor.shape and each.layer.linear.format == form.format
        assert each.layer.linear.index_bits == form.code_bits
        measured = exactness(each.spec, each.layer)
        assert measured.max_abs_difference == 0
        x = layer.inputs.astype(float) @ layer.weights.astype(float).T
        assert 0 < measured.layer_error < 1
        if isinstance(form.form, Codebook):
            assert len(form.form.books[0].codewords) == 16
            own = layer.inputs.astype(float) @ form.dequantize().T.astype(float)
            error = np.sqrt(((own - x) ** 2).mean() / (x**2).mean())
            assert measured.layer_error == pytest.approx(error, rel=0.05)
    floating = replace(task, activations=parse_activations("fp16"))
    assert not in_own_forms(floating, ["lut_dla"], layer)


def test_what_is_learned_is_not_measured_on_the_same_tokens(task):
    layer = layer_of(load_model(TINY), "1.down", parse_weights("w2g128"), default_text(TINY))
    assert len(layer.inputs) == TOKENS and len(layer.more_inputs) == LEARNING_TOKENS
    one, same = replace(layer, inputs=layer.inputs[:1]), replace(layer, more_inputs=layer.inputs)
    (found,) = in_own_forms(task, ["lut_dla"], layer)
    (again,) = in_own_forms(task, ["lut_dla"], one)
    (other,) = in_own_forms(task, ["lut_dla"], same)
    assert found.layer and again.layer and other.layer
    assert np.array_equal(found.layer.tensor.codes, again.layer.tensor.codes)
    assert not np.array_equal(found.layer.tensor.codes, other.layer.tensor.codes)


def test_floating_baselines_join_where_activations_are_floating(task):
    floating = replace(task, activations=parse_activations("fp16"))
    engines = ["mac", "lut_tensor_core", "bit_serial"]
    plain = contenders(floating, engines)
    found = contenders(floating, engines, floating=True)
    assert found[: len(plain)] == plain
    baselines = [each.spec for each in found[len(plain) :]]
    assert {type(spec) for spec in baselines} == {FloatMac, FloatLut}
    assert all(spec is not None and spec.macs_per_step == 32 for spec in baselines)
    assert len({each.name for each in found}) == len(found)
    with pytest.raises(SpecError, match="activations: must be floating beside floating baselines"):
        contenders(task, engines, floating=True)
