"""The lanes that scale results, alone: every sum, and every cycle, with memories of a cycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.sim import Simulator

from evolute.hw.rtl.blocks.floating import encoded
from evolute.hw.rtl.units.scale_lanes import FloatLanes, lanes_of
from evolute.hw.spec import FloatLut, FloatMac, Mac, SpecError, layout
from evolute.hw.spec.floating import FP16, RESULT
from evolute.hw.spec.layout import Beat
from evolute.hw.spec.scaling import FloatScaling, IntegerScaling, Scaling
from evolute.sim.golden import floating
from evolute.verif.harness.verify import verify

ENGINE = Mac(m=2, n=4, k=2, activation_bits=5, weight_bits=3, group_size=6)
FLOAT: dict[str, Any] = {"m": 1, "n": 2, "group_size": 20}


@dataclass
class Seen:
    """What a bench saw."""

    taken: list[int] = field(default_factory=list)
    """Cycles of results' transfers."""
    written: list[int] = field(default_factory=list)
    sums: dict[int, int] = field(default_factory=dict)
    """The words of the sums, by step."""


def word(beat: Beat, **fields: np.ndarray) -> int:
    """A beat's bits, its elements being integers."""
    found = 0
    for each in beat.fields:
        for i, value in enumerate(fields[each.name].reshape(-1)):
            found |= (int(value) & (1 << each.bits) - 1) << beat.offsets[each.name] + i * each.bits
    return found


def run(scaling: Scaling, results: list[int], scales: list[list[int]], shift: int, gaps) -> Seen:
    """Feed results, each of which comes `gaps` cycles after the one before has left.

    `scales` are beats by group and part of the columns.
    """
    m, seen = Module(), Seen()
    m.submodules.lanes = lanes = lanes_of(scaling, tag_bits=1 + len(range(scaling.steps)))
    first, groups = Signal(), len(results)
    m.d.comb += lanes.tag.eq(Cat(first, lanes.step))
    factors = lanes.scales if scaling.beat.fields else Signal(name="none")
    seen.sums = dict.fromkeys(range(scaling.steps), 0)

    async def bench(ctx):
        ctx.set(lanes.shift, shift)
        cycle, wait = 0, 0
        while len(seen.written) < groups * scaling.steps:
            assert cycle < 10_000
            sent = len(seen.taken)
            valid = sent < groups and wait == 0
            ctx.set(lanes.result.valid, valid)
            ctx.set(lanes.result.payload, results[sent] if valid else 0)
            look, chunk, read, write = map(
                ctx.get, (lanes.look, lanes.chunk, lanes.read, lanes.write)
            )
            read_tag, write_tag = ctx.get(lanes.read_tag), ctx.get(lanes.write_tag)
            if write:
                seen.sums[write_tag >> 1] = ctx.get(lanes.data)
                seen.written.append(cycle)
            taken = ctx.get(lanes.taken)
            looked = scales[len(seen.taken) - 1][chunk] if look and scaling.beat.fields else None
            value = seen.sums[read_tag >> 1]
            await ctx.tick()
            wait = max(0, wait - 1)
            if taken:
                ctx.set(first, len(seen.taken) == 0)
                seen.taken.append(cycle)
                wait = gaps(len(seen.taken))
            # What memories do not give holds no meaning.
            ctx.set(factors, 0x5A if looked is None else looked)
            ctx.set(lanes.value, value if read else 0x77)
            cycle += 1

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def check_cycles(scaling: Scaling, seen: Seen) -> None:
    """Results leave `period_cycles` apart, and each is written `latency_cycles` later, step by
    step."""
    starts = np.array(seen.taken)
    assert (np.diff(starts) == scaling.period_cycles).all()
    steps = scaling.latency_cycles + scaling.step_cycles * np.arange(scaling.steps)
    assert seen.written == (starts[:, None] + steps).reshape(-1).tolist()


def unsigned(value: int, bits: int) -> int:
    return value & (1 << bits) - 1


@pytest.mark.parametrize(
    "fields",
    [
        {"scale_lanes": 4},
        {"scale_lanes": 1, "sum_bits": 12},
        {"scale_lanes": 4, "scale_multiplier": "serial"},
        {"scale_lanes": 2, "scale_multiplier": "serial", "offset_bits": 3, "scale_bits": 7},
        {"scale_lanes": 4, "scale_multiplier": "serial", "offset_bits": 2, "scale_bits": 2},
        {"scale_lanes": 1, "scale_multiplier": "serial", "offset_bits": 16, "sum_bits": 13},
    ],
    ids=str,
)
@pytest.mark.parametrize("m", [1, 2])
def test_integers(fields, m):
    scaling = IntegerScaling(engine=ENGINE.evolve(m=m), **fields)
    engine, rng, groups, shift = scaling.engine, np.random.default_rng(m), 7, 3
    most = [(1 << bits - 1) - 1 for bits in (engine.acc_bits, engine.row_sum_bits)]
    psum = rng.integers(-most[0] - 1, most[0] + 1, (groups, m, engine.n))
    row_sum = rng.integers(-most[1] - 1, most[1] + 1, (groups, m))
    scale = rng.integers(0, 1 << scaling.scale_bits, (groups, engine.n))
    half = 1 << scaling.offset_bits - 1
    offset = rng.integers(-half, half, (groups, engine.n))
    psum[0], row_sum[0], scale[0], offset[0] = -most[0] - 1, -most[1] - 1, scale.max(), -half
    beat, parts = layout.streams(engine).result, (groups, -1, scaling.scale_lanes)
    results = [word(beat, psum=psum[g], row_sum=row_sum[g]) for g in range(groups)]
    scales = [
        [word(scaling.beat, scale=s, offset=o) for s, o in zip(*each, strict=True)]
        for each in zip(scale.reshape(parts), offset.reshape(parts), strict=True)
    ]
    expected = (psum * scale[:, None] + (row_sum[:, :, None] * offset[:, None] << shift)).sum(0)
    for gaps in (lambda taken: 0, lambda taken: taken % 5 * 4):
        seen = run(scaling, results, scales, shift, gaps)
        bits = scaling.sum_bits
        found = [
            unsigned(seen.sums[step] >> lane * bits, bits)
            for step in range(scaling.steps)
            for lane in range(scaling.scale_lanes)
        ]
        assert found == [unsigned(int(each), bits) for each in expected.reshape(-1)]
        if gaps(3) == 0:
            check_cycles(scaling, seen)


FLOATS = {
    "FP16 sums": FloatScaling(engine=FloatMac(k=2, sums="fp16", **FLOAT), scale_lanes=2),
    "FP32 sums": FloatScaling(engine=FloatMac(k=2, sums="fp32", **FLOAT), scale_lanes=1),
    "tables": FloatScaling(engine=FloatLut(kg=1, sums="fp16", **FLOAT), scale_lanes=1),
    "dequantized": FloatScaling(
        engine=FloatMac(k=2, sums="fp32", weights="dequantized", **FLOAT), scale_lanes=1
    ),
    "whole": FloatScaling(
        engine=FloatMac(k=2, sums="fp32", weights="fp16", **FLOAT), scale_lanes=2
    ),
}


def codes_of(values: np.ndarray) -> np.ndarray:
    """Binary32, with one zero."""
    return (values + 0.0).astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("name", FLOATS)
def test_floating_numbers(name):
    scaling = FLOATS[name]
    engine, rng, groups = scaling.engine, np.random.default_rng(5), 7
    bits, names = engine.significand_bits, {each.name for each in scaling.beat.fields}

    def numbers(*shape):
        """Of all magnitudes that sums can have, with zeros and equals that cancel."""
        found = floating.nearest(rng.normal(size=shape) * 2.0 ** rng.integers(-30, 20, shape), bits)
        found[rng.random(shape) < 0.1] = 0
        return found

    psum, row_sum = numbers(groups, engine.m, engine.n), numbers(groups, engine.m)
    psum[3], row_sum[3] = -psum[2], -row_sum[2]
    codes = {
        "scale": rng.integers(0, 1 << 16, (groups, engine.n)),
        "offset": rng.integers(0, 1 << 16, (groups, engine.n)),
    }
    for each in codes.values():
        each[3], each[4], each[5] = each[2], 0x7C00, 1  # infinity, the least subnormal
    factors = {
        each: floating.numbers(codes[each], FP16).T if each in names else None for each in codes
    }
    beat = layout.streams(engine).result
    held = {"psum": psum, "row_sum": row_sum}
    results = [
        word(
            beat,
            **{each.name: codes_of(held[each.name][g]) for each in beat.fields},
        )
        for g in range(groups)
    ]
    parts = (groups, -1, scaling.scale_lanes)
    chunks = range(engine.n // scaling.scale_lanes)
    scales = [
        [word(scaling.beat, **{e: codes[e].reshape(parts)[g, c] for e in names}) for c in chunks]
        for g in range(groups)
    ]
    expected = floating.scaled_sums(
        psum.transpose(1, 0, 2), row_sum.T, factors["scale"], factors["offset"], bits
    )
    seen = run(scaling, results, scales, 0, lambda taken: 0)
    check_cycles(scaling, seen)
    found = [
        seen.sums[step] >> lane * RESULT.bits & (1 << RESULT.bits) - 1
        for step in range(scaling.steps)
        for lane in range(scaling.scale_lanes)
    ]
    assert found == codes_of(expected.reshape(-1)).tolist()
    assert np.abs(expected).max() > 0


VERIFIED = {
    "floating": FLOATS["FP32 sums"].evolve(engine=FLOATS["FP32 sums"].engine.evolve(m=2)),
    "tables": FLOATS["tables"],
    "whole": FLOATS["whole"],
    "integers": IntegerScaling(engine=ENGINE, scale_lanes=2),
    "serial": IntegerScaling(
        engine=ENGINE, scale_lanes=4, scale_multiplier="serial", offset_bits=3, scale_bits=7
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("tables", "whole", "integers")))
        for name in VERIFIED
    ],
)
def test_lanes_are_verified_as_engines_are(name):
    report = verify(VERIFIED[name], seed=2)
    assert report.passed, report.differences[:3]
    assert {"no stall", "stall result", "reset in mid-flight"} <= set(report.coverage)


@pytest.mark.parametrize(
    ("method", "fault", "found"),
    [
        ("term", lambda self, m, name, scaled, offset: scaled, "sum of"),
        pytest.param(
            "total",
            lambda self, m, name, before, term: encoded(term, RESULT),
            "sum of",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_faults_of_lanes_are_found(monkeypatch, method, fault, found):
    scaling = FLOATS["FP16 sums"]
    monkeypatch.setattr(FloatLanes, method, fault)
    report = verify(scaling, seed=2, kinds=("flow",))
    assert not report.passed and found in report.differences[0]


def test_factors_are_those_that_weights_do_not_bring():
    fields = {name: [each.name for each in FLOATS[name].beat.fields] for name in FLOATS}
    assert fields == {
        "FP16 sums": ["scale", "offset"],
        "FP32 sums": ["scale", "offset"],
        "tables": ["scale", "offset"],
        "dequantized": ["offset"],
        "whole": [],
    }


def test_integers_scale_no_floats():
    with pytest.raises(SpecError, match="engine: must be one with integer sums"):
        IntegerScaling(engine=FloatMac(k=2, **FLOAT), scale_lanes=1)
