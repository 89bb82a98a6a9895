"""What a verification of `hw.spec.lut_stationary` plays, by cases of each kind; and how what came
back is compared with golden.

How operands fill beats is written from `hw.spec.layout` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evolute.hw.spec.lut_stationary import LutStationary
from evolute.sim.golden import lut_stationary as golden
from evolute.sim.golden.lut_stationary import CommandProduct
from evolute.sim.timing.lut_stationary import Clocks, StationaryTransfers, command_of, fold
from evolute.verif.harness import bench, words
from evolute.verif.harness.differences import SUMS, wrong_cycles, wrong_values
from evolute.verif.harness.simulators import Build
from evolute.verif.harness.vectors import PAUSES
from evolute.verif.units.stationary_bench import (
    SINKS,
    SOURCES,
    StationaryRecording,
    StationaryStimulus,
)

STREAMS = (*SOURCES, *SINKS)

SETTABLE: dict[str, str] = {}
"""Registers that the bench sets: none."""

CLOCKS = (Clocks(1, 1), Clocks(1, 2), Clocks(2, 1), Clocks(1, 3), Clocks(2, 3), Clocks(5, 3))
"""Periods of the encoder's and of the matcher's clock."""


@dataclass(frozen=True)
class StationaryCase:
    """Commands issued back to back after one reset, the clocks, and how partners pause.

    `pauses` holds booleans per cycle of the stream's own clock for the streams named in it.
    """

    name: str
    products: tuple[CommandProduct, ...]
    clocks: Clocks = CLOCKS[0]
    pauses: dict[str, np.ndarray] = field(default_factory=dict)
    memory_latency_cycles: int = 1
    reset_after_cycles: int = 0
    probe: bool = False


def sources(spec: LutStationary, operands: CommandProduct) -> dict[str, np.ndarray]:
    """Words of the streams that one command takes; of a gather, `table` is what the memory holds.

    Tables are [tiles][subspaces][c][beats], as the row numbers of requests count them.
    """
    streams = spec.streams
    rows, subspaces = operands.rows, operands.subspaces
    tiles = operands.table.shape[2] // spec.n
    command = {"rows_minus_1": rows - 1, "tiles_minus_1": tiles - 1}
    if subspaces > 1 or spec.subspaces > 1:
        command["subspaces_minus_1"] = subspaces - 1
    encoded = 1 if spec.keeps_indices else tiles
    x = np.tile(operands.x.transpose(1, 0, 2), (encoded, 1, 1))
    last = np.tile(np.arange(rows) == rows - 1, encoded * subspaces)
    table = operands.table.reshape(subspaces, spec.centroids, tiles, -1).transpose(2, 0, 1, 3)
    return {
        "command": words.pack(
            streams.command, **{name: np.array([value]) for name, value in command.items()}
        ),
        "centroid": words.pack(streams.centroid, x=np.tile(operands.centroids, (encoded, 1, 1))),
        "activation": words.pack(streams.activation, x=x, last=last),
        "table": words.pack(streams.table, entry=table.reshape(-1, spec.beat_entries)),
    }


def results(spec: LutStationary, operands: CommandProduct, result_words: np.ndarray) -> np.ndarray:
    """The sums [rows, columns] of a command from its result words."""
    psum = words.unpack(spec.streams.result, result_words)["psum"]
    return psum.reshape(-1, operands.rows, spec.n).transpose(1, 0, 2).reshape(operands.rows, -1)


def random_product(
    spec: LutStationary,
    rng: np.random.Generator,
    rows: int | None = None,
    extreme: bool = False,
) -> CommandProduct:
    """Operands of any shape that the machine takes, K and N multiples of nothing.

    Half of the subspaces have centroids of which several are equal, or equal to rows. Where
    `extreme`, activations, centroids and entries are the lowest and highest there are.
    """
    rows = rows or int(rng.integers(1, spec.m + 1))
    most = min(spec.subspaces, 5)
    k = int(rng.integers(1, most * spec.v + 1))
    n = min(int(rng.integers(1, 2 * spec.n + 2)), spec.tiles * spec.n)

    def values(bits: int, *size: int) -> np.ndarray:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        return rng.choice([low, high], size) if extreme else rng.integers(low, high + 1, size)

    x = values(spec.activation_bits, rows, k)
    subspaces = -(-k // spec.v)
    centroids = values(spec.activation_bits, subspaces, spec.centroids, spec.v)
    padded = np.pad(x, ((0, 0), (0, -k % spec.v))).reshape(rows, subspaces, spec.v)
    for space in np.flatnonzero(rng.random(subspaces) < 0.5):
        taken = rng.integers(0, spec.centroids, spec.centroids)
        centroids[space] = centroids[space, taken]
        centroids[space, rng.integers(spec.centroids)] = padded[rng.integers(rows), space]
    table = values(spec.weight_bits, subspaces, spec.centroids, n)
    return golden.product(spec, x, centroids, table)


def _uniform(spec: LutStationary, entry: int) -> CommandProduct:
    """All distances equal, and the longest sums there are, of one entry only."""
    k = spec.subspaces * spec.v
    x = np.zeros((2, k), int)
    centroids = np.full((spec.subspaces, spec.centroids, spec.v), 3)
    table = np.full((spec.subspaces, spec.centroids, spec.n), -entry - 1)
    table[:, 0] = entry
    return golden.product(spec, x, centroids, table)


_MOST_INDICES = 200
"""Indices of one command, so that a battery has many."""


_FEW_TILES = 8


def _fullest(spec: LutStationary, rng: np.random.Generator) -> CommandProduct:
    """All rows and subspaces for which there is memory, but at most `_MOST_INDICES` indices, and
    all column tiles that a command can have, or two if they are many."""
    rows = min(spec.m, _MOST_INDICES)
    subspaces = min(spec.subspaces, max(1, _MOST_INDICES // rows))
    tiles = spec.tiles if spec.tiles <= _FEW_TILES else 2
    k, n = subspaces * spec.v, tiles * spec.n
    low, high = -(1 << spec.activation_bits - 1), 1 << spec.activation_bits - 1
    x = rng.integers(low, high, (rows, k))
    centroids = rng.integers(low, high, (subspaces, spec.centroids, spec.v))
    top = 1 << spec.weight_bits - 1
    table = rng.integers(-top, top, (subspaces, spec.centroids, n))
    return golden.product(spec, x, centroids, table)


def _far(spec: LutStationary, rng: np.random.Generator) -> CommandProduct:
    """All rows, with centroids that are as far from them as can be, and nearly equally far."""
    bits, subspaces = spec.activation_bits, min(spec.subspaces, 5)
    low, near = -(1 << bits - 1), max(2, 1 << bits - 3)
    x = low + rng.integers(0, near, (spec.m, subspaces * spec.v))
    centroids = -1 - low - rng.integers(0, near, (subspaces, spec.centroids, spec.v))
    top = 1 << spec.weight_bits - 1
    table = rng.integers(-top, top, (subspaces, spec.centroids, spec.n))
    return golden.product(spec, x, centroids, table)


def _streams(spec: LutStationary) -> tuple[str, ...]:
    return STREAMS if spec.gathers else (*SOURCES, "result")


def _several(spec: LutStationary, rng: np.random.Generator) -> tuple[CommandProduct, ...]:
    return tuple(random_product(spec, rng) for _ in range(rng.integers(1, 4)))


def _pauses(
    spec: LutStationary, rng: np.random.Generator, patterns: dict[str, str]
) -> dict[str, np.ndarray]:
    beats = 40 * (spec.m + spec.centroids) * max(1, spec.row_beats // 2)
    return {stream: PAUSES[name](rng, beats) for stream, name in patterns.items()}


def _clocks(spec: LutStationary, rng: np.random.Generator) -> list[StationaryCase]:
    """Every ratio of the clocks, while everything flows."""
    return [
        StationaryCase(f"clocks {clocks.encoder}:{clocks.matcher}", _several(spec, rng), clocks)
        for clocks in CLOCKS
    ]


def _corners(spec: LutStationary, rng: np.random.Generator) -> list[StationaryCase]:
    top = (1 << spec.weight_bits - 1) - 1
    bursts = _pauses(spec, rng, {"table": "bursts", "activation": "bursts"})
    one_row = tuple(random_product(spec, rng, 1) for _ in range(4))
    return [
        # Of what waited meanwhile, one sum follows another as fast as it can.
        StationaryCase("one row in bursts", one_row, Clocks(1, 3), bursts),
        # So do sums of which all is there before their command.
        StationaryCase("commands late", one_row, pauses={"command": np.arange(4000) % 300 < 295}),
        StationaryCase("one row", (random_product(spec, rng, 1), random_product(spec, rng, 1))),
        # Sums go on for as long as no further one is whole.
        StationaryCase(
            "a result waits", _several(spec, rng), pauses={"result": np.arange(2000) % 80 < 70}
        ),
        StationaryCase("two rows", (random_product(spec, rng, 2),), Clocks(1, 2)),
        StationaryCase("extremes", (random_product(spec, rng, extreme=True),)),
        StationaryCase("great distances", (_far(spec, rng), _far(spec, rng), _far(spec, rng))),
        StationaryCase("equal distances", (_uniform(spec, top), _uniform(spec, -top - 1))),
        StationaryCase("all rows and subspaces", (_fullest(spec, rng),)),
    ]


def _stalls(spec: LutStationary, rng: np.random.Generator) -> list[StationaryCase]:
    """Every stream pausing alone, then all of them, in every pattern."""
    cases, names = [], list(PAUSES)
    for i, stream in enumerate(_streams(spec)):
        clocks = CLOCKS[rng.integers(len(CLOCKS))]
        pauses = _pauses(spec, rng, {stream: names[i % len(names)]})
        cases.append(StationaryCase(f"stall {stream}", _several(spec, rng), clocks, pauses))
    for name in names:
        clocks = CLOCKS[rng.integers(len(CLOCKS))]
        pauses = _pauses(spec, rng, dict.fromkeys(_streams(spec), name))
        latency = int(rng.integers(1, 12))
        cases.append(
            StationaryCase(f"stall all {name}", _several(spec, rng), clocks, pauses, latency)
        )
    return cases


def _resets(spec: LutStationary, rng: np.random.Generator) -> list[StationaryCase]:
    """Reset in mid-flight, then a full run; by every ratio of clocks, under stalls, too."""
    stalled = dict.fromkeys(_streams(spec), "bursts")
    return [
        StationaryCase(
            f"reset {clocks.encoder}:{clocks.matcher}",
            _several(spec, rng),
            clocks,
            _pauses(spec, rng, patterns),
            reset_after_cycles=int(rng.integers(5, 90)),
        )
        for clocks in CLOCKS
        for patterns in ({}, stalled)
    ]


def _probes(spec: LutStationary, rng: np.random.Generator) -> list[StationaryCase]:
    sinks = [name for name in _streams(spec) if name in SINKS]
    pauses = _pauses(spec, rng, dict.fromkeys(sinks, "scattered"))
    return [StationaryCase("probe", _several(spec, rng), CLOCKS[1], pauses, probe=True)]


KINDS: dict[str, Callable[[LutStationary, np.random.Generator], list[StationaryCase]]] = {
    "clocks": _clocks,
    "corners": _corners,
    "stalls": _stalls,
    "resets": _resets,
    "probes": _probes,
}
"""The battery: every kind of case there is."""


def _stimulus(
    spec: LutStationary, case: StationaryCase, model: StationaryTransfers
) -> StationaryStimulus:
    silent = np.zeros(0, bool)
    of_products = [sources(spec, operands) for operands in case.products]
    pauses = {f"pause_{s}": case.pauses.get(s, silent) for s in STREAMS}
    return StationaryStimulus(
        **{name: np.concatenate([streams[name] for streams in of_products]) for name in SOURCES},
        **pauses,
        table_first=np.cumsum([0, *(len(streams["table"]) for streams in of_products)]),
        encoder_period=case.clocks.encoder,
        matcher_period=case.clocks.matcher,
        row_beats=spec.row_beats,
        memory_latency_cycles=case.memory_latency_cycles,
        results=len(model.result),
        limit_cycles=2 * model.cycles + 100,
        reset_after_cycles=case.reset_after_cycles,
        probe=case.probe,
    )


def model_of(spec: LutStationary, case: StationaryCase) -> StationaryTransfers:
    """The cycles of all transfers of a case, by the cycle model."""
    commands = [
        command_of(spec, operands.shape, golden.asked(spec, operands)) for operands in case.products
    ]
    return fold(spec, commands, case.clocks, case.pauses, case.memory_latency_cycles)


def play(
    spec: LutStationary,
    cases: Sequence[StationaryCase],
    models: Sequence[StationaryTransfers],
    build: Build,
    seed: int = 0,
    waves: Path | None = None,
) -> list[StationaryRecording]:
    """As `verif.engines.stream_engine.play`; all words of these streams count, so that none are
    drawn."""
    stimuli = [_stimulus(spec, case, model) for case, model in zip(cases, models, strict=True)]
    return bench.play_with(
        "evolute.verif.units.tb_lut_stationary", StationaryRecording, build, stimuli, waves
    )


def _compare_values(
    spec: LutStationary, case: StationaryCase, rtl: StationaryRecording
) -> tuple[int, list[str]]:
    """Returns (elements, differences): the number of numbers compared with the golden model, and a
    text on the first wrong one of each command."""
    counts = [operands.rows * (operands.table.shape[2] // spec.n) for operands in case.products]
    if len(rtl.result_words) != sum(counts):
        return 0, [f"{len(rtl.result_words)} results, golden has {sum(counts)}"]
    differences, elements, start = [], 0, 0
    for i, (operands, count) in enumerate(zip(case.products, counts, strict=True)):
        sums = results(spec, operands, rtl.result_words[start : start + count])
        wanted = golden.sums(spec, operands)
        differences += wrong_values(f"command {i}: sum of", sums, wanted, SUMS)
        start += count
        elements += sums.size
    if spec.gathers:
        beat = spec.streams.request
        assert beat is not None
        wanted = np.concatenate([golden.requests(spec, operands) for operands in case.products])
        asked = words.unpack(beat, rtl.request_words)["row"]
        if len(asked) != len(wanted):
            return elements, [*differences, f"{len(asked)} requests, golden has {len(wanted)}"]
        differences += wrong_values("row of", asked, wanted, ("request",))
        elements += asked.size
    return elements, differences


def compare(
    spec: LutStationary, case: StationaryCase, model: StationaryTransfers, rtl: StationaryRecording
) -> tuple[int, list[str]]:
    """Returns (elements, differences): the number of numbers compared, and a text for every
    difference from the golden model or the cycle model."""
    elements, differences = _compare_values(spec, case, rtl)
    return elements, differences + wrong_cycles(rtl, model, STREAMS)


def features(spec: LutStationary, case: StationaryCase) -> set[str]:
    """The names of the features that a case shows."""
    shown = {f"stall {stream}" for stream in case.pauses} or {"no stall"}
    shown.add(f"clocks {case.clocks.encoder}:{case.clocks.matcher}")
    facts = {
        "commands back to back": len(case.products) > 1,
        "reset in mid-flight": case.reset_after_cycles > 0,
        "ready probed": case.probe,
        "memory latency": case.memory_latency_cycles > 1,
        f"corner {case.name}": case.name
        in ("extremes", "equal distances", "all rows and subspaces"),
    }
    for operands in case.products:
        exact = dataclasses.replace(spec, overflow="exact", accumulator_bits=None)
        index = golden.indices(spec, operands)
        facts |= {
            name: facts.get(name, False) or holds
            for name, holds in {
                "M = 1": operands.rows == 1,
                "several tiles": operands.table.shape[2] > spec.n,
                "rows chosen alike": any(
                    len(set(choices)) < len(choices) for choices in index.T.tolist()
                ),
                "sums beyond their width": not np.array_equal(
                    golden.sums(spec, operands), golden.sums(exact, operands)
                ),
            }.items()
        }
    return shown | {name for name, holds in facts.items() if holds}
