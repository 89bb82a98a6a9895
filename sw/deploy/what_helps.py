"""What would make decoding faster: the gain from more of each resource.

Each resource is changed alone, and the whole phase is priced again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from evolute.hw.spec import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.metrics import PhaseMetrics
from evolute.support.errors import RefusedError
from evolute.sw.deploy.assignment import Accelerator
from evolute.sw.deploy.simulate import Request

STEP = 1.25
"""How much more of a rate: bandwidth or clock."""


@dataclass(frozen=True)
class Gain:
    """Decoding with `factor` times as much of `resource`. Where that is impossible, the results are
    None and `why_not` says why."""

    resource: str
    factor: float
    tokens_per_s: float | None
    gain: float | None
    """More tokens/s, as a share of what they are."""
    why_not: str | None = None


class _Surroundings(NamedTuple):
    """An accelerator and its platform, one of them changed."""

    spec: Accelerator
    platform: Platform


def _faster_memory(spec: Accelerator, platform: Platform) -> _Surroundings:
    bandwidth = platform.bandwidth_bytes_per_s * STEP
    return _Surroundings(spec, replace(platform, bandwidth_bytes_per_s=bandwidth))


def _faster_clock(spec: Accelerator, platform: Platform) -> _Surroundings:
    return _Surroundings(spec, replace(platform, frequency_hz=platform.frequency_hz * STEP))


def _larger_buffer(spec: Accelerator, platform: Platform) -> _Surroundings:
    if isinstance(spec, CoreSpec):
        bigger = spec.evolve(weight_buffer_bytes=2 * spec.weight_buffer_bytes)
        return _Surroundings(bigger, platform)
    if not platform.weight_buffer_bytes:
        raise RefusedError("there is none")
    size = 2 * platform.weight_buffer_bytes
    return _Surroundings(spec, replace(platform, weight_buffer_bytes=size))


def _more_of(field: str) -> Callable[[Accelerator, Platform], _Surroundings]:
    """A change that doubles a field of a core."""

    def changed(spec: Accelerator, platform: Platform) -> _Surroundings:
        if not isinstance(spec, CoreSpec) or not getattr(spec, field):
            raise RefusedError("there are none")
        return _Surroundings(spec.evolve(**{field: 2 * getattr(spec, field)}), platform)

    return changed


CHANGES: dict[str, tuple[float, Callable[[Accelerator, Platform], _Surroundings]]] = {
    "bandwidth": (STEP, _faster_memory),
    "clock": (STEP, _faster_clock),
    "vector_lanes": (2, _more_of("vector_lanes")),
    "attention_rows": (2, _more_of("attention_rows")),
    "weight_buffer": (2, _larger_buffer),
}


def what_helps(
    spec: Accelerator,
    request: Request,
    decode: PhaseMetrics,
    price: Callable[[Accelerator, Request], PhaseMetrics],
) -> list[Gain]:
    """The gain of each change over `decode`. `price` gives the decoding phase on a changed
    accelerator.

    With a faster clock, the memory keeps its bytes per second, and its latency in cycles.
    """
    gains = []
    for resource, (factor, change) in CHANGES.items():
        try:
            changed = change(spec, request.platform)
            priced = price(changed.spec, replace(request, platform=changed.platform))
        except RefusedError as error:
            gains.append(Gain(resource, factor, None, None, str(error)))
            continue
        gain = priced.tokens_per_s / decode.tokens_per_s - 1
        gains.append(Gain(resource, factor, priced.tokens_per_s, gain))
    return gains
