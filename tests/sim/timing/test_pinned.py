"""Numbers that users have seen. They change only with a reason, given in the commit."""

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolute.hw.spec import layout
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import CORES, ENGINE_PRESETS
from evolute.sim.cost.core import priced_phases
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.weights import Grid
from evolute.sim.workload.linear import HEAD, LayerName, Linear, Workload
from evolute.sw.deploy.pack import layer_steps
from evolute.sw.tensors.tensor import QuantTensor

PINNED = json.loads(Path(__file__).with_name("pinned.json").read_text())

# SmolLM2-135M with 4-bit weights in groups of 32.
SHAPES = {"q": (576, 576), "k": (192, 576), "gate": (1536, 576), "down": (576, 1536)}
WORKLOAD = Workload(
    "smollm2-135m",
    "w4g32",
    tuple(
        Linear(LayerName(None, name), n, k, WeightCodes(4), 32, 32, 30)
        for name, (n, k) in SHAPES.items()
    ),
    (),
)


def codes_on(engine):
    """4-bit integers, or the widest weights of an engine that does not run them."""
    return WeightCodes(4) if engine.accepts(WeightCodes(4)) else engine.formats[-1]


def steps_on(engine, linears):
    """Where steps depend on weights, those of some, the same ones always: most are small."""
    if engine.steps_are_fixed:
        return None
    steps = {}
    for each in linears:
        rng, groups = np.random.default_rng(1), -(-each.k // each.group)
        codes = rng.binomial(15, 0.5, (each.n, each.k)).astype(np.uint8)
        scale = np.ones((each.n, groups), np.float32)
        tensor = QuantTensor(
            Grid.plain(codes, each.format, each.group), scale, scale, group_bits=16
        )
        steps[each.name] = layer_steps(engine, tensor)
    return steps


def numbers(spec):
    """What is pinned of one engine."""
    codes = codes_on(spec)
    linears = tuple(replace(each, format=codes) for each in WORKLOAD.linears)
    workload = replace(WORKLOAD, linears=linears)
    steps = steps_on(spec, linears)
    metrics = evaluate(spec, workload, Platform(), 128, 1, steps)
    return {
        "digest": spec.digest,
        "result_bits": layout.streams(spec).result.bits,
        "prefill_cycles": metrics.prefill.cycles,
        "decode_cycles": metrics.decode.cycles,
        "decode_bytes": metrics.decode.dram_bytes,
    }


def core_numbers(core):
    """What is pinned of one core, with the bytes of its programs: a block of the same model, and a
    head of 4,096 outputs."""

    codes = codes_on(core.engine)

    shapes = SHAPES | {"v": SHAPES["k"], "o": SHAPES["q"], "up": SHAPES["gate"]}
    inputs = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
    block = [
        Linear(LayerName(0, role), *shapes[role], codes, 32, 16)
        for role in itertools.chain(*inputs)
    ]
    head = Linear(HEAD, 4096, 576, codes, 32, 16, last_token_only=True)
    workload = Workload("smollm2-135m", "w4g32", (*block, head), (), inputs)
    frequency_hz = core.clock_mhz * 1e6
    platform = Platform(frequency_hz, frequency_hz * core.bus_bytes, refresh=True)
    steps = steps_on(core.engine, workload.linears)
    prefill, decode = priced_phases(core, workload, platform, 64, 1, steps)
    programs = b"".join(each.program.code for each in (*prefill.programs, *decode.programs))
    return {
        "digest": core.digest,
        "programs": hashlib.sha256(programs).hexdigest()[:16],
        "prefill_cycles": prefill.total("cycles"),
        "decode_cycles": decode.total("cycles"),
        "decode_beats": decode.beats,
    }


@pytest.mark.parametrize("name", CORES)
def test_pinned_core(name):
    assert core_numbers(CORES[name]) == PINNED[name]


@pytest.mark.parametrize("name", ENGINE_PRESETS)
def test_pinned(name):
    assert numbers(ENGINE_PRESETS[name]) == PINNED[name]
