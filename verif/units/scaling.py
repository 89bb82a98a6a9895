"""The battery for the lanes that scale results (`hw.spec.scaling`): cases with results in any
cycle and memories of scales and sums that answer a cycle later, and how recordings are compared
with the golden model and with the cycles that the spec states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolute.hw.spec import layout
from evolute.hw.spec.floating import FP16
from evolute.hw.spec.scaling import OFFSET_SHIFT_BITS, FloatScaling, IntegerScaling, Scaling
from evolute.sim.golden import floating
from evolute.sim.golden.sums import wrap
from evolute.verif.harness import bench, words
from evolute.verif.harness.differences import wrong_cycles, wrong_values
from evolute.verif.harness.simulators import Build
from evolute.verif.harness.vectors import PAUSES
from evolute.verif.units.scaling_bench import ScalingRecording, ScalingStimulus

STREAMS = ("result", "look", "read", "write")

SETTABLE: dict[str, str] = {}
"""Registers that the bench sets: none."""


@dataclass(frozen=True)
class ScalingCase:
    """G results one after another; `starts` says which of them begin their sums at 0 again.

    `psum` [G, m, n] and `row_sum` [G, m] are integers, or float64 for floating numbers. `scale` and
    `offset` [G, n] are integers or FP16 codes, or None if the lanes take none. `pause` holds a
    boolean per cycle.
    """

    name: str
    psum: np.ndarray
    row_sum: np.ndarray
    scale: np.ndarray | None
    offset: np.ndarray | None
    starts: np.ndarray
    shift: int
    pause: np.ndarray
    reset_after_cycles: int = 0


@dataclass(frozen=True)
class ScalingTransfers:
    """The cycles in which results are taken, scales are looked up, and sums are looked up and
    written."""

    result: np.ndarray
    look: np.ndarray
    read: np.ndarray
    write: np.ndarray

    @property
    def cycles(self) -> int:
        return int(self.write[-1]) + 1


def _floats(spec: FloatScaling, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Random sums of results: numbers of all magnitudes, or all of similar ones, some of them 0."""
    bits, fp16 = spec.engine.significand_bits, FP16
    least, most = 2 * (1 - fp16.bias - fp16.mantissa_bits), 2 * (fp16.top_exponent - fp16.bias) + 28
    exponent = rng.integers(least, most, size)
    if rng.random() < 0.6:
        exponent = np.clip(rng.integers(least, most) + rng.integers(-4, 5, size), least, most - 1)
    significand = rng.integers(1 << bits - 1, 1 << bits, size) & -(1 << rng.integers(0, bits))
    magnitudes = np.ldexp(significand.astype(np.float64), exponent - bits + 1)
    return rng.choice([-1, 1], size) * magnitudes * (rng.random(size) < 0.9)


def _case(
    spec: Scaling, rng: np.random.Generator, name: str, pattern: str | None, reset: bool = False
) -> ScalingCase:
    engine, groups = spec.engine, int(rng.integers(20, 60))
    names, columns = {field.name for field in spec.beat.fields}, (groups, engine.n)
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None
    if isinstance(spec, FloatScaling):
        psum = _floats(spec, rng, (groups, engine.m, engine.n))
        row_sum = _floats(spec, rng, (groups, engine.m))
        codes = rng.integers(0, 1 << FP16.bits, (2, *columns))
        near = rng.integers(10, 20, (2, *columns)) << FP16.mantissa_bits
        codes = np.where(rng.random(columns) < 0.5, codes & 0x83FF | near, codes)
        # Some results are the negation of the one before, so that their sums cancel out.
        again = np.flatnonzero(rng.random(groups - 1) < 0.3) + 1
        psum[again], row_sum[again] = -psum[again - 1], -row_sum[again - 1]
        codes[:, again] = codes[:, again - 1]
        scale = codes[0] if "scale" in names else None
        offset = codes[1] if "offset" in names else None
    else:
        assert isinstance(spec, IntegerScaling)

        def integers(bits: int, *size: int) -> np.ndarray:
            low, high = -(1 << bits - 1), (1 << bits - 1) - 1
            extremes = rng.choice([low, high], size)
            return np.where(rng.random(size) < 0.3, extremes, rng.integers(low, high + 1, size))

        psum = integers(engine.acc_bits, groups, engine.m, engine.n)
        row_sum = integers(engine.row_sum_bits, groups, engine.m)
        scale = integers(spec.scale_bits, *columns) & (1 << spec.scale_bits) - 1
        offset = integers(spec.offset_bits, *columns)
    cycles = groups * spec.period_cycles * 4 + 50
    return ScalingCase(
        name,
        psum,
        row_sum,
        scale,
        offset,
        np.concatenate([[True], rng.random(groups - 1) < 0.2]),
        int(rng.integers(1 << OFFSET_SHIFT_BITS)) if isinstance(spec, IntegerScaling) else 0,
        np.zeros(0, bool) if pattern is None else PAUSES[pattern](rng, cycles),
        int(rng.integers(1, 3 * spec.drain_cycles)) if reset else 0,
    )


def _flow(spec: Scaling, rng: np.random.Generator) -> list[ScalingCase]:
    return [_case(spec, rng, f"flow {i}", None) for i in range(16)]


def _stalls(spec: Scaling, rng: np.random.Generator) -> list[ScalingCase]:
    return [_case(spec, rng, f"stall {name}", name) for name in PAUSES for _ in range(4)]


def _resets(spec: Scaling, rng: np.random.Generator) -> list[ScalingCase]:
    return [
        _case(spec, rng, f"reset {i}", "scattered" if i % 2 else None, reset=True) for i in range(8)
    ]


KINDS: dict[str, Callable[[Scaling, np.random.Generator], list[ScalingCase]]] = {
    "flow": _flow,
    "stalls": _stalls,
    "resets": _resets,
}
"""The battery: every kind of case there is."""


def model_of(spec: Scaling, case: ScalingCase) -> ScalingTransfers:
    """The cycles of a case, by what the spec states."""
    taken, free, offered = [], 0, 0
    for _ in case.psum:
        while offered < len(case.pause) and case.pause[offered]:
            offered += 1
        taken.append(max(offered, free))
        free, offered = taken[-1] + spec.period_cycles, taken[-1] + 1
    starts = np.array(taken)
    steps = spec.step_cycles * np.arange(spec.steps)
    write = (starts[:, None] + spec.latency_cycles + steps).reshape(-1)
    return ScalingTransfers(starts, (starts[:, None] + 1 + steps).reshape(-1), write - 1, write)


def _bits(spec: Scaling, values: np.ndarray) -> np.ndarray:
    """Numbers as they are in words: codes of binary32, of which zero is +0, or integers."""
    if isinstance(spec, FloatScaling):
        return (values + 0.0).astype(np.float32).view(np.int32).astype(np.int64)
    return values


def expected(spec: Scaling, case: ScalingCase) -> np.ndarray:
    """Every sum that is written, [G, m, n], as it is in its word."""
    sums, since = [], 0
    for g, starts in enumerate(case.starts):
        since = g if starts else since
        part = slice(since, g + 1)
        if isinstance(spec, FloatScaling):
            scale, offset = (
                None if factor is None else floating.numbers(factor[part], FP16).T
                for factor in (case.scale, case.offset)
            )
            psum, row_sum = case.psum[part].transpose(1, 0, 2), case.row_sum[part].T
            total = floating.scaled_sums(psum, row_sum, scale, offset, spec.engine.significand_bits)
        else:
            assert isinstance(spec, IntegerScaling)
            assert case.scale is not None and case.offset is not None
            offsets = case.row_sum[part, :, None] * case.offset[part, None] << case.shift
            total = (case.psum[part] * case.scale[part, None] + offsets).sum(axis=0)
            total = wrap(total, spec.sum_bits)
        sums.append(_bits(spec, total))
    return np.stack(sums)


def _stimulus(
    spec: Scaling, case: ScalingCase, model: ScalingTransfers, rng: np.random.Generator
) -> ScalingStimulus:
    beat, groups = layout.streams(spec.engine).result, len(case.psum)
    held = {"psum": _bits(spec, case.psum), "row_sum": _bits(spec, case.row_sum)}
    shapes = {field.name: (groups, *field.shape) for field in beat.fields}
    fields = {name: held[name].reshape(shape) for name, shape in shapes.items()}
    factors = {"scale": case.scale, "offset": case.offset}
    parts = {
        field.name: np.asarray(factors[field.name]).reshape(-1, spec.scale_lanes)
        for field in spec.beat.fields
    }
    scales = words.pack(spec.beat, **parts) if parts else np.zeros((0, 1), np.uint8)
    looks = np.zeros(model.cycles + 1, bool)
    looks[model.look] = True
    return ScalingStimulus(
        result=words.pack(beat, **fields),
        scales=scales,
        starts=case.starts,
        looks=looks,
        pause_result=case.pause,
        chunks=spec.engine.n // spec.scale_lanes,
        steps=spec.steps,
        shift=case.shift,
        cycles=model.cycles + 8,
        seed=int(rng.integers(1 << 31)),
        reset_after_cycles=case.reset_after_cycles,
    )


def play(
    spec: Scaling,
    cases: Sequence[ScalingCase],
    models: Sequence[ScalingTransfers],
    build: Build,
    seed: int = 0,
    waves: Path | None = None,
) -> list[ScalingRecording]:
    """As `play` of `verif.engines.stream_engine`; `seed` draws what memories give that were not
    asked."""
    rng = np.random.default_rng(seed)
    stimuli = [_stimulus(spec, case, model, rng) for case, model in zip(cases, models, strict=True)]
    return bench.play_with(
        "evolute.verif.units.tb_scaling", ScalingRecording, build, stimuli, waves
    )


def compare(
    spec: Scaling, case: ScalingCase, model: ScalingTransfers, rtl: ScalingRecording
) -> tuple[int, list[str]]:
    """How many sums were compared, and what differs from golden, and in its cycle."""
    differences = wrong_cycles(rtl, model, STREAMS)
    wanted = expected(spec, case)
    if differences or len(rtl.words) != wanted.size // spec.scale_lanes:
        return 0, [*differences, *([] if differences else ["not all sums were written"])]
    chunks, steps = spec.engine.n // spec.scale_lanes, np.arange(spec.steps)
    places = np.stack([steps, steps % chunks, steps == spec.steps - 1], axis=1)
    differences += wrong_values(
        "step, chunk or last of", rtl.places, np.tile(places, (len(wanted), 1)), ("look", "field")
    )
    tags = np.repeat(case.starts, spec.steps).astype(int)
    for name, seen in (("read", rtl.read_tags), ("write", rtl.write_tags)):
        differences += wrong_values(f"tag of {name}", seen, tags, ("step",))
    field = layout.Field("sum", spec.word_bits, (spec.scale_lanes,), signed=True)
    sums = words.unpack(layout.Beat((field,)), rtl.words)["sum"].reshape(wanted.shape)
    differences += wrong_values("sum of", sums, wanted, ("result", "row", "column"))
    return wanted.size, differences


def features(spec: Scaling, case: ScalingCase) -> set[str]:
    """The names of the features that a case shows."""
    shown = {"stall result" if len(case.pause) else "no stall"}
    return shown | ({"reset in mid-flight"} if case.reset_after_cycles else set())
