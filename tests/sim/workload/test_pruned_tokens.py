"""Layers that see fewer tokens against the same layers of a model asked for as many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.operations import (
    Attend,
    CacheFormat,
    Operation,
    Pass,
    cache_bytes,
    operations,
)
from evolute.sim.workload.pruned_tokens import TokenSchedule
from evolute.sim.workload.shape import KeptTokens, ModelShape
from evolute.sim.workload.zoo import zoo_entry

INT8 = CacheFormat("int8", 8, 16)
SCHEDULE = TokenSchedule(((0.25, 4), (0.6, 9)))


def shape(name: str = "llama-3.2-1b") -> ModelShape:
    found = zoo_entry(name).shape
    assert isinstance(found, ModelShape)
    return found


def of_block(found: tuple[Operation, ...], number: int) -> list[Operation]:
    return [one for one in found if one.name.block == number]


@given(rows=st.integers(1, 300), batch=st.integers(1, 3))
def test_a_layer_of_a_prompt_has_the_operations_of_a_shorter_prompt(rows: int, batch: int) -> None:
    whole = shape()
    found = operations(SCHEDULE.of(whole, rows), Pass(rows, batch=batch), INT8)
    for number in range(16):
        share = 0 if number < 4 else 0.25 if number < 9 else 0.6
        left = rows - int(share * rows + 1e-9)
        wanted = operations(whole, Pass(left, batch=batch), INT8)
        assert of_block(found, number) == of_block(wanted, number)
    outside = [one for one in found if one.name.block is None]
    assert outside == [
        one for one in operations(whole, Pass(rows, batch=batch), INT8) if one.name.block is None
    ]


@given(prompt=st.integers(1, 200), later=st.integers(0, 50))
def test_later_tokens_stay_in_the_cache(prompt: int, later: int) -> None:
    pruned = SCHEDULE.of(shape(), prompt)
    found = operations(pruned, Pass(1, prompt + later), INT8)
    held = 0
    for number in range(16):
        share = 0 if number < 4 else 0.25 if number < 9 else 0.6
        left = prompt - int(share * prompt + 1e-9) + later
        (attend,) = (one for one in of_block(found, number) if isinstance(one, Attend))
        assert (attend.rows, attend.cached) == (1, left)
        held += cache_bytes(shape(), left, INT8) // 16
    assert cache_bytes(pruned, prompt + later, INT8) == held


def test_windows_and_experts_see_fewer_tokens_too() -> None:
    for name in ("gemma-3-1b", "smallthinker-4b"):
        whole = shape(name)
        schedule = TokenSchedule(((0.5, 3),))
        found = operations(schedule.of(whole, 900), Pass(900), INT8)
        for number, left in ((2, 900), (3, 450), (whole.layers - 1, 450)):
            assert of_block(found, number) == of_block(operations(whole, Pass(left), INT8), number)


def test_a_token_is_always_left() -> None:
    assert KeptTokens(share=0.99).of(1) == 1
    assert KeptTokens(share=0.5, prompt=4).of(10) == 8
    assert KeptTokens(share=0.5).of(10) == 5


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (((0.5, 0),), "layer: must be at least 1"),
        (((1.0, 3),), "share: must be at least 0 and below 1"),
        (((0.5, 3), (0.4, 5)), "share: must be above 0.5, that of layer 3, got 0.4"),
        (((0.5, 3), (0.6, 3)), "layer: must be later than 3, got 3"),
    ],
)
def test_schedules_that_are_none(steps: tuple[tuple[float, int], ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TokenSchedule(steps)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match=r"layer: must be in 1\.\.15, got 16"):
        TokenSchedule(((0.5, 16),)).of(shape(), None)
