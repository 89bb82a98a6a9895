"""Plays stimuli of an engine on its mapped netlist, all at once, and records as the bench does.

It is written as `verif.harness.streams` and `verif.engines.tb_stream_engine` say what a source, a
sink and a play are, for many stimuli side by side instead of one signal after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evolute.hw.synthesis.gates import Activity, GateSimulation
from evolute.hw.synthesis.liberty import Library
from evolute.hw.synthesis.netlist import Netlist
from evolute.verif.harness.bench import SINK, SOURCES, Recording, Stimulus

_DRAIN_CYCLES = 8
"""Cycles watched after the last result, in which no further one may appear."""


@dataclass(frozen=True)
class Played:
    """What happened on a netlist: a recording per stimulus, and how often its nets changed."""

    recordings: tuple[Recording, ...]
    activity: Activity


def play(
    design: Netlist,
    library: Library,
    stimuli: Sequence[Stimulus],
    rng: np.random.Generator,
    *,
    hold: bool = False,
    count_from: Sequence[int] | None = None,
) -> Played:
    """Play every stimulus in a run of its own.

    While a source offers nothing, its payload is the complement of the last word, or, with `hold`,
    that word, as on most buses. Activity is counted from each run's cycle `count_from`, or from the
    first after reset, up to the run's last result. `rng` draws the registers' values before reset.
    """
    runs = len(stimuli)
    simulation = GateSimulation(design, library, runs, rng)
    sources = [_Sources(design, name, stimuli, hold) for name in SOURCES]
    sink = _Sinks(design, stimuli)
    reset_at = np.array([stimulus.reset_after_cycles or -1 for stimulus in stimuli])
    limit = np.array([stimulus.limit_cycles for stimulus in stimuli])
    first = np.array(count_from if count_from is not None else [0] * runs)
    wanted = np.array([stimulus.results for stimulus in stimuli])
    start = np.zeros(runs, int)  # the cycle of the simulation that is each run's cycle 0
    last = limit.copy()
    for step in range(-1, int((limit + np.maximum(reset_at, 0)).max()) + 2):
        is_reset = np.equal(step, reset_at) | (step < 0)
        cycle = np.where(is_reset, -1, step - start)
        for port in (*sources, sink):
            port.drive(simulation, cycle)
        simulation.drive(design.inputs["rst"], is_reset[:, None])
        simulation.settle()
        active = (cycle >= first) & (cycle <= last) & (sink.counts < wanted)
        simulation.count(active)
        for port in (*sources, sink):
            port.observe(simulation, cycle, (cycle >= 0) & (cycle <= last))
        done = (sink.counts == wanted) & (last == limit) & (cycle >= 0)
        last = np.where(done, np.minimum(limit, cycle + _DRAIN_CYCLES), last)
        simulation.tick()
        start = np.where(is_reset, step + 1, start)
        if ((cycle >= last) & ~is_reset & (step > reset_at)).all():
            break
    recordings = tuple(
        Recording(
            **{
                name: np.array(source.transfers[run], int)
                for name, source in zip(SOURCES, sources, strict=True)
            },
            result=np.array(sink.transfers[run], int),
            words=np.array(sink.words[run], np.uint8).reshape(-1, sink.octets),
            violations=np.array(sink.violations[run], str),
        )
        for run in range(runs)
    )
    return Played(recordings, simulation.activity)


def _paused(stimuli: Sequence[Stimulus], stream: str) -> np.ndarray:
    """Whether a stream's partner pauses, bool [runs, cycles + 1]; the last column is for all later
    cycles."""
    pauses = [np.asarray(getattr(stimulus, f"pause_{stream}"), bool) for stimulus in stimuli]
    whole = np.zeros((len(pauses), max(map(len, pauses)) + 1), bool)
    for run, pause in enumerate(pauses):
        whole[run, : len(pause)] = pause
    return whole


def _at(pattern: np.ndarray, cycle: np.ndarray) -> np.ndarray:
    """The pattern's value for the cycle of each run."""
    inside = np.clip(cycle, 0, pattern.shape[1] - 1)
    return pattern[np.arange(len(cycle)), inside]


class _Sources:
    """One input stream, in all runs."""

    def __init__(self, design: Netlist, name: str, stimuli: Sequence[Stimulus], hold: bool):
        self._payload, self._valid = (
            design.inputs[f"{name}__{part}"] for part in ("payload", "valid")
        )
        self._ready = design.outputs[f"{name}__ready"]
        self._pauses = _paused(stimuli, name)
        self._hold = hold
        words = [getattr(stimulus, name) for stimulus in stimuli]
        self._counts = np.array([len(of_run) for of_run in words])
        octets = -(-len(self._payload) // 8)
        self._beats = np.zeros((len(words), max(1, *self._counts), octets), np.uint8)
        for run, of_run in enumerate(words):
            self._beats[run, : len(of_run)] = of_run
        self._runs = np.arange(len(words))
        self._next = np.zeros(len(words), int)
        self._offering = np.zeros(len(words), bool)
        self._shown = np.full((len(words), octets), 255, np.uint8)
        self.transfers: list[list[int]] = [[] for _ in words]

    def drive(self, simulation: GateSimulation, cycle: np.ndarray) -> None:
        """Set the ports for a cycle, -1 for a reset."""
        is_reset = cycle < 0
        for run in np.flatnonzero(is_reset):
            self.transfers[run] = []
        self._next[is_reset] = 0
        ready = ~self._offering & ~is_reset
        offers = ready & (self._next < self._counts) & ~_at(self._pauses, cycle)
        self._offering = (self._offering & ~is_reset) | offers
        at = np.minimum(self._next, self._beats.shape[1] - 1)
        self._shown[offers] = self._beats[self._runs, at][offers]
        self._shown[is_reset] = 255
        idle = ready & ~offers
        if not self._hold and idle.any():
            before = self._beats[self._runs, np.maximum(self._next - 1, 0)]
            self._shown[idle] = ~before[idle]
        bits = np.unpackbits(self._shown, axis=1, bitorder="little")[:, : len(self._payload)]
        simulation.drive(self._payload, bits.astype(bool))
        simulation.drive(self._valid, (self._offering | is_reset)[:, None])

    def observe(self, simulation: GateSimulation, cycle: np.ndarray, counts: np.ndarray) -> None:
        """Note which runs took their word in a cycle."""
        taken = self._offering & simulation.look(self._ready)[:, 0] & (cycle >= 0)
        for run in np.flatnonzero(taken & counts):
            self.transfers[run].append(int(cycle[run]))
        self._next += taken
        self._offering &= ~taken


class _Sinks:
    """The results' stream, in all runs."""

    def __init__(self, design: Netlist, stimuli: Sequence[Stimulus]):
        self._payload, self._valid = (
            design.outputs[f"{SINK}__{part}"] for part in ("payload", "valid")
        )
        self._ready = design.inputs[f"{SINK}__ready"]
        self._pauses = _paused(stimuli, SINK)
        self.octets = -(-len(self._payload) // 8)
        runs = len(stimuli)
        self.counts = np.zeros(runs, int)
        self._is_ready = np.zeros(runs, bool)
        self._waiting = np.zeros(runs, bool)
        self._offered = np.zeros((runs, self.octets), np.uint8)
        self.transfers: list[list[int]] = [[] for _ in range(runs)]
        self.words: list[list[np.ndarray]] = [[] for _ in range(runs)]
        self.violations: list[list[str]] = [[] for _ in range(runs)]

    def drive(self, simulation: GateSimulation, cycle: np.ndarray) -> None:
        """Set the port for a cycle, -1 for a reset."""
        for run in np.flatnonzero(cycle < 0):
            self.transfers[run], self.words[run] = [], []
        self.counts[cycle < 0] = 0
        self._waiting[cycle < 0] = False
        self._is_ready = ~_at(self._pauses, cycle)
        simulation.drive(self._ready, self._is_ready[:, None])

    def observe(self, simulation: GateSimulation, cycle: np.ndarray, counts: np.ndarray) -> None:
        """Note the words taken in a cycle, and offers withdrawn or changed."""
        valid = simulation.look(self._valid)[:, 0] & (cycle >= 0)
        payload = np.packbits(simulation.look(self._payload), axis=1, bitorder="little")
        for run in np.flatnonzero(self._waiting & counts):
            if not valid[run]:
                what = "valid fell before the beat was taken"
            elif (payload[run] != self._offered[run]).any():
                what = "the payload changed before it was taken"
            else:
                continue
            self.violations[run].append(f"cycle {cycle[run]}: {what}")
        taken = valid & self._is_ready
        for run in np.flatnonzero(taken & counts):
            self.transfers[run].append(int(cycle[run]))
            self.words[run].append(payload[run])
        self.counts += taken & counts
        self._waiting = valid & ~self._is_ready
        self._offered = payload
