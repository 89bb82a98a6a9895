"""Each law of the contract fails on what breaks it, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evolute.hw.spec import LutTensorCore
from evolute.verif.harness.contract import EngineContract
from evolute.verif.harness.verify import Report

SPEC = LutTensorCore()
SOUND = Report(
    name="",
    spec=SPEC,
    simulator="",
    seed=1,
    cases=1,
    transactions=1,
    elements=1,
    rtl_cycles=7,
    model_cycles=7,
    differences=(),
    coverage={},
    build_seconds=0.0,
    run_seconds=0.0,
)
LAWS = (
    EngineContract.test_every_sum_is_golden,
    EngineContract.test_every_transfer_is_in_the_cycle_of_the_model,
    EngineContract.test_streams_keep_their_rules_and_nothing_else_differs,
)
BREACHES = {
    "command 0: psum of row 0, group 0, column 1 is 3, must be 4 (1 of 8 differ)": 0,
    "3 results, golden has 4": 0,
    "cycle of result 2 is 9, model says 8": 1,
    "result moves 3 times, model says 4": 1,
    "closed form gives 12 cycles, fold 13": 1,
    "cycle 5: valid fell before the beat was taken": 2,
    "cycle 5: the payload changed before it was taken": 2,
}


def broken(report: Report) -> list[int]:
    """The laws that a report breaks."""
    found = []
    for i, law in enumerate(LAWS):
        try:
            law(EngineContract(), report)
        except AssertionError:
            found.append(i)
    return found


def test_a_sound_report_keeps_all_laws() -> None:
    assert not broken(SOUND)


@pytest.mark.parametrize("difference", BREACHES)
def test_a_difference_breaks_its_own_law(difference: str) -> None:
    assert broken(replace(SOUND, differences=(f"spec 1 seed 1 case 'x': {difference}",))) == [
        BREACHES[difference]
    ]


def test_other_cycles_or_no_elements_break_a_law() -> None:
    assert broken(replace(SOUND, rtl_cycles=8)) == [1]
    assert broken(replace(SOUND, elements=0)) == [0]
