"""The records of cost, the same for an engine alone and for a core: what `evolute sim` prints, and
what reports read. Every field says what kind of figure it is (`evolute.support.labels`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.platform import Platform
from evolute.sim.timing.memory import memory_timing
from evolute.support.labels import Figure, Kind, Label, labels_of, to_record


@dataclass(frozen=True)
class LayerMetrics:
    """One linear layer of an engine, or the layers of a core's stage, which share an input; the
    model has `count` such, and the other figures are of one.

    An engine's cycles are equal to the RTL's on streams that keep up. A core's are those of the
    stage's part of its programs up to the call of the host, in which weights of the next part may
    already be loaded; `scaling_seconds` are those of `compute_seconds` in which results came as
    fast as they could be scaled, and `memory_seconds` is for how long the memory was busy in them,
    with words of the next part too. All are means where stages of equal shape differ.
    """

    name: str
    count: Annotated[int, Figure("exact")]
    rows: Annotated[int, Figure("exact")]
    n: Annotated[int, Figure("exact")]
    k: Annotated[int, Figure("exact")]
    weights: str
    group: Annotated[int, Figure("exact")]
    cycles: Annotated[int, Figure("exact", follows_steps=True)]
    utilization: Annotated[float, Figure("exact", follows_steps=True)]
    macs: Annotated[int, Figure("exact")]
    dram_bytes: Annotated[int, Figure("modelled", core="exact")]
    compute_seconds: Annotated[float, Figure("modelled", follows_steps=True)]
    scaling_seconds: Annotated[
        float | None, Figure("absent", core="modelled", follows_steps=True, optional=True)
    ]
    memory_seconds: Annotated[float, Figure("modelled")]
    waiting_seconds: Annotated[float | None, Figure("absent", core="modelled", follows_steps=True)]
    bound: Annotated[str, Figure("modelled", core="exact", follows_steps=True)]


LINEAR, WHOLE = "linear layers", "whole token"
"""What seconds and tokens/s of a phase are of."""


@dataclass(frozen=True)
class OperationMetrics:
    """Operations of one name in a phase; figures are totals of the phase.

    `count` is how many a pass has. An operation of the host has no cycles, and seconds only where
    the host's rates are stated.
    """

    name: str
    kind: str
    """`matmul`, `attention`, `state`, `vector` or `gather`."""
    origin: str
    """Of its operand, see `sim.workload.operations.Origin`."""
    count: int
    cycles: int | None
    seconds: float | None
    bytes: int
    macs: int
    elements: int
    """Of vector operations, exponentials included."""
    label: Label
    limited_by: str


@dataclass(frozen=True)
class PhaseMetrics:
    """Prefill (`tokens` rows at once) or decode (`tokens` one by one), of one sequence or of
    several at once: the linear layers, or whole tokens, as `scope` says.

    Figures are totals of the whole phase. `utilization` is the share of the engine's
    multiply-accumulates in its cycles that the model asked for, `engine_utilization` the share of
    cycles in which it took a step, and `mac_share` the part of the linear layers'
    multiply-accumulates that the accelerator does; the host does the rest. `bound` says what
    limits: computing, or in it scaling results, moving words, or waiting for them (`latency`).
    """

    tokens: Annotated[int, Figure("exact")]
    cycles: Annotated[int, Figure("exact", follows_steps=True)]
    seconds: Annotated[float, Figure("modelled", follows_steps=True)]
    tokens_per_s: Annotated[float, Figure("modelled", follows_steps=True)]
    utilization: Annotated[float, Figure("exact", follows_steps=True)]
    engine_utilization: Annotated[
        float | None, Figure("absent", core="exact", follows_steps=True, optional=True)
    ]
    bus_utilization: Annotated[
        float | None, Figure("absent", core="exact", follows_steps=True, optional=True)
    ]
    dram_bytes: Annotated[int, Figure("modelled", core="exact")]
    macs: Annotated[int, Figure("exact", optional=True)]
    mac_share: Annotated[float, Figure("exact", optional=True)]
    compute_seconds: Annotated[float, Figure("modelled", follows_steps=True, optional=True)]
    scaling_seconds: Annotated[
        float | None, Figure("absent", core="modelled", follows_steps=True, optional=True)
    ]
    memory_seconds: Annotated[float, Figure("modelled", optional=True)]
    waiting_seconds: Annotated[
        float | None, Figure("absent", core="modelled", follows_steps=True, optional=True)
    ]
    bound: Annotated[str, Figure("modelled", core="exact", follows_steps=True)]
    layers: tuple[LayerMetrics, ...]
    scope: str = LINEAR
    operations: tuple[OperationMetrics, ...] = ()
    """Everything that a token needs, where that was asked for."""


@dataclass(frozen=True)
class ContextMetrics:
    """Decoding one token with `context` tokens in the cache."""

    context: int
    seconds: float
    tokens_per_s: float
    dram_bytes: int
    cache_bytes: int
    """Bytes that move to and from the cache, wherever attention runs."""
    bound: str


@dataclass(frozen=True)
class Metrics:
    """What an accelerator does with a workload on a platform.

    `steps_are_bounds` says that steps depend on weights and none were measured: then what follows
    from them is a bound, see the labels.
    """

    spec: Engine | CoreSpec
    platform: Platform
    prefill: PhaseMetrics
    decode: PhaseMetrics
    steps_are_bounds: bool
    curve: tuple[ContextMetrics, ...] = ()
    """Decoding with each of several contexts, where several were asked for."""

    @property
    def kind(self) -> Kind:
        return "core" if isinstance(self.spec, CoreSpec) else "engine"

    @property
    def labels(self) -> dict[str, Label]:
        """The label of every figure of a phase."""
        return phase_labels(self.decode, self.kind, is_bound=self.steps_are_bounds)

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "digest": self.spec.digest,
            "platform": platform_record(self.platform, self.kind),
            "prefill": to_record(self.prefill, self.kind),
            "decode": to_record(self.decode, self.kind),
            "curve": [asdict(point) for point in self.curve],
        }


def phase_labels(phase: PhaseMetrics, kind: Kind, *, is_bound: bool) -> dict[str, Label]:
    """The label of every figure of a phase. Of whole tokens none is more than modelled that follows
    from units without RTL, or from rates of the host."""
    labels = labels_of(PhaseMetrics, kind, is_bound=is_bound)
    if phase.scope == WHOLE:
        for name, label in labels.items():
            labels[name] = "modelled" if label == "exact" and name != "tokens" else label
    return labels


def platform_record(platform: Platform, kind: Kind) -> dict[str, Any]:
    """A platform as records have it, of a core with the memory that its cycles are exact for."""
    record = to_record(platform, kind)
    if kind == "core":
        timing = memory_timing(platform)
        record["memory"] = asdict(timing) | {"bytes_per_cycle": str(timing.bytes_per_cycle)}
    return record
