"""What the bench of `hw.spec.scaling` plays and records; shared with the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stimulus:
    """What to play after one reset, in words of uint8 [beats, bytes].

    `scales` has `chunks` words for each word of `result`, of which `starts` says which begin sums
    at 0; each has `steps` words of sums. `looks` says in which cycles scales are to be looked up:
    in others the tag means nothing. `seed` draws what memories give that were not asked.
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
class Recording:
    """What happened: the cycles of results, of looking scales up, with step, chunk and whether it
    was the last (`places`), of looking sums up and of writing them, with their tags, and the sums
    that were written."""

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
