"""Decides which layers of a model run on the accelerator and in which codes. The decision is made
once, as an `Assignment`, and passed on to whatever compiles, runs or prices the model.

Weights that are rounded by choice (`w4g32`) put every layer of the blocks on the accelerator. With
`native`, a layer goes there with the checkpoint's own codes. If the engine runs those of some
layers but not of others, as in a GGUF file that mixes types, the other layers of the blocks are
coded to one format that the engine runs, see `recoding_for`. The output head is never coded again:
without codes that the engine runs, the host computes it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from evolute.hw.spec import CoreSpec, Engine
from evolute.hw.spec.engine import Coding
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.golden import lut_dla
from evolute.sim.program.placement import stages_of
from evolute.sim.weights import Codebook, Table
from evolute.sim.workload.linear import HEAD, HostLayer, LayerName, Linear, Workload
from evolute.sim.workload.sparsity import RowGroup, Sparsity, TileGroup
from evolute.sw.language_model.linear import layer_names
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.quantizers.rounding import Rounding, quantize
from evolute.sw.tensors.pruning import pruned
from evolute.sw.tensors.rescale import UNIT_BITS
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor, parted
from evolute.sw.tensors.weights import FLOAT, NATIVE, Weights, parse_weights

Accelerator: TypeAlias = Engine | CoreSpec
"""What can run a model's layers: an engine with its own buffers, or a complete core."""


def engine_in(spec: Accelerator) -> Engine:
    """The engine of an accelerator: the engine itself, or that of a core."""
    return spec.engine if isinstance(spec, CoreSpec) else spec


def default_weights(model: LanguageModel) -> Weights:
    """The checkpoint's own codes if it has any, else 4-bit integers in groups of 32."""
    return NATIVE if model.has_codes else parse_weights("w4g32")


RECODING_GROUP = 32
"""Inputs that share a scale in layers that are coded again, before rounding up to whole slices of
the engine."""


def recoding_for(engine: Engine) -> Weights | None:
    """The format for layers without codes that the engine runs; None if the engine has no suitable
    format.

    It is the widest integer grid that the engine runs, with an integer zero point per group, or
    else BitMoD's or ternary codes. A group has `RECODING_GROUP` inputs, rounded up to whole slices
    of the engine.
    """
    group = -(-RECODING_GROUP // engine.slice_k) * engine.slice_k
    names = (*(f"w{bits}" for bits in range(8, 0, -1)), "b4", "b3", "t")
    for choice in (parse_weights(f"{name}g{group}") for name in names):
        if choice.rounding is not None and engine.accepts(choice.rounding.format):
            return choice
    return None


@dataclass(frozen=True)
class AssignedPart:
    """A layer on the accelerator, or one part of a layer that is stored in several parts."""

    linear: Linear
    coding: Coding
    """How the engine runs the codes."""
    stage: int | None
    """On a core, the number of its stage in the order in which stages run; else None."""


@dataclass(frozen=True)
class AssignedLayer:
    """Where one linear layer runs, and in which codes."""

    name: LayerName
    parts: tuple[AssignedPart, ...]
    """The parts on the accelerator; empty where the host computes the layer in float32."""
    rounding: Rounding | None
    """How the weights are rounded; None for codes of the checkpoint, and on the host."""

    @property
    def on_host(self) -> bool:
        """Whether the host computes the layer."""
        return not self.parts


class Recoded(NamedTuple):
    """A layer that is coded again, and how far it is from the checkpoint's weights."""

    tensor: QuantTensor
    squared_error: float
    """Sum over all weights of the squared error."""
    squared_sum: float
    """Sum of the squares of the checkpoint's weights."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which layers of a model run where, for a choice of weights and an accelerator."""

    model: LanguageModel
    weights: Weights
    spec: Accelerator
    layers: Mapping[LayerName, AssignedLayer]
    """Every linear layer, in the order in which they run."""
    workload: Workload
    """The same layers as a cost model takes them."""
    blocks: tuple[tuple[tuple[Linear, ...], ...], ...]
    """For a core, the layers of every block and then of the head, stage by stage; else empty."""
    recoding: Weights | None
    """The format to which layers without codes that the engine runs are coded; None if there are
    none."""
    sparsity: Sparsity | None = None
    """Which weights of all layers but the head are made zero; None for none."""

    @property
    def engine(self) -> Engine:
        """The engine that does the work."""
        return engine_in(self.spec)

    @property
    def method(self) -> str:
        """In words, how the weights came about."""
        how = self.weights.method
        if self.recoding is not None:
            how += f", else {self.recoding.name}: {self.recoding.method}"
        return how if self.sparsity is None else f"{how}, then pruned: {self.sparsity.name}"

    @property
    def recoded_names(self) -> tuple[LayerName, ...]:
        """The names of the layers that are coded again."""
        if self.recoding is None:
            return ()
        rounding = self.recoding.rounding
        return tuple(name for name, layer in self.layers.items() if layer.rounding == rounding)

    @functools.cached_property
    def recoded(self) -> Mapping[LayerName, Recoded]:
        """The layers that are coded again, quantized on first use."""
        return {name: self._recode(name) for name in self.recoded_names}

    def _recode(self, name: LayerName) -> Recoded:
        rounding = self.layers[name].rounding
        assert rounding is not None
        shipped = dequantized(self.model.matrix(str(name)))
        tensor = quantize(shipped, rounding)
        error = (tensor.dequantize() - shipped).astype(np.float64)
        return Recoded(
            tensor,
            squared_error=float(np.square(error).sum()),
            squared_sum=float(np.square(shipped.astype(np.float64)).sum()),
        )

    def codes(self, name: LayerName) -> PartedTensor:
        """The codes of a layer that is on the accelerator. Raises `QuantError` where weights that
        are to be zero cannot be."""
        codes = self._unpruned(name)
        if self.sparsity is None or name == HEAD:
            return codes
        return pruned(codes, self.sparsity, self.engine.n)

    def _unpruned(self, name: LayerName) -> PartedTensor:
        layer = self.layers[name]
        assert not layer.on_host
        if self.recoding is not None and layer.rounding is not None:
            return parted(self.recoded[name].tensor)
        if layer.rounding is not None:
            return parted(quantize(dequantized(self.model.matrix(str(name))), layer.rounding))
        tensor = self.model.codes(str(name))
        assert tensor is not None
        return on_engine(parted(tensor), self.engine)

    def recoding_record(self) -> dict[str, Any] | None:
        """What was coded again, for records: the format, the share of all multiply-accumulates of a
        token, and the relative error of the weights (root of the sums of squares). None if nothing
        was."""
        if self.recoding is None:
            return None
        recoded, config = self.recoded.values(), self.workload
        macs = sum(layer.tensor.codes.size for layer in recoded)
        error = sum(layer.squared_error for layer in recoded)
        square = sum(layer.squared_sum for layer in recoded)
        return {
            "weights": self.recoding.name,
            "layers": [str(name) for name in self.recoded_names],
            "mac_share": macs / (config.macs() + config.host_macs()),
            "relative_error": (error / square) ** 0.5 if square else 0.0,
        }


def require_sparsity(sparsity: Sparsity, spec: Accelerator) -> None:
    """Raise `QuantError` for a pattern that `spec` cannot run exactly."""
    if not isinstance(sparsity, TileGroup):
        return
    if not isinstance(spec, CoreSpec):
        raise QuantError(
            f"prune: {sparsity.name} must be on a core, whose programs leave blocks out; the "
            "accelerator is an engine alone"
        )
    if not spec.engine.exact:
        raise QuantError(f"prune: {sparsity.name} must be on an engine with exact sums")


def assign(
    model: LanguageModel, weights: Weights, spec: Accelerator, sparsity: Sparsity | None = None
) -> Assignment:
    """Decide which layers of the model run where. Only names, shapes and formats of weights are
    read, not their values.

    Raises `SpecError` if the engine does not run the chosen codes, or tables of such centroids; and
    `QuantError` if `native` is chosen and the checkpoint has no codes that the engine runs, if
    layers must be coded again and the engine has no format for them, or if the accelerator cannot
    run a pattern of zeros.
    """
    engine = engine_in(spec)
    if sparsity is not None:
        require_sparsity(sparsity, spec)
    linears_of = {name: _linears(model, weights, spec, name) for name in layer_names(model.config)}
    chosen = {name: weights.rounding for name in linears_of if name != HEAD}
    recoding = None
    if weights == NATIVE:
        if not any(linears_of.values()):
            formats = ", ".join(kind.name for kind in engine.formats)
            raise QuantError(
                f"weights: {model.name} stores no codes that the engine runs ({formats}); choose "
                "others, such as w4g32"
            )
        if missing := [
            name for name, linears in linears_of.items() if not linears and name != HEAD
        ]:
            recoding = recoding_for(engine)
            if recoding is None:
                raise QuantError(
                    f"weights: native leaves {len(missing)} of {len(linears_of)} linear layers of "
                    f"{model.name} without codes that the engine runs ({missing[0]} is the first), "
                    "and it has no format of single weights to code them to; choose another "
                    "accelerator"
                )
            chosen |= dict.fromkeys(missing, recoding.rounding)
            linears_of |= {name: _linears(model, recoding, spec, name) for name in missing}
    shapes = model.config.shapes()
    workload = Workload(
        model.name,
        weights.name,
        tuple(linear for linears in linears_of.values() for linear in linears),
        tuple(
            HostLayer(name, *shapes[str(name)], last_token_only=name == HEAD)
            for name, linears in linears_of.items()
            if not linears
        ),
        model.config.shared_inputs,
    )
    if isinstance(sparsity, RowGroup):
        for linear in workload.linears:
            sparsity.blocks(linear)  # refuse a slip before weights are read
    blocks: tuple[tuple[tuple[Linear, ...], ...], ...] = ()
    if isinstance(spec, CoreSpec):
        blocks = tuple(stages_of(spec, block) for block in workload.blocks)
    stages = enumerate(linears for block in blocks for linears in block)
    stage = {linear.name: number for number, linears in stages for linear in linears}
    layers = {
        name: AssignedLayer(
            name,
            tuple(
                AssignedPart(linear, engine.coding_of(linear.format), stage.get(linear.name))
                for linear in linears
            ),
            chosen.get(name) if linears else None,
        )
        for name, linears in linears_of.items()
    }
    return Assignment(model, weights, spec, layers, workload, blocks, recoding, sparsity)


def _linears(
    model: LanguageModel, weights: Weights, spec: Accelerator, name: LayerName
) -> tuple[Linear, ...]:
    """The parts of the layer `name` in the form that the accelerator stores; empty if the layer has
    no codes for it.

    The output head keeps the checkpoint's own form, whatever the choice of weights. A core has its
    own form of scales. Raises `SpecError` if the engine does not run the chosen codes, or tables of
    these centroids.
    """
    n, k = model.config.shapes()[str(name)]
    engine, rounding = engine_in(spec), weights.rounding
    if rounding is not None and name != HEAD:
        layers = [rounded_linear(name, n, k, rounding, engine)]
    elif weights == FLOAT or (tensor := model.codes(str(name))) is None:
        return ()
    else:
        stored = on_engine(parted(tensor), engine)
        layers = [
            Linear(
                name=replace(name, part=i if len(stored.parts) > 1 else None),
                n=n,
                k=part.shape[1],
                format=part.format,
                group=part.group,
                group_bits=part.group_bits,
                last_token_only=name == HEAD,
                column_bits=stored.column_bits,
                vector_bits=None if part.format.is_direct else part.code_bits,
            )
            for i, part in enumerate(stored.parts)
        ]
        if not all(engine.accepts(layer.format) for layer in layers):
            return ()
        for form in (part.form for part in stored.parts):
            if isinstance(form, Table):
                lut_dla.require_room(engine, form.centroids)
    return tuple(stored_on(layer, spec) for layer in layers)


def rounded_linear(name: LayerName, n: int, k: int, rounding: Rounding, engine: Engine) -> Linear:
    """An N x K layer, rounded to an integer grid or other codes. Raises `SpecError` for codes that
    the engine does not run."""
    codes = rounding.format
    engine.coding_of(codes)
    return Linear(name, n, k, codes, min(rounding.group or k, k), rounding.group_bits)


def stored_on(linear: Linear, spec: Accelerator) -> Linear:
    """The layer as `spec` stores it. A core has its own form of scales."""
    if not isinstance(spec, CoreSpec):
        return linear
    bits = spec.scale_bits + spec.offset_bits + linear.format.special_bits
    return replace(linear, group_bits=bits, row_bits=UNIT_BITS)


def on_engine(tensor: PartedTensor, engine: Engine) -> PartedTensor:
    """The tensor with the formats in which the engine runs its codewords, which may be shorter
    ones."""

    def named(part: QuantTensor) -> QuantTensor:
        form = part.form
        if not isinstance(form, Codebook):
            return part
        codes = WeightCodes(form.format.bits, engine.codeword_kind(form.v))
        return part if codes == form.format else replace(part, form=replace(form, format=codes))

    return replace(tensor, parts=tuple(map(named, tensor.parts)))
