"""What a workload costs on an engine alone: exact cycles, and a memory bus that is modelled.

The formulas here and those of `sim.timing` that they use hold for many engines at once, too: with
the specs of `sim.cost.columns` every number that depends on the engine is an array with an element
per engine. That is why they choose with products by comparisons where `if`, `min` and `max` would
be usual.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.metrics import LayerMetrics, PhaseMetrics
from evolute.sim.program.build import LayerSteps
from evolute.sim.timing.engine import run_cycles
from evolute.sim.timing.memory import traffic
from evolute.sim.timing.schedule import fills, plan, weighed
from evolute.sim.workload.linear import Linear, Workload, rows_of
from evolute.sim.workload.operations import Pass


@dataclass(frozen=True)
class Phase:
    """What a phase asks for: layers, each with its rows of activations, in each of `passes` equal
    passes, which make `tokens` tokens in all."""

    tokens: int
    passes: int
    layers: tuple[tuple[Linear, int], ...]


def phase_of(linears: Sequence[Linear], work: Pass, passes: int = 1) -> Phase:
    """What `passes` equal passes ask of linear layers; those that no row needs are left out."""
    all_rows = [rows_of(linear, work.tokens, work.batch * work.head_rows) for linear in linears]
    layers = ((linear, rows) for linear, rows in zip(linears, all_rows, strict=True) if rows)
    return Phase(passes * work.tokens, passes, tuple(layers))


class LayerCost(NamedTuple):
    """One linear layer, once, as totals are made of it."""

    linear: Linear
    rows: int
    cycles: int
    ideal_cycles: float
    """Cycles of a layer without padding, fill and drain."""
    dram_bytes: int
    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        if isinstance(self.compute_seconds, float):
            return max(self.compute_seconds, self.memory_seconds)
        return np.maximum(self.compute_seconds, self.memory_seconds)

    @property
    def macs(self) -> int:
        return self.rows * self.linear.n * self.linear.k

    def metrics(self) -> LayerMetrics:
        linear = self.linear
        return LayerMetrics(
            name=str(linear.name),
            count=linear.count,
            rows=self.rows,
            n=linear.n,
            k=linear.k,
            weights=linear.format.name,
            group=linear.group,
            cycles=self.cycles,
            utilization=self.ideal_cycles / self.cycles,
            macs=self.macs,
            dram_bytes=self.dram_bytes,
            compute_seconds=self.compute_seconds,
            scaling_seconds=None,
            memory_seconds=self.memory_seconds,
            waiting_seconds=None,
            bound=_bound(self.compute_seconds, self.memory_seconds),
        )


def _bound(compute_seconds: float, memory_seconds: float) -> str:
    return "compute" if compute_seconds >= memory_seconds else "memory"


def layer_cost(
    spec: Engine,
    linear: Linear,
    rows: int,
    platform: Platform,
    beat_steps: NDArray[np.integer] | None = None,
) -> LayerCost:
    """See `evaluate_layer`."""
    run = plan(spec, linear, rows)
    if beat_steps is not None:
        run = weighed(run, beat_steps)
    dram_bytes = traffic(spec, linear, rows, run, platform).total_bytes
    cycles = run_cycles(spec, [*fills(spec), run])
    slice_steps = run.steps / (run.tiles * run.slices)
    return LayerCost(
        linear=linear,
        rows=rows,
        cycles=cycles,
        ideal_cycles=rows * linear.n * linear.k * slice_steps / spec.macs_per_step,
        dram_bytes=dram_bytes,
        compute_seconds=cycles / platform.frequency_hz,
        memory_seconds=dram_bytes / platform.bandwidth_bytes_per_s,
    )


def evaluate_layer(
    spec: Engine,
    linear: Linear,
    rows: int,
    platform: Platform,
    beat_steps: NDArray[np.integer] | None = None,
) -> LayerMetrics:
    """Time and traffic of one linear layer for `rows` rows of activations, fills included.

    `beat_steps` are those of its weight beats, int [column tiles, beats], as measured where steps
    depend on weights; without them every beat takes the most steps there are. Raises `SpecError`
    where the engine does not run the layer's weights.
    """
    return layer_cost(spec, linear, rows, platform, beat_steps).metrics()


class Totals(NamedTuple):
    """The sums of a phase over its layers and passes."""

    cycles: int
    ideal_cycles: float
    dram_bytes: int
    seconds: float
    compute_seconds: float
    memory_seconds: float


def totals(phase: Phase, costs: Sequence[LayerCost]) -> Totals:
    """The totals of a phase whose layers cost `costs`."""
    counts = [cost.linear.count for cost in costs]

    def total(numbers: Iterable[Any]) -> Any:
        # Times add up in floating point: the order of these sums is part of the figures, and `sum`
        # has one of its own from Python 3.12 on.
        products = map(operator.mul, numbers, counts)
        return phase.passes * functools.reduce(operator.add, products)

    return Totals(
        cycles=total(cost.cycles for cost in costs),
        ideal_cycles=total(cost.ideal_cycles for cost in costs),
        dram_bytes=total(cost.dram_bytes for cost in costs),
        seconds=total(cost.seconds for cost in costs),
        compute_seconds=total(cost.compute_seconds for cost in costs),
        memory_seconds=total(cost.memory_seconds for cost in costs),
    )


def _metrics(phase: Phase, costs: Sequence[LayerCost], mac_share: float) -> PhaseMetrics:
    of_all = totals(phase, costs)
    return PhaseMetrics(
        tokens=phase.tokens,
        cycles=of_all.cycles,
        seconds=of_all.seconds,
        tokens_per_s=phase.tokens / of_all.seconds,
        utilization=of_all.ideal_cycles / of_all.cycles,
        engine_utilization=None,
        bus_utilization=None,
        dram_bytes=of_all.dram_bytes,
        macs=phase.passes * sum(cost.macs * cost.linear.count for cost in costs),
        mac_share=mac_share,
        compute_seconds=of_all.compute_seconds,
        scaling_seconds=None,
        memory_seconds=of_all.memory_seconds,
        waiting_seconds=None,
        bound=_bound(of_all.compute_seconds, of_all.memory_seconds),
        layers=tuple(cost.metrics() for cost in costs),
    )


def engine_phase(
    spec: Engine,
    workload: Workload,
    platform: Platform,
    work: Pass,
    passes: int,
    layer_steps: LayerSteps | None = None,
) -> PhaseMetrics:
    """See `sim.cost.evaluate.linear_phase`. Equal layers are counted together, unless `layer_steps`
    tells them apart."""
    linears = workload.kinds if layer_steps is None else workload.linears
    phase = phase_of(linears, work, passes)
    costs = []
    for linear, rows in phase.layers:
        beat_steps = None if layer_steps is None else layer_steps[linear.name]
        costs.append(layer_cost(spec, linear, rows, platform, beat_steps))
    return _metrics(phase, costs, workload.mac_share(work.tokens, work.batch * work.head_rows))
