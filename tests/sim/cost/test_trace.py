"""The timeline of a token: exact spans, in order, that end with the token."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES
from evolute.sim.cost.core import priced_phase
from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.trace import TRACKS, chrome_trace, token_trace
from evolute.sim.timing.memory import memory_timing
from evolute.sim.timing.trace import Tracer
from evolute.sim.workload.linear import Workload
from evolute.sim.workload.operations import CacheFormat, Pass
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.sw.deploy.unweighted import head_format, parse_format, shape_workload

INT8 = CacheFormat("int8", 8, 16)
UNITS = {"vector_lanes": 4, "attention_rows": 4}


def shape(name: str) -> ModelShape:
    found = zoo_entry(name).shape
    assert isinstance(found, ModelShape)
    return found


@pytest.mark.parametrize("core", ["core-decode", "core-fpga", "core-prefill"])
@pytest.mark.parametrize("units", [{}, UNITS])
@pytest.mark.parametrize("platform", [Platform(), Platform(200e6, 1.3e9, latency_cycles=7)])
def test_a_timeline_is_the_tokens_time(
    core: str, units: dict[str, int], platform: Platform
) -> None:
    spec = CORES[core].evolve(**units)
    model = shape("evolute-tiny")
    weights, head = parse_format("weights", "w4g32"), head_format(None, spec)

    def workload_of(work: Pass) -> Workload:
        return shape_workload(model, weights, head, spec, work)

    work = Pass(1, 40, batch=2)
    spans = token_trace(spec, model, workload_of(work), platform, work, INT8)
    serving = Serving(1, 1, (40,), 2, INT8)
    metrics = Pricing(spec, model, workload_of, platform, INT8).serve(serving).decode
    own = sum(one.cycles or 0 for one in metrics.operations)
    assert max(span.end for span in spans) == own
    if units:
        assert own == metrics.cycles
    by_track = {track: [one for one in spans if one.track == track] for track in TRACKS}
    for track, of_track in by_track.items():
        assert all(0 <= one.first < one.end for one in of_track)
        for one, after in itertools.pairwise(of_track):
            assert one.end <= after.first, track
    # Exactly the cycles of the counters, and of the model's operations.
    priced = priced_phase(spec, workload_of(work), platform, work, 1, in_one=True).programs[0]
    computing = sum(one.busy_cycles for one in by_track["compute"])
    assert computing == priced.cycles.compute_cycles
    assert [one.busy_cycles for one in by_track["stage"]] == list(priced.cycles.stage_cycles)
    instructions = sum(one.instructions for one in spans if one.label == "exact")
    assert instructions == len(priced.program.instructions) - 1  # all but the halt
    assert len(by_track["host call"]) == len(priced.cycles.syncs)
    modelled = {"attention": 0, "vector": 0}
    for operation in metrics.operations:
        if operation.label == "modelled":
            kind = "attention" if operation.kind == "attention" else "vector"
            modelled[kind] += operation.cycles or 0
    for kind, cycles in modelled.items():
        assert sum(one.end - one.first for one in by_track[kind]) == cycles  # pyright: ignore
    # Attention of a block comes after its queries, keys and values, and before its output.
    if units:
        ends = {one.name: one.end for one in by_track["stage"]}
        firsts = {one.name: one.first for one in by_track["stage"]}
        for one in by_track["attention"]:
            block = one.name.partition(".")[0]
            assert ends[f"{block}.q+k+v"] <= one.first and one.end <= firsts[f"{block}.o"]
    # Every layer has its own spans, named with its block.
    names = {str(linear.name) for linear in workload_of(work).linears}
    for track in ("load", "compute"):
        assert names <= {one.name for one in by_track[track]}


def test_the_tracer_is_the_machine() -> None:
    core, model = CORES["core-decode"], shape("evolute-tiny")
    weights, head = parse_format("weights", "w4g32"), head_format(None, core)
    work = Pass(1)
    platform = replace(Platform(), refresh=True)
    workload = shape_workload(model, weights, head, core, work)
    (priced,) = priced_phase(core, workload, platform, work, 1, in_one=True).programs
    program = priced.program.instructions
    found, spans = Tracer(core, program, memory_timing(platform), None).trace()
    assert found == priced.cycles
    assert sorted(span.index for span in spans) == list(range(len(program) - 1))


def test_what_a_viewer_reads() -> None:
    core = CORES["core-decode"].evolve(**UNITS)
    model, work = shape("evolute-tiny"), Pass(1, 10)
    weights, head = parse_format("weights", "w4g32"), head_format(None, core)
    workload = shape_workload(model, weights, head, core, work)
    spans = token_trace(core, model, workload, Platform(), work, INT8)
    document = json.loads(json.dumps(chrome_trace("tiny", spans, 200e6)))
    events = [one for one in document["traceEvents"] if one["ph"] == "X"]
    assert len(events) == len(spans)
    threads = {one["tid"] for one in document["traceEvents"] if one["name"] == "thread_name"}
    for one in events:
        assert one["tid"] in threads and one["pid"] == 1
        cycles = one["args"]["end_cycle"] - one["args"]["first_cycle"]
        assert one["dur"] == pytest.approx(cycles / 200) and cycles > 0
        assert one["ts"] == pytest.approx(one["args"]["first_cycle"] / 200)
    assert {one["cat"] for one in events} == {"exact", "modelled"}


@pytest.mark.parametrize(
    ("core", "model", "line"),
    [
        ("core-skip", "evolute-tiny", "trace: must be of an engine whose steps do not depend"),
        ("core-decode", "smallthinker-4b", "trace: must be of a token that one program makes"),
    ],
)
def test_what_has_no_single_timeline(core: str, model: str, line: str) -> None:
    spec: CoreSpec = CORES[core]
    weights, head = parse_format("weights", "w4g32"), head_format(None, spec)
    sizes, work = shape(model), Pass(1, batch=3)
    if model == "smallthinker-4b":
        sizes = replace(sizes, blocks=sizes.blocks[:1], vocab=1000)
    workload = shape_workload(sizes, weights, head, spec, work)
    with pytest.raises(SpecError, match=line):
        token_trace(spec, sizes, workload, Platform(), work, INT8)
