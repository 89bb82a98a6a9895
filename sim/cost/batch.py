"""What workloads cost on very many engines at once: arrays over designs, layers and phases.

Every number is the one that `sim.cost.engine` gives for the design alone, since its formulas are
what is evaluated here, with a column of designs in the place of a spec (`sim.cost.columns`). Where
steps depend on weights every beat takes the most there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.columns import Designs, Indices, uniform_parts
from evolute.sim.cost.engine import LayerCost, Phase, layer_cost, totals
from evolute.sim.workload.linear import Linear

BLOCK = 1 << 15
"""Layers of designs evaluated at once: with more, arrays leave the processor's caches."""

Point = tuple[Linear, int]
"""A layer with its rows of activations."""


@dataclass(frozen=True)
class LayerColumns:
    """One linear layer, once, on every design; arrays [designs]. See `LayerMetrics`."""

    linear: Linear
    rows: int
    platform: Platform
    cycles: NDArray[np.int64]
    dram_bytes: NDArray[np.int64]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The longer of computing and moving."""
        compute_seconds = self.cycles / self.platform.frequency_hz
        memory_seconds = self.dram_bytes / self.platform.bandwidth_bytes_per_s
        return np.maximum(compute_seconds, memory_seconds)


@dataclass(frozen=True)
class PhaseColumns:
    """All layers of a phase on every design; arrays [designs]. See `PhaseMetrics`."""

    phase: Phase
    cycles: NDArray[np.int64]
    ideal_cycles: NDArray[np.float64]
    """Cycles without padding, fill and drain."""
    dram_bytes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    compute_seconds: NDArray[np.float64]
    memory_seconds: NDArray[np.float64]
    layers: tuple[LayerColumns, ...]

    @property
    def tokens_per_s(self) -> NDArray[np.float64]:
        return self.phase.tokens / self.seconds

    @property
    def utilization(self) -> NDArray[np.float64]:
        return self.ideal_cycles / self.cycles


@dataclass(frozen=True)
class ColumnMetrics:
    """What the designs that can run the phases do with them."""

    designs: Designs
    priced: Indices
    """Places of the designs that are legal and run the weights of all layers, in order; all figures
    are of these."""
    steps_are_bounds: NDArray[np.bool_]
    """Of which of them the figures that follow from steps are bounds, as `Metrics` says it."""
    phases: tuple[PhaseColumns, ...]


def evaluate_columns(
    designs: Designs, phases: Sequence[Phase], platform: Platform
) -> ColumnMetrics:
    """Time and traffic of phases, such as those of `phase_of`, on each of many engines.

    Layers that several phases ask for with as many rows are evaluated once. Raises `SpecError` for
    rows so many that totals might exceed int64.
    """
    points = list(dict.fromkeys(point for phase in phases for point in phase.layers))
    formats = dict.fromkeys(linear.format for linear, _ in points)

    def runs_all(spec: Engine) -> bool | None:
        return all(spec.accepts(codes) for codes in formats) or None

    parts = [part for part, _ in designs.parts(runs_all)]
    priced = np.sort(np.concatenate([np.arange(0), *parts]))
    place = np.zeros(len(designs), np.int64)
    place[priced] = np.arange(len(priced))

    def column(kind: type) -> NDArray[Any]:
        return np.empty(len(priced), kind)

    layers = {point: LayerColumns(*point, platform, column(int), column(int)) for point in points}
    sums = [[column(of) for of in (int, float, int, float, float, float)] for _ in phases]
    bounds = column(bool)

    def evaluate(part: Indices) -> None:
        spec, here = designs.spec(part), place[part]
        _require_int64(spec, phases)
        costs = _layer_costs(spec, len(part), points, platform)
        for point, cost in costs.items():
            layers[point].cycles[here] = cost.cycles
            layers[point].dram_bytes[here] = cost.dram_bytes
        for phase, columns in zip(phases, sums, strict=True):
            of_all = totals(phase, [costs[point] for point in phase.layers])
            for values, total in zip(columns, of_all, strict=True):
                values[here] = total
        bounds[here] = not spec.steps_are_fixed

    size = max(1, BLOCK // max(1, len(points)))
    blocks = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
    for _ in uniform_parts(blocks, evaluate):
        pass
    return ColumnMetrics(
        designs,
        priced,
        bounds,
        tuple(
            PhaseColumns(phase, *columns, layers=tuple(layers[point] for point in phase.layers))
            for phase, columns in zip(phases, sums, strict=True)
        ),
    )


def _layer_costs(
    spec: Engine, count: int, points: Sequence[Point], platform: Platform
) -> dict[Point, LayerCost]:
    """The costs of layers on `count` designs. Layers whose weights are alike are evaluated at once,
    as one whose sizes are arrays, [layers, 1]."""
    alike: dict[tuple[WeightCodes, int, int], list[Point]] = {}
    for linear, rows in points:
        weights = linear.format, linear.group, linear.group_bits
        alike.setdefault(weights, []).append((linear, rows))
    costs = {}
    for together in alike.values():
        sizes = np.array([[linear.n, linear.k, rows] for linear, rows in together])
        n, k, rows = (cast(Any, size[:, None]) for size in sizes.T)
        linear = replace(together[0][0], n=n, k=k)
        _, _, *figures = layer_cost(spec, linear, rows, platform)
        arrays: list[Any] = [np.broadcast_to(figure, (len(together), count)) for figure in figures]
        for place, point in enumerate(together):
            costs[point] = LayerCost(*point, *(figure[place] for figure in arrays))
    return costs


def _require_int64(spec: Engine, phases: Sequence[Phase]) -> None:
    """Raise `SpecError` if a total of a phase might exceed int64, or the cycles of a layer what
    float64 holds exactly, on an engine with the worst of all the designs' choices."""

    def most(numbers: int) -> int:
        return int(np.max(numbers))

    m, n, slice_k = (int(np.min(choice)) for choice in (spec.m, spec.n, spec.slice_k))
    period, beat_bytes = most(spec.result_period_cycles), most(spec.weight_beat_bytes)
    fill_beats = sum(most(fill.slices * fill.planes) for fill in spec.fills)
    formats = {linear.format for phase in phases for linear, _ in phase.layers}
    codings = {codes: spec.coding_of(codes) for codes in formats}
    planes = {codes: most(coding.planes) for codes, coding in codings.items()}
    steps = {codes: most(spec.beat_steps(coding.mode)) for codes, coding in codings.items()}
    for phase in phases:
        of_phase = 0
        for linear, rows in phase.layers:
            codes, groups = linear.format, linear.groups
            tiles = -(-rows // m) * -(-linear.n // n)
            slices = tiles * groups * -(-linear.group // slice_k)
            cycles = slices * (planes[codes] * steps[codes] + period) + fill_beats
            stored = 4 * linear.k + linear.n * (groups * linear.group_bits + 2)
            moved = (slices * planes[codes] + fill_beats) * beat_bytes + rows * stored
            of_phase += phase.passes * linear.count * (cycles + moved)
            fits = cycles < 1 << 53 and of_phase < 1 << 62
            require(fits, "rows", "few enough for totals in 64 bits", rows)
