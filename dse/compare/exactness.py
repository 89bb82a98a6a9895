"""How exact an engine is on a layer: the golden model's results for the layer's real inputs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.dse.compare.layer import ComparedLayer
from evolute.hw.spec import Engine, FloatLut, FloatMac
from evolute.hw.spec.floating import FP16, FloatEngine
from evolute.hw.spec.scaling import FloatScaling
from evolute.sim import numbers
from evolute.sim.golden import floating, integer
from evolute.sw.deploy.on_engine import golden_total
from evolute.sw.language_model.products import product_of
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.rescale import coded_grid, golden_weights
from evolute.sw.tensors.tensor import QuantTensor


@dataclass(frozen=True)
class Exactness:
    """Differences between an engine's results and the float64 product with the same quantized
    weights."""

    max_abs_difference: float
    """From that with the engine's own activations, in units of the activations' last place, if they
    are integers; 0 unless the engine rounds."""
    max_rel_difference: float
    """The same over the largest magnitude of a result."""
    activation_error: float
    """From that with the activations as they were before rounding: root mean square over all
    results, over theirs. Of tables, which hold no weights, that with the weights as shipped."""
    layer_error: float
    """From the layer as shipped, its weights and activations in float64, in the same measure."""


def _float_total(spec: FloatEngine, tensor: QuantTensor, x: NDArray[np.float64]) -> NDArray[Any]:
    """The layer's outputs [tokens, N] for activations [tokens, K], scaled and added with the
    roundings of `FloatScaling`."""
    coding = spec.coding_of(tensor.format)
    grid = coded_grid(tensor, coding)
    if isinstance(spec, FloatLut):
        planes = coding.planes
        weights: NDArray[Any] = tensor.codes
        sums = functools.partial(floating.lut_sums, spec, planes=planes)
    else:
        assert isinstance(spec, FloatMac)
        sums = functools.partial(floating.mac_sums, spec)
        if spec.weights == "fp16":
            exact = tensor.rows(slice(None), np.float64)
            weights = numbers.decode(numbers.encode(exact, FP16), FP16)
        else:
            weights = integer.weights(spec, tensor.form)
        if spec.weights == "dequantized":
            codes = numbers.encode(np.repeat(grid.scale, tensor.group, axis=1), FP16)
            weights = floating.dequantized(weights, codes[:, : weights.shape[1]])
    part = spec.read_out_slices(tensor.group) * spec.slice_k
    psums, row_sums, groups = [], [], []
    for g, start in enumerate(range(0, tensor.shape[1], tensor.group)):
        inside = slice(start, start + tensor.group)
        psum, row_sum = floating.group_by_group(sums, x[:, inside], weights[:, inside], part)
        psums.append(psum)
        row_sums.append(row_sum)
        groups += [g] * psum.shape[1]
    factors = {field.name for field in FloatScaling(engine=spec, scale_lanes=1).beat.fields}
    scale, offset = (
        floating.numbers(numbers.encode(factor[:, groups], FP16), FP16) if name in factors else None
        for name, factor in (("scale", grid.scale), ("offset", grid.offset))
    )
    parts = np.concatenate(psums, axis=1), np.concatenate(row_sums, axis=1)
    return floating.scaled_sums(*parts, scale, offset, spec.significand_bits)


def _float_exactness(spec: FloatEngine, layer: ComparedLayer) -> Exactness:
    x = numbers.decode(numbers.encode(layer.inputs, spec.kind), spec.kind)
    weights = layer.tensor.rows(slice(None), np.float64)
    results, exact = _float_total(spec, layer.tensor, x), x @ weights.T
    ideal = layer.inputs.astype(np.float64) @ weights.T
    largest = float(np.abs(results - exact).max())
    return Exactness(
        max_abs_difference=largest,
        max_rel_difference=largest / float(np.abs(exact).max()),
        activation_error=_error(results, ideal),
        layer_error=_error(results, _shipped(layer)),
    )


def _shipped(layer: ComparedLayer) -> NDArray[np.float64]:
    return layer.inputs.astype(np.float64) @ layer.weights.astype(np.float64).T


def _error(results: NDArray[np.float64], ideal: NDArray[np.float64]) -> float:
    return math.sqrt(((results - ideal) ** 2).mean() / (ideal**2).mean())


def exactness(spec: Engine, layer: ComparedLayer) -> Exactness:
    """Compute the layer with the engine's golden model, and compare."""
    if isinstance(spec, FloatEngine):
        return _float_exactness(spec, layer)
    tensor = layer.tensor
    a = quantize_activations(layer.inputs, spec.activations)
    results = golden_total(spec, tensor, golden_weights(spec, tensor), a.x)
    exact = product_of(tensor)(a.x)
    ideal = shipped = _shipped(layer)
    if tensor.form.is_of_weights:
        ideal = layer.inputs.astype(np.float64) @ tensor.rows(slice(None), np.float64).T
    largest = float(np.abs(results - exact).max())
    scaled = results * a.scale[:, None]
    return Exactness(
        max_abs_difference=largest,
        max_rel_difference=largest / float(np.abs(exact).max()),
        activation_error=_error(scaled, ideal),
        layer_error=_error(scaled, shipped),
    )
