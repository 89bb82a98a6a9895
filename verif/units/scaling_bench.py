"""What the bench of `hw.spec.scaling` plays and records; shared with the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScalingStimulus:
    """The words to play after one reset, uint8 [beats, bytes].

    Every word of `result` has `chunks` words of `scales` and `steps` words of sums; `starts` says
    whether its sums begin at 0. `looks` says whether scales are to be looked up in a cycle; in
    other cycles the tag means nothing. `seed` draws the words that memories give when they were not
    asked.
    """

    result: np.ndarray
    scales: np.ndarray
    starts: np.ndarray
    looks: np.ndarray
    pause_result: np.ndarray
    chunks: int
    steps: int
    shift: int
    cycles: int
    seed: int
    reset_after_cycles: int = 0


@dataclass(frozen=True)
class ScalingRecording:
    """What happened: the cycles in which results were taken (`result`), scales were looked up
    (`look`), sums were looked up (`read`) and written (`write`); for every lookup of scales the
    step, the chunk and whether it was the last (`places`); the tags of reads and writes; and the
    words of sums that were written."""

    result: np.ndarray
    look: np.ndarray
    read: np.ndarray
    write: np.ndarray
    places: np.ndarray
    read_tags: np.ndarray
    write_tags: np.ndarray
    words: np.ndarray
    violations: np.ndarray

    @property
    def cycles(self) -> int:
        """Cycles up to and including the last write."""
        return int(self.write[-1]) + 1 if len(self.write) else 0
