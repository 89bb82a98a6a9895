"""LLM-Viewer's counts where heads share keys; `test_claims` holds them to its published table."""

from __future__ import annotations

import pytest

from evolute.sim.what_if.roofline import layers
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.zoo import zoo_entry


def test_grouped_heads_read_fewer_keys_and_compute_as_much() -> None:
    """Llama-3.2-1B: 32 heads of 64 numbers share 8 heads of keys."""
    shape = zoo_entry("llama-3.2-1b").shape
    assert isinstance(shape, ModelShape)
    scores = layers(shape, 100, is_prompt=False)["scores"]
    assert scores.operations == 2 * 32 * 64 * 100
    assert scores.bytes == 2 * (100 * 8 * 64 + 32 * 64 + 32 * 100)
    k = layers(shape, 100, is_prompt=True)["k"]
    assert k.operations == 2 * 100 * 512 * 2048
    assert k.bytes == 2 * (512 * 2048 + 100 * (512 + 2048))


def test_a_rate_is_under_both_roofs() -> None:
    shape = zoo_entry("llama-2-7b").shape
    assert isinstance(shape, ModelShape)
    q = layers(shape, 2048, is_prompt=True)["q"]
    assert q.rate(1e12, 1e30) == 1e12
    assert q.rate(1e30, 1e9) == pytest.approx(q.intensity * 1e9)
