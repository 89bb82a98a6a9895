"""The bench inside the simulator for the machine of `hw.spec.lut_stationary`, with its two clocks.

Edges of both clocks are made here, so that those of one time are one event.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import Timer

from evolute.verif.harness.bench import RECORDINGS_FILE, STIMULI_FILE
from evolute.verif.harness.bench import load as load_records
from evolute.verif.harness.bench import save as save_records
from evolute.verif.harness.streams import MemorySource, Sink, Source
from evolute.verif.units.stationary_bench import (
    DRAIN_CYCLES,
    SINKS,
    SOURCES,
    StationaryRecording,
    StationaryStimulus,
)

UNIT_NS = 10
"""What periods are counted in. Within it values settle, an edge comes, and streams are driven."""
RESET_CYCLES = 4
"""Of the slower clock: what crosses between the clocks needs two, and one to be read."""


class StationaryBench:
    """The streams of the device, and the loop that steps both clocks."""

    def __init__(self, dut: Any):
        self._clocks = {"encoder": dut.encoder_clk, "matcher": dut.clk}
        self._resets = (dut.encoder_rst, dut.rst)
        self.gathers = hasattr(dut, "request__valid")
        self.sources: dict[str, Source] = {}
        for name in SOURCES:
            payload, valid, ready = self._ports(dut, name)
            kind = MemorySource if self.gathers and name == "table" else Source
            self.sources[name] = kind(payload, valid, ready, len(payload))
        names = SINKS if self.gathers else ("result",)
        self.sinks = {name: Sink(*self._ports(dut, name)) for name in names}
        self._ready = {name: self._ports(dut, name)[2] for name in names}
        self._valid = {name: self._ports(dut, name)[1] for name in names}
        self._bytes = {name: -(-len(self._ports(dut, name)[0]) // 8) for name in names}
        self._domains = {
            "encoder": [self.sources[name] for name in ("centroid", "activation")],
            "matcher": [self.sources["command"], self.sources["table"], *self.sinks.values()],
        }

    def _ports(self, dut: Any, name: str) -> tuple[Any, Any, Any]:
        payload, valid, ready = (
            getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready")
        )
        return payload, valid, ready

    async def _rise(self, time: int) -> list[str]:
        """Raise the clocks that have an edge at `time`."""
        rising = [name for name, period in self._periods.items() if time % period == 0]
        for name in rising:
            self._clocks[name].value = 1
        await Timer(1, "ns")
        return rising

    async def _rest(self, time: int) -> int:
        """Lower the clocks, and let values settle until the next edge; its time."""
        for clock in self._clocks.values():
            clock.value = 0
        after = min((time // period + 1) * period for period in self._periods.values())
        await Timer(UNIT_NS * (after - time) - 5, "ns")
        return after

    async def reset(self, stimulus: StationaryStimulus) -> None:
        """Hold reset, and load the streams; ends while both clocks rest after their edges before
        cycle 0."""
        self._periods = {"encoder": stimulus.encoder_period, "matcher": stimulus.matcher_period}
        for reset in self._resets:
            reset.value = 1
        for name, source in self.sources.items():
            beats = [int.from_bytes(word, "little") for word in getattr(stimulus, name)]
            source.load(beats, getattr(stimulus, f"pause_{name}").tolist())
        for name, sink in self.sinks.items():
            sink.load(getattr(stimulus, f"pause_{name}").tolist())
        self._tables = [int.from_bytes(word, "little") for word in stimulus.table]
        both = stimulus.encoder_period * stimulus.matcher_period
        last = both * -(-RESET_CYCLES * max(self._periods.values()) // both)
        time = 0
        while time < last:
            await self._rise(time)
            await Timer(4, "ns")
            time = await self._rest(time)
        await self._rise(last)
        for reset in self._resets:
            reset.value = 0

    async def run(self, cycles: int, stimulus: StationaryStimulus) -> None:
        """Step at most `cycles` cycles of the matcher, and no further than the drain; begins right
        after an edge of both clocks."""
        left = DRAIN_CYCLES
        cycle = dict.fromkeys(self._domains, 0)
        rising = list(self._domains)
        time = 0
        while cycle["matcher"] < cycles and left:
            for name in rising:
                for port in self._domains[name]:
                    port.drive(cycle[name])
            await Timer(1, "ns")
            if stimulus.probe and "matcher" in rising:
                await self._probe(cycle["matcher"])
            else:
                await Timer(3, "ns")
            time = await self._rest(time)
            for name in (clock for clock, period in self._periods.items() if time % period == 0):
                for port in self._domains[name]:
                    port.observe(cycle[name])
                if name == "matcher":
                    self._answer(stimulus, cycle[name])
                    left -= len(self.sinks["result"].beats) == stimulus.results
                cycle[name] += 1
            rising = await self._rise(time)

    def _answer(self, stimulus: StationaryStimulus, cycle: int) -> None:
        """The memory takes a request that came: whatever row it names, of those there are."""
        if not self.gathers or self.sinks["request"].transfers[-1:] != [cycle]:
            return
        beats = stimulus.row_beats
        base = int(stimulus.table_first[len(self.sources["command"].transfers) - 1])
        first = (base + self.sinks["request"].beats[-1] * beats) % len(self._tables)
        table = self.sources["table"]
        assert isinstance(table, MemorySource)
        table.answer(cycle + stimulus.memory_latency_cycles, self._tables[first : first + beats])

    async def _probe(self, cycle: int) -> None:
        """Toggle `ready` within the cycle: `valid` must stay as it is."""
        for name, sink in self.sinks.items():
            ready = int(bool(sink.ready))
            seen = [int(self._valid[name].value)]
            self._ready[name].value = 1 - ready
            await Timer(1, "ns")
            seen.append(int(self._valid[name].value))
            self._ready[name].value = ready
            if len(set(seen)) > 1:
                sink.monitor.violations.append(f"cycle {cycle}: {name}'s valid follows ready")
        await Timer(3 - len(self.sinks), "ns")

    async def play(self, stimulus: StationaryStimulus) -> StationaryRecording:
        """Reset, play, and report."""
        violations = []
        try:
            if stimulus.reset_after_cycles:
                await self.reset(stimulus)
                await self.run(stimulus.reset_after_cycles, stimulus)
                violations += [
                    violation for s in self.sinks.values() for violation in s.monitor.violations
                ]
            await self.reset(stimulus)
            await self.run(stimulus.limit_cycles, stimulus)
        except ValueError as error:  # cocotb's, for a value with undefined bits
            violations.append(f"undefined output: {error}")
        violations += [violation for s in self.sinks.values() for violation in s.monitor.violations]
        return StationaryRecording(
            **{name: np.array(source.transfers, int) for name, source in self.sources.items()},
            **{name: self._transfers(name) for name in SINKS},
            **{f"{name}_words": self._words(name) for name in SINKS},
            violations=np.array(violations, str),
        )

    def _transfers(self, name: str) -> np.ndarray:
        return np.array(self.sinks[name].transfers if name in self.sinks else [], int)

    def _words(self, name: str) -> np.ndarray:
        if name not in self.sinks:
            return np.zeros((0, 1), np.uint8)
        size = self._bytes[name]
        words = b"".join(beat.to_bytes(size, "little") for beat in self.sinks[name].beats)
        return np.frombuffer(words, np.uint8).reshape(-1, size)


@cocotb.test()
async def play_stimuli(dut: Any) -> None:
    """Play all stimuli of the folder; what happened is written, not judged, here."""
    dut.clk.value = 0
    dut.encoder_clk.value = 0
    bench = StationaryBench(dut)
    recordings = [
        await bench.play(stimulus)
        for stimulus in load_records(Path(STIMULI_FILE), StationaryStimulus)
    ]
    save_records(Path(RECORDINGS_FILE), recordings)
