"""Plays stimuli on a built design and brings back what happened, cycle by cycle.

The bench knows streams and words, but no engine. It can play on any design that has a clock `clk`,
a synchronous reset `rst` and the four streams of `hw.spec.layout.EngineStreams`.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np

from evolute.support.files import replacing
from evolute.verif.harness.simulators import RESULTS_FILE, WAVES_FILE, Build, SimulatorError, launch

SOURCES: tuple[str, ...] = ("command", "activation", "weight")
SINK: str = "result"

STIMULI_FILE, RECORDINGS_FILE = "stimuli.npz", "recordings.npz"


@dataclass(frozen=True)
class Stimulus:
    """The words to play after one reset, uint8 [beats, bytes] per stream.

    `pause_*` hold a boolean per cycle (`verif.harness.streams`). If `reset_after_cycles` is not 0,
    that many cycles are played, then the design is reset in mid-flight and everything is played
    from the start. `probe` says whether to check in every cycle that the result's `valid` does not
    depend on its `ready`. If `set_cycle` is not 0, the sequencer's counts of slices and of tiles
    are set to `slices_before` and `tiles_before` at the start of that cycle.
    """

    command: np.ndarray
    activation: np.ndarray
    weight: np.ndarray
    pause_command: np.ndarray
    pause_activation: np.ndarray
    pause_weight: np.ndarray
    pause_result: np.ndarray
    results: int
    limit_cycles: int
    reset_after_cycles: int = 0
    probe: bool = False
    set_cycle: int = 0
    slices_before: int = 0
    tiles_before: int = 0


@dataclass(frozen=True)
class Recording:
    """What happened: the cycles of all transfers of a stream, under the stream's name, the result
    words uint8 [beats, bytes], and a text for every stream rule that was broken."""

    command: np.ndarray
    activation: np.ndarray
    weight: np.ndarray
    result: np.ndarray
    words: np.ndarray
    violations: np.ndarray

    @property
    def cycles(self) -> int:
        """Cycles up to and including the last result's transfer."""
        return int(self.result[-1]) + 1 if len(self.result) else 0


Record = TypeVar("Record")
"""A dataclass of arrays and numbers."""


def save(path: Path, records: Sequence[Any]) -> None:
    """Write records of arrays to one .npz file."""
    arrays = {}
    for i, record in enumerate(records):
        for field in dataclasses.fields(record):
            arrays[f"{i:06d}.{field.name}"] = np.asarray(getattr(record, field.name))
    np.savez(path, **arrays)


def load(path: Path, kind: type[Record]) -> list[Record]:
    """The records written by `save`."""
    records: dict[str, dict[str, Any]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(".")
            array = arrays[key]
            # Scalars were saved as arrays without dimensions.
            records.setdefault(index, {})[name] = array if array.ndim else array.item()
    return [kind(**fields) for _, fields in sorted(records.items())]


def play(build: Build, stimuli: Sequence[Stimulus], waves: Path | None = None) -> list[Recording]:
    """Play every stimulus on a freshly reset design; see `play_with`."""
    return play_with("evolute.verif.engines.tb_stream_engine", Recording, build, stimuli, waves)


def play_with(
    module: str,
    kind: type[Record],
    build: Build,
    stimuli: Sequence[Any],
    waves: Path | None = None,
) -> list[Record]:
    """Let the bench `module` play every stimulus, all in one run of the simulator; its recordings.

    `waves` takes the waveform, of a build with waves. Raises `SimulatorError` when the simulator
    or the bench itself breaks down.
    """
    with tempfile.TemporaryDirectory(prefix="evolute-bench-") as name:
        folder = Path(name)
        save(folder / STIMULI_FILE, stimuli)
        launch(build, module, folder)
        recordings = folder / RECORDINGS_FILE
        if not recordings.exists():
            failure = ElementTree.parse(folder / RESULTS_FILE).find(".//failure")
            reason = "no recording" if failure is None else failure.get("message")
            raise SimulatorError(f"the bench broke down: {reason}")
        if waves is not None:
            with replacing(waves) as temporary:
                shutil.copyfile(folder / WAVES_FILE, temporary)
        return load(recordings, kind)
