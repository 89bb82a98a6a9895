"""k-means: planted clusters, weights as repeated points, and a search that equals the plain one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.sw.quantizers import kmeans as module
from evolute.sw.quantizers.kmeans import kmeans, nearest


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_the_nearest_are_nearest(points: int, v: int, entries: int, seed: int) -> None:
    """Small integers, so that float32 is exact, and of equals the first is found."""
    rng = np.random.default_rng(seed)
    given_points, book = rng.integers(-9, 10, (points, v)), rng.integers(-9, 10, (entries, v))
    distance = np.square(given_points[:, None] - book[None]).sum(axis=2)
    assert np.array_equal(nearest(given_points, book), distance.argmin(axis=1))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points, book = rng.normal(size=(500, 4)), rng.normal(size=(16, 4))
    whole = nearest(points, book)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 16 * 7)
    assert np.array_equal(nearest(points, book), whole)


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres far apart, and points so near to them that nothing else is optimal."""
    rng = np.random.default_rng(seed)
    centres = 100 * np.stack([np.arange(12) % 4, np.arange(12) // 4, np.zeros(12)], axis=1)
    points = centres[rng.integers(0, 12, 600)] + rng.normal(size=(600, 3))
    return centres, points.astype(np.float32)


def test_planted_clusters_are_found() -> None:
    centres, points = planted(1)
    found = kmeans(points, np.ones(600), 12, np.random.default_rng(0))
    places = nearest(centres, found.codebook)
    assert sorted(places) == list(range(12))
    truth = nearest(points, centres)
    assert np.array_equal(found.index, places[truth])
    for cluster in range(12):
        mean = points[truth == cluster].mean(axis=0)
        np.testing.assert_allclose(found.codebook[places[cluster]], mean, atol=1e-4)


def test_equal_seeds_give_equal_bits() -> None:
    _, points = planted(2)
    runs = [kmeans(points, np.ones(600), 20, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert runs[0].codebook.tobytes() == runs[1].codebook.tobytes()
    assert np.array_equal(runs[0].index, runs[1].index)
    assert runs[0].codebook.tobytes() != runs[2].codebook.tobytes()


def test_a_weight_counts_as_so_many_points() -> None:
    """One cluster: the weighted mean, and the weighted error."""
    rng = np.random.default_rng(3)
    points, weights = rng.normal(size=(40, 2)).astype(np.float32), rng.integers(1, 5, 40)
    found = kmeans(points, weights, 1, np.random.default_rng(0))
    repeated = np.repeat(points, weights, axis=0)
    np.testing.assert_allclose(found.codebook[0], repeated.mean(axis=0), atol=1e-6)
    error = np.square(repeated - repeated.mean(axis=0)).sum()
    assert found.error == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("init", ["spread", "random"])
def test_errors_fall_to_where_nothing_moves(init: module.Init) -> None:
    rng = np.random.default_rng(4)
    points, weights = rng.normal(size=(800, 4)).astype(np.float32), rng.uniform(1, 3, 800)
    errors = [
        kmeans(points, weights, 32, np.random.default_rng(0), steps, 0.0, init).error
        for steps in (0, 1, 3, 10, 200)
    ]
    assert all(later <= before for before, later in itertools.pairwise(errors))
    end = kmeans(points, weights, 32, np.random.default_rng(0), 200, 0.0, init)
    for entry in range(32):  # a fixed point: every codeword is the mean of its own
        own = end.index == entry
        mean = np.average(points[own], axis=0, weights=weights[own])
        np.testing.assert_allclose(end.codebook[entry], mean, atol=1e-4)


def test_codewords_without_points_are_moved_to_the_worst() -> None:
    """Random beginnings in the one dense cluster must still reach the far one."""
    rng = np.random.default_rng(0)
    points = np.concatenate([np.zeros((500, 2)), [[50.0, 0], [0, 70.0]]]).astype(np.float32)
    found = kmeans(points, np.ones(502), 3, rng, init="random")
    assert found.error == 0
    few = kmeans(points[-2:], np.ones(2), 5, rng)
    assert few.error == 0 and few.codebook.shape == (5, 2)
