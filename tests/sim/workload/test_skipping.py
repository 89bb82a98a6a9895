"""Idle rows behind ReLUs: counts by hand, and what share of weights several tokens leave unread."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.presets import CORES
from evolute.sim.workload.operations import Pass
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.skipping import spared
from evolute.sim.workload.zoo import zoo_entry
from evolute.sw.deploy.unweighted import parse_format, shape_workload

CORE, WEIGHTS = CORES["core-decode"], parse_format("weights", "w4g32")


def one_block(name: str) -> ModelShape:
    shape = zoo_entry(name).shape
    assert isinstance(shape, ModelShape)
    return dataclasses.replace(shape, blocks=shape.blocks[:1], vocab=64)


def found(name: str, work: Pass, share: float):
    shape = one_block(name)
    return spared(shape, shape_workload(shape, WEIGHTS, WEIGHTS, CORE, work), work, share)


def layer_bytes(n: int, k: int) -> float:
    """4 bits a weight, 16 bits a group of 32, and 32 bits a row, as a core holds them."""
    return n * (k * 4 + k // 32 * 16 + 32) / 8


def test_of_a_gated_half_up_and_down_are_spared_and_the_gate_is_not() -> None:
    macs, moved = found("bitnet-b1.58-2b-4t", Pass(1), 0.75)
    assert macs == 0.75 * 2 * 2560 * 6912
    assert moved == 0.75 * (layer_bytes(6912, 2560) + layer_bytes(2560, 6912))


def test_without_a_gate_only_down_is_spared() -> None:
    macs, moved = found("opt-125m", Pass(1), 0.9)
    assert macs == pytest.approx(0.9 * 768 * 3072)
    assert moved == pytest.approx(0.9 * layer_bytes(768, 3072))


def test_of_routed_experts_those_that_are_visited() -> None:
    macs, moved = found("smallthinker-4b", Pass(1), 0.6)
    assert macs == pytest.approx(0.6 * 4 * 2 * 1536 * 768)
    assert moved == pytest.approx(0.6 * 4 * (layer_bytes(768, 1536) + layer_bytes(1536, 768)))


def test_a_row_is_unread_only_if_no_token_of_a_pass_needs_it() -> None:
    share, tokens, rows = 0.8, 3, 200_000
    idle = np.random.default_rng(3).random((tokens, rows)) < share
    one, several = found("opt-125m", Pass(1), share), found("opt-125m", Pass(tokens), share)
    assert several.bytes / one.bytes == pytest.approx(idle.all(axis=0).mean() / share, rel=0.02)
    assert several.macs == pytest.approx(tokens * one.macs)
    assert found("opt-125m", Pass(1, batch=3), share) == several


@pytest.mark.parametrize(
    ("name", "share", "line"),
    [
        ("llama-3.2-1b", 0.5, "idle_rows: must be of a model whose .* with silu"),
        ("mamba-130m", 0.5, "with no feed-forward half"),
        ("opt-125m", 1.0, "idle_rows: must be at least 0 and below 1, got 1.0"),
        ("opt-125m", float("nan"), "idle_rows: must be at least 0 and below 1"),
    ],
)
def test_rows_that_cannot_be_idle(name: str, share: float, line: str) -> None:
    with pytest.raises(SpecError, match=line):
        found(name, Pass(1), share)
