"""Weights made zero by magnitude, against the rule told one block at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.spec.presets import CORES
from evolute.sim.workload.sparsity import NOfM, RowGroup, Sparsity, TileGroup
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import core_model, golden_stage, integer_stage
from evolute.sw.quantizers.rounding import quantize
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.pruning import least, pruned, skip_list, zeroed
from evolute.sw.tensors.rescale import rescale
from evolute.sw.tensors.tensor import QuantError, QuantTensor, parted
from evolute.sw.tensors.weights import parse_weights

CORE = CORES["core-fpga"]
CHOICES = ("w4g16", "w4g16s", "w4g16f", "w1g16s", "tg16", "w4s", "t")


def tensor(weights: str, n: int = 20, k: int = 72, seed: int = 0) -> QuantTensor:
    rounding = parse_weights(weights).rounding
    assert rounding is not None
    return quantize(np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32), rounding)


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_the_least_blocks_of_a_tile_go_first(share: float) -> None:
    weights = np.random.default_rng(1).normal(size=(20, 72)).astype(np.float32)
    gone = least(weights, TileGroup(share, 16), 8, 16)
    means = {
        (row, column): np.mean(weights[row : row + 8, column : column + 16].astype(float) ** 2)
        for row in range(0, 20, 8)
        for column in range(0, 72, 16)
    }
    order = sorted(means, key=lambda place: means[place])
    wanted = np.zeros_like(gone)
    for row, column in order[: int(share * len(order) + 1e-9)]:
        wanted[row : row + 8, column : column + 16] = True
    assert np.array_equal(gone, wanted)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 5), (7, 16)])
def test_of_m_weights_the_n_greatest_are_kept(n: int, m: int) -> None:
    """Of equal ones the first, and of fewer than M at the end as many as of M."""
    weights = np.random.default_rng(2).integers(-3, 4, (6, 37)).astype(np.float32)
    gone = least(weights, NOfM(n, m), 8, 16)
    for row, of_row in zip(np.abs(weights), gone, strict=True):
        for start in range(0, 37, m):
            part = row[start : start + m].tolist()
            order = sorted(range(len(part)), key=lambda place: (-part[place], place))
            assert sorted(order[:n]) == np.flatnonzero(~of_row[start : start + m]).tolist()
    assert (~gone).sum() == 6 * NOfM(n, m).kept(37)


def test_every_output_loses_as_many_groups() -> None:
    weights = np.random.default_rng(3).normal(size=(6, 48)).astype(np.float32)
    gone = least(weights, RowGroup(0.5, 8), 8, 16)
    for row, of_row in zip(weights.astype(float), gone, strict=True):
        means = [np.mean(row[start : start + 8] ** 2) for start in range(0, 48, 8)]
        wanted = sorted(np.argsort(means)[:3].tolist())
        assert np.flatnonzero(of_row.reshape(6, 8).all(axis=1)).tolist() == wanted
        assert of_row.sum() == 24


@pytest.mark.parametrize("pattern", [NOfM(2, 4), RowGroup(0.5, 8)])
def test_single_weights_become_zero_by_their_code(pattern: Sparsity) -> None:
    for choice in ("w4g16", "w3g16s", "tg16", "b4g16"):
        whole = tensor(choice)
        gone = least(whole.dequantize(), pattern, 8, 16)
        found = zeroed(whole, gone).dequantize()
        assert not found[gone].any()
        assert np.array_equal(found[~gone], whole.dequantize()[~gone])


def test_of_equal_blocks_the_first_goes() -> None:
    gone = least(np.ones((8, 32), np.float32), TileGroup(0.5, 16), 8, 16)
    assert gone[:, :16].all() and not gone[:, 16:].any()


@pytest.mark.parametrize("weights", CHOICES)
def test_pruned_weights_are_zero_and_the_others_as_they_were(weights: str) -> None:
    whole = tensor(weights)
    gone = least(whole.dequantize(), TileGroup(0.4, 16), 8, whole.group)
    found = zeroed(whole, gone).dequantize()
    assert gone.any() and not found[gone].any()
    assert np.array_equal(found[~gone], whole.dequantize()[~gone])


@pytest.mark.parametrize("weights", CHOICES)
def test_the_list_is_of_what_the_core_holds(weights: str) -> None:
    """Also after scales and offsets became integers."""
    whole = pruned(parted(tensor(weights)), TileGroup(0.4, 16), 8).parts[0]
    scaled = rescale(whole, CORE.engine.coding_of(whole.format), 8, 8)
    found = skip_list(scaled, 16, 8)
    integers = scaled.integers(slice(None))
    for tile, kept in enumerate(found.kept):
        for block in range(5):
            part = integers[8 * tile : 8 * tile + 8, 16 * block : 16 * block + 16]
            assert part.any() == (block in kept) or kept == (0,)
    assert found.kept_blocks == 15 - 6


@pytest.mark.parametrize("weights", ["w1s", "w4f"])
def test_a_format_without_a_zero_is_refused(weights: str) -> None:
    """Blocks that are a part of a scale group need a code that counts as zero."""
    with pytest.raises(
        QuantError, match=r"prune: must be of weights with a code for zero, w\d has"
    ):
        pruned(parted(tensor(weights)), TileGroup(0.4, 16), 8)


def test_codewords_are_refused() -> None:
    part = tensor("w4g16")
    two = replace(parted(part), parts=(part, part))
    with pytest.raises(QuantError, match="prune: must be of weights with a code each"):
        pruned(two, TileGroup(0.4, 16), 8)


@pytest.mark.parametrize("weights", ["w4g32", "tg32", "b3g32"])
def test_a_core_gives_what_pruned_weights_give(weights: str) -> None:
    """Integer products and tables of a whole layer, with blocks left out of neither."""
    core = CORES["core-bitmod"] if weights[0] == "b" else CORE
    model = zoo.load("evolute-tiny")
    held = core_model(assign(model, parse_weights(weights), core, TileGroup(0.5, 32)))
    assert all(layer.linear.skips is not None for one in held.stages for layer in one.layers)
    stage = held.stages[0]
    x = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    a = quantize_activations(x, core.engine.activations)
    products, tables = integer_stage(held)(stage, a), golden_stage(held)(stage, a)
    for name, wanted in products.items():
        assert np.array_equal(tables[name], wanted)
        integers = held.tensors[name].integers(slice(None))
        assert np.array_equal(wanted, a.x.astype(np.float64) @ integers.T)
