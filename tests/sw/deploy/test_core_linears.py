"""A model's layers on a core: every way to compute the integers gives the same float32 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.spec import SpecError, VqCodebook
from evolute.hw.spec.formats import Activations, Kind, WeightCodes
from evolute.hw.spec.presets import CORES
from evolute.sim.golden.core import execute
from evolute.sim.program.build import compile_stages
from evolute.sim.program.placement import PlaceError, Stage
from evolute.sim.workload.linear import HEAD, LayerName, Linear
from evolute.sw.checkpoints import zoo
from evolute.sw.deploy.assignment import assign
from evolute.sw.deploy.on_core import (
    CoreModel,
    RunStage,
    core_linears,
    core_model,
    golden_stage,
    integer_stage,
    on_accelerator,
)
from evolute.sw.deploy.on_engine import engine_linears
from evolute.sw.deploy.pack import images, pack_input, unpack_results
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.linear import host_linears, linear_names
from evolute.sw.language_model.model import LanguageModel, dequantized
from evolute.sw.language_model.perplexity import Text, measure
from evolute.sw.quantizers.rounding import Rounding, Scheme, quantize
from evolute.sw.tensors.activations import QuantActivations, quantize_activations
from evolute.sw.tensors.rescale import rescale
from evolute.sw.tensors.tensor import PartedTensor, QuantTensor
from evolute.sw.tensors.weights import parse_weights
from evolute.verif.engines.vq_codebook import near

STORY = "Once upon a time, there was a little girl named Lily."
TINY = zoo.load("evolute-tiny")
W4 = Rounding(WeightCodes(4), 32, Scheme.ASYMMETRIC)


def coded_head() -> LanguageModel:
    """The shipped model with a head of codes, which then goes to the core, too."""
    rounding = parse_weights("w4g32s").rounding
    assert rounding
    head_codes = quantize(dequantized(TINY.tensors["embedding"]), rounding)
    return replace(TINY, tensors={**TINY.tensors, "head": head_codes})


def program_stage(held: CoreModel) -> RunStage:
    """Every stage as a program of its own on the core's golden model."""

    def run(stage: Stage, a: QuantActivations) -> dict[str, np.ndarray]:
        program = compile_stages(held.core, [stage], len(a.codes), held.end)
        memory = np.zeros(program.end, np.uint8)
        for address, data in images(held.core, stage, held.tensors):
            memory[address : address + len(data)] = data
        (batch,) = program.batches
        parts = {batch.input_address: pack_input(batch, a.codes, a.exponent)}
        parts[program.address] = np.frombuffer(program.code, np.uint8)
        for address, data in parts.items():
            memory[address : address + len(data)] = data
        execute(held.core, memory, program.address, len(program.instructions))
        return unpack_results(batch, memory)

    return run


def logits(model: LanguageModel, held: CoreModel, run_stage: RunStage, ids: list[int]):
    linear = core_linears(held, run_stage)
    return head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))


def runs(accel: str, weights: str) -> bool:
    rounding = parse_weights(weights).rounding
    assert rounding
    return CORES[accel].engine.accepts(rounding.format)


@pytest.mark.parametrize(
    ("accel", "weights"),
    [
        (accel, weights)
        for accel in CORES
        for weights in ("w1g32s", "w2g128", "w4g32f", "w3s", "tg64")
        if runs(accel, weights)
    ],
)
def test_tables_and_integers_give_identical_logits(accel, weights):
    model, core = coded_head(), CORES[accel]
    held = core_model(assign(model, parse_weights(weights), core))
    assert not held.host
    ids = model.tokenizer.encode(STORY)
    found = [logits(model, held, run(held), ids) for run in (integer_stage, golden_stage)]
    assert np.array_equal(*found)


@pytest.mark.parametrize(("accel", "tokens"), [("core-decode", 1), ("core-prefill", 9)])
def test_compiled_programs_give_the_same(accel, tokens):
    model, core = coded_head(), CORES[accel]
    held = core_model(assign(model, parse_weights("w2g64"), core))
    ids = model.tokenizer.encode(STORY)[:tokens]
    found = [logits(model, held, run(held), ids) for run in (integer_stage, program_stage)]
    assert np.array_equal(*found)


def test_a_layer_is_the_formula():
    """Result, unit and activation scale, multiplied in this order and rounded once at the end."""
    core = CORES["core-decode"]
    choice = parse_weights("w4g48")
    assert choice.rounding
    quantized = quantize(dequantized(TINY.tensors["1.down"]), choice.rounding)
    tensor = rescale(quantized, core.engine.coding_of(quantized.format), 8, 8)
    x = np.random.default_rng(0).normal(size=(2, TINY.config.ffn)).astype(np.float32)
    (found,) = on_accelerator(assign(TINY, choice, core))("integer")(["1.down"], x)
    a = quantize_activations(x, Activations(8))
    for m, n in ((0, 0), (1, 5), (1, 127)):
        result = 0
        for k in range(TINY.config.ffn):
            value = 2 * int(tensor.codes[n, k]) - 15
            weight = int(tensor.scale[n, k // 48]) * value
            weight += int(tensor.offset[n, k // 48]) << tensor.offset_shift
            result += weight * int(a.x[m, k])
        assert found[m, n] == np.float32(float(result) * float(tensor.unit[n]) * float(a.scale[m]))


def test_integer_scales_move_little():
    choice, text = parse_weights("w4g32"), Text("story", STORY * 3)
    core = CORES["core-decode"]
    shipped = host_linears(TINY)
    losses = [
        measure(
            TINY, on_accelerator(assign(TINY, choice, spec))("integer"), shipped, text, 40, 256
        ).kl
        for spec in (core.engine, core)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_stages_are_layers_of_one_input():
    found = assign(TINY, parse_weights("w4g32"), CORES["core-decode"]).blocks
    assert len(found) == TINY.config.layers + 1
    assert found[-1] == ()  # the head is float
    names = [[str(each.name) for each in stage] for stage in found[1]]
    assert names == [["1.q", "1.k", "1.v"], ["1.o"], ["1.gate", "1.up"], ["1.down"]]
    held = core_model(assign(TINY, parse_weights("w4g32"), CORES["core-decode"]), address=1 << 20)
    assert [stage.name for stage in held.stages[:2]] == ["0.q+k+v", "0.o"]
    addresses = [layer.address for stage in held.stages for layer in stage.layers]
    assert addresses == sorted(addresses) and addresses[0] >= 1 << 20
    assert list(held.host) == [HEAD]


def test_layers_that_cut_their_input_differently_go_one_after_another():
    """Groups of 24 end within a slice of 16, groups of 32 do not."""
    tensors = dict(TINY.tensors)
    for name, weights in (("0.q", "w4g32"), ("0.k", "w4g24"), ("0.v", "w4g32")):
        rounding = parse_weights(weights).rounding
        assert rounding
        tensors[name] = quantize(dequantized(tensors[name]), rounding)
    model, core = replace(TINY, tensors=tensors), CORES["core-prefill"]
    found = assign(model, parse_weights("native"), core).blocks
    names = [[str(each.name) for each in stage] for stage in found[0][:2]]
    assert names == [["0.q", "0.v"], ["0.k"]]  # the other layers have no codes, and are coded anew
    held = core_model(assign(model, parse_weights("native"), core))
    x = np.random.default_rng(1).normal(size=(3, 128)).astype(np.float32)
    names = ["0.q", "0.k", "0.v"]
    integer, programs = (
        core_linears(held, run(held))(names, x) for run in (integer_stage, program_stage)
    )
    for first, second in zip(integer, programs, strict=True):
        assert np.array_equal(first, second)


def test_a_core_stores_integers_for_scales():
    work = assign(TINY, parse_weights("w4g32"), CORES["core-decode"]).workload
    for each in work.linears:
        assert (each.group_bits, each.row_bits) == (16, 32)
        assert each.total_bits == each.count * each.n * (4 * each.k + 16 * each.groups + 32)
    name, engine = LayerName(0, "q"), CORES["core-decode"].engine
    (part,) = assign(TINY, parse_weights("w4g32"), engine).layers[name].parts
    assert part.linear == Linear(name, 128, 128, parse_weights("w4").rounding.format, 32, 20)


def halves(values: np.ndarray) -> np.ndarray:
    """The values as half precision holds them."""
    return values.astype(np.float16).astype(np.float32)


def in_parts(w: np.ndarray, rng: np.random.Generator) -> PartedTensor:
    """Weights [N, K] with 13 columns as outliers in 8 bits, the others normalized in 3."""
    k = w.shape[1]
    order = rng.permutation(k)
    scale, bias = halves(rng.uniform(0.5, 2, k)), halves(rng.normal(size=k) / 16)
    stored = ((w - bias) / scale)[:, order].astype(np.float32)
    parts = []
    for columns, weights in ((slice(13), "w8g0s"), (slice(13, k), "w3g32")):
        rounding = parse_weights(weights).rounding
        assert rounding
        parts.append(quantize(np.ascontiguousarray(stored[:, columns]), rounding))
    return PartedTensor(tuple(parts), order, scale, bias)


def partly_parted() -> LanguageModel:
    """The shipped model with some of its layers in parts."""
    rng, names = np.random.default_rng(3), ("0.q", "0.v", "1.o", "2.up", "3.down")
    return replace(
        TINY,
        tensors={
            name: in_parts(dequantized(tensor), rng)
            if name in names
            else quantize(dequantized(tensor), W4)
            if tensor.shape != TINY.tensors["norm"].shape and name != "embedding"
            else tensor
            for name, tensor in TINY.tensors.items()
        },
    )


def test_parts_are_the_formula():
    w = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    tensor = in_parts(w, np.random.default_rng(1))
    assert tensor.order is not None and tensor.scale is not None and tensor.bias is not None
    v = np.concatenate([part.dequantize() for part in tensor.parts], axis=1)
    found = tensor.dequantize()
    for c, k in enumerate(tensor.order):
        assert np.array_equal(found[:, k], v[:, c] * tensor.scale[k] + tensor.bias[k])
    assert np.abs(found - w).max() < 2
    assert np.array_equal(tensor.rows(slice(2, 4), np.float32), found[2:4])
    x = np.random.default_rng(2).normal(size=(3, 40)).astype(np.float32)
    whole = tensor.inputs(x).astype(float) @ v.T.astype(float) + tensor.added(x)[:, None]
    assert np.allclose(whole, x.astype(float) @ found.T.astype(float), rtol=0, atol=1e-4)
    of_columns = (16 + 16 + 16) * 40
    assert tensor.total_bits == 6 * 13 * 8 + 6 * 16 + 6 * 27 * 3 + 6 * 19 + of_columns


def test_layers_in_parts_give_identical_logits_however_computed():
    model, ids = partly_parted(), TINY.tokenizer.encode(STORY)[:5]
    core = CORES["core-mac"]
    native = parse_weights("native")
    held = core_model(assign(model, native, core))
    names = [stage.name for stage in held.stages[:6]]
    assert names == ["0.q/0", "0.q/1", "0.v/0", "0.v/1", "0.k", "0.o"]
    found = [
        logits(model, held, run(held), ids) for run in (integer_stage, golden_stage, program_stage)
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    on_engine = []
    for backend in ("integer", "golden"):
        linear = engine_linears(assign(model, native, core.engine), backend)
        on_engine.append(
            head(model, linear, forward(model, linear, ids, Cache(model.config, len(ids))))
        )
    assert np.array_equal(*on_engine)
    shipped = host_linears(model)
    wanted = head(model, shipped, forward(model, shipped, ids, Cache(model.config, len(ids))))
    for each in (found[0], on_engine[0]):  # activations of 8 bits are all that differs, nearly
        assert np.abs(each - wanted).max() < 0.2 * np.abs(wanted).max()


def vector_quantized(engine: VqCodebook) -> LanguageModel:
    """The shipped model with every layer's weights near random codewords."""
    rng, tensors = np.random.default_rng(4), dict(TINY.tensors)
    codes = WeightCodes(engine.weight_bits, Kind.VECTOR)
    for name in linear_names(TINY)[:-1]:
        w = dequantized(tensors[name])
        scale = halves(np.abs(w).max(axis=1, keepdims=True) / (codes.levels // 2 - 1))
        values = np.rint(w / scale).astype(int)
        weights = near(engine, values, codes, w.shape[1], rng)
        tensors[name] = QuantTensor(weights, scale, np.zeros_like(scale), 16)
    return replace(TINY, tensors=tensors)


def with_short_outliers(engine: VqCodebook, outliers: int) -> LanguageModel:
    """The shipped model with codewords of two outputs in some columns and of eight in the others,
    the first of them without a residual codebook."""
    rng, tensors = np.random.default_rng(5), dict(TINY.tensors)
    codes = WeightCodes(engine.weight_bits, Kind.VECTOR)
    for name in linear_names(TINY)[:-1]:
        w = dequantized(tensors[name])
        order, parts = rng.permutation(w.shape[1]), []
        for columns, v in ((order[:outliers], engine.short_v), (order[outliers:], engine.v)):
            part = w[:, columns]
            scale = halves(np.abs(part).max(axis=1, keepdims=True) / 60)
            values, k = np.rint(part / scale).astype(int), len(columns)
            weights = near(engine, values, codes, k, rng, v)
            books = weights.books if v == engine.v else weights.books[:1]
            weights = replace(weights, books=books)
            parts.append(QuantTensor(weights, scale, np.zeros_like(scale), 16))
        tensors[name] = PartedTensor(tuple(parts), order)
    return replace(TINY, tensors=tensors)


def test_short_outliers_beside_codewords_give_identical_logits_however_computed():
    """VPTQ, section 3.3: outlier columns with a codebook of their own, on one engine."""
    core, native = CORES["core-vq"], parse_weights("native")
    assert isinstance(core.engine, VqCodebook)
    model, ids = with_short_outliers(core.engine, 3), TINY.tokenizer.encode(STORY)[:3]
    held = core_model(assign(model, native, core))
    assert list(held.host) == [HEAD]
    formats = [stage.layers[0].linear.format.name for stage in held.stages[:2]]
    assert formats == ["short8", "vector8"]
    found = [
        logits(model, held, run(held), ids) for run in (integer_stage, golden_stage, program_stage)
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    whole = core.evolve(engine=core.engine.evolve(short_v=0))
    with pytest.raises(SpecError, match="v: must be 2 for these vectors, got 8"):
        golden_stage(core_model(assign(model, native, whole)))


def test_codewords_give_identical_logits_however_computed():
    core, native = CORES["core-vq"], parse_weights("native")
    assert isinstance(core.engine, VqCodebook)
    model, ids = vector_quantized(core.engine), TINY.tokenizer.encode(STORY)[:3]
    held = core_model(assign(model, native, core))
    assert list(held.host) == [HEAD]
    found = [
        logits(model, held, run(held), ids) for run in (integer_stage, golden_stage, program_stage)
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    (bits,) = {
        each.index_bits // each.count
        for each in assign(model, native, core).workload.linears
        if each.name.role == "q"
    }
    assert bits == 128 // 8 * 128 * 16 + 2 * 256 * 8 * 7


def test_sums_too_wide_for_the_core_are_refused():
    """A core whose sums are as wide as its engine's, with nothing for scales of 8 bits."""
    core = CORES["core-decode"]
    narrow = core.evolve(sum_bits=core.engine.acc_bits)
    with pytest.raises(PlaceError, match=r"0\.q: its sums need \d+ bits, sum_bits is 23"):
        core_model(assign(TINY, parse_weights("w4g32"), narrow))


def test_a_head_of_codes_goes_to_the_core():
    model = coded_head()
    assert isinstance(model.head, QuantTensor)
    held = core_model(assign(model, parse_weights("w4g32"), CORES["core-decode"]))
    assert held.stages[-1].name == "head"
    assert held.blocks[-1] == (held.stages[-1],)
