"""The one door to cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.core import core_phase
from evolute.sim.cost.engine import engine_phase
from evolute.sim.cost.metrics import Metrics, PhaseMetrics
from evolute.sim.cost.token import Host, context_metrics, token_phase
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape


def linear_phase(
    spec: Engine | CoreSpec,
    workload: Workload,
    platform: Platform,
    work: Pass,
    passes: int,
    layer_steps: LayerSteps | None = None,
    *,
    in_one: bool = False,
) -> PhaseMetrics:
    """Time and traffic of the linear layers in `passes` equal passes; the workload must have one.

    A core takes a program for each block and one for the head, or one for all (`in_one`). Raises
    what `evaluate` raises.
    """
    if isinstance(spec, CoreSpec):
        return core_phase(spec, workload, platform, work, passes, layer_steps, in_one=in_one)
    return engine_phase(spec, workload, platform, work, passes, layer_steps)


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
    asked = spec, workload, platform
    return Metrics(
        spec,
        platform,
        prefill=linear_phase(*asked, Pass(prefill_tokens), 1, layer_steps),
        decode=linear_phase(*asked, Pass(1), decode_tokens, layer_steps, in_one=True),
        steps_are_bounds=layer_steps is None and not _engine(spec).steps_are_fixed,
    )


def evaluate_tokens(
    spec: Engine | CoreSpec,
    shape: ModelShape,
    workload_of: Callable[[Pass], Workload],
    platform: Platform,
    serving: Serving,
    host: Host | None = None,
    layer_steps: LayerSteps | None = None,
) -> Metrics:
    """Time and traffic of whole tokens: the linear layers as `evaluate` has them, and beside them
    every other operation of the model, on the accelerator's own units or on the host.

    `workload_of` gives the linear layers of a pass, which routed experts make depend on its tokens.
    Raises as `evaluate` does.
    """

    is_bound = layer_steps is None and not _engine(spec).steps_are_fixed

    def whole(linear: PhaseMetrics, passes: Sequence[Pass]) -> PhaseMetrics:
        workload = workload_of(passes[0])
        return token_phase(
            spec, linear, workload, shape, passes, serving.cache, platform, host, is_bound=is_bound
        )

    def linear(passes: Sequence[Pass], *, in_one: bool) -> PhaseMetrics:
        workload = workload_of(passes[0])
        return linear_phase(
            spec, workload, platform, passes[0], len(passes), layer_steps, in_one=in_one
        )

    prompt, tokens = (serving.prefill,), serving.decode
    decode_linear = linear(tokens, in_one=True)
    curve = []
    if len(serving.contexts) > 1:  # the linear layers are the same in every context
        for context in serving.contexts:
            point = whole(decode_linear, (serving.at(context),))
            curve.append(context_metrics(context, point))
    return Metrics(
        spec,
        platform,
        prefill=whole(linear(prompt, in_one=False), prompt),
        decode=whole(decode_linear, tokens),
        steps_are_bounds=is_bound,
        curve=tuple(curve),
    )


def _engine(spec: Engine | CoreSpec) -> Engine:
    return spec.engine if isinstance(spec, CoreSpec) else spec
