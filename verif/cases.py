"""What a verification plays: cases by kind, for any engine that has a driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from hw.spec.base import Spec
from hw.spec.engine import Engine
from hw.spec.formats import WeightCodes
from hw.spec.lut_tensor_core import LutTensorCore
from verif import lut_tensor_core
from verif.bench import SINK, SOURCES
from verif.vectors import CORNERS, PAUSES, Matmul, corner_matmul, formats, random_matmul

DRIVERS: dict[type[Spec], ModuleType] = {LutTensorCore: lut_tensor_core}
"""How a bench drives the engine of a spec."""

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
    driver = DRIVERS[type(spec)]
    if weight_format is None:
        choices = formats(spec.weight_bits)
        weight_format = choices[rng.integers(len(choices))]
    shape = driver.random_shape(spec, rng, weight_format.planes)
    matmul = random_matmul(rng, spec.activations, weight_format, shape)
    return driver.with_shift(spec, matmul, rng)


def _any_matmuls(spec: Engine, rng: np.random.Generator) -> tuple[Matmul, ...]:
    return tuple(_any_matmul(spec, rng) for _ in range(rng.integers(1, 4)))


def _pauses(
    spec: Engine,
    rng: np.random.Generator,
    matmuls: tuple[Matmul, ...],
    patterns: dict[str, str],
) -> dict[str, np.ndarray]:
    """Named patterns for named streams, about as long as the stalled run will be."""
    driver = DRIVERS[type(spec)]
    cycles = 100 + 4 * sum(driver.run_of(spec, matmul).steps for matmul in matmuls)
    return {stream: PAUSES[name](rng, cycles) for stream, name in patterns.items()}


def every_format(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Every weight format, one command each, back to back; and each alone with one row."""
    driver = DRIVERS[type(spec)]
    cases = [
        Case("formats", tuple(_any_matmul(spec, rng, each) for each in formats(spec.weight_bits)))
    ]
    for weight_format in formats(spec.weight_bits):
        matmul = _any_matmul(spec, rng, weight_format)
        one_row = Matmul(matmul.x[:1], matmul.codes, weight_format, matmul.group)
        one_row = driver.with_shift(spec, one_row, rng)
        cases.append(Case(f"one row {weight_format.name}", (one_row,)))
    return cases


def corners(spec: Engine, rng: np.random.Generator) -> list[Case]:
    """Corner activations against extreme weights, in the widest and the narrowest format."""
    driver = DRIVERS[type(spec)]
    cases = []
    for corner in CORNERS:
        matmuls = []
        for bits in sorted({1, spec.weight_bits}):
            shape = driver.full_shape(spec)
            matmul = corner_matmul(rng, spec.activations, WeightCodes(bits), shape, corner)
            matmuls.append(driver.with_shift(spec, matmul, rng))
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
        steps = sum(DRIVERS[type(spec)].run_of(spec, matmul).steps for matmul in matmuls)
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
