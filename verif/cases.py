"""What a verification plays: cases by kind, for any engine that has a driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from hw.spec.engine import Engine
from hw.spec.formats import WeightCodes
from verif import driver
from verif.bench import SINK, SOURCES
from verif.vectors import PAUSES, Matmul, corner_matmul, random_matmul
from verif.vectors import corners as corners_of

STREAMS = (*SOURCES, SINK)


@dataclass(frozen=True)
class Case:
    """Commands issued back to back after one reset, and how the streams' partners pause.

    `pauses` holds booleans per cycle for the streams named in it. See `verif.bench.Stimulus` for
    `reset_after_cycles` and `probe`.
    """

    name: str
    matmuls: tuple[Matmul, ...]
    pauses: dict[str, np.ndarray] = field(default_factory=dict)
    reset_after_cycles: int = 0
    probe: bool = False


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
        # Codebooks that are there may be used again.
        if matmuls and matmuls[-1].vectors is not None and rng.random() < 0.5:
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
    """Named patterns for named streams, about as long as the stalled run will be."""
    cycles = 100 + 4 * sum(driver.run_of(spec, matmul).steps for matmul in matmuls)
    return {stream: PAUSES[name](rng, cycles) for stream, name in patterns.items()}


def every_format(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Every weight format, one command each, back to back; and each alone with one row."""
    cases = [Case("formats", tuple(_any_matmul(spec, rng, each) for each in spec.formats))]
    for weight_format in spec.formats:
        matmul = _any_matmul(spec, rng, weight_format)
        exponent = None if matmul.exponent is None else matmul.exponent[:1]
        one_row = replace(matmul, x=matmul.x[:1], shift=None, exponent=exponent)
        one_row = driver.completed(spec, one_row, rng)
        cases.append(Case(f"one row {weight_format.name}", (one_row,)))
    return cases


def corners(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Corner activations against extreme weights, in the formats of least and greatest weights."""
    formats = sorted(spec.formats, key=lambda each: spec.coding_of(each).maximum(each))
    cases = []
    for corner in corners_of(spec.activations):
        matmuls = []
        for weight_format in dict.fromkeys([formats[0], formats[-1]]):
            shape = driver.full_shape(spec)
            matmul = corner_matmul(rng, spec.activations, weight_format, shape, corner)
            matmuls.append(driver.completed(spec, matmul, rng))
        cases.append(Case(f"corner {corner}", tuple(matmuls)))
    return cases


def stalls(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Every stream pausing alone, then all of them together, in every pattern."""
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
    """Reset in mid-flight, once while everything flows and once under stalls, then a full run."""
    cases = []
    for name, patterns in (("flow", {}), ("stalls", dict.fromkeys(STREAMS, "scattered"))):
        matmuls = _any_matmuls(spec, rng)
        steps = sum(driver.run_of(spec, matmul).steps for matmul in matmuls)
        after = int(rng.integers(1, steps + 2))
        pauses = _pauses(spec, rng, matmuls, patterns)
        cases.append(Case(f"reset during {name}", matmuls, pauses, reset_after_cycles=after))
    return cases


def probes(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Ready toggled within every cycle, while results queue up."""
    matmuls = _any_matmuls(spec, rng)
    pauses = _pauses(spec, rng, matmuls, {SINK: "scattered"})
    return [Case("probe", matmuls, pauses, probe=True)]


def mixtures(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Two cases of any commands; each stream pauses in any pattern or none."""
    cases = []
    for i in range(2):
        matmuls = _any_matmuls(spec, rng)
        names = {stream: rng.choice([*PAUSES, "none"]) for stream in STREAMS}
        patterns = {stream: name for stream, name in names.items() if name != "none"}
        cases.append(Case(f"mixture {i}", matmuls, _pauses(spec, rng, matmuls, patterns)))
    return cases


KINDS: dict[str, Callable[[Engine, np.random.Generator], list[Case]]] = {
    "formats": every_format,
    "corners": corners,
    "stalls": stalls,
    "resets": resets,
    "probes": probes,
    "mixtures": mixtures,
}
"""The battery: every kind of case there is."""
