"""Engines that do not multiply codes of single weights: each gets the layer in its own form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolute.dse.compare.contenders import Contender, Task, presets_of, variants_of
from evolute.dse.compare.layer import ComparedLayer, linear_of
from evolute.hw.spec import ENGINES, Engine, LutDla, LutStationary, SpecError, VqCodebook
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sw.quantizers.hessian import Moments
from evolute.sw.quantizers.lut_dla import Tables, learn_centroids, tables_of
from evolute.sw.quantizers.vptq.choice import WEIGHT_BITS, Vptq
from evolute.sw.quantizers.vptq.forms import to_tensor
from evolute.sw.quantizers.vptq.quantize import vptq
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import QuantTensor


def _vectors(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants with 16 codewords, which store as many bits as the task's codes: codewords along
    outputs, gathered; and along inputs, with a table of their products."""
    index_bits = 4
    v, remainder = divmod(index_bits, task.codes.bits)
    if remainder or v < 2:
        return {}
    fields = {"v": v, "k": task.slice_k, "entries": 1 << index_bits}
    name = f"v{v} k{fields['entries']}"
    return {name: fields, f"{name} inputs": {**fields, "along": "inputs", "form": "table"}}


def tables(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants with tables of 8-bit entries for 16 centroids of 4 inputs; none for floating
    activations."""
    if task.activations.format is not None:
        return {}
    plain = Tables()
    columns = task.n * task.slice_k // plain.v
    fields = {"v": plain.v, "centroids": plain.centroids, "metric": plain.metric, "n": columns}
    return {f"v{plain.v} c{plain.centroids} {plain.metric}": fields}


def _codebooks(spec: VqCodebook, layer: ComparedLayer) -> QuantTensor:
    """Codebooks of the engine's size, found by the VPTQ quantizer."""
    x = layer.more_inputs
    moments = Moments(x.T @ x / np.float32(len(x)), np.abs(x).max(axis=0), len(x))
    assert spec.along in ("outputs", "inputs")
    choice = Vptq(spec.v, spec.along, spec.entries, spec.residual_entries)
    quantized, _ = vptq(layer.weights, moments, choice, np.random.default_rng(0))
    tensor = to_tensor(quantized)
    assert isinstance(tensor, QuantTensor)
    return tensor


def tables_for(spec: LutDla | LutStationary, group: int) -> Tables:
    """The choice of tables that fits the machine, in groups of `group` inputs."""
    return Tables(
        v=spec.v,
        centroids=spec.centroids,
        metric=spec.metric,
        bits=spec.weight_bits,
        group=group,
        activation_bits=spec.activation_bits,
    )


def fitted(choice: Tables, layer: ComparedLayer) -> QuantTensor:
    """The layer as tables, fitted to its inputs."""
    x = quantize_activations(layer.more_inputs, choice.activations).x
    learned = learn_centroids(x, choice, np.random.default_rng(0))
    return tables_of(layer.weights, x, *learned, choice)


def _of_engine(spec: LutDla, layer: ComparedLayer) -> QuantTensor:
    return fitted(tables_for(spec, min(spec.group_size, layer.linear.group)), layer)


@dataclass(frozen=True)
class OwnForm:
    """The form in which a class of engines takes a layer, instead of codes of single weights."""

    codes: WeightCodes
    one_scale: bool
    """Whether the layer has one scale, so that a sum may go through all of K."""
    variants: Callable[[Task], Mapping[str, Mapping[str, Any]]]
    """The variants that are worth comparing for a task, as name to spec fields."""
    learned: Callable[[Any, ComparedLayer], QuantTensor]
    """The layer in the engine's form, learned from its weights and from inputs that are not used
    for measuring. Raises `SpecError` if there is none."""


OWN_FORMS: dict[type[Engine], OwnForm] = {
    VqCodebook: OwnForm(WeightCodes(WEIGHT_BITS, Kind.VECTOR), True, _vectors, _codebooks),
    LutDla: OwnForm(WeightCodes(Tables().bits, Kind.TABLE), False, tables, _of_engine),
}
"""By the class of its spec, the form of an engine that multiplies no codes of single weights."""


def in_own_forms(
    task: Task, engines: Collection[str], layer: ComparedLayer, named: bool = False
) -> list[Contender]:
    """The variants of the engines (named by stem) that take the layer in forms of their own; with
    `named`, also their presets. Engines that do not fit the task have the reason in `refused`."""
    contenders = []
    for stem in engines:
        form = OWN_FORMS.get(kind := ENGINES[stem])
        if form is None:
            continue
        group = layer.linear.k if form.one_scale else task.group
        task_in_form = dataclasses.replace(task, codes=form.codes, group=group)
        builds = variants_of(task_in_form, stem, kind, form.variants(task))
        if named:
            builds |= presets_of(task_in_form, [kind])
        for name, build in builds.items():
            try:
                spec = build()
                tensor = form.learned(spec, layer)
            except SpecError as error:
                contenders.append(Contender(name, None, str(error)))
            else:
                linear = linear_of(layer.linear.name, tensor)
                layer_in_form = dataclasses.replace(layer, linear=linear, tensor=tensor)
                contenders.append(Contender(name, spec, layer=layer_in_form))
    return contenders
