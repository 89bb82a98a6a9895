"""What a target requires of an accelerator and its memory, and which of the known ones meet it.

The requirements are lower bounds. They follow from the bytes and multiply-accumulates of the
model's operations alone: whatever the design, each byte must move once per pass and each
multiply-accumulate must be done. Which cores with which memories meet the target is then priced as
in `evolute sim`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.memories import Memory
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.metrics import WHOLE
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import Pass, Product, operations
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.support.errors import RefusedError
from evolute.support.schema import ABSENT, RequiredCore, RequiredRefusal
from evolute.sw.deploy.assignment import assign, default_weights, engine_in
from evolute.sw.deploy.on_core import core_model
from evolute.sw.deploy.simulate import (
    ALL_EXPERTS,
    Request,
    Room,
    Simulation,
    room_for,
    simulate,
    simulate_shape,
)
from evolute.sw.deploy.unweighted import Format, head_format, shape_workload
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.shape import model_shape
from evolute.sw.tensors.weights import Weights


@dataclass(frozen=True)
class SpeedTarget:
    """The wanted speed: tokens of all sequences per second of decoding, and the longest time until
    the first token, in seconds."""

    tokens_per_s: float
    ttft_s: float | None = None


@dataclass(frozen=True)
class CoreCandidate:
    """A core that may meet a target, with the model on it."""

    name: str
    core: CoreSpec
    workload_of: Callable[[Pass], Workload]
    """The linear layers of a pass, as the core holds them."""
    room_of: Callable[[Request], Room]
    price: Callable[[Request], Simulation]


def shape_candidate(
    name: str, core: CoreSpec, shape: ModelShape, weights: Format, head: str | None
) -> CoreCandidate:
    """A candidate for a model without weights. Raises `RefusedError` for formats that the core does
    not run."""
    chosen = head_format(head, core)

    def workload_of(work: Pass) -> Workload:
        return shape_workload(shape, weights, chosen, core, work)

    return CoreCandidate(
        name,
        core,
        workload_of,
        lambda request: room_for(shape, workload_of(ALL_EXPERTS), request),
        lambda request: simulate_shape(shape, weights, chosen, core, request),
    )


def model_candidate(
    name: str, core: CoreSpec, model: LanguageModel, weights: Weights | None
) -> CoreCandidate:
    """A candidate for a model with weights. Raises `RefusedError` if the core's engine does not run
    them."""
    assignment = assign(model, default_weights(model) if weights is None else weights, core)

    @functools.cache
    def steps() -> LayerSteps | None:
        return None if engine_in(core).steps_are_fixed else core_model(assignment).beat_steps

    return CoreCandidate(
        name,
        core,
        lambda _: assignment.workload,
        lambda request: room_for(model_shape(model), assignment.workload, request),
        lambda request: simulate(assignment, request, None, steps=steps()),
    )


@dataclass(frozen=True)
class Needs:
    """The least that a target requires, whatever the design."""

    decode_bytes: int
    """Of one pass, which makes a token of every sequence."""
    decode_macs: int
    prefill_bytes: int
    prefill_macs: int
    bandwidth_bytes_per_s: float
    bandwidth_from: str
    """`decode` or `prefill`, whichever asks for more."""
    macs_per_s: float
    macs_from: str
    buffer_bytes: int
    """Room for what is on its way while the first of it comes: bandwidth times latency."""
    capacity_bytes: int

    def macs_per_cycle(self, frequency_hz: float) -> float:
        """Multiply-accumulates per cycle at a clock frequency in Hz."""
        return self.macs_per_s / frequency_hz


def needs(
    shape: ModelShape, candidates: Sequence[CoreCandidate], serving: Serving, target: SpeedTarget,
    latency_s: float,
) -> Needs:  # fmt: skip
    """The least that a target requires, over all `candidates`, which hold weights in different
    numbers of bits."""
    (decode, *_), prefill = serving.decode, serving.prefill
    amounts = {
        name: (
            min(
                _moved_bytes(shape, candidate.workload_of(work), work, serving)
                for candidate in candidates
            ),
            sum(operation.macs for operation in operations(shape, work, serving.cache)),
        )
        for name, work in (("decode", decode), ("prefill", prefill))
    }
    per_second = {"decode": target.tokens_per_s / serving.batch}
    if target.ttft_s is not None:
        per_second["prefill"] = 1 / target.ttft_s

    def most(place: int) -> tuple[float, str]:
        return max((amounts[name][place] * rate, name) for name, rate in per_second.items())

    (bandwidth, bandwidth_from), (macs, macs_from) = most(0), most(1)
    request = Request(serving, Platform())
    return Needs(
        *amounts["decode"],
        *amounts["prefill"],
        bandwidth,
        bandwidth_from,
        macs,
        macs_from,
        math.ceil(bandwidth * latency_s),
        min(candidate.room_of(request).total_bytes for candidate in candidates),
    )


def _moved_bytes(shape: ModelShape, workload: Workload, work: Pass, serving: Serving) -> int:
    """Bytes that a pass moves if everything moves once: codes of weights and what their groups
    store beside them, the host's layers in float32, and what other operations read and write."""
    bits = sum(
        linear.index_bits + linear.count * linear.n * linear.groups * linear.group_bits
        for linear in workload.linears
    )
    others = sum(
        operation.read_bytes + operation.write_bytes
        for operation in operations(shape, work, serving.cache)
        if not isinstance(operation, Product)
    )
    return -(-bits // 8) + workload.host_bytes + others


class Shortfall(NamedTuple):
    """A requirement that a core with a memory misses, and by which factor."""

    what: str
    needed: float
    reached: float

    @property
    def factor(self) -> float:
        """How many times better the core would have to be, 1 or more."""
        low, high = sorted((self.needed, self.reached))
        return high / low


@dataclass(frozen=True)
class PricedCore:
    """A core with a memory, priced for a target."""

    candidate: CoreCandidate
    memory: Memory
    tokens_per_s: float
    ttft_s: float
    fits: bool | None
    label: str
    """`bound` where steps depend on weights that were not measured, else `modelled`."""
    missing: tuple[Shortfall, ...]

    def record(self) -> RequiredCore:
        core = self.candidate.core
        lacks = [{**lack._asdict(), "factor": lack.factor} for lack in self.missing]
        return RequiredCore(
            accelerator=self.candidate.name,
            vector_lanes=core.vector_lanes,
            attention_rows=core.attention_rows,
            memory=self.memory.name,
            tokens_per_s=self.tokens_per_s,
            ttft_s=self.ttft_s,
            fits=self.fits,
            label=self.label,
            short_of=lacks or ABSENT,
        )


def outcomes(
    candidates: Sequence[CoreCandidate],
    memories: Sequence[Memory],
    serving: Serving,
    target: SpeedTarget,
    platform_of: Callable[[CoreSpec, Memory], Platform],
    least: Needs,
    progress: Callable[[float], None] = lambda done: None,
) -> Iterator[PricedCore | RequiredRefusal]:
    """Every candidate with every memory. Memories that are alike behind a core's port are priced
    once; `progress` is called with how many pairs are done."""
    done = 0
    for candidate in candidates:
        core = candidate.core
        priced: dict[float, Simulation] = {}
        for memory in memories:
            try:
                platform = platform_of(core, memory)
                request = Request(serving, platform, memory)
                port = core.bus_bytes * platform.frequency_hz
                rate = min(port, platform.bandwidth_bytes_per_s)
                if rate not in priced:
                    priced[rate] = candidate.price(request)
                yield _outcome(candidate, request, priced[rate], target, least, rate)
            except RefusedError as error:
                yield RequiredRefusal(candidate.name, memory.name, str(error))
            done += 1
            progress(done)


def _outcome(
    candidate: CoreCandidate,
    request: Request,
    priced: Simulation,
    target: SpeedTarget,
    least: Needs,
    bytes_per_s: float,
) -> PricedCore:
    """Compare a priced candidate with the target. `bytes_per_s` is the bandwidth that the memory
    and the core's port allow together."""
    decode, prefill = priced.metrics.decode, priced.metrics.prefill
    if decode.scope != WHOLE or prefill.scope != WHOLE:
        host_operations = [
            operation.name for operation in decode.operations if operation.label == "host"
        ]
        raise RefusedError(
            f"leaves {', '.join(host_operations)} to the host, whose speed is not known"
        )
    room, missing = candidate.room_of(request), []
    if decode.tokens_per_s < target.tokens_per_s:
        missing.append(Shortfall("tokens_per_s", target.tokens_per_s, decode.tokens_per_s))
    if target.ttft_s is not None and prefill.seconds > target.ttft_s:
        missing.append(Shortfall("ttft_s", target.ttft_s, prefill.seconds))
    if bytes_per_s < least.bandwidth_bytes_per_s:
        needed = least.bandwidth_bytes_per_s / 1e9
        missing.append(Shortfall("bandwidth_gbs", needed, bytes_per_s / 1e9))
    if room.fits is False and room.memory_bytes is not None:
        missing.append(Shortfall("capacity_bytes", room.total_bytes, room.memory_bytes))
    assert request.memory is not None
    return PricedCore(
        candidate,
        request.memory,
        decode.tokens_per_s,
        prefill.seconds,
        room.fits,
        "bound" if priced.metrics.steps_are_bounds else "modelled",
        tuple(missing),
    )
