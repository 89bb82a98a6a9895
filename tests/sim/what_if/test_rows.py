"""Rows of tables that a gather would fetch."""

import numpy as np
import pytest

from evolute.hw.spec import LutDla, SpecError
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.what_if.rows import expected_rows, table_bytes, unique_rows
from evolute.sim.workload.linear import Linear

SPEC = LutDla(m=4, n=8, v=2, centroids=16)
LAYER = Linear("layer", 24, 20, WeightCodes(4, Kind.TABLE), group=7, group_bits=16)
SPACES = 4 + 4 + 3  # groups of 7, 7 and 6 inputs


def test_distinct_rows_are_those_of_a_set():
    index = np.random.default_rng(1).integers(0, 5, (6, 40))
    assert unique_rows(index).tolist() == [len(set(column)) for column in index.T.tolist()]
    assert unique_rows(index[:1]).tolist() == [1] * 40


def test_one_token_fetches_one_row_in_c():
    index = np.random.default_rng(2).integers(0, 16, (1, SPACES))
    found = table_bytes(SPEC, LAYER, index)
    assert found.streamed == 16 * found.gathered == 16 * SPACES * 12
    assert found.unique == found.gathered == found.least
    assert found.centroids == SPACES * 16 * 2


@pytest.mark.parametrize("tokens", [2, 4, 8, 13, 64])
def test_a_batch_fetches_no_row_twice_and_none_that_a_stream_does_not(tokens):
    index = np.random.default_rng(3).integers(0, 16, (tokens, SPACES))
    found = table_bytes(SPEC, LAYER, index)
    rows = {(s, j) for row in index.tolist() for s, j in enumerate(row)}
    assert found.unique == len(rows) * 12 <= found.gathered == tokens * SPACES * 12
    assert found.streamed == -(-tokens // 4) * 16 * SPACES * 12 >= found.unique


def test_the_closed_form_is_the_mean_of_even_indices():
    index = np.random.default_rng(4).integers(0, 16, (8, 20_000))
    count = unique_rows(index)
    # Five standard errors of a mean of independent counts.
    error = 5 * count.std() / np.sqrt(len(count))
    assert abs(count.mean() - expected_rows(16, 8)) < error
    assert expected_rows(16, 1) == pytest.approx(1)


def test_indices_of_other_layers_are_refused():
    with pytest.raises(SpecError, match="index: must be of 11 subspaces, got 10"):
        table_bytes(SPEC, LAYER, np.zeros((1, 10), int))
    with pytest.raises(SpecError, match=r"index: must be in 0\.\.15, got 16"):
        table_bytes(SPEC, LAYER, np.full((1, 11), 16))
