"""Compares the RTL of an engine or of a unit with golden, value by value, and with the cycle model,
transfer by transfer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hw.export import module_name, to_verilog
from hw.spec import LutStationary
from hw.spec.base import Spec
from hw.spec.engine import Engine
from hw.spec.scaling import Scaling
from verif import lut_stationary, scaling, simulators, stream_engine


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


def verify(
    spec: Engine | LutStationary | Scaling,
    *,
    seed: int,
    name: str = "",
    simulator: str = simulators.SIMULATORS[0],
    kinds: Collection[str] | None = None,
    waves: Path | None = None,
    verilog: str | None = None,
    plusargs: tuple[str, ...] = (),
) -> Report:
    """Play the battery on the spec's RTL and compare every value and every transfer's cycle.

    `kinds` picks from the battery's `KINDS`; `waves` takes a VCD of all of it; `verilog` replaces
    the RTL, for a check of this check, and `plusargs` are the simulator's. Raises
    `SimulatorError` when the simulator is absent or breaks down.
    """
    battery: Any = stream_engine
    if isinstance(spec, LutStationary):
        battery = lut_stationary
    elif isinstance(spec, Scaling):
        battery = scaling
    cases: list[Any] = []
    for i, (kind, make) in enumerate(battery.KINDS.items()):
        if kinds is None or kind in kinds:
            cases += make(spec, np.random.default_rng((seed, i)))
    started = time.perf_counter()
    text = to_verilog(spec) if verilog is None else verilog
    build = simulators.build(text, module_name(spec), simulator, waves=waves is not None)
    build = replace(build, plusargs=plusargs)
    built = time.perf_counter()
    models = [battery.model_of(spec, case) for case in cases]
    recordings = battery.play(spec, cases, models, build, seed, waves)
    differences: list[str] = []
    elements = 0
    for case, model, rtl in zip(cases, models, recordings, strict=True):
        compared, found = battery.compare(spec, case, model, rtl)
        elements += compared
        where = f"spec {spec.digest} seed {seed} case {case.name!r}"
        differences += [f"{where}: {each}" for each in (*rtl.violations.tolist(), *found)]
    covered = Counter(each for case in cases for each in battery.features(spec, case))
    return Report(
        name=name,
        spec=spec,
        simulator=simulator,
        seed=seed,
        cases=len(cases),
        transactions=sum(len(getattr(rtl, s)) for rtl in recordings for s in battery.STREAMS),
        elements=elements,
        rtl_cycles=sum(rtl.cycles for rtl in recordings),
        model_cycles=sum(model.cycles for model in models),
        differences=tuple(differences),
        coverage=dict(sorted(covered.items())),
        build_seconds=round(built - started, 3),
        run_seconds=round(time.perf_counter() - built, 3),
    )
