"""The battery for engines: the cases that a verification plays, by their kind, and how recordings
are compared with the golden model. It serves every engine that has a driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from evolute.hw.spec.engine import Engine
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.layout import COUNT_BITS
from evolute.sim.timing.engine import Transfers, fold, run_cycles
from evolute.sim.timing.schedule import Run
from evolute.sim.weights import Codebook, Grid, Table
from evolute.verif.engines import floating
from evolute.verif.harness import bench, driver
from evolute.verif.harness.bench import SINK, SOURCES, Recording, Stimulus
from evolute.verif.harness.differences import wrong_cycles, wrong_values
from evolute.verif.harness.simulators import Build
from evolute.verif.harness.vectors import (
    PAUSES,
    Matmul,
    MatmulShape,
    corner_matmul,
    near_halves,
    random_matmul,
)
from evolute.verif.harness.vectors import corners as corners_of

STREAMS = (*SOURCES, SINK)

SETTABLE = {"slices": "sequencer", "tiles": "sequencer"}
"""Counts that a bench can set, and the part of the engine that they belong to."""


@dataclass(frozen=True)
class Case:
    """Commands issued back to back after one reset, and how the streams' partners pause.

    `pauses` holds booleans per cycle for the streams named in it. See
    `verif.harness.bench.Stimulus` for `reset_after_cycles` and `probe`. The first multiplication
    says that it has `slices_before` slices and `tiles_before` tiles more than there are, and they
    count as done when it begins.
    """

    name: str
    matmuls: tuple[Matmul, ...]
    pauses: dict[str, np.ndarray] = field(default_factory=dict)
    reset_after_cycles: int = 0
    probe: bool = False
    slices_before: int = 0
    tiles_before: int = 0


def _any_matmul(
    spec: Engine, rng: np.random.Generator, weight_format: WeightCodes | None = None
) -> Matmul:
    if weight_format is None:
        weight_format = spec.formats[rng.integers(len(spec.formats))]
    shape = driver.random_shape(spec, rng, weight_format)
    matmul = random_matmul(rng, spec.activations, weight_format, shape)
    return driver.completed(spec, matmul, rng)


def _any_matmuls(spec: Engine, rng: np.random.Generator) -> tuple[Matmul, ...]:
    matmuls: list[Matmul] = []
    for _ in range(rng.integers(1, 4)):
        # Codebooks that the engine has already may be used again.
        if matmuls and isinstance(matmuls[-1].weights, Codebook) and rng.random() < 0.5:
            matmuls.append(driver.without_fill(matmuls[-1], rng))
        else:
            matmuls.append(_any_matmul(spec, rng))
    return tuple(matmuls)


def _pauses(
    spec: Engine,
    rng: np.random.Generator,
    matmuls: tuple[Matmul, ...],
    patterns: dict[str, str],
) -> dict[str, np.ndarray]:
    """Pauses by stream, from names of patterns by stream, about as long as the stalled run."""
    cycles = 100 + 4 * sum(driver.run_of(spec, matmul).steps for matmul in matmuls)
    return {stream: PAUSES[name](rng, cycles) for stream, name in patterns.items()}


def every_format(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """One case with a command for every weight format, back to back; and for every format one case
    with a single row."""
    cases = [Case("formats", tuple(_any_matmul(spec, rng, codes) for codes in spec.formats))]
    for weight_format in spec.formats:
        matmul = _any_matmul(spec, rng, weight_format)
        exponent = None if matmul.exponent is None else matmul.exponent[:1]
        one_row = replace(matmul, x=matmul.x[:1], shift=None, exponent=exponent)
        one_row = driver.completed(spec, one_row, rng)
        cases.append(Case(f"one row {weight_format.name}", (one_row,)))
    return cases


def corners(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Corner activations with extreme weights, in the formats of the smallest and of the largest
    weights."""
    formats = sorted(spec.formats, key=lambda codes: spec.coding_of(codes).maximum(codes))
    cases = []
    for corner in corners_of(spec.activations):
        matmuls = []
        for weight_format in dict.fromkeys([formats[0], formats[-1]]):
            shape = driver.full_shape(spec)
            matmul = corner_matmul(rng, spec.activations, weight_format, shape, corner)
            matmuls.append(driver.completed(spec, matmul, rng))
        cases.append(Case(f"corner {corner}", tuple(matmuls)))
    return cases


def binades(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Floating sums that are rounded up to the next power of two."""
    if not isinstance(spec, FloatEngine) or (x := floating.binades(spec, rng)) is None:
        return []
    return [Case("binades", (_times_one(spec, rng, x, x.shape[1]),))]


def pairs(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Floating sums of two numbers that nearly cancel out, or whose exact sum lies half-way between
    two numbers."""
    if not isinstance(spec, FloatEngine):
        return []
    x = floating.pairs(spec, rng)
    return [Case("pairs", (_times_one(spec, rng, x, floating.pair_group(spec)),))]


def tiny(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Floating sums of the smallest numbers and of zeros, by weights of every format."""
    if not isinstance(spec, FloatEngine):
        return []
    matmuls = []
    for weight_format in spec.formats:
        x = floating.tiny(spec, rng)
        shape = MatmulShape(len(x), spec.n, x.shape[1], floating.pair_group(spec))
        matmul = random_matmul(rng, spec.activations, weight_format, shape)
        matmuls.append(driver.completed(spec, replace(matmul, x=x), rng))
    return [Case("tiny", tuple(matmuls))]


def _times_one(spec: FloatEngine, rng: np.random.Generator, x: np.ndarray, group: int) -> Matmul:
    """A multiplication of the activations [M, K] by weights of 1, if the engine can have these."""
    weight_format = spec.formats[-1]
    shape = MatmulShape(len(x), spec.n, x.shape[1], group)
    matmul = floating.by_ones(spec, random_matmul(rng, spec.activations, weight_format, shape))
    matmul = driver.completed(spec, replace(matmul, x=x), rng)
    assert isinstance(matmul.weights, Grid)
    special = np.full_like(matmul.weights.special, floating.ONES)
    return replace(matmul, weights=replace(matmul.weights, special=special))


_MANY_WEIGHTS = 6000


def many(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Many weights of every format, so that every place of a small engine sees nearly all codes
    with every special value."""
    most = max(1, _MANY_WEIGHTS // (spec.n * spec.slice_k))
    matmuls = []
    for codes in spec.formats:
        slices = min(most, 4 * codes.levels * max(1, len(codes.specials)))
        shape = MatmulShape(spec.m, spec.n, slices * spec.slice_k, spec.slice_k)
        matmul = random_matmul(rng, spec.activations, codes, shape)
        matmuls.append(driver.completed(spec, matmul, rng))
    return [Case("many weights", tuple(matmuls))]


def halves(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Floating activations whose aligned values lie half-way between integers, or a little above,
    in every place."""
    kind = spec.activations
    if not spec.aligns or kind.format is None:
        return []
    groups = max(1, _MANY_WEIGHTS // (spec.n * spec.slice_k))
    weight_format = spec.formats[-1]
    shape = MatmulShape(spec.m, spec.n, groups * spec.slice_k, spec.slice_k)
    matmul = random_matmul(rng, kind, weight_format, shape)
    exponent = rng.integers(1, kind.format.top_exponent + 1, (spec.m, groups))
    of_code = np.repeat(exponent, spec.slice_k, axis=1)
    matmul = replace(matmul, x=near_halves(rng, kind, of_code), exponent=exponent)
    return [Case("halves", (driver.completed(spec, matmul, rng),))]


def stalls(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Pauses of every stream alone, then of all together in every pattern."""
    cases = []
    names = list(PAUSES)
    for i, stream in enumerate(STREAMS):
        matmuls = _any_matmuls(spec, rng)
        patterns = {stream: names[i % len(names)]}
        pauses = _pauses(spec, rng, matmuls, patterns)
        cases.append(Case(f"stall {stream} {patterns[stream]}", matmuls, pauses))
    for name in names:
        matmuls = _any_matmuls(spec, rng)
        pauses = _pauses(spec, rng, matmuls, dict.fromkeys(STREAMS, name))
        cases.append(Case(f"stall all {name}", matmuls, pauses))
    return cases


def resets(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Resets in mid-flight while everything flows, under stalls, and while a result waits; each is
    followed by a full run."""
    cases = []
    bursts = dict.fromkeys(STREAMS, "bursts")
    scattered = dict.fromkeys(STREAMS, "scattered")
    for name, patterns in (("flow", {}), ("stalls", scattered), ("long stalls", bursts)):
        for _ in range(3):
            matmuls = _any_matmuls(spec, rng)
            steps = sum(driver.run_of(spec, matmul).steps for matmul in matmuls)
            after = int(rng.integers(1, steps + 2))
            pauses = _pauses(spec, rng, matmuls, patterns)
            cases.append(Case(f"reset during {name}", matmuls, pauses, reset_after_cycles=after))
    return cases


def probes(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """A case in which the result's `ready` is toggled within every cycle while results wait."""
    matmuls = _any_matmuls(spec, rng)
    pauses = _pauses(spec, rng, matmuls, {SINK: "scattered"})
    return [Case("probe", matmuls, pauses, probe=True)]


def mixtures(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Two cases of random commands, in which every stream pauses in a random pattern or not."""
    cases = []
    for i in range(2):
        matmuls = _any_matmuls(spec, rng)
        names = {stream: rng.choice([*PAUSES, "none"]) for stream in STREAMS}
        patterns = {stream: name for stream, name in names.items() if name != "none"}
        cases.append(Case(f"mixture {i}", matmuls, _pauses(spec, rng, matmuls, patterns)))
    return cases


def late(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Commands whose slices, or tiles, are the last ones of many, with another behind them: with
    every carry of the count, and from any number on."""
    cases = []
    carries = [1 << bit for bit in range(3, COUNT_BITS)]
    for counted in ("slices", "tiles"):
        for start in (*carries, *rng.integers(8, (1 << COUNT_BITS) - 8, 3).tolist()):
            count = int(rng.integers(2, 5))
            rows = int(rng.integers(1, spec.m + 1))
            slices, tiles = (count, 1) if counted == "slices" else (1, count)
            shape = MatmulShape(rows, tiles * spec.n, slices * spec.slice_k, slices * spec.slice_k)
            codes = spec.formats[rng.integers(len(spec.formats))]
            matmul = random_matmul(rng, spec.activations, codes, shape)
            before = {f"{counted}_before": start - int(rng.integers(1, count))}
            # Another command follows, which begins as soon as this one ends.
            matmuls = tuple(driver.completed(spec, each, rng) for each in (matmul, matmul))
            cases.append(replace(Case(f"{counted} from {start}", matmuls), **before))
    return cases


KINDS: dict[str, Callable[[Engine, np.random.Generator], list[Case]]] = {
    "formats": every_format,
    "corners": corners,
    "binades": binades,
    "stalls": stalls,
    "resets": resets,
    "probes": probes,
    "mixtures": mixtures,
    "pairs": pairs,
    "many": many,
    "halves": halves,
    "tiny": tiny,
    "late": late,
}
"""The battery: every kind of case there is."""


def model_of(spec: Engine, case: Case) -> Transfers:
    """The cycles of all transfers of a case, by the cycle model."""
    return fold(spec, _runs(spec, case), case.pauses)


def _runs(spec: Engine, case: Case) -> list[Run]:
    return [run for matmul in case.matmuls for run in driver.runs_of(spec, matmul)]


def stimulus(spec: Engine, case: Case, model: Transfers, rng: np.random.Generator) -> Stimulus:
    """The words of a case; `rng` draws what counts for nothing in them."""
    silent = np.zeros(0, bool)
    runs = _runs(spec, case)
    first = len(driver.runs_of(spec, case.matmuls[0])) - 1
    slices, tiles = runs[first].slices, runs[first].tiles
    slices, tiles = slices + case.slices_before, tiles + case.tiles_before
    runs[first] = replace(runs[first], slices=slices, tiles=tiles)
    late = case.slices_before or case.tiles_before
    return Stimulus(
        command=np.concatenate([driver.command_word(spec, run) for run in runs]),
        activation=np.concatenate(
            [driver.activation_words(spec, matmul) for matmul in case.matmuls]
        ),
        weight=np.concatenate([driver.weight_words(spec, matmul, rng) for matmul in case.matmuls]),
        **{f"pause_{stream}": case.pauses.get(stream, silent) for stream in STREAMS},
        results=len(model.result),
        limit_cycles=2 * model.cycles + 100,
        reset_after_cycles=case.reset_after_cycles,
        probe=case.probe,
        set_cycle=int(model.command[first]) + 1 if late else 0,
        slices_before=case.slices_before,
        tiles_before=case.tiles_before,
    )


def play(
    spec: Engine,
    cases: Sequence[Case],
    models: Sequence[Transfers],
    build: Build,
    seed: int = 0,
    waves: Path | None = None,
) -> list[Recording]:
    """Play every case on a built engine.

    The models say how much it has to give; by `seed` is drawn what counts for nothing in its words.
    """
    rng = np.random.default_rng(seed)
    stimuli = [stimulus(spec, case, model, rng) for case, model in zip(cases, models, strict=True)]
    return bench.play(build, stimuli, waves)


def _compare_values(spec: Engine, case: Case, rtl: Recording) -> tuple[int, list[str]]:
    """How many numbers were compared, and the first wrong one of each command."""
    counts = [driver.run_of(spec, matmul).results for matmul in case.matmuls]
    if len(rtl.words) != sum(counts):
        return 0, [f"{len(rtl.words)} results, golden has {sum(counts)}"]
    differences, elements = [], 0
    starts = np.cumsum([0, *counts])
    for i, matmul in enumerate(case.matmuls):
        sums = driver.sums(spec, matmul, rtl.words[starts[i] : starts[i + 1]])
        golden = driver.expected(spec, matmul)
        # Every column tile repeats the row sums.
        row_sum = np.broadcast_to(golden.row_sum[:, :, None], sums.row_sum.shape)
        wrong = wrong_values("psum of", sums.psum, golden.psum, ("row", "group", "column"))
        wrong += wrong_values("row_sum of", sums.row_sum, row_sum, ("row", "group", "tile"))
        differences += [f"command {i}: {text}" for text in wrong]
        elements += sums.psum.size + sums.row_sum.size
    return elements, differences


def compare(spec: Engine, case: Case, model: Transfers, rtl: Recording) -> tuple[int, list[str]]:
    """How many numbers were compared, and what differs from golden and from the cycle model, or
    between its fold and its closed form."""
    elements, differences = _compare_values(spec, case, rtl)
    differences += wrong_cycles(rtl, model, STREAMS)
    if not case.pauses and (closed := run_cycles(spec, _runs(spec, case))) != model.cycles:
        differences.append(f"closed form gives {closed} cycles, fold {model.cycles}")
    return elements, differences


def features(spec: Engine, case: Case) -> set[str]:
    """What a case covers, in words."""
    shown = {f"stall {stream}" for stream in case.pauses} or {"no stall"}
    shown |= {"commands back to back"} if len(case.matmuls) > 1 else set()
    shown |= {"reset in mid-flight"} if case.reset_after_cycles else set()
    shown |= {"ready probed"} if case.probe else set()
    shown |= {case.name} if case.name.startswith("corner") else set()
    shown |= {"rounding carries into the exponent"} if case.name == "binades" else set()
    shown |= {"numbers nearly cancel out"} if case.name == "pairs" else set()
    shown |= {"the smallest numbers"} if case.name == "tiny" else set()
    shown |= {"halves of integers"} if case.name == "halves" else set()
    shown |= {"many slices before"} if case.slices_before else set()
    shown |= {"many tiles before"} if case.tiles_before else set()
    for matmul in case.matmuls:
        shape, run = matmul.shape, driver.run_of(spec, matmul)
        facts = {
            matmul.weight_format.name: True,
            "M = 1": shape.m == 1,
            "M not a multiple of the tile": shape.m % spec.m > 0,
            "N not a multiple of the tile": shape.n % spec.n > 0,
            "K not a multiple of the slice": shape.k % spec.slice_k > 0,
            "scale group not a multiple of the slice": min(shape.group, shape.k) % spec.slice_k > 0,
            "last scale group shorter": shape.k % shape.group > 0,
            "scale group read out in parts": shape.group > run.group_slices * spec.slice_k,
            "several tiles": run.tiles > 1,
            "codebooks filled": matmul.fill,
            "tables by centroid": isinstance(matmul.weights, Table),
            "codebooks used again": isinstance(matmul.weights, Codebook) and not matmul.fill,
            "steps skipped": 0 < sum(run.steps_of_beats) < run.beats * run.beat_steps,
            "narrower than built": matmul.weight_format.bits < spec.weight_bits,
        }
        shown |= {name for name, holds in facts.items() if holds}
        shown |= driver.float_features(spec, matmul)
    return shown
