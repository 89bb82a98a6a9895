"""What of: inputs, and how exact each is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from evolute.dse.compare.contenders import Task, contenders, parse_activations
from evolute.dse.compare.exactness import exactness
from evolute.dse.compare.layer import TOKENS, layer_of
from evolute.hw.spec import ENGINES, LutTensorCore, Mac
from evolute.hw.spec.formats import FLOATS
from evolute.sim.golden import GOLDEN, integer
from evolute.sw.checkpoints.zoo import default_text
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.layer_inputs import layer_inputs
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.perplexity import windows
from evolute.sw.tensors.weights import parse_weights

TINY = "evolute-tiny"


def test_inputs_are_those_of_the_whole_forward_pass(model):
    seen: dict[str, NDArray[np.float32]] = {}
    host = host_linears(model)

    def watched(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        seen.update(dict.fromkeys(names, x))
        return host(names, x)

    tokens = windows(model, default_text(TINY), 20, 64)[0]
    head(model, watched, forward(model, watched, tokens, Cache(model.config, len(tokens))))
    for name in ("0.q", "0.gate", "2.down", "head"):
        np.testing.assert_array_equal(layer_inputs(model, name, tokens), seen[name])


def test_the_head_can_be_the_layer(model):
    layer = layer_of(model, "head", parse_weights("w4g32"), default_text(TINY))
    assert (layer.linear.n, layer.linear.k) == (model.config.vocab, model.config.hidden)
    assert layer.inputs.shape == (TOKENS, model.config.hidden)


@pytest.mark.parametrize("codes", ["w1g128s", "w2g128", "w4g32f", "tg128"])
def test_exact_engines_equal_float64(model, codes, task):
    layer = layer_of(model, "0.gate", parse_weights(codes), default_text(TINY))
    task = replace(task, codes=layer.linear.format, group=layer.linear.group)
    errors = set()
    for each in contenders(task, ENGINES):
        if each.spec is not None:
            found = exactness(each.spec, layer)
            assert found.max_abs_difference == found.max_rel_difference == 0, each.name
            errors.add(found.activation_error)
    (error,) = errors
    assert 0 < error < 0.05


def test_floating_activations_cost_less_than_their_format_does(model, task):
    layer = layer_of(model, "0.gate", parse_weights("w2g128"), default_text(TINY))
    for name, kind in FLOATS.items():
        found = []
        for text in (name, f"{name}:16"):
            task = replace(task, activations=parse_activations(text))
            assert task.activations.format == kind
            found.append(exactness(task.engine(Mac, k=8), layer))
        assert all(each.max_abs_difference == 0 for each in found)
        aligned, most = (each.activation_error for each in found)
        assert 0 < most <= aligned < 1.5 * most < 0.2, name


@pytest.mark.parametrize("codes", ["w2g128", "w4g32f"])
def test_floating_baselines_lose_what_their_sums_round(model, codes, task):
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
    # times the largest result. To scale a group takes two products and two additions more, one
    # after another.
    groups = -(-layer.linear.k // layer.linear.group)
    depth = layer.linear.group // task.slice_k + 4 + 3 * groups
    for name, each in lost.items():
        if "FP16 sums" in name:
            assert 1e-4 < each < depth * 2.0**-11 * 8, name
        elif "FP32 sums" in name and "xFP16" not in name:
            assert 0 < each < depth * 2.0**-24 * 8, name
        elif name not in aligned:  # weights that are rounded to FP16
            assert 0 < each < 2.0**-11, name


def test_narrower_activations_cost_accuracy(layer, task):
    errors = [
        exactness(task.engine(Mac, k=8, activation_bits=bits), layer).activation_error
        for bits in (4, 8, 12)
    ]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0


def test_rounded_tables_and_wrong_sums_show(layer, monkeypatch, task):
    rounded = task.engine(LutTensorCore, k=4, kg=2, table_bits=6)
    assert exactness(rounded, layer).max_rel_difference > 1e-4

    def off_by_one(spec, x, weights, shift=None):
        sums = integer.group_sums(x, weights.values, weights.group)
        sums.psum[0, 0, 3] += 1
        return sums

    monkeypatch.setattr(GOLDEN[Mac], "group_sums", off_by_one)
    wrong = exactness(task.engine(Mac, k=8), layer)
    assert wrong.max_abs_difference == pytest.approx(layer.tensor.scale[3, 0])
