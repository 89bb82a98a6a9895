"""The linear layers of a model as operators, and their computation on the host in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.sim.weights import Centroids, Table
from evolute.sim.workload.linear import HEAD, LayerName
from evolute.sw.language_model.model import LanguageModel, ModelConfig, dequantized
from evolute.sw.language_model.products import matrix_product
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import QuantTensor

Linears: TypeAlias = Callable[[Sequence[str], NDArray[np.float32]], list[NDArray[np.float32]]]
"""A model's linear layers by name, those together that share an input: float32 [M, K] -> of each
float32 [M, N]."""


@dataclass(frozen=True, eq=False)
class HostLinear:
    """A layer that the host computes in float32."""

    weight: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return matrix_product(x, self.weight)


@dataclass(frozen=True, eq=False)
class HostTables(HostLinear):
    """A layer of tables by centroid, float32 [N, subspaces * c], in place of weights."""

    group: int
    centroids: Centroids

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        a = quantize_activations(x, self.centroids.activations)
        meets = self.centroids.one_hot(a.x, self.group).astype(np.float32)
        return matrix_product(meets, self.weight) * a.scale[:, None]


def layer_names(config: ModelConfig) -> tuple[LayerName, ...]:
    """All linear layers in the order in which they run; the head is the last."""
    roles = config.layer_linears()
    blocks = range(config.layers)
    return (*(LayerName(block, role) for block in blocks for role in roles), HEAD)


def linear_names(model: LanguageModel) -> list[str]:
    """The names of all linear layers as text, as in the model's tensors."""
    return [str(name) for name in layer_names(model.config)]


def host_linears(model: LanguageModel) -> Linears:
    """Every layer in float32 with the weights as shipped."""
    layers = {name: host_linear(model, name) for name in linear_names(model)}
    return lambda names, x: [layers[name](x) for name in names]


def streamed_linears(model: LanguageModel) -> Linears:
    """Like `host_linears`, but a layer is expanded to float32 only while it runs. This takes little
    memory and is slower for many windows."""
    return lambda names, x: [host_linear(model, name)(x) for name in names]


def host_linear(model: LanguageModel, name: str) -> HostLinear:
    """The layer `name` with its weights or tables as shipped."""
    tensor = model.matrix(name)
    if isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table):
        tables = tensor.rows(slice(None), np.float32)
        return HostTables(tables, tensor.group, tensor.form.centroids)
    return HostLinear(dequantized(tensor))
