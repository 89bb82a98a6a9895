"""Totals of a workload, by hand."""

import pytest

from evolute.hw.spec import LutTensorCore, SpecError
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.timing.memory import traffic
from evolute.sim.timing.schedule import plan
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload

SPEC = LutTensorCore(m=2, n=32, k=4, kg=2, weight_bits=8)
BLOCK = Linear(LayerName(None, "block"), 64, 64, WeightCodes(4), 32, 32, count=3)
HEAD = Linear(HEAD, 100, 64, WeightCodes(8), 32, 16, last_token_only=True)
PLATFORM = Platform(frequency_hz=1e6, bandwidth_bytes_per_s=1e6, weight_buffer_bytes=4096)


def test_phases_by_hand():
    metrics = evaluate(SPEC, Workload("model", "w4", (BLOCK, HEAD), ()), PLATFORM, 5, 7)
    # Row tiles x column tiles x slices x planes, and four cycles of fill and drain.
    block, head = 3 * 2 * 8 * 4 + 4, 1 * 4 * 8 * 8 + 4
    assert metrics.prefill.cycles == 3 * block + head
    assert metrics.decode.cycles == 7 * (3 * (1 * 2 * 8 * 4 + 4) + head)
    assert metrics.prefill.macs == 3 * 5 * 64 * 64 + 100 * 64
    document = metrics.to_dict()["decode"]
    assert document["tokens_per_s"] == 7 / metrics.decode.seconds
    assert [each["count"] for each in document["layers"]] == [3, 1]


def test_a_layer_takes_the_longer_of_computing_and_moving():
    metrics = evaluate(SPEC, Workload("model", "w4", (BLOCK,), ()), PLATFORM, 1, 1)
    (layer,) = metrics.decode.layers
    assert layer.compute_seconds == layer.cycles / 1e6
    assert layer.memory_seconds == layer.dram_bytes / 1e6
    once = max(layer.compute_seconds, layer.memory_seconds)
    assert metrics.decode.seconds == BLOCK.count * once
    assert layer.bound == "memory"  # 2,688 bytes against 68 cycles


def test_traffic_by_hand():
    moved = traffic(SPEC, BLOCK, 5, plan(SPEC, BLOCK, 5), PLATFORM)
    assert moved.weight_bytes == 64 * 64 * 4 // 8
    assert moved.scale_bytes == 64 * 2 * 4
    assert moved.activation_bytes == 5 * 64
    assert moved.result_bytes == 5 * 64 * 2


def test_weights_cross_again_for_each_row_tile_that_the_buffer_cannot_serve():
    small = Platform(weight_buffer_bytes=2047)  # a column tile is 1,024 bytes, and is doubled
    run = plan(SPEC, BLOCK, 5)
    once, often = (traffic(SPEC, BLOCK, 5, run, each) for each in (PLATFORM, small))
    assert often.weight_bytes == 3 * once.weight_bytes
    assert often.scale_bytes == 3 * once.scale_bytes


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_platforms_are_refused(value):
    with pytest.raises(SpecError, match="bandwidth_bytes_per_s: must be finite and above 0"):
        Platform(bandwidth_bytes_per_s=value)
