"""What a way of serving a model costs: its stages, each priced pass by pass like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.metrics import LINEAR, WHOLE, PhaseMetrics
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.profiles import (
    CacheRoom,
    Facts,
    Plan,
    Profile,
    ProfileStage,
    Recursion,
    Solving,
)
from evolute.sim.workload.serving import Serving
from evolute.support.labels import Label


@dataclass(frozen=True)
class StageMetrics:
    """A stage of a profile; figures are of all its passes, as often as they run in the mean."""

    name: str
    model: str
    passes: float
    rows: float
    """Tokens of all passes, those included that are thrown away."""
    seconds: float
    bytes: float | None
    """Bytes of the accelerator's memory; None where the stage is a share of another's time."""
    scope: str


@dataclass(frozen=True)
class SolvedMetrics:
    """What a question costs that is solved, where chances of solving one are stated."""

    attempts: int
    coverage: float
    """The share of questions that the attempts solve."""
    seconds: float
    bytes: float | None
    energy_j: float | None = None


@dataclass(frozen=True)
class ProfileMetrics:
    """What a model served by a profile costs in all. Energies are not known yet."""

    seconds: float
    bytes: float | None
    tokens: int
    scope: str
    label: Label
    stages: tuple[StageMetrics, ...]
    facts: Facts
    solved: SolvedMetrics | None
    energy_j: float | None = None

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def bytes_per_token(self) -> float | None:
        return None if self.bytes is None else self.bytes / self.tokens


def price_profile(
    profile: Profile,
    pricing: Pricing,
    serving: Serving,
    free_bytes: int | None = None,
    pricing_of: Callable[[str], Pricing] | None = None,
) -> ProfileMetrics:
    """Time and traffic of what `profile` makes of `serving` with the model of `pricing`.

    `free_bytes` is what a named memory has for caches; `pricing_of` gives the other models that the
    profile names. Raises `SpecError` for what the model or the memory do not allow.
    """
    plan = profile.plan(serving, CacheRoom(pricing.shape, pricing.cache, free_bytes))
    facts = dict(plan.facts)
    resident = False
    if isinstance(profile, Recursion):
        weights = _unit_bytes(pricing, profile)
        resident = weights <= profile.buffer_kib * 1024
        facts |= {"own_weight_bytes": weights, "resident": resident}
    stages = []
    for stage in plan.stages:
        model = pricing
        if stage.model is not None:
            assert pricing_of is not None, "a profile names another model"
            model = pricing_of(stage.model)
        stages.append(_stage_metrics(stage, model, resident=resident))
    seconds = math.fsum(stage.seconds for stage in stages)
    moved = _total(stage.bytes for stage in stages)
    return ProfileMetrics(
        seconds,
        moved,
        plan.tokens,
        WHOLE if all(stage.scope == WHOLE for stage in stages) else LINEAR,
        "bound" if pricing.steps_are_bounds else "modelled",
        tuple(stages),
        facts | _against_decoding(plan, pricing, serving, seconds),
        plan.solving and _solved(plan.solving, seconds, moved),
    )


def _solved(solving: Solving, seconds: float, moved: float | None) -> SolvedMetrics:
    attempts, chance = solving
    return SolvedMetrics(
        attempts, chance, seconds / chance, None if moved is None else moved / chance
    )


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


def _against_decoding(plan: Plan, pricing: Pricing, serving: Serving, seconds: float) -> Facts:
    """How much faster the profile gives tokens than decoding them one by one; of profiles that do
    nothing else."""
    if any(not stage.in_one for stage in plan.stages):
        return {}
    alone = pricing.phase(serving.decode, in_one=True)
    return {"speedup": plan.tokens / seconds / alone.tokens_per_s}


def _stage_metrics(stage: ProfileStage, pricing: Pricing, *, resident: bool) -> StageMetrics:
    if stage.blocks is not None:
        pricing = pricing.of_blocks(stage.blocks)
    seconds, moved, scopes = [], [], set()
    # The linear layers of passes that differ in cached tokens alone are priced together.
    groups: dict[Pass, list[Pass]] = {}
    for work in stage.passes:
        groups.setdefault(replace(work, cached=0), []).append(work)
    for passes in groups.values():
        phase = pricing.phase(passes, in_one=stage.in_one)
        saved = _Saved(0.0, 0)
        if resident and stage.resident_share:
            saved = _saved(phase, pricing.workload_of(passes[0]), len(passes), stage.resident_share)
        seconds.append(phase.seconds - saved.seconds)
        moved.append(phase.dram_bytes - saved.bytes)
        scopes.add(phase.scope)
    times = stage.times * (1.0 if stage.ratio is None else stage.ratio)
    return StageMetrics(
        stage.name,
        pricing.shape.name,
        stage.times * len(stage.passes),
        stage.times * sum(work.tokens for work in stage.passes),
        times * math.fsum(seconds),
        None if stage.ratio is not None else stage.times * sum(moved),
        WHOLE if scopes == {WHOLE} else LINEAR,
    )


@dataclass(frozen=True)
class _Saved:
    seconds: float
    bytes: float


def _saved(phase: PhaseMetrics, workload: Workload, passes: int, share: float) -> _Saved:
    """What a phase saves if the weights of `share` of its blocks are on the chip: their bytes, and
    for those layers all time but that of computing."""
    weights = sum(one.total_bits for one in workload.linears if one.name.block is not None) / 8
    inside = {str(one.name.kind) for one in workload.linears if one.name.block is not None}
    operations = {one.name: one for one in phase.operations if one.kind == "matmul"}
    seconds = math.fsum(
        max(
            0.0,
            (operations[layer.name].seconds or 0.0) - passes * layer.count * layer.compute_seconds,
        )
        for layer in phase.layers
        if set(layer.name.split("+")) <= inside
    )
    return _Saved(share * seconds, share * passes * weights)


def _unit_bytes(pricing: Pricing, profile: Recursion) -> int:
    """Bytes of the weights of the layers that are applied again and again."""
    unit = profile.unit(pricing.shape.layers)
    workload = pricing.workload_of(Pass(1))
    bits = sum(
        one.total_bits
        for one in workload.linears
        if one.name.block is not None and one.name.block < unit
    )
    return -(-bits // 8)
