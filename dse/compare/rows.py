"""All facts about every contender on the layer.

Area is that of the whole engine and its scaling, see `INSIDE` and `OUTSIDE`. Values come from the
golden model, and cycles from the cycle model, which equals the RTL.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evolute.dse.compare.contenders import Contender
from evolute.dse.compare.exactness import exactness
from evolute.dse.compare.layer import ComparedLayer
from evolute.hw.spec import Engine, engine_of
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.scaling import IntegerScaling, Scaling
from evolute.hw.synthesis.asic import AsicResult
from evolute.hw.synthesis.synth import synthesize
from evolute.sim.timing.engine import run_cycles
from evolute.sim.timing.memory import traffic
from evolute.sim.timing.schedule import fills
from evolute.support import schema
from evolute.support.errors import RefusedError
from evolute.support.files import FileError
from evolute.support.processes import executor
from evolute.sw.deploy.pack import weighed_run
from evolute.sw.tensors.activations import quantize_activations
from evolute.verif import energy
from evolute.verif.energy import Energy, Operand

INSIDE = (
    "operand registers, alignment of floating activations, table build, term decoders, "
    "dequantization, lookups, multipliers, adder trees, accumulators, sums of activations, "
    "sequencer, stream registers; scaling of groups, as fast as results come: their registers, "
    "multipliers of psums by scales and of sums of activations by offsets, adders, and those of "
    "the sums over groups"
)
"""What the area of an engine with its scaling covers, as far as it has it."""

OUTSIDE = (
    "rounding of activations; memories of activations, weights, scales and sums over groups, with "
    "their ports and addresses"
)
"""What every engine needs as much of as any other, and no area here covers."""


@dataclass(frozen=True)
class Areas:
    """An engine in standard cells, and each possible scaling of its results."""

    engine: AsicResult
    scalings: tuple[tuple[Scaling, AsicResult], ...]
    """The one with the least area first."""
    energy: Energy | None = None
    """What the engine takes on the layer, without its scaling; None where it was not asked for, or
    where there is no way to measure it."""

    @property
    def parts(self) -> tuple[AsicResult, AsicResult]:
        """The engine and its smallest scaling."""
        return self.engine, self.scalings[0][1]


def layer_operand(contender: Contender, layer: ComparedLayer) -> Operand | None:
    """Tiles of the layer as an engine runs them; None for one with floating sums, whose energy is
    measured with random data alone."""
    layer, spec = contender.layer or layer, contender.spec
    if spec is None or isinstance(spec, FloatEngine):
        return None
    inputs = quantize_activations(layer.inputs, spec.activations)
    name, rng = str(layer.linear.name), np.random.default_rng(0)
    return energy.tiles(spec, name, layer.linear.format.name, layer.tensor, inputs, rng)


def area(engine: Engine, scalings: Sequence[Scaling], operand: Operand | None = None) -> Areas:
    """Synthesize an engine and its scalings, and simulate the engine with `operand`, if there is
    one and all of it is cells.

    Raises `FileError` for a problem of the machine, else `RefusedError`; both can cross processes.
    """
    try:
        synthesized = [(scaling, synthesize(scaling, "asic")) for scaling in scalings]
        synthesized.sort(key=lambda pair: pair[1].area_um2)
        mapped = synthesize(engine, "asic")
        measured = None
        if operand is not None and not mapped.memories:
            measured = energy.measure(engine, operand, by_block=False)
        return Areas(mapped, tuple(synthesized), measured)
    except FileError as error:
        raise FileError(str(error)) from None
    except RefusedError as error:
        raise RefusedError(str(error)) from None


def areas(
    contenders: Sequence[Contender],
    workers: int,
    advance: Callable[[list[str], int], None] = lambda running, done: None,
    operand_of: Callable[[Contender], Operand | None] = lambda contender: None,
) -> dict[str, Areas | RefusedError]:
    """The engines and their scalings in standard cells by name, `workers` at a time; or the error
    of a tool.

    `advance` is called with the names that are being synthesized and the number that is done;
    `operand_of` gives what an engine is simulated with, or None. Raises `FileError`.
    """
    waiting = [contender for contender in contenders if contender.spec is not None]
    workers = min(workers, len(waiting))
    results: dict[str, Areas | RefusedError] = {}
    if not waiting:
        return results
    with executor(workers) as pool:
        running: dict[concurrent.futures.Future[Areas], str] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                chosen = waiting.pop(0)
                advance([*running.values(), chosen.name], len(results))
                assert chosen.spec is not None
                submitted = pool.submit(area, chosen.spec, chosen.scalings, operand_of(chosen))
                running[submitted] = chosen.name
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                name = running.pop(future)
                try:
                    results[name] = future.result()
                except FileError:
                    raise
                except RefusedError as error:
                    results[name] = error
            advance(list(running.values()), len(results))
    return results


def row(
    contender: Contender, result: Areas | RefusedError | None, layer: ComparedLayer, rows: int
) -> schema.Compared:
    """All facts about one contender on the layer, except the comparison with the best one.

    A refused contender only has its name and the reason in `refused`. Areas do not include memories
    of `memory_bits`, which are not built of cells; costs in area are None where there are such
    memories.
    """
    layer = contender.layer or layer
    spec, linear = contender.spec, layer.linear
    if spec is None or not isinstance(result, Areas):
        return schema.Compared(contender.name, contender.refused or str(result))
    run = weighed_run(spec, linear, layer.tensor, rows)
    steps = run.steps / (run.tiles * run.slices)
    scaling, parts = result.scalings[0][0], result.parts
    # Scaling never makes the engine wait; it only ends later than the engine does.
    cycles = run_cycles(spec, [*fills(spec), run]) + scaling.drain_cycles
    area_um2 = sum(part.area_um2 for part in parts)
    delay_ns = max(part.delay_ns for part in parts)
    memory_bits = sum(part.memory_bits for part in parts)

    def cost(value: float) -> float | None:
        return None if memory_bits else value

    unscaled = not spec.row_sum_bits  # weights that need neither scales nor offsets
    without_scales = dataclasses.replace(linear, group_bits=0) if unscaled else linear
    moved = traffic(spec, without_scales, rows, run, Platform())
    exact = exactness(spec, layer)
    return schema.Compared(
        name=contender.name,
        refused=None,
        engine=engine_of(spec),
        spec=spec.to_dict(),
        digest=spec.digest,
        max_abs_difference=exact.max_abs_difference,
        max_rel_difference=exact.max_rel_difference,
        activation_error=exact.activation_error,
        layer_error=exact.layer_error,
        slice_steps=steps,
        cycles=cycles,
        macs_per_cycle=spec.macs_per_step / steps,
        engine_um2=parts[0].area_um2,
        scaling_um2=parts[1].area_um2,
        area_um2=area_um2,
        area_ge=sum(part.area_ge for part in parts),
        cells=sum(sum(part.cells.values()) for part in parts),
        delay_ns=delay_ns,
        scalings=[_scaling(*scaling) for scaling in result.scalings],
        memory_bits=memory_bits,
        dynamic_fj_per_mac=result.energy and round(result.energy.dynamic_fj_per_mac, 4),
        leakage_nw=result.energy and round(result.energy.per_cycle.leakage_nw, 4),
        area_um2_per_mac_per_cycle=cost(area_um2 * steps / spec.macs_per_step),
        area_cycles_um2=cost(area_um2 * cycles),
        area_time_um2_ns=cost(area_um2 * cycles * delay_ns),
        weight_bytes=moved.weight_bytes,
        scale_bytes=moved.scale_bytes,
        activation_bytes=moved.activation_bytes,
        result_bytes=moved.result_bytes,
        moved_bytes=moved.total_bytes,
        library=parts[0].library,
        tool=parts[0].tool,
    )


def _scaling(scaling: Scaling, result: AsicResult) -> schema.ComparedScaling:
    kind = scaling.scale_multiplier if isinstance(scaling, IntegerScaling) else "float"
    return schema.ComparedScaling(
        multiplier=kind,
        lanes=scaling.scale_lanes,
        period_cycles=scaling.period_cycles,
        area_um2=result.area_um2,
        delay_ns=result.delay_ns,
    )


def ranked(rows: Sequence[schema.Compared]) -> list[schema.Compared]:
    """The rows in order, with `area_cycles_of_best`, which is 1 for the best exact engine.

    The best comes first. Engines whose memories have no area follow, in the order of their cycles;
    refused ones are last.
    """
    compared = [engine for engine in rows if engine.refused is None]
    costs = [(engine.area_cycles_um2, engine) for engine in compared]
    with_area = [(cost, engine) for cost, engine in costs if cost is not None]
    exact = [cost for cost, engine in with_area if engine.max_abs_difference == 0]
    best = min(exact or [cost for cost, _ in with_area], default=1.0)
    with_area.sort(key=lambda costed: costed[0])
    without_area = [engine for cost, engine in costs if cost is None]
    without_area.sort(key=lambda engine: engine.cycles)
    replace = dataclasses.replace
    return [
        *(replace(engine, area_cycles_of_best=cost / best) for cost, engine in with_area),
        *(replace(engine, area_cycles_of_best=None) for engine in without_area),
        *(engine for engine in rows if engine.refused is not None),
    ]
