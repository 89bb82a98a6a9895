"""Bank conflicts against a loop over beats, banks and lanes."""

import numpy as np
import pytest

from evolute.hw.spec import SpecError, VqCodebook
from evolute.sim.what_if.banks import bank_cycles, beat_indices


@pytest.mark.parametrize("banks", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("broadcast", [False, True])
def test_a_beat_takes_as_long_as_its_busiest_bank(banks: int, broadcast: bool) -> None:
    rng = np.random.default_rng(banks)
    index = rng.integers(0, 16, (50, 9))
    found = bank_cycles(index, banks, broadcast=broadcast)
    for beat, cycles in zip(index.tolist(), found, strict=True):
        asked = set(beat) if broadcast else beat
        loads = [sum(entry % banks == bank for entry in asked) for bank in range(banks)]
        assert cycles == max(loads)


def test_extremes() -> None:
    same = np.full((3, 8), 5)
    assert bank_cycles(same, 4).tolist() == [8, 8, 8]
    assert bank_cycles(same, 4, broadcast=True).tolist() == [1, 1, 1]
    assert bank_cycles(np.arange(8)[None], 8).tolist() == [1]


def test_beats_take_their_lanes_tile_by_tile() -> None:
    spec = VqCodebook(n=8, k=3, v=4)
    index = np.arange(4 * 6).reshape(4, 6)
    beats = beat_indices(spec, index)
    assert beats.shape == (4, spec.lanes)
    assert beats[0].tolist() == [0, 1, 2, 6, 7, 8]
    assert beats[1].tolist() == [3, 4, 5, 9, 10, 11]
    assert beats[2].tolist() == [12, 13, 14, 18, 19, 20]
    with pytest.raises(SpecError, match="index: must be in whole tiles of 2 x 3"):
        beat_indices(spec, index[:3])
