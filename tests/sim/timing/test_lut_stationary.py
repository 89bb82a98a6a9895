"""The machine's cycles against the law that they follow, and against each other."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.spec import LutStationary
from evolute.sim.timing.lut_stationary import Clocks, Command, fold, step_cycles

SPEC = LutStationary(m=64, n=16, v=2, centroids=8, lanes=8, subspaces=64, queue=128, beat_entries=4)


@pytest.mark.parametrize(
    ("changes", "rows", "clocks", "bound"),
    [
        ({}, 64, Clocks(1, 2), "look_up"),
        ({}, 12, Clocks(1, 1), "load"),
        ({}, 1, Clocks(1, 1), "load"),
        ({"beat_entries": 16}, 64, Clocks(1, 1), "encode"),
        ({"beat_entries": 16}, 40, Clocks(2, 1), "encode"),
        ({"beat_entries": 16, "encoder": "tree", "lanes": 2}, 20, Clocks(1, 1), "encode"),
        ({"beat_entries": 16, "encoder": "tree", "beat_centroids": 8}, 20, Clocks(1, 1), "encode"),
        ({"beat_entries": 16, "encoder": "tree", "lanes": 2}, 30, Clocks(1, 5), "look_up"),
    ],
)
def test_a_subspace_takes_as_long_as_its_slowest_part(
    changes: dict, rows: int, clocks: Clocks, bound: str
) -> None:
    spec = SPEC.evolve(**changes)
    expected = step_cycles(spec, rows, clocks)
    assert expected.most == getattr(expected, bound) > 0
    cycles = [fold(spec, [Command(rows, p, 1)], clocks).cycles for p in (20, 30, 60)]
    assert [b - a for a, b in itertools.pairwise(cycles)] == [
        10 * expected.most,
        30 * expected.most,
    ]


def test_fill_and_drain_are_a_table_and_the_pipeline() -> None:
    """With one cycle per row and subspace, and tables in time, what is left is the first fill: by
    the table, and two registers."""
    spec = SPEC.evolve(beat_entries=16)
    command = Command(64, 16, 3)
    over = fold(spec, [command], Clocks(1, 4)).cycles - 64 * command.steps
    assert over == spec.centroids + 2


def test_column_tiles_are_as_many_subspaces() -> None:
    """Results of a tile leave while the next one is summed."""
    assert fold(SPEC, [Command(16, 6, 5)]).cycles == fold(SPEC, [Command(16, 30, 1)]).cycles


@pytest.mark.parametrize("latency", [1, 30])
def test_a_gather_hides_its_memory_and_takes_a_beat_a_cycle(latency: int) -> None:
    spec = SPEC.evolve(tables="gather")
    asked = (True,) * 64
    found = fold(spec, [Command(1, 64, 1, asked)], Clocks(1, 20), memory_latency_cycles=latency)
    gaps = np.diff(found.table)
    assert (gaps == 1).all() and len(found.table) == 64 * spec.row_beats
    assert found.table[0] == found.request[0] + latency


def test_rows_that_are_known_cost_no_beat() -> None:
    spec = SPEC.evolve(tables="gather", dedup=True)
    command = Command(8, 16, 1, ((True,) + (False,) * 7) * 16)
    fast = fold(spec, [command], Clocks(1, 20))
    every = fold(spec, [replace(command, asked=(True,) * 128)], Clocks(1, 20))
    assert len(every.table) == 8 * len(fast.table)
    assert every.cycles - fast.cycles == 16 * 7 * (spec.row_beats - 1)


def test_a_queue_that_is_too_short_costs_cycles() -> None:
    """A row reserves its place before its distances are known: a chain needs as many places."""
    command, clocks = Command(64, 8, 1), Clocks(1, 1)
    spec = SPEC.evolve(beat_entries=16)
    cycles = [fold(spec.evolve(queue=q), [command], clocks).cycles for q in (4, 8, 16, 32, 128)]
    assert cycles[0] > cycles[1] > cycles[2] >= cycles[3] >= cycles[4]
