"""What the bench of `hw.spec.lut_stationary` plays and records; shared with the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SOURCES = ("command", "centroid", "activation", "table")
SINKS = ("result", "request")

DRAIN_CYCLES = 8
"""Cycles watched after the last result, in which no further one may appear."""


@dataclass(frozen=True)
class StationaryStimulus:
    """What to play after one reset, in words of uint8 [beats, bytes]; see
    `verif.harness.bench.Stimulus`.

    Of a gather `table` is what its memory holds, `row_beats` beats a row and each command's tables
    from beat `table_first`, and what it answers `memory_latency_cycles` after a request; else it is
    what the stream carries. Periods are in one unit.
    """

    command: np.ndarray
    centroid: np.ndarray
    activation: np.ndarray
    table: np.ndarray
    table_first: np.ndarray
    pause_command: np.ndarray
    pause_centroid: np.ndarray
    pause_activation: np.ndarray
    pause_table: np.ndarray
    pause_result: np.ndarray
    pause_request: np.ndarray
    encoder_period: int
    matcher_period: int
    row_beats: int
    memory_latency_cycles: int
    results: int
    limit_cycles: int
    reset_after_cycles: int = 0
    probe: bool = False


@dataclass(frozen=True)
class StationaryRecording:
    """What happened: the cycle of every transfer, the words that came, the broken stream rules."""

    command: np.ndarray
    centroid: np.ndarray
    activation: np.ndarray
    table: np.ndarray
    result: np.ndarray
    request: np.ndarray
    result_words: np.ndarray
    request_words: np.ndarray
    violations: np.ndarray

    @property
    def cycles(self) -> int:
        """The matcher's cycles up to and including the last result's transfer."""
        return int(self.result[-1]) + 1 if len(self.result) else 0
