"""Models that do all in one pass: encoders, and networks of convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evolute.sim.cost.evaluate import linear_phase
from evolute.sim.cost.metrics import PhaseMetrics
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.support.errors import RefusedError
from evolute.sw.deploy.assignment import Accelerator, engine_in
from evolute.sw.deploy.simulate import Request, Room, room_for, shape_pricing
from evolute.sw.deploy.unweighted import Format, network_workload

NETWORK_LEAVES_OUT = "normalization, activations, pooling, and making rows of an image"


@dataclass(frozen=True)
class SinglePass:
    """One pass of all rows: tokens of sequences, or whole images."""

    shape: ModelShape | NetworkShape
    workload: Workload
    phase: PhaseMetrics
    steps_are_bounds: bool
    room: Room
    leaves_out: str | None
    """What of the pass is not counted."""


def price_encoder(
    shape: ModelShape, weights: Format, spec: Accelerator, request: Request
) -> SinglePass:
    """One pass of an encoder over the request's prompts, which see themselves whole: there is no
    cache before and none is left. Raises `RefusedError` for more tokens than its context."""
    work = request.serving.prefill
    if work.rows > shape.context:
        rule = f"must be at most {shape.context:,} tokens, the context of {shape.name}"
        raise RefusedError(f"--prefill: {rule}, got {work.rows:,}")
    # An encoder has no output head that tokens are chosen with.
    work = replace(work, head_rows=0)
    pricing = shape_pricing(shape, weights, None, spec, request)
    workload = pricing.workload_of(work)
    phase = pricing.phase((work,), in_one=False)
    room = room_for(shape, workload, request)
    return SinglePass(shape, workload, phase, pricing.steps_are_bounds, room, None)


def price_network(
    shape: NetworkShape, weights: Format, spec: Accelerator, request: Request
) -> SinglePass:
    """One pass of as many images as the request has sequences, every convolution as the matrix
    product that im2col makes of it. Each row of such a product is moved to the accelerator, so that
    a pixel comes as often as filters cover it."""
    images = request.serving.batch
    workload = network_workload(shape, weights, spec, images)
    phase = linear_phase(spec, workload, request.platform, Pass(1, batch=images), 1)
    bits = sum(linear.total_bits for linear in workload.linears)
    memory = None if request.memory is None else request.memory.capacity_bytes
    room = Room(-(-bits // 8), embedding_bytes=0, cache_bytes=0, memory_bytes=memory)
    is_bound = not engine_in(spec).steps_are_fixed
    return SinglePass(shape, workload, phase, is_bound, room, NETWORK_LEAVES_OUT)
