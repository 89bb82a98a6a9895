"""The engines of a comparison: variants of every engine at one size.

A step of every contender takes part in the same number of multiply-accumulates, so that areas can
be compared.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.dse.compare.layer import ComparedLayer
from evolute.hw.spec import (
    ENGINES,
    BitSerial,
    Engine,
    FloatLut,
    FloatMac,
    LutTensorCore,
    Mac,
    SpecError,
    presets,
)
from evolute.hw.spec.base import require
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.spec.formats import FLOATS, Activations, Kind, WeightCodes
from evolute.hw.spec.scaling import Scaling
from evolute.support.errors import RefusedError

ACTIVATIONS = f"int4 to int16, or {', '.join(FLOATS)}, such as fp16 or fp16:12"

_GUARD_BITS = 4
"""Bits below the significand that alignment keeps. With these it changes results less than rounding
to the floating format has done before."""


def parse_activations(text: str) -> Activations:
    """The activations that `text` names: `int8`, or `fp16:12` for floating ones aligned to 12 bits.

    The default width is a sign, a significand and four guard bits, up to the largest possible
    width. Raises `SpecError`.
    """
    match = re.fullmatch(rf"int(\d{{1,2}})|({'|'.join(FLOATS)})(?::(\d{{1,2}}))?", text)
    require(match is not None, "activations", ACTIVATIONS, text)
    assert match is not None
    integers, name, aligned = match.groups()
    if name is None:
        return Activations(int(integers))
    kind = FLOATS[name]
    return Activations(int(aligned or min(16, 2 + kind.mantissa_bits + _GUARD_BITS)), kind)


def activations_name(activations: Activations) -> str:
    """The text from which `parse_activations` gives these activations."""
    kind, bits = activations.format, activations.bits
    return f"int{bits}" if kind is None else f"{kind.name}:{bits}"


@dataclass(frozen=True)
class Task:
    """What all contenders must be able to do, and their common size: a step takes part in m * n *
    slice_k multiply-accumulates."""

    codes: WeightCodes
    group: int
    activations: Activations
    m: int
    n: int
    slice_k: int

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates in which a step takes part."""
        return self.m * self.n * self.slice_k

    def engine(self, engine: type[Engine], **fields: Any) -> Engine:
        """An engine for the task; `fields` are choices of its class. Raises `SpecError`."""
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

    def preset(self, spec: Engine) -> Engine:
        """Returns the named engine `spec` unchanged. Raises `SpecError` if it does not take the
        task's activations and codes."""
        self.require_activations(spec.activations)
        spec.coding_of(self.codes)
        return spec

    def require_activations(self, of_preset: Activations) -> None:
        """Raise `SpecError` unless a preset with the activations `of_preset` takes the task's."""
        preset_name, task_name = activations_name(of_preset), activations_name(self.activations)
        require(
            preset_name == task_name, "activations", f"{preset_name} for this preset", task_name
        )


def _lut_tensor_core(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants: the paper's tables of four inputs (`K4`); several planes per step (`P2`) where
    weights have them; the smallest tables, with the sums of subsets of two activations (`0/1`); and
    tables of ternary digits."""

    def tables(k: int, **fields: Any) -> dict[str, Any]:
        return {"k": k, "kg": max(1, task.slice_k // k), **fields}

    choices = {"K4": tables(4)}
    planes = next(count for count in (4, 2, 1) if task.codes.bits % count == 0)
    together = f" P{planes}" if planes > 1 else ""
    if planes > 1:
        choices[f"K4{together}"] = tables(4, planes_per_step=planes)
    choices[f"K2 0/1{together}"] = tables(2, mirrored=False, planes_per_step=planes)
    if task.codes.kind is Kind.TERNARY:
        choices |= {f"K{k} ternary": tables(k, base=3) for k in (2, 3)}
    return choices


def _mac(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants: multipliers as wide as the weights, in several arrangements, and multipliers as
    wide for weights as for activations. A systolic array has more rows, of one product each."""
    x, bits = task.activations.bits, task.codes.bits
    trees = {"k": task.slice_k}
    choices: dict[str, Mapping[str, Any]] = {f"INT{x}xINT{bits}": trees}
    if bits > 1:
        choices[f"INT{x}xINT{bits} shift-add"] = {**trees, "multiplier": "shift_add"}
    rows = {"k": 1, "m": task.m * task.slice_k}
    choices[f"INT{x}xINT{bits} systolic"] = {**rows, "arrangement": "systolic"}
    if bits < (wide := min(8, x)):
        choices[f"INT{x}xINT{wide}"] = {**trees, "weight_bits": wide}
    return choices


def _bit_serial(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants by the terms into which weights are split; digits need at least two bits. The lane
    for BitMoD's formats also works for integers of its width."""
    floats = task.codes.kind is Kind.BITMOD
    terms = {
        "planes": not floats,
        "booth": not floats and task.codes.bits > 1,
        "bitmod": floats or task.codes.bits >= 4,
        "and": not floats,
        "xnor": not floats,
    }
    choices: dict[str, dict[str, Any]] = {
        name: {"k": task.slice_k, "terms": name} for name, fits in terms.items() if fits
    }
    if "bitmod" in choices:
        choices["bitmod"]["weight_bits"] = max(4, task.codes.bits)
    if task.codes.bits > 2:
        base = "bitmod" if floats else "booth"
        choices[f"{base} skips"] = {**choices[base], "skips": True}
    return choices


CONTENDERS: dict[type[Engine], Callable[[Task], Mapping[str, Mapping[str, Any]]]] = {
    LutTensorCore: _lut_tensor_core,
    Mac: _mac,
    BitSerial: _bit_serial,
}
"""By the class of its spec, the variants of an engine that are worth comparing at a task, by name:
the choices that make each what it is."""


def _float_mac(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants: multipliers for codes, for dequantized codes, and for floating weights."""
    trees, bits = {"k": task.slice_k}, task.codes.bits
    return {
        f"FLOATxINT{bits}, FP16 sums": {**trees, "sums": "fp16"},
        f"FLOATxINT{bits}, FP32 sums": {**trees, "sums": "fp32"},
        f"FLOATxFP16 of INT{bits}, FP32 sums": {**trees, "sums": "fp32", "weights": "dequantized"},
        "FLOATxFP16, FP32 sums": {**trees, "sums": "fp32", "weights": "fp16"},
    }


def _float_lut(task: Task) -> Mapping[str, Mapping[str, Any]]:
    """Variants: the paper's tables, with several per column added by a tree as in the other
    engines, and with one per column as in the paper."""
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
class Contender:
    """An engine to compare, or the reason why it cannot be built."""

    name: str
    spec: Engine | None
    refused: str | None = None
    layer: ComparedLayer | None = None
    """The layer in a form of its own, where the engine takes no codes of single weights."""
    scalings: tuple[Scaling, ...] = ()
    """What can scale its results as fast as they come, see `dse.compare.scaling`."""


def contenders(
    task: Task, engines: Collection[str], named: bool = False, floating: bool = False
) -> list[Contender]:
    """The variants of the engines, which are named by their stems; with `floating`, also the
    baselines with floating sums; with `named`, also the engines' presets.

    Presets have sizes of their own. Engines that do not fit the task have the reason in `refused`.
    """
    chosen = [(stem, ENGINES[stem]) for stem in engines if ENGINES[stem] in CONTENDERS]
    kinds = [(stem, kind, CONTENDERS[kind]) for stem, kind in chosen]
    if floating:
        rule = f"floating beside floating baselines: {', '.join(FLOATS)}"
        require(task.activations.format is not None, "activations", rule, "integers")
        kinds += [
            (stem, *FLOAT_CONTENDERS[kind]) for stem, kind in chosen if kind in FLOAT_CONTENDERS
        ]
    builds: dict[str, Callable[[], Engine]] = {}
    for stem, kind, variants in kinds:
        builds |= variants_of(task, stem, kind, variants(task))
    if named:
        builds |= presets_of(task, [kind for _, kind in chosen])
    contenders_of_all = []
    for name, build in builds.items():
        try:
            contenders_of_all.append(Contender(name, build()))
        except SpecError as error:
            contenders_of_all.append(Contender(name, None, str(error)))
    return contenders_of_all


def variants_of(
    task: Task, stem: str, kind: type[Engine], variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, Callable[[], Engine]]:
    """Functions that build an engine's variants for the task, or raise `SpecError`, by name."""
    return {
        f"{stem} {variant}": functools.partial(task.engine, kind, **fields)
        for variant, fields in variants.items()
    }


def presets_of(task: Task, kinds: Collection[type[Engine]]) -> dict[str, Callable[[], Engine]]:
    """Functions that give the named engines of these classes, or raise `SpecError`, by name."""
    return {
        name: functools.partial(task.preset, spec)
        for name, spec in presets.ENGINE_PRESETS.items()
        if type(spec) in kinds
    }


def require_any(task: Task, engines: Collection[str], candidates: Sequence[Contender]) -> None:
    """Raise `RefusedError` if there is no engine to compare."""
    if all(contender.spec is None for contender in candidates):
        reasons = dict.fromkeys(contender.refused for contender in candidates if contender.refused)
        reason = "; ".join(reasons) or f"none of {', '.join(engines)} for {task.codes.name}"
        raise RefusedError(f"no engine to compare: {reason}")
