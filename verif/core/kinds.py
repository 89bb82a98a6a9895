"""All kinds of checks of a core: its RTL is compared with the golden model, word by word of memory,
and with the cycle model.

Everything runs on the Verilated core of `verif.core.session`, whose bus monitor is always on.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import Engine
from evolute.hw.spec.core import CoreSpec
from evolute.sim.golden.align import integers
from evolute.sim.program.build import compile_stages
from evolute.sim.program.placement import PlaceError, stage
from evolute.sim.timing.core import BeatSteps, program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.workload.linear import LayerName, Linear
from evolute.sw.deploy.on_core import golden_result
from evolute.sw.deploy.pack import images, layer_steps, pack_input, unpack_results
from evolute.sw.tensors.pruning import skip_list
from evolute.sw.tensors.rescale import ScaledTensor, golden_weights
from evolute.verif.core import session as core_session
from evolute.verif.core.bench import (
    MEMORY_BYTES,
    MOST_DIFFERENCES,
    Bench,
    BenchProgram,
    Enough,
    put,
    random_rate,
    run,
    timings,
)
from evolute.verif.core.faults import check_faults, check_tokens, check_words
from evolute.verif.core.registers import check_counts, check_late, check_registers
from evolute.verif.core.sweep import check_orders
from evolute.verif.harness.differences import SUMS, wrong_values
from evolute.verif.harness.driver import random_weights
from evolute.verif.harness.simulators import SimulatorError
from evolute.verif.harness.vectors import MatmulShape, random_activations, random_exponents
from evolute.verif.harness.verify import Report

SIMULATOR = "verilator"
"""The one simulator that runs whole cores."""


def check_programs(bench: Bench, rng: np.random.Generator) -> None:
    """Random programs at both ends of the address space, with memories of exact and of random
    timing."""
    top = (1 << bench.core.address_bits) - MEMORY_BYTES
    memories = list(timings(bench.core).items())
    for base in (0, top):
        with bench.session(base) as session:
            for i in range(16):
                program = bench.random_program(rng, base, length=500 if i == 0 else None)
                expected = program.expected()
                for j in range(3):
                    name, timing = memories[(3 * i + j) % len(memories)]
                    bench.tally.coverage[name] += 1
                    bench.play(session, f"program {i} {name}", program, expected, timing)
                timing = random_rate(bench.core, rng)
                bench.tally.coverage["random rate"] += 1
                name = f"program {i} at {timing.bytes_per_cycle} bytes per cycle"
                bench.play(session, name, program, expected, timing)
                bench.tally.coverage["random time"] += 1
                bench.play(session, f"program {i} random", program, expected, i)


def check_long(bench: Bench, rng: np.random.Generator) -> None:
    """Long programs with long loops. They, or their data, lie across boundaries of memory: 64 KiB,
    1 MiB, and half the address space, where every bit of an address changes."""
    middle = 1 << bench.core.address_bits - 1
    timing = MemoryTiming(20, bench.core.bus_bytes)
    for boundary in dict.fromkeys((1 << 20, -(1 << 20), middle, -middle)):
        if abs(boundary) < MEMORY_BYTES:
            continue
        program = bench.long_program(rng, 1100 if abs(boundary) == middle else 60, boundary)
        expected = program.expected()
        with bench.session(program.base) as session:
            bench.play(session, f"long across {boundary:#x}", program, expected, timing)
            bench.play(session, f"long across {boundary:#x} random", program, expected, 1)
        bench.tally.coverage["long loops"] += 1
        if len(program.instructions) > 1024:
            bench.tally.coverage["more than 1,024 instructions"] += 1


def check_compiled(bench: Bench, rng: np.random.Generator, *, skips: bool = False) -> None:
    """Random layers, compiled, in one program of several stages with a host between them; or
    layers with blocks of zeros, which programs leave out (`skips`), on an engine with a code for
    every weight."""
    core = bench.core
    memories = list(timings(core).values())
    for i in range(6):
        rows = int(rng.integers(1, 3 * core.engine.m + 2)) if i else 1
        try:
            program, stage_results, steps = _compiled(bench, rng, rows, skips=skips)
        except PlaceError:  # a core too small for this layer
            bench.tally.coverage["refused by the compiler"] += 1
            continue
        expected = program.expected()
        case = f"compiled {i}"
        for index, measured in (expected.beat_steps or {}).items():
            predicted = [] if steps is None else steps[index].tolist()
            bench.check(case, f"steps of matmul {index}", measured.tolist(), predicted)
            bench.tally.coverage["steps of weights"] += 1
        with bench.session(waves=None if i else bench.waves) as session:
            bench.play(session, case, program, expected, memories[i % len(memories)])
            _compare_results(bench, case, stage_results, session.memory)
            bench.play(session, f"{case} random", program, expected, i)
        bench.tally.coverage["compiled stages"] += len(stage_results)


def _random_layer(
    core: CoreSpec, rng: np.random.Generator, name: LayerName, k: int, group: int
) -> tuple[Linear, ScaledTensor]:
    """A layer of random codes, scales and offsets; their sums are small enough for the core."""
    engine = core.engine
    codes = engine.formats[rng.integers(len(engine.formats))]
    n, groups = int(rng.integers(1, 3 * engine.n)), -(-k // group)
    half = 1 << core.offset_bits - 1
    tensor = ScaledTensor(
        coding=engine.coding_of(codes),
        scale=rng.integers(0, 1 << core.scale_bits, (n, groups)).astype(np.uint16),
        offset=rng.integers(1 - half, half, (n, groups)).astype(np.int16),
        offset_shift=int(rng.integers(16)),
        unit=np.ones(n, np.float32),
        form=random_weights(engine, codes, MatmulShape(1, n, k, group), rng),
    )
    while tensor.offset_shift and tensor.largest_sum(engine.activations) >> core.sum_bits - 1:
        tensor = replace(tensor, offset_shift=tensor.offset_shift - 1)
    if tensor.largest_sum(engine.activations) >> core.sum_bits - 1:
        tensor = replace(tensor, scale=tensor.scale & 1, offset=tensor.offset & 0)
    return Linear(name, n, k, codes, group, group_bits=0), tensor


@dataclass(frozen=True)
class _StageResults:
    """The results that a stage must leave in memory, by layer, and the function that reads them
    there."""

    results: Callable[[NDArray[np.uint8]], dict[LayerName, NDArray[np.int64]]]
    sums: dict[LayerName, NDArray]


def _without_blocks(
    bench: Bench, rng: np.random.Generator, linear: Linear, tensor: ScaledTensor
) -> tuple[Linear, ScaledTensor]:
    """The layer with the scales of some blocks of a scale group in some column tiles zero, whatever
    their codes, and the list of these blocks."""
    tile = bench.core.engine.n
    gone = rng.random((-(-linear.n // tile), linear.groups)) < rng.random()
    of_outputs = np.repeat(gone, tile, axis=0)[: linear.n]
    scale, offset = (np.where(of_outputs, 0, part) for part in (tensor.scale, tensor.offset))
    tensor = replace(tensor, scale=scale.astype(np.uint16), offset=offset.astype(np.int16))
    found = skip_list(tensor, linear.group, tile)
    bench.tally.coverage["blocks left out"] += gone.size - found.kept_blocks
    return replace(linear, skips=found), tensor


def _compiled(
    bench: Bench, rng: np.random.Generator, rows: int, *, skips: bool
) -> tuple[BenchProgram, list[_StageResults], BeatSteps | None]:
    """Two stages of one to three layers, packed and compiled, with random inputs.

    Returns the program, the results of each stage, and the steps of the layers' weights, or None
    where steps do not depend on weights.
    """
    core, engine = bench.core, bench.core.engine
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    stages, tensors, place = [], {}, 0
    for number in range(2):
        group = int(
            rng.choice([engine.group_size, int(rng.integers(1, 2 * engine.group_size + 1))])
        )
        k = int(rng.integers(1, 4 * engine.slice_k * min(8, engine.group_slices) + 1))
        if skips:  # several scale groups in any case
            k *= 1 + 3 * (k < 4 * group)
        layers = [
            _random_layer(core, rng, LayerName(number, str(i)), k, min(group, k))
            for i in range(int(rng.integers(1, 4)))
        ]
        if skips:
            layers = [_without_blocks(bench, rng, *layer) for layer in layers]
        tensors_of_layers = {linear.name: tensor for linear, tensor in layers}
        shifts = {name: tensor.offset_shift for name, tensor in tensors_of_layers.items()}
        placed = stage(core, f"stage {number}", [linear for linear, _ in layers], place, shifts)
        for address, words in images(core, placed, tensors_of_layers):
            put(memory, address, words)
        place = placed.end
        stages.append(placed)
        tensors |= tensors_of_layers
    compiled = compile_stages(core, stages, rows, place)
    inputs, stage_results = [], []
    for batch in compiled.batches:
        linears = [layer.linear for layer in batch.stage.layers]
        x = random_activations(rng, engine.activations, (rows, linears[0].k))
        exponent = random_exponents(rng, engine.activations, x, linears[0].k)
        shared = None if exponent is None else exponent[:, 0]
        inputs.append((batch.input_address, pack_input(batch, x, shared)))
        x = integers(x, exponent, engine.activations)
        sums = {linear.name: _sums(engine, tensors[linear.name], x) for linear in linears}
        stage_results.append(_StageResults(functools.partial(unpack_results, batch), sums))

    put(memory, *inputs[0])
    program = BenchProgram(
        core,
        compiled.instructions,
        compiled.address,
        memory,
        host=lambda sync, where: put(where, *inputs[sync + 1]),
    )
    steps = None
    if not engine.steps_are_fixed:
        steps = compiled.beat_steps(
            {name: layer_steps(engine, tensor) for name, tensor in tensors.items()}
        )
    return program, stage_results, steps


def _sums(
    engine: Engine, tensor: ScaledTensor, x: NDArray[np.int64]
) -> NDArray[np.int64] | NDArray[np.float64]:
    """The sums of a layer: plain products, or the golden model's results for an engine whose sums
    are not exact."""
    if not engine.exact:
        return golden_result(engine, tensor, golden_weights(engine, tensor), x)
    operand = tensor.form.operand(x).astype(np.float64)
    return operand @ tensor.integers(slice(None)).T


def _compare_results(
    bench: Bench, case: str, stage_results: Sequence[_StageResults], memory: NDArray[np.uint8]
) -> None:
    """Compare every stage's results in memory with plain products, which are exact in float64 below
    2^53."""
    for stage_result in stage_results:
        stored = stage_result.results(memory)
        for name, sums in stage_result.sums.items():
            if np.abs(sums).max() < 1 << 53:
                for wrong in wrong_values(f"layer {name}:", stored[name], sums, SUMS):
                    bench.differ(case, wrong)


def check_resets(bench: Bench, rng: np.random.Generator) -> None:
    """A reset in the middle of a program, then a whole program."""
    timing = MemoryTiming(20, bench.core.bus_bytes)
    with bench.session() as session:
        for i in range(12):
            program = bench.random_program(rng)
            expected = program.expected()
            cycles = program_cycles(
                bench.core, program.instructions, timing, program.address, expected.beat_steps
            )
            session.memory[:] = program.image
            session.set_timing(timing)
            if i % 3 == 0:
                session.set_random(i)
            run(session, program, limit=int(rng.integers(1, cycles.cycles)))
            session.reset(int(rng.integers(1, 4)))
            bench.check(f"reset {i}", "busy after a reset", session.busy, False)
            bench.check(f"reset {i}", "status after a reset", session.get("status"), 0)
            bench.tally.coverage["reset in mid-flight"] += 1
            bench.play(session, f"reset {i}", program, expected, timing)


KINDS: dict[str, Callable[[Bench, np.random.Generator], None]] = {
    "programs": check_programs,
    "compiled": check_compiled,
    "long": check_long,
    "resets": check_resets,
    "tokens": check_tokens,
    "faults": check_faults,
    "words": check_words,
    "registers": check_registers,
    "counts": check_counts,
    "orders": check_orders,
    "late": check_late,
}
"""The checks of a core, by name."""


def verify(
    core: CoreSpec,
    *,
    seed: int,
    name: str = "",
    simulator: str = SIMULATOR,
    kinds: Collection[str] = tuple(KINDS),
    waves: Path | None = None,
    verilog: str | None = None,
    plusargs: tuple[str, ...] = (),
    most_differences: int = MOST_DIFFERENCES,
) -> Report:
    """Run all checks on the RTL of a core and compare every word of memory and every counter with
    its models.

    `kinds` are names from `KINDS`. `waves` is the file for a VCD of a compiled program. `verilog`
    replaces the RTL, in order to test these checks, and `plusargs` are arguments of the simulator.
    The verification ends early when it has noted `most_differences`. Raises `SimulatorError` when
    the simulator is missing or breaks down.
    """
    if simulator != SIMULATOR:
        raise SimulatorError(f"simulator {simulator}: cores run on {SIMULATOR} alone")
    started = time.perf_counter()
    native = core_session.build(core, waves=waves is not None, verilog=verilog)
    built = time.perf_counter()
    bench = Bench(core, native, seed, waves, plusargs, most_differences)
    with contextlib.suppress(Enough):
        for i, (kind, play) in enumerate(KINDS.items()):
            if kind in kinds:
                play(bench, np.random.default_rng((seed, i)))
    tally = bench.tally
    return Report(
        name=name,
        spec=core,
        simulator=simulator,
        seed=seed,
        cases=tally.cases,
        transactions=tally.beats,
        elements=tally.elements,
        rtl_cycles=tally.rtl_cycles,
        model_cycles=tally.model_cycles,
        differences=tuple(tally.differences),
        coverage=dict(sorted(tally.coverage.items())),
        build_seconds=round(built - started, 3),
        run_seconds=round(time.perf_counter() - built, 3),
    )
