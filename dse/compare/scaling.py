"""The scaling of groups that an engine needs. It is included so that no engine looks better by
leaving it out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import numpy as np

from evolute.dse.compare.contenders import Contender
from evolute.dse.compare.layer import ComparedLayer
from evolute.hw.spec import Engine
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.spec.scaling import MULTIPLIERS, RESULT_BITS, FloatScaling, IntegerScaling, Scaling
from evolute.sim.timing.schedule import Run
from evolute.support.errors import RefusedError
from evolute.sw.deploy.pack import weighed_run


def shortest_group_cycles(spec: Engine, run: Run) -> int:
    """The least number of cycles between two results of an engine that never waits."""
    beats = run.group_slices * run.planes
    in_tile = run.slices * run.planes
    if run.steps_of_beats:
        of_tiles = np.array(run.steps_of_beats).reshape(run.tiles, in_tile)
        steps = int(np.add.reduceat(of_tiles, range(0, in_tile, beats), axis=1).min())
    else:
        last = in_tile % beats or beats
        steps = last * run.beat_steps
    return max(steps, spec.result_period_cycles)


def keeping_up(spec: Engine, run: Run) -> tuple[Scaling, ...]:
    """For every kind of multiplier, the scaling with the fewest lanes for which no result of `run`
    waits. Raises `RefusedError` if there is none."""
    cycles = shortest_group_cycles(spec, run)
    lanes = [1 << i for i in range(spec.n.bit_length()) if spec.n % (1 << i) == 0]
    fast = [
        [scaling for n in lanes if (scaling := scaling_of(n)).period_cycles <= cycles]
        for scaling_of in _scalings(spec, run)
    ]
    fastest = tuple(options[0] for options in fast if options)
    if not fastest:
        raise RefusedError(f"no scaling keeps up with a result every {cycles} cycles")
    return fastest


def _scalings(spec: Engine, run: Run) -> list[Callable[[int], Scaling]]:
    """Functions that give a scaling of the engine's results for a number of lanes, or raise
    `SpecError`."""
    if isinstance(spec, FloatEngine):
        return [lambda lanes: FloatScaling(engine=spec, scale_lanes=lanes)]
    groups = -(-run.slices // run.group_slices)
    needed = spec.acc_bits + IntegerScaling.scale_bits + groups.bit_length()
    common = {"engine": spec, "sum_bits": min(RESULT_BITS, max(IntegerScaling.sum_bits, needed))}
    return [
        functools.partial(
            lambda kind, lanes: IntegerScaling(scale_multiplier=kind, scale_lanes=lanes, **common),
            kind,
        )
        for kind in MULTIPLIERS
    ]


def with_scaling(
    contenders: Iterable[Contender], layer: ComparedLayer, rows: int
) -> list[Contender]:
    """The contenders with the scalings that keep up with them on the layer. Those without one are
    refused."""
    scaled = []
    for contender in contenders:
        if contender.spec is not None:
            contender_layer = contender.layer or layer
            try:
                run = weighed_run(
                    contender.spec, contender_layer.linear, contender_layer.tensor, rows
                )
                contender = dataclasses.replace(contender, scalings=keeping_up(contender.spec, run))
            except RefusedError as error:
                contender = dataclasses.replace(contender, spec=None, refused=str(error))
        scaled.append(contender)
    return scaled
