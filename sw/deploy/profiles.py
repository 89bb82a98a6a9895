"""Prices ways of serving a model on an accelerator, including any other model that a way involves,
such as a draft."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from evolute.hw.spec import CoreSpec
from evolute.hw.spec.base import SpecError, require
from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.profiles import ProfileMetrics, price_profile
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.profiles import MEASURED, Profile, Search, Speculative
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.sizes import without_weights
from evolute.sw.deploy.assignment import Accelerator, Assignment, assign, default_weights
from evolute.sw.deploy.on_core import core_model, on_accelerator
from evolute.sw.deploy.on_engine import engine_steps, fast_backend
from evolute.sw.deploy.simulate import Simulation, shape_pricing
from evolute.sw.deploy.unweighted import Format, head_format
from evolute.sw.language_model.perplexity import Text, strided
from evolute.sw.language_model.shape import model_shape
from evolute.sw.language_model.speculation import Runner, agreement, require_same_tokens


@dataclass(frozen=True)
class Evidence:
    """A model with weights, and the text on which a draft is compared with it: the first `tokens`
    tokens, in windows of `window`."""

    assignment: Assignment
    text: Text
    tokens: int
    window: int


@dataclass(frozen=True)
class Served:
    """A way of serving a model, with its measured acceptance filled in, and what it costs."""

    profile: Profile
    metrics: ProfileMetrics


def serve(
    profile: Profile,
    result: Simulation,
    spec: Accelerator,
    weights: Format | None,
    evidence: Evidence | None,
    *,
    extended: bool = False,
) -> Served:
    """What the way of serving `profile` costs for the model of `result`, which also has the
    request.

    If the profile names another model that has weights, its own codes are used; a model that is
    only known by its shape is held in `weights`. Raises `RefusedError` for what is impossible, such
    as more tokens than the model's context holds without `extended`.
    """
    request = result.request
    if isinstance(profile, Search) and not extended:
        limit = result.shape.context
        longest = request.serving.prefill_tokens + profile.depth * profile.step
        rule = f"of at most {limit:,} tokens with the prompt, the context of {result.shape.name}"
        require(longest <= limit, "depth and step", rule, longest)

    @functools.cache
    def assigned(name: str) -> Assignment:
        model = zoo.load(name)
        return assign(model, default_weights(model), spec)

    @functools.cache
    def pricing_of(name: str) -> Pricing:
        shape = without_weights(name)
        if shape is None:
            assignment = assigned(name)
            work, shape = assignment.workload, model_shape(assignment.model)
            return request.pricing(spec, shape, lambda _: work, _steps(assignment))
        if weights is None:
            raise RefusedError(f"{name} has no weights, as a model beside one that has must")
        return shape_pricing(shape, weights, head_format(None, spec), spec, request)

    if isinstance(profile, Speculative) and profile.draft is not None:
        target_shape, draft_shape = result.shape, pricing_of(profile.draft).shape
        require_same_tokens(draft_shape.name, target_shape.vocab, draft_shape.vocab)
    if isinstance(profile, Speculative) and profile.acceptance == MEASURED:
        draft = profile.draft or ""
        lacking = result.shape.name if evidence is None else draft
        if evidence is None or without_weights(draft) is not None:
            rule = "stated, since it is measured on weights of both models"
            raise SpecError("acceptance", rule, f"{MEASURED}; {lacking} has none")
        profile = replace(profile, acceptance=(_measured(evidence, assigned(draft)),))
    metrics = price_profile(
        profile, result.pricing, request.serving, result.room.free_bytes, pricing_of
    )
    return Served(profile, metrics)


def _measured(evidence: Evidence, draft: Assignment) -> float:
    """How often the draft's guesses are accepted (0 to 1), with both models computed as the
    accelerator does."""
    target = evidence.assignment
    windows = strided(target.model, evidence.text, evidence.tokens, evidence.window, None)
    target_runner, draft_runner = (
        Runner(assignment.model, on_accelerator(assignment)(fast_backend(assignment.spec)))
        for assignment in (target, draft)
    )
    return agreement(target_runner, draft_runner, windows)


def _steps(assignment: Assignment) -> LayerSteps | None:
    """The steps of the layers' weight beats; None where they do not depend on weights."""
    if assignment.engine.steps_are_fixed:
        return None
    if isinstance(assignment.spec, CoreSpec):
        return core_model(assignment).beat_steps
    return engine_steps(assignment)
