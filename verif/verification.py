"""Verification of any spec: `verify(spec)` for an engine, a baseline, a unit or a core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evolute.hw.spec import BASELINES, ENGINES, UNITS, CoreSpec, Spec
from evolute.verif.core import kinds as core
from evolute.verif.harness.simulators import SIMULATORS
from evolute.verif.harness.verify import Report
from evolute.verif.harness.verify import verify as verify_streams

VERIFY: dict[type[Spec], Callable[..., Report]] = {
    CoreSpec: core.verify,
    **dict.fromkeys((*ENGINES.values(), *BASELINES.values(), *UNITS.values()), verify_streams),
}
"""How a kind of spec is verified."""


def verify(
    spec: Spec,
    *,
    seed: int = 1,
    name: str = "",
    simulator: str = SIMULATORS[0],
    waves: Path | None = None,
) -> Report:
    """Simulates the RTL of `spec` and compares it with the golden model and the cycle model.

    Every result number and the cycle of every transfer are compared, under random stalls and
    resets. Operands, shapes and stalls are drawn from `seed`. `simulator` is `verilator` or, for
    engines and units, `icarus`. `waves` names a VCD file that takes the waveform. The report's
    `name` is the one given. Raises `SimulatorError` where the simulator is absent or breaks down.
    """
    return VERIFY[type(spec)](spec, seed=seed, name=name, simulator=simulator, waves=waves)
