"""LUT-DLA in its published form on the same layer, beside the engines of a comparison.

Its tables and sums are in memories, for which a standard-cell library has no area. So it cannot be
ranked by area; the area of its logic and the bits of its memories are stated instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolute.dse.compare.contenders import Task
from evolute.dse.compare.layer import ComparedLayer
from evolute.dse.compare.own_forms import fitted, tables, tables_for
from evolute.hw.spec import LutStationary, SpecError, presets
from evolute.hw.spec.formats import Activations
from evolute.hw.synthesis.synth import synthesize
from evolute.sim.golden import lut_stationary as golden
from evolute.sim.timing.lut_stationary import Clocks, StationaryTransfers, command_of, fold
from evolute.sim.weights import Table, group_bounds
from evolute.support import schema
from evolute.sw.quantizers.lut_dla import Tables
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.tensor import QuantTensor

_TREE = {"encoder": "tree", "beat_centroids": 16}
_GATHER = {**_TREE, "tables": "gather", "keeps_indices": True}

VARIANTS: dict[str, dict[str, Any]] = {
    "chain, two banks": {},
    "tree, two banks": _TREE,
    "tree, gather": _GATHER,
    "tree, gather once": {**_GATHER, "dedup": True},
}
"""Arrangements worth a look, by name: choices of `hw.spec.lut_stationary`."""

FAST = Clocks(encoder=1, matcher=2)
"""An encoder of twice the matcher's clock."""

_MOST_ROWS = 64


def products(
    spec: LutStationary, tensor: QuantTensor, x: np.ndarray
) -> list[list[golden.CommandProduct]]:
    """The commands for rows [M, K] of integers: for every scale group, one for each tile of rows.
    Groups are separate because their sums are scaled separately."""
    assert isinstance(tensor.form, Table)
    points = tensor.form.centroids.points
    entries = tensor.codes.astype(np.int64) - tensor.format.levels // 2
    table = entries.reshape(len(entries), len(points), -1).transpose(1, 2, 0)
    parts, first_subspace = [], 0
    for start, end in group_bounds(x.shape[1], tensor.group):
        spaces = slice(first_subspace, first_subspace + -(-(end - start) // spec.v))
        first_subspace = spaces.stop
        parts.append(
            [
                golden.product(
                    spec, x[row : row + spec.m, start:end], points[spaces], table[spaces]
                )
                for row in range(0, len(x), spec.m)
            ]
        )
    return parts


@dataclass(frozen=True)
class Arrangement:
    """One machine for a layer, or the reason why it cannot be built."""

    name: str
    spec: LutStationary | None
    refused: str | None = None
    tensor: QuantTensor | None = None
    """The layer in tables."""


def arrangements(
    task: Task, layer: ComparedLayer, rows: int, named: bool = False
) -> list[Arrangement]:
    """Machines with as many columns as the streaming engine has for the task, and a scratchpad for
    the rows; with `named`, also the presets. There are none for floating activations."""
    builds: dict[str, Callable[[], LutStationary]] = {}
    for fields in tables(task).values():
        for name, choices in VARIANTS.items():
            builds[f"lut_stationary {name}"] = functools.partial(
                LutStationary,
                **fields,
                m=min(_MOST_ROWS, max(2, rows)),
                lanes=fields["centroids"],
                subspaces=-(-min(task.group, layer.linear.k) // fields["v"]),
                activation_bits=task.activations.bits,
                beat_entries=fields["n"],
                **choices,
            )
    if named:
        builds |= {
            name: functools.partial(_preset, task, spec)
            for name, spec in presets.UNIT_PRESETS.items()
            if isinstance(spec, LutStationary)
        }
    built: list[Arrangement] = []
    learned: dict[Tables, QuantTensor] = {}
    for name, build in builds.items():
        try:
            spec = build()
            choice = tables_for(spec, min(layer.linear.group, spec.subspaces * spec.v))
            if choice not in learned:
                learned[choice] = fitted(choice, layer)
        except SpecError as error:
            built.append(Arrangement(name, None, str(error)))
        else:
            built.append(Arrangement(name, spec, tensor=learned[choice]))
    return built


def _preset(task: Task, spec: LutStationary) -> LutStationary:
    """Returns the named machine `spec` unchanged. Raises `SpecError` unless it takes the task's
    activations."""
    task.require_activations(Activations(spec.activation_bits))
    return spec


def stationary_row(
    arrangement: Arrangement, task: Task, layer: ComparedLayer, rows: int
) -> schema.ComparedUnit:
    """All facts about one arrangement on the layer for the first `rows` tokens, or all tokens if
    there are fewer.

    An arrangement without a spec only has its name and the reason in `refused`. Raises the errors
    of `hw.synthesis.synth.synthesize`.
    """
    if arrangement.spec is None or arrangement.tensor is None:
        return schema.ComparedUnit(arrangement.name, arrangement.refused)
    x = quantize_activations(layer.inputs[:rows], task.activations).x
    result = synthesize(arrangement.spec, "asic")
    return schema.ComparedUnit(
        name=arrangement.name,
        refused=None,
        **timed(arrangement.spec, arrangement.tensor, x),
        logic_um2=result.area_um2,
        logic_ge=result.area_ge,
        delay_ns=result.delay_ns,
        memory_bits=result.memory_bits,
        library=result.library,
        tool=result.tool,
    )


def timed(spec: LutStationary, tensor: QuantTensor, x: np.ndarray) -> dict[str, Any]:
    """Cycles and bytes of the layer for rows [M, K] of integers, if no stream has to wait."""
    commands = [
        command_of(spec, area.shape, golden.asked(spec, area))
        for group in products(spec, tensor, x)
        for area in group
    ]
    moved = fold(spec, commands)
    return {
        "spec": spec.to_dict(),
        "digest": spec.digest,
        "tokens": len(x),
        "cycles": moved.cycles,
        "cycles_fast_encoder": fold(spec, commands, FAST).cycles,
        "macs_per_cycle": spec.n * spec.v,
        **moved_bytes(spec, moved),
    }


def moved_bytes(spec: LutStationary, moved: StationaryTransfers) -> dict[str, int]:
    """Bytes that crossed the streams. Each beat is rounded up to whole bytes."""
    streams = spec.streams
    return {
        f"{name}_bytes": len(getattr(moved, name)) * -(-beat.bits // 8)
        for name in ("table", "centroid", "activation", "request", "result")
        if (beat := getattr(streams, name)) is not None
    }
