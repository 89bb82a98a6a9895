"""Engines that multiply no codes of single weights: variants, each with the layer in its form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from dse.compare.contenders import Contender, Task
from dse.compare.layer import Layer, linear_of
from hw.spec import ENGINES, Engine, LutDla, SpecError, VqCodebook
from sw.activations import quantize_activations
from sw.quantizers.hessian import Moments
from sw.quantizers.lut_dla import Tables, learn_centroids, tables_of
from sw.quantizers.vptq import Vptq, to_tensor, vptq
from sw.tensor import QuantTensor


def _vectors(task: Task, layer: Layer) -> Iterator[tuple[str, Mapping[str, Any], QuantTensor]]:
    """Codewords of 16 along outputs that store as many bits as the task's codes do, in codebooks
    that the quantizer of VPTQ finds."""
    index_bits = 4
    v, rest = divmod(index_bits, task.codes.bits)
    if rest or v < 2:
        return
    x = layer.more_inputs
    moments = Moments(x.T @ x / np.float32(len(x)), np.abs(x).max(axis=0))
    choice = Vptq(v=v, entries=1 << index_bits)
    found, _ = vptq(layer.weights, moments, choice, np.random.default_rng(0))
    tensor = to_tensor(found)
    assert isinstance(tensor, QuantTensor)
    fields = {"v": v, "k": task.slice_k, "entries": choice.entries}
    yield f"v{v} k{choice.entries}", fields, tensor


def _tables(task: Task, layer: Layer) -> Iterator[tuple[str, Mapping[str, Any], QuantTensor]]:
    """Tables of 8-bit entries by 16 centroids of 4 inputs."""
    if task.activations.format is not None:
        return
    choice = Tables(group=layer.linear.group, activation_bits=task.activations.bits)
    x = quantize_activations(layer.more_inputs, choice.activations).x
    learned = learn_centroids(x, choice, np.random.default_rng(0))
    tensor = tables_of(layer.weights, x, *learned, choice)
    columns = task.n * task.slice_k // choice.v
    fields = {"v": choice.v, "centroids": choice.centroids, "metric": choice.metric, "n": columns}
    yield f"v{choice.v} c{choice.centroids} {choice.metric}", fields, tensor


OWN_FORMS: dict[
    type[Engine],
    Callable[[Task, Layer], Iterator[tuple[str, Mapping[str, Any], QuantTensor]]],
] = {VqCodebook: _vectors, LutDla: _tables}
"""By the class of its spec, the variants of an engine that multiplies no codes of single weights:
names, choices, and the layer as each takes it."""


def in_own_forms(task: Task, engines: Collection[str], layer: Layer) -> list[Contender]:
    """The variants of the engines, given by stem, that take the layer in forms of their own."""
    found = []
    for stem in engines:
        kind = ENGINES[stem]
        for variant, fields, tensor in OWN_FORMS.get(kind, lambda task, layer: ())(task, layer):
            name, form = f"{stem} {variant}", linear_of(layer.linear.name, tensor)
            own = dataclasses.replace(
                task, codes=tensor.format, group=min(task.group, tensor.group)
            )
            try:
                spec = own.engine(kind, **fields)
            except SpecError as error:
                found.append(Contender(name, None, str(error)))
            else:
                held = dataclasses.replace(layer, linear=form, tensor=tensor)
                found.append(Contender(name, spec, layer=held))
    return found
