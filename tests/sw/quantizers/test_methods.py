"""Methods by name, outlier columns, equivalent scaling, and choices under a bit budget."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.spec.formats import TERNARY, Kind, WeightCodes
from evolute.sw.checkpoints import zoo
from evolute.sw.language_model.decoder import Cache, forward
from evolute.sw.language_model.linear import host_linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import windows
from evolute.sw.language_model.text_kinds import second_half
from evolute.sw.quantizers.hessian import (
    Calibration,
    Moments,
    calibrate,
    proxy_error,
    squared_error,
)
from evolute.sw.quantizers.methods import (
    GridChoice,
    has_rounding,
    parse_method,
    quantize_layer,
    rounded,
    salient_columns,
)
from evolute.sw.quantizers.mixed import LayerOption, cheapest
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.quantizers.scaling import folds_into, input_scale, scaled_moments, tied_columns
from evolute.sw.quantizers.whole_model import quantize_model
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor


def layer(n: int = 48, k: int = 96, seed: int = 0) -> tuple[np.ndarray, Moments]:
    """Weights, and inputs of which a few are strong."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6 * k, k)) @ (np.eye(k) + 0.2 * rng.normal(size=(k, k)))
    x[:, ::24] *= 20
    second = (x.T @ x / len(x)).astype(np.float32)
    w = rng.normal(size=(n, k)).astype(np.float32)
    return w, Moments(second, np.abs(x).max(axis=0).astype(np.float32), len(x))


def quantized(text: str, w: np.ndarray, moments: Moments):
    (choice,) = parse_method(text).candidates
    return quantize_layer(choice, w, moments, np.random.default_rng(0))


def test_names_mean_what_they_say() -> None:
    w3 = Rounding(WeightCodes(3), 64, Scheme.ASYMMETRIC)
    assert parse_method("rtn-w3g64").candidates == (GridChoice(w3),)
    assert parse_method("gptq-w3g64c").candidates == (
        GridChoice(replace(w3, clip=True), True, weighs=True),
    )
    assert parse_method("gptq-w3g64o1.5").candidates == (GridChoice(w3, True, 1.5, True),)
    assert parse_method("rtn-tc").candidates == (
        GridChoice(Rounding(TERNARY, None, Scheme.ABSMEAN, True), weighs=True),
    )
    codes = WeightCodes(3, Kind.BITMOD)
    assert parse_method("rtn-b3g128").candidates == (
        GridChoice(Rounding(codes, 128, Scheme.SPECIAL_VALUE)),
    )
    awq = parse_method("awq-w3g64")
    assert (awq.candidates, awq.scaling) == ((GridChoice(w3, weighs=True),), "awq")
    both = parse_method("smooth+gptq-w3g64")
    assert (both.candidates, both.scaling) == ((GridChoice(w3, True, weighs=True),), "smooth")
    mixed = parse_method("mixed-2.5:rtn-w3g64,vptq-v4k256")
    assert mixed.bits == 2.5 and mixed.candidates[0] == GridChoice(w3)
    assert len(parse_method("mixed-3").candidates) == 3


def test_methods_have_words_for_plots() -> None:
    words = {
        "rtn-w3g64": "round to nearest",
        "rtn-b3g64": "round to nearest, BitMoD",
        "gptq-w2g64c": "GPTQ",
        "awq+gptq-w2g64o1": "AWQ and GPTQ",
        "smooth-tg64": "SmoothQuant+, ternary",
        "vptq-v8k256r256nr": "VPTQ, columns normalized as released",
        "vptq-v2k16in": "VPTQ along inputs, columns normalized",
        "mixed-2.5": "mixed",
    }
    assert {name: parse_method(name).words for name in words} == words


def test_rounding_alone_looks_at_no_inputs() -> None:
    looks = {
        "rtn-w3g64": False,
        "rtn-b3g64": False,
        "rtn-w3g64c": True,
        "rtn-w3g64o1": True,
        "gptq-w3g64": True,
        "awq-w3g64": True,
        "smooth-w3g64": True,
        "vptq-v4k256": True,
        "mixed-3:rtn-w2g64,rtn-w4g64": True,
    }
    assert {name: parse_method(name).calibrates for name in looks} == looks


def test_what_rounds_on_the_same_grids() -> None:
    names = {
        "gptq-w3g64c": True,
        "awq+gptq-w2g64o1": True,
        "smooth-tg64": True,
        "mixed-3": True,
        "mixed-3:rtn-w2g64,rtn-w4g64": False,
        "mixed-3:gptq-w2g64,vptq-v4k256": False,
        "rtn-w3g64c": False,
        "vptq-v4k256": False,
    }
    assert {name: has_rounding(parse_method(name)) for name in names} == names
    w, moments = layer()
    (grid,) = parse_method("gptq-w3g32c").candidates
    assert isinstance(grid, GridChoice)
    found, fed = rounded(grid, w, moments), quantized("gptq-w3g32c", w, moments)[0]
    plain = quantized("rtn-w3g32c", w, moments)[0]
    assert isinstance(found, QuantTensor) and isinstance(fed, QuantTensor)
    assert np.array_equal(found.dequantize(), plain.dequantize())
    assert np.array_equal(found.scale, fed.scale) and np.array_equal(found.minimum, fed.minimum)
    assert not np.array_equal(found.codes, fed.codes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtn",
        "rtn-",
        "rtn-w9",
        "gptq-native",
        "rtn-w3g64o99",
        "rtn-w3g64o1.2.3",
        "awq+vptq-v8k256",
        "awq+-w3",
        "mixed-",
        "mixed-x",
        "mixed-2:awq-w3g64",
        "mixed-2:mixed-3",
        "best-w3",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(QuantError, match="method: "):
        parse_method(text)


# Clipping and outliers.


@pytest.mark.parametrize("text", ["w2g32", "w3g32s", "w2g32f", "b3g32", "tg32"])
def test_clipped_grids_lose_less(text: str) -> None:
    """In every group, since what is not clipped is among the tries; by importance if given."""
    w, moments = layer()
    (plain,), (clipped,) = (parse_method(f"rtn-{text}{c}").candidates for c in ("", "c"))
    assert isinstance(plain, GridChoice) and isinstance(clipped, GridChoice)
    importance = np.diag(moments.second)
    for weight in (np.ones(96), importance):
        errors = [
            np.add.reduceat(
                (quantize(w, each.rounding, weight).dequantize() - w) ** 2 * weight, [0, 32, 64], 1
            )
            for each in (plain, clipped)
        ]
        assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
        assert errors[1].sum() < 0.95 * errors[0].sum()


def test_outlier_columns_are_those_of_the_strong_inputs() -> None:
    w, moments = layer()
    assert salient_columns(w, np.diag(moments.second), 4.2).tolist() == [0, 24, 48, 72]
    tensor, stages = quantized("gptq-w2g32o4.2", w, moments)
    assert isinstance(tensor, PartedTensor) and tensor.order is not None
    outliers, rest = tensor.parts
    assert outliers.format == WeightCodes(8) and outliers.shape == (48, 4)
    assert tensor.order[:4].tolist() == [0, 24, 48, 72]
    strong = tensor.dequantize()[:, ::24]
    np.testing.assert_allclose(strong, w[:, ::24], atol=np.ptp(w) / 255)
    assert tensor.total_bits == 48 * (4 * 8 + 24 + 92 * 2 + 3 * 18) + 96 * 16
    plain, _ = quantized("gptq-w2g32", w, moments)
    assert stages["feedback"] < 0.5 * proxy_error(w, plain.dequantize(), moments.second)
    assert rest.shape == (48, 92)


# Scaling.


def test_scaling_is_found_by_what_it_loses() -> None:
    """No tried power of the inputs' strength does better, and rounding alone does worse."""
    w, moments = layer()
    rounding = Rounding(WeightCodes(3), 32, Scheme.ASYMMETRIC)

    def lost(scale: np.ndarray) -> float:
        rounded = quantize(w * scale, rounding).dequantize() / scale
        return squared_error(rounded - w, moments.second)

    strength = np.sqrt(np.diag(moments.second))
    for scaling in ("awq", "smooth"):
        scale = input_scale({"a": w}, moments, rounding, scaling, np.arange(96))
        assert lost(scale) < 0.9 * lost(np.ones(96, np.float32))
        if scaling == "awq":
            powers = [strength**power for power in (0.1, 0.5, 0.9)]
            assert all(lost(scale) <= lost(each.astype(np.float32)) * 1.01 for each in powers)


def test_scaled_inputs_have_scaled_moments() -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(50, 6)), rng.uniform(0.5, 2, 6).astype(np.float32)
    second, peak = (x.T @ x / 50).astype(np.float32), np.abs(x).max(axis=0).astype(np.float32)
    moments = Moments(second, peak, 50)
    found, divided = scaled_moments(moments, scale), x / scale
    np.testing.assert_allclose(found.second, divided.T @ divided / 50, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.peak, np.abs(divided).max(axis=0), rtol=1e-5)


def test_heads_that_share_values_share_scales() -> None:
    assert tied_columns(4, 2, 3).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


MODEL = zoo.load("evolute-tiny")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setattr("evolute.sw.quantizers.hessian.cache_directory", lambda: cache)
    text = second_half(zoo.default_text("evolute-tiny"))
    found = calibrate(MODEL, windows(MODEL, text, 600, 512))
    patch.undo()
    return found


def hidden(model: LanguageModel) -> np.ndarray:
    tokens = MODEL.tokenizer.encode("Once upon a time, there was a little girl")
    return forward(model, host_linears(model), tokens, Cache(model.config, len(tokens)))


def test_what_is_scaled_is_the_same_model(calibration: Calibration, tmp_path: Path) -> None:
    """At 8 bits scaling must not show: every division has its multiplication."""
    exact = hidden(MODEL)
    made, document = quantize_model(MODEL, parse_method("smooth-w8g32"), calibration, tmp_path)
    assert not np.array_equal(made.tensors["0.attention_norm"], MODEL.tensors["0.attention_norm"])
    found = hidden(made)
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert document["proxy_error"] < 1e-3
    into = [folds_into(MODEL.config, shared[0]) for shared in MODEL.config.shared_inputs]
    assert into == ["attention_norm", "v", "ffn_norm", "up"]
    plain = replace(MODEL.config, gated=False)
    assert folds_into(plain, "down") is None and folds_into(plain, "up") == "ffn_norm"


# Budgets.


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_cheapest_choice_is_that_of_all_choices(data: st.DataObject) -> None:
    bits, losses = st.integers(1, 6), st.integers(0, 20)
    layers = data.draw(
        st.lists(
            st.lists(st.builds(LayerOption, bits, losses.map(float)), min_size=1, max_size=4),
            min_size=1,
            max_size=5,
        )
    )
    budget = data.draw(st.integers(1, 30))
    sums = [
        (sum(each.loss for each in choice), sum(each.bits for each in choice))
        for choice in itertools.product(*layers)
    ]
    allowed = [each for each in sums if each[1] <= budget]
    if not allowed:
        with pytest.raises(QuantError, match="bits at least"):
            cheapest(layers, budget)
        return
    chosen = [layer[i] for layer, i in zip(layers, cheapest(layers, budget), strict=True)]
    assert (sum(each.loss for each in chosen), sum(each.bits for each in chosen)) == min(allowed)


def test_a_mixed_model_keeps_its_budget(calibration: Calibration, tmp_path: Path) -> None:
    """Within the budget, and no layer can be exchanged for a better one that still fits."""
    method = parse_method("mixed-3:rtn-w2g32,rtn-w3g32,rtn-w4g32")
    made, document = quantize_model(MODEL, method, calibration, tmp_path)
    assert 2.9 < document["bits_total"] <= 3
    widths = {
        made.tensors[each["name"]].format.bits  # pyright: ignore
        for each in document["layers"]
    }
    assert len(widths) > 1
    size = sum(math.prod(each["shape"]) for each in document["layers"])
    assert sum(each["bits"]["total"] for each in document["layers"]) <= 3 * size
    with pytest.raises(QuantError, match="bits at least"):
        quantize_model(MODEL, parse_method("mixed-2:rtn-w3g32"), calibration, tmp_path)
