"""Every engine is charged for scaling that keeps up with it, and for no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.dse.compare.contenders import Contender, contenders, parse_activations
from evolute.dse.compare.own_forms import in_own_forms
from evolute.dse.compare.scaling import keeping_up, shortest_group_cycles, with_scaling
from evolute.hw.spec import ENGINES, LutTensorCore, Mac
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.scaling import FloatScaling, IntegerScaling
from evolute.sim.timing.engine import fold
from evolute.sim.timing.schedule import Run, plan
from evolute.sim.workload.linear import Linear
from evolute.support.errors import RefusedError
from evolute.sw.deploy.pack import weighed_run


@pytest.mark.parametrize("activations", ["int8", "fp16"])
@pytest.mark.parametrize("rows", [1, 3])
def test_no_result_waits_and_half_the_lanes_would_not_do(layer, task, activations, rows):
    task = replace(task, activations=parse_activations(activations))
    floating = activations == "fp16"
    found = contenders(task, ENGINES, floating=floating) + in_own_forms(task, ENGINES, layer)
    found = [each for each in with_scaling(found, layer, rows) if each.spec is not None]
    assert len(found) > 8
    for each in found:
        spec, own = each.spec, each.layer or layer
        run = weighed_run(spec, own.linear, own.tensor.codes, rows)
        apart = np.diff(fold(spec, [run]).result)
        least = int(apart.min()) if len(apart) else shortest_group_cycles(spec, run)
        assert least >= shortest_group_cycles(spec, run)
        for scaling in each.scalings:
            assert scaling.period_cycles <= shortest_group_cycles(spec, run), each.name
            if scaling.scale_lanes > 1:
                fewer = replace(scaling, scale_lanes=scaling.scale_lanes // 2)
                assert fewer.period_cycles > shortest_group_cycles(spec, run), each.name


def test_a_shorter_last_group_is_what_must_be_kept_up_with():
    spec = Mac(m=1, n=16, k=16, weight_bits=2)
    whole, rest = (Linear("", 64, k, WeightCodes(2), 128, 16) for k in (512, 544))
    assert shortest_group_cycles(spec, plan(spec, whole, 1)) == 8
    assert shortest_group_cycles(spec, plan(spec, rest, 1)) == 2
    lanes = [keeping_up(spec, plan(spec, each, 1))[0].scale_lanes for each in (whole, rest)]
    assert lanes == [2, 8]


def test_a_slow_engine_needs_less_scaling_and_may_take_it_bit_by_bit():
    spec = LutTensorCore(m=1, n=4, k=4, kg=4, weight_bits=8)
    linear = Linear("", 64, 512, WeightCodes(8), 128, 16)
    array, serial = keeping_up(spec, plan(spec, linear, 1))
    assert isinstance(array, IntegerScaling) and isinstance(serial, IntegerScaling)
    assert (array.scale_multiplier, array.scale_lanes) == ("array", 1)
    assert (serial.scale_multiplier, serial.scale_lanes) == ("serial", 1)
    assert serial.period_cycles == 32 <= 64  # four sums, eight bits each


def test_shortest_groups_of_an_engine_that_skips_are_those_of_its_weights():
    spec = Mac(m=1, n=2, k=2, weight_bits=2)
    steps = (4, 4, 1, 2, 4, 4, 3, 1, 1, 4)  # two tiles of five slices, in groups of two
    run = Run(2, 5, 2, planes=1, steps_of_beats=steps)
    assert shortest_group_cycles(spec, run) == 2
    assert shortest_group_cycles(spec, replace(run, slices=4, steps_of_beats=steps[:8])) == 3


def test_what_no_scaling_keeps_up_with_is_refused(layer):
    spec = Mac(m=1, n=4, k=64, weight_bits=2, group_size=64)
    linear = replace(layer.linear, group=64)
    tensor = replace(layer.tensor, form=replace(layer.tensor.form, group=64))
    own = replace(layer, linear=linear, tensor=tensor)
    with pytest.raises(RefusedError, match="no scaling keeps up with a result every 1 cycles"):
        keeping_up(spec, plan(spec, linear, 1))
    (found,) = with_scaling([Contender("engine", spec)], own, rows=1)
    assert found.spec is None and found.refused == (
        "no scaling keeps up with a result every 1 cycles"
    )


def test_rows_with_shifts_of_their_own_have_no_scaling(layer, task):
    spec = task.engine(LutTensorCore, k=4, kg=2, table_bits=8)
    (found,) = with_scaling([Contender("engine", spec)], layer, rows=1)
    assert found.spec is None and "without row shifts" in str(found.refused)


def test_floats_are_scaled_by_floats(layer, task):
    task = replace(task, activations=parse_activations("fp16"))
    found = with_scaling(contenders(task, ["mac"], floating=True), layer, rows=1)
    for each in found:
        kind = FloatScaling if each.name.startswith("mac FLOAT") else IntegerScaling
        assert each.scalings and all(isinstance(one, kind) for one in each.scalings)
