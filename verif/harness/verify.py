"""Compares the RTL of an engine or of a unit with the golden model, value by value, and with the
cycle model, transfer by transfer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.spec import Engine, LutStationary, Spec, UnitSpec
from evolute.hw.spec.scaling import FloatScaling, IntegerScaling, Scaling
from evolute.support import schema
from evolute.verif.engines import stream_engine
from evolute.verif.harness import simulators
from evolute.verif.harness.settable import with_settable
from evolute.verif.units import lut_stationary, scaling


@dataclass(frozen=True)
class Report:
    """The outcome of one verification; it passed if nothing differs."""

    name: str
    spec: Spec
    simulator: str
    seed: int
    cases: int
    transactions: int
    """Transfers on an engine's four streams, each of which was checked for its cycle; or, for a
    core, words on its bus."""
    elements: int
    """Numbers in results, each of which was checked for its value."""
    rtl_cycles: int
    model_cycles: int
    differences: tuple[str, ...]
    coverage: dict[str, int]
    """The number of cases that showed a feature, by the feature."""
    build_seconds: float
    run_seconds: float

    @property
    def passed(self) -> bool:
        return not self.differences

    def to_record(self, provenance: schema.Provenance) -> dict[str, Any]:
        """The report as a record."""
        return schema.to_record(
            schema.Verification(
                preset=self.name,
                simulator=self.simulator,
                seed=self.seed,
                cases=self.cases,
                transactions=self.transactions,
                elements=self.elements,
                cycles=schema.Cycles(self.rtl_cycles, self.model_cycles),
                mismatches=len(self.differences),
                differences=list(self.differences),
                coverage=self.coverage,
                seconds=schema.Seconds(self.build_seconds, self.run_seconds),
                spec=self.spec.to_dict(),
                digest=self.spec.digest,
                provenance=provenance,
            )
        )


class Battery(Protocol):
    """The cases with which a kind of machine is verified, and how they are played and compared. The
    classes of cases, models and recordings are each battery's own."""

    @property
    def KINDS(self) -> Mapping[str, Callable[[Any, np.random.Generator], Sequence[Any]]]:
        """Functions that draw the cases of one kind for a spec, by the name of the kind."""
        ...

    @property
    def STREAMS(self) -> tuple[str, ...]:
        """The names of the streams whose transfers a recording holds."""
        ...

    @property
    def SETTABLE(self) -> Mapping[str, str]:
        """Registers that the bench sets, and the submodules that they belong to."""
        ...

    def model_of(self, spec: Any, case: Any, /) -> Any:
        """The cycles of all transfers of a case, by the cycle model."""
        ...

    def play(
        self,
        spec: Any,
        cases: Sequence[Any],
        models: Sequence[Any],
        build: simulators.Build,
        seed: int = 0,
        waves: Path | None = None,
    ) -> Sequence[Any]:
        """Plays the cases on a built design; returns a recording of each."""
        ...

    def compare(self, spec: Any, case: Any, model: Any, rtl: Any, /) -> tuple[int, list[str]]:
        """Returns (elements, differences): the number of numbers compared, and a text per
        difference."""
        ...

    def features(self, spec: Any, case: Any, /) -> Collection[str]:
        """The names of the features that a case shows."""
        ...


BATTERIES: dict[type[Spec], Battery] = {
    Engine: stream_engine,
    LutStationary: lut_stationary,
    IntegerScaling: scaling,
    FloatScaling: scaling,
}
"""The battery of every kind of machine, by a base class of its specs."""


def battery_of(spec: Spec) -> Battery:
    """The battery of a spec's class."""
    return next(BATTERIES[kind] for kind in type(spec).__mro__ if kind in BATTERIES)


def verify(
    spec: Engine | UnitSpec | Scaling,
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
    battery = battery_of(spec)
    cases: list[Any] = []
    for i, (kind, make) in enumerate(battery.KINDS.items()):
        if kinds is None or kind in kinds:
            cases += make(spec, np.random.default_rng((seed, i)))
    started = time.perf_counter()
    text = to_verilog(spec) if verilog is None else verilog
    text, _ = with_settable(text, module_name(spec), battery.SETTABLE)
    build = simulators.build(text, module_name(spec), simulator, waves=waves is not None)
    build = replace(build, plusargs=plusargs)
    built = time.perf_counter()
    models = [battery.model_of(spec, case) for case in cases]
    recordings = battery.play(spec, cases, models, build, seed, waves)
    differences: list[str] = []
    elements = 0
    for case, model, rtl in zip(cases, models, recordings, strict=True):
        compared, wrong = battery.compare(spec, case, model, rtl)
        elements += compared
        where = f"spec {spec.digest} seed {seed} case {case.name!r}"
        differences += [
            f"{where}: {difference}" for difference in (*rtl.violations.tolist(), *wrong)
        ]
    covered = Counter(feature for case in cases for feature in battery.features(spec, case))
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
