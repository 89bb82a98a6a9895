"""Engines of one size side by side on one layer of a language model, with the layer's real inputs.

A step of any contender takes part in as many multiply-accumulates, so that areas compare. Area is
that of the whole engine, see `INSIDE` and `OUTSIDE`; values come from the golden model, cycles from
the cycle model that equals the RTL.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.study import executor
from hw.files import FileError
from hw.spec import (
    ENGINES,
    BitSerial,
    Engine,
    FloatLut,
    FloatMac,
    LutDla,
    LutTensorCore,
    Mac,
    SpecError,
    VqCodebook,
    engine_of,
    presets,
)
from hw.spec.base import RefusedError, require
from hw.spec.floating import FP16, FloatEngine
from hw.spec.formats import FLOATS, Activations, Kind, WeightCodes
from hw.synth import AsicResult, synthesize
from sim.cycles import run_cycles
from sim.golden import align, floating, integer
from sim.memory import Platform, traffic
from sim.schedule import fills, plan
from sim.workload import Linear
from sw.activations import quantize_activations
from sw.decoder import Cache, forward, head
from sw.linear import golden_total, host_linear, integer_total, linear_names
from sw.model import LanguageModel, dequantized
from sw.pack import weighed_run
from sw.perplexity import Text, default_context, windows
from sw.quantizers.hessian import Moments
from sw.quantizers.lut_dla import Tables, learn_centroids, tables_of
from sw.quantizers.rounding import quantize
from sw.quantizers.vptq import Vptq, to_tensor, vptq
from sw.rescale import coded_grid, golden_weights
from sw.tensor import QuantError, QuantTensor
from sw.weights import NATIVE, Weights

INSIDE = (
    "operand registers, alignment of floating activations, table build, term decoders, "
    "dequantization, lookups, multipliers, adder trees, accumulators, sums of activations, "
    "sequencer, stream registers"
)
"""What the area of an engine covers, as far as the engine has it."""

OUTSIDE = "rounding of activations, scaling of groups, buffers, memory ports"
"""What every engine needs as much of as any other, and no area here covers."""

TOKENS = 64
"""Tokens of text whose inputs to the layer are multiplied."""

LEARNING_TOKENS = 448
"""Tokens after these whose inputs codebooks and tables are learned from."""

ACTIVATIONS = f"int4 to int16, or {', '.join(FLOATS)}, such as fp16 or fp16:12"

_GUARD_BITS = 4
"""With so many, alignment moves results less than rounding to the floating format did."""


def parse_activations(text: str) -> Activations:
    """The activations that `text` names: `int8`, or `fp16:12` for those aligned to 12 bits.

    Without a width these are as many as a sign, a significand and four guard bits take, up to the
    most there are. Raises `SpecError`.
    """
    found = re.fullmatch(rf"int(\d{{1,2}})|({'|'.join(FLOATS)})(?::(\d{{1,2}}))?", text)
    require(found is not None, "activations", ACTIVATIONS, text)
    assert found is not None
    integers, name, aligned = found.groups()
    if name is None:
        return Activations(int(integers))
    kind = FLOATS[name]
    return Activations(int(aligned or min(16, 2 + kind.mantissa_bits + _GUARD_BITS)), kind)


@dataclass(frozen=True)
class Task:
    """What all contenders must be able to do, and their common size: a step of any takes part in
    m * n * slice_k multiply-accumulates."""

    codes: WeightCodes
    group: int
    activations: Activations
    m: int
    n: int
    slice_k: int

    @property
    def macs_per_step(self) -> int:
        return self.m * self.n * self.slice_k

    def engine(self, engine: type[Engine], **fields: Any) -> Engine:
        """An engine for the task; `fields` are choices of its kind. Raises `SpecError`."""
        kind, bits = self.activations.format, self.activations.bits
        common = {
            "m": self.m,
            "n": self.n,
            "activation_bits": kind.bits if kind and issubclass(engine, FloatEngine) else bits,
            "activation_format": kind.name if kind else "int",
            "weight_bits": self.codes.bits,
            "group_size": self.group,
        }
        spec = engine(**{**common, **fields})
        rule = f"of {spec.macs_per_step} multiply-accumulates a step with these choices"
        require(spec.macs_per_step == self.macs_per_step, "shape", rule, self.macs_per_step)
        spec.coding_of(self.codes)
        return spec


def _lut_tensor_core(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """The paper's tables of four; `P2`, as many planes a step, where weights have them; `0/1`, the
    least tables, of the sums of two activations' subsets; and tables of ternary digits."""

    def tables(k: int, **fields: Any) -> dict[str, Any]:
        return {"k": k, "kg": max(1, task.slice_k // k), **fields}

    found = {"K4": tables(4)}
    planes = next(each for each in (4, 2, 1) if task.codes.bits % each == 0)
    together = f" P{planes}" if planes > 1 else ""
    if planes > 1:
        found[f"K4{together}"] = tables(4, planes_per_step=planes)
    found[f"K2 0/1{together}"] = tables(2, mirrored=False, planes_per_step=planes)
    if task.codes.kind is Kind.TERNARY:
        found |= {f"K{k} ternary": tables(k, base=3) for k in (2, 3)}
    return found


def _mac(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Multipliers of just the weights' width, in several arrangements, and others that are as wide
    for weights as for activations. A systolic array has more rows, of one product each."""
    x, bits = task.activations.bits, task.codes.bits
    trees = {"k": task.slice_k}
    found: dict[str, Mapping[str, Any]] = {f"INT{x}xINT{bits}": trees}
    if bits > 1:
        found[f"INT{x}xINT{bits} shift-add"] = {**trees, "multiplier": "shift_add"}
    rows = {"k": 1, "m": task.m * task.slice_k}
    found[f"INT{x}xINT{bits} systolic"] = {**rows, "arrangement": "systolic"}
    if bits < (wide := min(8, x)):
        found[f"INT{x}xINT{wide}"] = {**trees, "weight_bits": wide}
    return found


def _bit_serial(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Digits from two bits on: of one bit there is a plane. The lane for BitMoD's formats serves
    integers just as well, from the width on that it is built for."""
    floats = task.codes.kind is Kind.BITMOD
    terms = {
        "planes": not floats,
        "booth": not floats and task.codes.bits > 1,
        "bitmod": floats or task.codes.bits >= 4,
        "and": not floats,
        "xnor": not floats,
    }
    skips = {"booth skips": {"k": task.slice_k, "terms": "booth", "skips": True}}
    return (skips if not floats and task.codes.bits > 2 else {}) | {
        name: {"k": task.slice_k, "terms": name, "weight_bits": max(4, task.codes.bits)}
        if name == "bitmod"
        else {"k": task.slice_k, "terms": name}
        for name, fits in terms.items()
        if fits
    }


CONTENDERS: dict[type[Engine], Callable[[Task], Mapping[str, Mapping[str, Any]]]] = {
    LutTensorCore: _lut_tensor_core,
    Mac: _mac,
    BitSerial: _bit_serial,
}
"""By the class of its spec, the variants of an engine that are worth comparing at a task, by name:
the choices that make each what it is."""


def _float_mac(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Whole products of codes, of dequantized codes, and of weights that are floating."""
    trees, bits = {"k": task.slice_k}, task.codes.bits
    return {
        f"FLOATxINT{bits}, FP16 sums": {**trees, "sums": "fp16"},
        f"FLOATxINT{bits}, FP32 sums": {**trees, "sums": "fp32"},
        f"FLOATxFP16 of INT{bits}, FP32 sums": {**trees, "sums": "fp32", "weights": "dequantized"},
        "FLOATxFP16, FP32 sums": {**trees, "sums": "fp32", "weights": "fp16"},
    }


def _float_lut(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """The paper's tables, with as many as in others added by a tree, and one by one as there."""
    kg = max(1, task.slice_k // 4)
    return {
        "K4, FP16 sums": {"kg": kg},
        f"K4 N{task.n * kg}, FP16 sums": {"kg": 1, "n": task.n * kg},
    }


FLOAT_CONTENDERS: dict[
    type[Engine], tuple[type[Engine], Callable[[Task], Mapping[str, Mapping[str, Any]]]]
] = {LutTensorCore: (FloatLut, _float_lut), Mac: (FloatMac, _float_mac)}
"""By the class of an engine's spec, the baseline that sums floating numbers in its place."""


@dataclass(frozen=True)
class Peer:
    """A published design with its area per multiply-accumulate a cycle.

    The areas are our own, of the published Verilog in the library that engines are stated in, with
    Yosys 0.70 and without sizing of gates. Their boundaries differ, see `what`.
    """

    name: str
    what: str
    source: str
    activations: str
    um2_per_mac_per_cycle: Mapping[str, float]
    """By the name of the weights' format."""


_LUT_TENSOR_CORE = "Mo et al., LUT Tensor Core, ISCA 2025 (arXiv 2408.06003), its artifact"
_BITMOD = "Chen et al., BitMoD, HPCA 2025 (arXiv 2411.11745), its Verilog"

PEERS = (
    Peer(
        "LUT Tensor Core M2 N64 K4",
        "FP16 tables and adders; without the tables' registers and build",
        _LUT_TENSOR_CORE,
        "fp16",
        {"w1": 227, "w2": 459, "w4": 928},
    ),
    Peer(
        "BitMoD PE",
        "four bit-serial lanes, group accumulator and scaling",
        _BITMOD,
        "fp16",
        {"bitmod3": 1856, "bitmod4": 1856, "w6": 2784, "w8": 3711},
    ),
    Peer(
        "dual FMA",
        "FP16 fused multiply-add for one INT8 or two 4-bit weights, which it decodes in part",
        _BITMOD,
        "fp16",
        {"bitmod3": 1582, "bitmod4": 1582, "w4": 1582},
    ),
    Peer(
        "FP16 x INT8 FMA",
        "fused multiply-add with registers",
        _BITMOD,
        "fp16",
        {f"w{bits}": 1941 for bits in range(4, 9)},
    ),
)
"""Only those whose figures are in the same library."""


def peers(task: Task) -> list[dict[str, Any]]:
    """The published designs for such weights and activations, JSON-serializable."""
    kind = task.activations.format
    return [
        {
            "name": each.name,
            "what": each.what,
            "source": each.source,
            "area_um2_per_mac_per_cycle": each.um2_per_mac_per_cycle[task.codes.name],
        }
        for each in PEERS
        if kind is not None
        and each.activations == kind.name
        and task.codes.name in each.um2_per_mac_per_cycle
    ]


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer of a model: its weights as codes, and what it is given for a text."""

    linear: Linear
    tensor: QuantTensor
    weights: NDArray[np.float32]
    """[N, K], as shipped."""
    inputs: NDArray[np.float32]
    """[tokens, K], as the model computes them in float32 with its weights as shipped."""
    more_inputs: NDArray[np.float32]
    """The same of the tokens after these."""


@dataclass(frozen=True)
class Contender:
    """An engine to compare, or the reason why there is none of that name."""

    name: str
    spec: Engine | None
    refused: str | None = None
    layer: Layer | None = None
    """The layer in a form of its own, where the engine takes no codes of single weights."""


def contenders(
    task: Task, engines: Collection[str], named: bool = False, floating: bool = False
) -> list[Contender]:
    """The variants of the engines, given by stem; if `named`, also all presets that fit the task,
    and if `floating`, the baselines whose sums are floating.

    Presets have sizes of their own.
    """
    found = []
    kinds = [
        (stem, kind, CONTENDERS[kind])
        for stem, kind in ((stem, ENGINES[stem]) for stem in engines)
        if kind in CONTENDERS
    ]
    if floating:
        rule = f"floating beside floating baselines: {', '.join(FLOATS)}"
        require(task.activations.format is not None, "activations", rule, "integers")
        baselines = [(stem, FLOAT_CONTENDERS.get(ENGINES[stem])) for stem in engines]
        kinds += [(stem, *each) for stem, each in baselines if each is not None]
    for stem, kind, variants in kinds:
        for variant, fields in variants(task).items():
            name = f"{stem} {variant}"
            try:
                found.append(Contender(name, task.engine(kind, **fields)))
            except SpecError as error:
                found.append(Contender(name, None, str(error)))
    if named:
        found += [
            Contender(name, spec)
            for name, spec in presets.ENGINES.items()
            if spec.activations == task.activations and spec.accepts(task.codes)
        ]
    return found


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
            name, form = f"{stem} {variant}", _linear(layer.linear.name, tensor)
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


def require_any(task: Task, engines: Collection[str], found: Sequence[Contender]) -> None:
    """Raise `RefusedError` where no engine is left to compare."""
    if all(each.spec is None for each in found):
        reasons = dict.fromkeys(each.refused for each in found if each.refused)
        reason = "; ".join(reasons) or f"none of {', '.join(engines)} for {task.codes.name}"
        raise RefusedError(f"no engine to compare: {reason}")


def _linear(name: str, tensor: QuantTensor) -> Linear:
    vectors = None if tensor.format.is_direct else tensor.index_bits
    shape = tensor.shape
    return Linear(name, *shape, tensor.format, tensor.group, tensor.group_bits, vector_bits=vectors)


def layer_of(model: LanguageModel, name: str, weights: Weights, text: Text) -> Layer:
    """The layer `name` in the chosen weights, with its inputs for the first tokens of `text`.

    Raises `UnknownNameError` with the near names, and `QuantError` where there are no codes.
    """
    names = linear_names(model)
    if name not in names:
        block = name.partition(".")[0] if name.partition(".")[0].isdecimal() else "0"
        near = [each for each in names if each.startswith(f"{int(block)}.")]
        raise presets.UnknownNameError("layer", name, [*near, names[-1]])
    tensor = model.matrix(name)
    whole = dequantized(tensor)
    if weights.rounding is not None:
        tensor = quantize(whole, weights.rounding)
    elif weights != NATIVE or not isinstance(tensor, QuantTensor):
        raise QuantError(f"weights: {weights.name} gives no codes for layer {name}")
    most = TOKENS + LEARNING_TOKENS
    inputs = inputs_of(model, name, windows(model, text, most, default_context(model))[0][:most])
    return Layer(_linear(name, tensor), tensor, whole, inputs[:TOKENS], inputs[TOKENS:])


def inputs_of(model: LanguageModel, name: str, tokens: Sequence[int]) -> NDArray[np.float32]:
    """What the layer `name` is given when the model, as shipped, reads `tokens`; [tokens, K]."""

    class Reached(Exception):
        """Ends the forward pass where the layer begins."""

    def linear(names: Sequence[str], x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if name in names:
            raise Reached(x)
        return [host_linear(model, each)(x) for each in names]

    try:
        head(model, linear, forward(model, linear, tokens, Cache(model.config, len(tokens))))
    except Reached as reached:
        return reached.args[0]
    raise AssertionError(f"no forward pass uses {name}")


@dataclass(frozen=True)
class Exactness:
    """How far an engine's results are from a product in float64 of the same quantized weights."""

    max_abs_difference: float
    """From that with the engine's own activations, in units of the activations' last place, if they
    are integers; 0 unless the engine rounds."""
    max_rel_difference: float
    """The same over the largest magnitude of a result."""
    activation_error: float
    """From that with the activations as they were before rounding: root mean square over all
    results, over theirs. Of tables, which hold no weights, that with the weights as shipped."""
    layer_error: float
    """From the layer as shipped, its weights and activations in float64, in the same measure."""


def _float_total(spec: FloatEngine, tensor: QuantTensor, x: NDArray[np.float64]) -> NDArray[Any]:
    """The layer's outputs [tokens, N] for activations [tokens, K], groups scaled in float64."""
    coding = spec.coding_of(tensor.format)
    grid = coded_grid(tensor, coding)
    scale, offset = grid.scale, grid.offset
    if isinstance(spec, FloatLut):
        planes = coding.planes
        weights: NDArray[Any] = tensor.codes
        sums = functools.partial(floating.lut_sums, spec, planes=planes)
    else:
        assert isinstance(spec, FloatMac)
        sums = functools.partial(floating.mac_sums, spec)
        if spec.weights == "fp16":
            weights = align.decode(align.encode(tensor.rows(slice(None), np.float64), FP16), FP16)
            scale, offset = np.ones_like(scale), np.zeros_like(offset)
        else:
            weights = integer.weights(spec, tensor.codes, tensor.format, tensor.group)
        if spec.weights == "dequantized":
            codes = align.encode(np.repeat(scale, tensor.group, axis=1), FP16)
            weights = floating.dequantized(weights, codes[:, : weights.shape[1]])
            scale = np.ones_like(scale)
    part = plan(spec, _whole(tensor), 1).group_slices * spec.slice_k
    total = np.zeros((len(x), tensor.shape[0]))
    for g, start in enumerate(range(0, tensor.shape[1], tensor.group)):
        inside = slice(start, start + tensor.group)
        psum, row_sum = floating.group_by_group(sums, x[:, inside], weights[:, inside], part)
        total += psum.sum(axis=1) * scale[:, g] + row_sum.sum(axis=1)[:, None] * offset[:, g]
    return total


def _whole(tensor: QuantTensor) -> Linear:
    return Linear("", *tensor.shape, tensor.format, tensor.group, tensor.group_bits)


def _float_exactness(spec: FloatEngine, layer: Layer) -> Exactness:
    x = align.decode(align.encode(layer.inputs, spec.kind), spec.kind)
    weights = layer.tensor.rows(slice(None), np.float64)
    found, same = _float_total(spec, layer.tensor, x), x @ weights.T
    ideal = layer.inputs.astype(np.float64) @ weights.T
    largest = float(np.abs(found - same).max())
    return Exactness(
        max_abs_difference=largest,
        max_rel_difference=largest / float(np.abs(same).max()),
        activation_error=_error(found, ideal),
        layer_error=_error(found, _shipped(layer)),
    )


def _shipped(layer: Layer) -> NDArray[np.float64]:
    return layer.inputs.astype(np.float64) @ layer.weights.astype(np.float64).T


def _error(found: NDArray[np.float64], ideal: NDArray[np.float64]) -> float:
    return math.sqrt(((found - ideal) ** 2).mean() / (ideal**2).mean())


def exactness(spec: Engine, layer: Layer) -> Exactness:
    """Multiply the layer through the engine's golden model."""
    if isinstance(spec, FloatEngine):
        return _float_exactness(spec, layer)
    tensor = layer.tensor
    a = quantize_activations(layer.inputs, spec.activations)
    found = golden_total(spec, tensor, golden_weights(spec, tensor), a.x)
    same = integer_total(tensor, a.x)
    ideal = shipped = _shipped(layer)
    if tensor.centroids is None:
        ideal = layer.inputs.astype(np.float64) @ tensor.rows(slice(None), np.float64).T
    largest = float(np.abs(found - same).max())
    scaled = found * a.scale[:, None]
    return Exactness(
        max_abs_difference=largest,
        max_rel_difference=largest / float(np.abs(same).max()),
        activation_error=_error(scaled, ideal),
        layer_error=_error(scaled, shipped),
    )


def area(spec: Engine) -> AsicResult:
    """The engine in standard cells. Raises `FileError` where the machine is at fault, else
    `RefusedError`; both cross processes."""
    try:
        return synthesize(spec, "asic")
    except FileError as error:
        raise FileError(str(error)) from None
    except RefusedError as error:
        raise RefusedError(str(error)) from None


def areas(
    found: Sequence[Contender],
    workers: int,
    advance: Callable[[list[str], int], None] = lambda running, done: None,
) -> dict[str, AsicResult | RefusedError]:
    """The engines in standard cells by name, `workers` at a time; or why a tool gave none.

    `advance` is told who is being synthesized and how many are done. Raises `FileError`.
    """
    waiting = [each for each in found if each.spec is not None]
    workers = min(workers, len(waiting))
    results: dict[str, AsicResult | RefusedError] = {}
    if not waiting:
        return results
    with executor(workers) as pool:
        running: dict[concurrent.futures.Future[AsicResult], str] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                chosen = waiting.pop(0)
                advance([*running.values(), chosen.name], len(results))
                assert chosen.spec is not None
                running[pool.submit(area, chosen.spec)] = chosen.name
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                name = running.pop(future)
                try:
                    results[name] = future.result()
                except FileError:
                    raise
                except RefusedError as error:
                    results[name] = error
            advance(list(running.values()), len(results))
    return results


def row(
    contender: Contender, result: AsicResult | RefusedError | None, layer: Layer, rows: int
) -> dict[str, Any]:
    """All facts of one contender on the layer, with units in the names; JSON-serializable.

    A refused one has `refused`, the reason, and nothing else than its name.
    """
    layer = contender.layer or layer
    spec, linear = contender.spec, layer.linear
    if spec is None or not isinstance(result, AsicResult):
        return {"name": contender.name, "refused": contender.refused or str(result)}
    if result.memory_bits:
        reason = f"its memories of {result.memory_bits:,} bits have no area in standard cells"
        return {"name": contender.name, "refused": reason}
    run = weighed_run(spec, linear, layer.tensor, rows)
    steps = run.steps / (run.tiles * run.slices)
    cycles = run_cycles(spec, [*fills(spec), run])
    whole = isinstance(spec, FloatMac) and spec.weights == "fp16"
    without_scales = dataclasses.replace(linear, group_bits=0) if whole else linear
    moved = traffic(spec, without_scales, rows, Platform())
    found = exactness(spec, layer)
    return {
        "name": contender.name,
        "refused": None,
        "engine": engine_of(spec),
        "spec": spec.to_dict(),
        "digest": spec.digest,
        "max_abs_difference": found.max_abs_difference,
        "max_rel_difference": found.max_rel_difference,
        "activation_error": found.activation_error,
        "layer_error": found.layer_error,
        "slice_steps": steps,
        "cycles": cycles,
        "macs_per_cycle": spec.macs_per_step / steps,
        "area_um2": result.area_um2,
        "area_ge": result.area_ge,
        "cells": sum(result.cells.values()),
        "delay_ns": result.delay_ns,
        "area_um2_per_mac_per_cycle": result.area_um2 * steps / spec.macs_per_step,
        "area_cycles_um2": result.area_um2 * cycles,
        "area_time_um2_ns": result.area_um2 * cycles * result.delay_ns,
        "weight_bytes": moved.weight_bytes,
        "scale_bytes": moved.scale_bytes,
        "activation_bytes": moved.activation_bytes,
        "result_bytes": moved.result_bytes,
        "moved_bytes": moved.total_bytes,
        "library": result.library,
        "tool": result.tool,
    }


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `area_cycles_of_best`, that of the best exact engine being 1; best first,
    refused ones last."""
    compared = [each for each in rows if each["refused"] is None]
    exact = [each for each in compared if each["max_abs_difference"] == 0] or compared
    best = min((each["area_cycles_um2"] for each in exact), default=1.0)
    compared.sort(key=lambda each: each["area_cycles_um2"])
    found = [{**each, "area_cycles_of_best": each["area_cycles_um2"] / best} for each in compared]
    return [*found, *(each for each in rows if each["refused"] is not None)]
