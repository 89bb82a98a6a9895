"""What of a model runs where: decided once, and passed on to whatever compiles, runs or prices it.

Weights rounded by choice (`w4g32`) put every layer of the blocks on the accelerator. Under `native`
a layer goes there with the checkpoint's own codes. Where the engine runs those of some layers and
not of others, as in a GGUF file that mixes types, the model is still planned whole: the other
layers of the blocks are coded to one format that the engine has, see `recoding_for`. The output
head is never coded anew; without codes that the engine runs it is left to the host.
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
    """The engine that does the work."""
    return spec.engine if isinstance(spec, CoreSpec) else spec


def default_weights(model: LanguageModel) -> Weights:
    """The checkpoint's own codes if it has any, else 4 bits in groups of 32."""
    return NATIVE if model.has_codes else parse_weights("w4g32")


RECODING_GROUP = 32
"""Inputs that share a scale in layers that are coded anew, up to whole slices of the engine."""


def recoding_for(engine: Engine) -> Weights | None:
    """What layers are coded to that have no codes which the engine runs; None if there is nothing.

    It is the widest grid of integers that the engine runs, with an integer zero point per group, or
    of an engine without integers BitMoD's or ternary codes. A group has `RECODING_GROUP` inputs,
    or as many more as fill the engine's last slice.
    """
    group = -(-RECODING_GROUP // engine.slice_k) * engine.slice_k
    names = (*(f"w{bits}" for bits in range(8, 0, -1)), "b4", "b3", "t")
    for choice in (parse_weights(f"{name}g{group}") for name in names):
        if choice.rounding is not None and engine.accepts(choice.rounding.format):
            return choice
    return None


@dataclass(frozen=True)
class AssignedPart:
    """A layer on the accelerator, or one part of a layer that is stored in several."""

    linear: Linear
    coding: Coding
    """How the engine runs the codes."""
    stage: int | None
    """On a core the number of its stage, in the order they run."""


@dataclass(frozen=True)
class AssignedLayer:
    """Where one linear layer runs, and in which codes."""

    name: LayerName
    parts: tuple[AssignedPart, ...]
    """On the accelerator; none where the host computes the layer in float32."""
    rounding: Rounding | None
    """What its weights are rounded by; None for codes of the checkpoint, and on the host."""

    @property
    def on_host(self) -> bool:
        return not self.parts


class Recoded(NamedTuple):
    """A layer coded anew, and how far from the checkpoint's weights."""

    tensor: QuantTensor
    squared_error: float
    """Of all its weights."""
    squared_sum: float
    """Of the checkpoint's weights themselves."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """What of a model runs where, under a choice of weights and on an accelerator."""

    model: LanguageModel
    weights: Weights
    spec: Accelerator
    layers: Mapping[LayerName, AssignedLayer]
    """Every linear layer, in the order they run."""
    workload: Workload
    """The same as a cost model takes it."""
    blocks: tuple[tuple[tuple[Linear, ...], ...], ...]
    """Of a core the layers of every block, and at last of the head, stage by stage; else empty."""
    recoding: Weights | None
    """What layers without codes that the engine runs are coded to; None where there are none."""
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
        """The layers that are coded anew."""
        if self.recoding is None:
            return ()
        rounding = self.recoding.rounding
        return tuple(name for name, layer in self.layers.items() if layer.rounding == rounding)

    @functools.cached_property
    def recoded(self) -> Mapping[LayerName, Recoded]:
        """The layers that are coded anew, quantized once for whoever asks."""
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
        """For records: what was coded anew, to what, its share of all multiply-accumulates of a
        token, and its weights' relative error, the root of the summed squares; None if nothing."""
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
    """Decide what of the model runs where. Values of weights are not read.

    Raises `SpecError` where the engine does not run the chosen codes, or tables of such centroids;
    and `QuantError` where `native` is chosen and the checkpoint has no codes that the engine runs,
    where layers must be coded anew and the engine has no format for them, or where the accelerator
    cannot run a pattern of zeros.
    """
    engine = engine_in(spec)
    if sparsity is not None:
        require_sparsity(sparsity, spec)
    own = {name: _linears(model, weights, spec, name) for name in layer_names(model.config)}
    chosen = {name: weights.rounding for name in own if name != HEAD}
    recoding = None
    if weights == NATIVE:
        if not any(own.values()):
            formats = ", ".join(kind.name for kind in engine.formats)
            raise QuantError(
                f"weights: {model.name} stores no codes that the engine runs ({formats}); choose "
                "others, such as w4g32"
            )
        if missing := [name for name, linears in own.items() if not linears and name != HEAD]:
            recoding = recoding_for(engine)
            if recoding is None:
                raise QuantError(
                    f"weights: native leaves {len(missing)} of {len(own)} linear layers of "
                    f"{model.name} without codes that the engine runs ({missing[0]} is the first), "
                    "and it has no format of single weights to code them to; choose another "
                    "accelerator"
                )
            chosen |= dict.fromkeys(missing, recoding.rounding)
            own |= {name: _linears(model, recoding, spec, name) for name in missing}
    shapes = model.config.shapes()
    workload = Workload(
        model.name,
        weights.name,
        tuple(linear for linears in own.values() for linear in linears),
        tuple(
            HostLayer(name, *shapes[str(name)], last_token_only=name == HEAD)
            for name, linears in own.items()
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
        for name, linears in own.items()
    }
    return Assignment(model, weights, spec, layers, workload, blocks, recoding, sparsity)


def _linears(
    model: LanguageModel, weights: Weights, spec: Accelerator, name: LayerName
) -> tuple[Linear, ...]:
    """How each part of the layer `name` is held for the accelerator; none if it has no codes there.

    The output head keeps the checkpoint's own form under every choice of weights. A core has its
    own form of scales. Raises `SpecError` where the engine does not run the chosen codes, or tables
    of these centroids.
    """
    n, k = model.config.shapes()[str(name)]
    engine, rounding = engine_in(spec), weights.rounding
    if rounding is not None and name != HEAD:
        layers = [rounded_linear(name, n, k, rounding, engine)]
    elif weights == FLOAT or (tensor := model.codes(str(name))) is None:
        return ()
    else:
        whole = on_engine(parted(tensor), engine)
        layers = [
            Linear(
                name=replace(name, part=i if len(whole.parts) > 1 else None),
                n=n,
                k=part.shape[1],
                format=part.format,
                group=part.group,
                group_bits=part.group_bits,
                last_token_only=name == HEAD,
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
    return tuple(stored_on(layer, spec) for layer in layers)


def rounded_linear(name: LayerName, n: int, k: int, rounding: Rounding, engine: Engine) -> Linear:
    """A layer N x K rounded to grids. Raises `SpecError` for codes that the engine does not run."""
    codes = rounding.format
    engine.coding_of(codes)
    return Linear(name, n, k, codes, min(rounding.group or k, k), rounding.group_bits)


def stored_on(linear: Linear, spec: Accelerator) -> Linear:
    """The layer as `spec` stores it: a core has its own form of scales."""
    if not isinstance(spec, CoreSpec):
        return linear
    bits = spec.scale_bits + spec.offset_bits + linear.format.special_bits
    return replace(linear, group_bits=bits, row_bits=UNIT_BITS)


def on_engine(tensor: PartedTensor, engine: Engine) -> PartedTensor:
    """The tensor with the formats that its codewords have on the engine: it may take short ones."""

    def named(part: QuantTensor) -> QuantTensor:
        form = part.form
        if not isinstance(form, Codebook):
            return part
        codes = WeightCodes(form.format.bits, engine.codeword_kind(form.v))
        return part if codes == form.format else replace(part, form=replace(form, format=codes))

    return replace(tensor, parts=tuple(map(named, tensor.parts)))
