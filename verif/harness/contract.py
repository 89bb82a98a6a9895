"""The battery of tests that every engine inherits."""

from __future__ import annotations

import pytest

from evolute.hw.spec.engine import Engine
from evolute.verif.harness.bench import SINK, SOURCES
from evolute.verif.harness.simulators import SIMULATORS
from evolute.verif.harness.vectors import corners
from evolute.verif.harness.verify import verify


class EngineContract:
    """What holds for every spec of every engine; a subclass provides the fixture `spec`."""

    @pytest.fixture
    def simulator(self) -> str:
        return SIMULATORS[0]

    def test_rtl_equals_golden_and_cycle_model(self, spec: Engine, simulator: str) -> None:
        report = verify(spec, seed=1, simulator=simulator)
        assert report.passed, "\n".join(report.differences)
        assert report.rtl_cycles == report.model_cycles > 0
        assert report.elements > 0
        covered = {
            "M = 1",
            "no stall",
            "commands back to back",
            "last scale group shorter",
            "reset in mid-flight",
            "ready probed",
            *(f"stall {stream}" for stream in (*SOURCES, SINK)),
            *(f"corner {corner}" for corner in corners(spec.activations)),
            *(weight_format.name for weight_format in spec.formats),
        }
        if spec.activations.format is not None:
            covered |= {"exponent too low", "not finite", "subnormal"}
        if not spec.steps_are_fixed:
            covered |= {"steps skipped"}
        assert covered <= set(report.coverage)
