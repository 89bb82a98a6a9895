"""Whole programs: what it takes to price a model's tokens on a core, compiling included, and to
compute a layer.

Every time is CPU time, after one run that is not counted: in it the native helper is built or
loaded. The model is new in each run, so that nothing is kept from one to the next.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import median_seconds, report
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.core import PricedProgram, priced_phases
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.golden.core import execute
from evolute.sim.program.build import Program, compile_stages
from evolute.sim.program.placement import placed, stages_of
from evolute.sim.timing.core import Machine, program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload

BITS = 4
"""Of every weight."""


@dataclass(frozen=True)
class Point:
    """A model on a core: a prompt and one token after it. Layers are [N, K]."""

    core: str
    blocks: int
    inputs: tuple[tuple[str, ...], ...]
    """Layers of a block, those together that share an input."""
    layers: dict[str, tuple[int, int]]
    head: tuple[int, int]
    group: int
    prompt_tokens: int
    limit_ms: float
    """CPU time that it may take at most where the memory does not refresh."""

    @property
    def spec(self) -> CoreSpec:
        return CORES[self.core]

    def workload(self, blocks: int | None = None) -> Workload:
        """The whole model; or, if `blocks` is given, that number of its blocks without the output
        head."""

        def linear(name: LayerName, n: int, k: int, last_token_only: bool = False) -> Linear:
            codes = WeightCodes(BITS)
            return Linear(name, n, k, codes, self.group, 16, last_token_only=last_token_only)

        linears = [
            linear(LayerName(block, role), *self.layers[role])
            for block in range(self.blocks if blocks is None else blocks)
            for roles in self.inputs
            for role in roles
        ]
        if blocks is None:
            linears.append(linear(HEAD, *self.head, last_token_only=True))
        return Workload("model", "weights", tuple(linears), (), self.inputs)

    def price(self, *, refresh: bool = False) -> None:
        platform = Platform(refresh=refresh)
        evaluate(self.spec, self.workload(), platform, self.prompt_tokens, 1)

    def block(self) -> Program:
        """The program of a token through one block."""
        core = self.spec
        (layers, _) = self.workload(1).blocks
        stages = placed(core, stages_of(core, layers))
        return compile_stages(core, stages, 1, stages[-1].end)


# Published shapes, and what the layers of a block are stored together as.
POINTS = {
    "smollm2": Point(
        core="core-decode",
        blocks=30,
        inputs=(("q", "k", "v"), ("o",), ("gate", "up"), ("down",)),
        layers={
            "q": (576, 576),
            "k": (192, 576),
            "v": (192, 576),
            "o": (576, 576),
            "gate": (1536, 576),
            "up": (1536, 576),
            "down": (576, 1536),
        },
        head=(49152, 576),
        group=32,
        prompt_tokens=128,
        limit_ms=40,
    ),
    "phi3": Point(
        core="core-prefill",
        blocks=32,
        inputs=(("qkv",), ("o",), ("gate_up",), ("down",)),
        layers={
            "qkv": (9216, 3072),
            "o": (3072, 3072),
            "gate_up": (16384, 3072),
            "down": (3072, 8192),
        },
        head=(32064, 3072),
        group=128,
        prompt_tokens=512,
        limit_ms=150,
    ),
}


def point_ms(name: str, *, refresh: bool = False) -> float:
    """CPU milliseconds of one of `POINTS`."""
    price = POINTS[name].price
    return 1e3 * median_seconds(lambda: price(refresh=refresh), 5, clock=time.process_time)


def rate(programs: list[PricedProgram], milliseconds: float) -> tuple[float, float]:
    """Instructions and cycles of programs that are priced per second."""
    instructions = sum(len(each.program.instructions) for each in programs)
    cycles = sum(each.cycles.cycles for each in programs)
    return instructions / milliseconds * 1e3, cycles / milliseconds * 1e3


def main() -> None:
    figures: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, point in POINTS.items():
        what = f"{name} on {point.core}, {point.prompt_tokens} + 1 tokens"
        start = time.process_time()
        point.price()
        figures[f"{name}_first_ms"] = 1e3 * (time.process_time() - start)
        notes[f"{name}_first_ms"] = f"{what}: CPU time of the first run, with what it loads"
        figures[f"{name}_ms"] = point_ms(name)
        notes[f"{name}_ms"] = f"{what}: CPU time of compiling and walking, no refresh"
        figures[f"{name}_of_limit"] = figures[f"{name}_ms"] / point.limit_ms
        notes[f"{name}_of_limit"] = f"the same as a ratio to {point.limit_ms} ms"
        figures[f"{name}_refresh_ms"] = point_ms(name, refresh=True)
        notes[f"{name}_refresh_ms"] = "the same with a memory that refreshes"
        phases = priced_phases(point.spec, point.workload(), Platform(), point.prompt_tokens, 1)
        programs = [each for phase in phases for each in phase.programs]
        instructions, cycles = rate(programs, figures[f"{name}_ms"])
        figures |= {f"{name}_instructions_per_s": instructions, f"{name}_cycles_per_s": cycles}
        notes[f"{name}_instructions_per_s"] = "instructions compiled and walked"
        notes[f"{name}_cycles_per_s"] = "cycles priced; RTL simulation is in benchmarks.rtl"

        # The reference in Python walks a block of a token, and has to say the same.
        block, timing, core = point.block(), MemoryTiming(), point.spec
        arguments = core, block.instructions, timing

        def compiled(arguments=arguments, address=block.address):
            return program_cycles(*arguments, address)

        def in_python(arguments=arguments):
            return Machine(*arguments, None).run()

        assert compiled() == in_python(), "the compiled walk differs from the one in Python"
        found = {
            walk.__name__: 1e3 * median_seconds(walk, 3, clock=time.process_time)
            for walk in (compiled, in_python)
        }
        figures[f"{name}_block_ms"] = found["compiled"]
        notes[f"{name}_block_ms"] = "a token through one block: check and walk of its program"
        figures[f"{name}_block_python_ms"] = found["in_python"]
        notes[f"{name}_block_python_ms"] = "the same program walked in Python, with equal results"

    point = POINTS["smollm2"]
    down = Linear(LayerName(None, "down"), *point.layers["down"], WeightCodes(BITS), 32, 16)
    stages = placed(point.spec, [(down,)])
    program = compile_stages(point.spec, stages, 1, stages[-1].end)
    memory = np.random.default_rng(0).integers(0, 256, program.end, np.uint8)
    code = np.frombuffer(program.code, np.uint8)
    memory[program.address : program.address + len(code)] = code
    count = len(program.instructions)
    figures["layer_ms"] = 1e3 * median_seconds(
        lambda: execute(point.spec, memory, program.address, count), 3, clock=time.process_time
    )
    notes["layer_ms"] = "compute 576 x 1536, golden"
    report(figures, notes)


if __name__ == "__main__":
    main()
