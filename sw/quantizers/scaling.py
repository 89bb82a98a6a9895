"""Equivalent scaling: inputs of layers are divided, and columns of weights multiplied, by the same
numbers.

This does not change what the model computes, but it changes the errors of rounding. Either columns
with strong inputs get more of their group's range (AWQ, Lin et al., arXiv 2306.00978, section 3.2),
or inputs give part of their range to the weights (SmoothQuant+, Pan et al., arXiv 2312.03788,
section 3.1). The division costs nothing if it can be folded into the tensor that produces the
input.
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
    """The norm or layer of a block into which the division of an input can be folded; None if there
    is none.

    `role` is that of the first layer that has the input.
    """
    norm = {"q": "attention_norm", "o": "o_norm", "down": "down_norm"}.get(role, "ffn_norm")
    if norm in config.norms:
        return norm
    if role == "down":  # what is not gated goes through an activation, which is not linear
        return "up" if config.gated else None
    return "v" if role == "o" else None


def folds_into_rows(config: ModelConfig, role: str) -> bool:
    """Whether the division is folded into a layer, whose rows are then divided."""
    return folds_into(config, role) in ("v", "up")


def tied_columns(heads: int, kv_heads: int, head_dim: int) -> NDArray[np.int64]:
    """For every input of `o`, the output of `v` of which it is a weighted mean, int64 [heads *
    head_dim]."""
    head = np.arange(heads) // (heads // kv_heads)
    return (head[:, None] * head_dim + np.arange(head_dim)).ravel()


def input_scale(
    weights: Mapping[str, NDArray[np.float32]],
    moments: Moments,
    rounding: Rounding,
    scaling: Scaling,
    ties: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The numbers by which to divide the inputs [K] that the layers `weights` [N, K] share, so that
    rounding changes their outputs least; all 1 if nothing that is tried helps.

    AWQ tries powers of the inputs' root mean square. SmoothQuant+ tries powers p of the inputs'
    peak, divided by the weights' peak to the power of 1 - p. The grids of the trials are not
    clipped. Columns with equal `ties` [K] get equal numbers.
    """
    groups = int(ties.max()) + 1
    if scaling == "awq":
        inputs = np.sqrt(np.bincount(ties, np.diag(moments.second), groups) / np.bincount(ties))
        divisors = np.ones(groups)
    else:
        inputs, divisors = np.zeros(groups), np.zeros(groups)
        np.maximum.at(inputs, ties, moments.peak)
        peaks = np.max([np.abs(w).max(axis=0) for w in weights.values()], axis=0)
        np.maximum.at(divisors, ties, peaks)
    live = (inputs > 0) & (divisors > 0)
    tries = [np.ones(len(ties), np.float32)]
    for exponent in _EXPONENTS if live.any() else ():
        tried = np.ones(groups)
        tried[live] = inputs[live] ** exponent / divisors[live] ** (1 - exponent)
        tried[live] /= np.exp(np.log(tried[live]).mean())
        tries.append(tried.astype(np.float32)[ties])
    unclipped = replace(rounding, clip=False)

    def lost(scale: NDArray[np.float32]) -> float:
        return sum(
            squared_error(quantize(w * scale, unclipped).dequantize() / scale - w, moments.second)
            for w in weights.values()
        )

    return min(tries, key=lost)


def scaled_moments(moments: Moments, scale: NDArray[np.float32]) -> Moments:
    """The moments of the inputs after division by `scale`."""
    second = moments.second / (scale * scale[:, None])
    peak = (moments.peak / scale).astype(np.float32)
    return Moments(second.astype(np.float32), peak, moments.tokens)
