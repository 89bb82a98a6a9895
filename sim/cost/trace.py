"""One decoded token of a core as a timeline, in the format that Chrome's tracing and Perfetto read.

Loads, computing and stores are exact: they are the spans of the cycle model's own events, which is
equal to the RTL. Attention and vector operations are modelled, as `sim.cost.token` has them. They
come where they stand between two stages of the program, in its call of the host, and all that is
under way there waits for them, as in the token's cycles. What is left to the host is not shown.

Format: "Trace Event Format", Google, complete events (`X`) and metadata events (`M`).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evolute.hw.isa.instructions import Unit
from evolute.hw.spec.base import require
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.core import PricedProgram, priced_phase
from evolute.sim.cost.token import operation_time
from evolute.sim.program.placement import stage_name, stages_of
from evolute.sim.timing.core import ProgramCycles
from evolute.sim.timing.memory import memory_timing
from evolute.sim.timing.trace import Tracer, UnitSpan
from evolute.sim.workload.linear import Linear, Workload
from evolute.sim.workload.operations import Attend, CacheFormat, Pass, Product, operations
from evolute.sim.workload.shape import ModelShape
from evolute.support.labels import Label

Track = Literal["stage", "load", "compute", "store", "host call", "attention", "vector"]

TRACKS: tuple[Track, ...] = (
    "stage",
    "load",
    "compute",
    "store",
    "host call",
    "attention",
    "vector",
)
"""A row of the timeline each, from the top."""


@dataclass(frozen=True)
class Span:
    """Something that a unit does from cycle `first` to before cycle `end`."""

    track: Track
    name: str
    first: int
    end: int
    label: Label
    instructions: int = 0
    busy_cycles: int = 0
    """Of the instructions alone; between two of them one cycle can lie."""


def token_trace(
    core: CoreSpec,
    shape: ModelShape,
    workload: Workload,
    platform: Platform,
    work: Pass,
    cache: CacheFormat,
) -> tuple[Span, ...]:
    """All spans of decoding one token of each sequence; the last ends with the token's cycles.

    Raises `SpecError` for an engine whose steps depend on weights, and for a token that takes
    several programs, as experts do.
    """
    rule = "of an engine whose steps do not depend on weights"
    require(core.engine.steps_are_fixed, "trace", rule, type(core.engine).__name__)
    programs = priced_phase(core, workload, platform, work, 1, in_one=True).programs
    count = sum(program.count for program in programs)
    require(count == 1, "trace", "of a token that one program makes", f"{count} programs")
    (priced,) = programs
    stages = tuple(itertools.chain(*(stages_of(core, block) for block in workload.blocks)))
    program = priced.program
    tracer = Tracer(core, program.instructions, memory_timing(platform), None)
    cycles, unit_spans = tracer.trace()
    before, after = _between(core, shape, platform, work, cache, stages)
    moved = _Moved(cycles, before[-1].end if before else 0, after)
    spans = [
        *before,
        *_stage_spans(cycles, stages, moved),
        *_merged(_named(priced, stages, unit_spans), moved),
        *moved.between(),
    ]
    return tuple(sorted(spans, key=lambda one: (TRACKS.index(one.track), one.first)))


def _between(
    core: CoreSpec,
    shape: ModelShape,
    platform: Platform,
    work: Pass,
    cache: CacheFormat,
    stages: Sequence[tuple[Linear, ...]],
) -> tuple[list[Span], list[list[Span]]]:
    """What the core's units for whole tokens do before the first stage and after each, one
    operation after another from cycle 0 on."""
    place = {linear.name.whole: n for n, stage in enumerate(stages) for linear in stage}
    gaps: list[list[Span]] = [[] for _ in range(len(stages) + 1)]
    at = 0
    for operation in operations(shape, work, cache):
        if isinstance(operation, Product):
            at = max(at, place.get(operation.name, -1) + 1)
            continue
        taken = operation_time(core, operation, platform, None).cycles
        if taken:
            first = gaps[at][-1].end if gaps[at] else 0
            track: Track = "attention" if isinstance(operation, Attend) else "vector"
            span = Span(track, str(operation.name), first, first + taken, "modelled", 1, taken)
            gaps[at].append(span)
    before, *after = gaps
    return before, after


class _Moved:
    """Where cycles of the program alone lie once the units' operations are between its stages."""

    def __init__(self, cycles: ProgramCycles, start: int, after: Sequence[Sequence[Span]]):
        self.after = after
        lengths = [spans[-1].end if spans else 0 for spans in after]
        self.at = [*(sync.raised_cycle for sync in cycles.syncs), cycles.cycles]
        self.added = list(itertools.accumulate(lengths, initial=start))

    def first(self, cycle: int) -> int:
        """Of a span's first cycle."""
        return cycle + self.added[bisect.bisect_right(self.at, cycle)]

    def end(self, cycle: int) -> int:
        """Of the first cycle after a span, which waits for all that comes before its last."""
        return cycle + self.added[bisect.bisect_left(self.at, cycle)]

    def between(self) -> Iterator[Span]:
        """The operations of the units."""
        for at, added, spans in zip(self.at, self.added[:-1], self.after, strict=True):
            for one in spans:
                yield replace(one, first=at + added + one.first, end=at + added + one.end)


def _stage_spans(
    cycles: ProgramCycles, stages: Sequence[tuple[Linear, ...]], moved: _Moved
) -> Iterator[Span]:
    """Each stage from its start to the call of the host, and these calls."""
    starts = [0, *(sync.resumed_cycle + 1 for sync in cycles.syncs)]
    ends = [*(sync.raised_cycle for sync in cycles.syncs), cycles.cycles]
    for linears, first, end in zip(stages, starts, ends, strict=True):
        name = stage_name(linears)
        yield Span("stage", name, moved.first(first), moved.end(end), "exact", 0, end - first)


def _named(
    priced: PricedProgram, stages: Sequence[tuple[Linear, ...]], spans: Iterable[UnitSpan]
) -> Iterator[Span]:
    """The spans of instructions, named by the layer whose weights they take, or the stage whose
    input they load or whose results they store; in cycles of the program alone."""
    program = priced.program
    layers = [str(linear.name) for linears in stages for linear in linears]
    places: list[tuple[int, str]] = []
    number = 0
    for linears, batch in zip(stages, program.batches, strict=True):
        stage = stage_name(linears)
        places += [(batch.input_address, f"{stage} input"), (batch.result_address, stage)]
        for layer in batch.stage.layers:
            places.append((layer.address, layers[number]))
            number += 1
    places.sort()
    addresses = [address for address, _ in places]
    table = program.instructions
    in_memory = {
        int(index): int(address)
        for name in ("load", "store")
        for index, address in zip(table.at(name), table.column(name, "memory"), strict=True)
    }
    matmuls = table.at("matmul").tolist()
    of_matmul = program.parts.tile_layer[program.parts.tile].tolist()
    for span in sorted(spans, key=lambda one: one.first):
        if span.unit == Unit.COMPUTE:  # a fill is of the matmul after it
            name, track = layers[of_matmul[bisect.bisect_left(matmuls, span.index)]], "compute"
        elif span.index in in_memory:
            name = places[bisect.bisect_right(addresses, in_memory[span.index]) - 1][1]
            track = "load" if span.unit == Unit.LOAD else "store"
        else:
            name, track = "sync", "host call"
        taken = span.end - span.first
        yield Span(track, name, span.first, span.end, "exact", 1, taken)


def _merged(spans: Iterable[Span], moved: _Moved) -> Iterator[Span]:
    """Spans of one name that follow each other in a unit, with no more than the cycle of issue
    between them, as one."""
    open_: dict[Track, Span] = {}
    for span in spans:
        before = open_.get(span.track)
        if before is not None and before.name == span.name and span.first - before.end <= 1:
            open_[span.track] = replace(
                before,
                end=span.end,
                instructions=before.instructions + 1,
                busy_cycles=before.busy_cycles + span.busy_cycles,
            )
            continue
        if before is not None:
            yield replace(before, first=moved.first(before.first), end=moved.end(before.end))
        open_[span.track] = span
    for span in open_.values():
        yield replace(span, first=moved.first(span.first), end=moved.end(span.end))


def chrome_trace(title: str, spans: Sequence[Span], frequency_hz: float) -> dict[str, Any]:
    """The timeline as a JSON object: times in microseconds, cycles among the arguments."""
    per_cycle = 1e6 / frequency_hz
    used = [track for track in TRACKS if any(span.track == track for span in spans)]
    names = [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": title}},
        *(
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": TRACKS.index(track) + 1,
             "args": {"name": track}}
            for track in used
        ),
    ]  # fmt: skip
    events = [
        {
            "name": span.name,
            "cat": span.label,
            "ph": "X",
            "pid": 1,
            "tid": TRACKS.index(span.track) + 1,
            "ts": span.first * per_cycle,
            "dur": (span.end - span.first) * per_cycle,
            "args": {
                "first_cycle": span.first,
                "end_cycle": span.end,
                "instructions": span.instructions,
                "busy_cycles": span.busy_cycles,
            },
        }
        for span in spans
    ]
    about = {
        "stage, load, compute, store, host call": "exact: the cycle model's events",
        "attention, vector": "modelled, between stages; what is under way there waits",
        "left to the host": "not shown",
        "frequency_hz": frequency_hz,
    }
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ns", "otherData": about}
