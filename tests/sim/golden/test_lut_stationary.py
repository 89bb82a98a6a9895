"""The machine of LUT-DLA: what it computes by brute force, what it asks for, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.hw.spec import LutStationary, SpecError
from evolute.hw.spec.lut_dla import METRICS, OVERFLOWS
from evolute.sim.golden import lut_stationary as golden
from evolute.sim.timing.lut_stationary import command_of
from evolute.verif.engines.lut_dla import nearest
from evolute.verif.harness import words
from evolute.verif.units.lut_stationary import random_product, sources

SMALL = LutStationary(
    m=5, n=4, v=3, centroids=4, lanes=4, subspaces=6, tiles=8, activation_bits=5,
    weight_bits=4, beat_entries=2, queue=8,
)  # fmt: skip


def brute_sum(spec: LutStationary, entries: list[int]) -> int:
    low, high = -(1 << spec.acc_bits - 1), (1 << spec.acc_bits - 1) - 1
    total = 0
    for entry in entries:
        total += entry
        if spec.overflow == "saturate":
            total = min(max(total, low), high)
        while spec.overflow == "wrap" and not low <= total <= high:
            total += (1 << spec.acc_bits) * (1 if total < low else -1)
    return total


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_golden_is_brute_force(metric: str, overflow: str) -> None:
    width = None if overflow == "exact" else 4
    spec = SMALL.evolve(metric=metric, overflow=overflow, accumulator_bits=width)
    exact = SMALL.evolve(metric=metric)
    rng = np.random.default_rng(1)
    beyond = 0
    for extreme in (False, True) * 4:
        operands = random_product(spec, rng, extreme=extreme)
        found = golden.sums(spec, operands)
        beyond += int((found != golden.sums(exact, operands)).sum())
        indices = nearest(metric, operands.x, operands.centroids)
        assert np.array_equal(golden.indices(spec, operands), indices)
        for m, index in enumerate(indices):
            for n in range(found.shape[1]):
                entries = [int(operands.table[s, j, n]) for s, j in enumerate(index)]
                assert found[m, n] == brute_sum(spec, entries)
    assert (beyond > 0) == (overflow != "exact")


def test_the_widest_sum_just_fits() -> None:
    table = np.full((SMALL.subspaces, 4, 1), -8)
    x, centroids = np.zeros((1, 18), int), np.zeros((SMALL.subspaces, 4, 3), int)
    spec = SMALL.evolve(overflow="wrap", accumulator_bits=SMALL.acc_bits)
    assert golden.sums(spec, golden.product(spec, x, centroids, table))[0, 0] == -8 * 6
    narrow = SMALL.evolve(overflow="wrap", accumulator_bits=SMALL.acc_bits - 1)
    assert golden.sums(narrow, golden.product(narrow, x, centroids, table))[0, 0] != -8 * 6


def test_k_and_n_need_not_fill_their_last_part() -> None:
    rng = np.random.default_rng(2)
    x, centroids = rng.integers(-16, 16, (2, 7)), rng.integers(-16, 16, (3, 4, 3))
    table = rng.integers(-8, 8, (3, 4, 5))
    operands = golden.product(SMALL, x, centroids, table)
    assert operands.x.shape == (2, 3, 3) and not operands.x[:, 2, 1:].any()
    assert operands.table.shape == (3, 4, 8) and not operands.table[:, :, 5:].any()
    assert command_of(SMALL, operands.shape, golden.asked(SMALL, operands)).steps == 6


@pytest.mark.parametrize("dedup", [False, True])
def test_a_gather_asks_for_what_indices_name_in_order(dedup: bool) -> None:
    spec = SMALL.evolve(tables="gather", dedup=dedup)
    operands = random_product(spec, np.random.default_rng(3), rows=5)
    tables = spec.streams.table
    rows = sources(spec, operands)["table"]
    index, wanted = golden.indices(spec, operands), []
    for tile in range(operands.table.shape[2] // spec.n):
        for s in range(operands.subspaces):
            wanted += [
                (tile, s, int(index[m, s]))
                for m in range(5)
                if not dedup or index[m, s] not in index[:m, s]
            ]
    found = golden.requests(spec, operands).tolist()
    assert len(found) == len(wanted)
    for number, (tile, s, j) in zip(found, wanted, strict=True):
        columns = slice(tile * spec.n, (tile + 1) * spec.n)
        row = operands.table[s, j, columns].reshape(-1, spec.beat_entries)
        beats = rows[number * spec.row_beats : (number + 1) * spec.row_beats]
        assert np.array_equal(words.unpack(tables, beats)["entry"], row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centroids": 12}, "centroids: must be a power of two, got 12"),
        ({"m": 1}, "m: must be in 2..1024, got 1"),
        ({"tiles": 1}, "tiles: must be in 2..65536, got 1"),
        ({"lanes": 2}, "lanes: must be in 4..4, got 2"),
        ({"encoder": "tree", "lanes": 8}, "lanes: must be in 1..4, got 8"),
        ({"beat_centroids": 2}, "beat_centroids: must be in 1..1, got 2"),
        ({"encoder": "ring"}, "encoder: must be one of chain, tree, got 'ring'"),
        ({"tables": "keep"}, "tables: must be one of stream, gather, got 'keep'"),
        ({"dedup": True}, "dedup: must be false where tables stream, got True"),
        ({"beat_entries": 3}, "beat_entries: must be a divisor of n = 4, got 3"),
        ({"queue": 6}, "queue: must be a power of two, got 6"),
        ({"overflow": "wrap"}, "accumulator_bits: must be in 4..32 where sums wrap, got None"),
    ],
)
def test_a_spec_refuses(changes: dict, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        SMALL.evolve(**changes)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((6, 4), int)}, "rows: must be in 1..5, got 6"),
        ({"x": np.zeros((1, 19), int)}, "subspaces: must be in 1..6, got 7"),
        ({"table": np.zeros((2, 4, 4 * 9), int)}, "tiles: must be in 1..8, got 9"),
        ({"x": np.full((1, 4), 16)}, "activations: must be in -16..15, got [16, 16]"),
        ({"table": np.full((2, 4, 3), -9)}, "table: must be in -8..7, got [-9, -9]"),
        (
            {"centroids": np.zeros((3, 4, 3), int)},
            "centroids: must be of shape (2, 4, 3), got (3, 4, 3)",
        ),
        (
            {"table": np.zeros((2, 3, 3), int)},
            "table: must be of shape (2, 4) and N, got (2, 3, 3)",
        ),
    ],
)
def test_a_product_refuses(changes: dict, message: str) -> None:
    operands = {
        "x": np.zeros((1, 4), int),
        "centroids": np.zeros((2, 4, 3), int),
        "table": np.zeros((2, 4, 3), int),
    }
    with pytest.raises(SpecError) as refused:
        golden.product(SMALL, **{**operands, **changes})
    assert str(refused.value) == message
