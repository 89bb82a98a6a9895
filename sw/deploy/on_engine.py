"""The linear layers of a model on an engine alone, computed with codes and integers.

An engine returns one integer per scale group. The integers are combined in float64. Scales are
half-precision numbers, so multiples of 2^-24, and activations are integers, so every product and
every partial sum is a multiple of 2^-25 below 2^28 and therefore exact. (A core returns one integer
per output, which float64 also holds exactly.) So the golden model and a plain matrix product give
the same float32 results bit for bit, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import Engine
from evolute.sim.golden import GOLDEN, ROW_SHIFTS
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import LayerName
from evolute.sw.deploy.assignment import Accelerator, Assignment, engine_in
from evolute.sw.deploy.pack import layer_steps
from evolute.sw.language_model.linear import HostLinear, Linears, host_linear
from evolute.sw.language_model.products import BLOCK_BYTES, Product, product_of
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.rescale import coded_grid, golden_weights
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor

Backend = Literal["integer", "golden"]
"""How an accelerator is computed: as plain integer matrix products, or as its golden model does."""


@dataclass(frozen=True, eq=False)
class EngineLinear:
    """A layer on an engine, as an operator."""

    tensor: PartedTensor
    totals: Sequence[Product]
    """The product with the weights of each part."""

    def __call__(self, x: NDArray[np.float32], a: QuantActivations) -> NDArray[np.float32]:
        """The outputs, float32 [M, N], for the inputs x; `a` are these inputs in the integers that
        the engine takes."""
        result, *further = (
            total(a.x[:, columns])
            for total, columns in zip(self.totals, self.tensor.columns, strict=True)
        )
        for part in further:
            result += part
        result *= a.scale[:, None]  # the sums are exact until here
        if self.tensor.bias is not None:
            result += self.tensor.added(x)[:, None]
        return result.astype(np.float32)


def _require_exact(name: LayerName, tensor: PartedTensor, spec: Engine) -> None:
    """Raise `QuantError` if a sum of the layer `name` could exceed the range in which float64 is
    exact."""
    bound = 0.0
    for part in tensor.parts:
        coding = spec.coding_of(part.format)
        grid = coded_grid(part, coding)
        largest = np.abs(grid.scale) * coding.maximum(part.format) + np.abs(grid.offset)
        bound += largest.sum(axis=1).max() * part.form.operand_bound(part.group, spec.activations)
    if not bound < 1 << 28:
        raise QuantError(f"layer {name}: weights too large for exact sums, up to {bound:.3g}")


def golden_total(
    spec: Engine, tensor: QuantTensor, encoded: Any, x: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The sums that an engine computes, float64 [M, N], by its golden model."""
    golden = GOLDEN[type(spec)]
    grid = coded_grid(tensor, spec.coding_of(tensor.format))
    total = np.zeros((len(x), tensor.shape[0]))
    step = max(1, BLOCK_BYTES // (8 * tensor.scale.size))
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        shift = None
        if spec.row_shift_bits:
            shift = ROW_SHIFTS[type(spec)].table_shift(spec, rows, tensor.group)
        sums = golden.group_sums(spec, rows, encoded, shift)
        unit = 1.0 if shift is None else np.exp2(shift)[:, None]
        part = total[start : start + step]
        for g in range(tensor.scale.shape[1]):
            part += sums.psum[:, g] * unit * grid.scale[:, g]
            part += sums.row_sum[:, g, None] * grid.offset[:, g]
    return total


def fast_backend(spec: Accelerator) -> Backend:
    """The backend `integer` if the engine's results are equal to integer products, else
    `golden`."""
    return "integer" if engine_in(spec).exact else "golden"


def engine_linears(assignment: Assignment, backend: Backend = "integer") -> Linears:
    """The model's layers as operators: those that are assigned to the engine, and the others on the
    host.

    Rounded tables, and sums that saturate or wrap, only exist in the backend `golden`. Raises
    `QuantError` for them in the other backend, and if sums are not exact in float64.
    """
    spec = assignment.engine
    if backend == "integer":
        require_product(spec)
    host: dict[str, HostLinear] = {}
    layers: dict[str, EngineLinear] = {}
    for layer in assignment.layers.values():
        name = str(layer.name)  # as the forward pass asks for it
        if layer.on_host:
            host[name] = host_linear(assignment.model, name)
            continue
        tensor = assignment.codes(layer.name)
        _require_exact(layer.name, tensor, spec)
        totals: list[Product]
        if backend == "golden":
            totals = [
                partial(golden_total, spec, part, golden_weights(spec, part))
                for part in tensor.parts
            ]
        else:
            totals = [product_of(part) for part in tensor.parts]
        layers[name] = EngineLinear(tensor, totals)

    def apply(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        shared: QuantActivations | None = None
        outputs = []
        for name in names:
            if name in host:
                outputs.append(host[name](x))
                continue
            inputs = layers[name].tensor.inputs(x)
            a = shared if inputs is x else None
            if a is None:
                a = quantize_activations(inputs, spec.activations)
            if inputs is x:
                shared = a
            outputs.append(layers[name](x, a))
        return outputs

    return apply


def require_product(spec: Engine) -> None:
    """Raise `QuantError` unless the engine's results are equal to plain integer products."""
    if not spec.exact:
        raise QuantError("backend: must be golden for inexact sums, they are no integer product")


def engine_steps(assignment: Assignment) -> LayerSteps | None:
    """The steps of the weight beats of every part; None where they do not depend on weights."""
    engine = assignment.engine
    if engine.steps_are_fixed:
        return None
    return {
        part.linear.name: layer_steps(engine, tensor)
        for layer in assignment.layers.values()
        if not layer.on_host
        for part, tensor in zip(layer.parts, assignment.codes(layer.name).parts, strict=True)
    }
