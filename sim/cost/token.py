"""What a whole token costs: the linear layers, and every other operation beside them.

An operation is on the accelerator where it has a unit for it, and on the host elsewhere. The host's
operations are counted, multiply-accumulates and bytes alike, but take seconds only where its rates
are stated; else the phase's seconds are of the linear layers alone, and say so.

Nothing overlaps that is not said to: attention, vector operations and the host's share add to the
cycles of the linear layers' programs. Those programs still store their results and wait for the
host's call, which a core that completes tokens by itself need not do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evolute.hw.spec.base import require
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.flash import ExpertCache
from evolute.sim.cost.metrics import (
    LINEAR,
    WHOLE,
    ContextMetrics,
    OperationMetrics,
    PhaseMetrics,
)
from evolute.sim.timing.token_units import attention_stream, vector_cycles
from evolute.sim.workload.linear import HostLayer, Workload, rows_of
from evolute.sim.workload.operations import (
    Advance,
    Attend,
    CacheFormat,
    Elementwise,
    Gather,
    Operation,
    Pass,
    Product,
    counted_operations,
)
from evolute.sim.workload.shape import ModelShape
from evolute.support.labels import Label

UNIT_CACHE_BITS = 8
"""Widest numbers of the cache that an attention unit takes."""


@dataclass(frozen=True)
class Host:
    """How fast the host computes what is left to it: multiply-accumulates, or elements of vector
    operations, and bytes of its memory, whichever takes longer."""

    macs_per_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        for name in ("macs_per_s", "bytes_per_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, "finite and above 0", value)


class OperationTime(NamedTuple):
    """What an operation takes, once; cycles of the accelerator, or seconds of the host."""

    cycles: int | None
    seconds: float | None
    limited_by: str


def token_phase(
    spec: Engine | CoreSpec,
    linear: PhaseMetrics,
    workload: Workload,
    shape: ModelShape,
    passes: Sequence[Pass],
    cache: CacheFormat,
    platform: Platform,
    host: Host | None,
    experts: ExpertCache | None = None,
    *,
    is_bound: bool,
) -> PhaseMetrics:
    """`linear`, which is of the linear layers in all `passes`, with every operation beside it, and
    with seconds of whole tokens if all operations have seconds. `is_bound` says that the linear
    layers' cycles are one, and `experts` how many of a layer's are in memory, if not all are."""
    operations = (
        *_linear_operations(spec, linear, len(passes), platform, is_bound=is_bound),
        *_left_operations(workload, passes, host),
        *_other_operations(spec, shape, passes, cache, platform, host),
        *([] if experts is None else [_flash(experts, shape, workload, passes, platform)]),
    )
    if any(operation.seconds is None for operation in operations):
        return replace(linear, scope=LINEAR, operations=operations)
    seconds = sum(operation.seconds or 0.0 for operation in operations)
    cycles = sum(operation.cycles or 0 for operation in operations)
    own = [operation for operation in operations if operation.label != "host"]
    macs, dram_bytes = sum(one.macs for one in own), sum(one.bytes for one in own)
    by_limit: dict[str, float] = {}
    for operation in operations:
        limit = operation.limited_by
        by_limit[limit] = by_limit.get(limit, 0.0) + (operation.seconds or 0.0)
    engine_share = linear.cycles / cycles
    return replace(
        linear,
        cycles=cycles,
        seconds=seconds,
        tokens_per_s=linear.tokens / seconds,
        utilization=linear.utilization * engine_share,
        engine_utilization=(
            None if linear.engine_utilization is None else linear.engine_utilization * engine_share
        ),
        bus_utilization=(
            dram_bytes / spec.bus_bytes / cycles if isinstance(spec, CoreSpec) else None
        ),
        dram_bytes=dram_bytes,
        macs=macs,
        mac_share=macs / sum(operation.macs for operation in operations),
        memory_seconds=dram_bytes / platform.bandwidth_bytes_per_s,
        bound=max(by_limit, key=lambda limit: by_limit[limit]),
        scope=WHOLE,
        operations=operations,
    )


def context_metrics(context: int, decode: PhaseMetrics) -> ContextMetrics:
    """A point of a curve: decoding one token with `context` tokens in the cache."""
    return ContextMetrics(
        context,
        decode.seconds,
        decode.tokens_per_s,
        decode.dram_bytes,
        sum(one.bytes for one in decode.operations if one.origin == "cache"),
        decode.bound,
    )


def _linear_operations(
    spec: Engine | CoreSpec,
    linear: PhaseMetrics,
    passes: int,
    platform: Platform,
    *,
    is_bound: bool,
) -> Iterator[OperationMetrics]:
    """The linear layers on the accelerator in all passes; what a core's programs take beyond their
    layers, such as the instructions' own words and waiting for the host, is an operation of its
    own."""
    layers, is_core = linear.layers, isinstance(spec, CoreSpec)
    label: Label = "bound" if is_bound else "exact" if is_core else "modelled"
    cycles_left, bytes_left = linear.cycles, linear.dram_bytes
    for layer in layers:
        times = passes * layer.count
        cycles, moved = times * layer.cycles, times * layer.dram_bytes
        cycles_left, bytes_left = cycles_left - cycles, bytes_left - moved
        yield OperationMetrics(
            name=layer.name,
            kind="matmul",
            origin="weights",
            count=layer.count,
            cycles=cycles,
            seconds=(
                cycles / platform.frequency_hz
                if is_core
                else times * max(layer.compute_seconds, layer.memory_seconds)
            ),
            bytes=moved,
            macs=times * layer.macs,
            elements=0,
            label=label,
            limited_by=layer.bound,
        )
    if is_core:
        yield OperationMetrics(
            name="programs",
            kind="matmul",
            origin="weights",
            count=1,
            cycles=cycles_left,
            seconds=cycles_left / platform.frequency_hz,
            bytes=bytes_left,
            macs=0,
            elements=0,
            label=label,
            limited_by="latency",
        )


def _left_operations(
    workload: Workload, passes: Sequence[Pass], host: Host | None
) -> Iterator[OperationMetrics]:
    """The linear layers that are left to the host, by the names that blocks share."""
    together: dict[str, list[HostLayer]] = {}
    for layer in workload.left:
        together.setdefault(str(layer.name.kind), []).append(layer)
    for name, layers in together.items():
        rows = [
            (layer, rows_of(layer, work.tokens, work.batch * work.head_rows))
            for layer in layers
            for work in passes
        ]
        macs = sum(layer.n * layer.k * count for layer, count in rows)
        moved = sum(layer.weight_bytes for layer, count in rows if count)
        yield OperationMetrics(
            name=name,
            kind="matmul",
            origin="weights",
            count=len(layers),
            cycles=None,
            seconds=_host_seconds(host, macs, moved),
            bytes=moved,
            macs=macs,
            elements=0,
            label="host",
            limited_by="host",
        )


def _flash(
    experts: ExpertCache,
    shape: ModelShape,
    workload: Workload,
    passes: Sequence[Pass],
    platform: Platform,
) -> OperationMetrics:
    """What all passes read of experts from flash, and write to memory."""
    moved = math.ceil(len(passes) * experts.flash_bytes(shape, workload, passes[0]))
    seconds = moved / experts.flash_bytes_per_s
    return OperationMetrics(
        name="flash",
        kind="gather",
        origin="expert",
        count=1,
        cycles=math.ceil(seconds * platform.frequency_hz),
        seconds=seconds,
        bytes=moved,
        macs=0,
        elements=0,
        label="modelled",
        limited_by="flash",
    )


def _host_seconds(host: Host | None, work: int, moved: int) -> float | None:
    if host is None:
        return None
    return max(work / host.macs_per_s, moved / host.bytes_per_s)


_KINDS: dict[type[Operation], str] = {
    Attend: "attention",
    Advance: "state",
    Elementwise: "vector",
    Gather: "gather",
}
"""How a record calls each kind of operation that is no product with weights."""


def _other_operations(
    spec: Engine | CoreSpec,
    shape: ModelShape,
    passes: Sequence[Pass],
    cache: CacheFormat,
    platform: Platform,
    host: Host | None,
) -> Iterator[OperationMetrics]:
    """All that are no products with weights, by their names, added up over the passes."""
    together: dict[str, list[tuple[Operation, int]]] = {}
    for work in passes:
        for operation, count in counted_operations(shape, work, cache):
            if not isinstance(operation, Product):
                together.setdefault(str(operation.name), []).append((operation, count))
    for name, counted in together.items():
        times = [operation_time(spec, operation, platform, host) for operation, _ in counted]
        counts = [count for _, count in counted]

        def total(values: Sequence[float | None], counts: Sequence[int] = counts) -> float | None:
            if any(value is None for value in values):
                return None
            return sum(count * (value or 0) for value, count in zip(values, counts, strict=True))

        first, _ = counted[0]
        cycles = total([time.cycles for time in times])
        yield OperationMetrics(
            name=name,
            kind=_KINDS[type(first)],
            origin=first.origin,
            count=sum(counts) // len(passes),
            cycles=None if cycles is None else int(cycles),
            seconds=total([time.seconds for time in times]),
            bytes=sum(n * (one.read_bytes + one.write_bytes) for one, n in counted),
            macs=sum(n * one.macs for one, n in counted),
            elements=sum(n * one.elements for one, n in counted),
            label="host" if cycles is None else "modelled",
            limited_by=times[-1].limited_by,
        )


def operation_time(
    spec: Engine | CoreSpec, operation: Operation, platform: Platform, host: Host | None
) -> OperationTime:
    """What one operation takes, on a unit of the core if it has one."""
    if isinstance(spec, CoreSpec) and spec.vector_lanes:
        match operation:
            case Attend() if spec.attention_rows:
                return _attention_time(spec, operation, platform)
            case Elementwise():
                cycles = vector_cycles(operation, spec.vector_lanes)
                return OperationTime(cycles, cycles / platform.frequency_hz, "vector")
            case Advance():
                work = vector_cycles(operation, spec.vector_lanes)
                return _slower(spec, platform, work, 2 * operation.state_bytes, "vector")
            case Gather():
                return _slower(spec, platform, 0, operation.read_bytes, "vector")
            case _:
                pass
    work = operation.macs + operation.elements
    moved = operation.read_bytes + operation.write_bytes
    return OperationTime(None, _host_seconds(host, work, moved), "host")


def _attention_time(core: CoreSpec, attend: Attend, platform: Platform) -> OperationTime:
    """Attention on the core's unit, which never expands a latent cache."""
    rule = f"at most {UNIT_CACHE_BITS} bits for a core's attention unit"
    require(attend.cache.bits <= UNIT_CACHE_BITS, "kv", rule, attend.cache.name)
    if attend.attention.latent is not None:
        attend = replace(attend, schedule="absorb")
    stream = attention_stream(attend, core.attention_rows, core.bus_bytes)
    moved = stream.bytes + attend.write_bytes
    return _slower(core, platform, stream.cycles, moved, "compute")


def _slower(
    core: CoreSpec, platform: Platform, work_cycles: int, moved: int, what: str
) -> OperationTime:
    """The longer of working, and of moving bytes over the core's port and the memory behind it."""
    memory_bytes = platform.bandwidth_bytes_per_s / platform.frequency_hz
    per_cycle = min(memory_bytes, core.bus_bytes)
    moving_cycles = math.ceil(moved / per_cycle)
    cycles = max(work_cycles, moving_cycles)
    limit = "memory" if memory_bytes < core.bus_bytes else "port"
    return OperationTime(
        cycles,
        cycles / platform.frequency_hz,
        what if work_cycles >= moving_cycles else limit,
    )
