"""Whole tokens: what is beside the linear layers, by hand, and how scopes and labels follow."""

from __future__ import annotations

import dataclasses

import pytest

from evolute.hw.spec.base import SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES, PRESETS
from evolute.sim.cost.evaluate import Pricing, evaluate
from evolute.sim.cost.metrics import LINEAR, WHOLE, Metrics, OperationMetrics, PhaseMetrics
from evolute.sim.cost.token import Host
from evolute.sim.timing.token_units import attention_stream, vector_cycles
from evolute.sim.workload.linear import LayerName
from evolute.sim.workload.operations import CacheFormat, Elementwise, Pass, attend
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import Attention, ModelShape
from evolute.sim.workload.zoo import zoo_entry
from evolute.sw.deploy.unweighted import Format, head_format, parse_format, shape_workload

INT8 = CacheFormat("int8", 8, 16)
CORE = CORES["core-decode"]
WHOLE_CORE = CORE.evolve(vector_lanes=4, attention_rows=4)
WEIGHTS, HEAD = parse_format("weights", "w4g32"), head_format(None, CORE)


def shape(name: str = "evolute-tiny") -> ModelShape:
    found = zoo_entry(name).shape
    assert isinstance(found, ModelShape)
    return found


def run(
    core: CoreSpec,
    serving: Serving,
    host: Host | None = None,
    head: Format | None = HEAD,
    model: ModelShape | None = None,
    platform: Platform | None = None,
) -> Metrics:
    model = model or shape()
    pricing = Pricing(
        core,
        model,
        lambda work: shape_workload(model, WEIGHTS, head, core, work),
        platform or Platform(),
        serving.cache,
        host,
    )
    return pricing.serve(serving)


def operation(phase: PhaseMetrics, name: str) -> OperationMetrics:
    (found,) = (one for one in phase.operations if one.name == name)
    return found


def test_linear_layers_cost_what_they_cost_alone() -> None:
    whole = run(CORE, Serving(20, 3))
    work = shape_workload(shape(), WEIGHTS, HEAD, CORE, Pass(1))
    alone = evaluate(CORE, work, Platform(), 20, 3)
    for phase in ("prefill", "decode"):
        found, wanted = getattr(whole, phase), getattr(alone, phase)
        assert found.scope == LINEAR
        assert dataclasses.replace(found, operations=()) == wanted
        own = [one for one in found.operations if one.cycles is not None]
        assert sum(one.cycles or 0 for one in own) == wanted.cycles
        assert sum(one.bytes for one in own) == wanted.dram_bytes
        assert sum(one.macs for one in own) == wanted.macs
    assert whole.labels == alone.labels


def test_the_host_takes_seconds_only_at_a_stated_speed() -> None:
    unknown = run(CORE, Serving(20, 3, cache=INT8)).decode
    known = run(CORE, Serving(20, 3, cache=INT8), Host(2e9, 1e9))
    assert (unknown.scope, known.decode.scope) == (LINEAR, WHOLE)
    left = [one for one in unknown.operations if one.label == "host"]
    assert left and all(one.seconds is None and one.limited_by == "host" for one in left)
    hosted = 0.0
    for one in known.decode.operations:
        if one.label == "host":
            assert one.cycles is None and one.seconds is not None
            hosted += one.seconds
    norm = operation(known.decode, "ffn_norm")
    assert norm.seconds == pytest.approx(norm.elements / 2e9)
    attention = operation(known.decode, "attention")
    parts = [
        max((one.macs + one.elements) / 2e9, (one.read_bytes + one.write_bytes) / 1e9)
        for step in range(3)
        for one in [attend(LayerName(None, "attention"), _attention(), Pass(1, 20 + step), INT8)]
    ]
    assert attention.seconds == pytest.approx(4 * sum(parts))
    assert known.decode.seconds == pytest.approx(unknown.seconds + hosted)
    assert known.decode.tokens_per_s == pytest.approx(3 / known.decode.seconds)
    assert known.labels["cycles"] == "modelled" and known.labels["tokens"] == "exact"


def _attention() -> Attention:
    (mixer,) = {block.mixer for block in shape().blocks}
    assert isinstance(mixer, Attention)
    return mixer


def test_a_core_with_units_completes_tokens_by_itself() -> None:
    found = run(WHOLE_CORE, Serving(20, contexts=(100,), cache=INT8)).decode
    assert found.scope == WHOLE and found.mac_share == 1
    assert {one.label for one in found.operations} == {"exact", "modelled"}
    assert found.cycles == sum(one.cycles or 0 for one in found.operations)
    assert found.seconds == pytest.approx(found.cycles / 200e6)
    # Two passes over 128 numbers on 4 lanes for each of 4 blocks, and 12 cycles each.
    assert operation(found, "attention_norm").cycles == 4 * 2 * (32 + 12)
    assert operation(found, "down_input").cycles == 4 * (320 // 4 + 12)
    assert operation(found, "activation").cycles == 0


def test_an_attention_unit_by_hand() -> None:
    """SmolLM2's heads: 3 share keys of 64 numbers; 1,024 tokens of which the last is new."""
    attention = Attention(heads=9, key_heads=3, value_heads=3, key_dim=64, value_dim=64)
    attending = attend(LayerName(None, "a"), attention, Pass(1, 1023), INT8)
    words = 1024 * 128 // 32
    gaps = 2 * 24  # two chunks of 512 tokens
    for rows, hold in ((4, 1), (3, 1), (2, 2), (1, 3)):
        found = attention_stream(attending, rows, 32)
        assert found.cycles == 3 * (words * hold + gaps)
        assert found.bytes == attending.read_bytes == 1024 * 6 * 66
    # A prompt's tokens share streams where heads leave rows: each reads what its last token sees.
    prompt = attend(LayerName(None, "a"), attention, Pass(5, 0), INT8)
    assert attention_stream(prompt, 6, 32).bytes == (2 + 4 + 5) * 6 * 66
    assert attention_stream(prompt, 6, 32).cycles == 3 * ((2 + 4 + 5) * 4 + 3 * 24)


def test_vectors_that_run_behind_the_engine_take_no_cycles() -> None:
    def cycles(function: str, width: int = 100, tokens: int = 3, vectors: int = 1) -> int:
        name = LayerName(None, "v")
        return vector_cycles(Elementwise(name, function, width, tokens, vectors), 8)  # type: ignore[arg-type]

    assert cycles("norm") == 3 * 2 * (13 + 12)
    assert cycles("norm", vectors=4) == 4 * cycles("norm")
    assert cycles("quantize") == 3 * (13 + 12)
    assert cycles("rotary", 64, vectors=12) == 3 * (8 + 12)  # the last head alone
    assert cycles("activation") == cycles("residual") == cycles("sample") == 0


def test_more_context_takes_more_time_and_a_curve_is_its_points() -> None:
    contexts = (0, 64, 500)
    found = run(WHOLE_CORE, Serving(20, contexts=contexts, cache=INT8))
    assert [point.context for point in found.curve] == list(contexts)
    assert sorted(point.seconds for point in found.curve) == [
        point.seconds for point in found.curve
    ]
    for point in found.curve:
        alone = run(WHOLE_CORE, Serving(20, contexts=(point.context,), cache=INT8))
        assert (point.seconds, point.bound) == (alone.decode.seconds, alone.decode.bound)
        assert alone.curve == ()


def test_a_batch_shares_weights_and_not_the_cache() -> None:
    one = run(WHOLE_CORE, Serving(4, contexts=(200,), cache=INT8)).decode
    four = run(WHOLE_CORE, Serving(4, contexts=(200,), batch=4, cache=INT8)).decode
    assert (one.tokens, four.tokens) == (1, 4)
    assert operation(four, "attention").bytes == 4 * operation(one, "attention").bytes
    assert four.macs == 4 * one.macs
    assert four.dram_bytes < 4 * one.dram_bytes
    work = shape_workload(shape(), WEIGHTS, HEAD, CORE, Pass(1))
    rows = evaluate(WHOLE_CORE, work, Platform(), 4, 1).prefill  # four rows as a prompt has them
    by_name = {layer.name: layer.cycles for layer in rows.layers}
    assert all(layer.macs == 4 * n for layer, n in zip(four.layers, _macs(one), strict=True))
    assert by_name.keys() == {layer.name for layer in four.layers}


def _macs(phase: PhaseMetrics) -> list[int]:
    return [layer.macs for layer in phase.layers]


def test_an_attention_unit_takes_eight_bits_or_fewer() -> None:
    with pytest.raises(SpecError, match="kv: must be at most 8 bits for a core's attention unit"):
        run(WHOLE_CORE, Serving(4, 1))


def test_a_head_on_the_host_is_counted() -> None:
    found = run(WHOLE_CORE, Serving(4, contexts=(9,), cache=INT8), head=None).decode
    assert found.scope == LINEAR
    head = operation(found, "head")
    assert (head.macs, head.bytes, head.label) == (1024 * 128, 4 * 1024 * 128, "host")


def test_experts_are_programs_of_their_own() -> None:
    model = shape("smallthinker-4b")
    model = dataclasses.replace(model, blocks=model.blocks[:1], vocab=64)
    for batch, experts in ((1, 4), (3, 11)):
        found = run(WHOLE_CORE, Serving(2, contexts=(5,), batch=batch, cache=INT8), model=model)
        gates = [layer for layer in found.decode.layers if layer.name.startswith("gate")]
        assert len(gates) == experts
        assert sum(layer.rows for layer in gates) == 4 * batch


def test_a_core_with_units_has_no_rtl() -> None:
    for changes in ({"vector_lanes": 1}, {"attention_rows": 1}):
        (name,) = changes
        with pytest.raises(SpecError, match=f"{name}: must be 0 for a core in Verilog"):
            CORE.evolve(**changes).require_rtl()
    for preset in PRESETS.values():
        if isinstance(preset.spec, CoreSpec):
            preset.spec.require_rtl()
            assert "vector_lanes" not in preset.spec.to_dict()


@pytest.mark.parametrize("rates", [(0.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_a_host_without_a_speed(rates: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match="must be finite and above 0"):
        Host(*rates)
