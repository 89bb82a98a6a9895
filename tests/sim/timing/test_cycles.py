"""Plans cover every weight once; the closed form equals the fold. RTL equality is in tests/rtl."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec import LutTensorCore, Mac
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.timing.engine import fold, run_cycles
from evolute.sim.timing.schedule import Run, plan, steps
from evolute.sim.workload.linear import Linear

runs = st.builds(
    Run,
    tiles=st.integers(1, 4),
    slices=st.integers(1, 9),
    group_slices=st.integers(1, 5),
    planes=st.integers(1, 8),
    beat_steps=st.sampled_from([1, 1, 2, 5]),
)
engines = st.sampled_from(
    [LutTensorCore(weight_bits=8), Mac(), Mac(m=2, n=5, k=1, arrangement="systolic")]
)
"""One with two registers before the multiplication, one with one, one that keeps results."""


@given(engines, st.lists(runs, min_size=1, max_size=3))
def test_closed_form_equals_the_fold(spec, commands):
    assert fold(spec, commands).cycles == run_cycles(spec, commands)


@given(engines, runs, st.integers(0, 2**32))
def test_pauses_never_help_and_transfers_stay_in_order(spec, run, seed):
    rng = np.random.default_rng(seed)
    names = ("command", "activation", "weight", "result")
    pauses = {name: rng.random(200) < 0.5 for name in names}
    stalled, free = fold(spec, [run], pauses), fold(spec, [run])
    for name in names:
        late, early = getattr(stalled, name), getattr(free, name)
        assert (late >= early).all()
        assert (np.diff(late) > 0).all()
    assert not any(pauses["result"][cycle] for cycle in stalled.result if cycle < 200)


@given(run=runs)
def test_steps_walk_the_loops(run):
    walked = steps(run)
    expected = [
        (tile * run.slices + s, b == 0, b == run.beat_steps - 1,
         (p, b) == (run.planes - 1, run.beat_steps - 1),
         (p, b) == (run.planes - 1, run.beat_steps - 1)
         and ((s + 1) % run.group_slices == 0 or s == run.slices - 1))
        for tile in range(run.tiles)
        for s in range(run.slices)
        for p in range(run.planes)
        for b in range(run.beat_steps)
    ]  # fmt: skip
    found = zip(*vars(walked).values(), strict=True)
    assert [tuple(each) for each in found] == expected
    assert walked.ends_group.sum() == run.results
    assert walked.takes_beat.sum() == run.beats


@given(
    k=st.integers(1, 700),
    group=st.integers(1, 700),
    slice_k=st.integers(2, 6),
    kg=st.integers(1, 8),
    group_size=st.integers(1, 300),
)
def test_a_plan_reads_out_at_every_scale_group_and_never_overflows(
    k, group, slice_k, kg, group_size
):
    spec = LutTensorCore(k=slice_k, kg=kg, group_size=group_size)
    run = plan(spec, Linear("layer", 10, k, WeightCodes(4), group, 32), rows=3)
    assert run.group_slices <= spec.group_slices
    ends = set(range(run.group_slices, run.slices, run.group_slices)) | {run.slices}
    position = 0
    for start in range(0, k, group):
        position += -(-(min(start + group, k) - start) // spec.slice_k)
        assert position in ends
    assert position == run.slices
    assert run.tiles == 3 * -(-10 // spec.n)


def test_a_layer_by_hand():
    """576 x 576 in groups of 32, 8 activations a slice: 18 column tiles, 72 slices, 4 planes."""
    spec = LutTensorCore(m=1, n=32, k=4, kg=2, weight_bits=4)
    run = plan(spec, Linear("q", 576, 576, WeightCodes(4), 32, 32), rows=1)
    assert run == Run(tiles=18, slices=72, group_slices=4, planes=4)
    assert run_cycles(spec, [run]) == 18 * 72 * 4 + 4
    # Multipliers take whole weights, and have no tables to build.
    spec = Mac(m=1, n=32, k=8, weight_bits=4)
    run = plan(spec, Linear("q", 576, 576, WeightCodes(4), 32, 32), rows=1)
    assert run == Run(tiles=18, slices=72, group_slices=4, planes=1)
    assert run_cycles(spec, [run]) == 18 * 72 + 3
