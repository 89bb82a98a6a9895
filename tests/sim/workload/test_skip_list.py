"""What a list of blocks counts, against weights one by one; and lists of layers without weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload
from evolute.sim.workload.skip_list import SkipList
from evolute.sim.workload.sparsity import (
    NOfM,
    RowGroup,
    Sparsity,
    TileGroup,
    evenly_pruned,
    sparsity_figures,
)

NAME = LayerName(0, "up")


def layer(n: int, k: int, group: int) -> Linear:
    return Linear(NAME, n, k, WeightCodes(4), group, group_bits=16, row_bits=32)


@given(
    n=st.integers(1, 40), k=st.integers(1, 60), group=st.integers(1, 8), times=st.integers(1, 3),
    outputs=st.integers(1, 16), seed=st.integers(0, 99),
)  # fmt: skip
def test_counts_are_those_of_weights_one_by_one(
    n: int, k: int, group: int, times: int, outputs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs, group = group * times, min(group, k)
    tiles, blocks = -(-n // outputs), -(-k // inputs)
    kept, weights = [], np.zeros((n, k), bool)
    for tile in range(tiles):
        some = np.flatnonzero(rng.random(blocks) < 0.6).tolist() or [0]
        kept.append(tuple(some))
        for block in some:
            weights[
                tile * outputs : (tile + 1) * outputs, block * inputs : (block + 1) * inputs
            ] = 1
    listed = replace(layer(n, k, group), skips=SkipList(inputs, outputs, tuple(kept)))
    assert listed.multiplied == weights.sum()
    assert listed.skips is not None and listed.skips.bits(k) == tiles * blocks
    if inputs % group == 0:
        groups = np.logical_or.reduceat(weights, np.arange(0, k, group), axis=1).sum()
        assert listed.total_bits == 4 * weights.sum() + 16 * groups + 32 * n
    work = Workload("model", "w4", (listed,))
    assert work.macs(3) == 3 * weights.sum()
    assert work.bits_held == listed.total_bits / (n * k)


def test_a_tile_without_a_block_is_refused() -> None:
    with pytest.raises(SpecError, match="a block at least of every column tile"):
        SkipList(8, 4, ((0,), ()))


@given(st.integers(1, 70), st.integers(1, 900), st.sampled_from([16, 32, 64]), st.floats(0, 0.99))
def test_lists_without_weights_are_even(n: int, k: int, inputs: int, share: float) -> None:
    pattern, dense = TileGroup(share, inputs), layer(n, k, 16)
    found = evenly_pruned(pattern, dense, 8).skips
    assert found is not None
    blocks = -(-k // min(k, inputs))
    wanted = max(1, blocks - int(share * blocks + 1e-9))
    assert len(found.kept) == -(-n // 8)
    for tile in found.kept:
        assert len(set(tile)) == wanted and list(tile) == sorted(tile) and max(tile) < blocks
    head = replace(dense, name=HEAD)
    assert evenly_pruned(pattern, head, 8) == head


def test_shares_are_what_their_decimals_say() -> None:
    """0.29 of 100 blocks are 29, though 0.29 * 100 is a little less in binary."""
    assert TileGroup(0.29).dropped(100) == 29
    for share in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(SpecError, match="share: must be at least 0 and below 1"):
            TileGroup(share)


def test_figures_are_of_all_layers_but_the_head() -> None:
    pattern = TileGroup(0.5, 16)
    layers = [evenly_pruned(pattern, layer(16, 64, 16), 8), replace(layer(8, 64, 16), name=HEAD)]
    found = sparsity_figures(pattern, layers, has_weights=False)
    assert (found.weights, found.kept_weights, found.index_bytes) == (1024, 512, 1)
    assert found.dense_bytes == (1024 * 4 + 64 * 16 + 16 * 32) // 8
    assert found.value_bytes == (512 * 4 + 32 * 16 + 16 * 32) // 8
    assert (found.time, found.basis) == ("skipped", "sizes")


@pytest.mark.parametrize(
    ("pattern", "value_bits", "index_bits"),
    [
        # Codes of 4 bits of the weights that are kept, and 16 bits a scale group of 16, all kept.
        (NOfM(2, 4), 2 + 1, 1),
        (NOfM(4, 16), 1 + 1, 1),
        (NOfM(2, 16), 0.5 + 1, 0.5),
        (NOfM(8, 16), 2 + 1, 2),
        # Scale groups go with their weights; a part of one leaves its scale.
        (RowGroup(0.5, 16), 2 + 0.5, 1 / 16),
        (RowGroup(0.5, 32), 2 + 0.5, 1 / 32),
        (RowGroup(0.25, 8), 3 + 1, 1 / 8),
        (RowGroup(0.5), 2 + 0.5, 1 / 16),
    ],
)
def test_bits_of_values_and_of_the_index(
    pattern: Sparsity, value_bits: float, index_bits: float
) -> None:
    plain = replace(layer(64, 256, 16), row_bits=0)
    found = sparsity_figures(pattern, [plain, replace(plain, name=HEAD)], has_weights=False)
    weights = 64 * 256
    assert found.value_bytes == value_bits * weights / 8
    assert found.index_bytes == index_bits * weights / 8
    assert found.dense_bytes == (4 + 1) * weights / 8
    assert found.stored_share == (value_bits + index_bits) / 5
    assert (found.time, found.weights) == ("dense", weights)
    assert found.macs_per_token == found.kept_weights < found.dense_macs_per_token == weights
