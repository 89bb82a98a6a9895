"""The bench inside the simulator for the lanes of `hw.spec.scaling`, with memories that answer a
cycle later."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from evolute.verif.harness.bench import RECORDINGS_FILE, STIMULI_FILE
from evolute.verif.harness.bench import load as load_records
from evolute.verif.harness.bench import save as save_records
from evolute.verif.harness.streams import Source
from evolute.verif.units.scaling_bench import ScalingRecording, ScalingStimulus

PERIOD_NS = 10


class ScalingBench:
    """The ports of the device, and the loop that steps them."""

    def __init__(self, dut: Any):
        self._dut = dut
        self._edge = RisingEdge(dut.clk)
        result = (dut.result__payload, dut.result__valid, dut.result__ready)
        self._source = Source(*result, len(dut.result__payload))
        self._has_scales = hasattr(dut, "scales")
        self._bytes = -(-len(dut.data) // 8)

    async def reset(self, stimulus: ScalingStimulus) -> None:
        """Hold reset for a cycle and load the stream. Returns at the clock edge before cycle 0."""
        dut = self._dut
        dut.rst.value = 1
        beats = [int.from_bytes(word, "little") for word in stimulus.result]
        self._source.load(beats, stimulus.pause_result.tolist())
        dut.shift.value = stimulus.shift
        dut.tag.value = 0
        await self._edge
        dut.rst.value = 0

    async def run(self, cycles: int, stimulus: ScalingStimulus) -> dict[str, list[Any]]:
        """Step `cycles` cycles. Returns what was seen, in lists by name: cycles, and the places,
        tags and words that came with them."""
        dut, rng = self._dut, random.Random(stimulus.seed)
        scales = [int.from_bytes(word, "little") for word in stimulus.scales]
        starts, looks = stimulus.starts.tolist(), stimulus.looks.tolist()
        sums = [rng.getrandbits(len(dut.data)) for _ in range(stimulus.steps)]
        seen: dict[str, list[Any]] = {
            name: []
            for name in ("look", "read", "write", "places", "read_tags", "write_tags", "words")
        }
        looked, value = None, None
        for cycle in range(cycles):
            self._source.drive(cycle)
            before = len(self._source.transfers)
            tag = before > 0 and starts[before - 1]
            dut.tag.value = int(tag) ^ int(not (cycle < len(looks) and looks[cycle]))
            if self._has_scales:
                dut.scales.value = rng.getrandbits(len(dut.scales)) if looked is None else looked
            dut.value.value = rng.getrandbits(len(dut.data)) if value is None else value
            await self._edge
            looked, value = None, None
            if int(dut.look.value):
                place = [int(getattr(dut, name).value) for name in ("step", "chunk", "last")]
                at = (before - 1) * stimulus.chunks + place[1]
                looked = scales[at] if 0 <= at < len(scales) else 0
                seen["look"].append(cycle)
                seen["places"].append(place)
            if int(dut.write.value):
                word = int(dut.data.value)
                sums[len(seen["write"]) % stimulus.steps] = word
                seen["write"].append(cycle)
                seen["write_tags"].append(int(dut.write_tag.value))
                seen["words"].append(word)
            if int(dut.read.value):
                value = sums[len(seen["read"]) % stimulus.steps]
                seen["read"].append(cycle)
                seen["read_tags"].append(int(dut.read_tag.value))
            taken = int(dut.taken.value)
            self._source.observe(cycle)
            if taken != len(self._source.transfers) - before:
                raise ValueError(f"cycle {cycle}: taken is {taken}, which the stream is not")
        return seen

    async def play(self, stimulus: ScalingStimulus) -> ScalingRecording:
        """Reset the device, play the stimulus, and return what happened."""
        violations = []
        seen: dict[str, list[Any]] = {}
        try:
            if stimulus.reset_after_cycles:
                await self.reset(stimulus)
                await self.run(stimulus.reset_after_cycles, stimulus)
            await self.reset(stimulus)
            seen = await self.run(stimulus.cycles, stimulus)
        except ValueError as error:  # also cocotb's, for a value with undefined bits
            violations.append(str(error))
        words = b"".join(word.to_bytes(self._bytes, "little") for word in seen.get("words", []))
        numbers = {
            name: np.array(seen.get(name, []), int)
            for name in ("look", "read", "write", "read_tags", "write_tags")
        }
        return ScalingRecording(
            **numbers,
            result=np.array(self._source.transfers, int),
            places=np.array(seen.get("places", []), int).reshape(-1, 3),
            words=np.frombuffer(words, np.uint8).reshape(-1, self._bytes),
            violations=np.array(violations, str),
        )


@cocotb.test()
async def play_stimuli(dut: Any) -> None:
    """Play all stimuli of the folder and write the recordings, which are compared elsewhere."""
    Clock(dut.clk, PERIOD_NS, "ns").start()
    bench = ScalingBench(dut)
    recordings = [
        await bench.play(stimulus) for stimulus in load_records(Path(STIMULI_FILE), ScalingStimulus)
    ]
    save_records(Path(RECORDINGS_FILE), recordings)
