"""Compiled programs on the core's golden model against plain integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.table import check_program
from evolute.hw.spec import LutTensorCore
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import WeightCodes
from evolute.hw.spec.presets import PRESETS
from evolute.sim.golden.core import execute
from evolute.sim.program.build import Program, compile_stages
from evolute.sim.program.placement import PlaceError, Stage, share_input, stage
from evolute.sim.timing.core import program_cycles
from evolute.sim.timing.memory import MemoryTiming
from evolute.sim.weights import Grid
from evolute.sim.workload.linear import Linear
from evolute.sw.deploy.on_core import golden_result
from evolute.sw.deploy.pack import images, layer_steps, pack_input, unpack_results
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.rescale import ScaledTensor, golden_weights
from evolute.verif.core.programs import random_core
from evolute.verif.harness.driver import DRIVERS, random_weights
from evolute.verif.harness.vectors import MatmulShape

BUSY_ORDERS = 3
"""Random orders of events that every program is run in."""


def random_tensor(core: CoreSpec, rng: np.random.Generator, n: int, k: int) -> ScaledTensor:
    """Any codes, scales and offsets that the core can hold."""
    codes = core.engine.formats[rng.integers(len(core.engine.formats))]
    group = int(rng.choice([rng.integers(1, k + 1), min(k, core.engine.group_size), k]))
    groups = (n, -(-k // group))
    most = 1 << core.offset_bits - 1
    return ScaledTensor(
        coding=core.engine.coding_of(codes),
        scale=rng.integers(0, 1 << core.scale_bits, groups).astype(np.uint16),
        offset=rng.integers(-most, most, groups).astype(np.int16),
        offset_shift=int(rng.integers(0, 16)),
        unit=np.ones(n, np.float32),
        form=random_weights(core.engine, codes, MatmulShape(1, n, k, group), rng),
    )


def linear(name: str, tensor: ScaledTensor) -> Linear:
    n, k = tensor.shape
    return Linear(name, n, k, tensor.format, tensor.group, 0)


def random_stages(
    core: CoreSpec, rng: np.random.Generator, count: int
) -> tuple[list[Stage], dict[str, ScaledTensor]]:
    """Stages of up to three layers that share an input."""
    stages, tensors, address = [], {}, 0
    for number in range(count):
        k = int(rng.integers(1, 6 * core.engine.slice_k + 1))
        layers: list[Linear] = []
        for index in range(int(rng.integers(1, 4))):
            tensor = random_tensor(core, rng, int(rng.integers(1, 3 * core.engine.n)), k)
            tensor = fitting(core, tensor)
            each = linear(f"{number}.{index}", tensor)
            if not layers or share_input(core, layers[0], each):
                layers.append(each)
                tensors[each.name] = tensor
        shifts = {each.name: tensors[each.name].offset_shift for each in layers}
        stages.append(stage(core, str(number), layers, address, shifts))
        address = stages[-1].end
    return stages, tensors


def plain(core: CoreSpec, tensor: ScaledTensor, x: np.ndarray) -> np.ndarray:
    """sum over g of scale * (sum of v * x) + (offset << shift) * (sum of x), one by one."""
    specials = range(max(1, len(tensor.format.specials)))
    values = np.array([tensor.coding.values(tensor.format, each) for each in specials])
    total = np.zeros((len(x), tensor.shape[0]), np.int64)
    x = tensor.form.operand(x)
    for k in range(tensor.codes.shape[1]):
        g = k // tensor.form.group_codes
        special = tensor.form.special[:, g] if isinstance(tensor.form, Grid) else 0
        value = values[special, tensor.codes[:, k]]
        weight = tensor.scale[:, g] * value + (
            tensor.offset[:, g].astype(np.int64) << tensor.offset_shift
        )
        total += x[:, k, None].astype(np.int64) * weight
    return total


def summed(core: CoreSpec, tensor: ScaledTensor, x: np.ndarray) -> np.ndarray:
    """`plain`, or where an engine's sums are inexact what its golden model says."""
    if core.engine.exact:
        return plain(core, tensor, x)
    return golden_result(core.engine, tensor, golden_weights(core.engine, tensor), x)


def activations(core: CoreSpec, rng: np.random.Generator, size: tuple) -> QuantActivations:
    """Uniform rows, each up to its greatest integer."""
    return quantize_activations(
        rng.uniform(-1, 1, size).astype(np.float32), core.engine.activations
    )


def run(
    program: Program,
    tensors: dict[str, ScaledTensor],
    inputs: list[QuantActivations],
    rng: np.random.Generator | None,
) -> list[dict[str, np.ndarray]]:
    """Results of every stage, each read when the host is called, after which the input is gone."""
    memory = np.zeros(program.end, np.uint8)
    for each in program.batches:
        for address, data in images(program.core, each.stage, tensors):
            memory[address : address + len(data)] = data
    code = np.frombuffer(program.code, np.uint8)
    memory[program.address : program.address + len(code)] = code
    found: list[dict[str, np.ndarray]] = []

    def write() -> None:
        batch = program.batches[len(found)]
        a = inputs[len(found)]
        data = pack_input(batch, a.codes, a.exponent)
        memory[batch.input_address : batch.input_address + len(data)] = data

    def host() -> None:
        batch = program.batches[len(found)]
        memory[batch.input_address : batch.result_address] = 0xA5
        found.append(unpack_results(batch, memory))
        if len(found) < len(program.batches):
            write()

    write()
    execute(program.core, memory, program.address, len(program.instructions), host, rng)
    host()
    return found


@pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(40))
def test_random_layers_on_random_cores(seed, kind):
    rng = np.random.default_rng(seed)
    while True:
        core = random_core(rng, kind)
        try:
            stages, tensors = random_stages(core, rng, int(rng.integers(1, 4)))
            tensors = {name: fitting(core, tensor) for name, tensor in tensors.items()}
            break
        except PlaceError:
            continue
    rows = int(rng.integers(1, 5 * core.engine.m + 2))
    program = compile_stages(core, stages, rows, stages[-1].end + int(rng.integers(0, 9999)))
    check_program(core, program.instructions, program.address)
    inputs = [activations(core, rng, (rows, each.layers[0].linear.k)) for each in stages]
    for order in range(BUSY_ORDERS + 1):
        order_rng = np.random.default_rng(order) if order else None
        results = run(program, tensors, inputs, order_rng)
        for a, found in zip(inputs, results, strict=True):
            for name, values in found.items():
                assert np.array_equal(values, summed(core, tensors[name], a.x)), (core, name, order)
    layers = None
    if not core.engine.steps_are_fixed:
        layers = {name: layer_steps(core.engine, tensor) for name, tensor in tensors.items()}
    steps = program.beat_steps(layers)
    cycles = program_cycles(core, program.instructions, MemoryTiming(), program.address, steps)
    assert len(cycles.syncs) == len(stages) - 1


def fitting(core: CoreSpec, tensor: ScaledTensor) -> ScaledTensor:
    """`tensor` with fewer offset bits until its sums fit the core."""
    while tensor.largest_sum(core.engine.activations).bit_length() + 1 > core.sum_bits:
        if not tensor.offset_shift:
            halves = (tensor.offset / 2).astype(np.int16)
            tensor = replace(tensor, scale=tensor.scale // 2, offset=halves)
        else:
            tensor = replace(tensor, offset_shift=tensor.offset_shift - 1)
    return tensor


TINY = CoreSpec(
    engine=LutTensorCore(m=2, n=4, k=2, kg=2, weight_bits=4, group_size=16),
    bus_bits=128,
    weight_buffer_bytes=256,
    activation_buffer_bytes=128,
    scale_buffer_bytes=256,
    accumulators=32,
)


def test_inputs_longer_than_the_buffer_are_taken_in_parts():
    """Rows of 160 bytes and a buffer of 128: parts of K, loaded anew for every column tile."""
    rng = np.random.default_rng(0)
    codes = WeightCodes(4)
    coding = TINY.engine.coding_of(codes)
    scale = rng.integers(0, 256, (11, 10)).astype(np.uint16)
    tensor = ScaledTensor(
        form=Grid.plain(rng.integers(0, 16, (11, 160), dtype=np.uint8), codes, 16),
        coding=coding,
        scale=scale,
        offset=rng.integers(-128, 128, (11, 10)).astype(np.int16),
        offset_shift=2,
        unit=np.ones(11, np.float32),
    )
    placed = stage(TINY, "long", [linear("long", tensor)], 0, {"long": 2})
    assert len(placed.parts) > 2
    program = compile_stages(TINY, [placed], 7, placed.end)
    loads = [each for each in program.instructions if each.operation.name == "load"]
    inputs = [each for each in loads if isa.BUFFERS[each["buffer"]] == "activation"]
    assert len(inputs) == placed.column_tiles * len(placed.parts) * len(program.batches[0].blocks)
    a = activations(TINY, rng, (7, 160))
    for order in range(BUSY_ORDERS):
        (found,) = run(program, {"long": tensor}, [a], np.random.default_rng(order))
        assert np.array_equal(found["long"], plain(TINY, tensor, a.x))


def test_programs_for_different_rows_share_the_weights():
    rng = np.random.default_rng(1)
    core = PRESETS["core-fpga"].spec
    assert isinstance(core, CoreSpec)
    tensor = fitting(core, random_tensor(core, rng, 50, 200))
    placed = stage(core, "layer", [linear("layer", tensor)], 0, {"layer": tensor.offset_shift})
    for rows in (1, 3, 20):
        a = activations(core, rng, (rows, 200))
        program = compile_stages(core, [placed], rows, placed.end)
        assert program.instructions == compile_stages(core, [placed], rows, placed.end).instructions
        (found,) = run(program, {"layer": tensor}, [a], rng)
        assert np.array_equal(found["layer"], plain(core, tensor, a.x))


def shape(n: int, k: int, bits: int = 4, group: int = 32) -> Linear:
    return Linear("down", n, k, WeightCodes(bits), group, 16)


@pytest.mark.parametrize(
    ("changes", "layer", "message"),
    [
        # One group of 128 at 8 bits: 16 slices x 8 planes x 32 bytes.
        (
            {"weight_buffer_bytes": 2048},
            shape(576, 1536, 8, 128),
            "the weight buffer is 2048 bytes too small; its least part needs 4096",
        ),
        # One scale beat for each four of 32 outputs, 8 bytes each.
        (
            {"scale_buffer_bytes": 128, "engine": LutTensorCore(n=128, kg=1, group_size=128)},
            shape(576, 576),
            "the scale buffer is 128 bytes too small; its least part needs 256",
        ),
        # Two parts of a row of 1,536 bytes, a group of 128 each.
        (
            {"activation_buffer_bytes": 128},
            shape(576, 1536, 4, 128),
            "the activation buffer is 128 bytes too small; its least part needs 256",
        ),
    ],
)
def test_layers_without_room_are_refused(changes, layer, message):
    core = CoreSpec(engine=PRESETS["lut-decode"].spec, accumulators=1024).evolve(**changes)
    with pytest.raises(PlaceError, match=f"mlp: {message}"):
        stage(core, "mlp", [layer], 0)


def test_programs_beyond_the_address_space_are_refused():
    core = TINY.evolve(address_bits=16)
    placed = stage(core, "layer", [Linear("layer", 64, 64, WeightCodes(1), 16, 16)], 60000)
    with pytest.raises(PlaceError, match=r"memory: \d+ bytes too small"):
        compile_stages(core, [placed], 1, placed.end)


def test_sums_that_could_overflow_are_refused():
    rng = np.random.default_rng(3)
    drawn = random_tensor(TINY, rng, 4, 64)
    tensor = replace(
        drawn,
        form=Grid.plain(drawn.codes, drawn.format, 16),
        scale=np.full((4, 4), 255, np.uint16),
        offset=np.full((4, 4), 127, np.int16),
        offset_shift=15,
    )
    placed = stage(TINY, "wide", [linear("wide", tensor)], 0, {"wide": 15})
    # 64 * 127 * (127 * 2^15 + 255 * 15) is a little more than 2^34.
    narrow = TINY.evolve(sum_bits=35)
    assert list(images(TINY, placed, {"wide": tensor}))
    with pytest.raises(PlaceError, match="wide: its sums need 36 bits, sum_bits is 35"):
        list(images(narrow, placed, {"wide": tensor}))
