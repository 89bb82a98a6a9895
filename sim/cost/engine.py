"""The only door to cost: `evaluate(spec, workload, platform)` gives a `Metrics` record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.hw.spec.engine import Engine
from evolute.sim.timing.engine import run_cycles
from evolute.sim.timing.memory import Platform, Traffic, traffic
from evolute.sim.timing.schedule import fills, plan, weighed
from evolute.sim.workload.linear import Linear, Workload


@dataclass(frozen=True)
class LayerMetrics:
    """One linear layer, once; `count` says how often the model has it.

    `cycles` are the engine's, equal to the RTL's on streams that keep up. `seconds` is the longer
    of computing and moving `traffic`.
    """

    linear: Linear
    rows: int
    cycles: int
    ideal_cycles: float
    traffic: Traffic
    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer, once."""
        return self.rows * self.linear.n * self.linear.k

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.linear.name,
            "count": self.linear.count,
            "rows": self.rows,
            "n": self.linear.n,
            "k": self.linear.k,
            "weights": self.linear.format.name,
            "group": self.linear.group,
            "cycles": self.cycles,
            "utilization": self.ideal_cycles / self.cycles,
            "macs": self.macs,
            "dram_bytes": self.traffic.total_bytes,
            "compute_seconds": self.compute_seconds,
            "memory_seconds": self.memory_seconds,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class PhaseMetrics:
    """All linear layers of prefill (`tokens` rows at once) or of decode (`tokens` one by one).

    Totals cover the whole phase. `utilization` is the share of the engine's multiply-accumulates
    in its cycles that the model asked for.
    """

    tokens: int
    steps: int
    layers: tuple[LayerMetrics, ...]

    def _total(self, name: str) -> Any:
        return self.steps * sum(getattr(each, name) * each.linear.count for each in self.layers)

    @property
    def cycles(self) -> int:
        return self._total("cycles")

    @property
    def seconds(self) -> float:
        return self._total("seconds")

    @property
    def macs(self) -> int:
        return self._total("macs")

    @property
    def dram_bytes(self) -> int:
        return self.steps * sum(
            each.traffic.total_bytes * each.linear.count for each in self.layers
        )

    @property
    def bound(self) -> str:
        compute, memory = self._total("compute_seconds"), self._total("memory_seconds")
        return "compute" if compute >= memory else "memory"

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
            "utilization": self._total("ideal_cycles") / self.cycles,
            "bound": self.bound,
            "dram_bytes": self.dram_bytes,
            "macs": self.macs,
            "compute_seconds": self._total("compute_seconds"),
            "memory_seconds": self._total("memory_seconds"),
            "layers": [each.to_dict() for each in self.layers],
        }


@dataclass(frozen=True)
class Metrics:
    """What a spec does with a workload on a platform."""

    spec: Engine
    platform: Platform
    prefill: PhaseMetrics
    decode: PhaseMetrics

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "digest": self.spec.digest,
            "platform": asdict(self.platform),
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
        }


def evaluate_layer(
    spec: Engine,
    linear: Linear,
    rows: int,
    platform: Platform,
    beat_steps: NDArray[np.integer] | None = None,
) -> LayerMetrics:
    """Time and traffic of one linear layer for `rows` rows of activations, fills included.

    `beat_steps` are those of its weight beats, int [column tiles, beats], where steps depend on
    weights. Raises `SpecError` where they do and none are given: a layer holds shapes alone.
    """
    run = plan(spec, linear, rows)
    if not spec.steps_are_fixed:
        rule = "one whose steps do not depend on weights (a workload has shapes alone)"
        require(beat_steps is not None, "engine", rule, type(spec).__name__)
        assert beat_steps is not None
        run = weighed(run, beat_steps)
    moved = traffic(spec, linear, rows, platform)
    cycles = run_cycles(spec, [*fills(spec), run])
    slice_steps = run.steps / (run.tiles * run.slices)
    return LayerMetrics(
        linear=linear,
        rows=rows,
        cycles=cycles,
        ideal_cycles=rows * linear.n * linear.k * slice_steps / spec.macs_per_step,
        traffic=moved,
        compute_seconds=cycles / platform.frequency_hz,
        memory_seconds=moved.total_bytes / platform.bandwidth_bytes_per_s,
    )


def evaluate(
    spec: Engine,
    workload: Workload,
    platform: Platform,
    prefill_tokens: int = 128,
    decode_tokens: int = 32,
    layer_steps: Mapping[str, NDArray[np.integer]] | None = None,
) -> Metrics:
    """Time and traffic of a model's linear layers: a prompt at once, then tokens one by one.

    `layer_steps` are the `beat_steps` of `evaluate_layer` by the layers' names. Raises `SpecError`
    as that does.
    """

    def phase(tokens: int, rows: int, steps: int) -> PhaseMetrics:
        layers = tuple(
            evaluate_layer(
                spec,
                linear,
                1 if linear.last_token_only else rows,
                platform,
                None if layer_steps is None else layer_steps[linear.name],
            )
            for linear in workload.linears
        )
        return PhaseMetrics(tokens, steps, layers)

    return Metrics(
        spec,
        platform,
        prefill=phase(prefill_tokens, prefill_tokens, 1),
        decode=phase(decode_tokens, 1, decode_tokens),
    )
