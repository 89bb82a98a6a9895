"""Programs that leave blocks of zeros out, on RTL: the same bits, and the cycles of the model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.presets import CORES
from evolute.verif.core.bench import Bench
from evolute.verif.core.kinds import check_compiled
from evolute.verif.core.session import build

NARROW = CORES["core-fpga"].evolve(activation_buffer_bytes=256)
"""Rows of inputs that are longer than the buffer are loaded part by part, for every tile."""


@pytest.mark.parametrize(
    "core",
    [
        CORES["core-fpga"],
        CORES["core-mac"],
        pytest.param(NARROW, marks=pytest.mark.slow),
        pytest.param(CORES["core-decode"], marks=pytest.mark.slow),
        pytest.param(CORES["core-prefill"], marks=pytest.mark.slow),
        pytest.param(CORES["core-skip"], marks=pytest.mark.slow),
    ],
    ids=lambda core: f"{type(core.engine).__name__}-{core.digest}",
)
def test_blocks_of_zeros_are_left_out_on_rtl(core: CoreSpec) -> None:
    """Random layers: scales of whole blocks are 0, their codes anything."""
    bench = Bench(core, build(core), 1, None)
    check_compiled(bench, np.random.default_rng(7), skips=True)
    check_compiled(bench, np.random.default_rng(8), skips=True)
    assert bench.tally.differences == []
    assert bench.tally.coverage["blocks left out"] > 10
    assert bench.tally.coverage["compiled stages"] >= 8
    assert bench.tally.rtl_cycles == bench.tally.model_cycles > 0


def test_a_wrong_skip_list_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the check: a list that leaves out one block more gives other sums."""
    from evolute.verif.core import kinds

    whole = kinds.skip_list

    def short(*arguments: object) -> object:
        found = whole(*arguments)
        kept = tuple(tile[:-1] or tile for tile in found.kept)
        return dataclasses.replace(found, kept=kept)

    monkeypatch.setattr(kinds, "skip_list", short)
    core = CORES["core-fpga"]
    bench = Bench(core, build(core), 1, None)
    check_compiled(bench, np.random.default_rng(7), skips=True)
    assert any("layer" in difference for difference in bench.tally.differences)
