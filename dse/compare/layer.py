"""The layer of a comparison: one linear layer of a model, with the inputs that a text gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import presets
from evolute.sim.workload.linear import LayerName, Linear
from evolute.sw.language_model.layer_inputs import layer_inputs
from evolute.sw.language_model.linear import linear_names
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.language_model.perplexity import Text, default_context, windows
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.tensor import QuantError, QuantTensor
from evolute.sw.tensors.weights import NATIVE, Weights

TOKENS = 64
"""Tokens of text whose inputs to the layer are multiplied."""

LEARNING_TOKENS = 448
"""Tokens after these whose inputs codebooks and tables are learned from."""


@dataclass(frozen=True, eq=False)
class ComparedLayer:
    """One linear layer of a model: its weights as codes, and its inputs for a text."""

    linear: Linear
    tensor: QuantTensor
    weights: NDArray[np.float32]
    """[N, K], as shipped."""
    inputs: NDArray[np.float32]
    """[tokens, K], as the model computes them in float32 with its weights as shipped."""
    more_inputs: NDArray[np.float32]
    """The same for the tokens after these, from which codebooks and tables may be learned."""


def linear_of(name: LayerName, tensor: QuantTensor) -> Linear:
    """The layer's shape and the storage of its weights, without the weights."""
    vectors = None if tensor.format.is_direct else tensor.code_bits
    shape = tensor.shape
    return Linear(name, *shape, tensor.format, tensor.group, tensor.group_bits, vector_bits=vectors)


def layer_of(model: LanguageModel, name: str, weights: Weights, text: Text) -> ComparedLayer:
    """The layer `name` in the chosen weights, with its inputs for the first tokens of `text`.

    Raises `UnknownNameError` with the names of layers, and `QuantError` if the weights are not
    codes.
    """
    names = linear_names(model)
    if name not in names:
        roles = model.config.layer_linears()
        blocks = f"BLOCK.ROLE, a block in 0..{model.config.layers - 1}"
        rule = f"{blocks} and a role of {', '.join(roles)}, or {names[-1]}"
        raise presets.UnknownNameError("layer", name, names, rule)
    tensor = model.matrix(name)
    float_weights = dequantized(tensor)
    if weights.rounding is not None:
        tensor = quantize(float_weights, weights.rounding)
    elif weights != NATIVE or not isinstance(tensor, QuantTensor):
        raise QuantError(f"weights: {weights.name} gives no codes for layer {name}")
    token_count = TOKENS + LEARNING_TOKENS
    inputs = layer_inputs(
        model, name, windows(model, text, token_count, default_context(model))[0][:token_count]
    )
    return ComparedLayer(
        linear_of(LayerName.parse(name), tensor),
        tensor,
        float_weights,
        inputs[:TOKENS],
        inputs[TOKENS:],
    )
