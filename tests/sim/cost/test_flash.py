"""Experts in memory and in flash: against an LRU that is run, by hand, and in a whole pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.flash import ExpertCache
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import CacheFormat, Pass
from evolute.sim.workload.shape import FeedForward, ModelShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.sw.deploy.simulate import ALL_EXPERTS
from evolute.sw.deploy.unweighted import parse_format, shape_workload

CORE = CORES["core-decode"].evolve(vector_lanes=4, attention_rows=4)
INT8 = CacheFormat("int8", 8, 16)


def thinker(layers: int = 2) -> ModelShape:
    shape = zoo_entry("smallthinker-4b").shape
    assert isinstance(shape, ModelShape)
    return dataclasses.replace(shape, blocks=shape.blocks[:layers], vocab=64)


def workload(work: Pass, shape: ModelShape | None = None) -> Workload:
    weights = parse_format("weights", "w4g32")
    return shape_workload(shape or thinker(), weights, weights, CORE, work)


@pytest.mark.parametrize(
    ("experts", "active", "slots", "tokens"), [(8, 2, 3, 1), (32, 4, 12, 1), (16, 2, 12, 3)]
)
def test_the_mean_is_that_of_an_lru_that_is_run(
    experts: int, active: int, slots: int, tokens: int
) -> None:
    """Experts of a pass are looked up together and then used one by one."""
    rng, recent, passes, read = np.random.default_rng(7), list[int](), 6000, 0
    for number in range(passes + 200):
        visited = {
            int(expert)
            for _ in range(tokens)
            for expert in rng.choice(experts, active, replace=False)
        }
        read += len(visited - set(recent[-slots:])) if number >= 200 else 0
        recent = [expert for expert in recent if expert not in visited] + sorted(visited)
    half = FeedForward(width=8, experts=experts, active=active)
    expected = ExpertCache(slots, 1e9).read_experts(half, tokens)
    assert read / passes == pytest.approx(expected, rel=0.02)


def test_bytes_of_a_token_by_hand() -> None:
    """Four of 32 experts, of which 24 are not in memory: three quarters of them are read."""
    work = Pass(1)
    expert = 3 * 1536 * 768 * 4 + (2 * 768 * 48 + 1536 * 24) * 16 + (2 * 768 + 1536) * 32
    found = ExpertCache(8, 1e9)
    assert found.flash_bytes(thinker(), workload(work), work) == 2 * 4 * 0.75 * expert / 8
    assert found.absent_bytes(thinker(), workload(ALL_EXPERTS)) == 2 * 24 * expert / 8
    assert ExpertCache(32, 1e9).flash_bytes(thinker(), workload(work), work) == 0


def test_a_pass_takes_longer_by_what_flash_takes() -> None:
    shape, works = thinker(1), (Pass(1, 5), Pass(1, 6))

    def phase(experts: ExpertCache | None):
        pricing = Pricing(
            CORE, shape, lambda work: workload(work, shape), Platform(), INT8, experts=experts
        )
        return pricing.phase(works, in_one=True)

    plain, slow = phase(None), phase(ExpertCache(8, 1e9))
    moved = 2 * ExpertCache(8, 1e9).flash_bytes(shape, workload(works[0], shape), works[0])
    assert slow.seconds - plain.seconds == pytest.approx(moved / 1e9)
    assert slow.dram_bytes - plain.dram_bytes == pytest.approx(moved, abs=1)
    assert slow.bound == "flash"
    (flash,) = (one for one in slow.operations if one.name == "flash")
    assert (flash.label, flash.origin, flash.limited_by) == ("modelled", "expert", "flash")
    assert phase(ExpertCache(32, 1e9)).seconds == plain.seconds


@pytest.mark.parametrize(
    ("slots", "name", "line"),
    [
        (3, "smallthinker-4b", "expert_slots: must be in 4..32"),
        (33, "smallthinker-4b", "expert_slots: must be in 4..32"),
        (8, "llama-3.2-1b", "expert_slots: must be of a model with routed experts"),
    ],
)
def test_places_that_cannot_be(slots: int, name: str, line: str) -> None:
    shape = zoo_entry(name).shape
    assert isinstance(shape, ModelShape)
    with pytest.raises(SpecError, match=line):
        ExpertCache(slots, 1e9).require_room(shape)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_flash_without_a_speed(rate: float) -> None:
    with pytest.raises(SpecError, match="flash_bytes_per_s: must be finite and above 0"):
        ExpertCache(4, rate)
