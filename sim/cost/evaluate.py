"""The one door to cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.core import core_phase
from evolute.sim.cost.engine import engine_phase
from evolute.sim.cost.flash import ExpertCache
from evolute.sim.cost.metrics import Metrics, PhaseMetrics
from evolute.sim.cost.token import Host, context_metrics, token_phase
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import HostLayer, LayerName, Linear, Workload
from evolute.sim.workload.operations import CacheFormat, Pass
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape

_Layer = TypeVar("_Layer", Linear, HostLayer)


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


@dataclass(frozen=True)
class Pricing:
    """All that the price of a pass through a model depends on, but for the pass itself: time and
    traffic of whole tokens are those of the linear layers as `linear_phase` has them, and beside
    them of every other operation, on the accelerator's own units or on the host.

    `workload_of` gives the linear layers of a pass, which routed experts make depend on its tokens.
    """

    spec: Engine | CoreSpec
    shape: ModelShape
    workload_of: Callable[[Pass], Workload]
    platform: Platform
    cache: CacheFormat
    host: Host | None = None
    layer_steps: LayerSteps | None = None
    experts: ExpertCache | None = None
    """How many experts of a layer are in memory; None where all are."""

    @property
    def steps_are_bounds(self) -> bool:
        """Whether steps depend on weights of which none were measured."""
        return self.layer_steps is None and not _engine(self.spec).steps_are_fixed

    def linear(self, passes: Sequence[Pass], *, in_one: bool) -> PhaseMetrics:
        """The linear layers alone of passes that differ in nothing but their cached tokens. Raises
        as `linear_phase` does."""
        workload = self.workload_of(passes[0])
        return linear_phase(
            self.spec,
            workload,
            self.platform,
            passes[0],
            len(passes),
            self.layer_steps,
            in_one=in_one,
        )

    def whole(self, linear: PhaseMetrics, passes: Sequence[Pass]) -> PhaseMetrics:
        """Every operation of `passes`, whose linear layers alone are `linear`."""
        return token_phase(
            self.spec,
            linear,
            self.workload_of(passes[0]),
            self.shape,
            passes,
            self.cache,
            self.platform,
            self.host,
            self.experts,
            is_bound=self.steps_are_bounds,
        )

    def phase(self, passes: Sequence[Pass], *, in_one: bool) -> PhaseMetrics:
        """Time and traffic of whole tokens in such passes."""
        return self.whole(self.linear(passes, in_one=in_one), passes)

    def serve(self, serving: Serving) -> Metrics:
        """A prompt at once, then tokens one by one."""
        tokens = serving.decode
        decode_linear = self.linear(tokens, in_one=True)
        curve = []
        if len(serving.contexts) > 1:  # the linear layers are the same in every context
            for context in serving.contexts:
                point = self.whole(decode_linear, (serving.at(context),))
                curve.append(context_metrics(context, point))
        return Metrics(
            self.spec,
            self.platform,
            prefill=self.phase((serving.prefill,), in_one=False),
            decode=self.whole(decode_linear, tokens),
            steps_are_bounds=self.steps_are_bounds,
            curve=tuple(curve),
        )

    def of_blocks(self, blocks: Sequence[int]) -> Pricing:
        """The model that consists of these blocks in this order, any of them several times, between
        its embedding and its output head."""
        places: dict[int, list[int]] = {}
        for place, block in enumerate(blocks):
            places.setdefault(block, []).append(place)

        def moved(name: LayerName) -> list[LayerName]:
            if name.block is None:
                return [name]
            return [replace(name, block=place) for place in places.get(name.block, ())]

        def renamed(layers: Sequence[_Layer]) -> tuple[_Layer, ...]:
            named = [replace(one, name=to) for one in layers for to in moved(one.name)]
            return tuple(sorted(named, key=lambda one: (one.name.block is None, one.name.block)))

        def workload_of(work: Pass) -> Workload:
            whole = self.workload_of(work)
            return replace(whole, linears=renamed(whole.linears), left=renamed(whole.left))

        steps = self.layer_steps
        return replace(
            self,
            shape=replace(self.shape, blocks=tuple(self.shape.blocks[block] for block in blocks)),
            workload_of=workload_of,
            layer_steps=steps
            and {to: beats for name, beats in steps.items() for to in moved(name)},
        )


def _engine(spec: Engine | CoreSpec) -> Engine:
    return spec.engine if isinstance(spec, CoreSpec) else spec
