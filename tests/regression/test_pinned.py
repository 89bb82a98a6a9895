"""Numbers that users have seen. They change only with a reason, given in the commit."""

import json
from pathlib import Path

import pytest

from hw.spec import layout
from hw.spec.formats import WeightCodes
from hw.spec.presets import PRESETS
from sim.evaluate import evaluate
from sim.memory import Platform
from sim.workload import Linear, Workload

PINNED = json.loads(Path(__file__).with_name("pinned.json").read_text())

# SmolLM2-135M with 4-bit weights in groups of 32.
SHAPES = {"q": (576, 576), "k": (192, 576), "gate": (1536, 576), "down": (576, 1536)}
WORKLOAD = Workload(
    "smollm2-135m",
    "w4g32",
    tuple(Linear(name, n, k, WeightCodes(4), 32, 32, 30) for name, (n, k) in SHAPES.items()),
    (),
)


def numbers(preset):
    """What is pinned of one preset."""
    metrics = evaluate(preset.spec, WORKLOAD, Platform(), prefill_tokens=128, decode_tokens=1)
    return {
        "digest": preset.spec.digest,
        "result_bits": layout.lut_tensor_core(preset.spec).result.bits,
        "prefill_cycles": metrics.prefill.cycles,
        "decode_cycles": metrics.decode.cycles,
        "decode_bytes": metrics.decode.dram_bytes,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_pinned(name):
    assert numbers(PRESETS[name]) == PINNED[name]
