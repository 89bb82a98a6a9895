"""Whole programs: what a token of SmolLM2-135M costs to price, and one layer to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.timing import median_seconds, report
from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import Instruction, Unit, instruction
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, CoreSpec
from evolute.hw.spec.presets import CORES
from evolute.sim.golden.core import execute
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming

PRESET = "core-decode"

# (N, K, count) with 4-bit weights in groups of 32; gate and up are one.
DOWN = (576, 1536, 30)
LAYERS = [(576, 576, 60), (192, 576, 60), (3072, 576, 30), DOWN, (49152, 576, 1)]
PLANES, GROUP = 4, 32


def decode(core: CoreSpec, layers: Sequence[tuple[int, int, int]]) -> Iterator[Instruction]:
    """One row through every layer, each tile of columns in the other half of buffers and sums."""
    load, compute, store = Unit.LOAD, Unit.COMPUTE, Unit.STORE
    weights, activations, scales = core.buffers
    per_group = GROUP // core.engine.slice_k
    tile = memory = 0

    def fetch(
        buffer: int,
        address: int,
        words: int,
        wait: Sequence[Unit] = (),
        signal: Sequence[Unit] = (),
    ) -> Instruction:
        nonlocal memory
        start, memory = memory, memory + words * core.bus_bytes
        values = {"buffer": buffer, "address": address, "words": words, "memory": start}
        return instruction("load", wait=wait, signal=signal, **values)

    shapes = [(n, k) for n, k, count in layers for _ in range(count)]
    for number, (n, k) in enumerate(shapes):
        slices = k // core.engine.slice_k
        x = number % 2 * activations.bus_words // 2
        yield fetch(1, x, activations.words(slices))
        for _ in range(n // core.engine.n):
            half = tile % 2
            free, stored = ([compute], [store]) if tile >= 2 else ([], [])
            weight, scale = half * weights.bus_words // 2, half * scales.bus_words // 2
            scale_beats = slices // per_group * core.engine.n // core.scale_lanes
            yield fetch(2, scale, scales.words(scale_beats), wait=free)
            yield fetch(0, weight, weights.words(slices * PLANES), signal=[compute])
            yield instruction(
                "matmul",
                weight=weight,
                activation=x,
                scale=scale,
                accumulator=half * core.bank_words,
                slices=slices,
                row_tiles=1,
                group_slices=per_group,
                planes=PLANES,
                mode=0,
                accumulate=0,
                offset_shift=0,
                wait=[load, *stored],
                signal=[load, store],
            )
            yield instruction(
                "store",
                accumulator=half * core.bank_words,
                words=core.tile_store_words,
                memory=0,
                wait=[compute],
                signal=[compute],
            )
            tile += 1
    yield instruction("halt")


def main() -> None:
    core = CORES[PRESET]
    assert isinstance(core, CoreSpec)
    token, timing = list(decode(core, LAYERS)), MemoryTiming()
    refreshing = MemoryTiming(refresh_interval_cycles=1560, refresh_cycles=60)
    found = program_cycles(core, token, timing)
    token_s = median_seconds(lambda: program_cycles(core, token, timing), 3)
    refresh_s = median_seconds(lambda: program_cycles(core, token, refreshing), 3)

    down = list(decode(core, [(*DOWN[:2], 1)]))
    code = np.frombuffer(isa.to_bytes(down), np.uint8)
    memory = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    address = (len(memory) - len(code)) // MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES
    memory[address : address + len(code)] = code
    layer_s = median_seconds(lambda: execute(core, memory, address, len(down)), 3)
    report(
        {
            "token_s": token_s,
            "refresh_token_s": refresh_s,
            "instructions_per_s": len(token) / token_s,
            "cycles_per_s": found.cycles / token_s,
            "layer_ms": 1e3 * layer_s,
        },
        {
            "token_s": f"price {len(token)} instructions, {found.cycles} cycles of {PRESET}",
            "refresh_token_s": "the same with a memory that refreshes",
            "instructions_per_s": "instructions priced",
            "cycles_per_s": "cycles priced; RTL simulation is in benchmarks.rtl",
            "layer_ms": "compute 576 x 1536, golden",
        },
    )


if __name__ == "__main__":
    main()
