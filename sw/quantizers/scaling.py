"""Equivalent scaling: inputs divided, and weights' columns multiplied, by the same numbers.

What the model computes stays; what rounding costs does not. Columns of strong inputs take more of
their group's range (AWQ, Lin et al., arXiv 2306.00978, section 3.2), or inputs hand part of their
range to weights (SmoothQuant+, Pan et al., arXiv 2312.03788, section 3.1). Division costs nothing
where it folds into what makes the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evolute.sw.language_model.model import ModelConfig
from evolute.sw.quantizers.hessian import Moments, squared_error
from evolute.sw.quantizers.rounding import Rounding, quantize

Scaling = Literal["awq", "smooth"]

_EXPONENTS = np.linspace(0, 1, 20, endpoint=False)


def folds_into(config: ModelConfig, role: str) -> str | None:
    """The tensor of a block, a norm or a layer's rows, into which the division of an input folds,
    by the first layer that has the input; None where there is none."""
    norm = {"q": "attention_norm", "o": "o_norm", "down": "down_norm"}.get(role, "ffn_norm")
    if norm in config.norms:
        return norm
    if role == "down":  # what is not gated goes through an activation, which is not linear
        return "up" if config.gated else None
    return "v" if role == "o" else None


def folds_into_rows(config: ModelConfig, role: str) -> bool:
    """Whether that is a layer, whose rows are divided."""
    return folds_into(config, role) in ("v", "up")


def tied_columns(heads: int, kv_heads: int, head_dim: int) -> NDArray[np.int64]:
    """For every input of `o`, the output of `v` that it is a mean of, [heads * head_dim]."""
    head = np.arange(heads) // (heads // kv_heads)
    return (head[:, None] * head_dim + np.arange(head_dim)).ravel()


def input_scale(
    weights: Mapping[str, NDArray[np.float32]],
    moments: Moments,
    rounding: Rounding,
    scaling: Scaling,
    ties: NDArray[np.int64],
) -> NDArray[np.float32]:
    """By what to divide the inputs [K] of layers [N, K] that share them, so that their outputs lose
    least by rounding; 1 if nothing tried helps.

    AWQ's form is a power of the inputs' root mean square; SmoothQuant+'s is one of their peak over
    the rest of a power of the weights' peak. They are tried with grids that are not clipped.
    Columns with equal `ties` [K] get equal scales.
    """
    groups = int(ties.max()) + 1
    if scaling == "awq":
        inputs = np.sqrt(np.bincount(ties, np.diag(moments.second), groups) / np.bincount(ties))
        others = np.ones(groups)
    else:
        inputs, others = np.zeros(groups), np.zeros(groups)
        np.maximum.at(inputs, ties, moments.peak)
        peaks = np.max([np.abs(w).max(axis=0) for w in weights.values()], axis=0)
        np.maximum.at(others, ties, peaks)
    live = (inputs > 0) & (others > 0)
    tries = [np.ones(len(ties), np.float32)]
    for exponent in _EXPONENTS if live.any() else ():
        tried = np.ones(groups)
        tried[live] = inputs[live] ** exponent / others[live] ** (1 - exponent)
        tried[live] /= np.exp(np.log(tried[live]).mean())
        tries.append(tried.astype(np.float32)[ties])
    whole = replace(rounding, clip=False)

    def lost(scale: NDArray[np.float32]) -> float:
        return sum(
            squared_error(quantize(w * scale, whole).dequantize() / scale - w, moments.second)
            for w in weights.values()
        )

    return min(tries, key=lost)


def scaled_moments(moments: Moments, scale: NDArray[np.float32]) -> Moments:
    """The moments of inputs divided by `scale`."""
    second = moments.second / (scale * scale[:, None])
    peak = (moments.peak / scale).astype(np.float32)
    return Moments(second.astype(np.float32), peak, moments.tokens)
