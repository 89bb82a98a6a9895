"""Linear layers as operators: in float32 on the host, or through codes and integers elsewhere.

An engine returns integers per scale group. They are combined in float64, where every product and
every partial sum is a multiple of 2^-25 below 2^28, hence exact: scales are half-precision numbers,
so multiples of 2^-24, and activations are integers. A core returns one integer per output, which
float64 holds as well. So the golden model and a plain matrix product give the same float32 results
bit for bit, and no order of summation needs to be agreed on.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import CoreSpec, Engine
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.golden import GOLDEN, ROW_SHIFTS, lut_dla
from evolute.sim.weights import Centroids, Codebook, Table
from evolute.sim.workload.linear import HostLayer, Linear, Workload
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.language_model.products import BLOCK_BYTES, Product, matrix_product, product_of
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.rescale import UNIT_BITS, coded_grid, golden_weights
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor, parted
from evolute.sw.tensors.weights import FLOAT, NATIVE, Weights, parse_weights

Linears: TypeAlias = Callable[[Sequence[str], NDArray[np.float32]], list[NDArray[np.float32]]]
"""A model's linear layers by name, those together that share an input: float32 [M, K] -> of each
float32 [M, N]."""

Accelerator: TypeAlias = Engine | CoreSpec
"""What can run a model's layers: an engine with its own buffers, or a complete core."""

Backend = Literal["integer", "golden"]
"""How an accelerator is computed: as plain integer matrix products, or as its golden model does."""


@dataclass(frozen=True, eq=False)
class HostLinear:
    """A layer in float32, not on an engine."""

    weight: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return matrix_product(x, self.weight)


@dataclass(frozen=True, eq=False)
class HostTables(HostLinear):
    """A layer of tables by centroid in float32, [N, subspaces * c], in the place of weights."""

    group: int
    centroids: Centroids

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        a = quantize_activations(x, self.centroids.activations)
        meets = self.centroids.one_hot(a.x, self.group).astype(np.float32)
        return matrix_product(meets, self.weight) * a.scale[:, None]


@dataclass(frozen=True, eq=False)
class EngineLinear:
    """A layer on an engine."""

    tensor: PartedTensor
    totals: Sequence[Product]
    """Of each part."""

    def __call__(self, x: NDArray[np.float32], a: QuantActivations) -> NDArray[np.float32]:
        """The outputs for inputs x, which are `a` as the parts take them."""
        first, *others = (
            total(a.x[:, columns])
            for total, columns in zip(self.totals, self.tensor.columns, strict=True)
        )
        for each in others:
            first += each
        first *= a.scale[:, None]  # the sums are exact until here
        if self.tensor.bias is not None:
            first += self.tensor.added(x)[:, None]
        return first.astype(np.float32)


def _require_exact(name: str, tensor: PartedTensor, spec: Engine) -> None:
    """Raise `QuantError` where a sum over the layer `name` could leave float64's exact range."""
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
    """What an engine computes, through its golden model."""
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


def engine_in(spec: Accelerator) -> Engine:
    """The engine that does the work."""
    return spec.engine if isinstance(spec, CoreSpec) else spec


def layers_on(
    model: LanguageModel, weights: Weights, spec: Accelerator, name: str
) -> tuple[Linear, ...]:
    """How each part of the layer `name` is held for the accelerator; none if the host runs it in
    float32.

    A part of several is called by the layer's name and its number, as in 0.q/1. The output head
    keeps the checkpoint's own form under every choice of weights. A core has its own form of
    scales. Raises `SpecError` where the engine does not run the chosen codes, or tables of these
    centroids.
    """
    n, k = model.config.shapes()[name]
    engine, rounding = engine_in(spec), weights.rounding
    if rounding is not None and name != "head":
        codes = rounding.format
        engine.coding_of(codes)
        layers = [Linear(name, n, k, codes, min(rounding.group or k, k), rounding.group_bits)]
    elif weights == FLOAT or (tensor := model.codes(name)) is None:
        return ()
    else:
        whole = on_engine(parted(tensor), engine)
        layers = [
            Linear(
                name=part_name(whole, name, i),
                n=n,
                k=part.shape[1],
                format=part.format,
                group=part.group,
                group_bits=part.group_bits,
                last_token_only=name == "head",
                column_bits=whole.column_bits,
                vector_bits=None if part.format.is_direct else part.code_bits,
            )
            for i, part in enumerate(whole.parts)
        ]
        if not all(engine.accepts(layer.format) for layer in layers):
            return ()
        for form in (part.form for part in whole.parts):
            if isinstance(form, Table):
                lut_dla.require_room(engine, form.centroids)
    if isinstance(spec, CoreSpec):
        bits = spec.scale_bits + spec.offset_bits
        layers = [
            replace(layer, group_bits=bits + layer.format.special_bits, row_bits=UNIT_BITS)
            for layer in layers
        ]
    return tuple(layers)


def part_name(tensor: PartedTensor, name: str, part: int) -> str:
    """What a part of the layer `name` is called: as the layer, if it is the only one."""
    return name if len(tensor.parts) == 1 else f"{name}/{part}"


def part_of(name: str) -> tuple[str, int]:
    """The layer, and the number of the part, that `part_name` gave a name."""
    layer, _, part = name.partition("/")
    return layer, int(part or 0)


def on_engine(tensor: PartedTensor, engine: Engine) -> PartedTensor:
    """The tensor with the formats that its codewords have on the engine: it may take short ones."""

    def named(part: QuantTensor) -> QuantTensor:
        form = part.form
        if not isinstance(form, Codebook):
            return part
        codes = WeightCodes(form.format.bits, engine.codeword_kind(form.v))
        return part if codes == form.format else replace(part, form=replace(form, format=codes))

    return replace(tensor, parts=tuple(map(named, tensor.parts)))


def codes_of(model: LanguageModel, weights: Weights, spec: Accelerator, name: str) -> PartedTensor:
    """The codes of a layer that `layers_on` places on an accelerator."""
    if weights.rounding is not None and name != "head":
        return parted(quantize(dequantized(model.matrix(name)), weights.rounding))
    tensor = model.codes(name)
    assert tensor is not None
    return on_engine(parted(tensor), engine_in(spec))


def fast_backend(spec: Accelerator) -> Backend:
    """The integer product wherever tables are exact and equal to it; rounded tables themselves."""
    return "integer" if engine_in(spec).exact else "golden"


def default_weights(model: LanguageModel) -> Weights:
    """The checkpoint's own codes if it has any, else 4 bits in groups of 32."""
    return NATIVE if model.has_codes else parse_weights("w4g32")


def workload(model: LanguageModel, weights: Weights, spec: Accelerator) -> Workload:
    """What one token asks of the accelerator; layers equal in shape and codes are counted together,
    unless their steps depend on weights.

    Raises `SpecError` where the chosen bits exceed the engine's, and `QuantError` where `native`
    is chosen and the checkpoint has no codes that the engine accepts.
    """
    counts: collections.Counter[Linear] = collections.Counter()
    left, shapes = [], model.config.shapes()
    for name in linear_names(model):
        layers = layers_on(model, weights, spec, name)
        if engine_in(spec).steps_are_fixed:
            layers = tuple(replace(each, name=each.name.rpartition(".")[2]) for each in layers)
        counts.update(layers)
        if not layers:
            left.append(HostLayer(name, *shapes[name], last_token_only=name == "head"))
    if weights == NATIVE and not counts:
        formats = ", ".join(each.name for each in engine_in(spec).formats)
        rule = f"codes that the engine runs ({formats})"
        raise QuantError(f"weights: {model.name} stores no {rule}; choose others, such as w4g32")
    linears = tuple(replace(layer, count=count) for layer, count in counts.items())
    return Workload(model.name, weights.name, linears, tuple(left))


def require_whole(work: Workload, spec: Accelerator) -> Workload:
    """`work`, whose speed is to be stated: that of a part of a checkpoint would mislead.

    Raises `QuantError` where the checkpoint's own codes put some layers of its blocks on the
    accelerator and leave others. The output head may be left; whoever states a speed says so.
    """
    left = [each for each in work.left if each.name != "head"]
    if work.weights != NATIVE.name or not left:
        return work
    wholes = [each for each in work.linears if part_of(each.name)[1] == 0]
    every = len(work.left) + sum(each.count for each in wholes)
    engine = engine_in(spec)
    codes = next((name for name in _WHOLE if engine.accepts(_codes(name))), None)
    advice = (
        f"--weights {codes} or the like, which rounds every layer of the blocks"
        if codes
        else "another accelerator"
    )
    raise QuantError(
        f"weights: native leaves {len(left)} of {every} linear layers of {work.model}, "
        f"{sum(each.n * each.k for each in left) / (work.macs() + work.host_macs()):.0%} of their "
        f"multiply-accumulates, to the host, because the engine does not run their codes "
        f"({left[0].name} is the first); choose {advice}"
    )


_WHOLE = ("w4g32", "w3g32", "w2g32", "w1g32", "tg128", "b4g128", "b3g128")
"""Choices of weights to recommend, the usual first."""


def _codes(name: str) -> WeightCodes:
    """The codes of a choice of weights that is a rounding."""
    rounding = parse_weights(name).rounding
    assert rounding is not None
    return rounding.format


def linear_names(model: LanguageModel) -> list[str]:
    """The linear layers in the order they run; `head` is the last."""
    roles = model.config.layer_linears()
    names = [f"{layer}.{role}" for layer in range(model.config.layers) for role in roles]
    return [*names, "head"]


def host_linears(model: LanguageModel) -> Linears:
    """Every layer in float32 with the weights as shipped."""
    layers = {name: host_linear(model, name) for name in linear_names(model)}
    return lambda names, x: [layers[name](x) for name in names]


def streamed_linears(model: LanguageModel) -> Linears:
    """The same, but each layer is in float32 only while it runs: slower for many windows, and in
    little memory."""
    return lambda names, x: [host_linear(model, name)(x) for name in names]


def engine_linears(
    model: LanguageModel, weights: Weights, spec: Engine, backend: Backend = "integer"
) -> Linears:
    """Layers on the engine that `spec` describes, as far as `workload` places them there.

    Rounded tables, and sums that saturate or wrap, exist in the golden backend only. Raises what
    `workload` raises.
    """
    if backend == "integer":
        require_product(spec)
    workload(model, weights, spec)
    host: dict[str, HostLinear] = {}
    layers: dict[str, EngineLinear] = {}
    for name in linear_names(model):
        if not layers_on(model, weights, spec, name):
            host[name] = host_linear(model, name)
            continue
        tensor = codes_of(model, weights, spec, name)
        _require_exact(name, tensor, spec)
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
        found = []
        for name in names:
            if name in host:
                found.append(host[name](x))
                continue
            inputs = layers[name].tensor.inputs(x)
            a = shared if inputs is x else None
            if a is None:
                a = quantize_activations(inputs, spec.activations)
            if inputs is x:
                shared = a
            found.append(layers[name](x, a))
        return found

    return apply


def require_product(spec: Engine) -> None:
    """Raise `QuantError` unless plain integer products are what the engine computes."""
    if not spec.exact:
        raise QuantError("backend: must be golden for inexact sums, they are no integer product")


def host_linear(model: LanguageModel, name: str) -> HostLinear:
    """The layer `name` with its weights, or its tables, as shipped."""
    tensor = model.matrix(name)
    if isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table):
        tables = tensor.rows(slice(None), np.float32)
        return HostTables(tables, tensor.group, tensor.form.centroids)
    return HostLinear(dequantized(tensor))
