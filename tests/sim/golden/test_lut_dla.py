"""Tables by centroid: the nearest one by brute force, and what sums do that exceed their width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.spec import LutDla, SpecError, layout
from evolute.hw.spec.formats import Activations, Kind, WeightCodes
from evolute.hw.spec.lut_dla import METRICS, OVERFLOWS
from evolute.sim.golden import lut_dla as golden
from evolute.sim.weights import Centroids, Grid, Table, nearest, subspaces
from evolute.verif.engines import lut_dla
from evolute.verif.harness import driver, operands
from evolute.verif.harness.vectors import Matmul, MatmulShape, random_matmul

TABLE8 = WeightCodes(8, Kind.TABLE)


def brute_psum(spec: LutDla, matmul: Matmul, m: int, n: int, first: int, last: int) -> int:
    """What a group of activations gives one output: table entries added one after another, each
    read-out on its own."""
    assert isinstance(matmul.weights, Table)
    low, high = -(1 << spec.acc_bits - 1), (1 << spec.acc_bits - 1) - 1
    per_group = -(-matmul.group // spec.v)
    limit = min(per_group, -(-spec.group_size // spec.v))
    read_out = max(size for size in range(1, limit + 1) if per_group % size == 0)
    subspace = first // matmul.group * per_group
    total = partial = 0
    for i, start in enumerate(range(first, last, spec.v)):
        if i % read_out == 0:
            total, partial = total + partial, 0
        x = [
            max(int(each), -spec.activations.maximum) for each in matmul.x[m, start:last][: spec.v]
        ]
        x += [0] * (spec.v - len(x))
        at = subspace + i
        points = matmul.weights.centroids.points[at : at + 1]
        index = lut_dla.nearest(spec.metric, np.array([[x]]), points).item()
        code = matmul.codes[n, at * spec.centroids + index]
        partial += int(code) - matmul.weight_format.levels // 2
        if spec.overflow == "saturate":
            partial = min(max(partial, low), high)
        elif spec.overflow == "wrap":
            partial = (partial - low) % (1 << spec.acc_bits) + low
    return total + partial


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_golden_is_brute_force(metric: str, overflow: str) -> None:
    rng = np.random.default_rng(1)
    width = None if overflow == "exact" else 5
    spec = LutDla(
        m=2, n=3, v=3, centroids=8, activation_bits=5, weight_bits=4, group_size=16,
        metric=metric, overflow=overflow, accumulator_bits=width,
    )  # fmt: skip
    beyond = 0
    for group in (1, 5, 9, 16, 24, 60):
        drawn = random_matmul(
            rng, spec.activations, WeightCodes(4, Kind.TABLE), MatmulShape(3, 4, 25, group)
        )
        matmul = driver.completed(spec, drawn, rng)
        found = golden.group_sums(spec, matmul.x, operands.encoded(spec, matmul))
        exact = golden.group_sums(
            spec.evolve(overflow="exact", accumulator_bits=None),
            matmul.x,
            operands.encoded(spec, matmul),
        )
        beyond += int((found.psum != exact.psum).sum())
        for g, first in enumerate(range(0, 25, group)):
            last = min(first + group, 25)
            for m in range(3):
                assert found.row_sum[m, g] == -(-(last - first) // 3)
                for n in range(4):
                    assert found.psum[m, g, n] == brute_psum(spec, matmul, m, n, first, last)
    assert (beyond > 0) == (overflow != "exact")


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_take_the_first(metric: str) -> None:
    x, centroids = np.zeros((1, 1, 2), int), np.array([[[3, 0], [0, 2], [-2, 0], [2, 0]]])
    assert nearest(metric, x, centroids) == [[1]]
    spec = LutDla(v=2, centroids=4, metric=metric)
    assert lut_dla.one_hot(spec, x[:, 0], centroids, 2).tolist() == [[0, 1, 0, 0]]


def test_magnitudes_do_not_overflow_at_the_ends_of_the_range() -> None:
    """The lowest centroid from the highest activation is 2^bits - 1 away."""
    spec = LutDla(v=1, centroids=2, lanes=1, metric="l2")
    assert spec.distance_bits == (255**2).bit_length()
    found = nearest("l2", np.array([[[127]]]), np.array([[[-128], [-127]]]))
    assert found == [[1]]


POINTS = Centroids(4, Activations(4), "l1", np.zeros((2, 4, 2), int))
SMALL = LutDla(v=2, centroids=4, activation_bits=4)


@pytest.mark.parametrize(
    ("centroids", "message"),
    [
        (replace(POINTS, points=POINTS.points[:1]), "tables of other centroids"),
        (replace(POINTS, points=POINTS.points + 8), "centroids of more than 4 bits"),
    ],
)
def test_tables_that_do_not_fit_their_centroids_are_refused(
    centroids: Centroids, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        golden.encode(SMALL, Table(np.zeros((3, 8), np.uint8), TABLE8, 4, centroids))


def test_codes_without_centroids_are_refused() -> None:
    with pytest.raises(ValueError, match="tables without the centroids that they are of"):
        golden.encode(SMALL, Grid.plain(np.zeros((3, 8), np.uint8), TABLE8, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": 4}, "v: must be 2 for these tables, got 4"),
        ({"centroids": 8}, "centroids: must be 4 for these tables, got 8"),
        ({"metric": "l2"}, "metric: must be l1 for these tables, got 'l2'"),
        ({"activation_bits": 8}, "activation_bits: must be 4 for these tables, got 8"),
        (
            {"activation_format": "bf16"},
            "activation_format: must be int for these tables, got 'bf16'",
        ),
        ({"weight_bits": 4}, "weights: must be one of table2, table3, table4 on this engine, got"),
    ],
)
def test_an_engine_refuses_tables_it_is_not_built_for(changes: dict, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        codes = np.zeros((3, 8), np.uint8)
        golden.encode(SMALL.evolve(**changes), Table(codes, TABLE8, 4, POINTS))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centroids": 12}, "centroids: must be a power of two, got 12"),
        ({"centroids": 128, "lanes": 64}, "centroids: must be in 2..64, got 128"),
        ({"lanes": 1}, "lanes: must be in 2..16, got 1"),
        ({"lanes": 32}, "lanes: must be in 2..16, got 32"),
        ({"metric": "cosine"}, "metric: must be one of l1, l2, chebyshev, got 'cosine'"),
        ({"overflow": "grow"}, "overflow: must be one of exact, saturate, wrap, got 'grow'"),
        (
            {"accumulator_bits": 16},
            "accumulator_bits: must be none where sums are exact, got 16",
        ),
        ({"overflow": "wrap"}, "accumulator_bits: must be in 8..32 where sums wrap, got None"),
        (
            {"overflow": "saturate", "accumulator_bits": 7},
            "accumulator_bits: must be in 8..32 where sums saturate, got 7",
        ),
    ],
)
def test_a_spec_refuses(changes: dict, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        LutDla().evolve(**changes)
    assert str(refused.value) == message


def test_a_beat_of_the_preset_is_a_bus_word() -> None:
    """Entries with their centroids, side by side."""
    spec = LutDla(m=8, n=14, v=2, centroids=16, lanes=2)
    assert layout.streams(spec).weight.bits == 2 * (2 * 8 + 14 * 8) == 256
    assert spec.slice_steps(TABLE8) == 8
    assert spec.acc_bits == 15  # 64 slices of up to 128 in magnitude, of either sign


def test_random_specs_draw_every_choice() -> None:
    specs = [lut_dla.random_spec(np.random.default_rng(i)) for i in range(200)]
    for name, values in (("metric", METRICS), ("overflow", OVERFLOWS)):
        assert {getattr(spec, name) for spec in specs} == set(values)
    assert {spec.centroids // spec.lanes for spec in specs} == {1, 2, 4, 8}
    assert {spec.lanes for spec in specs} >= {1, 2, 4, 8, 16}


def test_drawn_tables_have_ties_and_exact_matches() -> None:
    """What a wrong order of comparisons could be seen by."""
    rng, spec = np.random.default_rng(3), LutDla(v=2, centroids=8, activation_bits=6)
    drawn = random_matmul(rng, spec.activations, TABLE8, MatmulShape(4, 3, 60, 8))
    matmul = driver.completed(spec, drawn, rng)
    parts = subspaces(driver.integers(spec, matmul), 8, 2)
    assert isinstance(matmul.weights, Table)
    points = matmul.weights.centroids.points
    distance = np.abs(parts[:, :, None] - points).sum(axis=-1)
    least = distance.min(axis=-1, keepdims=True)
    assert ((distance == least).sum(axis=-1) > 1).any() and (least == 0).any()
    turned = replace(matmul.weights.centroids, points=points[:, ::-1])
    moved = replace(matmul, weights=replace(matmul.weights, centroids=turned))
    other = golden.group_sums(spec, matmul.x, operands.encoded(spec, moved))
    found = golden.group_sums(spec, matmul.x, operands.encoded(spec, matmul))
    assert (other.psum != found.psum).any()
