"""The bench inside the simulator: plays its folder's stimuli on an engine with four streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from evolute.verif.harness.bench import RECORDINGS_FILE, SOURCES, STIMULI_FILE, Recording, Stimulus
from evolute.verif.harness.bench import load as load_records
from evolute.verif.harness.bench import save as save_records
from evolute.verif.harness.streams import Sink, Source

PERIOD_NS = 10
RESET_CYCLES = 1
"""One is enough."""

DRAIN_CYCLES = 8
"""Cycles watched after the last result, in which no further one may appear."""


class StreamBench:
    """The streams of the device, and the loop that steps them."""

    def __init__(self, dut: Any):
        self._clock_edge = RisingEdge(dut.clk)
        self._rst = dut.rst
        self._result_valid, self._result_ready = dut.result__valid, dut.result__ready
        self.sources = {}
        for name in SOURCES:
            payload, valid, ready = (
                getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready")
            )
            self.sources[name] = Source(payload, valid, ready, len(payload))
        self._result_bytes = -(-len(dut.result__payload) // 8)
        self.sink = Sink(dut.result__payload, dut.result__valid, dut.result__ready)
        self._dut = dut

    def _set(self, name: str, value: int) -> None:
        """Set a count of the sequencer, in a design that is flat or not."""
        if hasattr(self._dut, "sequencer"):
            self._dut.sequencer[name].value = value
        else:
            self._dut[f"\\sequencer.{name} "].value = value

    async def reset(self, stimulus: Stimulus) -> None:
        """Hold reset, and load the streams; ends at the edge before cycle 0."""
        self._rst.value = 1
        for name, source in self.sources.items():
            beats = [int.from_bytes(word, "little") for word in getattr(stimulus, name)]
            source.load(beats, getattr(stimulus, f"pause_{name}").tolist())
        self.sink.load(stimulus.pause_result.tolist())
        for _ in range(RESET_CYCLES):
            await self._clock_edge
        self._rst.value = 0

    async def run(self, cycles: int, stimulus: Stimulus) -> None:
        """Step at most `cycles` cycles, and no further than the drain after its results."""
        ports = [*self.sources.values(), self.sink]
        last = cycles
        for cycle in range(cycles):
            for port in ports:
                port.drive(cycle)
            if cycle == stimulus.set_cycle > 0:
                self._set("slices", stimulus.slices_before)
                self._set("tiles", stimulus.tiles_before)
            if stimulus.probe:
                await self._probe(cycle)
            await self._clock_edge
            for port in ports:
                port.observe(cycle)
            if last == cycles and len(self.sink.beats) == stimulus.results:
                last = cycle + DRAIN_CYCLES
            if cycle == last:
                return

    async def _probe(self, cycle: int) -> None:
        """Toggle `ready` within the cycle: `valid` must stay as it is."""
        ready = int(bool(self.sink.ready))
        seen = []
        for level in (1 - ready, ready):
            await Timer(1, "ns")
            seen.append(int(self._result_valid.value))
            self._result_ready.value = level
        await Timer(1, "ns")
        seen.append(int(self._result_valid.value))
        if len(set(seen)) > 1:
            self.sink.monitor.violations.append(f"cycle {cycle}: valid follows ready")

    async def play(self, stimulus: Stimulus) -> Recording:
        """Reset, play, and report."""
        violations = []
        try:
            if stimulus.reset_after_cycles:
                await self.reset(stimulus)
                await self.run(stimulus.reset_after_cycles, stimulus)
                violations += self.sink.monitor.violations
            await self.reset(stimulus)
            await self.run(stimulus.limit_cycles, stimulus)
        except ValueError as error:  # cocotb's, for a value with undefined bits
            violations.append(f"undefined output: {error}")
        violations += self.sink.monitor.violations
        words = b"".join(beat.to_bytes(self._result_bytes, "little") for beat in self.sink.beats)
        return Recording(
            **{name: np.array(source.transfers, int) for name, source in self.sources.items()},
            result=np.array(self.sink.transfers, int),
            words=np.frombuffer(words, np.uint8).reshape(-1, self._result_bytes),
            violations=np.array(violations, str),
        )


@cocotb.test()
async def play_stimuli(dut: Any) -> None:
    """Play all stimuli of the folder; what happened is written, not judged, here."""
    Clock(dut.clk, PERIOD_NS, "ns").start()
    bench = StreamBench(dut)
    recordings = [
        await bench.play(stimulus) for stimulus in load_records(Path(STIMULI_FILE), Stimulus)
    ]
    save_records(Path(RECORDINGS_FILE), recordings)
