"""What a workload costs on an engine alone: exact cycles, and a memory bus that is modelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


class _Cost(NamedTuple):
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
        return max(self.compute_seconds, self.memory_seconds)

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
            memory_seconds=self.memory_seconds,
            waiting_seconds=None,
            bound=_bound(self.compute_seconds, self.memory_seconds),
        )


def _bound(compute_seconds: float, memory_seconds: float) -> str:
    return "compute" if compute_seconds >= memory_seconds else "memory"


def _cost(
    spec: Engine,
    linear: Linear,
    rows: int,
    platform: Platform,
    beat_steps: NDArray[np.integer] | None,
) -> _Cost:
    run = plan(spec, linear, rows)
    if beat_steps is not None:
        run = weighed(run, beat_steps)
    dram_bytes = traffic(spec, linear, rows, platform).total_bytes
    cycles = run_cycles(spec, [*fills(spec), run])
    slice_steps = run.steps / (run.tiles * run.slices)
    return _Cost(
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
    return _cost(spec, linear, rows, platform, beat_steps).metrics()


def _phase(tokens: int, steps: int, layers: Sequence[_Cost], mac_share: float) -> PhaseMetrics:
    """`layers` of one of `steps` equal passes."""
    # Times add up in floating point: the order of these sums is part of the figures.
    cycles = steps * sum(each.cycles * each.linear.count for each in layers)
    ideal_cycles = steps * sum(each.ideal_cycles * each.linear.count for each in layers)
    seconds = steps * sum(each.seconds * each.linear.count for each in layers)
    compute_seconds = steps * sum(each.compute_seconds * each.linear.count for each in layers)
    memory_seconds = steps * sum(each.memory_seconds * each.linear.count for each in layers)
    return PhaseMetrics(
        tokens=tokens,
        cycles=cycles,
        seconds=seconds,
        tokens_per_s=tokens / seconds,
        utilization=ideal_cycles / cycles,
        engine_utilization=None,
        bus_utilization=None,
        dram_bytes=steps * sum(each.dram_bytes * each.linear.count for each in layers),
        macs=steps * sum(each.macs * each.linear.count for each in layers),
        mac_share=mac_share,
        compute_seconds=compute_seconds,
        memory_seconds=memory_seconds,
        waiting_seconds=None,
        bound=_bound(compute_seconds, memory_seconds),
        layers=tuple(each.metrics() for each in layers),
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
    rows, last_rows = work.tokens, work.batch * work.head_rows
    layers = [
        _cost(
            spec,
            linear,
            rows_of(linear, rows, last_rows),
            platform,
            None if layer_steps is None else layer_steps[linear.name],
        )
        for linear in linears
    ]
    return _phase(passes * rows, passes, layers, workload.mac_share(rows, last_rows))
