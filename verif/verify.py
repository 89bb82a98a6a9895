"""Compares an engine's RTL with golden, value by value, and with the cycle model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.export import module_name, to_verilog
from hw.spec.base import Spec
from hw.spec.engine import Engine
from sim.cycles import Transfers, fold, run_cycles
from verif import bench, driver, simulators
from verif.bench import Recording, Stimulus
from verif.cases import KINDS, STREAMS, Case


@dataclass(frozen=True)
class Report:
    """The outcome of one verification; it passed if nothing differs."""

    name: str
    spec: Spec
    simulator: str
    seed: int
    cases: int
    transactions: int
    """Transfers on an engine's four streams, each checked for its cycle, or words on a core's bus,
    which its programs' cycles count."""
    elements: int
    """Result numbers, each checked for its value."""
    rtl_cycles: int
    model_cycles: int
    differences: tuple[str, ...]
    coverage: dict[str, int]
    """How many cases showed each feature."""
    build_seconds: float
    run_seconds: float

    @property
    def passed(self) -> bool:
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """The report as a record for `--json`."""
        return {
            "kind": "verify",
            "preset": self.name,
            "simulator": self.simulator,
            "seed": self.seed,
            "cases": self.cases,
            "transactions": self.transactions,
            "elements": self.elements,
            "cycles": {"rtl": self.rtl_cycles, "model": self.model_cycles},
            "mismatches": len(self.differences),
            "differences": list(self.differences),
            "coverage": self.coverage,
            "seconds": {"build": self.build_seconds, "run": self.run_seconds},
            "spec": self.spec.to_dict(),
            "digest": self.spec.digest,
        }


def _model(spec: Engine, case: Case) -> tuple[Transfers, list[str]]:
    """The cycle model's transfers, and where its closed form contradicts its fold."""
    runs = [run for matmul in case.matmuls for run in driver.runs_of(spec, matmul)]
    transfers = fold(spec, runs, case.pauses)
    if not case.pauses and (closed := run_cycles(spec, runs)) != transfers.cycles:
        return transfers, [f"closed form gives {closed} cycles, fold {transfers.cycles}"]
    return transfers, []


def _stimulus(spec: Engine, case: Case, model: Transfers, rng: np.random.Generator) -> Stimulus:
    silent = np.zeros(0, bool)
    return Stimulus(
        command=np.concatenate([driver.command_words(spec, each) for each in case.matmuls]),
        activation=np.concatenate([driver.activation_words(spec, each) for each in case.matmuls]),
        weight=np.concatenate([driver.weight_words(spec, each, rng) for each in case.matmuls]),
        **{f"pause_{stream}": case.pauses.get(stream, silent) for stream in STREAMS},
        results=len(model.result),
        limit_cycles=2 * model.cycles + 100,
        reset_after_cycles=case.reset_after_cycles,
        probe=case.probe,
    )


def _compare_cycles(model: Transfers, rtl: Recording) -> list[str]:
    """The first transfer of each stream that is not in the cycle the model says."""
    differences = []
    for stream in STREAMS:
        ours, theirs = getattr(model, stream), getattr(rtl, stream)
        shared = min(len(ours), len(theirs))
        wrong = np.flatnonzero(ours[:shared] != theirs[:shared])
        if len(wrong):
            i = wrong[0]
            differences.append(f"{stream} {i} moves in cycle {theirs[i]}, model says {ours[i]}")
        elif len(ours) != len(theirs):
            differences.append(f"{stream} moves {len(theirs)} times, model says {len(ours)}")
    return differences


def _compare(name: str, rtl: np.ndarray, golden: np.ndarray) -> list[str]:
    """The first wrong element of [row, group, column]."""
    wrong = np.argwhere(rtl != golden)
    if not len(wrong):
        return []
    row, group, column = wrong[0]
    return [
        f"{name} of row {row}, column {column}, group {group} is {rtl[row, group, column]}, "
        f"golden says {golden[row, group, column]} ({len(wrong)} of {golden.size} differ)"
    ]


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
        found = _compare("psum", sums.psum, golden.psum)
        found += _compare("row_sum", sums.row_sum, row_sum)
        differences += [f"command {i}: {each}" for each in found]
        elements += sums.psum.size + sums.row_sum.size
    return elements, differences


def _features(spec: Engine, case: Case) -> set[str]:
    """What a case covers, in words."""
    features = {f"stall {stream}" for stream in case.pauses} or {"no stall"}
    features |= {"commands back to back"} if len(case.matmuls) > 1 else set()
    features |= {"reset in mid-flight"} if case.reset_after_cycles else set()
    features |= {"ready probed"} if case.probe else set()
    features |= {case.name} if case.name.startswith("corner") else set()
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
            "tables by centroid": matmul.centroids is not None,
            "codebooks used again": matmul.vectors is not None and not matmul.fill,
            "steps skipped": 0 < sum(run.steps_of_beats) < run.beats * run.beat_steps,
            "narrower than built": matmul.weight_format.bits < spec.weight_bits,
        }
        features |= {name for name, holds in facts.items() if holds}
        features |= driver.float_features(spec, matmul)
    return features


def verify(
    spec: Engine,
    *,
    seed: int,
    name: str = "",
    simulator: str = simulators.SIMULATORS[0],
    kinds: Collection[str] = tuple(KINDS),
    waves: Path | None = None,
    verilog: str | None = None,
) -> Report:
    """Play the battery on the spec's RTL and compare every value and every transfer's cycle.

    `kinds` picks from `verif.cases.KINDS`; `waves` takes a VCD of all of it; `verilog` replaces
    the RTL, for a check of this check. Raises `SimulatorError` when the simulator is absent or
    breaks down.
    """
    cases: list[Case] = []
    for i, (kind, make) in enumerate(KINDS.items()):
        if kind in kinds:
            cases += make(spec, np.random.default_rng((seed, i)))
    started = time.perf_counter()
    text = to_verilog(spec) if verilog is None else verilog
    build = simulators.build(text, module_name(spec), simulator, waves=waves is not None)
    built = time.perf_counter()
    models = [_model(spec, case) for case in cases]
    rng = np.random.default_rng(seed)
    stimuli = [
        _stimulus(spec, case, model, rng) for case, (model, _) in zip(cases, models, strict=True)
    ]
    recordings = bench.play(build, stimuli, waves)
    differences: list[str] = []
    elements = 0
    for case, (model, contradictions), rtl in zip(cases, models, recordings, strict=True):
        compared, wrong_values = _compare_values(spec, case, rtl)
        elements += compared
        found = [*contradictions, *rtl.violations.tolist(), *wrong_values]
        found += _compare_cycles(model, rtl)
        where = f"spec {spec.digest} seed {seed} case {case.name!r}"
        differences += [f"{where}: {each}" for each in found]
    return Report(
        name=name,
        spec=spec,
        simulator=simulator,
        seed=seed,
        cases=len(cases),
        transactions=sum(len(getattr(rtl, s)) for rtl in recordings for s in STREAMS),
        elements=elements,
        rtl_cycles=sum(rtl.cycles for rtl in recordings),
        model_cycles=sum(model.cycles for model, _ in models),
        differences=tuple(differences),
        coverage=dict(sorted(Counter(f for case in cases for f in _features(spec, case)).items())),
        build_seconds=round(built - started, 3),
        run_seconds=round(time.perf_counter() - built, 3),
    )
