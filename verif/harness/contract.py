"""The laws that every engine keeps, as tests that any set of specs inherits.

One verification of a spec is run once; each test below holds one law against its report, so that a
failure names the law that the engine breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from evolute.hw.spec.engine import Engine
from evolute.verif.harness.bench import SINK, SOURCES
from evolute.verif.harness.differences import CYCLES, VALUES, about
from evolute.verif.harness.simulators import SIMULATORS
from evolute.verif.harness.vectors import corners
from evolute.verif.harness.verify import Report, verify

SEED = 1


class EngineContract:
    """What holds for every spec of every engine; a subclass provides the fixture `spec`, of the
    scope of a class."""

    @pytest.fixture(scope="class")
    @classmethod
    def simulator(cls) -> str:
        return SIMULATORS[0]

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls, spec: Engine, simulator: str) -> Report:
        return verify(spec, seed=SEED, simulator=simulator)

    @pytest.fixture
    def covers(self, report: Report) -> Callable[[Collection[str]], None]:
        """Checks that the cases had some features, in words of `features` of the battery."""

        def check(features: Collection[str]) -> None:
            assert set(features) <= set(report.coverage)

        return check

    # What the RTL does.

    def test_every_sum_is_golden(self, report: Report) -> None:
        assert not about(VALUES, report.differences)
        assert report.elements > 0

    def test_every_transfer_is_in_the_cycle_of_the_model(self, report: Report) -> None:
        assert not about(CYCLES, report.differences)
        assert report.rtl_cycles == report.model_cycles > 0

    def test_streams_keep_their_rules_and_nothing_else_differs(self, report: Report) -> None:
        others = set(report.differences)
        for kind in (VALUES, CYCLES):
            others -= set(about(kind, report.differences))
        assert not others

    # What it has been shown on.

    def test_one_row_is_played(self, covers: Callable) -> None:
        covers({"M = 1"})

    def test_every_weight_format_is_played(self, covers: Callable, spec: Engine) -> None:
        covers({weight_format.name for weight_format in spec.formats})

    def test_every_corner_of_the_activations_is_played(
        self, covers: Callable, spec: Engine
    ) -> None:
        covers({f"corner {corner}" for corner in corners(spec.activations)})

    def test_floating_activations_of_every_class_are_played(
        self, covers: Callable, spec: Engine
    ) -> None:
        floating = spec.activations.format is not None
        covers({"exponent too low", "not finite", "subnormal"} if floating else ())

    def test_a_last_scale_group_is_shorter(self, covers: Callable) -> None:
        covers({"last scale group shorter"})

    def test_steps_that_weights_do_not_need_are_skipped(
        self, covers: Callable, spec: Engine
    ) -> None:
        covers(() if spec.steps_are_fixed else {"steps skipped"})

    def test_commands_follow_back_to_back(self, covers: Callable) -> None:
        covers({"no stall", "commands back to back"})

    def test_every_stream_stalls(self, covers: Callable) -> None:
        covers({f"stall {stream}" for stream in (*SOURCES, SINK)})

    def test_ready_is_probed_within_cycles(self, covers: Callable) -> None:
        covers({"ready probed"})

    def test_resets_come_in_mid_flight(self, covers: Callable) -> None:
        covers({"reset in mid-flight"})
