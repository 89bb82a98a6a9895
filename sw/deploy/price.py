"""What a model's linear layers cost on a core: its programs, compiled and run on the cycle model.

A prompt takes one program per block and one for the head, which sees the last token alone; every
further token takes a single program. Blocks of equal layers take equal programs, so that a prompt
costs one program per kind of block; where steps depend on weights, each block its own. The host's
own work is not in any of these cycles.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import CoreSpec
from evolute.sim.timing.core import ProgramCycles, program_cycles
from evolute.sim.timing.memory import MemoryTiming, require_positive
from evolute.sim.workload.linear import Linear
from evolute.sw.deploy import placement as place
from evolute.sw.deploy.build import Program, compile_stages

REFRESH_INTERVAL_S, REFRESH_S = 7.8e-6, 350e-9
"""Average interval and length of an all-bank refresh of 8-Gbit DDR4 (JESD79-4, tREFI and tRFC1)."""


def decimal(value: float) -> Fraction:
    """The number that a float is written as: 0.1 is a tenth, not the binary fraction next to it."""
    return Fraction(repr(float(value)))


@dataclass(frozen=True)
class CorePlatform:
    """A core's clock, and the memory behind its port; clock and bandwidth mean the decimal numbers
    that they are written as."""

    frequency_hz: float
    bandwidth_bytes_per_s: float
    latency_cycles: int
    refresh: bool

    def __post_init__(self) -> None:
        require_positive("frequency_hz", self.frequency_hz)
        require_positive("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)

    def timing(self) -> MemoryTiming:
        """The memory in cycles, its bytes per cycle an exact fraction.

        Raises `SpecError` for a rate that `MemoryTiming` cannot hold.
        """
        interval, length = REFRESH_INTERVAL_S, REFRESH_S
        rate = decimal(self.bandwidth_bytes_per_s) / decimal(self.frequency_hz)
        return MemoryTiming(
            latency_cycles=self.latency_cycles,
            bytes_per_cycle=rate,
            refresh_interval_cycles=round(interval * self.frequency_hz) if self.refresh else 0,
            refresh_cycles=round(length * self.frequency_hz) if self.refresh else 0,
        )


LayerSteps = Mapping[str, NDArray[np.integer]]
"""Where steps depend on weights, those of all layers' beats by name, int [column tiles, beats]."""


@dataclass(frozen=True)
class StageCost:
    """Layers with one input, of which the model has `count`; totals are of all of them.

    `cycles` are those of their parts of programs up to the call of the host, in which weights of
    the next part may already be loaded; `compute_cycles` those of their matmuls and fills,
    `memory_cycles` those in which the memory was busy, with words of the next part too, and
    `step_macs` their multiply-accumulates, each counted as often as the engine has steps for it.
    """

    linears: tuple[Linear, ...]
    count: int
    rows: int
    cycles: int
    bus_words: int
    compute_cycles: int
    memory_cycles: float
    step_macs: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one."""
        return self.rows * sum(linear.n * linear.k for linear in self.linears)


@dataclass(frozen=True)
class PhaseCost:
    """Prefill (`tokens` rows at once) or decode (`tokens` one by one), `steps` times the same.

    `programs` are those of one step with their counts, `stages` what they consist of.
    """

    core: CoreSpec
    platform: CorePlatform
    tokens: int
    steps: int
    programs: tuple[tuple[ProgramCycles, int], ...]
    stages: tuple[StageCost, ...]

    def _total(self, name: str) -> int:
        return self.steps * sum(count * getattr(cost, name) for cost, count in self.programs)

    @property
    def cycles(self) -> int:
        return self._total("cycles")

    @property
    def beats(self) -> int:
        """Bus words in both directions, instructions included."""
        return self._total("read_beats") + self._total("write_beats")

    @property
    def seconds(self) -> float:
        return self.cycles / self.platform.frequency_hz

    @property
    def _memory_cycles(self) -> float:
        """Cycles that the memory needs for all words."""
        service = self.platform.timing().service(self.core.bus_bytes)
        return float(self.beats * service.word_cycles)

    def _utilization(self, step_macs: float, cycles: int) -> float:
        return step_macs / self.core.engine.macs_per_step / cycles

    def _bound(self, cycles: float, compute_cycles: float, memory_cycles: float) -> dict[str, Any]:
        """How long the engine computes, the memory moves words, and the busier of the two waits;
        and which of the three limits.

        It is the waiting, or latency, where doing away with it would save more than making the
        busier twice as fast could; else what the busier does.
        """
        busy_cycles = max(compute_cycles, memory_cycles)
        waiting_cycles = max(0.0, cycles - busy_cycles)
        work = "compute" if compute_cycles >= memory_cycles else "memory"
        frequency = self.platform.frequency_hz
        return {
            "compute_seconds": compute_cycles / frequency,
            "memory_seconds": memory_cycles / frequency,
            "waiting_seconds": waiting_cycles / frequency,
            "bound": "latency" if waiting_cycles > busy_cycles / 2 else work,
        }

    def to_dict(self) -> dict[str, Any]:
        used = self.steps * sum(stage.step_macs for stage in self.stages)
        return {
            "tokens": self.tokens,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
            "utilization": self._utilization(used, self.cycles),
            "engine_utilization": self._total("steps") / self.cycles,
            "bus_utilization": self.beats / self.cycles,
            "dram_bytes": self.beats * self.core.bus_bytes,
            "macs": self.steps * sum(stage.count * stage.macs for stage in self.stages),
            **self._bound(self.cycles, self._total("compute_cycles"), self._memory_cycles),
            "layers": [self._stage(stage) for stage in self.stages],
        }

    def _stage(self, stage: StageCost) -> dict[str, Any]:
        first = stage.linears[0]
        return {
            "name": "+".join(linear.name for linear in stage.linears),
            "count": stage.count,
            "rows": stage.rows,
            "n": sum(linear.n for linear in stage.linears),
            "k": first.k,
            "weights": ", ".join(dict.fromkeys(each.format.name for each in stage.linears)),
            "group": first.group,
            "cycles": round(stage.cycles / stage.count),
            "utilization": self._utilization(stage.step_macs, stage.cycles),
            "macs": stage.macs,
            "dram_bytes": stage.bus_words // stage.count * self.core.bus_bytes,
            **self._bound(
                stage.cycles / stage.count,
                stage.compute_cycles / stage.count,
                stage.memory_cycles / stage.count,
            ),
        }


@dataclass(frozen=True)
class Cost:
    """What a core does with a model."""

    core: CoreSpec
    platform: CorePlatform
    prefill: PhaseCost
    decode: PhaseCost

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.core.to_dict(),
            "digest": self.core.digest,
            "platform": asdict(self.platform) | {"memory": _memory(self.platform.timing())},
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
        }


def _memory(timing: MemoryTiming) -> dict[str, Any]:
    """The memory that cycles are exact for, its rate as a fraction in text."""
    return asdict(timing) | {"bytes_per_cycle": str(timing.bytes_per_cycle)}


Block = tuple[tuple[Linear, ...], ...]
"""Layers of the core stage by stage, as `sw.deploy.on_core.stages_of` names them."""


def cost(
    core: CoreSpec,
    blocks: Sequence[Block],
    platform: CorePlatform,
    prefill_tokens: int,
    decode_tokens: int,
    layer_steps: LayerSteps | None = None,
) -> Cost:
    """Cycles and traffic of a prompt at once, then of tokens one by one.

    `blocks` ends with that of the head; some, but not all, may have no layer. Raises `PlaceError`
    where a layer does not fit the core, and `SpecError` where steps depend on weights and
    `layer_steps` are not given.
    """
    if layer_steps is None:
        blocks = [tuple(map(_unnumbered, block)) for block in blocks]
    *body, head = blocks
    kinds = collections.Counter(body)
    prompt = [(block, prefill_tokens, count) for block, count in kinds.items()]
    token = tuple(stage for block in (*body, head) for stage in block)

    def phase(tokens: int, steps: int, programs: Sequence[tuple[Block, int, int]]) -> PhaseCost:
        return _phase(core, platform, tokens, steps, programs, layer_steps)

    return Cost(
        core,
        platform,
        prefill=phase(prefill_tokens, 1, [*prompt, (head, 1, 1)]),
        decode=phase(decode_tokens, decode_tokens, [(token, 1, 1)]),
    )


def _unnumbered(linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
    """Layers without their block's number in their names."""
    return tuple(replace(linear, name=linear.name.rpartition(".")[2]) for linear in linears)


def _phase(
    core: CoreSpec,
    platform: CorePlatform,
    tokens: int,
    steps: int,
    programs: Sequence[tuple[Block, int, int]],
    layer_steps: LayerSteps | None,
) -> PhaseCost:
    """`programs` are layers, the rows they run on, and how many such programs a step has."""
    found: list[tuple[ProgramCycles, int]] = []
    stages: dict[tuple[Linear, ...], StageCost] = {}
    for block, rows, count in programs:
        if not block:
            continue
        program, cycles = _program(core, block, rows, platform.timing(), layer_steps)
        found.append((cycles, count))
        computes = iter(cycles.computes)
        parts = zip(cycles.stage_cycles, cycles.stage_memory_cycles, strict=True)
        for linears, (part, busy), work in zip(block, parts, program.work, strict=True):
            own = itertools.islice(computes, work.computes)
            kind = _unnumbered(linears)
            before = stages.get(kind, StageCost(kind, 0, rows, 0, 0, 0, 0, 0))
            stages[kind] = replace(
                before,
                count=before.count + count,
                cycles=before.cycles + count * part,
                bus_words=before.bus_words + count * work.bus_words,
                compute_cycles=before.compute_cycles + count * sum(each.cycles for each in own),
                memory_cycles=before.memory_cycles + count * busy,
                step_macs=before.step_macs
                + count * rows * sum(_step_macs(core, each, layer_steps) for each in linears),
            )
    return PhaseCost(core, platform, tokens, steps, tuple(found), tuple(stages.values()))


def _step_macs(core: CoreSpec, linear: Linear, layer_steps: LayerSteps | None) -> float:
    """Multiply-accumulates of a layer for one row, each counted as often as there are steps for it;
    where they depend on weights, for all in the mean."""
    steps: float = core.engine.slice_steps(linear.format)
    if layer_steps is not None:
        beats = layer_steps[linear.name]
        steps = beats.mean() * core.engine.coding_of(linear.format).planes
    return linear.n * linear.k * steps


def _program(
    core: CoreSpec, block: Block, rows: int, timing: MemoryTiming, layer_steps: LayerSteps | None
) -> tuple[Program, ProgramCycles]:
    """Compile layers for so many rows and run them on the cycle model."""
    stages, address = [], 0
    for linears in block:
        stages.append(place.stage(core, place.stage_name(linears), linears, address))
        address = stages[-1].end
    program = compile_stages(core, stages, rows, address)
    steps = program.beat_steps(layer_steps)
    cycles = program_cycles(core, program.instructions, timing, program.address, steps)
    return program, cycles
