"""The one door to cost."""

from __future__ import annotations

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.core import core_metrics
from evolute.sim.cost.engine import engine_metrics
from evolute.sim.cost.metrics import Metrics
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import Workload


def evaluate(
    spec: Engine | CoreSpec,
    workload: Workload,
    platform: Platform,
    prefill_tokens: int = 128,
    decode_tokens: int = 32,
    layer_steps: LayerSteps | None = None,
) -> Metrics:
    """Time and traffic of a model's linear layers on an engine or a core: a prompt at once, then
    tokens one by one. The workload must have a layer.

    `layer_steps` are measured on the weights, where steps depend on them. Without them every weight
    beat takes the most steps that it can, and the labels call what follows from it a bound. An
    engine's steps that are fixed take none.

    Raises `SpecError` where the accelerator does not run the weights' codes or the memory's rate
    cannot be kept exactly, and `PlaceError` where a layer does not fit a core.
    """
    asked = workload, platform, prefill_tokens, decode_tokens, layer_steps
    if isinstance(spec, CoreSpec):
        return core_metrics(spec, *asked)
    return engine_metrics(spec, *asked)
