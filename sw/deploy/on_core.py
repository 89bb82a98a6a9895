"""The linear layers of a model on a core: how they are placed, and three ways to compute the same
integers.

The core returns one integer per output. The output is y = result * unit * activation scale,
multiplied in this order in float64 and rounded once to float32. So whatever computes the integers,
including the RTL, leads to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import CoreSpec, Engine
from evolute.sim.golden import GOLDEN
from evolute.sim.program import placement as place
from evolute.sim.program.build import LayerSteps
from evolute.sim.program.placement import Stage
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload
from evolute.sim.workload.sparsity import TileGroup, evenly_pruned
from evolute.sw.deploy.assignment import Assignment
from evolute.sw.deploy.on_engine import Backend, engine_linears, fast_backend, require_product
from evolute.sw.deploy.pack import layer_steps, require_sums
from evolute.sw.language_model.linear import HostLinear, Linears, host_linear
from evolute.sw.language_model.products import BLOCK_BYTES, product_of
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.pruning import skip_list
from evolute.sw.tensors.rescale import ScaledTensor, golden_weights, rescale
from evolute.sw.tensors.tensor import PartedTensor, QuantError

RunStage = Callable[[Stage, QuantActivations], Mapping[LayerName, NDArray[np.int64 | np.float64]]]
"""Computes a stage: activations [M, K] -> each layer's results [M, N] by name, integers that are
the caller's to change."""


@dataclass(frozen=True, eq=False)
class CoreModel:
    """A model on a core: the layers that are placed in its memory, and those that stay on the
    host."""

    core: CoreSpec
    blocks: tuple[tuple[Stage, ...], ...]
    """The stages of every block, and then of the head."""
    layers: Mapping[LayerName, PartedTensor]
    """Layers on the core, by name."""
    tensors: Mapping[LayerName, ScaledTensor]
    """The parts of these layers, by the names in `stages`."""
    host: Mapping[LayerName, HostLinear]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in the order in which they run."""
        return tuple(stage for block in self.blocks for stage in block)

    @property
    def end(self) -> int:
        """The first address after all weights."""
        return max((stage.end for stage in self.stages), default=0)

    def workload(self, assigned: Workload) -> Workload:
        """The workload of the model's assignment with the skip lists of the layers as placed."""
        placed = {
            layer.linear.name: layer.linear for stage in self.stages for layer in stage.layers
        }
        return replace(assigned, linears=tuple(placed[linear.name] for linear in assigned.linears))

    @functools.cached_property
    def beat_steps(self) -> LayerSteps | None:
        """Steps of the weight beats of every tensor, int64 [column tiles, beats]; None where they
        do not depend on weights."""
        engine = self.core.engine
        if engine.steps_are_fixed:
            return None
        return {name: layer_steps(engine, tensor) for name, tensor in self.tensors.items()}


def core_model(assignment: Assignment, address: int = 0) -> CoreModel:
    """Quantize, rescale and place the layers that run on the core, from `address` on.

    Raises `QuantError` if no layer does or sums are not exact in float64, and `PlaceError` if a
    layer does not fit.
    """
    core, model = assignment.spec, assignment.model
    assert isinstance(core, CoreSpec)
    layers, tensors, blocks = {}, {}, []
    if not any(assignment.blocks):
        raise QuantError(f"weights: {assignment.weights.name} leaves no layer on the core")
    for linears in (linears for block in assignment.blocks for linears in block):
        # What does not fit is refused before any weights are read.
        if isinstance(assignment.sparsity, TileGroup):
            linears = [evenly_pruned(assignment.sparsity, one, core.engine.n) for one in linears]
        place.stage(core, place.stage_name(linears), linears, address)
    for block in assignment.blocks:
        stages = []
        for linears in block:
            for linear in linears:
                name = linear.name.whole
                if name not in layers:
                    layers[name] = assignment.codes(name)
                codes = layers[name].parts[linear.name.part or 0]
                coding = core.engine.coding_of(codes.format)
                tensor = rescale(codes, coding, core.scale_bits, core.offset_bits)
                require_sums(core, linear.name, tensor)
                if tensor.largest_sum(core.engine.activations) >= 1 << 53:
                    raise QuantError(f"layer {linear.name}: its sums are not exact in float64")
                tensors[linear.name] = tensor
            shifts = {linear.name: tensors[linear.name].offset_shift for linear in linears}
            name, there = place.stage_name(linears), _skipping(assignment, linears, tensors)
            stages.append(place.stage(core, name, there, address, shifts))
            address = stages[-1].end
        blocks.append(tuple(stages))
    host = {
        name: host_linear(model, str(name))
        for name, layer in assignment.layers.items()
        if layer.on_host
    }
    return CoreModel(core, tuple(blocks), layers, tensors, host)


def _skipping(
    assignment: Assignment,
    linears: Sequence[Linear],
    tensors: Mapping[LayerName, ScaledTensor],
) -> list[Linear]:
    """Layers of a stage with their skip lists, if the assignment has a pattern that makes any."""
    pattern = assignment.sparsity
    return [
        linear
        if not isinstance(pattern, TileGroup) or linear.name == HEAD
        else replace(
            linear,
            skips=skip_list(
                tensors[linear.name],
                pattern.block_inputs(linear.k, linear.group),
                assignment.engine.n,
            ),
        )
        for linear in linears
    ]


def core_linears(placed: CoreModel, run_stage: RunStage) -> Linears:
    """The model's layers as operators. Those on the core are computed by `run_stage`, in the order
    of the stages."""
    units = {name: tensor.unit.astype(np.float64) for name, tensor in placed.tensors.items()}
    stages = placed.stages
    by_text = {str(name): name for name in (*placed.host, *placed.layers)}
    runs: dict[LayerName, list[int]] = {}
    for i, stage in enumerate(stages):
        for layer in stage.layers:
            runs.setdefault(layer.linear.name.whole, []).append(i)

    def apply(texts: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        names = [by_text[text] for text in texts]
        outputs = {name: placed.host[name](x) for name in names if name in placed.host}
        activations: dict[LayerName, QuantActivations] = {}
        results: dict[LayerName, NDArray[np.float64]] = {}
        for stage in (stages[i] for i in sorted({i for name in names for i in runs.get(name, ())})):
            first = stage.layers[0].linear.name
            tensor = placed.layers[first.whole]
            if first.whole not in activations:
                inputs = tensor.inputs(x)
                activations[first.whole] = quantize_activations(
                    inputs, placed.core.engine.activations
                )
            a = activations[first.whole].columns(tensor.columns[first.part or 0])
            scale = a.scale[:, None].astype(np.float64)
            for name, result in run_stage(stage, a).items():
                product = result.astype(np.float64, copy=False)
                product *= units[name]
                product *= scale
                if name.whole in results:
                    product += results[name.whole]
                results[name.whole] = product
        for name, result in results.items():
            if placed.layers[name].bias is not None:
                result += placed.layers[name].added(x)[:, None]
            outputs[name] = result.astype(np.float32)
        return [outputs[name] for name in names]

    return apply


def integer_stage(placed: CoreModel) -> RunStage:
    """Computes stages as plain integer matrix products. They are exact in float64, because every
    sum is below 2^53.

    Raises `QuantError` for an engine that computes something else.
    """
    require_product(placed.core.engine)
    products = {name: product_of(tensor) for name, tensor in placed.tensors.items()}

    def run(stage: Stage, a: QuantActivations) -> dict[LayerName, NDArray[np.float64]]:
        names = [layer.linear.name for layer in stage.layers]
        return {name: products[name](a.x) for name in names}

    return run


def golden_stage(placed: CoreModel) -> RunStage:
    """Computes stages with the engine's golden model, and scales the results in integers."""
    engine = placed.core.engine
    encoded = {name: golden_weights(engine, tensor) for name, tensor in placed.tensors.items()}

    def run(stage: Stage, a: QuantActivations) -> dict[LayerName, NDArray[np.int64]]:
        names = [layer.linear.name for layer in stage.layers]
        return {
            name: golden_result(engine, placed.tensors[name], encoded[name], a.x) for name in names
        }

    return run


def golden_result(
    engine: Engine, tensor: ScaledTensor, encoded: Any, x: NDArray[np.integer]
) -> NDArray[np.int64]:
    """A layer's results [M, N] for integer activations x [M, K], computed with the engine's golden
    model. `encoded` is the tensor in the golden model's form."""
    golden = GOLDEN[type(engine)]
    scale = tensor.scale.T.astype(np.int64)
    offset = tensor.offset.T.astype(np.int64) << tensor.offset_shift
    result = np.empty((len(x), tensor.shape[0]), np.int64)
    step = max(1, BLOCK_BYTES // (8 * tensor.scale.size))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        sums = golden.group_sums(engine, x[rows], encoded)
        scaled = sums.psum * scale + sums.row_sum[:, :, None] * offset
        result[rows] = scaled.sum(axis=1)
    return result


def fast_stage(placed: CoreModel) -> RunStage:
    """Computes stages as integer products where the engine's results are equal to them, else with
    the golden model."""
    return _STAGES[fast_backend(placed.core)](placed)


_STAGES: dict[Backend, Callable[[CoreModel], RunStage]] = {
    "integer": integer_stage,
    "golden": golden_stage,
}


def on_accelerator(assignment: Assignment) -> Callable[[Backend], Linears]:
    """The model's layers on the assigned engine or core, for a choice of backend.

    Raises the errors of `core_model` now, and those of `engine_linears` when a backend is chosen.
    """
    if not isinstance(assignment.spec, CoreSpec):
        return functools.partial(engine_linears, assignment)
    return core_backends(core_model(assignment))


def core_backends(placed: CoreModel) -> Callable[[Backend], Linears]:
    """The model's layers on the core, for a choice of backend."""
    return lambda backend: core_linears(placed, _STAGES[backend](placed))
